"""A forge calls through the real Caddy, with the role's own Caddyfile, and its remote is polled."""

import contextlib
import hashlib
import hmac
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from forge import Work, forge
from infbox.config import Remote, Remotes
from infbox.remotes.service import MOST_CALL_BYTES, Service
from serving import ANY, free_port, serving, until

from tests.caddy.test_sign_in import caddy, rendered, wait_for

pytestmark = pytest.mark.lab

HOOK = "the-secret-of-the-hook"


@dataclass(frozen=True)
class Site:
    """A Caddy in front of what follows a remote.

    Attributes:
        url: of the site.
        trust: the authority of its certificate.
        work: the developer's clone.
        file: of the checkout.
    """

    url: str
    trust: ssl.SSLContext
    work: Work
    file: Path

    def says(self, text: str) -> bool:
        """Say whether the file has a text. Git takes a file away before it writes it anew."""
        with contextlib.suppress(FileNotFoundError):
            return self.file.read_text() == text
        return False

    def call(self, target: str = "/hooks/git/shop", body: bytes = b"{}", secret: str = HOOK) -> int:
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"X-Hub-Signature-256": f"sha256={signature}"}
        url = self.url + target
        answer = httpx2.post(url, content=body, headers=headers, verify=self.trust, timeout=30)
        return answer.status_code


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hooks")
    for name in ("forge", "checkouts", "secrets/shop"):
        (folder / name).mkdir(parents=True)
    (folder / "secrets/shop/webhook").write_text(f"{HOOK}\n")
    names = ("http", "https", "consoles", "keys", "signin", "page", "console")
    ports = {name: free_port() for name in names}
    with forge(folder / "forge") as place:
        work = place.repository(a_py="1\n")
        remotes = (Remote("shop", work.url, every=3600),)
        service = Service(Remotes(ANY, folder / "checkouts", folder / "secrets", 0, remotes))
        with service.following(), serving(service.app()) as inner:
            hooks = urlsplit(inner).netloc
            with caddy(folder, rendered(folder, ports, caddy_hooks=hooks)) as trust:
                url = f"https://localhost:{ports['https']}"
                wait_for(lambda: httpx2.get(url, verify=trust).status_code > 0)
                yield Site(url, trust, work, folder / "checkouts/shop/a.py")


def test_a_signed_call_has_the_remote_polled_now(site: Site) -> None:
    until(site.file.exists)
    for number in range(2, 4):
        site.work.push(a_py=f"{number}\n")
        assert site.call() == 202
        until(lambda: site.says(f"{number}\n"))  # noqa: B023  # waited for at once


def test_any_other_call_is_refused(site: Site) -> None:
    assert site.call(secret="another") == 401  # noqa: S106  # of nothing
    assert site.call("/hooks/git/tools") == 401
    assert site.call(body=b"x" * (MOST_CALL_BYTES + 2_000_000)) == 413
    assert site.call(body=b"x" * 1_000_000) == 202


@pytest.mark.parametrize(
    "target",
    ["/hooks/git/shop/", "/hooks/git/", "/hooks/git/../../status", "/hooks/git/..%2f..%2fstatus",
     "//hooks/git/shop", "/HOOKS/git/shop", "/hooks/git/%73hop", "/hooks/git/shop?x=1", "/metrics"],
)  # fmt: skip
def test_nothing_else_of_it_is_reached(site: Site, target: str) -> None:
    assert asked(site, "POST", target) == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "post"])
def test_a_call_is_a_post(site: Site, method: str) -> None:
    assert asked(site, method, "/hooks/git/shop") in (404, 400)


def asked(site: Site, method: str, target: str) -> int:
    """Ask for a target as it is written, which a client would tidy; return the status."""
    address = urlsplit(site.url)
    with (
        socket.create_connection((str(address.hostname), address.port or 0), timeout=20) as raw,
        site.trust.wrap_socket(raw, server_hostname="localhost") as link,
    ):
        signature = hmac.new(HOOK.encode(), b"", hashlib.sha256).hexdigest()
        link.sendall(
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Length: 0\r\nX-Hub-Signature-256: sha256={signature}\r\n\r\n".encode()
        )
        return int(link.recv(4096).split()[1])
