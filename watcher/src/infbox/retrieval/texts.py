"""The text index: the words of each chunk of a source tree, in SQLite's FTS5.

It is derived: a damaged one, and one that another version made, is begun anew. It lies beside the
watcher's index in a file of its own, so that neither's schema binds the other, and holds the text
of all chunks compressed: what is found is shown as it was found, and is taken out by the very words
by which it was put in, which FTS5 wants to know of a table that keeps no copy of them.

The watcher keeps it (``infbox.watcher.text_index``); others read it by ``retrieval.kept``.
"""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, NamedTuple

from infbox.retrieval import chunks as cutting
from infbox.retrieval.words import joined, words
from infbox.runtime.database import transaction
from infbox.watching.index import check_on_disk, is_damage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from infbox.packing.pack import Source
    from infbox.retrieval.chunks import Chunk

MAX_WORDS = 4000
"""Identifiers of a chunk: a definition that is shown whole has some 500."""

MAX_MATCHES = 12_000
"""Chunks that one question may match, by the words that are rarest: the time that it takes."""

MAX_SCORED = 4 * MAX_MATCHES
"""Chunks that are scored for a question whose words are all common, the first of the index: of
200,000 files such a question would otherwise take longer than whoever asks it waits."""

MIN_WORDS = 2
"""Words of a question that are looked for however many chunks have them."""

BLOCK = 8192
"""Characters of neighbouring chunks that are compressed together: half the space and a third of the
time of each by itself, and one of them is still read in some 30 microseconds."""

_LEVEL = 3  # of zlib; 6 takes twice the time for a tenth less
# Segments of FTS5 on one level that are merged little by little, 0 for none, and all at once: after
# saves, and in a first index, at whose end all are merged anyhow.
_MERGED_BY_SAVES, _MERGED_AT_FIRST = (4, 16), (0, 256)
_BATCH = 500  # files in one transaction
_ASKED_AT_ONCE = 500
_REMEMBERED_COUNTS = 20_000
_STEPS = 2_000  # of SQLite's machine, a fraction of a millisecond, between looks at the clock

_VERSION = 300 + cutting.VERSION
_SCHEMA = """
CREATE TABLE judged_by (one INTEGER PRIMARY KEY CHECK (one = 1), rules TEXT NOT NULL);
CREATE TABLE files (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, name BLOB NOT NULL, digest TEXT NOT NULL
);
CREATE INDEX files_by_name ON files (name);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY, file INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
    size INTEGER NOT NULL, names TEXT NOT NULL, block INTEGER NOT NULL, at INTEGER NOT NULL
);
CREATE INDEX chunks_by_file ON chunks (file);
CREATE TABLE blocks (
    id INTEGER PRIMARY KEY, file INTEGER NOT NULL, start INTEGER NOT NULL, text BLOB NOT NULL
);
CREATE INDEX blocks_by_file ON blocks (file);
CREATE VIRTUAL TABLE words USING fts5 (
    path, names, body, content='', tokenize="porter ascii tokenchars '_'"
);
CREATE VIRTUAL TABLE counts USING fts5vocab (words, 'row');
"""
_GONE = """\
SELECT files.path FROM main.files LEFT JOIN known.files AS now ON now.path = files.path
WHERE now.path IS NULL OR now.refused IS NOT NULL"""
_BEHIND = """\
SELECT now.path, now.hash FROM known.files AS now LEFT JOIN main.files AS own ON own.path = now.path
WHERE now.refused IS NULL AND own.digest IS NOT now.hash ORDER BY now.path"""
_DELETE = "INSERT INTO words (words, rowid, path, names, body) VALUES ('delete', ?, ?, ?, ?)"


class Place(NamedTuple):
    """A chunk of a file.

    Attributes:
        id: names it in the index, as long as the file is not changed.
        path: of the file.
        start: the first line, from 1.
        end: the last line.
        size: in characters.
        names: what is defined in it.
    """

    id: int
    path: str
    start: int
    end: int
    size: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """What a word counts by where it stands."""

    path: float = 3.0
    names: float = 2.0
    body: float = 1.0


