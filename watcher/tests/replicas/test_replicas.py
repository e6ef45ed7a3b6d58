"""Questions that any of several hosts may answer. Caddy's own part is in tests/caddy."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fake_apis import CHAT
from fake_engine import FakeEngine
from gateway_stack import BODIES, TEXT, Answer, Stack, publish
from infbox.auth import usage
from infbox.config import Listen, Replicas
from infbox.gateway.app import Gateway
from infbox.gateway.upstream import queue
from serving import ANY, free_port, serving, settings_for, until
from stub_balancer import StubBalancer

ALL = pytest.mark.parametrize("path", BODIES)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for a host more often, to wait less."""
    monkeypatch.setattr(queue, "_INTERVAL_SECONDS", 0.02)


class Fleet:
    """Two hosts, each with a pack of its own, behind one balancer."""

    def __init__(self, balancer: StubBalancer, here: Stack, there: Stack) -> None:
        self.balancer = balancer
        self.here = here
        self.there = there

    def ask(self, path: str = CHAT, model: str = "coder@shop", **more: Any) -> Answer:
        """Ask the one of them."""
        headers = more.pop("headers", None)
        return self.here.post(path, headers, **{**BODIES[path], "model": model, **more})

    def prefer(self, *hosts: Stack) -> None:
        self.balancer.order = [host.url for host in hosts]
        self.balancer.away.clear()


@contextlib.contextmanager
def host(
    folder: Path, name: str, balancer: str, seconds: int, engine_at: Listen = ANY, **engine: Any
) -> Iterator[Stack]:
    folder.mkdir()
    publish(folder, f"{name}: {TEXT}", sections=[])
    with FakeEngine(**engine).running(engine_at) as upstream:
        config = settings_for(folder, upstream.url, shop=(folder, 1000), bare=(folder, 1000))
        gateway = config.gateway._replace(request_queue_timeout_seconds=seconds)
        config = config._replace(gateway=gateway, replicas=Replicas(balancer, name))
        overlay = config.workspaces[0]._replace(name="shop-anna", base="shop")
        config = config._replace(workspaces=(*config.workspaces, overlay))
        with serving(Gateway(config).app) as url:
            yield Stack(upstream, url)


@contextlib.contextmanager
def fleet(tmp_path: Path, seconds: int = 0, **engine: Any) -> Iterator[Fleet]:
    with (
        StubBalancer().running() as balancer,
        host(tmp_path / "here", "here", balancer.url, seconds, **engine) as here,
        host(tmp_path / "there", "there", balancer.url, seconds, **engine) as there,
    ):
        hosts = Fleet(balancer, here, there)
        hosts.prefer(there, here)
        yield hosts


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path) as two:
        yield two


def counted(stack: Stack, name: str) -> dict[str, float]:
    """The samples of a metric that are not 0, by their labels."""
    found = re.findall(rf"^infbox_gateway_{name}_total(\S*) (\S+)$", stack.metrics, re.MULTILINE)
    return {labels: float(value) for labels, value in found if float(value)}


@ALL
def test_the_host_that_a_question_goes_to_puts_its_own_pack_in_front(
    hosts: Fleet, path: str
) -> None:
    answer = hosts.ask(path)
    assert (answer.status, answer.headers["x-infbox-host"]) == (200, "there")
    assert answer.headers["x-infbox-pack-tokens"] == "100"
    (seen,) = [seen for seen in hosts.there.engine.seen if seen.target == path]
    assert "there: the" in json.dumps(seen.chat)
    assert seen.chat["model"] == "coder"
    assert not hosts.here.engine.targets()
    hosts.prefer(hosts.here)
    assert hosts.ask(path).headers["x-infbox-host"] == "here"


@pytest.mark.parametrize("streams", [False, True])
def test_only_the_host_that_answers_counts_what_was_used(tmp_path: Path, streams: bool) -> None:
    with fleet(tmp_path) as hosts:
        answer = hosts.ask(stream=streams, headers={"X-Infbox-User": "ann"})
        assert (b'"usage"' in answer.body) != streams
    here, there = (usage.read(usage.file_in(tmp_path / name / "state"), 30)
                   for name in ("here", "there"))  # fmt: skip
    ((key, counts),) = there
    assert (key.user, key.workspace) == ("ann", "shop")
    assert (counts.requests, counts.uncounted, counts.completion) == (1, 0, 1)
    assert here == []


