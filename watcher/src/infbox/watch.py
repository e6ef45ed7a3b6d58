"""Telling which paths of a source tree were touched, by inotify.

This takes inotify as it is, through inotify_simple. watchdog was weighed: its public observer holds
back what follows a file moved out of the tree by half a second, tells nobody of an overflow or of a
folder that cannot be watched, and watches ignored folders; the layer below that does better is new
in 7, which Python 3.10 cannot run. What remains to be done here is a map from watches to folders.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import stat
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inotify_simple import INotify, flags, masks

from infbox.log import line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUIET_SECONDS = 0.03
"""After the last event, before a batch is handed on."""

LONGEST_SECONDS = 0.25
"""After the first event, at most."""

_MASK = (
    *(flags.CLOSE_WRITE, masks.MOVE, flags.CREATE, flags.DELETE, flags.MOVE_SELF),
    *(flags.ONLYDIR, flags.DONT_FOLLOW, flags.EXCL_UNLINK),
)

_logger = logging.getLogger(__name__)


@dataclass
class Batch:
    """Paths that were touched since the last batch. What they are now, the disk tells.

    Attributes:
        paths: files and folders, relative to the root.
        everything: look at the whole tree, since events were lost or it is time to.
        first: time of the first event, of the monotonic clock in seconds; None when there is none.
        last: time of the last event.
    """

    paths: set[str] = field(default_factory=set)
    everything: bool = False
    first: float | None = None
    last: float = 0.0

    def add(self, path: str | None, now: float) -> None:
        """Add a path, or None for the whole tree."""
        self.first = now if self.first is None else self.first
        self.last = now
        if path is None:
            self.everything = True
        else:
            self.paths.add(path)

    def due(self) -> float:
        """Return the time at which the batch should be handed on, of the monotonic clock."""
        first = self.last if self.first is None else self.first
        return min(self.last + QUIET_SECONDS, first + LONGEST_SECONDS)


class Inbox:
    """Gathers touched paths into batches. For one event loop."""

    def __init__(self) -> None:
        self._batch = Batch()
        self._arrived = asyncio.Event()

    def touch(self, path: str | None) -> None:
        """Add a path, or None for the whole tree."""
        self._batch.add(path, time.monotonic())
        self._arrived.set()

    async def batch(self, patience: float) -> Batch | None:
        """Return the next batch, or None when nothing was touched for ``patience`` seconds."""
        try:
            await asyncio.wait_for(self._arrived.wait(), patience)
        except asyncio.TimeoutError:
            return None
        while (pause := self._batch.due() - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(pause)
        ready, self._batch = self._batch, Batch()
        self._arrived.clear()
        return ready


class Watch:
    """The watched folders of one source tree.

    Folders are added and dropped from any thread; events are taken by the thread that calls
    ``take_events``.

    Args:
        root: an absolute folder without links in its path.
        touched: called with a relative path, or with None when events were lost.

    Raises:
        OSError: the system gives no further inotify instance.
    """

    def __init__(self, root: Path, touched: Callable[[str | None], None]) -> None:
        self._root = root
        self._touched = touched
        self._inotify = INotify()
        self._mask = sum(_MASK)
        self._lock = threading.Lock()
        self._folders: dict[int, str] = {}
        self._watches: dict[str, int] = {}
        self.unwatched = 0
        """Folders that could not be watched since the last ``restart``."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there are events to take."""
        descriptor: int = self._inotify.fileno()
        return descriptor

    def close(self) -> None:
        """Watch no more."""
        self._inotify.close()

    def restart(self) -> None:
        """Forget the folders that could not be watched: all are tried again."""
        self.unwatched = 0

    def add(self, folder: str) -> None:
        """Watch one folder, if it is not watched yet; the root is the empty string.

        A folder that is gone again is not an error. One that the system will not let us watch is
        counted, and the first of a scan logged: it is seen by the periodic scan only.
        """
        if folder in self._watches:
            return
        try:
            with self._lock:  # a move of the folder is taken note of before this, or after
                watch: int = self._inotify.add_watch(self._root / folder, self._mask)
                if watch in self._folders:  # one folder by two names: the newer one counts
                    self._watches.pop(self._folders[watch], None)
                self._folders[watch] = folder
                self._watches[folder] = watch
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self._complain(folder, error)

    def drop(self, folder: str) -> None:
        """Stop watching a folder and all below it."""
        prefix = f"{folder}/" if folder else ""
        with self._lock:
            for path in [p for p in self._watches if p == folder or p.startswith(prefix)]:
                watch = self._watches.pop(path)
                self._folders.pop(watch, None)
                with contextlib.suppress(OSError):  # the kernel may have dropped it already
                    self._inotify.rm_watch(watch)

    def take_events(self) -> None:
        """Take what the kernel has to tell, without waiting."""
        for watch, mask, _cookie, name in self._inotify.read(timeout=0):
            if mask & flags.Q_OVERFLOW:
                self._touched(None)
            elif mask & flags.IGNORED:
                self._forget(watch)
            elif (folder := self._folders.get(watch)) is not None:
                self._take(folder, mask, name)

    def _take(self, folder: str, mask: int, name: str) -> None:
        if mask & flags.MOVE_SELF:
            if not folder:  # the root; of any other folder its parent has told
                self.drop("")
                self._touched(None)
            return
        path = f"{folder}/{name}" if folder else name
        is_folder = bool(mask & flags.ISDIR)
        if is_folder and mask & flags.MOVED_FROM:
            # At once: what comes from below it after this no longer bears this path.
            self.drop(path)
        if is_folder or not mask & flags.CREATE or self._is_finished(path):
            self._touched(path)

    def _forget(self, watch: int) -> None:
        """Take the word that a watched folder is gone."""
        with self._lock:
            folder = self._folders.pop(watch, None)
            if folder is not None and self._watches.get(folder) == watch:
                del self._watches[folder]

    def _is_finished(self, path: str) -> bool:
        """Say whether a file just created is whole: a hard link is, and no later event tells."""
        try:
            status = (self._root / path).lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_nlink > 1

    def _complain(self, folder: str, error: OSError) -> None:
        self.unwatched += 1
        if self.unwatched == 1:
            _logger.error(
                line(
                    "not-watched",
                    root=self._root,
                    folder=folder or ".",
                    reason=error.strerror,
                    mend="raise fs.inotify.max_user_watches, or let the service read the folder",
                )
            )