class Texts:
    """The text index of one tree. Used by one thread at a time, not always the same one.

    Args:
        file: the database, made with mode 0640 when it is not there; None for one in memory.
        cut: cuts a file, given by path and text, into chunks that adjoin, each with its size.
        is_read_only: it is another process that keeps it, and the file is there.

    Raises:
        sqlite3.DatabaseError: the file is no database, or is damaged: ``opened`` begins anew.
    """

    def __init__(
        self,
        file: Path | None = None,
        cut: Callable[[str, str], Sequence[Chunk]] = cutting.chunks,
        *,
        is_read_only: bool = False,
    ) -> None:
        self._cut = cut
        self._counts: dict[str, int] = {}
        if file and is_read_only:
            self._db = sqlite3.connect(
                f"{file.as_uri()}?mode=ro", uri=True, check_same_thread=False, isolation_level=None
            )
            self._guarded(self._check_version)
            return
        if file:
            # SQLite's own files beside the database take its mode.
            os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
        self._db = sqlite3.connect(  # by a URI, so that others can be attached read-only
            file.as_uri() if file else "file::memory:",
            uri=True,
            check_same_thread=False,
            isolation_level=None,
        )
        self._guarded(self._prepare)

    def _guarded(self, prepare: Callable[[], object]) -> None:
        try:
            prepare()
        except BaseException:
            self._db.close()
            raise

    def _check_version(self) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found != _VERSION:
            raise sqlite3.OperationalError(f"another version made it, or none yet: {found}")

    def _prepare(self) -> None:
        # To be chosen before anything is in it: pages that get free can then be given back.
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA secure_delete = ON")  # it is source text that is deleted
        self._db.execute("PRAGMA temp_store = MEMORY")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"another version made it: {found}")
        if found == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def end_at(self, ends: float) -> None:
        """Have what is asked be broken off once it is late; it then raises an error of SQLite's.

        Args:
            ends: of the monotonic clock, in seconds.
        """
        self._db.set_progress_handler(lambda: time.monotonic() >= ends, _STEPS)

    @property
    def judged_by(self) -> str:
        """The rules by which its files were let in; empty where nobody noted them."""
        found = self._db.execute("SELECT rules FROM judged_by").fetchone()
        return found[0] if found else ""

    def begin(self, rules: str) -> None:
        """Take out all, and note by which rules files will be let in."""
        with transaction(self._db):
            self._db.execute("DELETE FROM files")
            self._db.execute("DELETE FROM chunks")
            self._db.execute("DELETE FROM blocks")
            self._db.execute("INSERT INTO words (words) VALUES ('delete-all')")
            self._merge_at(*_MERGED_AT_FIRST)
            self._db.execute("INSERT OR REPLACE INTO judged_by VALUES (1, ?)", (rules,))
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def differences(self, index_file: Path) -> tuple[list[str], dict[str, str]]:
        """Compare it with a watcher's index; SQLite does, while other threads go on.

        Args:
            index_file: of ``watching.index``.

        Returns:
            The paths that it has and that may not be shown any more, or are gone; and the digests
            of the files that it has otherwise or not at all, in the order of their paths.

        Raises:
            sqlite3.Error: the index cannot be read at present.
        """
        self._db.execute("ATTACH ? AS known", (f"{index_file.as_uri()}?mode=ro",))
        try:
            gone = self._db.execute(_GONE).fetchall()
            behind = self._db.execute(_BEHIND).fetchall()
        finally:
            self._db.execute("DETACH known")
        return (
            [os.fsdecode(path) for (path,) in gone],
            {os.fsdecode(path): digest for path, digest in behind},
        )

    def digest(self, path: str) -> str:
        """Return the digest of a file that is in it; empty for any other."""
        row = self._db.execute("SELECT digest FROM files WHERE path = ?", (os.fsencode(path),))
        found = row.fetchone()
        return found[0] if found else ""

    def digests(self) -> dict[str, str]:
        """Return the digest of each file that is in it, by path."""
        rows = self._db.execute("SELECT path, digest FROM files")
        return {os.fsdecode(path): digest for path, digest in rows}

    def put(self, path: str, source: Source) -> None:
        """Take in a file, in place of what it was."""
        self.put_all({path: source})

    def put_all(self, sources: Mapping[str, Source | None]) -> None:
        """Take in files in one transaction, each in place of what it was; None takes one out."""
        if not sources:
            return
        with transaction(self._db):
            ids = self._next_ids()
            for path, source in sources.items():
                self._remove(path)
                if source is not None:
                    self._add(path, source, ids)

    def remove(self, *paths: str) -> None:
        """Take out files that are there; ``forget_removed`` takes them off the disk too."""
        with transaction(self._db):
            for path in paths:
                self._remove(path)

    def bring_up(
        self, digests: Mapping[str, str], read: Callable[[str], Source | None]
    ) -> tuple[int, int]:
        """Bring it up to a tree.

        Args:
            digests: of the files that may be shown, by path.
            read: returns a file's content; None where it is gone, or may not be shown.

        Returns:
            How many files were put, and how many removed.
        """
        known = self.digests()
        stale = sorted(known.keys() - digests.keys())
        changed = iter(
            sorted(path for path, digest in digests.items() if known.get(path) != digest)
        )
        with transaction(self._db):
            for path in stale:
                self._remove(path)
        put, removed = 0, len(stale)
        while batch := list(islice(changed, _BATCH)):
            with transaction(self._db):
                ids = self._next_ids()
                for path in batch:
                    self._remove(path)
                    source = read(path)
                    if source:
                        self._add(path, source, ids)
                        put += 1
                    else:
                        removed += path in known
        if removed:
            self.forget_removed()
        return put, removed

    def forget_removed(self) -> None:
        """Leave nothing of removed files on the disk. FTS5 keeps their words until segments are
        merged, and the log keeps pages until it is cut off. What a merge leaves free is given
        back: after a first index a fifth of the file."""
        self._merge_at(*_MERGED_BY_SAVES)
        self._db.execute("INSERT INTO words (words) VALUES ('optimize')")
        # A step for each page; `execute` takes one alone of a statement without columns.
        self._db.executescript("PRAGMA incremental_vacuum")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def matching(
        self, wanted: Iterable[str], most: int, weights: Weights
    ) -> list[tuple[int, float]]:
        """Return the chunks that match words best, by BM25.

        Args:
            wanted: words, as ``words`` gives them.
            most: chunks that are returned.
            weights: of the words.

        Returns:
            Names of chunks with their scores, larger ones better, the best first. Words that most
            chunks have are left out where the rarer ones match enough.
        """
        query = " OR ".join(f'"{word}"' for word in self._rarest(wanted))
        if not query:
            return []
        rows = self._db.execute(
            "SELECT rowid, score FROM (SELECT rowid, -bm25(words, ?, ?, ?) AS score FROM words"
            " WHERE words MATCH ? LIMIT ?) ORDER BY score DESC, rowid LIMIT ?",
            (weights.path, weights.names, weights.body, query, MAX_SCORED, most),
        )
        return rows.fetchall()

    def naming(self, name: str, most: int) -> list[Place]:
        """Return chunks that define a name, written just so, in no order of worth."""
        inner = " ".join(words(name))
        if not inner:
            return []
        rows = self._db.execute(
            "SELECT rowid FROM words WHERE words MATCH ? LIMIT ?",
            (f'names : "{inner}"', most * 8),
        )
        places = self.places(rowid for (rowid,) in rows).values()
        return [place for place in places if name in place.names][:most]

    def places(self, ids: Iterable[int]) -> dict[int, Place]:
        """Return chunks by their names, in the order of these."""
        left = order = list(ids)
        found: dict[int, Place] = {}
        while left:
            asked, left = left[:_ASKED_AT_ONCE], left[_ASKED_AT_ONCE:]
            marks = ",".join("?" * len(asked))
            rows = self._db.execute(
                "SELECT chunks.id, path, start, end, size, names FROM chunks JOIN files"  # noqa: S608
                f" ON files.id = file WHERE chunks.id IN ({marks})",
                asked,
            )
            found.update((row[0], _place(row)) for row in rows)
        return {id_: found[id_] for id_ in order if id_ in found}

    def of_file(self, path: str) -> list[Place]:
        """Return a file's chunks in order."""
        rows = self._db.execute(
            "SELECT chunks.id, path, start, end, size, names FROM files"
            " JOIN chunks ON file = files.id WHERE path = ? ORDER BY start",
            (os.fsencode(path),),
        )
        return [_place(row) for row in rows]

    def named(self, name: str, most: int) -> list[str]:
        """Return paths of files by the last part of their path."""
        rows = self._db.execute(
            "SELECT path FROM files WHERE name = ? ORDER BY length(path), path LIMIT ?",
            (os.fsencode(name), most),
        )
        return [os.fsdecode(path) for (path,) in rows]

    def whole(self, path: str) -> str:
        """Return a file's text, empty where it is not in it: its blocks have each line once."""
        rows = self._db.execute(
            "SELECT text FROM files JOIN blocks ON file = files.id WHERE path = ? ORDER BY start",
            (os.fsencode(path),),
        )
        return "".join(_unpacked(packed) for (packed,) in rows)

    def all_blocks(self, below: str = "") -> Iterator[tuple[str, int, bytes]]:
        """Yield whole lines of all files in order of their paths, some 8 KiB at a time: path, first
        line, text in UTF-8.

        Args:
            below: a file or a directory; empty for all.
        """
        name = os.fsencode(below.strip("/"))
        rows = self._db.execute(
            "SELECT path, start, text FROM files JOIN blocks ON file = files.id"
            " WHERE ? = x'' OR path = ? OR (path >= ? AND path < ?) ORDER BY path, start",
            (name, name, name + b"/", name + b"0"),  # the byte after the slash
        )
        for path, start, packed in rows:
            yield os.fsdecode(path), start, zlib.decompress(packed)

    def text(self, place: Place) -> str:
        """Return a chunk's lines; empty where its file was changed since."""
        row = self._db.execute(
            "SELECT text, at, size FROM chunks JOIN blocks ON blocks.id = block"
            " JOIN files ON files.id = chunks.file"
            " WHERE chunks.id = ? AND path = ? AND chunks.start = ?",
            (place.id, os.fsencode(place.path), place.start),
        ).fetchone()
        if row is None:
            return ""
        packed, at, size = row
        return _unpacked(packed)[at : at + size]

    def _rarest(self, wanted: Iterable[str]) -> list[str]:
        # Common words are not counted to the end: of these, the longer ones are mostly the rarer.
        counted = sorted((self._count(word), -len(word), word) for word in dict.fromkeys(wanted))
        kept: list[str] = []
        total = 0
        for number, _, word in counted:
            total += number
            if number and (total <= MAX_MATCHES or len(kept) < MIN_WORDS):
                kept.append(word)
        return kept

    def _count(self, word: str) -> int:
        """Return how many chunks have a word, or had some time ago: it orders words by rarity. None
        is not remembered, since the word may come."""
        found = self._counts.get(word)
        if found is None:
            found = self._read_count(word)
            if len(self._counts) >= _REMEMBERED_COUNTS:
                self._counts.clear()
            if found:
                self._counts[word] = found
        return found

    def _read_count(self, word: str) -> int:
        """Return how many chunks have a word; where several share a stem, how many have that."""
        row = self._db.execute(
            "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)",
            (f'"{word}"', MAX_MATCHES + 1),
        ).fetchone()
        return int(row[0])

    def _merge_at(self, by_and_by: int, at_once: int) -> None:
        for setting, segments in (("automerge", by_and_by), ("crisismerge", at_once)):
            self._db.execute("INSERT INTO words (words, rank) VALUES (?, ?)", (setting, segments))

    def _next_ids(self) -> _Ids:
        """Return what the chunks and blocks of files are named by that are put next, in order."""
        chunk, block = (
            (self._db.execute(f"SELECT max(id) FROM {table}").fetchone()[0] or 0) + 1  # noqa: S608
            for table in ("chunks", "blocks")
        )
        return _Ids(count(chunk), count(block))

    def _add(self, path: str, source: Source, ids: _Ids) -> None:
        name = path.rpartition("/")[2]
        file = self._db.execute(
            "INSERT INTO files (path, name, digest) VALUES (?, ?, ?)",
            (os.fsencode(path), os.fsencode(name), source.digest),
        ).lastrowid
        chunks, rows = [], []
        blocks: list[_Block] = []
        in_path = joined(path, MAX_WORDS)
        content = source.text
        behind = 0
        for chunk in self._cut(path, content):
            before, behind = behind, behind + chunk.size
            text = content[before:behind]
            if len(text) < chunk.size:
                text += "\n"  # the last line gets an end too
            if not blocks or blocks[-1].size + chunk.size > BLOCK:
                blocks.append(_Block(next(ids.block), chunk.start))
            at = blocks[-1].add(text)
            id_, names = next(ids.chunk), "\n".join(chunk.names)
            place = (chunk.start, chunk.end, chunk.size)
            chunks.append((id_, file, *place, names, blocks[-1].id, at))
            rows.append((id_, in_path, joined(names, MAX_WORDS), joined(text, MAX_WORDS)))
        self._db.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", chunks)
        self._db.executemany(
            "INSERT INTO blocks VALUES (?, ?, ?, ?)",
            ((each.id, file, each.start, each.packed()) for each in blocks),
        )
        self._db.executemany(
            "INSERT INTO words (rowid, path, names, body) VALUES (?, ?, ?, ?)", rows
        )

    def _remove(self, path: str) -> None:
        row = self._db.execute(
            "SELECT id FROM files WHERE path = ?", (os.fsencode(path),)
        ).fetchone()
        if row is None:
            return
        packed = self._db.execute("SELECT id, text FROM blocks WHERE file = ?", row).fetchall()
        texts = {id_: _unpacked(text) for id_, text in packed}
        cut = self._db.execute("SELECT id, names, block, at, size FROM chunks WHERE file = ?", row)
        in_path = joined(path, MAX_WORDS)
        self._db.executemany(
            _DELETE,
            [
                (id_, in_path, joined(names, MAX_WORDS), joined(text, MAX_WORDS))
                for id_, names, block, at, size in cut
                for text in (texts[block][at : at + size],)
            ],
        )
        for table in ("chunks", "blocks"):
            self._db.execute(f"DELETE FROM {table} WHERE file = ?", row)  # noqa: S608
        self._db.execute("DELETE FROM files WHERE id = ?", row)


