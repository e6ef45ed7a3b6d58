"""A record of who asked which workspace, when and at what cost. Never a word of what was asked.

A line of JSON on standard output for each request that a user sent, which systemd hands to the
journal. What clients choose freely, such as names of models, is in none.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from infbox.metrics import Usage

VERSION = 1
"""Of the form of a record."""

OTHER = "other"
"""Stands for all paths that nobody knows."""

_NOTES = "infbox.audit"  # in the scope of a request
_USER = b"x-infbox-user"
_MOST_USER = 128


def note(scope: Scope, **facts: object) -> None:
    """Note what a record is to say of a request, where there is to be one.

    Args:
        scope: of the request.
        facts: ``workspace``, the name that it gives; ``usage``, its tokens; ``is_elsewhere``, True
            where another host has it, which then records it.
    """
    notes = scope.get(_NOTES)
    if notes is not None:
        notes.update(facts)


class Audit:
    """Records the requests to an application: an ASGI application around it.

    Args:
        app: the application.
        workspaces: names of all; what else a request names is not recorded.
        paths: that are recorded as they are. Of others, what stands for a name is left out.
        left_out: paths that are not recorded.
        write: takes a record; by default it goes to standard output.
    """

    def __init__(
        self,
        app: ASGIApp,
        workspaces: Iterable[str],
        paths: Iterable[str],
        left_out: Iterable[str],
        write: Callable[[str], None] | None = None,
    ) -> None:
        self._app = app
        self._workspaces = frozenset(workspaces)
        self._paths = frozenset(paths)
        self._left_out = frozenset(left_out)
        self._write = write or _to_stdout()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        if scope["type"] != "http" or scope["path"] in self._left_out:
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        notes: dict[str, Any] = {"status": 0}
        scope[_NOTES] = notes

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                notes["status"] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            if not notes.get("is_elsewhere"):
                self._write(json.dumps(self._record(scope, notes, time.monotonic() - began)))

    def _record(self, scope: Scope, notes: Mapping[str, Any], seconds: float) -> dict[str, object]:
        params: Mapping[str, str] = scope.get("path_params", {})
        named = notes.get("workspace") or params.get("workspace") or params.get("name") or ""
        workspace = str(named).rpartition("@")[2]
        usage: Usage | None = notes.get("usage")
        now = datetime.now(timezone.utc)
        return {
            "audit": VERSION,
            "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "user": _user(scope),
            "workspace": workspace if workspace in self._workspaces else None,
            "method": scope["method"],
            "path": self._path(scope["path"], params),
            "status": notes["status"],
            "seconds": round(seconds, 3),
            "prompt_tokens": usage.prompt if usage else None,
            "cached_tokens": usage.cached if usage else None,
            "completion_tokens": usage.completion if usage else None,
        }

    def _path(self, path: str, params: Mapping[str, str]) -> str:
        if path in self._paths:
            return path
        for name, value in params.items():
            if value and path.count(value) == 1:
                path = path.replace(value, f"{{{name}}}")
        return path if path in self._paths else OTHER


def _user(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == _USER]
    return given[0].decode("latin-1")[:_MOST_USER] if given else ""


def _to_stdout() -> Callable[[str], None]:
    logger = logging.getLogger("infbox.audit.records")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stdout))
    return logger.info
