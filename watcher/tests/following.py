"""A follower of one tree, and what its index says."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from infbox.tree.files import Tree
from infbox.watching.follower import Follower
from infbox.watching.index import Reader
from serving import until
from trees import fill


class Following:
    """A follower of one tree, and what its index says."""

    def __init__(self, follower: Follower, root: Path) -> None:
        self.follower = follower
        self.root = root
        self.reader = Reader(follower.index_file)

    def indexed(self) -> dict[str, str]:
        """Digests of the files that may enter the pack, by path."""
        with contextlib.suppress(sqlite3.Error):
            return {file.path: file.digest for file in self.reader.kept()}
        return {}

    def agrees(self, seconds: float = 10.0) -> None:
        """Wait until the index is what a fresh look says; and go on to be."""
        until(lambda: self.indexed() == fresh(self.root), seconds)

    def settles(self) -> None:
        """Wait until nothing is left to be done."""
        self.agrees()
        self.settles_itself()

    def settles_itself(self) -> None:
        """Wait until nothing is left to be done, right or wrong.

        For a moment nothing is due and nothing begun; a tree that was just made is scanned twice.
        """
        worked = time.monotonic()

        def has_rested() -> bool:
            nonlocal worked
            worked = worked if self.rests() else time.monotonic()
            return time.monotonic() - worked > 0.1

        until(has_rested)

    def rests(self) -> bool:
        """Say whether nothing is done or due."""
        reconciler = self.follower._reconciler
        assert reconciler is not None
        is_done = reconciler.due(False) is None and not reconciler.queues.is_busy
        return is_done and self.follower._work is None


def fresh(root: Path) -> dict[str, str]:
    """What a fresh look at a tree says; waiting for a tree that changes meanwhile is up to
    the caller."""
    tree = Tree(root)
    try:
        contents = {path: tree.readable(path) for path in tree.scan()}
    finally:
        tree.close()
    return {path: content.digest for path, content in contents.items() if content}


@contextlib.contextmanager
def following(root: Path, **settings: object) -> Iterator[Following]:
    """Follow a tree until the block is left."""
    follower = started(root, **settings)
    seen = Following(follower, root)
    try:
        yield seen
    finally:
        seen.reader.close()
        stop(follower)
    assert follower.crashed is None


def follows_a_root_made_again(root: Path) -> None:
    """Follow a tree whose root is removed and made again; it is tried again after a moment."""
    fill(root, {"a.py": "a\n", "d/b.py": "b\n"})
    with following(root) as seen:
        shutil.rmtree(root)
        until(lambda: seen.follower.failure)
        root.mkdir()
        fill(root, {"d/new.py": "n\n"})
        until(lambda: not seen.follower.failure)
        seen.agrees()
        fill(root, {"d/c.py": "c\n"})
        seen.agrees()


def started(root: Path, **settings: object) -> Follower:
    given = {"name": "shop", "max_file_bytes": 256 * 1024, "poll_seconds": 0.1, **settings}
    follower = Follower(root=root, state_dir=root.parent / "state", **given)  # type: ignore[arg-type]
    follower.start()
    assert follower.scanned.wait(20)
    return follower


def stop(follower: Follower) -> None:
    follower.stop()
    follower.join(10)
    assert not follower.is_alive()
