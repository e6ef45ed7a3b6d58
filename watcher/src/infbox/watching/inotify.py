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
import math
import os
import select
import sys
from struct import Struct
from typing import TYPE_CHECKING

from infbox.tree import mounts
from infbox.watching.events import (
    ATTRIB,
    CLOSE_WRITE,
    CREATE,
    DELETE,
    IGNORED,
    MOVE_SELF,
    MOVED_FROM,
    MOVED_TO,
    OVERFLOW,
    Event,
    Nested,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

assert sys.platform == "linux"  # noqa: S101  # elsewhere nobody imports this, nor can it be checked

# From linux/inotify.h, beside what is told.
_ONLY_DIRECTORIES, _NO_LINKS, _NOT_UNLINKED = 0x100_0000, 0x200_0000, 0x400_0000

_MASK = (
    (ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | MOVE_SELF)
    | (_ONLY_DIRECTORIES | _NO_LINKS | _NOT_UNLINKED)
)  # fmt: skip
_HEAD = Struct("iIII")
_BUFFER = 64 * 1024
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Watch(Nested):
    """The watched directories of one thread; see ``events.Watch``.

    A directory may be known by two names, as with bind mounts: each is told.

    Raises:
        OSError: the system gives no further inotify instance.
    """

    net_seconds = math.inf
    """The kernel tells of all, or that it could not."""

    def __init__(self) -> None:
        super().__init__()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise _error()
        self._directories: dict[int, list[str]] = {}
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._mountinfo = open(mounts.MOUNTINFO, "rb", buffering=0)  # noqa: PTH123, SIM115  # no buffer
        self._poller = select.poll()
        self._poller.register(self._wake_fd, select.POLLIN)
        # The kernel tells a change of mounts as an error that is no error.
        self._poller.register(self._mountinfo, select.POLLPRI | select.POLLERR)
        self._poller.register(self._fd, select.POLLIN)

    def begin(self, root: str) -> None:
        """Do nothing: each directory is watched by itself, wherever it lies."""

    def reaches(self, directory: str) -> bool:  # noqa: ARG002  # of the interface
        """Say that of any directory something can be told."""
        return True

    def wait(self, milliseconds: float) -> bool:
        """Wait; see ``events.Watch``."""
        ready = {fd for fd, _ in self._poller.poll(milliseconds)}
        if self._wake_fd in ready:
            os.eventfd_read(self._wake_fd)
        return self._mountinfo.fileno() in ready

    def wake(self) -> None:
        """End the wait."""
        os.eventfd_write(self._wake_fd, 1)

    def mounts(self) -> list[mounts.Mount]:
        """Return what is mounted."""
        with open(mounts.MOUNTINFO, "rb") as file:  # noqa: PTH123  # often, and pathlib takes longer
            return mounts.read(file.read())

    def close(self) -> None:
        """Watch no more. What wakes stays: whoever was asked for something may still do so."""
        os.close(self._fd)
        self._mountinfo.close()

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
        self._put(directory, watch)
        return True

    def drop(self, directory: str) -> None:
        """Stop watching a directory and all below it."""
        for path in self._at_or_below(directory):
            watch = self._take(path)
            if watch is None:
                continue
            names = self._directories.get(watch, [])
            if path in names:
                names.remove(path)
            if not names and self._directories.pop(watch, None) is not None:
                self._libc.inotify_rm_watch(self._fd, watch)

    def events(self) -> Iterator[Event]:
        """Yield what the kernel has to tell, without waiting; see ``events.Watch``."""
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
                self._take(directory)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
