"""What happened in the last hour, kept in memory and in bounds."""

from __future__ import annotations

import time
from collections import deque
from itertools import pairwise
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Message, Send

    from infbox.metrics import Usage

MINUTES = 60
_MINUTE = 60.0
_MOST_ANSWERS = 2000
_WARM_SHARE = 0.5


class Counts(NamedTuple):
    """Counters as a service told them; they only grow, but begin anew when it is restarted.

    Attributes:
        at: monotonic time, in seconds.
        values: of the counters.
    """

    at: float
    values: tuple[float, ...]


class Minutes:
    """How much some counters grew in each of the last sixty minutes."""

    def __init__(self) -> None:
        self._counts: deque[Counts] = deque(maxlen=MINUTES + 1)

    def note(self, at: float, values: Sequence[float]) -> None:
        """Note what the counters are.

        Args:
            at: monotonic time, in seconds.
            values: always as many, in the same order.
        """
        counts = Counts(at, tuple(values))
        if len(self._counts) > 1 and _minute(self._counts[-1].at) == _minute(at):
            self._counts[-1] = counts
        else:
            self._counts.append(counts)

    def growth(self, now: float) -> list[tuple[float, ...] | None]:
        """Return the growth of each minute, the present one last; None where nothing is known."""
        found: list[tuple[float, ...] | None] = [None] * MINUTES
        known = list(self._counts)
        for before, after in pairwise(known):
            ago = _minute(now) - _minute(after.at)
            if 0 <= ago < MINUTES:
                found[MINUTES - 1 - ago] = _sum(found[MINUTES - 1 - ago], _grown(before, after))
        return found

    def total(self, now: float) -> tuple[float, ...] | None:
        """Return the growth of the last hour; None where nothing is known of it."""
        whole: tuple[float, ...] | None = None
        for minute in self.growth(now):
            if minute is not None:
                whole = _sum(whole, minute)
        return whole


class FirstTokens:
    """How long answers took to begin, with the cache and without."""

    def __init__(self) -> None:
        self._answers: deque[tuple[float, float, bool]] = deque(maxlen=_MOST_ANSWERS)

    def note(self, at: float, seconds: float | None, usage: Usage | None) -> None:
        """Note an answer, if it streamed and tells how much of its prompt was in the cache.

        Args:
            at: monotonic time, in seconds.
            seconds: from the request's arrival to its first event; None where it did not stream.
            usage: of it. More than half of the prompt in the cache makes it a warm one.
        """
        if seconds is None or usage is None or usage.cached is None:
            return
        self._answers.append((at, seconds, usage.cached > usage.prompt * _WARM_SHARE))

    def summary(self, now: float) -> dict[str, Any]:
        """Return count, median and 95th percentile of the last hour, in seconds, by warmth."""
        recent = [each for each in self._answers if now - each[0] < MINUTES * _MINUTE]
        return {
            name: _spread([seconds for _, seconds, warm in recent if warm is is_warm])
            for name, is_warm in (("warm", True), ("cold", False))
        }


class FirstEvent:
    """Hands an answer's messages on, and notes when the first of its events goes.

    Args:
        send: of the request.
        began: monotonic time at which the request arrived, in seconds.
    """

    def __init__(self, send: Send, began: float) -> None:
        self._send = send
        self._began = began
        self._streams = False
        self.seconds: float | None = None
        """From the arrival to the first event; None where there was none."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = {name.lower(): value for name, value in message["headers"]}
            self._streams = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        elif self._streams and self.seconds is None and message.get("body"):
            self.seconds = time.monotonic() - self._began
        await self._send(message)


def _minute(at: float) -> int:
    return int(at // _MINUTE)


def _grown(before: Counts, after: Counts) -> tuple[float, ...]:
    pairs = zip(before.values, after.values, strict=True)
    return tuple(new - old if new >= old else new for old, new in pairs)


def _sum(some: tuple[float, ...] | None, more: tuple[float, ...]) -> tuple[float, ...]:
    if some is None:
        return more
    return tuple(one + other for one, other in zip(some, more, strict=True))


def _spread(times: Sequence[float]) -> dict[str, Any]:
    if not times:
        return {"count": 0, "median": None, "p95": None}
    p95 = quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else times[0]
    return {"count": len(times), "median": median(times), "p95": p95}