def test_the_balancer_is_told_the_workspace_however_it_is_named(hosts: Fleet) -> None:
    hosts.ask(model="coder@shop")
    hosts.ask(model="coder", headers={"X-Infbox-Workspace": "shop"})
    hosts.ask(model="coder@bare")
    hosts.ask(model="coder")
    shop, header, bare, none = hosts.balancer.routes
    assert shop == header
    assert len({shop, bare, none}) == 3
    assert none == ""


def test_an_overlay_goes_where_its_base_is_warm(hosts: Fleet) -> None:
    hosts.ask(model="coder@shop")
    hosts.ask(model="coder@shop-anna")
    base, overlay = hosts.balancer.routes
    assert base == overlay


def test_what_a_client_says_of_the_way_is_not_believed(hosts: Fleet) -> None:
    hosts.ask(model="coder", headers={"X-Infbox-Route": "mine"})
    assert hosts.balancer.routes == [""]
    names = {name for name, _ in hosts.there.engine.chats[0].headers}
    assert b"x-infbox-route" not in names


def test_what_was_sent_here_is_answered_here(hosts: Fleet) -> None:
    answer = hosts.ask(headers={"X-Infbox-Routed": "1"})
    assert answer.headers["x-infbox-host"] == "here"
    assert not hosts.balancer.routes


def test_what_is_no_question_is_answered_here(hosts: Fleet) -> None:
    assert hosts.here.ask("GET", "/v1/models")[0] == 200
    assert hosts.here.ask("POST", "/v1/embeddings", b"{}")[0] == 200
    assert hosts.here.engine.targets() == ["/v1/models", "/v1/embeddings"]
    assert not hosts.balancer.routes


def test_an_unknown_workspace_is_refused_before_anybody_is_asked(hosts: Fleet) -> None:
    assert hosts.ask(model="coder@gone").status == 404
    assert not hosts.balancer.routes
    assert counted(hosts.here, "requests") == {'{status="404",user="",workspace=""}': 1.0}


def test_a_refusal_of_the_other_host_is_handed_on_and_not_asked_again(hosts: Fleet) -> None:
    hosts.there.engine.window = 10
    answer = hosts.ask()
    assert (answer.status, answer.headers["x-infbox-host"]) == (400, "there")
    assert answer.json["error"]["infbox"]["workspace"] == "shop"
    assert len(hosts.balancer.routes) == 1


@ALL
def test_an_engine_that_is_lost_before_the_first_event_costs_nothing(
    hosts: Fleet, path: str
) -> None:
    hosts.there.engine.breaks_first = True
    answer = hosts.ask(path, stream=True)
    assert (answer.status, answer.headers["x-infbox-host"]) == (200, "here")
    assert b"error" not in answer.body
    assert hosts.there.engine.targets().count(path) == 1
    assert hosts.here.engine.targets().count(path) == 1


def test_an_engine_that_is_lost_before_a_whole_answer_costs_nothing(hosts: Fleet) -> None:
    hosts.there.engine.breaks_whole = True
    answer = hosts.ask()
    assert (answer.status, answer.headers["x-infbox-host"]) == (200, "here")
    assert counted(hosts.here, "retried") == {'{reason="broken"}': 1.0}


def test_an_answer_that_began_ends_in_an_error_and_is_not_asked_again(hosts: Fleet) -> None:
    hosts.there.engine.breaks_off = True
    answer = hosts.ask(stream=True)
    assert answer.status == 200
    assert b"broke off" in answer.events[-1]
    assert len(hosts.there.engine.chats) == 1
    assert not hosts.here.engine.chats


@pytest.mark.parametrize("what", ["ending", "gone"])
def test_a_question_goes_to_the_next_host_while_an_engine_is_away(hosts: Fleet, what: str) -> None:
    if what == "ending":
        hosts.there.engine.ending = True
    else:
        hosts.balancer.order.insert(0, f"http://127.0.0.1:{free_port()}")
        hosts.balancer.away.add(hosts.there.url)
    answer = hosts.ask()
    assert (answer.status, answer.headers["x-infbox-host"]) == (200, "here")


