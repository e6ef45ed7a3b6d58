"""Which pieces of KV in LMCache hold which files' text, so that they can be dropped.

LMCache keeps whole chunks of tokens, each under a hash of its tokens and all before them. Of what a
warm-up has computed, the hashes are noted here together with the paths whose text is in each chunk;
of a file that must not be shown any more they are dropped by that name, from memory and disk.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
import time
from array import array
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

MOST_ROWS = 400_000
"""Of chunks and paths. With more, the oldest are forgotten: of those LMCache kept none by then."""

AGAIN_SECONDS = 120.0
"""After a first time, chunks are dropped once more: a request that was under way then has stored
them anew."""

SLACK = 8
"""Tokens by which the borders of files in a prompt may differ from what is noted."""

ANY = ""
"""Stands for all paths, where it is not known which text is in a chunk."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (
    hash BLOB NOT NULL, path BLOB NOT NULL, PRIMARY KEY (hash, path)
);
CREATE INDEX IF NOT EXISTS chunks_by_path ON chunks (path);
CREATE TABLE IF NOT EXISTS dropping (
    hash BLOB PRIMARY KEY, due REAL NOT NULL, times INTEGER NOT NULL
) WITHOUT ROWID;
"""
_TIMES = 2
_AT_ONCE = 2000  # hashes that are dropped by one request


class CachedChunks:
    """The chunks of one workspace's packs. For any thread.

    Args:
        file: the database; made with mode 0640 when it is not there.
        clock: returns unix time, in seconds.

    Raises:
        OSError, sqlite3.Error: it cannot be used.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[array[int], list[bytes], int]] = {}
        file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        try:
            self._db = _opened(file)
        except sqlite3.DatabaseError:
            file.unlink()
            self._db = _opened(file)
        self._look_when()

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def note(
        self,
        form: str,
        ids: Sequence[int],
        sections: Sequence[tuple[int, frozenset[str]]],
        chunk: int,
    ) -> None:
        """Note the chunks of a prompt.

        Args:
            form: of prompts that begin alike: what is known of the last one is not done again.
            ids: of its tokens.
            sections: where each part of it ends, in tokens, and the paths whose text is in it.
            chunk: tokens of a chunk.
        """
        now = array("I", ids)
        with self._lock:
            names, same = self._names(form, now, chunk)
            with self._db:
                rows = []
                for number, name in enumerate(names[same:], start=same):
                    start, end = number * chunk - SLACK, (number + 1) * chunk + SLACK
                    rows += [(name, os.fsencode(path)) for path in _within(sections, start, end)]
                self._db.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?)", rows)
                self._db.execute(
                    "DELETE FROM chunks WHERE rowid <= (SELECT max(rowid) FROM chunks) - ?",
                    (MOST_ROWS,),
                )
                if self.next_due is not None:
                    # What stands in the present pack need not go: it was dropped for the slack
                    # alone.
                    self._db.executemany(
                        "DELETE FROM dropping WHERE hash = ?", [(name,) for name in names]
                    )
                    self._look_when()
            self._known[form] = now, names, chunk  # not where the disk was full

    def drop(self, paths: Iterable[str]) -> None:
        """Have the chunks dropped that hold text of these paths."""
        now = self._clock()
        with self._lock, self._db:
            for path in {ANY, *paths}:
                known = "SELECT hash FROM chunks WHERE path = ?"
                self._db.execute(
                    f"INSERT OR REPLACE INTO dropping SELECT hash, ?, ? FROM ({known})",  # noqa: S608
                    (now, _TIMES, os.fsencode(path)),
                )
            self._db.execute("DELETE FROM chunks WHERE hash IN (SELECT hash FROM dropping)")
            self._known.clear()
            self._look_when()

    @property
    def is_due(self) -> bool:
        """Whether something is to be dropped now."""
        return self.next_due is not None and self.next_due <= self._clock()

    def due(self) -> list[bytes]:
        """Return some hashes that are to be dropped now."""
        with self._lock:
            rows = self._db.execute(
                "SELECT hash FROM dropping WHERE due <= ? LIMIT ?", (self._clock(), _AT_ONCE)
            )
            return [name for (name,) in rows]

    def dropped(self, names: Iterable[bytes]) -> None:
        """Note that these were dropped; each is dropped once more after a while."""
        later = self._clock() + AGAIN_SECONDS
        with self._lock, self._db:
            self._db.executemany(
                "UPDATE dropping SET due = ?, times = times - 1 WHERE hash = ?",
                [(later, name) for name in names],
            )
            self._db.execute("DELETE FROM dropping WHERE times <= 0")
            self._look_when()

    def _look_when(self) -> None:
        self.next_due: float | None = self._db.execute("SELECT min(due) FROM dropping").fetchone()[
            0
        ]
        """Unix time at which the next one is to be dropped, in seconds; None for none."""

    def _names(self, form: str, now: array[int], chunk: int) -> tuple[list[bytes], int]:
        """Return the names of a prompt's chunks, and how many were noted for the last one."""
        before, names, size = self._known.get(form, (array("I"), [], chunk))
        same = 0
        if size == chunk:
            parts = range(0, min(len(before), len(now)) - chunk + 1, chunk)
            same = next(
                (
                    n
                    for n, at in enumerate(parts)
                    if before[at : at + chunk] != now[at : at + chunk]
                ),
                len(parts),
            )
        names = [*names[:same], *hashes(now, chunk, names[same - 1] if same else None, same)]
        return names, same


def hashes(
    ids: Sequence[int], chunk: int, before: bytes | None = None, known: int = 0
) -> list[bytes]:
    """Return the names that LMCache gives to the whole chunks of a prompt, by blake3.

    Args:
        ids: of its tokens.
        chunk: tokens of a chunk.
        before: the name of the last chunk that is known.
        known: how many of the first chunks are known, and not returned.
    """
    before = before or blake3(bytes(8) + bytes(4)).digest()
    found = []
    for start in range(known * chunk, len(ids) - chunk + 1, chunk):
        before = blake3(before + struct.pack(f">{chunk}I", *ids[start : start + chunk])).digest()
        found.append(before)
    return found


def _within(sections: Sequence[tuple[int, frozenset[str]]], start: int, end: int) -> set[str]:
    """Return the paths of the sections that overlap a part of a prompt."""
    found: set[str] = set()
    begin = 0
    for until, paths in sections:
        if begin < end and until > start:
            found |= paths
        begin = until
    return found


def _opened(file: Path) -> sqlite3.Connection:
    os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
    database = sqlite3.connect(file, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.executescript(_SCHEMA)
    return database
