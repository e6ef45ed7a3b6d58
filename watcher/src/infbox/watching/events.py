"""What is told of watched directories, and what tells it.

The words are inotify's own. Linux tells by ``inotify``; elsewhere ``observers`` says what watchdog
tells in the same words, so that whoever takes events knows nothing of the system.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infbox.tree.mounts import Mount

# From linux/inotify.h.
ATTRIB = 0x4
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
MOVE_SELF = 0x800
UNMOUNT = 0x2000
OVERFLOW = 0x4000
IGNORED = 0x8000
IS_DIRECTORY = 0x4000_0000


class Event(NamedTuple):
    """What happened.

    Attributes:
        directory: as it was given to ``Watch.add``; empty for an overflow.
        name: of the entry in it; empty where the directory itself is meant.
        mask: bits of this module.
    """

    directory: str
    name: str
    mask: int


class Watch(Protocol):
    """The watched directories of one thread, and what that thread waits for.

    Directories are absolute, with ``/`` on every system.
    """

    @property
    def net_seconds(self) -> float:
        """How long what is not told may go unnoticed, at most."""

    def __contains__(self, directory: str) -> bool:
        """Say whether a directory is watched."""

    def __len__(self) -> int:
        """Return how many are."""

    def begin(self, root: str) -> None:
        """Take note of the tree in which directories will be watched.

        Raises:
            OSError: it is not there, or the system will not have it watched.
        """

    def reaches(self, directory: str) -> bool:
        """Say whether a directory is one of which something can be told."""

    def add(self, directory: str) -> bool:
        """Watch one directory; say whether it is watched now. One that is gone is not.

        Raises:
            OSError: the system will not have it watched.
        """

    def drop(self, directory: str) -> None:
        """Stop watching a directory and all below it."""

    def events(self) -> Iterator[Event]:
        """Yield what there is to tell, without waiting.

        Watches that a directory's move has made wrong should be dropped before the next event is
        taken: what comes from below such a directory no longer bears its path.
        """

    def wait(self, milliseconds: float) -> bool:
        """Wait for an event or a call of ``wake``; say whether something was mounted or
        unmounted."""

    def wake(self) -> None:
        """End the wait. For any thread, and after ``close`` too."""

    def mounts(self) -> list[Mount]:
        """Return what is mounted, where the system says so."""

    def close(self) -> None:
        """Watch no more."""


class Nested:
    """Directories by what they lie in: to look through all takes too long where ten thousand go one
    by one."""

    def __init__(self) -> None:
        self._watches: dict[str, int] = {}
        self._below: dict[str, set[str]] = {}
        """By directory, those right in it that are watched, or have one below them that is."""

    def __contains__(self, directory: str) -> bool:
        return directory in self._watches

    def __len__(self) -> int:
        return len(self._watches)

    def _put(self, directory: str, watch: int) -> None:
        """Note a directory, as one below all that it lies in, with the number of its watch."""
        is_noted = directory in self._watches
        self._watches[directory] = watch
        while not is_noted and (above := _above(directory)) != directory:
            is_noted = above in self._watches or above in self._below
            self._below.setdefault(above, set()).add(directory)
            directory = above

    def _take(self, directory: str) -> int | None:
        """Undo that, as far as nothing else is watched there, and return the number."""
        watch = self._watches.pop(directory, None)
        while (
            directory not in self._watches
            and not self._below.get(directory)
            and (above := _above(directory)) != directory
        ):
            self._below.pop(directory, None)
            self._below.get(above, set()).discard(directory)
            directory = above
        if not self._below.get(directory):
            self._below.pop(directory, None)
        return watch

    def _at_or_below(self, directory: str) -> list[str]:
        """Return a directory and those noted below it, each after what lies in it."""
        found, left = [], [directory]
        while left:
            one = left.pop()
            found.append(one)
            left += self._below.get(one, ())
        return found[::-1]


def _above(directory: str) -> str:
    """Return what a directory lies in; a root, as ``/`` or ``C:/``, lies in itself."""
    above = directory.rstrip("/").rpartition("/")[0]
    if not above:
        return "/" if directory.startswith("/") else directory
    return f"{above}/" if above.endswith(":") else above