def test_where_all_that_have_it_warm_are_busy_anybody_answers(hosts: Fleet) -> None:
    hosts.balancer.full = True
    assert hosts.ask().headers["x-infbox-host"] == "there"
    first, second, third = hosts.balancer.routes
    assert first == second != ""
    assert third == ""


def test_a_question_waits_while_no_host_takes_one(tmp_path: Path) -> None:
    with fleet(tmp_path, seconds=10) as hosts, ThreadPoolExecutor(1) as pool:
        hosts.balancer.away = {hosts.here.url, hosts.there.url}
        answer = pool.submit(hosts.ask)
        until(lambda: "infbox_gateway_queued_requests 1.0" in hosts.here.metrics)
        assert not hosts.there.engine.chats
        hosts.prefer(hosts.there)
        assert answer.result(10).headers["x-infbox-host"] == "there"
        assert len(hosts.there.engine.chats) == 1


def test_after_the_time_it_is_told_when_to_ask_again(tmp_path: Path) -> None:
    with fleet(tmp_path, seconds=1) as hosts:
        hosts.prefer()
        answer = hosts.ask()
    assert (answer.status, answer.headers["retry-after"]) == (503, "10")


def test_a_question_that_breaks_engines_does_not_break_them_all(hosts: Fleet) -> None:
    for engine in (hosts.here.engine, hosts.there.engine):
        engine.breaks_first = True
    hosts.balancer.forgives = True
    assert hosts.ask(stream=True).status == 502
    assert len(hosts.there.engine.chats) == 3


def test_a_question_is_counted_where_it_is_answered_and_nowhere_else(hosts: Fleet) -> None:
    answer = hosts.ask(headers={"X-Infbox-User": "alice"})
    assert answer.headers["x-infbox-host"] == "there"
    label = 'user="alice",workspace="shop"'
    assert counted(hosts.there, "requests") == {f'{{status="200",{label}}}': 1.0}
    assert f'{{kind="prompt",{label}}}' in counted(hosts.there, "tokens")
    assert not counted(hosts.here, "requests")
    assert not counted(hosts.here, "tokens")
    assert counted(hosts.here, "forwarded") == {'{replica="there",workspace="shop"}': 1.0}


def test_a_user_s_limit_is_counted_once_and_where_the_question_came_in(tmp_path: Path) -> None:
    headers = {"X-Infbox-User": "alice", "X-Infbox-Concurrent": "1"}
    with fleet(tmp_path, delay=0.5) as hosts, ThreadPoolExecutor(1) as pool:
        hosts.prefer(hosts.here)  # comes by twice, and counts as one
        first = pool.submit(hosts.ask, headers=headers)
        until(lambda: hosts.here.engine.under_way == 1)
        assert hosts.ask(headers=headers).status == 429
        assert first.result(10).status == 200


def test_a_client_that_leaves_is_computed_for_no_longer(tmp_path: Path) -> None:
    with fleet(tmp_path, delay=5.0) as hosts:
        with contextlib.closing(hosts.here.connect()) as client:
            asked = {"model": "coder@shop", "stream": True, **BODIES[CHAT]}
            client.request("POST", CHAT, json.dumps(asked))
            until(lambda: hosts.there.engine.sent == 1)
        until(lambda: hosts.there.engine.cancelled == 1)
        until(lambda: counted(hosts.there, "cancelled"))
        assert not counted(hosts.here, "cancelled")
        assert not counted(hosts.here, "requests")


def test_ready_is_a_gateway_whose_engine_takes_questions(hosts: Fleet) -> None:
    status, headers, _ = hosts.here.ask("GET", "/ready")
    assert (status, headers["x-infbox-host"]) == (200, "here")
    hosts.here.engine.ending = True  # and says on /health that it is well
    assert hosts.here.ask("GET", "/ready")[0] == 503


def test_without_replicas_nobody_is_asked_and_nothing_is_said(stack: Stack) -> None:
    answer = stack.post(CHAT, {"X-Infbox-Routed": "1"}, model="coder@shop", **BODIES[CHAT])
    assert answer.status == 200
    assert "x-infbox-host" not in answer.headers
