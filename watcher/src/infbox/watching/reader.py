"""Looking at files and folders, and writing into the index what is new about them."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from infbox.log import line
from infbox.runtime import clock
from infbox.tree.files import Walk, belonging, has_tracked
from infbox.tree.records import Folder, Row, Stamp
from infbox.watching.edit_frequency import Heats

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from infbox.tree.files import Content, Tree
    from infbox.watching.index import Index
    from infbox.watching.inotify import Watch

STATS_AT_ONCE = 250
MANY_AT_ONCE = 256
"""Files that went: more of them are forgotten a few at a time, with saves taken in between."""

SOON_SECONDS = 0.05
"""Until a file is looked at again that is being written, or of which no close was told."""

_SETTLE_SECONDS = 0.1
"""Until the stamp of a file just written can be trusted."""

_UNTRUSTED = -1

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Looker:
    """Takes files and folders into an index as they are now. For one thread.

    Args:
        name: of the workspace, for the log.
        tree: the files.
        index: what is known of them.
        watching: where folders are watched; nobody else adds to it or drops from it.
        blind: folders, absolute, whose changes inotify may not tell.
    """

    def __init__(
        self, name: str, tree: Tree, index: Index, watching: Watch, blind: Collection[str]
    ) -> None:
        self._name = name
        self._tree = tree
        self._index = index
        self._watch = watching
        self._blind = tuple(blind)
        self._heats = Heats()
        self._fresh: dict[str, None] = {}
        """To be looked at now."""
        self._leaving: dict[str, None] = {}
        """What went, to be looked at once there is no save to take in: many may go at once."""
        self._bulk: deque[str] = deque()
        """To be read when nothing else is to be done; they belong to the tree."""
        self._again: dict[str, float] = {}
        """To be looked at again, each at its time."""
        self._settling: dict[str, tuple[Stamp, float]] = {}
        """Files with the stamps that they had when read, to be trusted if they have them still."""
        self._founding = index.meta("complete") != "1"
        self._first_edit = index.last_edit
        self._anew = False
        """Whether the rules are others than those of the verdicts in the index."""
        self.edits = 0
        """How many times a file's content changed, came or went."""
        self.blind_folders: set[str] = set()
        """Entered folders whose changes inotify may not tell."""
        self.unwatched: set[str] = set()
        """Entered folders that could not be watched."""
        self.unreadable: dict[str, str] = {}
        """Files and folders that could not be read, with the reason."""

    def _look(self, paths: Iterable[str], is_judged: bool = False) -> None:
        """Look at files and folders, and write what is new about them.

        ``is_judged`` says that the rules and git were asked about their names.
        """
        rows: dict[str, Row] = {}
        gone: list[str] = []
        left: set[str] = set()
        unknown: list[str] = []
        for path in paths:
            known = self._index.row(path)
            if known and self._read(path, known, rows):
                continue
            kind = self._kind(path)
            if kind == stat.S_IFREG and not known:
                unknown += [] if self._is_behind_border(path) else [path]
            elif kind == stat.S_IFDIR:
                gone += [path] if known else []
                self._forget_folders(left)  # before one of them is taken in anew
                left.clear()
                self._enter(path)
            elif known or kind != stat.S_IFREG:
                gone += self._leave(path, known, left)
        self._forget_folders(left)
        for path in self._belonging(unknown, is_judged):
            self._read(path, None, rows)
        self._write(rows, gone)

    def _kind(self, path: str) -> int:
        """Return what a path is, 0 when it is not there; raise when the root is not there."""
        try:
            return stat.S_IFMT(os.lstat(self._tree.place(path)).st_mode)
        except OSError:
            os.lstat(self._tree.place(""))
            return 0

    def _is_quiet(self, path: str) -> bool:
        """Say whether nobody wrote to a file lately; else it is to be looked at again."""
        try:
            status = os.lstat(self._tree.place(path))
        except OSError:
            return True
        # A time in the future says nothing of when it was written.
        age = (clock.wall_ns() - status.st_mtime_ns) / 1e9
        if not 0 <= age < SOON_SECONDS or not stat.S_ISREG(status.st_mode):
            return True
        self._again[path] = time.monotonic() + SOON_SECONDS
        return False

    def _belonging(self, paths: list[str], is_judged: bool) -> Iterable[str]:
        if is_judged:
            return paths
        named = [path for path in paths if self._tree.rules.by_name(path) is None]
        if not named:
            return named
        found = belonging(self._tree.git, named)
        return [path for path in named if path in found]

    def _read(self, path: str, known: Row | None, rows: dict[str, Row]) -> bool:
        """Read a file; say whether there is one. Its row is added where it is new."""
        try:
            content = self._tree.fetch(path, None if self._anew else known)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                self._cannot_read(path, error)
            return False
        self.unreadable.pop(path, None)
        if content.stamp is None:  # it is being written
            self._again[path] = time.monotonic() + SOON_SECONDS
            return True
        row = self._row(path, content, content.stamp, known)
        if row != known:
            rows[path] = row
        return True

    def _row(self, path: str, content: Content, stamp: Stamp, known: Row | None) -> Row:
        trusted = stamp
        newest = max(stamp.ctime_ns, stamp.mtime_ns)
        if clock.may_keep_stamp(newest):
            trusted = stamp._replace(mtime_ns=_UNTRUSTED)
            self._settling[path] = (stamp, time.monotonic() + _SETTLE_SECONDS)
        else:
            self._settling.pop(path, None)
        if known and (known.digest, known.refused) == (content.digest, content.refused):
            return known._replace(
                size=trusted.size, mtime_ns=trusted.mtime_ns, ctime_ns=trusted.ctime_ns
            )
        self.edits += 1
        if self._founding and not known:
            return Row(*trusted, content.digest, content.refused, self._first_edit)
        edit = self._index.next_edit()
        heat = self._heats.edited(path, content.digest, known, edit, time.monotonic())
        return Row(*trusted, content.digest, content.refused, edit, heat)

    def _leave(self, path: str, known: Row | None, left: set[str]) -> list[str]:
        """Return the files that are no longer there with a path, a file's or a folder's. The
        folders are added to those that are left."""
        if known:
            return [path]
        self.unreadable.pop(path, None)
        if not self._index.folder(path):
            return []
        left.update({path}, self._index.folder_paths(path))
        files = sorted(self._index.paths(path))
        if len(files) > MANY_AT_ONCE:
            self._leaving.update(dict.fromkeys(files))
            return []
        return files

    def _forget_folders(self, folders: Collection[str]) -> None:
        """Watch these folders no more; what is below them is dropped with them."""
        if not folders:
            return
        dropped = ""
        for folder in sorted(folders):
            if not dropped or not folder.startswith(dropped):
                dropped = f"{folder}/"
                self._watch.drop(self._tree.place(folder))
        self.unwatched.difference_update(folders)
        self.blind_folders.difference_update(folders)
        for folder in folders:
            self.unreadable.pop(folder, None)
        with self._index.transaction():
            self._index.write_folders({}, folders)

    def _write(self, rows: dict[str, Row], gone: list[str]) -> None:
        """Write what was found in one transaction."""
        if not rows and not gone:
            return
        for path in gone:
            if row := self._index.row(path):
                self._heats.bury(path, row)
        taken_back = self._heats.taken_back()
        if len(rows) == 1 and not gone and not taken_back:
            self._index.write_one(*next(iter(rows.items())))
            return
        with self._index.transaction():
            self._index.write(rows, gone)
            self._index.warm_up(taken_back)
        self.edits += len(gone)

    def _settle(self, now: float) -> None:
        """Trust the stamps of files that are as they were when they were read a while ago."""
        due = take_due(self._settling, now, key=lambda entry: entry[1])
        rows: dict[str, Row] = {}
        for path, (stamp, _) in due[:STATS_AT_ONCE]:
            known = self._index.row(path)
            if known is None:
                continue
            try:
                found = Stamp.of(os.lstat(self._tree.place(path)))
            except OSError:
                continue
            if found == stamp:
                rows[path] = known._replace(mtime_ns=stamp.mtime_ns, ctime_ns=stamp.ctime_ns)
            else:
                self._fresh[path] = None
        for path, entry in due[STATS_AT_ONCE:]:
            self._settling[path] = entry
        if rows:
            with self._index.transaction():
                self._index.write(rows)

    def _cannot_read(self, path: str, error: OSError) -> None:
        if path not in self.unreadable:
            _logger.warning(
                line(
                    "path-not-readable",
                    workspace=self._name,
                    path=path,
                    reason=error.strerror,
                    mend="let the service's user read it; it is tried again",
                )
            )
        self.unreadable[path] = error.strerror or str(error)

    def _enter(self, folder: str) -> None:
        """Take in a folder that came, or whose border did, with all that is in it."""
        if folder.rpartition("/")[2] == ".git" or self._is_behind_border(folder):
            return
        if folder and self._is_closed(folder):
            return
        walk = Walk(self._tree, self._watch_folder)
        for _ in walk.run(folder):
            pass
        self._note(walk)
        stored = self._index.paths(folder)
        present = {path for path in walk.files if self._tree.rules.by_name(path) is None}
        self._forget_folders(self._index.folder_paths(folder) - walk.folders.keys())
        self._write({}, sorted(stored - present))
        self._bulk.extend(sorted(present))

    def _is_behind_border(self, path: str) -> bool:
        """Say whether a path lies right in a folder that is a repository of its own."""
        parent = self._index.folder(path.rpartition("/")[0])
        return parent is not None and parent.is_border

    def _is_closed(self, folder: str) -> bool:
        """Say whether git has no files in a folder and never will, as its rules are now."""
        git = self._tree.git
        return folder in git.ignored([folder]) and not has_tracked(git, folder)

    def _note(self, walk: Walk) -> None:
        """Write the folders of a walk, and keep an eye on those that could not be read."""
        folders = {**walk.folders, **dict.fromkeys(walk.unreadable, Folder(-1, -1))}
        with self._index.transaction():
            self._index.write_folders(folders)
        for folder, reason in walk.unreadable.items():
            self._cannot_read(folder, OSError(errno.EACCES, reason))
        for folder in walk.folders.keys() & self.unreadable.keys():
            del self.unreadable[folder]

    def _watch_folder(self, folder: str) -> None:
        place = self._tree.place(folder)
        if self._blind and _is_in_any(place, self._blind):
            self.blind_folders.add(folder)
        try:
            self._watch.add(place)
        except OSError as error:
            if error.errno != errno.EACCES:  # that one is told of when it is read
                self._cannot_watch(folder, error)
            return
        self.unwatched.discard(folder)

    def _cannot_watch(self, folder: str, error: OSError) -> None:
        is_first = not self.unwatched
        self.unwatched.add(folder)
        if is_first:
            _logger.error(
                line(
                    "not-watched",
                    workspace=self._name,
                    folder=folder or ".",
                    reason="the limit of inotify watches is reached"
                    if error.errno == errno.ENOSPC
                    else error.strerror,
                    mend="raise fs.inotify.max_user_watches; until then such folders are polled",
                )
            )


def _is_in_any(place: str, spots: Iterable[str]) -> bool:
    return any(place == spot or place.startswith(f"{spot}/") for spot in spots)


def take_due(
    queue: dict[str, T], now: float, key: Callable[[T], float] | None = None
) -> list[tuple[str, T]]:
    """Take from the front of a queue what is due."""
    due: list[tuple[str, T]] = []
    for path, entry in queue.items():
        moment: float = key(entry) if key else entry  # type: ignore[assignment]
        if moment > now:
            break
        due.append((path, entry))
    for path, _ in due:
        del queue[path]
    return due
