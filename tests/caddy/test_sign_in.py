"""People sign in through the real Caddy, with the role's own Caddyfile, at a real provider."""

import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import yaml
from infbox.auth.keyring import Keyring
from infbox.auth.keys import Limits
from infbox.auth.sign_in import SESSION_COOKIE
from playwright.sync_api import Page
from provider import know, provider
from serving import free_port

from lab import engine
from lab.settings import IMAGES_FILE, ROOT
from tests.page.visit import chromium, go_to

pytestmark = pytest.mark.lab

CONTAINER = "infbox-test-sign-in"
PROGRAMS = Path(sys.executable).parent
NAVIGATE = {"Sec-Fetch-Mode": "navigate"}
ACCOUNT = re.compile("alice-[0-9a-f]{12}@page")


@dataclass(frozen=True)
class Site:
    """A Caddy with all that it asks.

    Attributes:
        url: of the status page.
        consoles: of the pages of monitoring.
        trust: the authority of its certificates.
        key: of the user alice.
        signin: starts infbox-signin anew.
        stop: ends it.
        log: what Caddy has logged.
    """

    url: str
    consoles: str
    trust: ssl.SSLContext
    key: str
    signin: Callable[[], None]
    stop: Callable[[], None]
    log: Callable[[], str]

    def browser(self) -> httpx2.Client:
        """Return a browser, which keeps cookies as one does, and follows nothing by itself."""
        return httpx2.Client(verify=self.trust, headers=NAVIGATE, timeout=20)

    def sign_in(self, browser: httpx2.Client, url: str, subject: str) -> httpx2.Response:
        """Ask for a page, and go wherever that leads."""
        answer = browser.get(url)
        assert answer.headers["location"].startswith(f"{self.url}/sign-in?to="), answer.text
        answer = browser.get(answer.headers["location"])
        answer = browser.post(answer.headers["location"], data={"sub": subject})
        assert answer.headers["location"].startswith(f"{self.url}/sign-in/callback?")
        return browser.get(answer.headers["location"])


class Process:
    """A program that can be started again."""

    def __init__(self, *command: object) -> None:
        self._command = [str(part) for part in command]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("sign-in")
    names = ("http", "https", "consoles", "keys", "signin", "page", "console")
    ports = {name: free_port() for name in names}
    url = f"https://localhost:{ports['https']}"
    consoles = f"https://localhost:{ports['consoles']}"
    with contextlib.ExitStack() as stack:
        issuer = stack.enter_context(provider())
        know(issuer, "alice", preferred_username="alice", groups=["coders"])
        know(issuer, "bob", preferred_username="bob", groups=[])
        know(issuer, "sue", preferred_username="sue", groups=["coders", "store"])
        signin = Process(PROGRAMS / "infbox-signin", "run", "--config",
                         configured(folder, ports, url, consoles, issuer),
                         "--secret", folder / "secret")  # fmt: skip
        echo = ROOT / "molecule/caddy/echo_upstream.py"
        for process in (
            signin,
            Process(PROGRAMS / "infbox-keys", "--digests", folder / "users.json",
                    "serve", "--listen", f"127.0.0.1:{ports['keys']}"),
            Process(sys.executable, echo, ports["page"]),
            Process(sys.executable, echo, ports["console"]),
        ):  # fmt: skip
            process.start()
            stack.callback(process.stop)
        trust = stack.enter_context(caddy(folder, rendered(folder, ports)))
        wait_for(lambda: httpx2.get(url, verify=trust).status_code == 401)
        yield Site(
            url, consoles, trust, (folder / "keys/alice").read_text().strip(),
            signin.start, signin.stop, lambda: docker("logs", CONTAINER).stdout,
        )  # fmt: skip


def configured(folder: Path, ports: dict[str, int], url: str, consoles: str, issuer: str) -> Path:
    """Write what the two services run by; return the sign-in's configuration."""
    (folder / "keys").mkdir()
    Keyring(folder / "keys", folder / "users.json").apply({"alice": Limits()})
    (folder / "secret").write_text("secret\n")
    settings = {
        "listen": f"127.0.0.1:{ports['signin']}", "origin": url, "consoles": {"/grafana": consoles},
        "issuer": issuer, "client_id": "infbox", "groups": ["coders"],
        "group_workspaces": {"store": ["shop", "shop-*"]},
    }  # fmt: skip
    (folder / "sign-in.yml").write_text(yaml.safe_dump(settings))
    return folder / "sign-in.yml"


