"""Says at the edge who asks, by the key of a request: Caddy asks here before it hands one on.

Only what begins is counted here. How many requests a user has under way is known to the gateway,
which is told how many he may have.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import secrets
from collections import deque
from hashlib import sha256
from hmac import compare_digest
from hmac import digest as hmac
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infbox import grants
from infbox.auth import keys
from infbox.auth.labels import digest
from infbox.errors import InputError
from infbox.log import line
from infbox.runtime.serve import lasting, server

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from infbox.auth.keys import User
    from infbox.config import Listen

ANTHROPIC = "/v1/messages"
"""Where clients expect errors in Anthropic's form."""

_WINDOW_SECONDS = 60.0
_IDLE_SECONDS = 60  # longer than Caddy keeps its connections to us
_GRACE_SECONDS = 5
_BEARER = "bearer "
_BASIC = "basic "
_ASK_TO_LOG_IN = 'Basic realm="infbox", charset="UTF-8"'
_PER_MINUTE = "requests_per_minute"
_UNAUTHORIZED = 401
_TOO_MANY = 429

_logger = logging.getLogger(__name__)


def run(file: Path, listen: Listen) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        InputError: the address cannot be had.
    """
    listener = lasting(listen, "--listen")
    _logger.info(line("ready", listen=listen))
    app = KeyService(file).app()
    serving = server(app, idle_seconds=_IDLE_SECONDS, grace_seconds=_GRACE_SECONDS)
    serving.run(sockets=[listener])


class KeyService:
    """Knows the users by their keys' digests.

    Args:
        file: of the digests; looked at with each request, and read when it is another.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp: tuple[int, ...] | None = None
        # By digests that nobody else can work out: how long a look-up takes tells nothing of a key.
        self._blind = secrets.token_bytes(32)
        self._users: dict[bytes, User] = {}
        self._began: dict[str, deque[float]] = {}
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "infbox_keys_requests",
            "Requests by user and by whether they may go on; the user is empty for unknown keys.",
            ("user", "result"),
            registry=self._registry,
        )

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/authorize", self._authorize),
                Route("/login", self._log_in),
                Route("/metrics", self._show_metrics),
            ]
        )

    async def _authorize(self, request: Request) -> Response:
        """Answer 200 with the user's name, or what the client is to be told."""
        user = self._user(_key(request))
        if user is None:
            self._requests.labels("", "unknown").inc()
            headers = {"www-authenticate": "Bearer"}
            return _refusal(request, _UNAUTHORIZED, "Incorrect or missing API key.", headers)
        if ended := _ended(user):
            result, message = ended
            self._requests.labels(user.name, result).inc()
            headers = {"www-authenticate": "Bearer"}
            return _refusal(request, _UNAUTHORIZED, message, headers)
        if wait := self._wait(user):
            self._requests.labels(user.name, "limited").inc()
            message = (
                f"{user.name} may send {user.limits.requests_per_minute} requests a minute. "
                f"Try again in {wait} s. Limit: {_PER_MINUTE}."
            )
            headers = {"retry-after": str(wait)}
            return _refusal(request, _TOO_MANY, message, headers, limit=_PER_MINUTE)
        self._requests.labels(user.name, "passed").inc()
        most = str(user.limits.concurrent_requests)
        return Response(headers={**_told_of(user), "x-infbox-concurrent": most})

    async def _log_in(self, request: Request) -> Response:
        """Answer 200 with the name of who wants to see the status page, or have a browser ask.

        A browser sends a user's name and key as name and password; a script may send the key as it
        does elsewhere. Looking is not counted against a user's requests.
        """
        name, key = _login(request)
        user = self._user(key or _key(request))
        is_other = key and user and not compare_digest(name.encode(), user.name.encode())
        if user is None or _ended(user) or is_other:
            self._requests.labels("", "unknown").inc()
            message = "Log in with a user's name, and with its key as the password.\n"
            return PlainTextResponse(message, _UNAUTHORIZED, {"www-authenticate": _ASK_TO_LOG_IN})
        return Response(headers=_told_of(user))

    async def _show_metrics(self, _request: Request) -> Response:
        page = generate_latest(self._registry)
        return Response(page, headers={"content-type": CONTENT_TYPE_LATEST})

    def _user(self, key: str) -> User | None:
        self._refresh()
        return self._users.get(self._blinded(digest(key))) if key else None

    def _blinded(self, known: str) -> bytes:
        return hmac(self._blind, known.encode(), sha256)

    def _refresh(self) -> None:
        """Read the file again if it is another. One that cannot be read changes nothing."""
        stamp: tuple[int, ...] = ()
        with contextlib.suppress(OSError):
            status = self._file.stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            users = keys.read(self._file)
        except InputError as error:
            _logger.error(line("keys-not-read", reason=error, hint="the known keys stay valid"))
            return
        self._users = {self._blinded(known): user for known, user in users.items()}
        _logger.info(
            line("keys-read", users=len({user.name for user in users.values()}), keys=len(users))
        )

    def _wait(self, user: User) -> int:
        """Count a request; return how many seconds too early it is."""
        most = user.limits.requests_per_minute
        if not most:
            return 0
        # By the monotonic clock: one that is set back would have a user wait for as long.
        now, began = monotonic(), self._began.setdefault(user.name, deque())
        while began and began[0] <= now - _WINDOW_SECONDS:
            began.popleft()
        if len(began) < most:
            began.append(now)
            return 0
        # With a limit that was lowered there are more than it allows.
        return max(ceil(began[-most] + _WINDOW_SECONDS - now), 1)


