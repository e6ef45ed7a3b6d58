"""How many tokens each user had of each workspace on each day, in SQLite: it survives a restart,
and needs no Prometheus. Never a word of what was asked.

Requests are counted in memory and written down beside the event loop, so that none waits for the
disk. What a host that ends hard had not yet written is lost: the last few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from infbox.auth import told_limits
from infbox.log import line
from infbox.runtime.database import transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from infbox.metrics import Usage

SCHEMA_VERSION = 1
KEPT_DAYS = 400
MOST_ROWS = 10_000
"""Of one day. What comes beyond is counted together, by nobody's name."""

WRITE_SECONDS = 5.0

COLUMNS = (
    *("day", "user", "workspace", "requests", "uncounted_requests"),
    *("prompt_tokens", "cached_tokens", "completion_tokens"),
)
"""What a row is printed under: those of a ``Key``, then those of its ``Counts``."""

OTHERS = "(others)"
"""Stands for the users beyond what is kept of a day; no user has such a name."""

_SCHEMA = """
CREATE TABLE usage (
    day TEXT NOT NULL, user TEXT NOT NULL, workspace TEXT NOT NULL,
    requests INTEGER NOT NULL, uncounted INTEGER NOT NULL,
    prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL,
    PRIMARY KEY (day, user, workspace)
) WITHOUT ROWID;
"""
_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (day, user, workspace) DO UPDATE SET
    requests = requests + excluded.requests, uncounted = uncounted + excluded.uncounted,
    prompt = prompt + excluded.prompt, cached = cached + excluded.cached,
    completion = completion + excluded.completion
"""
# By the days that there are, not by the clock: one that is set wrong deletes nothing.
_FORGET = """
DELETE FROM usage WHERE day < (
    SELECT day FROM usage GROUP BY day ORDER BY day DESC LIMIT 1 OFFSET ?
)
"""
_IN_USE_SECONDS = 5.0

_logger = logging.getLogger(__name__)


class Key(NamedTuple):
    """Whose tokens are counted together.

    Attributes:
        day: in UTC, as YYYY-MM-DD.
        user: name of the user; empty where it is not known.
        workspace: that was asked; empty for none.
    """

    day: str
    user: str
    workspace: str


class Counts(NamedTuple):
    """What was counted.

    Attributes:
        requests: that were answered.
        uncounted: of them, those whose tokens are not known.
        prompt: tokens of the prompts.
        cached: of these, tokens that were not computed.
        completion: tokens of the answers.
    """

    requests: int = 0
    uncounted: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sums of the two."""
        return Counts(*map(sum, zip(self, other, strict=True)))


def file_in(state_dir: Path) -> Path:
    """Return the database's file.

    Args:
        state_dir: of the watcher; the directory in it is the gateway's to write to.
    """
    return state_dir / "usage" / "usage.db"


class Store:
    """The database. Used by one thread at a time.

    Args:
        file: made with mode 0640 when it is not there.
        kept_days: with any usage; earlier ones are deleted.
        most_rows: of a day.

    Raises:
        sqlite3.Error: the file is no database, is damaged, or of another version.
        OSError: its directory cannot be used.
    """

    def __init__(self, file: Path, kept_days: int = KEPT_DAYS, most_rows: int = MOST_ROWS) -> None:
        self._kept_days = kept_days
        self._most_rows = most_rows
        file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
        self._db = sqlite3.connect(
            file, timeout=_IN_USE_SECONDS, check_same_thread=False, isolation_level=None
        )
        try:
            with transaction(self._db):
                found = self._db.execute("PRAGMA user_version").fetchone()[0]
                if found == 0:
                    self._db.execute(_SCHEMA)
                    self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                elif found != SCHEMA_VERSION:
                    raise sqlite3.DatabaseError(f"version {found} is another one")
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def add(self, counted: Mapping[Key, Counts]) -> None:
        """Add what was counted, all or nothing, and forget the days before those that are kept.

        Raises:
            sqlite3.Error: it cannot be written.
        """
        with transaction(self._db):
            for key, counts in counted.items():
                self._db.execute(_ADD, (*self._bounded(key), *counts))
            self._db.execute(_FORGET, (self._kept_days - 1,))

    def _bounded(self, key: Key) -> Key:
        """Return a key, or the one of all others where the day has as many rows as it may."""
        asked = "SELECT 1 FROM usage WHERE (day, user, workspace) = (?, ?, ?)"
        if self._db.execute(asked, key).fetchone():
            return key
        (rows,) = self._db.execute("SELECT count(*) FROM usage WHERE day = ?", key[:1]).fetchone()
        return key if rows < self._most_rows else Key(key.day, OTHERS, "")


