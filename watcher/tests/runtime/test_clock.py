"""The wall clock set back under what runs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from following import following
from infbox.auth.counts import Counts, Limit, Refused
from infbox.runtime import clock
from infbox.runtime.clock import Moment
from infbox.tree.files import directory_row
from infbox.tree.records import Directory
from serving import until
from trees import fill

HOUR_NS = 3600 * 10**9


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the wall clock forward by so many nanoseconds, or back, of what it really is."""

    def set_by(nanoseconds: int) -> None:
        monkeypatch.setattr(clock, "wall_ns", lambda: time.time_ns() + nanoseconds)

    return set_by


def test_a_clock_that_is_set_back_has_the_tree_listed_once_more_and_no_oftener(
    repo: Path, set_clock: Callable[[int], None]
) -> None:
    with following(repo) as seen:
        seen.settles()
        before = seen.follower.scans
        set_clock(-HOUR_NS)  # all that decides is of the future now
        (repo / ".gitignore").write_text("*.tmp\n")
        until(lambda: seen.follower.scans > before)
        seen.settles()
        assert seen.follower.scans <= before + 2
        fill(repo, {"a.py": "saved after it\n", "b.tmp": "ignored\n"})
        seen.agrees()


def test_a_clock_that_is_set_back_while_the_tree_is_listed_hides_no_change(
    set_clock: Callable[[int], None],
) -> None:
    began = Moment.now()
    assert began.min_stamp <= began.wall_ns
    set_clock(-HOUR_NS)
    assert began.min_stamp <= clock.wall_ns(), "what is changed now counts as changed since"
    set_clock(HOUR_NS)
    assert began.min_stamp <= began.wall_ns, "and so does what was changed before the clock was set"


def test_a_file_of_the_future_is_left_alone(repo: Path) -> None:
    fill(repo, {"a.py": "a\n", "b.py": "b\n"})
    with following(repo) as seen:
        ahead = time.time() + 10 * 365 * 86400
        os.utime(repo / "a.py", (ahead, ahead))
        until(
            lambda: of_file(seen.follower.index_file, "a.py") == (repo / "a.py").stat().st_mtime_ns
        )
        seen.settles()
        fill(repo, {"a.py": "other\n"})
        seen.agrees()


def of_file(index: Path, path: str) -> int:
    """The time of a file that the index trusts; -1 where it trusts none."""
    with contextlib.closing(sqlite3.connect(index)) as database:
        found = database.execute("SELECT mtime_ns FROM files WHERE path = ?", (path.encode(),))
        mtime: int = found.fetchone()[0]
    return mtime


def test_a_folder_of_the_future_is_doubted_once(repo: Path) -> None:
    ahead = time.time() + 3600
    os.utime(repo, (ahead, ahead))
    doubted = directory_row(repo.stat())
    assert doubted == Directory(-1, -1)
    assert directory_row(repo.stat(), doubted).mtime_ns == repo.stat().st_mtime_ns
    os.utime(repo)
    assert directory_row(repo.stat(), doubted) == Directory(-1, -1), (
        "of just now, doubted however often"
    )


def test_a_clock_that_is_set_back_has_no_user_wait_for_it() -> None:
    now, wall = [1000.0], [1_000_000.0]
    counts = Counts(lambda: now[0], lambda: wall[0])
    limits = [Limit("requests_per_minute", 3)]

    def wait() -> int:
        taken = counts.take("alice", limits, 1)
        return taken.seconds if isinstance(taken, Refused) else 0

    assert [wait() for _ in range(4)] == [0, 0, 0, 61]
    wall[0] = 0.0
    now[0] += 60.5
    assert wait() == 1
    now[0] += 0.5
    assert wait() == 0


def test_a_limit_that_is_lowered_holds_at_once() -> None:
    now = [1000.0]
    counts = Counts(lambda: now[0])

    def wait(most: int) -> int:
        taken = counts.take("alice", [Limit("requests_per_minute", most)], 1)
        return taken.seconds if isinstance(taken, Refused) else 0

    for _ in range(5):
        assert wait(5) == 0
        now[0] += 1
    assert wait(2) == 60 - 1
    now[0] += 58.9
    assert wait(2) == 1
    now[0] += 0.1
    assert wait(2) == 0
