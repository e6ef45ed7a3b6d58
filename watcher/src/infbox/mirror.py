"""A copy of what may leave a developer's machine, for whatever carries it to a host.

What carries files, be it rsync, lsyncd or Mutagen, knows nothing of our rules, and a list of files
would be out of date when it is read. So the bytes that were judged are written beside the tree, and
only that copy is carried.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from infbox.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from infbox.files import Tree

MARK = ".infbox-mirror"
"""Says that a folder holds nothing else, so that what is in it may be removed."""

INSIDE = "tree"
"""The folder of the copy, beside the mark, which is not carried along."""


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
    """Make the folder of a copy.

    Args:
        source: the tree.
        target: the folder; it is made where it is not there.

    Raises:
        InputError: it holds something else, or one of the two lies in the other.
    """
    ours, theirs = target.resolve(), source.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise InputError(f"{target}: lies in the tree, or around it: give a folder elsewhere")
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (target / MARK).is_file():
            if any(target.iterdir()):
                raise InputError(f"{target}: holds something else: give a new folder, or empty it")
            (target / MARK).touch()
        (target / INSIDE).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{target}: {error.strerror}: give a folder that can be written"
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
    folder = target / INSIDE
    before = {os.path.relpath(path, folder) for path in folder.rglob("*") if not path.is_dir()}
    written = kept = 0
    shown: set[str] = set()
    try:
        for path in sorted(tree.scan(), key=os.fsencode):
            content = tree.readable(path)
            if content is None:
                continue
            shown.add(path)
            if _put(folder / path, content.data):
                written += 1
            else:
                kept += 1
        for path in before - shown:
            # A folder or a file may be there, or on the way, in its place.
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                (folder / path).unlink()
        _remove_empty(folder)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}: free room, or mend it") from error
    return Change(written, len(before - shown), kept)


def _put(file: Path, data: bytes) -> bool:
    """Write a file as a whole if it holds anything else; say whether it did."""
    try:
        if file.read_bytes() == data and not file.is_symlink():
            return False
    except OSError:
        pass
    _make_way(file.parent)
    if file.is_dir() and not file.is_symlink():
        _remove(file)
    beside = file.with_name(f".{file.name[:200]}.infbox-new")
    beside.write_bytes(data)
    beside.replace(file)
    return True


def _make_way(folder: Path) -> None:
    """Make a folder; a file that was there before it gives way."""
    if folder.is_dir() and not folder.is_symlink():
        return
    _make_way(folder.parent)
    folder.unlink(missing_ok=True)
    folder.mkdir()


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    folder.rmdir()


def _remove_empty(folder: Path) -> None:
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
