"""The status: a real gateway, and every part of a host on a port of its own."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from fake_apis import CHAT, MESSAGES, RESPONSES
from fake_host import FakeHost, GatewayStack, events, told
from gateway_stack import BODIES, USER, Stack
from infbox import config
from infbox.errors import InputError
from infbox.metrics import Usage
from infbox.status.exposition import Exposition
from infbox.status.history import FirstTokens, Minutes
from infbox.status.sampler import MOST_VIEWERS
from infbox.status.services import DOWN, HEALTHY, LATE, Finding, Service
from serving import until

LAST_EVENT = re.compile(rb"^data: .*(DONE|message_stop|response\.completed)")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    with FakeHost(tmp_path).running() as host:
        yield host


@pytest.fixture
def gateway(host: FakeHost) -> Iterator[GatewayStack]:
    with host.gateway() as gateway:
        yield gateway


def status(gateway: Stack) -> dict[str, Any]:
    """Ask once for how things are."""
    answer = gateway.ask("GET", "/status")
    assert answer[0] == 200
    return dict(json.loads(answer[2]))


def states(told: dict[str, Any]) -> dict[str, str]:
    return {part["name"]: part["state"] for part in told["services"]}


@contextlib.contextmanager
def following(gateway: Stack) -> Iterator[HTTPResponse]:
    """Follow the events."""
    connection = HTTPConnection(urlsplit(gateway.url).netloc, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/status/events")
        yield connection.getresponse()


def test_it_tells_of_every_part_and_of_what_is_served(gateway: Stack) -> None:
    now = status(gateway)
    assert now["healthy"] is True
    assert set(states(now).values()) == {"healthy"}
    assert now["served"] == {
        "model": "coder",
        "preset": "dev32",
        "max_model_len": 100_000,
        "engine": "vLLM 0.0.fake",
    }
    assert [store["name"] for store in now["stores"]["stores"]] == ["memory", "disk"]
    assert [gpu["gpu"] for gpu in now["gpus"]["gpus"]] == ["0", "1"]
    assert now["disks"][0]["used"] <= now["disks"][0]["size"]
    assert now["engine"]["running"] == 2
    assert now["kv"] == {"planned_tokens": 94_165, "tokens": 96_800, "notes": []}


def test_a_disk_that_hangs_leaves_the_rest_and_is_asked_once(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering, asked = threading.Event(), Counter[str]()

    def hanging(_: tuple[Path, ...]) -> list[dict[str, Any]]:
        asked["so often"] += 1
        answering.wait(30)
        return [{"path": "/", "used": 1, "size": 2, "free": 1}]

    monkeypatch.setattr("infbox.status.sampler._DISK_SECONDS", 0.1)
    monkeypatch.setattr("infbox.status.sampler._disks", hanging)
    try:
        with host.gateway() as gateway, following(gateway) as answer:
            assert [now["disks"] for now in islice(events(answer), 2)] == [[], []]
            assert asked["so often"] == 1
            answering.set()
            until(lambda: status(gateway)["disks"])
    finally:
        answering.set()


def test_what_is_not_configured_is_no_part(host: FakeHost) -> None:
    host.down("dcgm")
    settings = host.settings()
    bare = config.Config(
        settings.state_dir, settings.engine, settings.watcher, settings.gateway, ()
    )
    with host.gateway(bare) as gateway:
        now = status(gateway)
    assert states(now).keys() == {"Gateway", "vLLM", "LMCache", "Watcher"}
    assert now["gpus"] is None
    assert now["healthy"] is True


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("vllm", "vLLM"),
        ("lmcache", "LMCache"),
        ("watcher", "Watcher"),
        ("keys", "Key service"),
        ("caddy", "Caddy"),
        ("dcgm", "GPU metrics"),
    ],
)
def test_a_part_that_is_away_is_down_and_says_what_to_do(
    host: FakeHost, part: str, name: str
) -> None:
    host.down(part)
    with host.gateway() as gateway:
        now = status(gateway)
    down = next(shown for shown in now["services"] if shown["name"] == name)
    assert down["state"] == "down"
    assert down["look"]
    assert down["see"].startswith("docs/troubleshooting.md#")
    assert now["healthy"] is False
    assert sum(state == "down" for state in states(now).values()) == 1


def test_a_part_that_says_it_is_not_well_is_believed(host: FakeHost) -> None:
    host.lmcache["is_healthy"] = False
    host.engine.healthy = False
    host.alive = False
    with host.gateway() as gateway:
        found = states(status(gateway))
    assert [found[name] for name in ("LMCache", "vLLM", "Watcher")] == ["unhealthy"] * 3


def test_a_part_that_goes_keeps_what_it_told_with_its_age(host: FakeHost, gateway: Stack) -> None:
    before = status(gateway)
    host.down("watcher")
    with following(gateway) as stream:
        now = next(each for each in events(stream) if states(each)["Watcher"] == "down")
    shop = now["workspaces"][0]
    assert shop["files"] == before["workspaces"][0]["files"]
    assert before["at"] - 1 < shop["at"] < now["at"]
    assert shop["state"] == "unknown"


def test_a_part_that_is_slow_is_late(host: FakeHost) -> None:
    host.delay = 30
    with host.gateway() as gateway:
        now = status(gateway)
    assert states(now)["LMCache"] == "late"
    assert now["healthy"] is True


def test_a_part_that_stays_slow_is_down_and_since_then() -> None:
    part = Service("LMCache", "see", "look")
    part.note(Finding(HEALTHY), 1.0)
    for second in range(2, 5):
        part.note(Finding(LATE), float(second))
    assert (part.state, part.since, part.seen) == (DOWN, 4.0, 1.0)
    part.note(Finding(HEALTHY), 5.0)
    part.note(Finding(LATE), 6.0)
    assert part.state == LATE


def test_a_workspace_is_warm_or_why_it_is_not(host: FakeHost, gateway: Stack) -> None:
    assert status(gateway)["workspaces"][0]["state"] == "warm"
    host.workspaces["shop"] = told(warm=False)
    with following(gateway) as stream:
        shown = next(e for e in events(stream) if e["workspaces"][0]["state"] != "warm")
        assert shown["workspaces"][0]["state"] == "warming"
        assert shown["healthy"] is True
        host.workspaces["shop"] = told(warm=False, error="the tree is gone")
        shown = next(e for e in events(stream) if e["workspaces"][0]["state"] == "cold")
    assert shown["workspaces"][0]["error"] == "the tree is gone"
    assert shown["healthy"] is False


def test_a_workspace_that_another_host_answers_for_is_well_without_being_warm(
    host: FakeHost,
) -> None:
    host.workspaces["shop"] = told(warm=False, elsewhere=True)
    with host.gateway() as gateway:
        now = status(gateway)
    assert now["workspaces"][0]["state"] == "elsewhere"
    assert now["healthy"] is True


def test_an_overlay_says_what_it_shares_with_its_base(host: FakeHost, gateway: Stack) -> None:
    assert status(gateway)["workspaces"][0]["base"] is None
    assert status(gateway)["workspaces"][0]["shared_tokens"] == 0
    host.workspaces["shop"] = told(base="base", shared_tokens=3)
    with following(gateway) as stream:
        assert next(e for e in events(stream) if e["workspaces"][0]["shared_tokens"] == 3)


def test_tokens_are_counted_by_where_their_kv_came_from(host: FakeHost, gateway: Stack) -> None:
    assert status(gateway)["cache"]["tokens"] == [0, 0, 0]
    host.engine.tokens = [900.0, 60.0, 40.0]
    host.recomputed["shop"], host.saves["shop"] = 30.0, 3.0
    with following(gateway) as stream:
        shown = next(each for each in events(stream) if sum(each["cache"]["tokens"]))
    assert shown["cache"]["tokens"] == [900, 60, 40]
    assert len(shown["cache"]["minutes"]) == 60
    shop = shown["workspaces"][0]
    assert (shop["saves"], shop["recomputed_tokens"], shop["tokens"]) == (3, 30, 100)
    assert shop["recomputed_share"] == pytest.approx(0.1)


def test_answers_that_stream_tell_how_long_they_took_to_begin(gateway: Stack) -> None:
    asked: dict[str, Any] = {"model": "coder@shop", "messages": [USER], "stream": True}
    for _ in range(2):
        gateway.post(CHAT, **asked)
    gateway.post(CHAT, **(asked | {"stream": False}))
    first = gateway_first_tokens(gateway)
    assert (first["cold"]["count"], first["warm"]["count"]) == (1, 1)
    assert 0 < first["warm"]["median"] < 5


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_an_answer_counts_though_its_client_leaves_with_the_last_event(
    gateway: Stack, path: str
) -> None:
    gateway.engine.end_delay = 30.0
    for _ in range(2):
        connection = gateway.connect()
        body = json.dumps({"model": "coder@shop", "stream": True, **BODIES[path]})
        connection.request("POST", path, body)
        answer = connection.getresponse()
        assert any(LAST_EVENT.search(line) for line in iter(answer.readline, b""))
        connection.close()
        until(lambda: gateway.engine.under_way == 0)
    assert gateway_first_tokens(gateway)["warm"]["count"] == 1
    assert 'infbox_gateway_cancelled_total{workspace="shop"} 0.0' in gateway.metrics


def gateway_first_tokens(gateway: Stack) -> dict[str, Any]:
    with following(gateway) as stream:
        shown = next(e for e in events(stream) if e["first_token"]["warm"]["count"])
    return dict(shown["first_token"])


def test_many_who_look_cost_the_parts_no_more_than_one(host: FakeHost, gateway: Stack) -> None:
    with contextlib.ExitStack() as viewers:
        streams = [viewers.enter_context(following(gateway)) for _ in range(10)]
        feeds = [events(stream) for stream in streams]
        for feed in feeds:
            next(feed)
        before = host.asked
        for feed in feeds:
            next(feed)
    assert host.asked - before <= 2


def test_nobody_is_asked_often_while_nobody_looks(host: FakeHost, gateway: Stack) -> None:
    with following(gateway) as stream:
        next(events(stream))
    time.sleep(2.5)  # the sample that was due already
    before = host.asked
    time.sleep(2.5)
    assert host.asked == before


def test_there_is_room_for_so_many_and_no_more(gateway: Stack) -> None:
    with contextlib.ExitStack() as viewers:
        for _ in range(MOST_VIEWERS):
            next(events(viewers.enter_context(following(gateway))))
        with following(gateway) as refused:
            assert refused.status == 503
            assert refused.headers["retry-after"]
        assert status(gateway)["healthy"] is True


def test_who_looks_does_not_hold_up_the_end_of_the_gateway(gateway: GatewayStack) -> None:
    with following(gateway) as stream:
        next(events(stream))
        gateway.end()
        assert len(list(islice(events(stream), 5))) < 5


@pytest.mark.parametrize(
    "path", ["/", "/status/page.css", "/status/page.js", "/status/ask.js", "/status/icon.svg"]
)
def test_the_page_takes_nothing_from_elsewhere(gateway: Stack, path: str) -> None:
    code, headers, body = gateway.ask("GET", path)
    assert code == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    text = body.decode()
    assert "https://" not in text
    assert "style=" not in text


def test_a_part_that_tells_nonsense_stops_no_sample(host: FakeHost, gateway: Stack) -> None:
    host.lmcache["storage_manager"] = "nonsense"
    host.workspaces["shop"] = {"files": {}, "warm": "yes"}
    with following(gateway) as stream:
        feed = events(stream)
        times = [next(feed)["at"] for _ in range(3)]
    assert times[0] < times[1] < times[2]


def test_minutes_hold_what_grew_in_each() -> None:
    minutes = Minutes()
    minutes.note(0.0, [100.0])
    minutes.note(50.0, [150.0])
    minutes.note(60.0, [160.0])
    minutes.note(110.0, [180.0])
    assert minutes.growth(110.0)[-2:] == [(50.0,), (30.0,)]
    assert minutes.growth(110.0)[:-2] == [None] * 58
    assert minutes.total(110.0) == (80.0,)


def test_a_counter_that_began_anew_counts_from_nothing() -> None:
    minutes = Minutes()
    minutes.note(0.0, [100.0])
    minutes.note(60.0, [7.0])
    assert minutes.total(60.0) == (7.0,)


def test_an_hour_is_kept_and_no_more() -> None:
    minutes = Minutes()
    for second in range(0, 3 * 3600, 30):
        minutes.note(float(second), [float(second)])
    grown = minutes.growth(3 * 3600.0 - 30)
    assert grown == [(60.0,)] * 60
    assert minutes.growth(5 * 3600.0) == [None] * 60
    assert minutes.total(5 * 3600.0) is None


def test_first_tokens_of_an_hour_ago_are_forgotten() -> None:
    first = FirstTokens()
    first.note(0.0, 9.0, Usage(100, 0, 1))
    first.note(3000.0, 0.2, Usage(100, 90, 1))
    first.note(3000.0, None, Usage(100, 90, 1))
    first.note(3000.0, 0.2, Usage(100, None, 1))
    first.note(3000.0, 0.2, None)
    summary = first.summary(3700.0)
    assert summary["cold"] == {"count": 0, "median": None, "p95": None}
    assert summary["warm"] == {"count": 1, "median": 0.2, "p95": 0.2}


def test_an_exposition_gives_the_samples_that_are_wanted() -> None:
    text = 'a_total{x="1"} 2\na_total{x="2"} 3\na_total_more 5\nb 7\n# HELP c d\n'
    exposition = Exposition(text, ["a_total", "b"])
    assert exposition.total("a_total") == 5
    assert exposition.total("a_total", x="2") == 3
    assert exposition.total("a_total_more") is None
    assert exposition.total("b") == 7


def test_bad_settings_of_the_status_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "watcher.yml"
    base = "state_dir: /x\nengine: {url: 'http://h:1', model: m, max_model_len: 9}\nstatus: "
    for section, named in (
        ("{caddy: localhost}", "status.caddy"),
        ("{disks: [var]}", "status.disks"),
        ("{dgcm: 'http://h:1'}", "status.dgcm"),
    ):
        file.write_text(base + section)
        with pytest.raises(InputError, match=named):
            config.load(file)


def test_the_page_needs_no_engine(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    with host.running():
        settings = host.settings()
    with host.gateway(settings) as gateway:
        with urlopen(gateway.url, timeout=5) as answer:  # noqa: S310  # ours
            assert b"<title>infbox" in answer.read()
        assert set(states(status(gateway)).values()) == {"down", "healthy"}
