"""What each user had of each day: kept over restarts, bounded, and never waited for."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from infbox.auth import usage
from infbox.auth.usage import OTHERS, Counts, Daily, Key, Store, read
from infbox.metrics import Usage
from serving import until

DAY = "2027-01-31"
ANN = Key(DAY, "ann", "shop")
ONE = Counts(1, 0, 100, 60, 7)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return usage.file_in(tmp_path)


def kept(file: Path, *counted: dict[Key, Counts], **bounds: int) -> dict[Key, Counts]:
    store = Store(file, **bounds)
    for each in counted:
        store.add(each)
    store.close()
    return dict(read(file, 400))


def test_what_was_counted_is_added_up_over_restarts(file: Path) -> None:
    other = {ANN._replace(workspace=""): Counts(2, 1, 3, 0, 4)}
    assert kept(file, {ANN: ONE}, {ANN: ONE, **other}) == {
        ANN: Counts(2, 0, 200, 120, 14),
        **other,
    }
    assert kept(file, {ANN: ONE})[ANN] == Counts(3, 0, 300, 180, 21)


def test_only_its_owner_s_group_reads_it(file: Path) -> None:
    kept(file, {ANN: ONE})
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o750


def test_the_last_days_are_kept_whatever_the_clock_says(file: Path) -> None:
    days = [f"2027-01-{day:02}" for day in range(1, 6)]
    assert [key.day for key in kept(file, {Key(day, "ann", ""): ONE for day in days})] == days
    late = Key("2099-01-01", "ann", "")
    assert [key.day for key in kept(file, {late: ONE}, kept_days=5)] == [*days[1:], late.day]
    assert [key.day for key, _ in read(file, 2)] == [days[-1], late.day]


def test_a_day_has_so_many_rows_and_the_rest_is_counted_together(file: Path) -> None:
    users = [Key(DAY, f"u{number}", "shop") for number in range(5)]
    found = kept(file, dict.fromkeys(users, ONE), dict.fromkeys(users, ONE), most_rows=3)
    assert found.keys() == {*users[:3], Key(DAY, OTHERS, "")}
    assert sum(counts.requests for counts in found.values()) == 10
    assert found[users[0]].requests == 2


def test_nothing_was_counted_where_there_is_no_file(file: Path) -> None:
    assert read(file, 30) == []
    assert not file.exists()


def test_a_database_of_another_version_is_not_written_to(file: Path) -> None:
    kept(file)
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(sqlite3.DatabaseError, match="version 9"):
        Store(file)


def daily(file: Path, seconds: float = 0.01) -> Daily:
    return Daily(file, lambda: DAY, seconds)


def test_requests_are_counted_with_their_tokens(file: Path) -> None:
    async def count() -> None:
        counting = daily(file, seconds=3600)
        async with counting.running():
            counting.count("ann", "shop", Usage(100, 60, 7))
            counting.count("ann", "shop", Usage(100, None, 7))
            counting.count("ann", "shop", None)
        # The end of the block wrote it.

    asyncio.run(count())
    assert dict(read(file, 30)) == {ANN: Counts(3, 1, 200, 60, 14)}


def test_no_request_waits_for_the_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes, may_write = threading.Event(), threading.Event()
    add = Store.add

    def slow(store: Store, counted: dict[Key, Counts]) -> None:
        writes.set()
        assert may_write.wait(30)
        add(store, counted)

    monkeypatch.setattr(Store, "add", slow)

    async def count() -> None:
        counting = daily(file)
        async with counting.running():
            counting.count("ann", "shop", Usage(1, 0, 1))
            await asyncio.to_thread(writes.wait, 30)
            counting.count("ann", "shop", Usage(1, 0, 1))  # while the first one is written
            may_write.set()

    asyncio.run(count())
    assert dict(read(file, 30)) == {ANN: Counts(2, 0, 2, 0, 2)}


def test_what_cannot_be_written_is_kept_and_written_later(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.parent.mkdir(parents=True)
    file.write_text("no database" * 100)

    async def count() -> None:
        counting = daily(file)
        async with counting.running():
            counting.count("ann", "shop", Usage(100, 60, 7))
            await asyncio.to_thread(until, lambda: caplog.records)
            await asyncio.to_thread(file.unlink)
            await asyncio.to_thread(until, written)
            counting.count("ann", "shop", Usage(100, 60, 7))

    def written() -> bool:
        try:
            return bool(read(file, 30))
        except sqlite3.Error:
            return False

    asyncio.run(count())
    assert dict(read(file, 30)) == {ANN: Counts(2, 0, 200, 120, 14)}
    assert [record.message.split()[0] for record in caplog.records] == ["usage-not-kept"]


def test_what_waits_in_memory_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MOST_ROWS", 3)

    async def count() -> None:
        counting = daily(file, seconds=3600)
        async with counting.running():
            for number in range(5):
                counting.count(f"u{number}", "shop", Usage(1, 0, 1))

    asyncio.run(count())
    found = dict(read(file, 30))
    assert len(found) == 4
    assert found[Key(DAY, OTHERS, "")].requests == 2
