"""A copy of what may leave a developer's machine, for whatever carries it to a host.

What carries files, be it rsync, lsyncd or Mutagen, knows nothing of our rules, and a list of files
would be out of date when it is read. So the bytes that were judged are written beside the tree, and
only that copy is carried.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING, NamedTuple

from infbox.config import MAX_FILE_BYTES
from infbox.errors import InputError
from infbox.log import line
from infbox.mirror.carriers import CarryError
from infbox.tree.files import Tree
from infbox.tree.spelling import composed, folded
from infbox.watching.follower import Follower
from infbox.watching.index import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

MARK = ".infbox-mirror"
"""Says that a directory holds nothing else, so that what is in it may be removed."""

INSIDE = "tree"
"""The directory of the copy, beside the mark, which is not carried along."""

_NEW = "new"  # a file that is being written, outside of what is carried
_STATE = "state"  # what is known of the tree
_POLL_SECONDS = 5.0
_RETRY_SECONDS = 3.0

_logger = logging.getLogger(__name__)


class Change(NamedTuple):
    """What was done to a copy.

    Attributes:
        written: how many files are new or have other bytes.
        removed: how many are not there any more, or may not be.
        kept: how many are as they were.
    """

    written: int
    removed: int
    kept: int


def prepare(source: Path, target: Path) -> None:
    """Make the directory of a copy.

    Args:
        source: the tree.
        target: the directory; it is made where it is not there.

    Raises:
        InputError: it holds something else, or one of the two lies in the other.
    """
    ours, theirs = target.resolve(), source.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise InputError(
            f"{target}: contains the tree, or is inside it: give a directory elsewhere"
        )
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (target / MARK).is_file():
            if any(target.iterdir()):
                raise InputError(
                    f"{target}: holds something else: give a new directory, or empty it"
                )
            (target / MARK).touch()
        (target / INSIDE).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{target}: {error.strerror}: give a directory that can be written"
        ) from error


def mirror(tree: Tree, target: Path) -> Change:
    """Bring a copy up to a tree; what is the same is not touched.

    Args:
        tree: that is copied.
        target: as ``prepare`` made it.

    Raises:
        InputError: it cannot be written.
        GitError: git could not say what belongs to the tree.
    """
    copy = Copy(target)
    written = kept = 0
    shown: set[str] = set()
    try:
        for path in sorted(tree.scan(), key=os.fsencode):
            content = tree.readable(path)
            if content is None:
                continue
            shown.add(path)
            if copy.put(path, content.data):
                written += 1
            else:
                kept += 1
        return Change(written, copy.keep_only(shown), kept)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}: free space, or fix it") from error


def follow(
    source: Path, target: Path, told: Callable[[Change], None], carry: Callable[[], None] | None
) -> None:
    """Keep a copy up to a tree as it is saved, until the process is stopped.

    The tree is followed as the watcher follows its own. What is known of it is kept beside the
    copy, so that a start need not read it all.

    Args:
        source: the tree.
        target: as ``prepare`` made it.
        told: called with each change of the copy.
        carry: called after each, to carry the copy on; it may raise CarryError, and is called again
            then. None for no carrying.

    Raises:
        InputError: the tree cannot be judged, or following it ended.
    """
    follower = Follower(
        name=source.name,
        root=source,
        state_dir=target / _STATE,
        max_file_bytes=MAX_FILE_BYTES,
        poll_seconds=_POLL_SECONDS,
    )
    follower.start()
    following = _Following(follower, Tree(source), Copy(target), told, carry)
    with closing(following):
        while follower.changes.wait() is not None:
            following.bring_up()
    raise InputError(f"{source}: is no longer followed: {follower.crashed}")


class _Following:
    """The copy of a tree that is followed."""

    def __init__(
        self,
        follower: Follower,
        tree: Tree,
        copy: Copy,
        told: Callable[[Change], None],
        carry: Callable[[], None] | None,
    ) -> None:
        self._follower = follower
        self._index = Reader(follower.index_file)
        self._tree = tree
        self._copy = copy
        self._told = told
        self._carry = carry
        self._known: dict[str, str] = {}
        self._is_first = self._is_behind = True
        self._failure = ""
        self._retry: threading.Timer | None = None

    def bring_up(self) -> None:
        """Bring the copy up to the index, and carry it on; what fails is tried again."""
        try:
            change = self._take({file.path: file.digest for file in self._index.kept()})
            if change.written or change.removed:
                self._is_behind = True
                self._told(change)
            if self._carry and self._is_behind:
                self._carry()
            self._is_behind, self._failure = False, ""
        except (OSError, sqlite3.Error, CarryError) as error:
            self._try_again(str(error))

    def _try_again(self, reason: str) -> None:
        """Have it tried again soon, however many saves come until then."""
        if reason != self._failure:
            _logger.warning(line("not-carried", reason=reason, hint="the mirror retries"))
        self._failure = reason
        if self._retry:
            self._retry.cancel()
        self._retry = threading.Timer(_RETRY_SECONDS, self._follower.changes.mark, (None,))
        self._retry.daemon = True
        self._retry.start()

    def close(self) -> None:
        """Follow no more."""
        self._follower.stop()
        self._index.close()
        self._tree.close()

    def _take(self, wanted: Mapping[str, str]) -> Change:
        """Write what differs from what was written last, and remove what is not wanted.

        A file whose bytes are others than those that were judged waits: it is told of again. While
        the tree cannot be followed its index may be half of it, so that nothing is removed.
        """
        written = 0
        for path, digest in wanted.items():
            if self._known.get(path) == digest:
                continue
            content = self._tree.readable(path, digest)
            if content and content.digest == digest:
                written += self._copy.put(path, content.data)
                self._known[path] = digest
        removed = 0
        if not self._follower.failure:
            gone = self._known.keys() - wanted.keys()
            removed = self._copy.keep_only(wanted) if self._is_first else self._copy.remove(gone)
            self._known = {path: self._known[path] for path in self._known.keys() & wanted.keys()}
            self._is_first = False
        return Change(written, removed, len(wanted) - written)


class Copy:
    """The files of a copy.

    Args:
        target: as ``prepare`` made it.
    """

    def __init__(self, target: Path) -> None:
        self.directory = target / INSIDE
        self._new = target / _NEW
        self._folds = _folds(target)
        self._spelled = {folded(path): path for path in self._found()} if self._folds else {}

    def put(self, path: str, data: bytes) -> bool:
        """Write a file as a whole if it holds anything else; say whether it did.

        Raises:
            OSError: it cannot be written.
        """
        if self._folds:
            before = self._spelled.get(folded(path), path)
            if composed(before) != composed(path):
                self.remove({before})  # or it would go on to have that name
            self._spelled[folded(path)] = path
        return _put(self.directory / path, data, self._new)

    def keep_only(self, paths: Collection[str]) -> int:
        """Remove all others; return how many there were."""
        if not self._folds:
            return self.remove({path for path in self._found() if path not in paths})
        kept = {folded(path) for path in paths}
        return self.remove({path for path in self._found() if folded(path) not in kept})

    def remove(self, paths: Collection[str]) -> int:
        """Remove files, and directories that are empty then; return how many files there were."""
        if self._folds:  # what is written by another name by now stays
            paths = [path for path in paths if self._spelled.get(folded(path), path) == path]
        for path in paths:
            self._spelled.pop(folded(path), None)
            file = self.directory / path
            # A directory or a file may be there, or on the way, in its place.
            if not file.is_dir() or file.is_symlink():
                with suppress(FileNotFoundError, NotADirectoryError):
                    file.unlink()
        if paths:
            _remove_empty(self.directory)
        return len(paths)

    def _found(self) -> Iterator[str]:
        for path in self.directory.rglob("*"):
            if not path.is_dir() or path.is_symlink():
                yield path.relative_to(self.directory).as_posix()


def _folds(target: Path) -> bool:
    """Say whether names that differ only in case are one file's here."""
    return (target / MARK.upper()).exists()


def _put(file: Path, data: bytes, beside: Path) -> bool:
    """Write a file as a whole if it holds anything else; say whether it did."""
    try:
        if file.read_bytes() == data and not file.is_symlink():
            return False
    except OSError:
        pass
    _make_way(file.parent)
    if file.is_dir() and not file.is_symlink():
        _remove(file)
    beside.write_bytes(data)
    beside.replace(file)
    return True


def _make_way(directory: Path) -> None:
    """Make a directory; a file that was there before it gives way."""
    if directory.is_dir() and not directory.is_symlink():
        return
    _make_way(directory.parent)
    directory.unlink(missing_ok=True)
    directory.mkdir()


def _remove(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    directory.rmdir()


def _remove_empty(directory: Path) -> None:
    for path in sorted((p for p in directory.rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
