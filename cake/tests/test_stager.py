"""Staging from the back, in front of a disk that fails, stalls and is told to stop."""

import threading
import time
from collections.abc import Callable

from infbox_cake.race import Average
from infbox_cake.stager import Stager


class FakeDisk:
    """A store whose chunks come when the test says so."""

    def __init__(self, broken: frozenset[int] = frozenset()) -> None:
        self.broken = broken
        self.asked: list[int] = []
        self.kept: set[int] = set()
        self.may_come = threading.Semaphore(0)

    def bring(self, chunk: int) -> int:
        self.asked.append(chunk)
        return chunk

    def wait(self, handle: int, seconds: float) -> bool | None:
        if not self.may_come.acquire(timeout=seconds):
            return None
        if handle in self.broken:
            return False
        self.kept.add(handle)
        return True

    def release(self, chunk: int) -> None:
        self.kept.remove(chunk)  # raises where it was not kept

    def let(self, chunks: int) -> None:
        for _ in range(chunks):
            self.may_come.release()


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.002)


def staging(disk: FakeDisk, end: int, in_ram: frozenset[int] = frozenset()) -> Stager:
    stager = Stager(disk, 0, end, in_ram, Average(), at_once=2)
    stager.start()
    return stager


def test_the_last_chunk_comes_first() -> None:
    disk = FakeDisk()
    stager = staging(disk, 5)
    disk.let(2)
    until(lambda: stager.staged_from == 3)
    assert disk.asked == [4, 3, 2, 1]
    disk.let(3)
    stager.join(5)
    assert stager.is_over
    assert stager.staged_from == 0
    assert disk.kept == {0, 1, 2, 3, 4}


def test_a_chunk_that_cannot_be_had_ends_it_and_what_came_stays() -> None:
    disk = FakeDisk(broken=frozenset({2}))
    stager = staging(disk, 5)
    disk.let(5)
    stager.join(5)
    assert stager.is_over
    assert stager.staged_from == 3
    assert disk.kept == {3, 4}


def test_what_was_reached_by_computing_is_kept_no_longer() -> None:
    disk = FakeDisk()
    stager = staging(disk, 6)
    disk.let(4)
    until(lambda: stager.staged_from == 2)
    stager.release(4)
    disk.let(2)
    stager.join(5)
    assert disk.kept == {4, 5}


def test_nothing_is_kept_of_what_nobody_wants() -> None:
    disk = FakeDisk()
    stager = staging(disk, 6)
    disk.let(1)
    until(lambda: stager.staged_from == 5)
    stager.release(1 << 30)
    disk.let(5)
    stager.join(5)
    assert disk.kept == set()
    assert len(disk.asked) < 6


def test_what_lay_in_ram_tells_nothing_of_the_disk() -> None:
    disk, rate = FakeDisk(), Average()
    disk.let(4)
    stager = Stager(disk, 0, 4, frozenset({0, 1, 2, 3}), rate, at_once=2)
    stager.start()
    stager.join(5)
    assert rate.value is None


def test_chunks_that_come_in_bursts_tell_the_speed_of_all_of_them() -> None:
    disk, rate = FakeDisk(), Average(weight=1)
    stager = Stager(disk, 0, 4, frozenset(), rate, at_once=2)
    began = time.monotonic()
    stager.start()
    for _ in range(2):
        time.sleep(0.1)
        disk.let(2)
    stager.join(5)
    assert rate.value is not None
    assert rate.value <= 4 / 0.2
    assert rate.value >= 4 / (time.monotonic() - began)


def test_a_chunk_that_comes_too_late_still_tells_how_slow_the_disk_is() -> None:
    disk, rate = FakeDisk(), Average(weight=1)
    stager = Stager(disk, 0, 2, frozenset(), rate, at_once=2)
    stager.start()
    time.sleep(0.1)
    stager.release(1 << 30)
    disk.let(2)
    stager.join(5)
    assert disk.kept == set()
    assert rate.value is not None
    assert rate.value <= 2 / 0.1
