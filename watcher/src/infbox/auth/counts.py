"""How much of their limits users have used, as one process knows it.

Time is cut into pieces that are counted whole: seconds of the last minute, and days in UTC. So what
is kept of a user is bounded, and no 60 seconds hold more than a limit says.
"""

from __future__ import annotations

import time
from math import ceil, floor
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

REQUESTS = "requests_per_minute"
TOKENS = "tokens_per_minute"
TOKENS_A_DAY = "tokens_per_day"

_MOST_KEPT = 10_000  # of what is kept of users, before what is over is looked for


class Period(NamedTuple):
    """What a limit is counted over.

    Attributes:
        seconds: of a piece.
        pieces: that count: the present one and those before it.
    """

    seconds: int
    pieces: int


MINUTE = Period(1, 61)
"""The first of the pieces is counted whole, so that there are 60 seconds in any case."""

DAY = Period(86_400, 1)

PERIODS = {REQUESTS: MINUTE, TOKENS: MINUTE, TOKENS_A_DAY: DAY}
"""By the names that settings have for the limits."""


class Limit(NamedTuple):
    """A limit of a user.

    Attributes:
        name: one of ``PERIODS``.
        most: that may be used before a request is refused, which one may go beyond.
    """

    name: str
    most: int


class Refused(NamedTuple):
    """Why a request is refused.

    Attributes:
        limit: that is used up.
        used: of it.
        seconds: after which there is something left of it.
    """

    limit: Limit
    used: int
    seconds: int


Places = dict[str, int]
"""The piece of time, by limit, in which something was counted."""


class Counts:
    """What users have used, in memory.

    Args:
        monotonic: returns seconds for the minutes: a wall clock that is set back would have users
            wait for as long.
        wall: returns seconds since 1970, for the days.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._used: dict[tuple[str, str], dict[int, int]] = {}

    def take(self, user: str, limits: Iterable[Limit], cost: int) -> Places | Refused:
        """Count what a request costs, unless a limit is used up. The request that begins before
        that is counted, whatever it costs.

        Args:
            user: whose it is.
            limits: of the user; all hold.
            cost: of the request.
        """
        limits = list(limits)
        refused = [found for limit in limits if (found := self._refused(user, limit))]
        if refused:
            return max(refused, key=lambda found: found.seconds)
        return {limit.name: self.add(user, limit.name, cost) for limit in limits}

    def add(self, user: str, name: str, cost: int) -> int:
        """Count without looking at a limit; return the piece of time."""
        piece = self.piece(name)
        costs = self._costs(user, name)
        costs[piece] = costs.get(piece, 0) + cost
        self._used[user, name] = costs
        if len(self._used) > _MOST_KEPT:
            self._forget()
        return piece

    def change(self, user: str, places: Places, by: int) -> None:
        """Change what was counted, where it still counts."""
        for name, piece in places.items():
            costs = self._costs(user, name)
            if piece in costs:
                costs[piece] += by

    def is_counted(self, name: str, piece: int | None) -> bool:
        """Say whether a piece of time still counts."""
        now = self.piece(name)
        return piece is not None and now - PERIODS[name].pieces < piece <= now

    def used(self, user: str, name: str) -> int:
        """Return how much of a limit is used."""
        return sum(self._costs(user, name).values())

    def users(self, name: str) -> list[str]:
        """Return the users who have used anything of a limit."""
        return [user for user, kept in list(self._used) if kept == name and self.used(user, name)]

    def piece(self, name: str) -> int:
        """Return the number of the present piece of time."""
        period = PERIODS[name]
        return floor(self._now(period) / period.seconds)

    def _now(self, period: Period) -> float:
        return self._wall() if period is DAY else self._monotonic()

    def _costs(self, user: str, name: str) -> dict[int, int]:
        """Return what counts, by its piece of time, without what is over."""
        costs = self._used.get((user, name), {})
        for piece in [piece for piece in costs if not self.is_counted(name, piece)]:
            del costs[piece]
        return costs

    def _refused(self, user: str, limit: Limit) -> Refused | None:
        costs = self._costs(user, limit.name)
        left = used = sum(costs.values())
        if used < limit.most:
            return None
        period = PERIODS[limit.name]
        over = self._now(period)
        for piece in sorted(costs):
            over = (piece + period.pieces) * period.seconds
            left -= costs[piece]
            if left < limit.most:
                break
        return Refused(limit, used, max(ceil(over - self._now(period)), 1))

    def _forget(self) -> None:
        for user, name in list(self._used):
            if not self._costs(user, name):
                del self._used[user, name]
