"""A pack and where it stands, kept in SQLite so that a restart goes on with the very same text."""

from __future__ import annotations

import logging
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infbox.errors import InputError
from infbox.log import line
from infbox.packing.pack import Entry, Kind
from infbox.packing.tokens import Ids
from infbox.runtime.database import transaction
from infbox.watching.index import is_damage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

SCHEMA_VERSION = 1

# Paths are blobs: a file name is bytes and need not be text.
_SCHEMA = """
CREATE TABLE entries (
    position INTEGER PRIMARY KEY, kind TEXT NOT NULL, path BLOB NOT NULL, old_path BLOB NOT NULL,
    digest TEXT NOT NULL, content TEXT NOT NULL, text TEXT NOT NULL, tokens INTEGER NOT NULL,
    ids BLOB
);
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, version INTEGER NOT NULL,
    edit INTEGER NOT NULL, policy TEXT NOT NULL, edited REAL NOT NULL, least_worth REAL NOT NULL
);
CREATE TABLE imports (digest TEXT PRIMARY KEY, names TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO state VALUES (1, 0, 0, 0, '', 0, 0);
"""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """Where the pack stands.

    Attributes:
        generation: number of the frozen base; 0 before the first.
        version: number of the published text; grows with every change of it.
        edit: the last edit of the index that the pack has taken in.
        policy: what the pack was made with; another value calls for a new one from nothing.
        edited: tokens of edited files that generations have not used up yet.
        min_worth: at which a file enters in full between generations.
    """

    generation: int = 0
    version: int = 0
    edit: int = 0
    policy: str = ""
    edited: float = 0.0
    min_worth: float = 0.0


class Store:
    """One workspace's pack on disk. Used by one thread at a time, not always the same one.

    Args:
        file: the database; made with mode 0640 when it is not there.

    Raises:
        sqlite3.DatabaseError: the file is no database, or is damaged.
        InputError: a newer version of this program wrote it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        # SQLite's own files beside the database take its mode.
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA secure_delete = ON")  # it is source text that is deleted
        self._db.execute("PRAGMA temp_store = MEMORY")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise InputError(
                f"{file}: a newer version of infbox-watcher wrote it: "
                "install that, or remove the file"
            )
        if found == 0:
            self._db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )

    @property
    def database(self) -> sqlite3.Connection:
        """The connection, for tables that others keep beside these."""
        return self._db

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def state(self) -> State:
        """Return where the pack stands."""
        row = self._db.execute(
            "SELECT generation, version, edit, policy, edited, least_worth FROM state"
        ).fetchone()
        if row is None:
            raise sqlite3.DatabaseError("it has no state")
        return State(*row)

    def entries(self) -> list[Entry]:
        """Return the pack's entries in order.

        Raises:
            sqlite3.DatabaseError: they are damaged.
        """
        try:
            return self._read_entries()
        except (ValueError, sqlite3.OperationalError) as error:
            # Bytes that are no text, or no number of token ids. Whether it is SQLite that says so
            # (as of an operation) or the reader, the cause is a page with other content.
            raise sqlite3.DatabaseError(str(error)) from error

    def _read_entries(self) -> list[Entry]:
        rows = self._db.execute(
            "SELECT kind, path, digest, content, text, tokens, ids, old_path FROM entries"
            " ORDER BY position"
        )
        return [
            Entry(
                Kind(kind),
                os.fsdecode(path),
                digest,
                content,
                text,
                count,
                _unpacked(ids),
                os.fsdecode(old_path),
            )
            for kind, path, digest, content, text, count, ids, old_path in rows
        ]

    def write(self, state: State, entries: Sequence[Entry], kept: int) -> None:
        """Write where the pack stands and its entries, in one transaction.

        Args:
            state: the new state.
            entries: all entries in order.
            kept: how many of the first ones are as they were stored.
        """
        added = [_values(place, e) for place, e in enumerate(entries[kept:], start=kept)]
        with transaction(self._db):
            self._db.execute("DELETE FROM entries WHERE position >= ?", (kept,))
            self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", added)
            self._db.execute(
                "UPDATE state SET generation = ?, version = ?, edit = ?, policy = ?, edited = ?,"
                " least_worth = ?",
                (state.generation, state.version, state.edit, state.policy, state.edited,
                 state.min_worth),
            )  # fmt: skip

    def forget_deleted(self) -> None:
        """Leave nothing of what was deleted in the file or its log: free pages of an older version
        may hold it, and so does the log until it is cut.

        Raises:
            sqlite3.OperationalError: another connection is open.
        """
        self._db.execute("VACUUM")
        is_busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise sqlite3.OperationalError(f"{self.file}-wal: in use, and not cut yet")

    def imports(self) -> dict[str, tuple[str, ...]]:
        """Return what files import, by the digest of their bytes, as far as it was noted."""
        rows = self._db.execute("SELECT digest, names FROM imports")
        return {digest: tuple(names.split("\n")) if names else () for digest, names in rows}

    def note_imports(self, noted: Mapping[str, Sequence[str]], wanted: Iterable[str]) -> None:
        """Add to what is known of imports, and forget what is about no file any more.

        Args:
            noted: names by digest.
            wanted: digests of all files.
        """
        with transaction(self._db):
            self._db.executemany(
                "INSERT OR REPLACE INTO imports VALUES (?, ?)",
                [(digest, "\n".join(names)) for digest, names in noted.items()],
            )
            self._db.execute("CREATE TEMP TABLE wanted (digest TEXT PRIMARY KEY) WITHOUT ROWID")
            self._db.executemany(
                "INSERT OR IGNORE INTO wanted VALUES (?)", [(digest,) for digest in wanted]
            )
            self._db.execute("DELETE FROM imports WHERE digest NOT IN (SELECT digest FROM wanted)")
            self._db.execute("DROP TABLE wanted")


def opened(file: Path) -> Store:
    """Open the store; a damaged one is removed and begun anew, which the log says.

    Raises:
        InputError: a newer version of this program wrote it.
        OSError, sqlite3.OperationalError: the directory cannot be used.
    """
    try:
        return Store(file)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return begun_anew(file, error)


def begun_anew(file: Path, reason: object) -> Store:
    """Remove a damaged store and begin another one: a pack is made of the tree and the index.

    Args:
        file: the database.
        reason: what is wrong with it, for the log.

    Raises:
        OSError, sqlite3.OperationalError: the directory cannot be used.
    """
    _logger.warning(line("pack-damaged", file=file, reason=reason, hint="it is rebuilt"))
    for part in (file, *file.parent.glob(f"{file.name}-*")):
        part.unlink(missing_ok=True)
    return Store(file)


def _values(place: int, entry: Entry) -> tuple[object, ...]:
    ids = entry.ids.tobytes() if entry.ids is not None else None
    return (
        *(place, entry.kind.value, os.fsencode(entry.path), os.fsencode(entry.old_path)),
        *(entry.digest, entry.content, entry.text, entry.tokens, ids),
    )


def _unpacked(stored: bytes | None) -> Ids[int] | None:
    if stored is None:
        return None
    ids = Ids("I")
    ids.frombytes(stored)
    return ids
