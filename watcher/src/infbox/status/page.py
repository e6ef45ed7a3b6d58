"""The status page: a page, what it is made of, and the status it shows, once and as events."""

from __future__ import annotations

import json
import time
from importlib import resources
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from infbox.status.sampler import MOST_VIEWERS, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Container

    from starlette.requests import Request

    from infbox.status.sampler import Sampler

FILES = {
    "/": ("index.html", "text/html"),
    "/status/page.css": ("page.css", "text/css"),
    "/status/page.js": ("page.js", "text/javascript"),
    "/status/ask.js": ("ask.js", "text/javascript"),
    "/status/usage.js": ("usage.js", "text/javascript"),
    "/status/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""What the page consists of, which everybody may read: file and type, by path."""
_HEADERS = {
    # Nothing but what comes from here, and no script or style within the page.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_NOT_KEPT = {"cache-control": "no-store"}
_BUSY = 503
_RECONNECT_MS = 2000
_LONGEST_SECONDS = 60.0
"""Whoever looks on for longer is let in anew, so that a login that has ended ends the page."""


class Page:
    """The page of one gateway.

    Args:
        sampler: knows the status.
        seen_by: returns the names of the workspaces that a request is shown.
        longest: seconds that one answer of events goes on; a browser then asks for the next.
    """

    def __init__(
        self,
        sampler: Sampler,
        seen_by: Callable[[Request], Container[str]],
        longest: float = _LONGEST_SECONDS,
    ) -> None:
        self._sampler = sampler
        self._seen_by = seen_by
        self._longest = longest
        self.is_ending: Callable[[], bool] = lambda: False
        """Whether the gateway is about to end, and with it all that follow."""

    def routes(self) -> list[Route]:
        """Return the routes of the application."""
        files = [Route(path, _file(*of), name=of[0], methods=["GET"]) for path, of in FILES.items()]
        return [
            *files,
            Route("/status", self._show, methods=["GET"]),
            Route("/status/events", self._follow, methods=["GET"]),
        ]

    async def _show(self, request: Request) -> Response:
        names = self._seen_by(request)
        return JSONResponse(shown(await self._sampler.fresh(), names), headers=_NOT_KEPT)

    async def _follow(self, request: Request) -> Response:
        names = self._seen_by(request)
        if not self._sampler.has_space():
            message = f"{MOST_VIEWERS} browsers follow the events already. Poll /status instead."
            return JSONResponse({"error": message}, _BUSY, {"retry-after": "10"})
        events = self._events(names)
        return StreamingResponse(events, media_type="text/event-stream", headers=_NOT_KEPT)

    async def _events(self, names: Container[str]) -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % _RECONNECT_MS
        ends = time.monotonic() + self._longest
        async for status in self._sampler.follow(
            lambda: self.is_ending() or time.monotonic() >= ends
        ):
            yield _event(shown(status, names))


def _event(status: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % json.dumps(status, separators=(",", ":")).encode()


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers with a file of the page, which is read once."""
    content = resources.files("infbox.status").joinpath("static").joinpath(name).read_bytes()

    async def answer(_request: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return answer