def read(file: Path, days: int) -> list[tuple[Key, Counts]]:
    """Return what was counted on the last days that have any usage, in order.

    Args:
        file: as a ``Store`` writes it; nothing was counted where it is not there.
        days: at most so many.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    asked = """
        SELECT * FROM usage WHERE day IN (
            SELECT DISTINCT day FROM usage ORDER BY day DESC LIMIT ?
        ) ORDER BY day, user, workspace
    """
    return [(Key(*row[:3]), Counts(*row[3:])) for row in _found(file, asked, (days,))]


def _found(file: Path, asked: str, told: tuple[object, ...]) -> list[tuple[Any, ...]]:
    if not file.exists():
        return []
    uri = f"{file.absolute().as_uri()}?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, timeout=_IN_USE_SECONDS, uri=True)) as database:
        if database.execute("PRAGMA user_version").fetchone()[0] == 0:
            return []  # it is just being made
        return database.execute(asked, told).fetchall()


def of_user(file: Path, user: str, since: str) -> dict[str, Counts]:
    """Return what a user had, by day, under whatever names somebody who signed in had it.

    Args:
        file: as for ``read``.
        user: who.
        since: the first day, as YYYY-MM-DD.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    asked = """
        SELECT day, sum(requests), sum(uncounted), sum(prompt), sum(cached), sum(completion)
        FROM usage WHERE (user = ? OR substr(user, ?) = ?) AND day >= ? GROUP BY day
    """
    end = told_limits.same_end(user)
    return {
        row[0]: Counts(*row[1:])
        for row in _found(file, asked, (user, -len(end), end or None, since))
    }


class Daily:
    """Counts requests, and has them written down every few seconds.

    Args:
        file: of the database; its directory must be there.
        today: returns the day in UTC, as YYYY-MM-DD.
        seconds: between writing.
    """

    def __init__(
        self,
        file: Path,
        today: Callable[[], str] | None = None,
        seconds: float = WRITE_SECONDS,
    ) -> None:
        self._file = file
        self._today = today or _today
        self._seconds = seconds
        self._counted: dict[Key, Counts] = {}
        self._store: Store | None = None
        self._failure = ""

    def count(self, user: str, workspace: str, usage: Usage | None) -> None:
        """Count a request. Called in the event loop; never waits.

        Args:
            user: whose it was.
            workspace: that it named; empty for none.
            usage: its tokens; None where they are not known.
        """
        one = Counts(1, 1) if usage is None else _counts(usage)
        self._add(Key(self._today(), user, workspace), one)

    def _add(self, key: Key, counts: Counts) -> None:
        if key not in self._counted and len(self._counted) >= MOST_ROWS:
            key = Key(key.day, OTHERS, "")
        self._counted[key] = self._counted.get(key, Counts()).plus(counts)

    def of_user(self, user: str, days: int) -> dict[str, Counts]:
        """Return what a user had on the last days, the present one among them. Blocking.

        Raises:
            OSError, sqlite3.Error: it cannot be read.
        """
        today = self._today()
        since = date.fromisoformat(today) - timedelta(days=days - 1)
        found = {today: Counts(), **of_user(self._file, user, since.isoformat())}
        person = told_limits.person(user)
        for key, counts in list(self._counted.items()):
            if told_limits.person(key.user) == person:
                found[key.day] = found.get(key.day, Counts()).plus(counts)
        return found

    def of_today(self) -> dict[str, Counts]:
        """Return what each user had of the day, as far as it is written down. Blocking."""
        found: dict[str, Counts] = {}
        try:
            rows = read(self._file, 1)
        except (OSError, sqlite3.Error) as error:
            _logger.error(line("usage-not-read", file=self._file, reason=error))
            rows = []
        for key, counts in rows:
            if key.day == self._today():
                found[key.user] = found.get(key.user, Counts()).plus(counts)
        return found

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have it written down until the block is left, and what is left at its end."""
        task = asyncio.create_task(self._write_again_and_again())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.to_thread(self._write, self._taken())
            if self._store:
                self._store.close()

    async def _write_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            counted = self._taken()
            # Not cut off by the end of this task, so that nothing is counted twice or never.
            writing = asyncio.ensure_future(asyncio.to_thread(self._write, counted))
            try:
                is_written = await asyncio.shield(writing)
            except asyncio.CancelledError:
                is_written = await writing
                self._put_back({} if is_written else counted)
                raise
            self._put_back({} if is_written else counted)

    def _taken(self) -> dict[Key, Counts]:
        counted, self._counted = self._counted, {}
        return counted

    def _put_back(self, counted: Mapping[Key, Counts]) -> None:
        for key, counts in counted.items():
            self._add(key, counts)

    def _write(self, counted: Mapping[Key, Counts]) -> bool:
        """Write what was counted; say whether that worked. In a thread."""
        if not counted:
            return True
        try:
            if self._store is None:
                self._store = Store(self._file)
            self._store.add(counted)
        except (OSError, sqlite3.Error) as error:
            self._note_failure(str(error))
            return False
        self._failure = ""
        return True

    def _note_failure(self, reason: str) -> None:
        if reason != self._failure:
            hint = (
                "counts stay in memory, and the gateway retries; free disk space, or move the file"
            )
            _logger.error(line("usage-not-kept", file=self._file, reason=reason, hint=hint))
        self._failure = reason
        if self._store:
            with contextlib.suppress(sqlite3.Error):
                self._store.close()
            self._store = None


def _counts(usage: Usage) -> Counts:
    return Counts(1, 0, usage.prompt, usage.cached or 0, usage.completion)


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()
