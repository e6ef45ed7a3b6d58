"""Requests that wait for an engine which is away, as while it is restarted."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import anyio

from infbox.gateway.refusals import UNAVAILABLE, RefusalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_INTERVAL_SECONDS = 0.25
# A gateway without memory would lose them all, and those under way as well.
_MOST_BYTES = 128 * 1024 * 1024


class RequestQueue:
    """Queues requests, and lets them go in the order in which they came.

    Args:
        seconds: that one may wait; 0 to queue none.
        most: how many may wait at once.
        takes_requests: says whether the engine takes requests now.
    """

    def __init__(
        self, seconds: int, most: int, takes_requests: Callable[[], Awaitable[bool]]
    ) -> None:
        self.seconds = seconds
        self._most = most
        self._takes_requests = takes_requests
        self._turn = anyio.Lock()
        self._bytes = 0
        self.count = 0
        """How many wait."""

    async def wait(self, size: int, deadline: float) -> None:
        """Return when the engine takes requests and those that came before have gone.

        Args:
            size: of the request, in bytes.
            deadline: how long it may wait, on the monotonic clock.

        Raises:
            RefusalError: the engine was not back in time, or too many wait already.
        """
        if self.count >= self._most or self._bytes + size > _MOST_BYTES:
            raise RefusalError(
                UNAVAILABLE, "The engine does not respond, and the request queue is full."
            )
        with self._one_more(size), anyio.move_on_after(deadline - time.monotonic()):
            async with self._turn:
                while not await self._takes_requests():  # noqa: ASYNC110  # of another process
                    await anyio.sleep(_INTERVAL_SECONDS)
            return
        raise RefusalError(
            UNAVAILABLE, "The engine did not respond in time. Send the request again."
        )

    @contextlib.contextmanager
    def _one_more(self, size: int) -> Iterator[None]:
        self.count += 1
        self._bytes += size
        try:
            yield
        finally:
            self.count -= 1
            self._bytes -= size