def rendered(folder: Path, ports: dict[str, int], **more: str) -> Path:
    """Have the role render its Caddyfile, by more variables too; return the folder that has it."""
    page, console = (f"127.0.0.1:{ports[name]}" for name in ("page", "console"))
    variables: dict[str, Any] = {
        "caddy_image": "caddy", "caddy_staging_dir": str(folder / "staging"),
        "caddy_data_dir": str(folder / "data"), "caddy_site_addresses": ["localhost"],
        "caddy_http_port": ports["http"], "caddy_https_port": ports["https"],
        "caddy_consoles_port": ports["consoles"], "caddy_upstreams": [page],
        "caddy_key_service": f"127.0.0.1:{ports['keys']}", "caddy_page_upstream": page,
        "caddy_sign_in": f"127.0.0.1:{ports['signin']}", "caddy_ask_upstream": page,
        "caddy_consoles": [{"path": "/grafana", "upstream": console, "sign_in": True},
                           {"path": "/prometheus", "upstream": console}],
        "ansible_python_interpreter": sys.executable, **more,
    }  # fmt: skip
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": ["caddy"]}
    (folder / "play.yml").write_text(json.dumps([{**play, "vars": variables}]))
    play_file = str(folder / "play.yml")
    command = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", play_file]
    own = {"ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "HOME": str(folder),
           "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")}  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, **own})
    return folder / "staging/caddy"


@contextlib.contextmanager
def caddy(folder: Path, config: Path) -> Iterator[ssl.SSLContext]:
    """Run the lab's Caddy until the block is left; give the authority of its certificates."""
    engine.ensure()
    image = json.loads(IMAGES_FILE.read_text())["caddy"]
    name = f"infbox-lab/caddy:{image['tag']}"
    docker("rm", "--force", CONTAINER)
    started = docker(
        "run", "--detach", "--name", CONTAINER, "--network", "host", "--user", "0",
        "--env", "XDG_DATA_HOME=/data", "--volume", f"{config}:/etc/caddy:ro",
        "--volume", f"{folder}/data:/data", name,
        "caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile",
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    try:
        root = folder / "data/caddy/pki/authorities/local/root.crt"
        wait_for(root.exists)
        yield ssl.create_default_context(cafile=str(root))
    finally:
        docker("rm", "--force", CONTAINER)


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx2.HTTPError):
            if condition():
                return
        assert time.monotonic() < ends, "it did not come to pass in time"
        time.sleep(0.1)


def test_one_sign_in_opens_the_page_and_grafana_and_tells_neither_of_it(site: Site) -> None:
    with site.browser() as browser:
        back = site.sign_in(browser, f"{site.url}/status", "alice")
        assert (back.status_code, back.headers["location"]) == (303, f"{site.url}/status")
        browser.cookies.set("grafana_session", "theirs", domain="localhost.local")
        page = browser.get(f"{site.url}/status", headers={"X-Infbox-User": "root"})
        graphs = browser.get(f"{site.consoles}/grafana/d/host?to=now")
        other = browser.get(f"{site.consoles}/prometheus/graph")
    assert page.json()["headers"]["x-infbox-user"] == "alice"
    assert "cookie" not in page.json()["headers"]
    assert graphs.json()["target"] == "/grafana/d/host?to=now"
    assert graphs.json()["headers"]["x-infbox-user"] == "alice"
    for answer in (graphs, other):
        assert answer.json()["headers"]["cookie"].strip() == "grafana_session=theirs"


def test_who_may_not_see_all_workspaces_sees_the_page_and_not_grafana(site: Site) -> None:
    forged = {"X-Infbox-Workspaces": "*"}
    with site.browser() as browser:
        site.sign_in(browser, f"{site.url}/status", "sue")
        page = browser.get(f"{site.url}/status", headers=forged)
        graphs = browser.get(f"{site.consoles}/grafana/d/host", headers=forged)
    assert page.json()["headers"]["x-infbox-workspaces"] == "shop,shop-*"
    assert (graphs.status_code, graphs.headers["content-type"][:10]) == (403, "text/plain")
    assert "you may not see all of them" in graphs.text
    with site.browser() as browser:
        site.sign_in(browser, f"{site.url}/status", "alice")
        page = browser.get(f"{site.url}/status", headers={"X-Infbox-Workspaces": "shop"})
    assert page.json()["headers"]["x-infbox-workspaces"] == "*"


