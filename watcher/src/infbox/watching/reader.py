"""Looking at files and directories, and writing into the index what is new about them."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from typing import TYPE_CHECKING

from infbox.log import line
from infbox.runtime import clock
from infbox.tree.files import Walk, belonging, has_tracked
from infbox.tree.records import Directory, Row, Stamp
from infbox.watching.edit_frequency import EditFrequency
from infbox.watching.queues import SOON_SECONDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from infbox.tree.files import Content, Tree
    from infbox.watching.events import Watch
    from infbox.watching.index import Index
    from infbox.watching.queues import Queues

STATS_AT_ONCE = 250
MANY_AT_ONCE = 256
"""Files that went: more of them are forgotten a few at a time, with saves taken in between."""

_UNTRUSTED = -1

_logger = logging.getLogger(__name__)


class TreeReader:
    """Takes files and directories into an index as they are now. For one thread.

    Args:
        name: of the workspace, for the log.
        tree: the files.
        index: what is known of them.
        watching: where directories are watched; nobody else adds to it or drops from it.
        queues: for what is to be looked at again.
        blind: directories, absolute, whose changes events may not tell.
    """

    def __init__(
        self,
        *,
        name: str,
        tree: Tree,
        index: Index,
        watching: Watch,
        queues: Queues,
        blind: Collection[str],
    ) -> None:
        self._name = name
        self._tree = tree
        self._index = index
        self._watch = watching
        self._blind = tuple(blind)
        self._edit_frequency = EditFrequency()
        self._queues = queues
        self.is_founding = index.meta("complete") != "1"
        """Whether the tree is indexed for the first time, so that what is found is no save."""
        self._first_edit = index.last_edit
        self.judges_anew = False
        """Whether the rules are others than those of the verdicts in the index."""
        self.edits = 0
        """How many times a file's content changed, came or went."""
        self.blind_directories: set[str] = set()
        """Entered directories whose changes events may not tell."""
        self.unwatched: set[str] = set()
        """Entered directories that could not be watched."""
        self.unreadable: dict[str, str] = {}
        """Files and directories that could not be read, with the reason."""

    def read(self, paths: Iterable[str], is_judged: bool = False) -> None:
        """Look at files and directories, and write what is new about them.

        ``is_judged`` says that the rules and git were asked about their names.
        """
        rows: dict[str, Row] = {}
        gone: list[str] = []
        left: set[str] = set()
        unknown: list[str] = []
        for path in paths:
            known = self._index.row(path)
            if known and self._read_file(path, known, rows):
                continue
            kind = self.kind(path)
            if kind == stat.S_IFREG and not known:
                unknown += [] if self._is_behind_border(path) else [path]
            elif kind == stat.S_IFDIR:
                gone += [path] if known else []
                self.forget_directories(left)  # before one of them is taken in anew
                left.clear()
                self.enter(path)
            elif known or kind != stat.S_IFREG:
                gone += self._leave(path, known, left)
        self.forget_directories(left)
        for path in self._belonging(unknown, is_judged):
            self._read_file(path, None, rows)
        self.write(rows, gone)

    def kind(self, path: str) -> int:
        """Return what a path is, 0 when it is not there; raise when the root is not there."""
        try:
            return stat.S_IFMT(os.lstat(self._tree.place(path)).st_mode)
        except OSError:
            os.lstat(self._tree.place(""))
            return 0

    def is_quiet(self, path: str) -> bool:
        """Say whether nobody wrote to a file lately; else it is to be looked at again."""
        try:
            status = os.lstat(self._tree.place(path))
        except OSError:
            return True
        # A time in the future says nothing of when it was written.
        age = (clock.wall_ns() - status.st_mtime_ns) / 1e9
        if not 0 <= age < SOON_SECONDS or not stat.S_ISREG(status.st_mode):
            return True
        self._queues.postpone(path, time.monotonic())
        return False

    def _belonging(self, paths: list[str], is_judged: bool) -> Iterable[str]:
        if is_judged:
            return paths
        named = [path for path in paths if self._tree.rules.by_name(path) is None]
        if not named:
            return named
        found = belonging(self._tree.git, named)
        return [path for path in named if path in found]

    def _read_file(self, path: str, known: Row | None, rows: dict[str, Row]) -> bool:
        """Read a file; say whether there is one. Its row is added where it is new."""
        try:
            content = self._tree.fetch(path, None if self.judges_anew else known)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                self.cannot_read(path, error)
            return False
        self.unreadable.pop(path, None)
        if content.stamp is None:  # it is being written
            self._queues.postpone(path, time.monotonic())
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
            self._queues.settle(path, stamp, time.monotonic())
        else:
            self._queues.is_settled(path)
        if known and (known.digest, known.refused) == (content.digest, content.refused):
            return known._replace(
                size=trusted.size, mtime_ns=trusted.mtime_ns, ctime_ns=trusted.ctime_ns
            )
        self.edits += 1
        if self.is_founding and not known:
            return Row(*trusted, content.digest, content.refused, self._first_edit)
        edit = self._index.next_edit()
        heat = self._edit_frequency.edited(path, content.digest, known, edit, time.monotonic())
        return Row(*trusted, content.digest, content.refused, edit, heat)

    def _leave(self, path: str, known: Row | None, left: set[str]) -> list[str]:
        """Return the files that are no longer there with a path, a file's or a directory's. The
        directories are added to those that are left."""
        if known:
            return [path]
        self.unreadable.pop(path, None)
        if not self._index.directory(path):
            return []
        left.update({path}, self._index.directory_paths(path))
        files = sorted(self._index.paths(path))
        if len(files) > MANY_AT_ONCE:
            self._queues.leaving.update(dict.fromkeys(files))
            return []
        return files

    def forget_directories(self, directories: Collection[str]) -> None:
        """Watch these directories no more; what is below them is dropped with them."""
        if not directories:
            return
        dropped = ""
        for directory in sorted(directories):
            if not dropped or not directory.startswith(dropped):
                dropped = f"{directory}/"
                self._watch.drop(self._tree.place(directory))
        self.unwatched.difference_update(directories)
        self.blind_directories.difference_update(directories)
        for directory in directories:
            self.unreadable.pop(directory, None)
        with self._index.transaction():
            self._index.write_directories({}, directories)

    def write(self, rows: dict[str, Row], gone: list[str]) -> None:
        """Write what was found in one transaction."""
        if not rows and not gone:
            return
        for path in gone:
            if row := self._index.row(path):
                self._edit_frequency.bury(path, row)
        taken_back = self._edit_frequency.taken_back()
        if len(rows) == 1 and not gone and not taken_back:
            self._index.write_one(*next(iter(rows.items())))
            return
        with self._index.transaction():
            self._index.write(rows, gone)
            self._index.warm_up(taken_back)
        self.edits += len(gone)

    def settle(self, now: float) -> None:
        """Trust the stamps of files that are as they were when they were read a while ago."""
        rows: dict[str, Row] = {}
        for path, stamp in self._queues.take_settled(now, STATS_AT_ONCE):
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
                self._queues.fresh[path] = None
        if rows:
            with self._index.transaction():
                self._index.write(rows)

    def cannot_read(self, path: str, error: OSError) -> None:
        if path not in self.unreadable:
            _logger.warning(
                line(
                    "path-not-readable",
                    workspace=self._name,
                    path=path,
                    reason=error.strerror,
                    hint="let the service's user read it; the watcher retries",
                )
            )
        self.unreadable[path] = error.strerror or str(error)

    def enter(self, directory: str) -> None:
        """Take in a directory that came, or whose border did, with all that is in it."""
        if directory.rpartition("/")[2] == ".git" or self._is_behind_border(directory):
            return
        if directory and self._is_closed(directory):
            return
        walk = Walk(self._tree, self.watch_directory)
        for _ in walk.run(directory):
            pass
        self.note(walk)
        stored = self._index.paths(directory)
        present = {path for path in walk.files if self._tree.rules.by_name(path) is None}
        self.forget_directories(self._index.directory_paths(directory) - walk.directories.keys())
        self.write({}, sorted(stored - present))
        self._queues.bulk.extend(sorted(present))

    def _is_behind_border(self, path: str) -> bool:
        """Say whether a path lies right in a directory that is a repository of its own."""
        parent = self._index.directory(path.rpartition("/")[0])
        return parent is not None and parent.is_border

    def _is_closed(self, directory: str) -> bool:
        """Say whether git has no files in a directory and never will, as its rules are now."""
        git = self._tree.git
        return directory in git.ignored([directory]) and not has_tracked(git, directory)

    def note(self, walk: Walk) -> None:
        """Write the directories of a walk, and keep an eye on those that could not be read."""
        directories = {**walk.directories, **dict.fromkeys(walk.unreadable, Directory(-1, -1))}
        with self._index.transaction():
            self._index.write_directories(directories)
        for directory, reason in walk.unreadable.items():
            self.cannot_read(directory, OSError(errno.EACCES, reason))
        for directory in walk.directories.keys() & self.unreadable.keys():
            del self.unreadable[directory]

    def watch_directory(self, directory: str) -> None:
        place = self._tree.place(directory)
        if self._blind and _is_in_any(place, self._blind):
            self.blind_directories.add(directory)
        try:
            self._watch.add(place)
        except OSError as error:
            if error.errno != errno.EACCES:  # that one is told of when it is read
                self._cannot_watch(directory, error)
            return
        self.unwatched.discard(directory)

    def _cannot_watch(self, directory: str, error: OSError) -> None:
        is_first = not self.unwatched
        self.unwatched.add(directory)
        if is_first:
            _logger.error(
                line(
                    "not-watched",
                    workspace=self._name,
                    directory=directory or ".",
                    reason="the limit of inotify watches is reached"
                    if error.errno == errno.ENOSPC
                    else error.strerror,
                    hint="raise fs.inotify.max_user_watches; until then they are polled",
                )
            )


def _is_in_any(place: str, spots: Iterable[str]) -> bool:
    return any(place == spot or place.startswith(f"{spot}/") for spot in spots)
