"""Lets people in whom an OpenID Connect provider knows: Caddy asks here about their requests.

Nothing is kept of somebody who is on the way to the provider and back: what must be known then is
in a cookie that only this process can read. Who is signed in is kept here alone.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import re
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

from cryptography.fernet import Fernet, InvalidToken
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from infbox import grants
from infbox.auth import told_limits
from infbox.auth.oidc import AwayError, Provider, RefusedError
from infbox.auth.sessions import Person, Sessions
from infbox.log import line
from infbox.runtime.serve import lasting, server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from infbox.config import SignIn

# `__Host-`: browsers take it from this host only, over TLS only, and send it to no other.
SESSION_COOKIE = "__Host-infbox-session"
WAY_COOKIE = "__Host-infbox-sign-in"

_WAY_SECONDS = 600
_IDLE_SECONDS = 60  # longer than Caddy keeps its connections to us
_GRACE_SECONDS = 5
_LONGEST_TARGET = 2000
_LONGEST_NAME = 128
_LONGEST_LABEL = 32
_ID_DIGITS = 12
_QUESTIONS_AT_ONCE = 2  # of one person

_FOUND, _SEE_OTHER = 302, 303
_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _UNAVAILABLE = 400, 401, 403, 503

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1.5rem;"
    "color:#1d2126;background:#fff}h1{font-size:1.4rem;line-height:1.25}a{color:#0b5cad}"
    "button{font:inherit;padding:.5rem 1rem}"
    "@media(prefers-color-scheme:dark){body{color:#e4e7ea;background:#14171a}a{color:#7ab8f5}}"
)
_STYLE_DIGEST = base64.b64encode(sha256(_STYLE.encode()).digest()).decode()
_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark"><title>{title} - infbox</title>'
    "<style>{style}</style></head><body><main><h1>{title}</h1>{body}</main></body></html>"
)
_HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_NOT_KEPT = {"cache-control": "no-store"}

_logger = logging.getLogger(__name__)


def run(settings: SignIn, secret: str) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: of the sign-in.
        secret: the client's, that the provider knows it by.

    Raises:
        InputError: the address cannot be had.
    """
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request
    listener = lasting(settings.listen, "listen")
    _logger.info(line("ready", listen=settings.listen, issuer=settings.issuer))
    sessions = Sessions(settings.session_seconds, settings.idle_seconds)
    sign_in = SignInApp(settings, Provider(settings, secret), sessions)
    serving = server(sign_in.app(), idle_seconds=_IDLE_SECONDS, grace_seconds=_GRACE_SECONDS)
    serving.run(sockets=[listener])


class _Way(NamedTuple):
    """What must be known when a browser comes back."""

    state: str
    nonce: str
    verifier: str
    target: str


