"""Which paths a workspace's packs have ever shown, and what became of them.

Whoever keeps an earlier pack, as the gateway does for a conversation that began with it, must know
two things that the present pack does not tell: which of the files it shows are other ones by now,
though the present pack shows them no more; and which of them must not be shown any more.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infbox.packing.pack import plain
from infbox.runtime.database import transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from infbox.packing.pack import Entry
    from infbox.tree.files import Tree
    from infbox.watching.index import Reader

MOST_PATHS = 50_000
"""Paths that are remembered. With more, all is forgotten, and no earlier pack may be used."""

# Beside the store's own tables, in none of its versions: a program that does not know them goes on.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS shown_paths (
    path BLOB PRIMARY KEY, withdrawn INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epoch (
    one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Past:
    """What a publication says of the packs before it.

    Attributes:
        epoch: names the time since which all is remembered; earlier packs of another must not be
            used.
        withdrawn: paths that are there and must not be shown, each with the number of the first
            text that was published knowing that: no earlier text that shows it may be used.
        others: paths that earlier packs show and this one does not, each with the digest of the
            file as it is now; empty where it is gone or withdrawn.
    """

    epoch: str = ""
    withdrawn: tuple[tuple[str, int], ...] = ()
    others: tuple[tuple[str, str], ...] = ()


class ShownPaths:
    """The paths that one workspace's packs have shown. Used by one thread at a time.

    Args:
        database: of the pack's store.
        index: what is known of the files.
        tree: the files.
    """

    def __init__(self, database: sqlite3.Connection, index: Reader, tree: Tree) -> None:
        self._database = database
        self._index = index
        self._tree = tree
        database.executescript(_SCHEMA)
        self._paths: dict[str, int] = {
            os.fsdecode(path): withdrawn
            for path, withdrawn in database.execute("SELECT path, withdrawn FROM shown_paths")
        }
        found = database.execute("SELECT name FROM epoch").fetchone()
        self._epoch: str = found[0] if found else ""

    def past(self, entries: Sequence[Entry], version: int, *, begin_anew: bool = False) -> Past:
        """Take note of what a pack shows, and return what is to be said of those before it.

        Args:
            entries: of the pack.
            version: number of its text.
            begin_anew: whether no earlier pack may be used any more, whatever it shows.

        Raises:
            sqlite3.Error: it cannot be read or written at present.
        """
        shown = {path for entry in entries for path in (entry.path, entry.old_path) if path}
        if not self._epoch or len(self._paths.keys() | shown) > MOST_PATHS:
            self._begin()
        if begin_anew:
            self._begin()
        digests = self._index.digests(self._paths.keys() | shown)
        withdrawn = {
            path: self._paths.get(path, 0) or version
            for path in self._paths.keys() | shown
            if path not in digests and self._is_there(path)
        }
        self._write(dict.fromkeys(self._paths.keys() | shown, 0) | withdrawn)
        others = sorted(self._paths.keys() - shown)
        return Past(
            self._epoch,
            tuple((plain(path), number) for path, number in sorted(withdrawn.items())),
            tuple((plain(path), digests.get(path, "")) for path in others),
        )

    def _begin(self) -> None:
        self._epoch, self._paths = secrets.token_hex(8), {}
        with transaction(self._database):
            self._database.execute("DELETE FROM shown_paths")
            self._database.execute("INSERT OR REPLACE INTO epoch VALUES (1, ?)", (self._epoch,))

    def _write(self, paths: dict[str, int]) -> None:
        """Keep these paths, writing those that are new or another one."""
        changed = [item for item in paths.items() if self._paths.get(item[0]) != item[1]]
        if changed:
            rows = [(os.fsencode(path), withdrawn) for path, withdrawn in changed]
            with transaction(self._database):
                self._database.executemany("INSERT OR REPLACE INTO shown_paths VALUES (?, ?)", rows)
        self._paths = paths

    def _is_there(self, path: str) -> bool:
        """Say whether there is something at a path, which then is ignored, secret, or the like."""
        return os.path.lexists(self._tree.place(path))