class _Ids(NamedTuple):
    """Names of what is put, each given once.

    Attributes:
        chunk: for chunks.
        block: for blocks.
    """

    chunk: Iterator[int]
    block: Iterator[int]


class _Block:
    """Neighbouring chunks that are compressed together.

    Args:
        id_: of the block.
        start: the first line.
    """

    def __init__(self, id_: int, start: int) -> None:
        self.id, self.start, self.size = id_, start, 0
        self._texts: list[str] = []

    def add(self, text: str) -> int:
        """Add a chunk; return behind how many characters of the block it is."""
        at = self.size
        self._texts.append(text)
        self.size += len(text)
        return at

    def packed(self) -> bytes:
        """Return all of it."""
        return zlib.compress("".join(self._texts).encode(), _LEVEL)


def place(state_dir: Path, name: str) -> Path:
    """Return where a workspace's text index lies: beside the watcher's index of it."""
    return state_dir / "index" / f"{name}.text.db"


def opened(file: Path) -> Texts:
    """Open a text index; one that is damaged, or that another version made, is begun anew.

    Raises:
        OSError, sqlite3.OperationalError: the place cannot be used.
    """
    try:
        return Texts(file)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        _unlink(file)
        return Texts(file)


def removed_if_damaged(file: Path) -> bool:
    """Remove a text index that is damaged; say whether it was."""
    try:
        check_on_disk(file)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            return False
        _unlink(file)
        return True
    return False


def _unlink(file: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)


def _place(row: tuple[int, bytes, int, int, int, str]) -> Place:
    id_, path, start, end, size, names = row
    return Place(
        id_, os.fsdecode(path), start, end, size, tuple(names.split("\n")) if names else ()
    )


def _unpacked(packed: bytes) -> str:
    return zlib.decompress(packed).decode()
