"""What the watcher knows of a workspace, kept in SQLite so that a restart starts from there."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infbox.files import Stamp
from infbox.pack import Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

SCHEMA_VERSION = 1

# Paths are blobs: a file name is bytes and need not be text.
_SCHEMA = """
CREATE TABLE files (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL, hash TEXT NOT NULL, refused TEXT, edit INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE entries (
    position INTEGER PRIMARY KEY, kind TEXT NOT NULL, path BLOB NOT NULL, hash TEXT NOT NULL,
    tokens INTEGER NOT NULL, text TEXT NOT NULL
);
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL,
    version INTEGER NOT NULL, edit INTEGER NOT NULL, policy TEXT NOT NULL
);
INSERT INTO state VALUES (1, 0, 0, 0, '');
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A file as it was last read.

    Attributes:
        stamp: size in bytes and times in nanoseconds.
        digest: xxh3_128 of the bytes, hex.
        refused: the rule about content that keeps it out, or None.
        edit: a number that grows with each edit seen; 0 for a file as it was first found.
    """

    stamp: Stamp
    digest: str
    refused: str | None
    edit: int


@dataclass(frozen=True, slots=True)
class State:
    """Where the pack stands.

    Attributes:
        generation: number of the frozen base; 0 before the first.
        version: number of the published text; grows with every change of it.
        edit: the last edit that the pack has taken in.
        policy: what the generation was made with; another value calls for a new generation.
    """

    generation: int
    version: int
    edit: int
    policy: str


class Index:
    """One workspace's index. Used by one thread at a time, not always the same one.

    Args:
        file: the database; made with mode 0640 when it is not there.

    Raises:
        sqlite3.DatabaseError: the file is no database, or is damaged.
        NewerIndexError: a newer version of this program wrote it.
    """

    def __init__(self, file: Path) -> None:
        # SQLite's own files beside the database take its mode.
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise NewerIndexError(file)
        if found == 0:
            self._db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        self.files = {os.fsdecode(path): row for path, row in self._rows()}
        edits = (row.edit for row in self.files.values())
        self.last_edit = max(edits, default=self.state().edit)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def next_edit(self) -> int:
        """Return a number larger than that of any edit so far."""
        self.last_edit += 1
        return self.last_edit

    def update(self, rows: dict[str, Row], gone: Iterable[str] = ()) -> None:
        """Write these rows and forget the paths that are gone, in one transaction."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)",
                [_values(path, row) for path, row in rows.items()],
            )
            forgotten = [path for path in gone if path in self.files]
            self._db.executemany(
                "DELETE FROM files WHERE path = ?", [(os.fsencode(path),) for path in forgotten]
            )
        self.files.update(rows)
        for path in forgotten:
            del self.files[path]

    def state(self) -> State:
        """Return where the pack stands."""
        row = self._db.execute("SELECT generation, version, edit, policy FROM state").fetchone()
        return State(*row)

    def entries(self) -> list[Entry]:
        """Return the pack's entries in order."""
        rows = self._db.execute(
            "SELECT kind, path, hash, tokens, text FROM entries ORDER BY position"
        )
        return [
            Entry(Kind(kind), os.fsdecode(path), digest, tokens, text)
            for kind, path, digest, tokens, text in rows
        ]

    def store(self, state: State, entries: Sequence[Entry], kept: int) -> None:
        """Write where the pack stands and its entries, in one transaction.

        Args:
            state: the new state.
            entries: all entries in order.
            kept: how many of the first ones are as they were stored.
        """
        added = [
            (
                place,
                entry.kind.value,
                os.fsencode(entry.path),
                entry.digest,
                entry.tokens,
                entry.text,
            )
            for place, entry in enumerate(entries[kept:], start=kept)
        ]
        with self._transaction():
            self._db.execute("DELETE FROM entries WHERE position >= ?", (kept,))
            self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", added)
            self._db.execute(
                "UPDATE state SET generation = ?, version = ?, edit = ?, policy = ?",
                (state.generation, state.version, state.edit, state.policy),
            )

    def _transaction(self) -> sqlite3.Connection:
        self._db.execute("BEGIN IMMEDIATE")
        return self._db

    def _rows(self) -> Iterable[tuple[bytes, Row]]:
        for path, size, mtime_ns, ctime_ns, *rest in self._db.execute("SELECT * FROM files"):
            yield path, Row(Stamp(size, mtime_ns, ctime_ns), *rest)


class NewerIndexError(Exception):
    """A newer version of this program wrote the index."""


def _values(path: str, row: Row) -> tuple[object, ...]:
    stamp = row.stamp
    return (
        *(os.fsencode(path), stamp.size, stamp.mtime_ns, stamp.ctime_ns, row.digest),
        *(row.refused, row.edit),
    )
