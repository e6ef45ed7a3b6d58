"""The race between computing a prompt from its front and loading it from its back.

After Jin, Liu, Zhang and Mao, "Compute Or Load KV Cache? Why Not Both?" (ICML 2025,
arXiv 2410.03065). This module only decides; it knows neither vLLM nor LMCache.

Positions are tokens of the prompt, *chunks* are LMCache's pieces of it. ``front`` is how many
tokens are computed; what is *staged* lies in RAM, ready to be loaded, from ``staged_from`` on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

LEAST_STEP = 128
"""Tokens: a step with fewer costs nearly as much as one with these."""

ALONE_STEP = 512
"""Tokens of a step at most while no load seems to come and nothing tells for how long, or answers
are written meanwhile: so many that steps cost little."""

BLOCK = 16
"""Tokens: steps end at multiples of it, vLLM's usual size of a KV block."""

AT_ONCE = 2
"""Loads under way: one is read while the next is looked up. With more, they share the disk's speed,
and the one that is needed next comes later."""

AT_ONCE_ALONE = 4
"""Loads under way where all of them have to come before anything goes on, whatever their order: so
many that the disk is never idle between two."""

STALL_FACTOR = 2.0
"""Loads under way that take so many times what they should have stalled."""

STALL_STEP = 3.0
"""While nothing comes, a step takes so many times as long as was waited until then: few steps cost
little, and what comes after all is not left lying for long."""

LEAST_PATIENCE = 0.5
"""Seconds that a load is waited for at least, since disks give in bursts, ..."""

PATIENCE_SHARE = 0.2
"""... or, where it is less, this share of the time that computing would take."""

STEP_SHARE = 0.75
"""Of the way to the meeting that one step goes: what the speeds are is known better by then."""

LEAST_CHUNKS = 2
"""Chunks expected before all is computed; of fewer, the one waited for may come too late."""


@dataclass(frozen=True)
class Worth:
    """When computing and loading at once is worth it.

    Attributes:
        load_alone: a load so many times as fast as computing is left alone.
        least_saving: share of the time that computing takes; a load that is expected to save less
            is left out, since steps and a guess that was wrong cost as much.
    """

    load_alone: float
    least_saving: float


ON_CPU = Worth(load_alone=2.0, least_saving=0.15)
"""Computing beside a faster load would save a third at most, takes the engine from others for it,
and holds up the load; and each step costs some 80 ms besides."""

ON_GPU = Worth(load_alone=9.0, least_saving=0.1)
"""A step costs a few milliseconds besides, and a load takes no computing: either way a tenth is
worth it. Chosen by a simulation (docs/cake-paper.md), and not measured on a GPU."""


class Average:
    """An exponentially weighted mean of speeds, the newest the heaviest.

    The mean is geometric: a disk that became ten times slower is found out as soon as one that
    became ten times faster.

    Args:
        weight: of a new value, between 0 and 1.
    """

    def __init__(self, weight: float = 0.3) -> None:
        self._weight = weight
        self.value: float | None = None
        """The mean; None until a value was taken."""

    def take(self, value: float, times: float = 1.0) -> None:
        """Take a new value into the mean.

        Args:
            value: the speed.
            times: how many values it counts as; one that was measured for longer tells more.
        """
        before = value if self.value is None else self.value
        self.value = before * (value / before) ** (1 - (1 - self._weight) ** times)


class Prefill(Average):
    """How many tokens are computed a second, by the engine's steps."""

    def step(self, tokens: Collection[int], seconds: float) -> None:
        """Take the speed of a step in which nothing but prompts was computed, in a race or not.

        Each prompt counts by what it got: beside others one is computed so much slower.

        Args:
            tokens: of each request in the step.
            seconds: that the step took.
        """
        if min(tokens, default=0) >= LEAST_STEP:
            for computed in tokens:
                self.take(computed / seconds, computed / ALONE_STEP)


@dataclass(frozen=True)
class Compute:
    """Compute so many tokens next."""

    tokens: int


@dataclass(frozen=True)
class Wait:
    """Compute nothing for now: loading is about to get there first."""


@dataclass(frozen=True)
class Load:
    """Load the chunks from ``first`` until before ``end``; all of them are staged."""

    first: int
    end: int


@dataclass(frozen=True)
class Over:
    """There is nothing to load any more."""


Decision = Compute | Wait | Load | Over


def run_to_stage(present: bytes, first: int) -> tuple[int, int]:
    """Return the chunks worth staging: the last unbroken run of those that are stored.

    What lies before a gap is computed; a prefix cache alone could use nothing after it.

    Args:
        present: for each chunk of the prompt, not 0 where it is stored.
        first: chunks before this one are computed already.

    Returns:
        The first chunk of the run and the one after its last; equal where nothing is stored.
    """
    end = len(present)
    while end > first and not present[end - 1]:
        end -= 1
    start = end
    while start > first and present[start - 1]:
        start -= 1
    return start, end