def test_grafana_sends_to_the_sign_in_and_gets_one_back_to_its_page(site: Site) -> None:
    with site.browser() as browser:
        there = f"{site.consoles}/grafana/d/host?from=now-6h&to=now"
        assert site.sign_in(browser, there, "alice").headers["location"] == there
        assert browser.get(there).status_code == 200


def test_who_is_in_no_group_sees_a_page_that_says_so_and_nothing_else(site: Site) -> None:
    with site.browser() as browser:
        page = site.sign_in(browser, f"{site.url}/", "bob")
        assert (page.status_code, "You are not in the group" in page.text) == (403, True)
        assert "default-src 'none'; style-src 'sha256-" in page.headers["content-security-policy"]
        assert browser.get(f"{site.url}/").status_code == 302


def test_a_stolen_cookie_opens_nothing_after_the_sign_out(site: Site) -> None:
    with site.browser() as browser, site.browser() as thief:
        site.sign_in(browser, f"{site.url}/", "alice")
        thief.cookies.update(browser.cookies)
        for url in (f"{site.url}/status", f"{site.consoles}/grafana/"):
            assert thief.get(url).status_code == 200
        assert "signed out" in browser.post(f"{site.url}/sign-out").text
        for url in (f"{site.url}/status", f"{site.consoles}/grafana/"):
            assert thief.get(url).status_code == 302


def test_a_session_is_no_key_for_the_api_and_a_key_needs_no_session(site: Site) -> None:
    bearer = {"Authorization": f"Bearer {site.key}"}
    with site.browser() as browser:
        site.sign_in(browser, f"{site.url}/", "alice")
        assert browser.post(f"{site.url}/v1/completions").status_code == 401
        assert browser.get(f"{site.url}/v1/models").status_code == 401
        # What claims to be a program is judged by its key, whoever is signed in.
        wrong = browser.get(f"{site.url}/status", headers={"Authorization": "Bearer wrong"})
        assert wrong.status_code == 401
    with site.browser() as program:
        assert program.get(f"{site.url}/v1/models", headers=bearer).status_code == 200
        for headers in (bearer, {"X-Api-Key": site.key}):
            page = program.get(f"{site.url}/status", headers=headers)
            assert page.json()["headers"]["x-infbox-user"] == "alice"
        assert program.get(f"{site.url}/status", auth=("alice", site.key)).status_code == 200


