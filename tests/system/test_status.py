"""The status page of a deployed host: through Caddy, with a login, every part as it really is."""

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPResponse
from typing import Any

import pytest

from lab.deployment import play, wait_for
from tests.system.conftest import WORKSPACE, Site

pytestmark = pytest.mark.lab

SERVICES = {"Caddy", "Key service", "Gateway", "vLLM", "LMCache", "Watcher"}


@pytest.fixture(scope="module")
def login(site: Site) -> dict[str, str]:
    key = site.ssh("cat /etc/infbox/secrets/api-keys/team").strip()
    return {"Authorization": "Basic " + base64.b64encode(f"team:{key}".encode()).decode()}


def get(site: Site, path: str, headers: Mapping[str, str]) -> HTTPResponse:
    """Ask as a browser does that trusts the host's authority."""
    context = ssl.create_default_context(
        cafile=f"{site.inventory.parents[1]}/{site.host.instance}.crt"
    )
    url = f"https://{site.host.address}{path}"
    request = urllib.request.Request(url, headers=dict(headers))
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=30, context=context)  # noqa: S310
    return answer


def events(answer: HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in answer:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def well(status: dict[str, Any]) -> dict[str, Any] | None:
    """Return a status if all is well by it."""
    return status if status["healthy"] and status["workspaces"][0]["state"] == "warm" else None


@pytest.mark.parametrize("path", ["/", "/status", "/status/events", "/status/page.js"])
def test_nobody_looks_without_a_login(site: Site, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(site, path, {})
    assert refused.value.code == 401
    assert refused.value.headers["www-authenticate"].startswith("Basic ")


def test_a_users_name_and_key_open_the_page(site: Site, login: dict[str, str]) -> None:
    with get(site, "/", login) as page:
        assert b"<title>infbox</title>" in page.read()
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["strict-transport-security"]


def test_every_part_is_well_and_the_workspace_warm(site: Site, login: dict[str, str]) -> None:
    def ask() -> dict[str, Any] | None:
        with get(site, "/status", login) as answer:
            return well(json.load(answer))

    status = wait_for("a host that is well", ask, 60)
    assert {service["name"] for service in status["services"]} == SERVICES
    assert {service["state"] for service in status["services"]} == {"healthy"}
    workspace = status["workspaces"][0]
    assert workspace["name"] == WORKSPACE
    assert workspace["files"] > 100
    assert status["served"]["engine"].startswith("vLLM ")
    assert [store["size"] > 0 for store in status["stores"]["stores"]] == [True, True]
    assert status["gpus"] is None


def test_an_answer_and_a_save_show_up_in_the_events(site: Site, login: dict[str, str]) -> None:
    with get(site, "/status/events", login) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        feed = events(answer)
        before = next(feed)
        site.client.ask()
        site.client.ask()
        with (site.tree / "ansible.cfg").open("a") as file:
            file.write("# Somebody looks.\n")

        def signs(status: dict[str, Any]) -> dict[str, float]:
            return {
                "a warm answer": status["first_token"]["warm"]["count"],
                "its tokens": sum(status["cache"]["tokens"]),
                "the save": status["workspaces"][0]["last_save"] or 0.0,
            }

        def missing(now: dict[str, Any]) -> list[str]:
            known = signs(before)
            return [name for name, value in signs(now).items() if value <= known[name]]

        for shown, _ in zip(feed, range(60), strict=False):
            if not missing(shown):
                break
        assert not missing(shown), (before, shown)
    assert shown["cache"]["tokens"][0] > 0


def test_make_status_tells_the_same(site: Site, login: dict[str, str]) -> None:
    def ask() -> dict[str, Any] | None:
        with get(site, "/status", login) as answer:
            return well(json.load(answer))

    wait_for("a host that is well", ask, 60)
    output = play(["playbooks/status.yml", "-i", site.inventory], "system-status")
    assert f"{site.host.instance}: healthy" in output
    assert "service      vLLM" in output
