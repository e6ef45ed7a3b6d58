"""Work that is done later, or beside the thread that wants it."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET_SECONDS = 0.03
LONGEST_SECONDS = 0.25
"""What is put off waits for this long after the last event, and for this long after the first at
most."""

TURN_SECONDS = 0.05
"""A turn at long work lasts this long at most where others wait for theirs."""

LOST_SECONDS = 0.25
"""Who takes longer than this for one step hangs, and has no turn any more."""


class BackgroundTask(threading.Thread):
    """Something that waits, done beside the thread that wants its result.

    Args:
        task: what is to be done.
        done: called when it ended.
    """

    def __init__(self, task: Callable[[], Any], done: Callable[[], None]) -> None:
        super().__init__(name="background-task", daemon=True)
        self._task = task
        self._done = done
        self._result: Any = None
        self._error: Exception | None = None
        self.is_done = False
        self.began = time.monotonic()
        self.start()

    def run(self) -> None:
        """Do it, and keep what comes of it."""
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


class Debounce:
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


class Turns:
    """Lets a few threads at a time do what takes long, each a little while.

    Python computes one thing at a time. The more threads ask for that at once, the more time goes
    into passing it on; and the longer it takes until one has it that has only a save to take in.

    Args:
        most: that have their turn at once.
        clock: seconds that only ever grow.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._began: dict[Callable[[], None], float] = {}
        self._asked: dict[Callable[[], None], float] = {}
        self._waiting: dict[Callable[[], None], None] = {}

    def take(self, wake: Callable[[], None]) -> bool:
        """Say whether it is one's turn, for a step. To be asked before each step.

        Args:
            wake: stands for the one who asks. It is called, from any thread, when one who was
                denied a turn may ask again. Such a one asks again after ``LOST_SECONDS`` anyway:
                who hangs in a step tells nobody.
        """
        with self._lock:
            now = self._asked[wake] = self._clock()
            self._forget_lost(now)
            woken = []
            if wake in self._began and self._waiting and now - self._began[wake] > TURN_SECONDS:
                woken = self._end(wake)
            if wake not in self._began and not woken:
                self._waiting.setdefault(wake)
                if wake in self._next():
                    del self._waiting[wake]
                    self._began[wake] = now
            is_its_turn = wake in self._began
            if not is_its_turn:
                self._waiting.setdefault(wake)
        for each in woken:
            each()
        return is_its_turn

    def give(self, wake: Callable[[], None]) -> None:
        """Take note that there is nothing more to do at present."""
        with self._lock:
            self._waiting.pop(wake, None)
            self._asked.pop(wake, None)
            woken = self._end(wake)
        for each in woken:
            each()

    def _end(self, wake: Callable[[], None]) -> list[Callable[[], None]]:
        """End a turn, if it is one; return those whose turn it is then."""
        return self._next() if self._began.pop(wake, None) is not None else []

    def _next(self) -> list[Callable[[], None]]:
        return [*itertools.islice(self._waiting, max(self._most - len(self._began), 0))]

    def _forget_lost(self, now: float) -> None:
        for wake, asked in list(self._asked.items()):
            if now - asked > (LOST_SECONDS if wake in self._began else 4 * LOST_SECONDS):
                del self._asked[wake]
                self._began.pop(wake, None)
                self._waiting.pop(wake, None)