def test_who_is_signed_in_asks_on_the_page_and_no_other_page_does(site: Site) -> None:
    there = f"{site.url}/status/ask"
    own = {"Origin": site.url, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    other = own | {"Origin": site.consoles, "Sec-Fetch-Site": "same-site"}
    forged = {
        "X-Infbox-User": "root",
        "X-Infbox-Concurrent": "99",
        "X-Infbox-Workspaces": "none",
        "X-Infbox-Limits": "tokens_per_day=99",
        "X-Infbox-Account": "root",
        "Connection": "x-infbox-user",
    }
    with site.browser() as browser:
        assert browser.post(there, headers=own, content=b"{}").status_code == 401
        site.sign_in(browser, f"{site.url}/", "alice")
        asked = browser.post(there, headers=own | forged, content=b"{}").json()
        assert (asked["method"], asked["target"]) == ("POST", "/v1/chat/completions")
        assert ACCOUNT.fullmatch(asked["headers"]["x-infbox-user"])
        assert asked["headers"]["x-infbox-limits"] == "concurrent_requests=2"
        seen = browser.get(f"{site.url}/status/usage", headers=forged).json()["headers"]
        assert seen["x-infbox-account"] == asked["headers"]["x-infbox-user"]
        assert asked["headers"]["x-infbox-concurrent"] == "2"
        assert asked["headers"]["x-infbox-workspaces"] == "*"
        assert "cookie" not in asked["headers"]
        assert asked["size"] == 2
        for headers in (other, other | {"Content-Type": "text/plain"}, {}):
            assert browser.post(there, headers=headers, content=b"{}").status_code == 403
        assert browser.post(there, headers=own, content=bytes(1_100_000)).status_code >= 400
        for target in (f"{there}?x", f"{there}/"):
            assert browser.post(target, headers=own).status_code == 404
    with site.browser() as program:
        bearer = {"Authorization": f"Bearer {site.key}"}
        assert program.post(there, headers=own | bearer, content=b"{}").status_code == 401


def test_data_is_refused_and_not_sent_away(site: Site) -> None:
    for url in (f"{site.url}/status/events", f"{site.consoles}/grafana/api/user"):
        answer = httpx2.get(url, verify=site.trust, headers={"Sec-Fetch-Mode": "cors"})
        assert answer.status_code == 401
        assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize("target", ["/check", "/metrics", "/sign-in/x", "/sign-in/", "/SIGN-IN"])
def test_nothing_else_of_the_sign_in_is_reached(site: Site, target: str) -> None:
    assert httpx2.get(site.url + target, verify=site.trust).status_code == 404


def test_while_the_sign_in_is_away_pages_say_so_and_keys_hold(site: Site) -> None:
    with site.browser() as browser:
        site.sign_in(browser, f"{site.url}/", "alice")
        site.stop()
        try:
            for url in (f"{site.url}/", f"{site.url}/sign-in", f"{site.consoles}/grafana/"):
                page = browser.get(url)
                assert (page.status_code, "infbox-signin" in page.text) == (502, True)
            bearer = {"Authorization": f"Bearer {site.key}"}
            assert browser.get(f"{site.url}/v1/models", headers=bearer).status_code == 200
            assert browser.get(f"{site.url}/status", headers=bearer).status_code == 200
        finally:
            site.signin()
        wait_for(lambda: browser.get(f"{site.url}/").status_code == 302)


def test_the_log_has_who_asked_and_neither_code_nor_cookie(site: Site) -> None:
    with site.browser() as browser:
        site.sign_in(browser, f"{site.url}/", "alice")
        browser.get(f"{site.url}/status")
        session = browser.cookies[SESSION_COOKIE]
    wait_for(lambda: '"user_id":"alice"' in site.log())
    assert '"uri":"/sign-in/callback"' in site.log()
    for word in (session, "code=", "state="):
        assert word not in site.log()


def posted(page: Page, url: str) -> Any:
    """Have the page ask; return what came back, or None where the page may not read it."""
    options = '{method: "POST", credentials: "include", mode: MODE, body: "{}"}'
    mode = "'same-origin'" if page.url.startswith(url.rpartition("/status")[0]) else "'no-cors'"
    return page.evaluate(
        f"async (url) => {{ const answer = await fetch(url, {options.replace('MODE', mode)});"
        " return answer.type === 'opaque' ? null : answer.json(); }",
        url,
    )


def refusals(log: str) -> int:
    """Return how often a question on the page was refused."""
    lines = [json.loads(line) for line in log.splitlines() if '"/status/ask"' in line]
    return sum(line.get("status") == 403 for line in lines)


def test_a_real_browser_signs_in_and_out(site: Site) -> None:
    with chromium() as browser:
        page = browser.new_context(ignore_https_errors=True, bypass_csp=True).new_page()
        go_to(page, f"{site.url}/status")
        assert urlsplit(page.url).path == "/oauth2/authorize"
        page.fill("input[name=sub]", "alice")
        page.click("button:has-text('Authorize')")
        page.wait_for_url(f"{site.url}/status")
        assert '"x-infbox-user": "alice"' in page.content()
        cookie = next(c for c in page.context.cookies() if c["name"] == SESSION_COOKIE)
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
        user = posted(page, f"{site.url}/status/ask")["headers"]["x-infbox-user"]
        assert ACCOUNT.fullmatch(user)
        go_to(page, f"{site.consoles}/grafana/")
        assert page.url == f"{site.consoles}/grafana/"
        # The browser sends the cookie from there too.
        before = refusals(site.log())
        assert posted(page, f"{site.url}/status/ask") is None
        wait_for(lambda: refusals(site.log()) == before + 1)
        go_to(page, f"{site.url}/sign-out")
        page.click("button")
        page.wait_for_selector("text=You are signed out")
        go_to(page, f"{site.url}/status")
        assert urlsplit(page.url).path == "/oauth2/authorize"