class SignInApp:
    """Signs people in and out, and says who is signed in.

    Args:
        settings: of the sign-in.
        provider: who knows them.
        sessions: who is signed in.
    """

    def __init__(self, settings: SignIn, provider: Provider, sessions: Sessions) -> None:
        self._settings = settings
        self._provider = provider
        self._sessions = sessions
        self._seal = Fernet(Fernet.generate_key())
        self._registry = CollectorRegistry()
        self._results = Counter(
            "infbox_sign_ins",
            "Sign-ins, by result.",
            ("result",),
            registry=self._registry,
        )
        signed_in = Gauge(
            "infbox_sessions", "Sessions of signed-in users.", registry=self._registry
        )
        signed_in.set_function(lambda: len(self._sessions))

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/check", self._check, methods=["GET"]),
                Route("/check-question", self._check_question, methods=["GET"]),
                Route("/sign-in", self._send, methods=["GET"]),
                Route("/sign-in/callback", self._take_back, methods=["GET"]),
                Route("/sign-out", self._offer_sign_out, methods=["GET"]),
                Route("/sign-out", self._sign_out, methods=["POST"]),
                Route("/metrics", self._show_metrics, methods=["GET"]),
            ]
        )

    async def _check(self, request: Request) -> Response:
        """Answer 200 with who asks, or send a browser to sign in; 401 to what is no page."""
        person = self._sessions.person(request.cookies.get(SESSION_COOKIE, ""))
        if person is not None:
            headers = {"x-infbox-user": person.name, told_limits.ACCOUNT: person.account}
            return Response(headers={**headers, **_may(person)})
        if not _is_navigation(request):
            error = {"error": "Sign in, or send an API key."}
            return JSONResponse(error, _UNAUTHORIZED, _NOT_KEPT)
        target = quote(request.headers.get("x-forwarded-uri", "/"), safe="")
        there = f"{self._settings.origin}/sign-in?to={target}"
        return RedirectResponse(there, _FOUND, _NOT_KEPT)

    async def _check_question(self, request: Request) -> Response:
        """Answer 200 with who asks on the status page; 403 to what another page has sent.

        A browser sets both headers itself, and sends the cookie for pages on other ports too.
        """
        origins, sites = (request.headers.getlist(name) for name in ("origin", "sec-fetch-site"))
        if origins != [self._settings.origin] or sites != ["same-origin"]:
            return _no_question("Only the status page itself may send requests here.", _FORBIDDEN)
        person = self._sessions.person(request.cookies.get(SESSION_COOKIE, ""))
        if person is None:
            return _no_question("Sign in, or send an API key to /v1.", _UNAUTHORIZED)
        headers = {
            "x-infbox-user": person.account,
            "x-infbox-concurrent": str(_QUESTIONS_AT_ONCE),
            **_may(person),
        }
        return Response(headers=headers)

    async def _send(self, request: Request) -> Response:
        """Send a browser to the provider."""
        target = request.query_params.get("to", "/")
        target = target if self._address(target) else "/"
        try:
            asked = await self._provider.ask(anew="anew" in request.query_params)
        except AwayError as error:
            return self._away(error, target)
        way = _Way(asked.state, asked.nonce, asked.verifier, target)
        answer = RedirectResponse(asked.url, _FOUND, _NOT_KEPT)
        sealed = self._seal.encrypt(json.dumps(way).encode()).decode()
        _set_cookie(answer, WAY_COOKIE, sealed, max_age=_WAY_SECONDS)
        return answer

    async def _take_back(self, request: Request) -> Response:
        """Sign in whom the provider sent back, or say why not."""
        way = self._way(request)
        answer = await self._signed_in(request, way) if way else self._lost()
        _set_cookie(answer, WAY_COOKIE, "", max_age=0)
        return answer

    async def _signed_in(self, request: Request, way: _Way) -> Response:
        given = request.query_params
        try:
            self._provider.check_issuer(given.get("iss"))
            if "code" not in given:
                return self._turned_down(given.get("error", ""), way.target)
            claims = await self._provider.claims(given["code"], way.nonce, way.verifier)
            account = _account(self._settings.issuer, claims)
        except AwayError as error:
            return self._away(error, way.target)
        except RefusedError as error:
            return self._refused(error, way.target)
        user = _name(claims)
        if not self._is_allowed(claims):
            return self._not_in_group(user, way.target)
        self._sessions.end(request.cookies.get(SESSION_COOKIE, ""))
        self._note("signed_in", user=user)
        answer = RedirectResponse(self._address(way.target) or "/", _SEE_OTHER, _NOT_KEPT)
        person = Person(user, self._workspaces(claims), account, self._limits(claims))
        _set_cookie(answer, SESSION_COOKIE, self._sessions.begin(person))
        return answer

    async def _offer_sign_out(self, request: Request) -> Response:
        person = self._sessions.person(request.cookies.get(SESSION_COOKIE, ""))
        if person is None:
            return _page("You are not signed in", f"<p>{_link('Sign in')}</p>")
        form = '<form method="post" action="/sign-out"><button>Sign out</button></form>'
        return _page("Sign out?", f"<p>You are signed in as {html.escape(person.name)}.</p>{form}")

    async def _sign_out(self, request: Request) -> Response:
        """End the session here, so that its cookie is good for nothing, whoever has it."""
        if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return _page(
                "Sign-out refused", "<p>Another site requested to sign you out.</p>", _FORBIDDEN
            )
        person = self._sessions.end(request.cookies.get(SESSION_COOKIE, ""))
        if person is not None:
            _logger.info(line("signed-out", user=person.name))
        answer = _page("You are signed out", await self._after_sign_out())
        _set_cookie(answer, SESSION_COOKIE, "", max_age=0)
        return answer

    async def _after_sign_out(self) -> str:
        there = await self._provider.end_session_endpoint()
        again = f"<p>{_link('Sign in again')}</p>"
        if there is None:
            return again
        client = urlencode({"client_id": self._settings.client_id})
        there = html.escape(f"{there}{'&' if '?' in there else '?'}{client}")
        return (
            "<p>You are still signed in at the provider: signing in again may need no password. "
            f'<a href="{there}">Sign out there too</a>.</p>{again}'
        )

    async def _show_metrics(self, _request: Request) -> Response:
        page = generate_latest(self._registry)
        return Response(page, headers={"content-type": CONTENT_TYPE_LATEST})

    def _way(self, request: Request) -> _Way | None:
        """Return what this browser was sent out with; None where it was not sent by us."""
        try:
            sealed = request.cookies.get(WAY_COOKIE, "").encode()
            way = _Way(*json.loads(self._seal.decrypt(sealed, ttl=_WAY_SECONDS)))
        except InvalidToken:
            return None
        state = request.query_params.get("state", "")
        return way if compare_digest(way.state.encode(), state.encode()) else None

    def _address(self, target: str) -> str | None:
        """Return the address of a page of ours; None for anything else."""
        if len(target) > _LONGEST_TARGET or not re.fullmatch(r"/[!#-;=?-\[\]-~]*", target):
            return None
        for path, origin in self._settings.consoles.items():
            if re.match(rf"{re.escape(path)}(?:[/?]|$)", target):
                return f"{origin}{target}"
        is_ours = re.fullmatch(r"/(?:status(?:/[a-z.]+)?)?", target)
        return f"{self._settings.origin}{target}" if is_ours else None

    def _is_allowed(self, claims: Mapping[str, Any]) -> bool:
        claim = self._settings.groups_claim
        if claim == "email" and claims.get("email_verified") is not True:
            return False
        return not self._settings.groups.isdisjoint(self._groups(claims))

    def _workspaces(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the workspaces that somebody's groups give, or those of whoever has none that
        gives any."""
        given = self._settings.group_workspaces
        found = [given[group] for group in sorted(self._groups(claims) & given.keys())]
        if not found:
            return self._settings.workspaces
        return tuple(dict.fromkeys(pattern for patterns in found for pattern in patterns))

    def _limits(self, claims: Mapping[str, Any]) -> dict[str, int]:
        """Return the limits that somebody's groups give, the widest of each; 0 is any number."""
        given = self._settings.group_limits
        found: dict[str, list[int]] = {}
        for group in self._groups(claims) & given.keys():
            for name, most in given[group].items():
                found.setdefault(name, []).append(most)
        widest = {name: 0 if 0 in several else max(several) for name, several in found.items()}
        return {**widest, told_limits.AT_ONCE: _QUESTIONS_AT_ONCE}

    def _groups(self, claims: Mapping[str, Any]) -> set[str]:
        value = claims.get(self._settings.groups_claim)
        groups = value if isinstance(value, list) else [value]
        return {group for group in groups if isinstance(group, str)}

    def _note(self, result: str, **fields: object) -> None:
        self._results.labels(result).inc()
        _logger.info(line(result.replace("_", "-"), **fields))

    def _lost(self) -> HTMLResponse:
        self._note("lost")
        return _page(
            "Sign-in failed",
            "<p>This sign-in was started in another browser or more than ten minutes ago, or you "
            f"started another one after it.</p><p>{_link('Sign in')}</p>",
            _BAD_REQUEST,
        )

    def _turned_down(self, reason: str, target: str) -> HTMLResponse:
        known = reason if re.fullmatch(r"[a-z_]{1,40}", reason) else "no reason"
        self._note("turned_down", reason=known)
        return _page(
            "The provider refused the sign-in",
            f"<p>Its reason: {known}.</p><p>{_link('Try again', target)}</p>",
            _FORBIDDEN,
        )

    def _refused(self, error: RefusedError, target: str) -> HTMLResponse:
        self._note("refused", reason=error)
        return _page(
            "Sign-in failed",
            "<p>The provider's response is not valid. The journal of infbox-signin has the reason."
            f"</p><p>{_link('Try again', target)}</p>",
            _BAD_REQUEST,
        )

    def _not_in_group(self, user: str, target: str) -> HTMLResponse:
        self._note("not_in_group", user=user)
        return _page(
            "You are not in the group",
            f"<p>You are {html.escape(user)}, and in none of the groups that have access. Ask the "
            "administrator of the groups to add you, then sign in again.</p>"
            f"<p>{_link('Sign in as another user', target, anew=True)}</p>",
            _FORBIDDEN,
        )

    def _away(self, error: AwayError, target: str) -> HTMLResponse:
        self._note("away", reason=error)
        return _page(
            "The provider is not available",
            "<p>You cannot sign in now. The API does not need the provider, and a script can still "
            "read the status with an API key.</p>"
            f"<p>{_link('Try again', target)}</p>",
            _UNAVAILABLE,
        )


def _is_navigation(request: Request) -> bool:
    """Say whether a person waits for a page, and not a script of one for data."""
    if request.headers.get("x-forwarded-method", "GET") != "GET":
        return False
    mode = request.headers.get("sec-fetch-mode")
    if mode is not None:
        return mode == "navigate"
    return "text/html" in request.headers.get("accept", "")


def _name(claims: Mapping[str, Any]) -> str:
    """Return what to call somebody, in a page and in logs; no right hangs on it."""
    names = (claims.get(key) for key in ("preferred_username", "email", "sub"))
    name = next((name for name in names if isinstance(name, str) and name), "somebody")
    return re.sub(r"[^!-~]", "_", name)[:_LONGEST_NAME]


def _account(issuer: str, claims: Mapping[str, Any]) -> str:
    """Return what the gateway is to call somebody: like a user, with an end that no user's has, and
    like nobody else. Names may be chosen and given anew; issuer and subject stay one person's.

    Raises:
        RefusedError: there is no subject.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise RefusedError("the provider names no subject")
    known = re.sub(r"[^a-z0-9._-]", "-", _name(claims).lower()).lstrip("._-")
    own = sha256(f"{issuer}\0{subject}".encode()).hexdigest()[:_ID_DIGITS]
    return f"{known[: _LONGEST_LABEL - _ID_DIGITS - 1] or 'somebody'}-{own}@page"


def _may(person: Person) -> dict[str, str]:
    """Return the headers that say what a person may use."""
    return {
        grants.HEADER: grants.to_header(person.workspaces),
        told_limits.HEADER: told_limits.to_header(person.limits),
    }


def _no_question(message: str, status: int) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status, _NOT_KEPT)


def _link(text: str, target: str = "/", *, anew: bool = False) -> str:
    query = urlencode({"to": target, **({"anew": "1"} if anew else {})})
    return f'<a href="/sign-in?{html.escape(query)}">{text}</a>'


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    content = _PAGE.format(title=title, style=_STYLE, body=body)
    return HTMLResponse(content, status, _HEADERS)


def _set_cookie(answer: Response, name: str, value: str, max_age: int | None = None) -> None:
    """Set a cookie that no script reads; without an age it goes with the browser."""
    answer.set_cookie(
        name, value, max_age=max_age, path="/", secure=True, httponly=True, samesite="lax"
    )
