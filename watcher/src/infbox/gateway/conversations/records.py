"""What is known of conversations, in SQLite: it survives a restart, and takes no memory.

Records are a tree: each is its parent and one more note, so that what branches off shares what was
told before. A node is a hash of a conversation's beginning, and names the record that it was sent
by.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from infbox.gateway.conversations.notes import Note
from infbox.log import line
from infbox.packing.published import About, Pack
from infbox.runtime.database import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

SCHEMA_VERSION = 2

# Which files a record's note shows, where they were found for a question.
_FOUND = """
CREATE TABLE found (
    record INTEGER NOT NULL, workspace TEXT NOT NULL, path TEXT NOT NULL,
    PRIMARY KEY (workspace, path, record)
) WITHOUT ROWID;
CREATE INDEX found_record ON found (record);
"""
# The nodes' length and size are 0: an earlier release, which may be rolled back to, uses them.
_SCHEMA = """
CREATE TABLE packs (
    sha256 TEXT PRIMARY KEY, workspace TEXT NOT NULL, about TEXT NOT NULL, encoded BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE records (
    id INTEGER PRIMARY KEY, parent INTEGER, pack TEXT NOT NULL,
    workspace TEXT NOT NULL, began REAL NOT NULL, front INTEGER, place INTEGER NOT NULL,
    version INTEGER NOT NULL, note TEXT
);
CREATE TABLE nodes (
    key BLOB PRIMARY KEY, record INTEGER NOT NULL, used REAL NOT NULL,
    continued INTEGER NOT NULL, length INTEGER NOT NULL, size INTEGER NOT NULL,
    system INTEGER, tools INTEGER
) WITHOUT ROWID;
CREATE INDEX nodes_used ON nodes (used);
"""

_AT_ONCE = 200  # keys in one query
_NEAR = 6  # of the last ones, where the longest known beginning is as a rule
_COMPRESSION = 1
_EVICTED_SHARE = 0.25  # of the nodes, where all takes more than it may
_MOST_EVICTIONS = 12

_logger = logging.getLogger(__name__)


class Node(NamedTuple):
    """A beginning that was sent.

    Attributes:
        record: by which it was sent.
        used: unix time of the last request that sent it or went on from it, in seconds.
        continued: whether something was sent that goes on from it.
        system: digest of what stood before the messages; None where it ends in the middle of a
            request.
        tools: digest of the tools; None likewise.
    """

    record: int
    used: float
    continued: bool
    system: int | None = None
    tools: int | None = None


@dataclass(frozen=True)
class Record:
    """How a conversation was sent so far.

    Attributes:
        number: its id.
        root: id of the first one, which has no note.
        pack: sha256 of the pack in front.
        began: unix time since when it has that pack, in seconds.
        front: tokens of the pack that stand in front; None where it is the whole.
        notes: that were told: place of the message, number of the text that it was told from, note.
    """

    number: int
    root: int
    pack: str
    began: float
    front: int | None
    notes: tuple[tuple[int, int, Note], ...] = ()


class Records:
    """The database. Used by one thread at a time.

    Args:
        file: made with mode 0640 when it is not there.

    Raises:
        sqlite3.DatabaseError: the file is no database, is damaged, or of another version.
        OSError: the directory cannot be used.
    """

    def __init__(self, file: Path) -> None:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._db.execute("PRAGMA journal_mode = WAL")
        # No request waits for the disk: what a power cut spoils is begun anew.
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("PRAGMA secure_delete = ON")  # it is source text that is deleted
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, 1, SCHEMA_VERSION):
            self._db.close()
            raise sqlite3.DatabaseError(f"version {found} is another one")
        if found != SCHEMA_VERSION:
            new = _FOUND if found else _SCHEMA + _FOUND
            self._db.executescript(f"BEGIN; {new} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def longest(self, keys: Sequence[bytes]) -> tuple[int, Node | None]:
        """Return how many of the hashes, from the first on, end in one that is known, and that
        node."""
        ends = [len(keys), max(len(keys) - _NEAR, 0)]
        ends += range(ends[-1] - _AT_ONCE, 0, -_AT_ONCE)
        for end, start in zip(ends, [*ends[1:], 0], strict=True):
            found = self._nodes(keys[start:end])
            for place in range(end - 1, start - 1, -1):
                if keys[place] in found:
                    return place + 1, found[keys[place]]
        return 0, None

    def record(self, number: int, before: int) -> Record | None:
        """Return a record as it was for the first so many messages; None where it is not there."""
        notes: list[tuple[int, int, Note]] = []
        last = number
        while True:
            row = self._db.execute(
                "SELECT parent, pack, began, front, place, version, note FROM records WHERE id = ?",
                (number,),
            ).fetchone()
            if row is None:
                return None
            parent, pack, began, front, place, version, told = row
            if parent is None:
                return Record(last, number, pack, began, front, tuple(reversed(notes)))
            if place < before:
                notes.append((place, version, _note(told)))
            else:
                last = parent  # what is told later is not of this beginning
            number = parent

    def begin(self, pack: Pack, workspace: str, now: float) -> Record:
        """Make the record of a conversation that begins, or moves to another pack."""
        row = (pack.sha256, workspace, now, pack.version)
        number = self._db.execute(
            "INSERT INTO records (pack, workspace, began, place, version) VALUES (?, ?, ?, -1, ?)",
            row,
        ).lastrowid
        assert number is not None  # noqa: S101  # it was just given
        return Record(number, number, pack.sha256, now, None)

    def tell(self, record: Record, place: int, version: int, note: Note) -> Record:
        """Make the record that a record becomes by one more note.

        Args:
            record: before.
            place: of the message that it stands in.
            version: number of the text that it was told from.
            note: the note.
        """
        number = self._db.execute(
            "INSERT INTO records (parent, pack, workspace, began, front, place, version, note)"
            " SELECT id, pack, workspace, began, front, ?, ?, ? FROM records WHERE id = ?",
            (place, version, _as_json(note), record.number),
        ).lastrowid
        assert number is not None  # noqa: S101  # it was just given
        self._db.executemany(
            "INSERT OR IGNORE INTO found SELECT id, workspace, ? FROM records WHERE id = ?",
            [(path, number) for path, *_ in note.found],
        )
        notes = (*record.notes, (place, version, note))
        return Record(number, record.root, record.pack, record.began, record.front, notes)

    def without_found(self, record: Record) -> Record:
        """Make the record that a record is without what was found for questions, in its place.

        Args:
            record: before; what was sent by it goes on by the new one.
        """
        with self.transaction():
            number = self._db.execute(
                "INSERT INTO records (pack, workspace, began, front, place, version)"
                " SELECT pack, workspace, began, front, -1, version FROM records WHERE id = ?",
                (record.root,),
            ).lastrowid
            assert number is not None  # noqa: S101  # it was just given
            made = Record(number, number, record.pack, record.began, record.front)
            for place, version, note in record.notes:
                if not note.found:
                    made = self.tell(made, place, version, note)
            self._db.execute(
                "UPDATE nodes SET record = ? WHERE record = ?", (made.number, record.number)
            )
            return made

    def set_front(self, record: Record, tokens: int) -> None:
        """Note how much of the pack is in front, for all that share the record's beginning."""
        self._db.execute("UPDATE records SET front = ? WHERE id = ?", (tokens, record.root))

    def was_answered(self, keys: Sequence[bytes]) -> bool:
        """Say whether one of the messages with these hashes was the last of a request."""
        for end in range(len(keys), 0, -_AT_ONCE):
            found = self._nodes(keys[max(end - _AT_ONCE, 0) : end])
            if any(node.system is not None for node in found.values()):
                return True
        return False

    def keep(self, nodes: Mapping[bytes, Node]) -> None:
        """Keep these nodes, in place of those that are there; what was the last message of a
        request stays one."""
        self._db.executemany(
            "INSERT INTO nodes VALUES (?, ?, ?, ?, 0, 0, ?, ?) ON CONFLICT (key) DO UPDATE SET"
            " record = excluded.record, used = excluded.used, continued = excluded.continued,"
            " system = coalesce(excluded.system, system), tools = coalesce(excluded.tools, tools)",
            [(key, *node) for key, node in nodes.items()],
        )

    def touch(self, key: bytes, now: float) -> None:
        """Note that something goes on from a node."""
        self._db.execute("UPDATE nodes SET used = ?, continued = 1 WHERE key = ?", (now, key))

    def transaction(self) -> sqlite3.Connection:
        """Begin a transaction; the result is a context that ends it."""
        return transaction(self._db)

    def has_pack(self, digest: str) -> bool:
        """Say whether a pack is kept."""
        found = self._db.execute("SELECT 1 FROM packs WHERE sha256 = ?", (digest,)).fetchone()
        return found is not None

    def keep_pack(self, pack: Pack, workspace: str) -> None:
        """Keep a pack."""
        about = {
            "generation": pack.generation,
            "version": pack.version,
            "tokens": pack.tokens,
            "epoch": pack.epoch,
            "ends": pack.ends,
            "about": pack.about,
        }
        data = zlib.compress(pack.encoded, _COMPRESSION)
        self._db.execute(
            "INSERT OR IGNORE INTO packs VALUES (?, ?, ?, ?)",
            (pack.sha256, workspace, json.dumps(about), data),
        )

    def pack(self, digest: str) -> Pack | None:
        """Return a pack, without its plain text; None where it is not kept."""
        row = self._db.execute(
            "SELECT about, encoded FROM packs WHERE sha256 = ?", (digest,)
        ).fetchone()
        return None if row is None else _pack(digest, row[0], row[1])

    def forget(
        self,
        unusable: Callable[[str, Pack], bool],
        stale: Callable[[str, int, set[str]], bool],
    ) -> int:
        """Forget packs and notes, with all that refers to them.

        Args:
            unusable: says of a workspace's pack whether it must not be used any more.
            stale: says the same of a workspace's note, by the number of its text and its paths.

        Returns:
            How many were forgotten.
        """
        packs = [
            (digest,)
            for digest, workspace, about in self._db.execute(
                "SELECT sha256, workspace, about FROM packs"
            ).fetchall()
            if unusable(workspace, _pack(digest, about, None))
        ]
        notes = [
            (number,)
            for number, workspace, version, told in self._db.execute(
                "SELECT id, workspace, version, note FROM records WHERE note IS NOT NULL"
            ).fetchall()
            if stale(workspace, version, _note(told).paths)
        ]
        if packs or notes:
            with self.transaction():
                self._db.executemany("DELETE FROM packs WHERE sha256 = ?", packs)
                self._db.executemany("DELETE FROM records WHERE pack = ?", packs)
                self._db.executemany("DELETE FROM records WHERE id = ?", notes)
                self._sweep()
            self._shrink()
        return len(packs) + len(notes)

    def forget_found(self, allowed: Callable[[str, Iterable[str]], Iterable[str]]) -> int:
        """Forget what was found for questions of files that must not be shown any more, with all
        that refers to it.

        Args:
            allowed: returns those of a workspace's files that may be shown.

        Returns:
            How many notes were forgotten.
        """
        paths: dict[str, list[str]] = {}
        for workspace, path in self._db.execute("SELECT DISTINCT workspace, path FROM found"):
            paths.setdefault(workspace, []).append(path)
        gone = [
            (workspace, path)
            for workspace, each in paths.items()
            for path in sorted({*each}.difference(allowed(workspace, each)))
        ]
        if not gone:
            return 0
        count = 0
        with self.transaction():
            for one in gone:
                count += self._db.execute(
                    "DELETE FROM records WHERE id IN"
                    " (SELECT record FROM found WHERE workspace = ? AND path = ?)",
                    one,
                ).rowcount
            self._sweep()
        self._shrink()
        return count

    def evict(self, before: float, most_bytes: int) -> None:
        """Forget what was last used before a time, and more, the oldest first, where all takes more
        bytes than it may."""
        with self.transaction():
            if self._db.execute("DELETE FROM nodes WHERE used < ?", (before,)).rowcount:
                self._sweep()
        self._shrink()
        for _ in range(_MOST_EVICTIONS):
            if self.size <= most_bytes:
                return
            with self.transaction():
                self._evict_oldest()
                self._sweep()
            self._shrink()

    @property
    def size(self) -> int:
        """Bytes of the database."""
        pages: int = self._db.execute("PRAGMA page_count").fetchone()[0]
        size: int = self._db.execute("PRAGMA page_size").fetchone()[0]
        return pages * size

    def _nodes(self, keys: Sequence[bytes]) -> dict[bytes, Node]:
        if not keys:
            return {}
        marks = ",".join("?" * len(keys))
        rows = self._db.execute(
            "SELECT key, record, used, continued, system, tools FROM nodes"  # noqa: S608
            f" WHERE key IN ({marks})",
            keys,
        )
        return {row[0]: Node(row[1], row[2], bool(row[3]), *row[4:]) for row in rows}

    def _evict_oldest(self) -> None:
        count = self._db.execute("SELECT count(*) FROM nodes").fetchone()[0]
        most = max(int(count * _EVICTED_SHARE), 1)
        self._db.execute(
            "DELETE FROM nodes WHERE key IN (SELECT key FROM nodes ORDER BY used LIMIT ?)", (most,)
        )

    def _sweep(self) -> None:
        """Forget records that no node leads to or whose parent is gone, and packs without a
        record."""
        self._db.execute(
            "DELETE FROM records WHERE id NOT IN (WITH RECURSIVE up (id, parent) AS ("
            " SELECT id, parent FROM records WHERE id IN (SELECT record FROM nodes)"
            " UNION SELECT r.id, r.parent FROM records r JOIN up ON r.id = up.parent)"
            " SELECT id FROM up)"
        )
        while self._db.execute(
            "DELETE FROM records WHERE parent IS NOT NULL"
            " AND parent NOT IN (SELECT id FROM records)"
        ).rowcount:
            pass
        self._db.execute("DELETE FROM nodes WHERE record NOT IN (SELECT id FROM records)")
        self._db.execute("DELETE FROM packs WHERE sha256 NOT IN (SELECT pack FROM records)")
        self._db.execute("DELETE FROM found WHERE record NOT IN (SELECT id FROM records)")

    def _shrink(self) -> None:
        """Give back what was freed, and leave nothing of it in the log."""
        self._db.executescript("PRAGMA incremental_vacuum")  # execute would free one page only
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def opened(file: Path) -> Records:
    """Open the database; a damaged one, or one of another version, is begun anew, which the log
    says.

    Raises:
        OSError, sqlite3.Error: the directory cannot be used.
    """
    file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    try:
        return Records(file)
    except sqlite3.OperationalError:
        raise  # it cannot be used at present
    except sqlite3.DatabaseError as error:
        _logger.warning(line("conversations-damaged", file=file, error=error, fix="begun anew"))
        for part in (file, *file.parent.glob(f"{file.name}-*")):
            part.unlink(missing_ok=True)
        return Records(file)


def _as_json(note: Note) -> str:
    told = [note.text, note.tokens, note.shown, note.named, note.found]
    return json.dumps(told, ensure_ascii=False)


def _note(told: str) -> Note:
    text, tokens, shown, named, *more = json.loads(told)
    return Note(
        text,
        tokens,
        tuple((path, digest, whole) for path, digest, whole in shown),
        tuple((path, digest) for path, digest in named),
        tuple((path, digest, start, end) for each in more for path, digest, start, end in each),
    )


def _pack(digest: str, about: str, data: bytes | None) -> Pack:
    told = json.loads(about)
    return Pack(
        generation=told["generation"],
        version=told["version"],
        tokens=told["tokens"],
        sha256=digest,
        text=b"",
        encoded=b"" if data is None else zlib.decompress(data),
        ends=tuple((end, tokens) for end, tokens in told["ends"]),
        about=tuple(About(*one) for one in told["about"]),
        epoch=told["epoch"],
    )
