"""Tells Caddy which user a request is from, by its key, before Caddy forwards the request.

Requests per minute are counted here. Requests in progress and tokens are counted by the gateway,
which gets the user's limits in headers.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import secrets
from hashlib import sha256
from hmac import compare_digest
from hmac import digest as hmac
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infbox import grants
from infbox.auth import counts, keys, told_limits
from infbox.auth.counts import Limit, Refused
from infbox.auth.labels import digest
from infbox.auth.limiter import Limiter
from infbox.auth.shared_counts import SharedCounts
from infbox.errors import InputError
from infbox.log import line
from infbox.runtime.serve import lasting, server

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from infbox.auth.keys import User
    from infbox.config import Listen, SharedLimits

ANTHROPIC = "/v1/messages"
"""Where clients expect errors in Anthropic's form."""

_IDLE_SECONDS = 60  # longer than Caddy keeps its connections to us
_GRACE_SECONDS = 5
_BEARER = "bearer "
_BASIC = "basic "
_ASK_TO_LOG_IN = 'Basic realm="infbox", charset="UTF-8"'
_UNAUTHORIZED = 401
_TOO_MANY = 429

_logger = logging.getLogger(__name__)


def run(
    file: Path, listen: Listen, shared: SharedLimits | None = None, timeout: float = 1.0
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        file: as for ``KeyService``.
        listen: where.
        shared: where replicas count requests together; None to count here alone.
        timeout: seconds after which this host counts by itself.

    Raises:
        InputError: the address cannot be had.
    """
    listener = lasting(listen, "--listen")
    _logger.info(line("ready", listen=listen))
    limiter = Limiter(SharedCounts(shared, "keys", timeout) if shared else None)
    app = KeyService(file, limiter).app()
    serving = server(app, idle_seconds=_IDLE_SECONDS, grace_seconds=_GRACE_SECONDS)
    serving.run(sockets=[listener])


class KeyService:
    """Knows the users by their keys' digests.

    Args:
        file: of the digests; looked at with each request, and read when it is another.
        limiter: counts requests; one of its own where none is given.
    """

    def __init__(self, file: Path, limiter: Limiter | None = None) -> None:
        self._file = file
        self._limiter = limiter or Limiter()
        self._stamp: tuple[int, ...] | None = None
        # By digests that nobody else can work out: how long a look-up takes tells nothing of a key.
        self._blind = secrets.token_bytes(32)
        self._users: dict[bytes, User] = {}
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
            ],
            lifespan=lambda _app: self._limiter.running(),
        )

    async def _authorize(self, request: Request) -> Response:
        """Answer 200 with the user's name and limits, or refuse the request."""
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
        limit = Limit(counts.REQUESTS, user.limits.requests_per_minute)
        taken = await self._limiter.take(user.name, [limit])
        if isinstance(taken, Refused):
            self._requests.labels(user.name, "limited").inc()
            message = (
                f"{user.name} may send at most {limit.most} requests per minute. "
                f"Try again in {taken.seconds} s. Limit: {limit.name}."
            )
            headers = {"retry-after": str(taken.seconds)}
            return _refusal(request, _TOO_MANY, message, headers, limit=limit.name)
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
        return Response(headers={**_told_of(user), told_limits.ACCOUNT: user.name})

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


def _ended(user: User) -> tuple[str, str] | None:
    """Return what is counted and what the client is told where a key is no longer good."""
    if user.is_disabled:
        return "disabled", f"The API key of {user.key} is disabled."
    if user.is_over:
        return "expired", f"The API key of {user.key} expired on {user.last_day} (UTC)."
    return None


def _told_of(user: User) -> dict[str, str]:
    """Return the headers that say who asks, and what the user may use."""
    return {
        "x-infbox-user": user.name,
        grants.HEADER: grants.to_header(user.limits.workspaces),
        told_limits.HEADER: told_limits.to_header(user.limits.numbers),
    }


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
