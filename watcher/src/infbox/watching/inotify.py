"""inotify as the kernel gives it, and which folders its watches stand for.

watchdog and inotify_simple were weighed. watchdog's public observer holds back what follows a file
moved out of the tree by half a second, tells nobody of an overflow or of a folder that cannot be
watched, and watches ignored folders. inotify_simple runs ldconfig to find the C library, which
takes longer than a whole restart may. What is left to be done here are three system calls and a
map from watches to folders.
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
IS_FOLDER = 0x4000_0000
_ONLY_FOLDERS, _NO_LINKS, _NOT_UNLINKED = 0x100_0000, 0x200_0000, 0x400_0000

_MASK = (
    (ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | MOVE_SELF)
    | (_ONLY_FOLDERS | _NO_LINKS | _NOT_UNLINKED)
)  # fmt: skip
_HEAD = Struct("iIII")
_BUFFER = 64 * 1024
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Event(NamedTuple):
    """What happened.

    Attributes:
        folder: as it was given to ``Watch.add``; empty for an overflow.
        name: of the entry in it; empty where the folder itself is meant.
        mask: bits of this module.
    """

    folder: str
    name: str
    mask: int


class Watch:
    """The watched folders of one thread.

    A folder may be known by two names, as with bind mounts: each is told.

    Raises:
        OSError: the system gives no further inotify instance.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise _error()
        self._folders: dict[int, list[str]] = {}
        self._watches: dict[str, int] = {}
        self._below: dict[str, set[str]] = {}
        """By folder, those right in it that are watched, or have one below them that is: to look
        through all takes too long where ten thousand go one by one."""

    def __contains__(self, folder: str) -> bool:
        return folder in self._watches

    def __len__(self) -> int:
        return len(self._watches)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there are events."""
        fd: int = self._fd
        return fd

    def close(self) -> None:
        """Watch no more."""
        os.close(self._fd)

    def add(self, folder: str) -> bool:
        """Watch one absolute folder; say whether it is watched now. A folder that is gone is not.

        Raises:
            OSError: the system will not have it watched. ENOSPC is the limit of watches.
        """
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), _MASK)
        if watch < 0:
            error = _error()
            if error.errno in _GONE:
                return False
            raise error
        names = self._folders.setdefault(watch, [])
        if folder not in names:
            names.append(folder)
        if folder not in self._watches:
            self._note(folder)
        self._watches[folder] = watch
        return True

    def drop(self, folder: str) -> None:
        """Stop watching a folder and all below it."""
        for path in self._at_or_below(folder):
            watch = self._watches.pop(path, None)
            self._unnote(path)
            if watch is None:
                continue
            names = self._folders.get(watch, [])
            if path in names:
                names.remove(path)
            if not names and self._folders.pop(watch, None) is not None:
                self._libc.inotify_rm_watch(self._fd, watch)

    def events(self) -> Iterator[Event]:
        """Yield what the kernel has to tell, without waiting.

        Watches that a folder's move has made wrong should be dropped before the next event is
        taken: what comes from below such a folder no longer bears its path.
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
            for folder in tuple(self._folders.get(watch, ())):
                yield Event(folder, name, mask)
            if mask & IGNORED:
                self._forget(watch)

    def _forget(self, watch: int) -> None:
        """Take the word that a watch is gone."""
        for folder in self._folders.pop(watch, ()):
            if self._watches.get(folder) == watch:
                del self._watches[folder]
                self._unnote(folder)

    def _note(self, folder: str) -> None:
        """Note a folder as one below all that it lies in."""
        while folder != "/":
            above = _above(folder)
            below = self._below.setdefault(above, set())
            if folder in below:
                return
            below.add(folder)
            folder = above

    def _unnote(self, folder: str) -> None:
        """Undo that, as far as nothing else is watched there."""
        while folder != "/" and folder not in self._watches and not self._below.get(folder):
            self._below.pop(folder, None)
            above = _above(folder)
            self._below.get(above, set()).discard(folder)
            folder = above
        if not self._below.get("/"):
            self._below.pop("/", None)

    def _at_or_below(self, folder: str) -> list[str]:
        """Return a folder and those noted below it, each after what lies in it."""
        found, left = [], [folder]
        while left:
            one = left.pop()
            found.append(one)
            left += self._below.get(one, ())
        return found[::-1]


def _above(folder: str) -> str:
    return folder.rpartition("/")[0] or "/"


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
