"""Bringing the chunks of a prompt from disk to RAM, the last first."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from infbox_cake.race import Average

_TURN_SECONDS = 0.05
"""Longest wait for a load before looking whether it is still wanted."""


class Store(Protocol):
    """Where chunks are. A chunk that was brought is kept in RAM until it is released."""

    def bring(self, chunk: int) -> Any:
        """Begin to bring a chunk to RAM."""

    def wait(self, handle: Any, seconds: float) -> bool | None:
        """Wait for a chunk; return whether it is in RAM, or None while it is under way."""

    def release(self, chunk: int) -> None:
        """Keep a chunk that was brought no longer."""


class Stager(threading.Thread):
    """Stages the chunks of one prompt in a thread of its own.

    Args:
        store: where they are.
        start: the first chunk to stage.
        end: the chunk after the last.
        in_ram: chunks that need not be read from disk, and tell nothing of its speed.
        rate: chunks a second; what is measured here goes in.
        at_once: loads under way at a time.
    """

    def __init__(
        self,
        store: Store,
        start: int,
        end: int,
        in_ram: frozenset[int],
        rate: Average,
        *,
        at_once: int,
    ) -> None:
        super().__init__(name="cake-stage", daemon=True)
        self._store = store
        self._start_chunk = start
        self._end = end
        self._in_ram = in_ram
        self._rate = rate
        self._at_once = at_once
        self._lock = threading.Lock()
        self._is_wanted = True
        self._staged_from = end
        self._read = 0
        self._began_at = time.monotonic()
        self.is_over = False
        """Whether no more will be staged."""

    @property
    def staged_from(self) -> int:
        """The first of the chunks that are in RAM without a gap until the end."""
        return self._staged_from

    def run(self) -> None:
        """Stage until all is, a chunk cannot be had, or nobody wants more."""
        waiting: deque[tuple[int, Any]] = deque()
        following = self._end - 1
        try:
            while self._is_wanted and self._staged_from > self._start_chunk:
                while len(waiting) < self._at_once and following >= self._start_chunk:
                    waiting.append((following, self._store.bring(following)))
                    following -= 1
                if not self._take(waiting):
                    return
        finally:
            self.is_over = True
            self._drain(waiting)

    def release(self, until: int) -> None:
        """Stage no more, and keep the chunks before ``until`` no longer."""
        with self._lock:
            self._is_wanted = False
            for chunk in range(self._staged_from, min(until, self._end)):
                self._store.release(chunk)
            self._staged_from = max(self._staged_from, min(until, self._end))

    def _take(self, waiting: deque[tuple[int, Any]]) -> bool:
        """Wait for the next chunk; return False when it cannot be had."""
        chunk, handle = waiting[0]
        there = self._store.wait(handle, _TURN_SECONDS)
        if there is None:
            return True
        waiting.popleft()
        if not there:
            return False
        self._measure(chunk)
        self._keep(chunk)
        return True

    def _measure(self, chunk: int) -> None:
        """Take the speed since the beginning: chunks come in bursts, two of them at nearly once."""
        if chunk in self._in_ram:
            # What was in RAM before took no time; what is read is timed from here on.
            self._began_at = time.monotonic() if not self._read else self._began_at
            return
        self._read += 1
        self._rate.take(self._read / (time.monotonic() - self._began_at))

    def _keep(self, chunk: int) -> None:
        with self._lock:
            if self._is_wanted:
                self._staged_from = chunk
            else:
                self._store.release(chunk)

    def _drain(self, waiting: deque[tuple[int, Any]]) -> None:
        """Release what comes although nobody wants it any more.

        How long it took tells the next prompt that this disk is slow.
        """
        for chunk, handle in waiting:
            while (there := self._store.wait(handle, _TURN_SECONDS)) is None:
                pass
            if there:
                self._measure(chunk)
                self._store.release(chunk)