def _ended(user: User) -> tuple[str, str] | None:
    """Return what is counted and what the client is told where a key is no longer good."""
    if user.is_disabled:
        return "disabled", f"The API key of {user.key} is disabled."
    if user.is_over:
        return "expired", f"The API key of {user.key} expired on {user.last_day} (UTC)."
    return None


def _told_of(user: User) -> dict[str, str]:
    """Return the headers that say who asks, and which workspaces the user may use."""
    return {"x-infbox-user": user.name, grants.HEADER: grants.to_header(user.limits.workspaces)}


def _key(request: Request) -> str:
    """Return the one key of a request, or the empty string. OpenAI's clients send it as a bearer's,
    Anthropic's and Azure's in a header of their own; two that differ are none."""
    bearers = request.headers.getlist("authorization")
    found = {
        value[len(_BEARER) :].strip() if value.lower().startswith(_BEARER) else ""
        for value in bearers
    }
    for name in ("x-api-key", "api-key"):
        found |= {value.strip() for value in request.headers.getlist(name)}
    return found.pop() if len(found) == 1 else ""


def _login(request: Request) -> tuple[str, str]:
    """Return the name and the password of a browser's login; both are empty where there is none."""
    given = request.headers.getlist("authorization")
    if len(given) != 1 or not given[0].lower().startswith(_BASIC):
        return "", ""
    try:
        pair = base64.b64decode(given[0][len(_BASIC) :].strip(), validate=True).decode()
    except ValueError:
        return "", ""
    name, _, key = pair.partition(":")
    return name, key


def _refusal(
    request: Request, status: int, message: str, headers: dict[str, str], limit: str = ""
) -> JSONResponse:
    """Return a refusal as the API that was asked words it; `infbox` in it names the limit, if any,
    as the gateway does."""
    ours = {"infbox": {"limit": limit}} if limit else {}
    asked = request.headers.get("x-forwarded-uri", "")
    if asked.startswith(ANTHROPIC):
        kind = "authentication_error" if status == _UNAUTHORIZED else "rate_limit_error"
        content = {"type": "error", "error": {"type": kind, "message": message, **ours}}
        return JSONResponse(content, status, headers)
    code = "invalid_api_key" if status == _UNAUTHORIZED else "rate_limit_exceeded"
    kind = "invalid_request_error" if status == _UNAUTHORIZED else "requests"
    error = {"message": message, "type": kind, "param": None, "code": code, **ours}
    return JSONResponse({"error": error}, status, headers)
