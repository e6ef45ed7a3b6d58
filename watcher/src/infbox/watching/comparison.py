"""Comparing the stamps of known files and directories with those that they have.

Work is a generator: each step of it is short, so that a save is taken in between two steps.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from infbox.tree.files import directory_row
from infbox.watching.reader import STATS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from infbox.tree.files import Tree
    from infbox.watching.index import Index
    from infbox.watching.queues import Queues
    from infbox.watching.reader import TreeReader

_ROOT_FLAGS = getattr(os, "O_PATH", os.O_RDONLY)  # which needs no right to read it


class Comparison:
    """Finds what changed in a tree without being told.

    Args:
        tree: the files.
        index: what is known of them.
        reader: takes directories in.
        queues: for the files that changed.
        on_border: called with a directory whose ``.git`` changed.
        on_ignores: called where an ignore file of git's came.
    """

    def __init__(
        self,
        tree: Tree,
        index: Index,
        reader: TreeReader,
        queues: Queues,
        *,
        on_border: Callable[[str], None],
        on_ignores: Callable[[], None],
    ) -> None:
        self._tree = tree
        self._index = index
        self._reader = reader
        self._queues = queues
        self._on_border = on_border
        self._on_ignores = on_ignores

    def run(self, only: Collection[str] | None = None) -> Iterator[bool]:
        """Compare the tree with the index.

        Args:
            only: directories; all when None.

        Yields:
            Whether there is more to do at once.

        Raises:
            OSError: the root cannot be read.
            GitError, InputError: the tree cannot be judged.
        """
        os.lstat(self._tree.place(""))
        changed: list[str] = []
        root = os.fsencode(self._tree.place("")).rstrip(b"/") + b"/"
        for count, (path, mtime, ctime, _) in enumerate(self._index.directories()):
            if count % STATS_AT_ONCE == STATS_AT_ONCE - 1:
                yield True
            directory = os.fsdecode(path)
            if only is not None and directory not in only:
                continue
            self._reader.watch_directory(directory)
            try:
                status = os.lstat(root + path)
            except OSError:
                changed.append(directory)
                continue
            if (status.st_mtime_ns, status.st_ctime_ns) != (mtime, ctime):
                changed.append(directory)
        yield from self._compare_files(only)
        for directory in changed:
            self._list_again(directory)
            yield True

    def _compare_files(self, only: Collection[str] | None) -> Iterator[bool]:
        last = b""
        while stamps := self._index.stamps_after(last, STATS_AT_ONCE):
            last = stamps[-1][0]
            if only is not None:
                stamps = [s for s in stamps if os.fsdecode(s[0].rpartition(b"/")[0]) in only]
            with _opened(self._tree.place("")) as (descriptor, above):
                changed = [
                    os.fsdecode(path)
                    for path, size, mtime, ctime in stamps
                    if not _has_stamp(above + path, descriptor, size, mtime, ctime)
                ]
            self._queues.put_all(changed)
            yield True
        unreadable = self._reader.unreadable
        self._queues.put_all(path for path in unreadable if not self._index.directory(path))

    def _list_again(self, directory: str) -> None:
        """Look at a directory whose stamp is another: at what came into it. What went is known."""
        if directory.endswith("/.git"):
            self._on_border(directory[:-5])
            return
        place = self._tree.place(directory)
        known = self._index.directory(directory)
        try:
            status = os.lstat(place)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), place)
            with os.scandir(place) as entries:
                children = list(entries)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                self._queues.fresh[directory] = None
            else:
                self._reader.cannot_read(directory, error)
            return
        has_mark = any(child.name == ".git" for child in children)
        is_unreadable = directory in self._reader.unreadable
        if directory and (has_mark or (known and known.is_border) or is_unreadable):
            self._reader.enter(directory)
            return
        prefix = f"{directory}/" if directory else ""
        for child in children:
            path = self._tree.spelled(prefix + child.name)
            if child.name != ".git" and not self._is_known(path, child):
                self._queues.fresh[path] = None
                if child.name == ".gitignore":  # known ones are among what decides
                    self._on_ignores()
        # Even where it is not to be trusted yet: the old one must not be met again, as it would be
        # when what was mounted over the directory goes.
        with self._index.transaction():
            self._index.write_directories({directory: directory_row(status, known)})

    def _is_known(self, path: str, entry: os.DirEntry[str]) -> bool:
        if entry.is_dir(follow_symlinks=False):
            return self._index.directory(path) is not None
        return not entry.is_file(follow_symlinks=False) or self._index.row(path) is not None


@contextlib.contextmanager
def _opened(root: str) -> Iterator[tuple[int | None, bytes]]:
    """Open a root for a step: to look up what is above it for each path anew takes a sixth of the
    time of a stat. As long as it is open, its file system cannot be unmounted.

    Yields:
        The descriptor, and what is to be put before paths: nothing, but on Windows, where there is
        no descriptor, the root.

    Raises:
        OSError: the root is gone.
    """
    if os.stat not in os.supports_dir_fd:
        yield None, os.fsencode(root).rstrip(b"/") + b"/"
        return
    descriptor = os.open(root, _ROOT_FLAGS)
    try:
        yield descriptor, b""
    finally:
        os.close(descriptor)


def _has_stamp(
    place: bytes, descriptor: int | None, size: int, mtime_ns: int, ctime_ns: int
) -> bool:
    try:
        status = os.lstat(place, dir_fd=descriptor)
    except OSError:
        return False
    return (
        status.st_mtime_ns == mtime_ns and status.st_size == size and status.st_ctime_ns == ctime_ns
    )
