"""How hosts are, as people and scripts read it, from what a real gateway tells."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_host import FakeHost, told

from tests.plugins.plugin_files import ROOT, load

RUNNING = [f"infbox-{name}-1\tUp 2 hours (healthy)" for name in ("vllm", "lmcache", "caddy")]
LINKS = ["/etc/infbox/releases/7", "/etc/infbox/releases/7"]
NAMES = ["keys", "watcher", "gateway", "signin", "remotes"]
ACTIVE = ["active"] * len(NAMES)

plugin = load("filter", "host_status")


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def answer(host: FakeHost, *away: str) -> Any:
    """What the gateway of a host answers while some parts are away."""
    with host.running():
        for service in away:
            host.down(service)
        with host.gateway() as gateway:
            return json.loads(gateway.ask("GET", "/status")[2])


def test_a_host_that_is_well_says_what_it_serves(host: FakeHost) -> None:
    found = plugin.host_status(answer(host), LINKS, RUNNING, ACTIVE, names=NAMES)
    text = plugin.status_text(found, "one")
    assert text.splitlines()[0] == "one: healthy"
    assert "model        coder, dev32, vLLM 0.0.fake, 100,000 tokens" in text
    # It was saved 48 s before the host was made.
    assert re.search(r"warm, 413 files, 100 of 6,000 tokens, saved (4[89]|5\d) s ago", text)
    assert "release      7" in text
    assert "GPU          0 NVIDIA H100 80GB HBM3" in text


def test_a_gateway_of_the_release_before_is_understood(host: FakeHost) -> None:
    told = answer(host, "lmcache")
    words = {"healthy": "well", "unhealthy": "ill"}
    parts = [
        {**each, "state": words.get(each["state"], each["state"])} for each in told.pop("services")
    ]
    earlier = {**told, "parts": parts, "well": told.pop("healthy")}
    now, before = (
        plugin.host_status(each, LINKS, RUNNING, ACTIVE, names=NAMES)
        for each in (answer(host, "lmcache"), earlier)
    )
    assert len(now["problems"]) == 1
    assert before["problems"] == now["problems"]


def test_the_kv_cache_is_shown_beside_its_plan_and_one_that_is_smaller_is_explained(
    host: FakeHost,
) -> None:
    def text() -> str:
        found = plugin.host_status(answer(host), LINKS, RUNNING, ACTIVE, names=NAMES)
        assert found["healthy"]
        return str(plugin.status_text(found, "one"))

    assert "KV tokens    96,800 reported by vLLM, 94,165 planned\nservice" in text()
    host.engine.kv_tokens = "80000"
    shown = text()
    assert "KV tokens    80,000 reported by vLLM, 94,165 planned\nnote" in shown
    assert "80,000 tokens, 15% less than the 94,165 that were planned" in shown


def test_a_gateway_that_reports_no_kv_cache_has_none_shown(host: FakeHost) -> None:
    told = answer(host)
    del told["kv"]
    text = plugin.status_text(plugin.host_status(told, LINKS, RUNNING, ACTIVE, names=NAMES), "one")
    assert "KV tokens" not in text


DRIVER = (
    '{"branch": "580", "modules": "prebuilt", "source": "distribution", "version": "580.178.04"}'
)


def test_the_driver_that_infbox_installed_is_shown_and_one_that_waits_for_a_reboot_named() -> None:
    def status(*driver: str) -> Any:
        return plugin.host_status(None, LINKS, RUNNING, [], head="one", driver=driver)

    found = status(DRIVER, "580.178.04")
    shown = "driver       580.178.04 of branch 580, held in apt, kernel modules prebuilt"
    assert found["healthy"] and shown in plugin.status_text(found, "one")
    trouble = "NVIDIA driver 580.178.04 is installed, and {} is loaded: reboot the host."
    assert status(DRIVER, "580.173.02")["problems"] == [trouble.format("580.173.02")]
    assert status(DRIVER)["problems"] == [trouble.format("none")]
    for lines in ([], ["580.173.02"], ["{", "580.173.02"]):
        assert status(*lines)["driver"] is None


def test_conversations_are_told_of_where_there_were_any(host: FakeHost) -> None:
    told = answer(host)
    text = plugin.status_text(plugin.host_status(told, LINKS, RUNNING, ACTIVE, names=NAMES), "one")
    assert "change notes" not in text
    told["workspaces"][0]["conversations"] = {
        "count": 3, "turns": 40, "cached_median": 0.957, "told_tokens": 1234,
    }  # fmt: skip
    text = plugin.status_text(plugin.host_status(told, LINKS, RUNNING, ACTIVE, names=NAMES), "one")
    assert "3 conversations, 96% of a prompt cached, 1,234 tokens of change notes" in text


def test_each_trouble_is_named_with_what_to_do(host: FakeHost) -> None:
    host.workspaces["shop"] = told(warm=False, error="the tree is gone")
    found = plugin.host_status(
        answer(host, "lmcache"), [LINKS[0], "/etc/infbox/releases/6"],
        [*RUNNING[:2], "infbox-caddy-1\tRestarting (1) 3 seconds ago"],
        ["active", "failed", "active", "active", "inactive"], names=NAMES,
    )  # fmt: skip
    text = "\n".join(found["problems"])
    for words in (
        "Release 7 has not passed its health checks.",
        "Container infbox-caddy-1 is unhealthy: Restarting (1) 3 seconds ago.",
        "Unit infbox-watcher is failed: journalctl -u infbox-watcher",
        "Unit infbox-remotes is inactive: journalctl -u infbox-remotes",
        "LMCache is unhealthy. It does not respond. Run docker logs --tail 50 infbox-lmcache-1",
        "Workspace shop is NOT WARM: the tree is gone.",
    ):
        assert words in text
    assert plugin.status_text(found, "one").startswith("one: UNHEALTHY\n- Release 7")


@pytest.mark.parametrize(("away", "is_well"), [((), True), (("lmcache",), False)])
def test_who_answers_already_is_well_before_docker_has_seen_it(
    host: FakeHost, away: tuple[str, ...], is_well: bool
) -> None:
    starting = ["infbox-vllm-1\tUp 38 seconds (health: starting)", *RUNNING[1:]]
    found = plugin.host_status(answer(host, *away), LINKS, starting, ACTIVE, names=NAMES)
    assert found["healthy"] is is_well
    assert any("infbox-vllm-1" in problem for problem in found["problems"]) is not is_well


def test_a_part_of_a_model_is_not_well_before_docker_has_seen_it() -> None:
    starting = ["infbox-vllm-1\tUp 38 seconds (health: starting)"]
    assert plugin.host_status(None, LINKS, starting, [], head="one")["healthy"] is False


@pytest.mark.parametrize("told", [None, {}, {"detail": "Not Found"}])
def test_a_gateway_that_tells_nothing_is_a_trouble(told: Any) -> None:
    found = plugin.host_status(told, LINKS, RUNNING, ACTIVE, names=NAMES)
    assert found["healthy"] is False
    assert found["status"] is None
    assert "The gateway does not report" in plugin.status_text(found, "one")


def test_a_host_without_anything_is_not_well() -> None:
    found = plugin.host_status({}, [], [], [], names=NAMES)
    assert found["problems"][0] == "There is no release yet: run site.yml."
    assert found["units"]["infbox-watcher"] == "missing"


def test_a_workspace_of_another_replica_is_no_trouble(host: FakeHost) -> None:
    host.workspaces["shop"]["warm"] = False
    host.workspaces["shop"]["elsewhere"] = True
    found = plugin.host_status(answer(host), LINKS, RUNNING, ACTIVE, names=NAMES)
    assert found["healthy"] is True
    assert "warm on another replica" in plugin.status_text(found, "one")


def test_a_host_that_was_not_reached_is_in_the_table_and_the_figures(host: FakeHost) -> None:
    well = plugin.host_status(answer(host), LINKS, RUNNING, ACTIVE, names=NAMES)
    hosts = plugin.hosts_status(["one", "two"], {"one": {"status_of_host": well}, "two": {}})
    table = plugin.status_table(hosts).splitlines()
    assert table[1].split() == ["one", "healthy", "dev32", "7", "1", "of", "1", "2", "-"]
    assert table[2].endswith("The host cannot be reached.")
    figures = plugin.status_figures(hosts)
    assert figures["healthy"] is False
    written = json.loads(json.dumps(figures))
    assert written["hosts"]["two"]["problems"] == ["The host cannot be reached."]


def test_each_part_leads_to_a_heading_that_there_is(host: FakeHost) -> None:
    told = answer(host, "vllm", "lmcache", "watcher", "keys", "caddy", "dcgm")
    sees = {service["see"] for service in told["services"] if service["see"]}
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    titles = [line.removeprefix("### ") for line in page.splitlines() if line.startswith("### ")]
    headings = {f"docs/troubleshooting.md#{title.lower().replace(' ', '-')}" for title in titles}
    assert len(sees) == 6
    assert sees <= headings


def test_a_host_that_holds_a_part_of_a_model_has_the_units_of_one_and_no_gateway() -> None:
    found = plugin.host_status({}, LINKS, RUNNING, ["active"], "gpu1", names=["autoheal"])
    assert found["units"] == {"infbox-autoheal": "active"}
    assert found["healthy"], found["problems"]
    assert "worker of the model that gpu1 serves" in plugin.status_text(found, "gpu2")
    ill = plugin.host_status({}, LINKS, [f"{RUNNING[0].split(chr(9))[0]}\tUp (unhealthy)"], [], "g")
    assert "is unhealthy" in ill["problems"][0]
