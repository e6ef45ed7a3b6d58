"""Refuses requests beyond what a user may use, on one host or on several that share their counts.

What a request costs is known at its end. Until then it is counted with the most that it may cost:
however many a user sends at once, one of them at most goes beyond a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import anyio

from infbox.auth.counts import DAY, MINUTE, PERIODS, Counts, Limit, Places, Refused
from infbox.auth.shared_counts import AWAY_SECONDS, AwayError, Own, Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from infbox.auth.shared_counts import SharedCounts

_WRITE_SECONDS = 60.0
_DAILY = tuple(name for name, period in PERIODS.items() if period is DAY)


class Taken(NamedTuple):
    """What is counted of a request.

    Attributes:
        user: whose it is.
        cost: that was counted.
        places: where, on this host.
        shared: where, on all of them.
    """

    user: str
    cost: int
    places: Places
    shared: Places


class Limiter:
    """Counts what users use.

    Args:
        shared: the counts of several hosts; None where this one is alone.
        counts: of this host.
        seconds: after which days are written to the shared counts again.
    """

    def __init__(
        self,
        shared: SharedCounts | None = None,
        counts: Counts | None = None,
        seconds: float = _WRITE_SECONDS,
    ) -> None:
        self._shared = shared
        self._counts = counts or Counts()
        self._seconds = seconds
        self._reserved: dict[str, list[Taken]] = {}
        self._in_order = asyncio.Lock()
        self._owed: Counter[Place] = Counter()
        self._owing_days: set[str] = set()
        self._is_owing = asyncio.Event()

    async def take(self, user: str, limits: Iterable[Limit], cost: int = 1) -> Taken | Refused:
        """Count a request, unless one of the user's limits is used up.

        Args:
            user: whose it is.
            limits: that hold for it.
            cost: of the request.
        """
        limits = [limit for limit in limits if limit.most]
        if self._shared is None or not limits:
            return self._taken_here(user, limits, cost)
        # To its end in any case: the next one must not get the answer to this one.
        taking = asyncio.ensure_future(self._take_shared(user, limits, cost))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._give_back)
            raise

    async def reserve(self, user: str, limits: Iterable[Limit], most: int) -> Taken | Refused:
        """Count a request with the most that it may cost, until ``settle`` says what it did.

        Args:
            user: whose it is.
            limits: that hold for it.
            most: that it may cost.
        """
        taken = await self.take(user, limits, most)
        if isinstance(taken, Taken):
            self._reserved.setdefault(user, []).append(taken)
        elif taken.used - self._under_way(user, taken.limit.name) < taken.limit.most:
            return taken._replace(seconds=1)  # one that is under way may cost less
        return taken

    def settle(self, taken: Taken, cost: int) -> None:
        """Count what a request did cost, in place of what was reserved. Never waits."""
        self._reserved[taken.user].remove(taken)
        if not self._reserved[taken.user]:
            del self._reserved[taken.user]
        self._change(taken, cost - taken.cost)

    def note(self, user: str, cost: int) -> None:
        """Count of the day what no limit was asked for."""
        for name in _DAILY:
            self._counts.add(user, name, cost)

    async def used(self, user: str, limits: Iterable[Limit]) -> dict[str, int]:
        """Return how much of limits is used, by their names."""
        limits = list(limits)
        if self._shared is not None and limits:
            with contextlib.suppress(AwayError):
                async with self._turn() as until:
                    used = await self._shared.used(user, limits, self._own(user), until)
                return {limit.name: each for limit, each in zip(limits, used, strict=True)}
        return {limit.name: self._counts.used(user, limit.name) for limit in limits}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tell the others what was settled, until the block is left."""
        if self._shared is None:
            yield
            return
        tasks = [asyncio.create_task(self._pay()), asyncio.create_task(self._write_days())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._pay_all()
            await self._shared.close()

    def _under_way(self, user: str, name: str) -> int:
        """Return what is reserved of a limit where it still counts."""
        return sum(
            taken.cost
            for taken in self._reserved.get(user, [])
            if self._counts.is_counted(name, taken.places.get(name))
        )

    def _change(self, taken: Taken, by: int) -> None:
        self._counts.change(taken.user, taken.places, by)
        for name, piece in taken.shared.items():
            if PERIODS[name] is DAY:
                self._owing_days.add(taken.user)
            else:
                self._owed[Place(taken.user, name, piece)] += by
        if taken.shared:
            self._is_owing.set()

    def _give_back(self, taking: asyncio.Future[Taken | Refused]) -> None:
        """Count nothing of a request whose client left while it was counted."""
        if not taking.cancelled() and isinstance(taken := taking.result(), Taken):
            self._change(taken, -taken.cost)

    def _taken_here(self, user: str, limits: list[Limit], cost: int) -> Taken | Refused:
        places = self._counts.take(user, limits, cost)
        return places if isinstance(places, Refused) else Taken(user, cost, places, {})

    async def _take_shared(self, user: str, limits: list[Limit], cost: int) -> Taken | Refused:
        assert self._shared is not None  # noqa: S101
        try:
            async with self._turn() as until:
                await self._pay_minutes(until)
                shared = await self._shared.take(user, limits, cost, self._own(user), until)
                if isinstance(shared, Refused):
                    return shared
                places = {limit.name: self._counts.add(user, limit.name, cost) for limit in limits}
                return Taken(user, cost, places, shared)
        except AwayError:
            return self._taken_here(user, limits, cost)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[float]:
        """Wait for one's turn to ask the shared counts; give the monotonic time until which a
        request may wait for all of it. If they respond slowly, requests wait in line: one that
        waited as long as for an answer counts here, and so do all behind it.

        Raises:
            AwayError: the shared counts are away, or too slow for the requests that there are.
        """
        assert self._shared is not None  # noqa: S101
        until = time.monotonic() + self._shared.seconds
        self._shared.check_there()
        try:
            with anyio.fail_after(self._shared.seconds):
                await self._in_order.acquire()
        except TimeoutError:
            raise self._shared.note_slow() from None
        try:
            self._shared.check_there()
            yield until
        finally:
            self._in_order.release()

    def _own(self, user: str) -> dict[str, Own]:
        return {
            name: Own(self._counts.piece(name), self._counts.used(user, name)) for name in _DAILY
        }

    async def _pay(self) -> None:
        while True:
            await self._is_owing.wait()
            self._is_owing.clear()
            await asyncio.shield(asyncio.ensure_future(self._pay_all()))
            if self._owed or self._owing_days:  # Valkey is away
                self._is_owing.set()
                await asyncio.sleep(AWAY_SECONDS)

    async def _pay_all(self) -> None:
        """Tell what was settled, as far as it can be told now."""
        with contextlib.suppress(AwayError):
            async with self._in_order:
                await self._pay_minutes()
            for user in list(self._owing_days):
                async with self._in_order:
                    await self._write(user)

    async def _pay_minutes(self, until: float | None = None) -> None:
        assert self._shared is not None  # noqa: S101
        owed, self._owed = self._owed, Counter()
        if not owed:
            return
        try:
            await self._shared.change(owed, until)
        except AwayError:
            self._owed.update(owed)
            newest = max(place.piece for place in self._owed)
            over = [each for each in self._owed if each.piece <= newest - MINUTE.pieces]
            for place in over:  # with their minute
                del self._owed[place]
            raise

    async def _write_days(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            self._owing_days |= {user for name in _DAILY for user in self._counts.users(name)}
            self._is_owing.set()

    async def _write(self, user: str) -> None:
        """Write down what a user had of the day."""
        assert self._shared is not None  # noqa: S101
        self._owing_days.discard(user)  # before: what is settled meanwhile is owed anew
        try:
            for name, own in self._own(user).items():
                await self._shared.write(user, name, own)
        except AwayError:
            self._owing_days.add(user)
            raise
