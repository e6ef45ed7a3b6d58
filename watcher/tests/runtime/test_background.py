"""Turns at long work, and events that come close together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from following import started, stop
from infbox.runtime.background import (
    LONGEST_SECONDS,
    LOST_SECONDS,
    QUIET_SECONDS,
    TURN_SECONDS,
    Debounce,
    Turns,
)
from infbox.tree.git import Git
from serving import until
from trees import fill


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_events_are_taken_together_when_it_is_quiet_but_not_for_ever() -> None:
    debounce = Debounce()
    assert debounce.due() is None
    debounce.ask(100.0)
    assert debounce.due() == pytest.approx(100.0 + QUIET_SECONDS)
    debounce.ask(101.0)
    assert debounce.due() == pytest.approx(100.0 + LONGEST_SECONDS)
    assert not debounce.take(100.0)
    assert debounce.take(101.0)
    assert debounce.due() is None
    assert QUIET_SECONDS <= 0.05
    assert LONGEST_SECONDS <= 0.25


def several(count: int) -> tuple[list[Callable[[], None]], Counter[int]]:
    """So many who ask, and how often each was woken."""
    woken: Counter[int] = Counter()

    def one(number: int) -> Callable[[], None]:
        return lambda: woken.update([number])

    return [one(number) for number in range(count)], woken


def test_so_many_have_their_turn_and_the_one_who_waited_longest_comes_next(clock: Clock) -> None:
    turns, (all_, woken) = Turns(2, clock), several(4)
    assert [turns.take(each) for each in all_] == [True, True, False, False]
    turns.give(all_[0])
    assert woken == {2: 1}
    assert [turns.take(each) for each in (all_[3], all_[0], all_[2])] == [False, False, True]


def test_a_turn_ends_where_others_wait_and_goes_on_where_none_does(clock: Clock) -> None:
    turns, (all_, woken) = Turns(1, clock), several(2)
    for _ in range(3):
        assert turns.take(all_[0])
        clock.now += TURN_SECONDS * 1.1
    assert not turns.take(all_[1])
    assert not turns.take(all_[0]), "its time is over"
    assert woken == {1: 1}
    assert turns.take(all_[1])


def test_one_that_hangs_in_its_turn_loses_it(clock: Clock) -> None:
    turns, (all_, _) = Turns(1, clock), several(2)
    assert turns.take(all_[0])
    assert not turns.take(all_[1])
    clock.now += LOST_SECONDS * 1.1
    assert turns.take(all_[1])
    assert not turns.take(all_[0]), "it comes to itself and waits like everybody"


def test_one_that_hangs_while_it_waits_keeps_nobody_behind_it(clock: Clock) -> None:
    turns, (all_, _) = Turns(1, clock), several(3)
    assert turns.take(all_[0])
    assert not turns.take(all_[1]), "the last that is heard of it"
    turns.give(all_[0])
    for _ in range(8):
        clock.now += LOST_SECONDS
        if turns.take(all_[2]):
            return
    pytest.fail("it waits for ever")


def test_who_waits_for_git_rests(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infbox.watching.follower._REST_SECONDS", 0.0)
    fill(repo, {"a.py": "a\n", "d/b.py": "b\n"})
    follower = started(repo)
    answering, asked, turned = threading.Event(), threading.Event(), Counter[str]()
    listing, turning = Git.other_files, follower._turn

    def other_files(git: Git) -> set[str]:
        asked.set()
        answering.wait(20)
        return listing(git)

    def turn() -> None:
        turned["so often"] += 1
        turning()

    monkeypatch.setattr(Git, "other_files", other_files)
    monkeypatch.setattr(follower, "_turn", turn)
    try:
        fill(repo, {".gitignore": "*.tmp\n"})
        assert asked.wait(10)
        until(lambda: follower._work is not None and not follower._has_more)
        before = turned["so often"]
        assert not answering.wait(0.5)
        assert turned["so often"] - before < 50, "it asks again and again whether git is done"
    finally:
        answering.set()
        stop(follower)
