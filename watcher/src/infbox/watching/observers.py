"""What watchdog tells of a tree, where there is no inotify: on macOS and Windows.

The whole tree is one watch of watchdog's, as FSEvents and ReadDirectoryChangesW have it. What comes
from a directory that nobody asked for, as an ignored one, stops here, so that all that follows is
as with inotify. What is outside the tree is not told of: who wants to know looks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections import deque
from typing import TYPE_CHECKING

from watchdog import events as told
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

from infbox.tree.spelling import folded
from infbox.watching.events import (
    ATTRIB,
    CLOSE_WRITE,
    CREATE,
    DELETE,
    IGNORED,
    IS_DIRECTORY,
    MOVED_FROM,
    MOVED_TO,
    OVERFLOW,
    Event,
    Nested,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

    from infbox.tree.mounts import Mount

NET_SECONDS = 60.0
"""Between whole looks at a tree: watchdog does not tell of what a full buffer made it miss."""

_MOST = 20_000  # events that wait; more are as good as lost
_AT_ONCE = 500
_LEAVE_SECONDS = 5.0

# A file that is written may be half of it: it is looked at when it has been quiet for a moment, as
# inotify's ATTRIB asks for. Where the close is told, as on Linux, it is looked at then.
_MASKS = {
    told.EVENT_TYPE_CREATED: CREATE,
    told.EVENT_TYPE_MODIFIED: ATTRIB,
    told.EVENT_TYPE_CLOSED: CLOSE_WRITE,
    told.EVENT_TYPE_DELETED: DELETE,
}
# Not that one was opened or read: with those, watchdog's own look at a large tree never ends.
_WANTED: list[type[FileSystemEvent]] = [
    told.FileCreatedEvent,
    told.FileModifiedEvent,
    told.FileAttribEvent,
    told.FileClosedEvent,
    told.FileDeletedEvent,
    told.FileMovedEvent,
    told.DirCreatedEvent,
    told.DirDeletedEvent,
    told.DirMovedEvent,
]


class Watch(Nested, FileSystemEventHandler):
    """The watched directories of one thread; see ``events.Watch``.

    Args:
        make: returns an observer of watchdog's that was not started.
    """

    net_seconds = NET_SECONDS

    def __init__(self, make: Callable[[], BaseObserver] = Observer) -> None:
        super().__init__()
        self._make = make
        self._root = ""
        self._observer: BaseObserver | None = None
        self._spelled: dict[str, set[str]] = {}
        """The watched directories by what their spellings have in common."""
        self._waiting: deque[FileSystemEvent] = deque()
        self._has_lost = False
        self._ready = threading.Event()

    def begin(self, root: str) -> None:
        """Have the whole tree watched.

        Raises:
            OSError: it is not there, or watchdog cannot do so.
        """
        self._leave()
        self._root = root
        os.lstat(root)
        observer = self._make()
        try:
            observer.start()
            observer.schedule(self, root, recursive=True, event_filter=_WANTED)
        except OSError:
            observer.stop()
            raise
        except Exception as error:  # as each system's own part of watchdog has it
            observer.stop()
            raise OSError(errno.EIO, f"watchdog: {error}", root) from error
        self._observer = observer

    def reaches(self, directory: str) -> bool:
        """Say whether a directory lies in the tree."""
        return directory == self._root or directory.startswith(self._root.rstrip("/") + "/")

    def add(self, directory: str) -> bool:
        """Take note of a directory of which is told from now on.

        Raises:
            OSError: it is outside the tree.
        """
        if not self.reaches(directory):
            raise OSError(errno.ENOTSUP, "it is outside the tree that is watched", directory)
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(os.lstat(directory).st_mode):
                self._put(directory, 0)
                self._spelled.setdefault(folded(directory), set()).add(directory)
                return True
        return False

    def drop(self, directory: str) -> None:
        """Tell no more of a directory and all below it."""
        for path in self._at_or_below(directory):
            if self._take(path) is not None:
                spelled = self._spelled[folded(path)]
                spelled.discard(path)
                if not spelled:
                    del self._spelled[folded(path)]

    def dispatch(self, event: FileSystemEvent) -> None:
        """Take what watchdog tells, in a thread of its own."""
        if len(self._waiting) >= _MOST:
            self._has_lost = True
            self._waiting.clear()
        self._waiting.append(event)
        self._ready.set()

    def events(self) -> Iterator[Event]:
        """Yield what there is to tell, without waiting; see ``events.Watch``."""
        if self._has_lost:
            self._has_lost = False
            yield Event("", "", OVERFLOW)
        for _ in range(_AT_ONCE):
            try:
                event = self._waiting.popleft()
            except IndexError:
                return
            yield from self._said(event)
        self._ready.set()

    def wait(self, milliseconds: float) -> bool:
        """Wait; mounts are not told of."""
        self._ready.wait(min(milliseconds / 1000, threading.TIMEOUT_MAX))
        self._ready.clear()
        return False

    def wake(self) -> None:
        """End the wait."""
        self._ready.set()

    def mounts(self) -> list[Mount]:
        """Return nothing: none of these systems says what can be trusted."""
        return []

    def close(self) -> None:
        """Watch no more."""
        self._leave()

    def _leave(self) -> None:
        observer, self._observer = self._observer, None
        if observer:
            observer.stop()
            observer.join(_LEAVE_SECONDS)

    def _said(self, event: FileSystemEvent) -> Iterator[Event]:
        """Yield an event in inotify's words: where it is about watched directories."""
        kind = IS_DIRECTORY if event.is_directory else 0
        if event.event_type == told.EVENT_TYPE_MOVED:
            yield from self._at(event.src_path, MOVED_FROM | kind)
            yield from self._at(event.dest_path, MOVED_TO | kind)
        else:
            yield from self._at(event.src_path, _MASKS.get(event.event_type, ATTRIB) | kind)

    def _at(self, native: str | bytes, mask: int) -> Iterator[Event]:
        path = os.fsdecode(native)
        if os.sep != "/":
            path = path.replace(os.sep, "/")
        if mask & (DELETE | MOVED_FROM) and folded(path) == folded(self._root):
            yield Event(self._root, "", IGNORED)
            return
        above, _, name = path.rpartition("/")
        for directory in tuple(self._spelled.get(folded(above or "/"), ())):
            yield Event(directory, name, mask)
