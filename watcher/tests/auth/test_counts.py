"""What users have used is counted, and one request at most goes beyond a limit."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.auth import told_limits
from infbox.auth.counts import DAY, Counts, Limit, Refused
from infbox.auth.limiter import Limiter, Taken
from infbox.auth.shared_counts import AwayError

if TYPE_CHECKING:
    from infbox.auth.counts import Places
    from infbox.auth.shared_counts import Place, SharedCounts

MINUTE, OF_DAY = "tokens_per_minute", "tokens_per_day"


class Clock:
    """Seconds that a test sets."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 30)), max_size=60),
)
def test_no_minute_has_more_than_the_limit_and_one_request(
    most: int, requests: list[tuple[float, int]]
) -> None:
    clock = Clock(100.0)
    counts, passed = Counts(clock), []
    for pause, cost in requests:
        clock.seconds += pause
        if not isinstance(counts.take("ann", [Limit(MINUTE, most)], cost), Refused):
            passed.append((clock.seconds, cost))
    for number, (began, cost) in enumerate(passed, start=1):
        minute = [each for at, each in passed[:number] if began - 60 < at]
        assert sum(minute) - cost < most


@given(st.integers(1, 50), st.lists(st.tuples(st.floats(0, 20), st.integers(1, 30)), max_size=40))
def test_who_waits_as_long_as_is_said_gets_in_and_not_before(
    most: int, requests: list[tuple[float, int]]
) -> None:
    clock = Clock(100.0)
    counts = Counts(clock)
    for pause, cost in requests:
        clock.seconds += pause
        refused = counts.take("ann", [Limit(MINUTE, most)], cost)
        if isinstance(refused, Refused):
            assert 1 <= refused.seconds <= 61
            clock.seconds += refused.seconds
            assert not isinstance(counts.take("ann", [Limit(MINUTE, most)], cost), Refused)


def test_a_day_ends_at_midnight_in_utc() -> None:
    wall = Clock(5 * DAY.seconds - 90.0)
    counts, limit = Counts(wall=wall), [Limit(OF_DAY, 10)]
    counts.take("ann", limit, 10)
    assert counts.take("ann", limit, 1) == Refused(limit[0], 10, 90)
    wall.seconds += 90
    assert not isinstance(counts.take("ann", limit, 1), Refused)
    assert counts.used("ann", OF_DAY) == 1


