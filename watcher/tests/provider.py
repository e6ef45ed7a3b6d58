"""A real OpenID Connect provider to sign in at, one that lies, and a browser to do it with."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener, urlopen

import oidc_provider_mock
from joserfc import jwt
from joserfc.jwk import RSAKey
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from serving import free_port, until


@contextlib.contextmanager
def provider() -> Iterator[str]:
    """Run a provider as a process of its own until the block is left; give its issuer."""
    port = free_port()
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    issuer = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(issuer), seconds=30)
        yield issuer
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urlopen(url, timeout=5):  # noqa: S310  # ours
        return True
    return False


def know(issuer: str, subject: str, **claims: Any) -> None:
    """Have a provider know somebody."""
    address = f"{issuer}/users/{subject}"
    headers = {"content-type": "application/json"}
    request = Request(address, json.dumps(claims).encode(), headers, method="PUT")  # noqa: S310  # ours
    with urlopen(request, timeout=10):  # noqa: S310  # ours
        pass


@dataclass
class Liar:
    """The same provider, whose tokens are changed on their way.

    Attributes:
        change: of the claims, before they are signed anew by a key of the liar's.
        header: of the token.
        userinfo: whose it is said to be, where it is not of whom it was asked about.
        publishes_key: whether the provider names that key for its own.
        token: replaces the token, whatever it was.
    """

    change: Callable[[dict[str, Any]], None] = lambda _claims: None
    header: dict[str, Any] = field(default_factory=lambda: {"alg": "RS256", "kid": "liar"})
    userinfo: str = ""
    publishes_key: bool = True
    token: Callable[[str], str] | None = None
    issuer: str = ""
    asked: dict[str, str] = field(default_factory=dict)
    """What the token was asked for with, last."""
    authorization: str = ""
    """Who asked for it."""
    _key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "liar"}))

    @contextlib.contextmanager
    def running(self, token_age: timedelta = timedelta(hours=1)) -> Iterator[Liar]:
        """Answer until the block is left."""
        os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # the provider's own; ours is not asked
        honest = oidc_provider_mock.app(access_token_max_age=token_age)
        server = make_server("127.0.0.1", 0, self._through(honest), threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        self.issuer = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def _through(self, honest: Any) -> Callable[..., Any]:
        def answer(environ: dict[str, Any], start: Any) -> Any:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
            response = Response.from_app(honest, environ)
            if environ["PATH_INFO"] == "/jwks" and self.publishes_key:
                response.set_data(json.dumps({"keys": [self._key.as_dict(private=False)]}))
            if environ["PATH_INFO"] == "/userinfo" and self.userinfo:
                told = {"sub": self.userinfo, "groups": ["coders"]}
                response.set_data(json.dumps(told))
            if environ["PATH_INFO"] == "/oauth2/token" and response.status_code == 200:
                self.authorization = environ.get("HTTP_AUTHORIZATION", "")
                self.asked = dict(parse_qsl(body.decode()))
                content = json.loads(response.get_data())
                content["id_token"] = self._forged(content["id_token"])
                response.set_data(json.dumps(content))
            return response(environ, start)

        return answer

    def _forged(self, token: str) -> str:
        if self.token:
            return self.token(token)
        claims = json.loads(_decoded(token.split(".")[1]))
        self.change(claims)
        return jwt.encode(self.header, claims, self._key)


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@dataclass
class Page:
    """What a browser was answered."""

    status: int
    headers: dict[str, str]
    text: str


class Browser:
    """Cookies, and no more than what they are needed for.

    Args:
        door: where the sign-in answers.
        origin: that browsers know it by.
    """

    def __init__(self, door: str, origin: str) -> None:
        self._door = door
        self._origin = origin
        self.cookies: dict[str, str] = {}
        self.told: dict[str, str] = {}
        """Each cookie as it was set last, with all it said."""

    def get(self, target: str, headers: Mapping[str, str] | None = None) -> Page:
        """Ask for a page of ours."""
        return self.ask("GET", target, headers)

    def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> Page:
        """Send a request to ours, and keep the cookies that come."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection = http.client.HTTPConnection(urlsplit(self._door).netloc, timeout=30)
        sent = {"Cookie": cookies, "Sec-Fetch-Mode": "navigate", **(headers or {})}
        connection.request(method, target, headers=sent)
        answer = connection.getresponse()
        for value in answer.headers.get_all("set-cookie") or []:
            for name, morsel in SimpleCookie(value).items():
                self.told[name] = value
                self.cookies[name] = morsel.value
                if morsel["max-age"] == "0":
                    del self.cookies[name]
        fields = {key.lower(): value for key, value in answer.getheaders()}
        page = Page(answer.status, fields, answer.read().decode())
        connection.close()
        return page

    def check(self, target: str = "/", **headers: str) -> Page:
        """Ask as Caddy does about a request of this browser."""
        return self.get("/check", {"X-Forwarded-Uri": target, **headers})

    def at_provider(self, url: str, subject: str, **form: str) -> str:
        """Log in at the provider; return the target with which it sends the browser back."""
        request = Request(url, urlencode({"sub": subject, **form}).encode())  # noqa: S310  # ours
        try:
            with build_opener(_Stay).open(request, timeout=10) as answer:
                raise AssertionError(f"no redirect: {answer.status} {answer.read()[:300]!r}")
        except _SentBackError as back:
            there = urlsplit(back.url)
            assert f"{there.scheme}://{there.netloc}" == self._origin
            return urlunsplit(("", "", there.path, there.query, ""))

    def sign_in(self, subject: str, to: str = "/") -> Page:
        """Go the whole way; return where it ends."""
        sent = self.get("/sign-in?" + urlencode({"to": to}))
        assert sent.status == 302, sent.text
        return self.get(self.at_provider(sent.headers["location"], subject))


class _SentBackError(Exception):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        raise _SentBackError(arguments[-1])


def changed(url: str, **query: str) -> str:
    """Return an address with some of its query changed."""
    parts = urlsplit(url)
    given = {key: values[0] for key, values in parse_qs(parts.query).items()}
    return urlunsplit(parts._replace(query=urlencode({**given, **query})))
