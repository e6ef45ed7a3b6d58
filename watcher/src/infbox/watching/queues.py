"""What of a tree is still to be looked at, and when."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from infbox.tree.records import Stamp

AT_ONCE = 32
"""Files to a transaction."""

SOON_SECONDS = 0.05
"""Until a file is looked at again that is being written, or of which no close was told."""

SETTLE_SECONDS = 0.1
"""Until the stamp of a file just written can be trusted."""

T = TypeVar("T")


class Queues:
    """Paths of one tree, each in the queue of what is to be done about it. For one thread."""

    def __init__(self) -> None:
        self.fresh: dict[str, None] = {}
        """To be looked at now."""
        self.leaving: dict[str, None] = {}
        """What went, to be looked at once there is no save to take in: many may go at once."""
        self.bulk: deque[str] = deque()
        """To be read when nothing else is to be done; they belong to the tree."""
        self._again: dict[str, float] = {}
        self._settling: dict[str, tuple[Stamp, float]] = {}

    @property
    def backlog(self) -> int:
        """How many files are to be looked at now."""
        return len(self.fresh) + len(self.leaving) + len(self.bulk)

    @property
    def is_busy(self) -> bool:
        """Whether there are files to look at now."""
        return bool(self.fresh or self.leaving or self.bulk)

    @property
    def has_news(self) -> bool:
        """Whether there is something to look at that was told just now, and is soon done."""
        return bool(self.fresh) or 0 < len(self.leaving) <= AT_ONCE

    def moments(self) -> list[float]:
        """Return when the first of what waits for a time is due, of the monotonic clock."""
        again = list(self._again.values())[:1]
        return [*again, *(due for _, due in list(self._settling.values())[:1])]

    def put(self, path: str, *, is_gone: bool) -> None:
        """Have a path looked at, now or, where it went, once there is no save to take in."""
        self._again.pop(path, None)
        if is_gone and path not in self.fresh:
            self.leaving.setdefault(path)
        else:
            self.leaving.pop(path, None)
            self.fresh.setdefault(path)

    def put_all(self, paths: Iterable[str]) -> None:
        """Have paths looked at now."""
        self.fresh.update(dict.fromkeys(paths))

    def take_fresh(self) -> list[str]:
        """Take some of what is to be looked at now."""
        return _take_first(self.fresh, AT_ONCE)

    def take_leaving(self) -> list[str]:
        """Take some of what went."""
        return _take_first(self.leaving, AT_ONCE)

    def take_bulk(self) -> list[str]:
        """Take some of what is to be read when nothing else is to be done."""
        return [self.bulk.popleft() for _ in range(min(AT_ONCE, len(self.bulk)))]

    def postpone(self, path: str, now: float, *, is_new: bool = False) -> None:
        """Have a path looked at again in a moment.

        Args:
            path: of the file.
            now: of the monotonic clock.
            is_new: the moment counts from the first time that it is put off.
        """
        if not (is_new and path in self._again):
            self._again[path] = now + SOON_SECONDS

    def has_due(self, now: float) -> bool:
        """Whether the moment of what was put off has come."""
        return bool(self._again) and next(iter(self._again.values())) <= now

    def take_due(self, now: float) -> list[str]:
        """Take what was put off until now."""
        return [path for path, _ in _take_due(self._again, now, lambda moment: moment)]

    def settle(self, path: str, stamp: Stamp, now: float) -> None:
        """Have the stamp of a file trusted in a moment if the file still has it then."""
        self._settling.pop(path, None)  # to the end: what is due first is in front
        self._settling[path] = (stamp, now + SETTLE_SECONDS)

    def is_settled(self, path: str) -> None:
        """Take note that the stamp of a file is trusted."""
        self._settling.pop(path, None)

    @property
    def has_unsettled(self) -> bool:
        """Whether there are files whose stamps are not trusted yet."""
        return bool(self._settling)

    def take_settled(self, now: float, most: int) -> list[tuple[str, Stamp]]:
        """Take files whose stamps may be trusted now, with the stamps that they had when read."""
        due = _take_due(self._settling, now, lambda entry: entry[1])
        for path, entry in due[most:]:
            self._settling[path] = entry
        return [(path, stamp) for path, (stamp, _) in due[:most]]


def _take_first(queue: dict[str, None], most: int) -> list[str]:
    taken = [path for path, _ in zip(queue, range(most), strict=False)]
    for path in taken:
        del queue[path]
    return taken


def _take_due(queue: dict[str, T], now: float, due_of: Callable[[T], float]) -> list[tuple[str, T]]:
    """Take from the front of a queue what is due."""
    due: list[tuple[str, T]] = []
    for path, entry in queue.items():
        if due_of(entry) > now:
            break
        due.append((path, entry))
    for path, _ in due:
        del queue[path]
    return due