def test_of_two_limits_that_are_used_up_the_longer_wait_is_told_and_nothing_is_counted() -> None:
    counts = Counts(Clock(100.0), Clock(DAY.seconds * 3.5))
    limits = [Limit(MINUTE, 5), Limit(OF_DAY, 5)]
    counts.take("ann", limits, 5)
    refused = counts.take("ann", limits, 5)
    assert isinstance(refused, Refused)
    assert (refused.limit.name, refused.seconds) == (OF_DAY, DAY.seconds // 2)
    assert counts.used("ann", MINUTE) == 5


def run(limiter: Limiter, *takes: tuple[int, int]) -> list[Any]:
    """Reserve, and settle at once."""

    async def one_after_another() -> list[Any]:
        found = []
        for most, cost in takes:
            taken = await limiter.reserve("ann", [Limit(OF_DAY, 100)], most)
            if isinstance(taken, Taken):
                limiter.settle(taken, cost)
            found.append(taken)
        return found

    return asyncio.run(one_after_another())


def test_what_a_request_did_cost_takes_the_place_of_the_most_that_it_could() -> None:
    limiter = Limiter()
    found = run(limiter, (90, 10), (500, 89), (500, 5), (1, 1))
    assert [isinstance(taken, Taken) for taken in found] == [True, True, True, False]
    assert found[-1].used == 104


def test_what_was_used_before_counts_of_the_day() -> None:
    limiter = Limiter()
    limiter.note("ann", 100)
    assert isinstance(run(limiter, (1, 1))[0], Refused)


def test_who_is_refused_for_what_is_under_way_may_ask_again_at_once() -> None:
    async def ask() -> Refused:
        limiter = Limiter()
        await limiter.reserve("ann", [Limit(OF_DAY, 100)], 1000)
        refused = await limiter.reserve("ann", [Limit(OF_DAY, 100)], 1)
        assert isinstance(refused, Refused)
        return refused

    assert asyncio.run(ask()).seconds == 1


def test_who_is_refused_for_what_was_used_is_told_the_whole_wait() -> None:
    clock = Clock(100.0)

    async def ask() -> Refused:
        limiter = Limiter(counts=Counts(clock))
        limits = [Limit(MINUTE, 200)]
        await limiter.reserve("ann", limits, 1000)  # and goes on for longer than a minute
        clock.seconds += 70
        limiter.settle(taken(await limiter.reserve("ann", limits, 1)), 300)
        refused = await limiter.reserve("ann", limits, 1)
        assert isinstance(refused, Refused)
        return refused

    assert asyncio.run(ask()).seconds == 61


class Store:
    """Stands in for the counts in Valkey: it notes what it is told, unless it is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.seconds = 60.0
        self.answers = asyncio.Event()
        self.answers.set()
        self.sums: Counter[str] = Counter()

    async def take(
        self, user: str, limits: list[Limit], cost: int, _own: object, _until: float
    ) -> Places:
        self.check_there()
        await self.answers.wait()
        self.sums[user] += cost
        return {limit.name: 5 for limit in limits}

    async def change(self, changes: dict[Place, int], _until: float | None = None) -> None:
        self.check_there()
        for place, by in changes.items():
            self.sums[place.user] += by

    async def close(self) -> None:
        pass

    def note_slow(self) -> AwayError:
        self.is_away = True
        return AwayError("slow")

    def check_there(self) -> None:
        if self.is_away:
            raise AwayError("away")


def test_what_was_settled_while_valkey_was_away_is_told_later() -> None:
    store = Store()

    async def settle() -> None:
        limiter = Limiter(cast("SharedCounts", store))
        limits = [Limit(MINUTE, 100)]
        async with limiter.running():
            reserved = taken(await limiter.reserve("ann", limits, 1000))
            store.is_away = True
            limiter.settle(reserved, 5)
            await asyncio.sleep(0.01)
            store.is_away = False
            limiter.settle(taken(await limiter.reserve("ann", limits, 10)), 10)

    asyncio.run(settle())
    assert store.sums == {"ann": 15}


def test_who_waits_too_long_in_line_for_a_slow_valkey_is_counted_here() -> None:
    async def ask() -> tuple[list[Taken | Refused], Taken]:
        store = Store()
        store.seconds = 0.05
        limiter = Limiter(cast("SharedCounts", store))
        limits = [Limit(MINUTE, 50)]
        store.answers.clear()
        first = asyncio.create_task(limiter.take("ann", limits, 10))
        await asyncio.sleep(0)
        line = [asyncio.create_task(limiter.take("ann", limits, 10)) for _ in range(20)]
        behind = await asyncio.wait_for(asyncio.gather(*line), 60)
        assert not first.done(), "nobody waited for its end"
        store.answers.set()
        return behind, taken(await first)

    behind, first = asyncio.run(ask())
    here = [each for each in behind if isinstance(each, Taken)]
    assert len(here) == 5, "this host counts, and refuses"
    assert not any(each.shared for each in here)
    assert first.shared == {MINUTE: 5}


def taken(found: Taken | Refused) -> Taken:
    assert isinstance(found, Taken)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_of_twenty_clients_at_once_one_request_at_most_goes_beyond(seed: int) -> None:
    rng, limiter, most = random.Random(seed), Limiter(), 5000  # noqa: S311
    costs = []

    async def client() -> None:
        for _ in range(100):
            taken = await limiter.reserve("ann", [Limit(OF_DAY, most)], 100)
            if isinstance(taken, Taken):
                await asyncio.sleep(0)
                costs.append(rng.randrange(1, 100))
                limiter.settle(taken, costs[-1])
            await asyncio.sleep(0)

    async def clients() -> None:
        await asyncio.gather(*(client() for _ in range(20)))

    asyncio.run(clients())
    assert most <= sum(costs) < most + 100


@given(st.dictionaries(st.sampled_from(told_limits.NAMES), st.integers(0, 10**15 - 1)))
def test_a_header_tells_the_limits_that_there_are(limits: dict[str, int]) -> None:
    told = told_limits.to_header(limits)
    assert told
    assert told_limits.from_header(told) == {name: most for name, most in limits.items() if most}


@pytest.mark.parametrize(
    "value", ["", "tokens_per_day", "tokens_per_day=-1", "tokens=1", "tokens_per_day=1;", "*"]
)
def test_a_header_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="no limits"):
        told_limits.from_header(value)