def loads_at_once(
    chunk: int, prefill: float | None, load: float | None, worth: Worth = ON_CPU
) -> int:
    """Return how many chunks to load at a time.

    Args:
        chunk: tokens of a chunk.
        prefill: tokens computed a second; None while unknown.
        load: chunks loaded a second; None while unknown.
        worth: when racing is.
    """
    is_alone = prefill and load and load * chunk >= prefill * worth.load_alone
    return AT_ONCE_ALONE if is_alone else AT_ONCE


class Race:
    """One prompt's race.

    Args:
        chunk: tokens of a chunk.
        start: the first chunk that may be loaded.
        end: the chunk after the last that may be.
        now: seconds of a monotonic clock.
        at_once: chunks that are loaded at a time.
        worth: when racing is.
    """

    def __init__(
        self,
        chunk: int,
        start: int,
        end: int,
        now: float,
        at_once: int = AT_ONCE,
        *,
        worth: Worth = ON_CPU,
    ) -> None:
        self._chunk = chunk
        self._start = start
        self._end = end
        self._moved_at = now
        self._at_once = at_once
        self._worth = worth
        self.staged_from = end
        """The first of the chunks that are staged without a gap until the end."""
        self.is_failed = False
        """Whether no more will be staged."""

    def staged(self, staged_from: int, is_failed: bool, now: float) -> None:
        """Take note of how far staging is."""
        if staged_from < self.staged_from:
            self.staged_from, self._moved_at = staged_from, now
        self.is_failed |= is_failed

    def next(
        self,
        front: int,
        prefill: float | None,
        load: float | None,
        now: float,
        is_crowded: bool = False,
    ) -> Decision:
        """Decide what to do next.

        Args:
            front: tokens computed.
            prefill: tokens computed a second, as measured; None while unknown.
            load: chunks staged a second, as measured; None while unknown.
            now: seconds of a monotonic clock.
            is_crowded: whether answers are being written meanwhile, each of which a step of this
                prompt holds up.
        """
        if front >= self._end * self._chunk:
            return Over()
        if front // self._chunk >= self.staged_from:
            return Load(front // self._chunk, self._end)
        if self.is_failed and self.staged_from == self._end:
            return Over()
        gap = self.staged_from * self._chunk - front
        return self._before_the_meeting(gap, prefill, load, now, is_crowded=is_crowded)

    def _before_the_meeting(
        self, gap: int, prefill: float | None, load: float | None, now: float, *, is_crowded: bool
    ) -> Decision:
        """Decide while ``gap`` tokens lie between what is computed and what is staged."""
        if self.is_failed or self.staged_from == self._start:
            # Nobody comes from the other side any more.
            return Compute(gap)
        waited = now - self._moved_at
        if not load or not prefill:
            # A short step loses little, whichever of the two turns out to be the faster.
            return Compute(min(LEAST_STEP if waited < LEAST_PATIENCE else ALONE_STEP, gap))
        loaded = load * self._chunk
        if self.staged_from == self._end and (
            loaded / (loaded + prefill) < self._worth.least_saving
            or _coming(LEAST_CHUNKS, load, waited) > gap / prefill
        ):
            return Over()
        # The last of those under way may come as late as the first of them.
        patience = STALL_FACTOR * self._at_once / load
        if waited > max(patience, min(LEAST_PATIENCE, PATIENCE_SHARE * gap / prefill)):
            # The longer nothing comes, the longer the step.
            step = _whole_blocks(STALL_STEP * waited * prefill)
            if step >= gap and self.staged_from == self._end and not is_crowded:
                return Over()
            return Compute(min(step, ALONE_STEP if is_crowded else gap, gap))
        if loaded >= prefill * (1.0 if is_crowded else self._worth.load_alone):
            return Wait()
        # Both move until they meet: the share of the gap that computing closes, as in the paper.
        computed = gap * prefill / (prefill + loaded)
        # A chunk that is computed in part only is loaded all the same.
        front = self.staged_from * self._chunk - gap
        if computed >= max(self._chunk - front % self._chunk, LEAST_STEP):
            return Compute(min(_whole_blocks(computed * STEP_SHARE), gap))
        # Near the meeting a whole chunk has to come, or all that is left of the gap be computed.
        coming = _coming(math.ceil(gap / self._chunk), load, waited)
        return Wait() if coming < max(gap, LEAST_STEP) / prefill else Compute(gap)


def _coming(chunks: int, load: float, waited: float) -> float:
    """Return in how many seconds chunks are expected; one that is late, as late again."""
    return abs(1 / load - waited) + (chunks - 1) / load


def _whole_blocks(tokens: float) -> int:
    """Round up to whole blocks, and to the least step."""
    return max(math.ceil(tokens / BLOCK) * BLOCK, LEAST_STEP)
