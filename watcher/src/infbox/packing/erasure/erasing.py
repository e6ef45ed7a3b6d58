"""What a pack shows and must not show any more: ignored by now, secret, or refused by newer rules.

A file that a person deleted is told to be gone, and what stood above stays: it was everybody's to
read. One that must not be shown leaves no text: the pack begins anew before the first entry about
it.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from infbox.packing.pack import Kind
from infbox.runtime.database import transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from infbox.packing.pack import Entry
    from infbox.tree.files import Tree
    from infbox.watching.index import Reader

MOST_ERASED = 10_000
"""Texts that are remembered for the overlays, which may have to erase them too."""

# Beside the store's own tables, in none of its versions: a program that does not know them goes on.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS erased (
    path BLOB NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (path, digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS judged_by (
    one INTEGER PRIMARY KEY CHECK (one = 1), rules TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS erasing (
    one INTEGER PRIMARY KEY CHECK (one = 1), begins_anew INTEGER NOT NULL
);
"""
_ON_MAP = re.compile(r"^(?!#)(?P<path>[^\n]+?)(?:: [^\n]*)?$", re.MULTILINE)

Text = tuple[str, str]
"""A path and the digest of a content of it."""


class Eraser:
    """Says what of a workspace's packs must be erased. Used by one thread at a time.

    Args:
        database: of the pack's store.
        index: what is known of the files.
        tree: the files.
    """

    def __init__(self, database: sqlite3.Connection, index: Reader, tree: Tree) -> None:
        self._database = database
        self._index = index
        self._tree = tree
        self._unindexed: frozenset[str] = frozenset()
        database.executescript(_SCHEMA)
        found = database.execute("SELECT rules FROM judged_by").fetchone()
        self._judged_by: str = found[0] if found else ""
        rows = database.execute("SELECT path, digest FROM erased")
        self._texts = frozenset((os.fsdecode(path), digest) for path, digest in rows)
        self._take_up()

    @property
    def texts(self) -> frozenset[Text]:
        """What was erased, for the overlays. For any thread."""
        return self._texts

    @property
    def is_judged(self) -> bool:
        """Whether what is stored was judged by the rules as they are now."""
        return self._judged_by == self._tree.policy

    def forbidden(self, entries: Sequence[Entry]) -> set[str]:
        """Return the paths that entries tell of and that must not be shown.

        Raises:
            OSError, sqlite3.Error: it cannot be known at present.
            GitError: git could not answer.
        """
        paths = told(entries)
        missing = paths - self._index.digests(paths).keys()
        there = {path for path in missing if self._is_file(path)}
        refused = self._index.refused(there)
        rest = frozenset(there - refused)
        if not rest - self._unindexed:
            return refused
        # What has just been moved or written is not in the index for a moment, and comes back.
        self._tree.refresh()
        self._unindexed = frozenset(self._tree.belonging(rest))
        return refused | (rest - self._unindexed)

    def refused_texts(self, entries: Sequence[Entry]) -> set[Text]:
        """Return the texts of entries that the rules as they are now refuse."""
        rules = self._tree.rules
        found: set[Text] = set()
        for entry in entries:
            if not entry.path:
                continue
            text, content = entry.text.encode(), entry.content.encode()
            if (
                rules.by_name(entry.path)
                or (entry.old_path and rules.by_name(entry.old_path))
                or rules.by_content(content, entry.path)
                or rules.secret_in(text, entry.path)
            ):
                found.add((entry.path, entry.digest))
        return found

    def begin(self, entries: Iterable[Entry], paths: set[str], texts: set[Text]) -> None:
        """Note what is erased, before it is: what is cut off goes on with the next start.

        Args:
            entries: of the packs before.
            paths: all texts of which are erased.
            texts: that are erased.
        """
        gone = {(e.path, e.digest) for e in entries if e.path in paths} | texts
        self._texts = frozenset([*gone, *(self._texts - gone)][:MOST_ERASED])
        with transaction(self._database):
            self._database.execute("DELETE FROM erased")
            self._database.executemany(
                "INSERT INTO erased VALUES (?, ?)",
                [(os.fsencode(path), digest) for path, digest in self._texts],
            )
            self._database.execute(
                "INSERT OR REPLACE INTO erasing VALUES (1, ?)", (self.begins_anew or bool(texts),)
            )
        self._take_up()

    def judged(self) -> None:
        """Note that all that is stored was judged by the rules as they are now."""
        self._judged_by = self._tree.policy
        with transaction(self._database):
            self._database.execute(
                "INSERT OR REPLACE INTO judged_by VALUES (1, ?)", (self._judged_by,)
            )

    def began_anew(self) -> None:
        """Note that no earlier pack is used any more."""
        with transaction(self._database):
            self._database.execute("UPDATE erasing SET begins_anew = 0")
        self._take_up()

    def forgotten(self) -> None:
        """Note that nothing is left of what was erased."""
        with transaction(self._database):
            self._database.execute("DELETE FROM erasing")
        self._take_up()

    def _take_up(self) -> None:
        found = self._database.execute("SELECT begins_anew FROM erasing").fetchone()
        self.must_forget = found is not None
        """Whether what was deleted may still be in the file or its log."""
        self.begins_anew = found is not None and bool(found[0])
        """Whether no earlier pack may be used any more, since a text in them is refused by now
        though its file is not."""

    def _is_file(self, path: str) -> bool:
        try:
            return stat.S_ISREG(os.lstat(self._tree.place(path)).st_mode)
        except OSError:
            return False


def told(entries: Iterable[Entry]) -> set[str]:
    """Return all paths that entries tell of, those on a map too."""
    found: set[str] = set()
    for entry in entries:
        found |= {path for path in (entry.path, entry.old_path) if path} | on_map(entry)
    return found


def on_map(entry: Entry) -> set[str]:
    """Return the paths that a map names; none where an entry is none."""
    if entry.kind is not Kind.MAP:
        return set()
    return {found["path"] for found in _ON_MAP.finditer(entry.text)}


def first_about(
    entries: Sequence[Entry], paths: Iterable[str], texts: Iterable[Text] = ()
) -> int | None:
    """Return the place of the first entry about some paths or texts; None where there is none."""
    paths, texts = frozenset(paths), frozenset(texts)
    for place, entry in enumerate(entries):
        is_told = not paths.isdisjoint(told([entry]))
        if is_told or (entry.path, entry.digest) in texts:
            return place
    return None
