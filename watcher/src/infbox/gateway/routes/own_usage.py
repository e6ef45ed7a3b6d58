"""What the person who looks at the page had, and may have."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infbox.auth import counts, told_limits
from infbox.auth.counts import Limit
from infbox.auth.usage import Counts
from infbox.gateway.connection import Incoming
from infbox.gateway.exchange import account_of, limits_of
from infbox.gateway.limit import computed

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from infbox.auth.limiter import Limiter
    from infbox.auth.usage import Daily

DAYS = 30
_COUNTED_HERE = (counts.TOKENS, counts.TOKENS_A_DAY)
_NOT_KEPT = {"cache-control": "no-store"}
_NO_CONTENT, _UNAVAILABLE = 204, 503


class OwnUsage:
    """The path of one's own usage.

    Args:
        daily: what each user had.
        limiter: counts what limits leave.
        admit: refuses a request that does not say which workspaces its user may use.
    """

    def __init__(self, daily: Daily, limiter: Limiter, admit: Callable[[Request], object]) -> None:
        self._daily = daily
        self._limiter = limiter
        self._admit = admit

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [Route("/status/usage", self._show, methods=["GET"])]

    async def _show(self, request: Request) -> Response:
        """Return the usage of whoever the key service or the sign-in names, and of nobody else: a
        client has no say in it."""
        self._admit(request)
        incoming = Incoming(request.scope, request.receive, 0)
        account, limits = account_of(incoming), limits_of(incoming)
        if not account:
            return Response(None, _NO_CONTENT, _NOT_KEPT)  # as on the host itself
        try:
            had = await asyncio.to_thread(self._daily.of_user, account, DAYS)
        except (OSError, sqlite3.Error):
            error = "The usage cannot be read. The journal of infbox-gateway says why."
            return JSONResponse({"error": error}, _UNAVAILABLE, _NOT_KEPT)
        told = {
            "user": account,
            "today": _told(had[max(had)]),
            "days": DAYS,
            "all_days": _told(_sum(list(had.values()))),
            "limits": await self._limits(account, limits),
        }
        return JSONResponse(told, headers=_NOT_KEPT)

    async def _limits(self, account: str, limits: dict[str, int]) -> list[dict[str, Any]]:
        """Return the limits that there are; how much is used of those that are counted here."""
        counted = [Limit(name, limits[name]) for name in _COUNTED_HERE if limits.get(name)]
        used = await self._limiter.used(told_limits.person(account), counted)
        return [
            {"name": name, "most": limits[name], "used": used.get(name)}
            for name in told_limits.NAMES
            if limits.get(name)
        ]


def _told(had: Counts) -> dict[str, int]:
    return {
        "requests": had.requests,
        "computed_tokens": computed(had),
        "prompt_tokens": had.prompt,
        "cached_tokens": had.cached,
        "completion_tokens": had.completion,
    }


def _sum(several: list[Counts]) -> Counts:
    whole = Counts()
    for each in several:
        whole = whole.plus(each)
    return whole
