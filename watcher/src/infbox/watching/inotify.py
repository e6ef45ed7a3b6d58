"""inotify as the kernel gives it, and which directories its watches stand for.

watchdog and inotify_simple were weighed. watchdog's public observer holds back what follows a file
moved out of the tree by half a second, tells nobody of an overflow or of a directory that cannot be
watched, and watches ignored directories. inotify_simple runs ldconfig to find the C library, which
takes longer than a whole restart may. What is left to be done here are three system calls and a
map from watches to directories.
"""

from __future__ import annotations

import ctypes
import errno
import os
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

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
_ONLY_DIRECTORIES, _NO_LINKS, _NOT_UNLINKED = 0x100_0000, 0x200_0000, 0x400_0000

_MASK = (
    (ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | MOVE_SELF)
    | (_ONLY_DIRECTORIES | _NO_LINKS | _NOT_UNLINKED)
)  # fmt: skip
_HEAD = Struct("iIII")
_BUFFER = 64 * 1024
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


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


class Watch:
    """The watched directories of one thread.

    A directory may be known by two names, as with bind mounts: each is told.

    Raises:
        OSError: the system gives no further inotify instance.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise _error()
        self._directories: dict[int, list[str]] = {}
        self._watches: dict[str, int] = {}
        self._below: dict[str, set[str]] = {}
        """By directory, those right in it that are watched, or have one below them that is: to look
        through all takes too long where ten thousand go one by one."""

    def __contains__(self, directory: str) -> bool:
        return directory in self._watches

    def __len__(self) -> int:
        return len(self._watches)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there are events."""
        fd: int = self._fd
        return fd

    def close(self) -> None:
        """Watch no more."""
        os.close(self._fd)

    def add(self, directory: str) -> bool:
        """Watch one absolute directory; say whether it is watched now. One that is gone is not.

        Raises:
            OSError: the system will not have it watched. ENOSPC is the limit of watches.
        """
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _MASK)
        if watch < 0:
            error = _error()
            if error.errno in _GONE:
                return False
            raise error
        names = self._directories.setdefault(watch, [])
        if directory not in names:
            names.append(directory)
        if directory not in self._watches:
            self._note(directory)
        self._watches[directory] = watch
        return True

    def drop(self, directory: str) -> None:
        """Stop watching a directory and all below it."""
        for path in self._at_or_below(directory):
            watch = self._watches.pop(path, None)
            self._unnote(path)
            if watch is None:
                continue
            names = self._directories.get(watch, [])
            if path in names:
                names.remove(path)
            if not names and self._directories.pop(watch, None) is not None:
                self._libc.inotify_rm_watch(self._fd, watch)

    def events(self) -> Iterator[Event]:
        """Yield what the kernel has to tell, without waiting.

        Watches that a directory's move has made wrong should be dropped before the next event is
        taken: what comes from below such a directory no longer bears its path.
        """
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return
        place = 0
        while place < len(data):
            watch, mask, _cookie, length = _HEAD.unpack_from(data, place)
            place += _HEAD.size + length
            name = os.fsdecode(data[place - length : place].rstrip(b"\0"))
            if mask & OVERFLOW:
                yield Event("", "", mask)
                continue
            for directory in tuple(self._directories.get(watch, ())):
                yield Event(directory, name, mask)
            if mask & IGNORED:
                self._forget(watch)

    def _forget(self, watch: int) -> None:
        """Take the word that a watch is gone."""
        for directory in self._directories.pop(watch, ()):
            if self._watches.get(directory) == watch:
                del self._watches[directory]
                self._unnote(directory)

    def _note(self, directory: str) -> None:
        """Note a directory as one below all that it lies in."""
        while directory != "/":
            above = _above(directory)
            below = self._below.setdefault(above, set())
            if directory in below:
                return
            below.add(directory)
            directory = above

    def _unnote(self, directory: str) -> None:
        """Undo that, as far as nothing else is watched there."""
        while (
            directory != "/" and directory not in self._watches and not self._below.get(directory)
        ):
            self._below.pop(directory, None)
            above = _above(directory)
            self._below.get(above, set()).discard(directory)
            directory = above
        if not self._below.get("/"):
            self._below.pop("/", None)

    def _at_or_below(self, directory: str) -> list[str]:
        """Return a directory and those noted below it, each after what lies in it."""
        found, left = [], [directory]
        while left:
            one = left.pop()
            found.append(one)
            left += self._below.get(one, ())
        return found[::-1]


def _above(directory: str) -> str:
    return directory.rpartition("/")[0] or "/"


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
