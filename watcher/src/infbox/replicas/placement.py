"""Which workspaces' questions come to this host, among several that share them out.

Whoever shares them out is asked, as for a question: it knows who is well, and there is one rule for
who answers. What comes to another host need not be in the cache of this one, and would take the
room of what does.
"""

from __future__ import annotations

import asyncio
import logging
from hashlib import sha256
from typing import TYPE_CHECKING

import aiohttp

from infbox.log import line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from infbox.config import Replicas

HOST = "X-Infbox-Host"
"""Header of an answer: who gave it."""

ROUTE = "X-Infbox-Route"
"""Header of a request: what the balancer goes by."""

INTERVAL_SECONDS = 5.0


_logger = logging.getLogger(__name__)

_TIMEOUT = aiohttp.ClientTimeout(total=8)  # longer than a gateway waits for its engine
_AWAY = (aiohttp.ClientError, asyncio.TimeoutError)


def route(workspace: str) -> str:
    """Return what the balancer goes by for a workspace.

    Names are often alike but for their ends, of which Caddy 2.6 makes hashes that are alike too.
    """
    return sha256(workspace.encode()).hexdigest()


class Placement:
    """Knows which workspaces are at home here: none before the first look; all, where nobody tells.

    Args:
        session: to ask with.
        replicas: whom to ask, and who this host is.
        workspaces: their names.
        interval: between looks, in seconds.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        replicas: Replicas,
        workspaces: Iterable[str],
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        self._session = session
        self._replicas = replicas
        self._interval = interval
        self._is_here: dict[str, bool | None] = dict.fromkeys(workspaces)

    def is_here(self, workspace: str) -> bool:
        """Say whether questions about a workspace come to this host."""
        return bool(self._is_here[workspace])

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            for workspace, was_here in self._is_here.items():
                host = await self._home(workspace)
                is_here = host == self._replicas.host if host else was_here is not False
                self._is_here[workspace] = is_here
                if is_here != was_here:
                    _logger.info(line("home", workspace=workspace, host=host))
            await asyncio.sleep(self._interval)

    async def _home(self, workspace: str) -> str:
        """Return the host that is asked about a workspace now; empty where nobody can say."""
        url, headers = f"{self._replicas.balancer}/ready", {ROUTE: route(workspace)}
        try:
            async with self._session.get(url, headers=headers, timeout=_TIMEOUT) as answer:
                return answer.headers.get(HOST, "") if answer.ok else ""
        except _AWAY:
            return ""
