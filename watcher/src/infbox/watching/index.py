"""What the watcher knows of a workspace's files, kept in SQLite so that a restart starts there.

One thread writes; any other reads, by a ``Reader`` of its own. There is no copy in memory: a start
need not make it, and there is one truth.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from infbox.errors import InputError
from infbox.log import line
from infbox.runtime.database import transaction
from infbox.tree.records import Directory, Row

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

SCHEMA_VERSION = 2

# Paths are blobs: a file name is bytes and need not be text.
_SCHEMA = """
CREATE TABLE files (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL, hash TEXT NOT NULL, refused TEXT, edit INTEGER NOT NULL,
    heat REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX files_by_edit ON files (edit) WHERE edit > 0;
CREATE TABLE folders (
    path BLOB PRIMARY KEY, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    is_border INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('edit', '0');
"""
_OLD_TABLES = ("entries", "files", "state")  # of schema 1, which held the pack too
_SELECT_ROW = """\
SELECT size, mtime_ns, ctime_ns, hash, refused, edit, heat FROM files WHERE path = ?"""
_INSERT = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_LAST_EDIT = """\
SELECT max(ifnull((SELECT max(edit) FROM files WHERE edit > 0), 0),
    (SELECT cast(value AS INTEGER) FROM meta WHERE key = 'edit'))"""
# SQLite would keep 2 MB of it for each reader, of which a workspace has several; the system's own
# memory of files holds the same pages. Whoever writes needs them: without, it writes pages twice.
_READERS_CACHE = "PRAGMA cache_size = -256"
# A checkpoint waits for the disk, so the writer asks for it when it is idle. This is for the case
# that it never is: some 16 MB.
_CHECKPOINT_PAGES = 4000

_logger = logging.getLogger(__name__)

_ASKED_AT_ONCE = 500  # paths in one query; SQLite takes no more than 999 everywhere


class File(NamedTuple):
    """A file that may enter the pack; the attributes are those of a row."""

    path: str
    size: int
    digest: str
    edit: int
    heat: float


class Index:
    """One workspace's index, for the thread that writes it.

    Args:
        file: the database; made with mode 0640 when it is not there.

    Raises:
        sqlite3.DatabaseError: the file is no database, or is damaged.
        InputError: a newer version of this program wrote it.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        # SQLite's own files beside the database take its mode.
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o640))
        self.file = file
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise
        self._inode = file.stat().st_ino
        self.last_edit: int = self._db.execute(_LAST_EDIT).fetchone()[0] or 0

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise InputError(
                f"{self.file}: a newer version of infbox-watcher wrote it: "
                "install that, or remove the file"
            )
        if found < SCHEMA_VERSION:
            drops = " ".join(f"DROP TABLE IF EXISTS {name};" for name in _OLD_TABLES)
            self._db.executescript(
                f"BEGIN; {drops} {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @property
    def is_in_place(self) -> bool:
        """Whether the file on disk still is the one that is written."""
        try:
            return self.file.stat().st_ino == self._inode
        except OSError:
            return False

    def transaction(self) -> sqlite3.Connection:
        """Begin a transaction; the result is a context that ends it."""
        return transaction(self._db)

    def check(self) -> None:
        """Check the database as it is on disk now.

        Raises:
            sqlite3.DatabaseError: it is damaged.
            sqlite3.OperationalError: another file is in its place, or none.
        """
        if not self.is_in_place:
            raise sqlite3.OperationalError(f"{self.file} was moved or removed")
        check_on_disk(self.file)

    def checkpoint(self) -> None:
        """Move what was written from the log into the database, without waiting for readers."""
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def forget_pages(self) -> None:
        """Keep no more of the database in memory, after much was written."""
        self._db.execute("PRAGMA shrink_memory")

    def meta(self, key: str) -> str:
        """Return what is kept under a key, or the empty string."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found[0] if found else ""

    def keep(self, **values: str) -> None:
        """Keep texts under keys."""
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    def meta_json(self, key: str) -> Any:
        """Return what is kept under a key as JSON, or None."""
        text = self.meta(key)
        return json.loads(text) if text else None

    def next_edit(self) -> int:
        """Return a number larger than that of any edit so far."""
        self.last_edit += 1
        return self.last_edit

    def row(self, path: str) -> Row | None:
        """Return a file's row, or None."""
        found = self._db.execute(_SELECT_ROW, (os.fsencode(path),))
        values = found.fetchone()
        return Row(*values) if values else None

    def stamps_after(self, path: bytes, most: int) -> list[tuple[bytes, int, int, int]]:
        """Return the next files in order of their paths: path, size, mtime, ctime."""
        return self._db.execute(
            "SELECT path, size, mtime_ns, ctime_ns FROM files WHERE path > ? ORDER BY path LIMIT ?",
            (path, most),
        ).fetchall()

    def paths(self, below: str = "") -> set[str]:
        """Return all files' paths, or those below a directory."""
        return {os.fsdecode(path) for (path,) in self._below("files", below)}

    def directory(self, path: str) -> Directory | None:
        """Return a directory's row, or None."""
        found = self._db.execute(
            "SELECT mtime_ns, ctime_ns, is_border FROM folders WHERE path = ?", (os.fsencode(path),)
        ).fetchone()
        return Directory(found[0], found[1], bool(found[2])) if found else None

    def directories(self) -> list[tuple[bytes, int, int, int]]:
        """Return all directories in order of their paths: path, mtime, ctime, whether a border."""
        return self._db.execute("SELECT * FROM folders ORDER BY path").fetchall()

    def directory_paths(self, below: str = "") -> set[str]:
        """Return all directories' paths, or those below a directory."""
        return {os.fsdecode(path) for (path,) in self._below("folders", below)}

    def write(self, rows: Mapping[str, Row], gone: Collection[str] = ()) -> None:
        """Write these rows and forget the paths that are gone. Within a transaction."""
        self._db.executemany(_INSERT, [(os.fsencode(path), *row) for path, row in rows.items()])
        if gone:
            self._db.executemany(
                "DELETE FROM files WHERE path = ?", [(os.fsencode(path),) for path in gone]
            )
            self.keep(edit=str(self.last_edit))  # which the rows that go may be the last to tell

    def write_one(self, path: str, row: Row) -> None:
        """Write one row, in a transaction of its own.

        This is the way of a save: to SQLite it is one call, so that the thread need not ask for
        Python's lock again after each of several.
        """
        self._db.execute(_INSERT, (os.fsencode(path), *row))

    def warm_up(self, heats: Mapping[str, float]) -> None:
        """Set the heats of these files, of those that are there. Within a transaction."""
        self._db.executemany(
            "UPDATE files SET heat = ? WHERE path = ?",
            [(heat, os.fsencode(path)) for path, heat in heats.items()],
        )

    def write_directories(
        self, directories: Mapping[str, Directory], gone: Iterable[str] = ()
    ) -> None:
        """Write these directories and forget those that are gone. Within a transaction."""
        self._db.executemany(
            "INSERT OR REPLACE INTO folders VALUES (?, ?, ?, ?)",
            [(os.fsencode(path), *directory) for path, directory in directories.items()],
        )
        self._db.executemany(
            "DELETE FROM folders WHERE path = ?", [(os.fsencode(path),) for path in gone]
        )

    def counts(self) -> tuple[int, int]:
        """Return how many files may enter the pack, and how many there are in all."""
        found = self._db.execute("SELECT count(*) - count(refused), count(*) FROM files").fetchone()
        return found[0], found[1]

    def _below(self, table: str, directory: str) -> Iterable[tuple[bytes]]:
        if not directory:
            return self._db.execute(f"SELECT path FROM {table}")  # noqa: S608  # names of ours
        start = os.fsencode(directory) + b"/"
        return self._db.execute(
            f"SELECT path FROM {table} WHERE path >= ? AND path < ?",  # noqa: S608
            (start, start[:-1] + b"0"),  # the byte after the slash
        )


class Reader:
    """One workspace's index, read only. For any thread, one call at a time.

    An index that was set aside and built anew is noticed.

    Args:
        file: the database, made by an ``Index`` before.

    Raises:
        sqlite3.DatabaseError: of each method too: it cannot be read at present.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._opened = 0

    def close(self) -> None:
        """Close the database."""
        if self._db:
            self._db.close()
            self._db = None

    def kept(self) -> list[File]:
        """Return the files that may enter the pack, in order of their paths."""
        return self._files("refused IS NULL ORDER BY path")

    def edited_since(self, edit: int) -> list[File]:
        """Return the files that may enter the pack and were edited after an edit, in order."""
        return self._files("edit > ? AND edit > 0 AND refused IS NULL ORDER BY edit", edit)

    def digests(self, paths: Iterable[str]) -> dict[str, str]:
        """Return the digests of these files, of those that may enter the pack."""
        return {path: digest for path, digest, refused in self._among(paths) if refused is None}

    def refused(self, paths: Iterable[str]) -> set[str]:
        """Return which of these files a rule about content keeps out."""
        return {path for path, _, refused in self._among(paths) if refused is not None}

    def _among(self, paths: Iterable[str]) -> Iterator[tuple[str, str, str | None]]:
        """Yield the path, the digest and the refusal of each of these files that is known."""
        left = [os.fsencode(path) for path in paths]
        while left:
            asked, left = left[:_ASKED_AT_ONCE], left[_ASKED_AT_ONCE:]
            marks = ",".join("?" * len(asked))
            rows = self._query(
                f"SELECT path, hash, refused FROM files WHERE path IN ({marks})",  # noqa: S608  # marks
                *asked,
            )
            yield from ((os.fsdecode(path), digest, refused) for path, digest, refused in rows)

    def policy(self) -> str:
        """Return the rules by which its files were judged last; empty where they were not yet."""
        found = self._query("SELECT value FROM meta WHERE key = 'policy'").fetchone()
        return found[0] if found else ""

    def version(self) -> tuple[int, int]:
        """Return what is another value after each change to it, and the same one as long as there
        was none."""
        found: int = self._query("PRAGMA data_version").fetchone()[0]
        return self._opened, found

    def counts(self) -> tuple[int, int]:
        """Return how many files may enter the pack, and how many there are in all."""
        row = self._query("SELECT count(*) - count(refused), count(*) FROM files").fetchone()
        return row[0], row[1]

    def last_edit(self) -> int:
        """Return the number of the last edit."""
        edit: int = self._query(_LAST_EDIT).fetchone()[0] or 0
        return edit

    def _files(self, condition: str, *values: object) -> list[File]:
        rows = self._query(
            f"SELECT path, size, hash, edit, heat FROM files WHERE {condition}",  # noqa: S608
            *values,
        )
        return [File(os.fsdecode(path), *rest) for path, *rest in rows]

    def _query(self, statement: str, *values: object) -> sqlite3.Cursor:
        try:
            inode = self._file.stat().st_ino
        except OSError as error:
            raise sqlite3.OperationalError(f"{self._file}: {error.strerror}") from error
        if self._db is None or inode != self._inode:
            self.close()
            self._db = sqlite3.connect(
                f"{self._file.as_uri()}?mode=ro",
                uri=True,
                check_same_thread=False,
                isolation_level=None,
            )
            self._db.execute(_READERS_CACHE)
            self._inode = inode
            self._opened += 1
        return self._db.execute(statement, values)


def place(state_dir: Path, name: str) -> Path:
    """Return where a workspace's index lies."""
    return state_dir / "index" / f"{name}.db"


def opened(file: Path) -> Index:
    """Open an index; a damaged one is set aside and begun anew, which the log says.

    Raises:
        InputError: a newer version wrote it.
        OSError, sqlite3.OperationalError: the place cannot be used.
    """
    try:
        return Index(file)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        set_aside(file, error)
        return begun_again(file)


def begun_again(file: Path, last_edit: int = 0) -> Index:
    """Begin an index in place of a damaged one.

    Its edits have numbers larger than any before, the first ones too, so that who has taken in
    those of the damaged one looks at every file again.
    """
    index = Index(file)
    index.last_edit = max(last_edit + 1, int(time.time()))
    index.keep(edit=str(index.last_edit))
    return index


def check_on_disk(file: Path) -> None:
    """Check a database as it is on disk now.

    By a connection of its own: one that is open may well go on with the pages that it remembers.

    Raises:
        sqlite3.DatabaseError: it is damaged.
    """
    with contextlib.closing(sqlite3.connect(file)) as database:
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def is_damage(error: sqlite3.Error) -> bool:
    """Say whether an error means that the database itself is bad, not that the disk is full or the
    file away."""
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, (sqlite3.OperationalError, sqlite3.ProgrammingError)
    )


def set_aside(file: Path, reason: object) -> Path:
    """Move a damaged index out of the way, and say so; one that was moved before is replaced."""
    aside = file.with_name(f"{file.name}.damaged")
    _logger.warning(
        line("index-damaged", file=file, reason=reason, aside=aside, hint="it is rebuilt")
    )
    for part in ("-wal", "-shm"):
        file.with_name(file.name + part).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        file.replace(aside)
    return aside
