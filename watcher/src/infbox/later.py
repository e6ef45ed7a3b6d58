"""Work that is done later, or beside the thread that wants it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET_SECONDS = 0.03
LONGEST_SECONDS = 0.25
"""What is put off waits for this long after the last event, and for this long after the first at
most."""


class Errand(threading.Thread):
    """Something that waits, done beside the thread that wants its result.

    Args:
        task: what is to be done.
        done: called when it ended.
    """

    def __init__(self, task: Callable[[], Any], done: Callable[[], None]) -> None:
        super().__init__(name="errand", daemon=True)
        self._task = task
        self._done = done
        self._result: Any = None
        self._error: Exception | None = None
        self.is_done = False
        self.began = time.monotonic()
        self.start()

    def run(self) -> None:
        """Do it."""
        try:
            self._result = self._task()
        except Exception as error:  # it is raised where the result is taken
            self._error = error
        self.is_done = True
        self._done()

    def result(self) -> Any:
        """Return what the task returned, or raise what it raised."""
        self.join()
        if self._error:
            raise self._error
        return self._result


class Soon:
    """A moment that is put off while there is more to wait for, but not for ever."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._last = 0.0

    def ask(self, now: float) -> None:
        """Take note of an event, at a time of the monotonic clock."""
        self._first = now if self._first is None else self._first
        self._last = now

    def due(self) -> float | None:
        """Return the moment, or None when nothing is waited for."""
        if self._first is None:
            return None
        return min(self._last + QUIET_SECONDS, self._first + LONGEST_SECONDS)

    def take(self, now: float) -> bool:
        """Say whether the moment has come; if so it is over."""
        due = self.due()
        if due is None or due > now:
            return False
        self._first = None
        return True
