"""Handing changes of the index on to the thread that packs."""

from __future__ import annotations

import sys
import threading
import time

from infbox.runtime.background import Debounce

# On Windows a signal, as of Ctrl+C, is not taken before a wait ends.
_LONGEST_WAIT_SECONDS = 0.5 if sys.platform == "win32" else None


class Changes:
    """Hands changes of the index on when it is quiet, or has not been so for long."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._debounce = Debounce()
        self._saved_at: float | None = None
        self._is_closed = False

    def mark(self, saved_at: float | None) -> None:
        """Take note of a change.

        Args:
            saved_at: monotonic time of the save that led to it; None where none did.
        """
        with self._condition:
            self._debounce.ask(time.monotonic())
            self._saved_at = saved_at if self._saved_at is None else self._saved_at
            self._condition.notify()

    def close(self) -> None:
        """Let the one that waits go."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()

    def wait(self) -> tuple[float | None] | None:
        """Wait for changes, and return the time of the first save among them; None when closed."""
        with self._condition:
            while not self._is_closed:
                now, due = time.monotonic(), self._debounce.due()
                if self._debounce.take(now):
                    saved_at, self._saved_at = self._saved_at, None
                    return (saved_at,)
                self._condition.wait(_LONGEST_WAIT_SECONDS if due is None else due - now)
        return None
