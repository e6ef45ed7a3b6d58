"""The caddy role on a lab host, with upstreams that echo what reaches them and a stub authority.

Requests are written byte by byte: an HTTP client would tidy up the paths that are tried here.
"""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from testinfra.host import Host

FRAGMENT = "/etc/infbox/staging/compose/caddy.yml"
COMPOSE = f"docker compose --project-name caddy-test --file {FRAGMENT}"
ROOT_CERTIFICATE = "/var/lib/infbox/caddy/caddy/pki/authorities/local/root.crt"
NAME = "caddy-test-caddy-1"
AUTHORITY = "stub-authority"
ALICE, BOB = "sk-infbox-of-alice", "sk-infbox-of-bob"
HASTY = "sk-infbox-of-somebody-hasty"
LOGIN = "Basic YWxpY2U6c2staW5mYm94LW9mLWFsaWNl"  # alice and her key

INFERENCE = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages",
    "/v1/messages/count_tokens", "/v1/embeddings",
)  # fmt: skip
LISTS = (
    "/v1/models", "/v1/models/coder", "/v1/models/coder@shop", "/v1/models/coder%40shop",
    "/v1/models/Qwen/Qwen2.5-Coder", "/v1/models/Qwen%2FQwen2.5-Coder", "/v1/workspaces",
    "/v1/workspaces/shop/status",
)  # fmt: skip
PAGE = ("/", "/status", "/status/events", "/status/page.css")
ALLOWED = [("POST", path) for path in INFERENCE] + [("GET", path) for path in LISTS]
ALLOWED += [(method, path) for method in ("GET", "POST") for path in ("/mcp", "/mcp/shop")]
FORBIDDEN = [
    *(("GET", path) for path in (
        "/metrics", "/docs", "/openapi.json", "/version", "/load", "/ping",
        "//", "/index.html", "/status/", "/STATUS", "/status/page.css.map", "/status/../metrics",
        "/status/..%2fmetrics", "/status//events", "/statusx", "/?x=1",
        "/v1", "/v1/", "/v2/models", "/v1/models/", "/v1/models//coder", "/v1/workspaces/",
        # One path to one server, another one to the next.
        "//metrics", "//v1/models", "/v1//models", "/./v1/models", "/v1/../metrics",
        "/v1/%2e%2e/metrics", "/v1/..%2fmetrics", "/v1/models/../../metrics",
        "/v1/models/..%2f..%2fmetrics", "/v1/models/%2e%2e/%2e%2e/metrics", "/v1/models/.hidden",
        "/v1/models/..;/metrics", "/v1/models\\..\\..\\metrics", "/v1/models/a%00b", "/V1/models",
        "/v1/MODELS", "/v1/mode%6cs", "/%761/models", "/v1/models;/metrics", "/v1/models%20",
        "/mcp/", "/mcp//shop", "/mcp/.hidden", "/mcp/../metrics", "/mcp/shop/x",
        "/mcp%2fshop", "/MCP", "/mcpx",
        "/health/", "/healthz", "/HEALTH", "//health", "http://infbox.test/v1/models",
        # What only POST may, and what POST may not.
        *INFERENCE,
    )),
    *(("POST", path) for path in (
        "/invocations", "/tokenize", "/detokenize", "/reset_prefix_cache", "/sleep",
        "/v1/load_lora_adapter", "/v1/models", "/v1/chat/completions/", "/v1/chat//completions",
        "/v1/chat/../completions", "/v1/Chat/Completions", "/v1/score", "/v1/audio/transcriptions",
        "/pooling", "/rerank", "/inference/v1/generate", "/health", "/", "/status",
    )),
    *((method, "/v1/chat/completions") for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "post")),
]  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """An answer of Caddy's: ``content`` is its body, read as JSON where it is that."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Site:
    """The site as a client sees it, which trusts its authority and no other."""

    address: str
    certificate: str

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.certificate)

    def connect(self, name: str | None = "infbox.test", port: int = 443) -> ssl.SSLSocket:
        plain = socket.create_connection((self.address, port), timeout=20)
        return self.trust.wrap_socket(plain, server_hostname=name or self.address)

    def ask(
        self,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        name: str | None = "infbox.test",
        port: int = 443,
    ) -> Answer:
        given = {"Host": "infbox.test", "Connection": "close", **(headers or {})}
        if method == "POST" and "Content-Length" not in given:
            given["Content-Length"] = str(len(body))
        head = "".join(f"{key}: {value}\r\n" for key, value in given.items())
        with self.connect(name, port) as connection:
            connection.sendall(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body)
            answer = http.client.HTTPResponse(connection, method=method)
            answer.begin()
            fields = {key.lower(): value for key, value in answer.getheaders()}
            return Answer(answer.status, fields, answer.read())


@pytest.fixture(scope="module")
def site(host: Host) -> Iterator[Site]:
    host.check_output("ln -sfn /etc/infbox/staging /etc/infbox/live")
    up = host.run(f"{COMPOSE} up --detach --wait --wait-timeout 60")
    assert up.rc == 0, up.stderr + host.run(f"{COMPOSE} logs").stdout
    address = host.ansible.get_variables()["ansible_host"]
    certificate = wait_for(lambda: host.run(f"cat {ROOT_CERTIFICATE}").stdout)
    yield Site(address, certificate)
    print(host.run(f"{COMPOSE} logs --tail 100").stdout)


@pytest.fixture(scope="module")
def alice() -> dict[str, str]:
    return {"Authorization": f"Bearer {ALICE}"}


def test_certificates_are_caddy_s_alone(host: Host) -> None:
    assert modes(host, "/var/lib/infbox/caddy") == ("700", "64431", "64431")
    assert modes(host, "/etc/infbox") == modes(host, "/var/lib/infbox") == ("755", "0", "0")


@pytest.mark.usefixtures("site")
def test_the_container_has_no_more_rights_than_it_needs(host: Host) -> None:
    inspected = json.loads(host.check_output("docker inspect caddy-test-caddy-1"))[0]
    assert inspected["Config"]["User"] == "64431:64431"
    settings = inspected["HostConfig"]
    assert settings["ReadonlyRootfs"]
    assert settings["CapDrop"] == ["ALL"]
    assert [name.removeprefix("CAP_") for name in settings["CapAdd"]] == ["NET_BIND_SERVICE"]
    assert host.check_output("docker exec caddy-test-caddy-1 id -u") == "64431"


@pytest.mark.usefixtures("site")
def test_only_three_ports_are_open_and_no_admin_endpoint(host: Host) -> None:
    listening = host.check_output("ss --listening --tcp --udp --numeric --processes --no-header")
    ours = {line.split()[4] for line in listening.splitlines() if '"caddy"' in line}
    assert ours == {"*:80", "*:443", "*:8443", "127.0.0.1:2019"}
    config = "import urllib.request as r; r.urlopen('http://127.0.0.1:2019/config/')"
    assert "infbox.test" not in host.run("python3 -c %s", config).stdout


@pytest.mark.parametrize(("method", "path"), ALLOWED)
def test_an_allowed_path_reaches_the_first_upstream_as_it_is(
    site: Site, alice: dict[str, str], method: str, path: str
) -> None:
    for target in (path, f"{path}?limit=1"):
        seen = site.ask(method, target, alice, b"{}" if method == "POST" else b"").content
        assert (seen["port"], seen["method"], seen["target"]) == (8010, method, target)


@pytest.mark.parametrize(("method", "path"), ALLOWED)
def test_an_allowed_path_asks_for_a_key(site: Site, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer sk-infbox-wrong"}, {"X-Api-Key": ""}):
        answer = site.ask(method, path, headers)
        assert answer.status == 401
        assert answer.headers["content-type"] == "application/json"
        assert answer.content["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(("method", "target"), FORBIDDEN)
def test_everything_else_is_404_with_and_without_a_key(
    site: Site, alice: dict[str, str], method: str, target: str
) -> None:
    for headers in (alice, {}):
        answer = site.ask(method, target, headers)
        assert answer.status == 404
        kind, value = "code", "not_found"
        if target.startswith("/v1/messages"):
            kind, value = "type", "not_found_error"
        assert method == "HEAD" or answer.content["error"][kind] == value


@pytest.mark.parametrize(
    ("method", "target", "said"),
    [
        ("POST", "/v1/v1/chat/completions", "has /v1 twice"),
        ("POST", "/chat/completions", "lacks /v1"),
        ("GET", "/models", "lacks /v1"),
        ("POST", "/v1/chat/completions/", "slash at the end"),
        ("POST", "/v1/messages/", "slash at the end"),
        ("GET", "/v1/responses", "takes POST"),
        ("GET", "/v1/messages", "takes POST"),
        ("POST", "/v1/messages/batches", "nothing at this path"),
    ],
)
def test_a_path_that_is_a_little_wrong_is_told_what(
    site: Site, alice: dict[str, str], method: str, target: str, said: str
) -> None:
    answer = site.ask(method, target, alice)
    assert answer.status == 404
    assert said in answer.content["error"]["message"]
    is_anthropic_s = answer.content.get("type") == "error"
    assert is_anthropic_s == target.startswith("/v1/messages")


def test_who_looks_whether_anybody_is_there_is_told_so(site: Site) -> None:
    """As Claude Code does before its first question."""
    answer = site.ask("HEAD", "/")
    assert (answer.status, answer.body) == (200, b"")


def test_a_host_header_that_is_not_ours_is_404(site: Site, alice: dict[str, str]) -> None:
    answer = site.ask("GET", "/v1/models", {**alice, "Host": "other.test"})
    assert (answer.status, answer.content["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("form", ["Authorization: Bearer {}", "x-api-key: {}", "api-key: {}"])
def test_a_key_may_come_in_any_way_and_tells_who_asks(site: Site, form: str) -> None:
    name, value = form.format(BOB).split(": ", 1)
    seen = site.ask("GET", "/v1/models", {name: value}).content["headers"]
    assert not {"authorization", "x-api-key", "api-key"} & seen.keys()
    assert (seen["x-infbox-user"], seen["x-infbox-concurrent"]) == ("bob", "7")
    assert seen["x-infbox-workspaces"] == "shop,web*"


def test_the_authority_is_asked_about_the_path_and_not_for_the_cookies_and_the_body(
    host: Host, site: Site, alice: dict[str, str]
) -> None:
    site.ask("POST", "/v1/completions", {**alice, "Cookie": "session=1"}, b"{}")
    journal = host.check_output(f"journalctl --unit={AUTHORITY} --output=cat --no-pager")
    asked = json.loads([said for said in journal.splitlines() if said.startswith("{")][-1])
    assert asked["path"] == "/authorize"
    assert "x-forwarded-uri" in asked["names"]
    assert not {"cookie", "content-length", "transfer-encoding"} & set(asked["names"])


def test_what_the_authority_refuses_is_told_as_it_says(site: Site) -> None:
    answer = site.ask("POST", "/v1/completions", {"X-Api-Key": HASTY}, b"{}")
    assert (answer.status, answer.headers["retry-after"]) == (429, "9")
    assert answer.content["error"]["code"] == "rate_limit_exceeded"


# One that hangs still takes connections, and costs five seconds each.
@pytest.mark.parametrize("away", ["stopped", "hung"])
def test_nobody_is_let_in_while_nobody_says_who_asks(
    host: Host, site: Site, alice: dict[str, str], away: str
) -> None:
    hangs = away == "hung"
    host.check_output(f"systemctl {'kill --signal=STOP' if hangs else 'stop'} {AUTHORITY}")
    try:
        for headers in (alice,) if hangs else (alice, {}, {"X-Infbox-User": "alice"}):
            for method, path in (("GET", "/v1/models"), ("POST", "/v1/messages")):
                assert_it_may_try_again(site.ask(method, path, headers, b"{}"), path)
        assert site.ask("GET", "/health").status == 200
    finally:
        host.check_output(f"systemctl {'kill --signal=CONT' if hangs else 'start'} {AUTHORITY}")
    assert wait_for(lambda: site.ask("GET", "/v1/models", alice).status == 200)


def assert_it_may_try_again(answer: Answer, path: str) -> None:
    """See that a client is told when to try again, in the form of the API that it speaks."""
    assert (answer.status, answer.headers["retry-after"]) == (503, "10")
    assert answer.headers["content-type"] == "application/json"
    assert "x-infbox-bypassed" not in answer.headers
    error = answer.content["error"]
    assert error["message"].endswith("Try again in 10 s.")
    if path.startswith("/v1/messages"):
        assert (answer.content["type"], error["type"]) == ("error", "api_error")
    else:
        assert (error["type"], error["code"]) == ("server_error", "unavailable")


def test_neither_key_nor_cookie_nor_a_claimed_name_goes_upstream(
    site: Site, alice: dict[str, str]
) -> None:
    secret = alice["Authorization"].split()[1]
    claims = {
        "X-Api-Key": secret, "Cookie": "session=1", "X-Infbox-User": "root",
        "X-Infbox-Concurrent": "1000", "X-Infbox-Workspaces": "*",
        "X-Infbox-Limits": "tokens_per_day=999", "X-Infbox-Account": "root",
    }  # fmt: skip
    seen = site.ask("GET", "/v1/models", {**alice, **claims}).content["headers"]
    assert (seen["x-infbox-user"], seen["x-infbox-concurrent"]) == ("alice", "7")
    assert seen["x-infbox-workspaces"] == "shop,web*"
    assert seen["x-infbox-limits"] == "tokens_per_day=5"
    assert "x-infbox-account" not in seen
    assert not {"authorization", "x-api-key", "cookie"} & seen.keys()
    assert secret not in json.dumps(seen)


@pytest.mark.parametrize("case", [str.lower, str.title])
def test_a_client_cannot_have_taken_off_what_caddy_says_of_it(
    site: Site, alice: dict[str, str], case: Callable[[str], str]
) -> None:
    ours = case("x-infbox-user, x-infbox-concurrent, x-infbox-workspaces, x-infbox-limits")
    listed = {"Connection": f"close, {ours}"}
    seen = site.ask("GET", "/v1/models", {**alice, **listed}).content["headers"]
    assert seen["x-infbox-workspaces"] == "shop,web*"
    assert (seen["x-infbox-user"], seen["x-infbox-concurrent"]) == ("alice", "7")
    assert "connection" not in seen or "infbox" not in seen["connection"].lower()


def test_nor_can_it_over_http_2(site: Site) -> None:
    fields = {
        ":method": "GET", ":scheme": "https", ":authority": "infbox.test", ":path": "/v1/models",
        "authorization": f"Bearer {ALICE}",
    }  # fmt: skip
    seen = json.loads(ask_by_http_2(site, fields))["headers"]
    assert (seen["x-infbox-user"], seen["x-infbox-concurrent"]) == ("alice", "7")
    listed = {"connection": "x-infbox-user, x-infbox-concurrent"}
    assert b"headers" not in ask_by_http_2(site, fields | listed), "refused, as the RFC wants it"


def ask_by_http_2(site: Site, fields: dict[str, str]) -> bytes:
    """Return the body of an answer over HTTP/2, written by hand since clients refuse such fields.

    Frames: RFC 9113, section 4.1; fields as literals that are not indexed: RFC 7541, 6.2.2.
    """

    def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
        return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload

    words = [word.encode() for field in fields.items() for word in field]
    literals = [bytes([len(word)]) + word for word in words]
    block = b"".join(b"\0" + a + b for a, b in zip(literals[::2], literals[1::2], strict=True))
    trust = site.trust
    trust.set_alpn_protocols(["h2"])
    plain = socket.create_connection((site.address, 443), timeout=20)
    body = b""
    with trust.wrap_socket(plain, server_hostname="infbox.test") as connection:
        assert connection.selected_alpn_protocol() == "h2"
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        connection.sendall(preface + frame(4, 0, 0) + frame(1, 0b101, 1, block))
        stream = connection.makefile("rb")
        while head := stream.read(9):
            payload = stream.read(int.from_bytes(head[:3]))
            body += payload if head[3] == 0 else b""
            has_ended = head[3] in (3, 7) or (head[3] in (0, 1) and head[4] & 1)
            if has_ended:
                break
    return body


@pytest.mark.parametrize("path", PAGE)
def test_the_status_page_asks_a_browser_to_log_in(site: Site, path: str) -> None:
    for headers in ({}, {"Authorization": "Basic eDp5"}, {"X-Infbox-User": "alice"}):
        answer = site.ask("GET", path, headers)
        assert (answer.status, answer.headers["www-authenticate"][:6]) == (401, "Basic ")
    claims = {"X-Infbox-Account": "bob", "X-Infbox-Limits": "tokens_per_day=999"}
    answer = site.ask("GET", path, {"Authorization": LOGIN, "Cookie": "session=1", **claims})
    assert (answer.content["port"], answer.content["target"]) == (8010, path)
    seen = answer.content["headers"]
    assert (seen["x-infbox-user"], seen["x-infbox-workspaces"]) == ("alice", "shop,web*")
    assert (seen["x-infbox-account"], seen["x-infbox-limits"]) == ("alice", "tokens_per_day=5")
    assert not {"authorization", "cookie"} & seen.keys()
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_login_opens_nothing_but_the_page(site: Site) -> None:
    for method, path in ALLOWED:
        assert site.ask(method, path, {"Authorization": LOGIN}, b"{}").status == 401


def test_a_page_whose_gateway_is_away_says_so_and_comes_back(host: Host, site: Site) -> None:
    host.check_output("systemctl stop echo-upstream@8010")
    try:
        answer = site.ask("GET", "/", {"Authorization": LOGIN})
        assert answer.status == 502
        assert b"systemctl status infbox-gateway" in answer.body
        assert answer.headers["refresh"] == "5"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    finally:
        host.check_output("systemctl start echo-upstream@8010")
    assert wait_for(lambda: site.ask("GET", "/", {"Authorization": LOGIN}).status == 200)


def test_health_says_a_status_and_nothing_else(site: Site) -> None:
    answer = site.ask("GET", "/health")
    assert (answer.status, answer.body) == (200, b"")
    assert "echo-upstream" not in str(answer.headers)


@pytest.mark.parametrize("target", ["/v1/models", "/metrics"])
def test_every_answer_has_the_security_headers_and_no_server(
    site: Site, alice: dict[str, str], target: str
) -> None:
    for headers in (alice, {}):
        fields = site.ask("GET", target, headers).headers
        assert fields["strict-transport-security"] == "max-age=31536000"
        assert fields["x-content-type-options"] == "nosniff"
        assert fields["x-frame-options"] == "DENY"
        assert fields["referrer-policy"] == "no-referrer"
        assert not {"server", "via"} & fields.keys()


def test_the_certificate_holds_for_the_name_and_the_address(site: Site) -> None:
    with site.connect("infbox.test") as by_name, site.connect(None) as by_address:
        assert by_name.version() == by_address.version() == "TLSv1.3"


@pytest.mark.usefixtures("site")
def test_a_client_that_sends_no_name_gets_the_first_one_s_certificate(host: Host) -> None:
    # By an address that is in no certificate, as behind a translation of addresses.
    script = (
        "import socket,ssl,sys\n"
        "trust = ssl.create_default_context(cadata=sys.stdin.read())\n"
        "trust.check_hostname = False\n"
        "with trust.wrap_socket(socket.create_connection(('127.0.0.1', 443))) as connection:\n"
        "    print(connection.getpeercert()['subjectAltName'])\n"
    )
    names = host.check_output(f"python3 -c %s < {ROOT_CERTIFICATE}", script)
    assert names == "(('DNS', 'infbox.test'),)"


def test_another_name_gets_no_certificate(site: Site) -> None:
    with pytest.raises(ssl.SSLError, match="alert"):
        site.connect("other.test")


def test_a_page_is_on_a_port_of_its_own_and_asks_for_a_login_itself(site: Site) -> None:
    headers = {"Authorization": "Basic bG9naW4=", "X-Infbox-User": "root"}
    seen = site.ask("GET", "/pages/one?x=1", headers, port=8443)
    assert (seen.content["port"], seen.content["target"]) == (8000, "/pages/one?x=1")
    assert seen.content["headers"]["authorization"] == headers["Authorization"]
    assert seen.headers["x-frame-options"] == "SAMEORIGIN"


@pytest.mark.parametrize(("port", "path"), [(443, "/pages/one"), (8443, "/v1/models"), (8443, "/")])
def test_neither_port_has_what_is_the_other_s(
    site: Site, alice: dict[str, str], port: int, path: str
) -> None:
    answer = site.ask("GET", path, alice, port=port)
    assert (answer.status, answer.content["error"]["code"]) == (404, "not_found")


@pytest.mark.usefixtures("site")
def test_metrics_are_on_loopback(host: Host) -> None:
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:2019/metrics').read().decode())"
    assert "caddy_http_requests_total{" in host.check_output("python3 -c %s", ask)


def test_http_redirects_to_https(site: Site) -> None:
    client = http.client.HTTPConnection(site.address, 80, timeout=10)
    client.request("GET", "/v1/models?x=1", headers={"Host": "infbox.test"})
    answer = client.getresponse()
    assert (answer.status, answer.headers["Location"]) == (308, "https://infbox.test/v1/models?x=1")
    assert answer.headers["Server"] is None


def test_tokens_go_out_as_they_come_in(site: Site, alice: dict[str, str]) -> None:
    request = "POST /v1/completions?stream HTTP/1.1\r\nHost: infbox.test\r\nContent-Length: 0\r\n"
    with site.connect() as connection:
        connection.sendall(f"{request}Authorization: {alice['Authorization']}\r\n\r\n".encode())
        arrived: dict[str, float] = {}
        text = b""
        while b"second" not in text:
            text += connection.recv(4096)
            arrived.setdefault("second" if b"second" in text else "first", time.monotonic())
    assert arrived["second"] - arrived["first"] > 0.3


def test_nobody_computes_for_a_client_that_is_gone(
    host: Host, site: Site, alice: dict[str, str]
) -> None:
    def told() -> list[str]:
        journal = "journalctl --unit=echo-upstream@8010 --output=cat --no-pager"
        return [line for line in host.check_output(journal).splitlines() if "the client" in line]

    before = len(told())
    head = "POST /v1/completions?think HTTP/1.1\r\nHost: infbox.test\r\nContent-Length: 2\r\n"
    with site.connect() as connection:
        connection.sendall(f"{head}Authorization: {alice['Authorization']}\r\n\r\n{{}}".encode())
        time.sleep(0.5)
    assert wait_for(lambda: len(told()) > before, seconds=15)
    assert told()[-1] == "the client is gone"


def test_a_request_that_is_too_large_is_refused(site: Site, alice: dict[str, str]) -> None:
    fits = site.ask("POST", "/v1/completions", alice, b"x" * 900_000)
    assert fits.content["size"] == 900_000
    # Refused by what it says of itself, before its body is read.
    refused = site.ask("POST", "/v1/completions", {**alice, "Content-Length": "1100000"})
    assert (refused.status, refused.content["error"]["code"]) == (413, "too_large")
    refused = site.ask("POST", "/v1/messages", {**alice, "Content-Length": "1100000"})
    assert (refused.status, refused.content["error"]["type"]) == (413, "request_too_large")


def test_the_second_upstream_answers_only_while_the_first_does_not_and_that_is_said(
    host: Host, site: Site, alice: dict[str, str]
) -> None:
    def port(method: str, target: str) -> Any:
        answer = site.ask(method, target, alice)
        said = answer.headers.get("x-infbox-bypassed")
        assert said == ("gateway" if answer.body.startswith(b'{"port": 8000') else None)
        assert "x-infbox-nothing" not in answer.headers
        return answer.content["port"] if answer.status == 200 else answer.status

    host.check_output("systemctl stop echo-upstream@8010")
    assert site.ask("GET", "/health").status == 200
    assert [port("GET", "/v1/models") for _ in range(5)] == [8000] * 5
    # Caddy 2.6 lets requests with a body fail until it has noticed.
    assert wait_for(lambda: port("POST", "/v1/chat/completions") == 8000, seconds=15)
    host.check_output("systemctl start echo-upstream@8010")
    assert wait_for(lambda: port("POST", "/v1/chat/completions") == 8010, seconds=15)


def test_a_client_that_breaks_off_costs_nobody_the_first_upstream(
    site: Site, alice: dict[str, str]
) -> None:
    head = "POST /v1/completions HTTP/1.1\r\nHost: infbox.test\r\nContent-Length: 500000\r\n"
    for _ in range(3):
        with site.connect() as connection:
            connection.sendall(f"{head}Authorization: {alice['Authorization']}\r\n\r\n".encode())
            connection.sendall(b"x" * 100_000)
            time.sleep(0.2)
        time.sleep(0.2)
        assert site.ask("GET", "/v1/models", alice).content["port"] == 8010


def test_without_any_upstream_the_error_is_in_the_api_s_form(
    host: Host, site: Site, alice: dict[str, str]
) -> None:
    host.check_output("systemctl stop echo-upstream@8010 echo-upstream@8000")
    try:
        for path in ("/v1/chat/completions", "/v1/messages"):
            assert_it_may_try_again(site.ask("POST", path, alice, b"{}"), path)
        health = site.ask("GET", "/health")
        assert health.status in (502, 503)
    finally:
        host.check_output("systemctl start echo-upstream@8010 echo-upstream@8000")


@pytest.mark.usefixtures("site")
def test_a_caddy_that_hangs_does_not_pass_its_health_check(host: Host) -> None:
    told = json.loads(host.check_output(f"docker inspect {NAME}"))[0]
    check = f"timeout 5 docker exec {NAME} sh -c %s"
    (_, command) = told["Config"]["Healthcheck"]["Test"]
    assert host.run(check, command).rc == 0
    # It still takes connections.
    host.check_output(f"kill -STOP {told['State']['Pid']}")
    try:
        assert host.run(check, command).rc != 0
    finally:
        host.check_output(f"kill -CONT {told['State']['Pid']}")
    assert host.run(check, command).rc == 0


def test_the_log_has_the_user_and_no_key(host: Host, site: Site, alice: dict[str, str]) -> None:
    secret = alice["Authorization"].split()[1]
    site.ask("GET", f"/v1/models?api_key={secret}", alice)
    site.ask("GET", f"/v1/models/{'x' * 40}", {"X-Api-Key": secret, "Cookie": "session=cookie"})
    site.ask("GET", "/nowhere", {"X-Infbox-User": "claimed"})
    site.ask("GET", "/v1/models", {"X-Infbox-User": "claimed"})
    log = host.check_output(f"{COMPOSE} logs --no-log-prefix")
    assert '"uri":"/v1/models"' in log
    assert '"user_id":"alice"' in log
    for word in (secret, BOB, "session=cookie", "sk-infbox-wrong", '"user_id":"claimed"'):
        assert word not in log


def modes(host: Host, path: str) -> tuple[str, ...]:
    """Return mode, user and group of a path, as numbers."""
    return tuple(host.check_output(f"stat --format '%a %u %g' {path}").split())


def wait_for(condition: Any, seconds: float = 10) -> Any:
    """Return what `condition` returns once that is true, or after some seconds."""
    deadline = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(0.3)
    return result
