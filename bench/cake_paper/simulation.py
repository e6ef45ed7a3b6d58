"""A prompt in simulated time: computed, loaded, or both at once by Cake's own decisions.

Time is a number that each event moves on: a step that ended, a chunk that came. What decides is the
code that runs in the engine, `infbox_cake.race`; simulated are the GPU, the disk and the copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from infbox_cake.race import LEAST_STEP, ON_CPU, Load, Over, Prefill, Race, Wait, Worth

TICK = 0.001
"""Seconds between two questions of an engine that waits."""


@dataclass(frozen=True)
class Speeds:
    """What the engine, the disk and the copy to the GPU can do.

    Attributes:
        token: seconds that the prompt's first token takes, the others of its step beside it.
        load: chunks staged a second.
        growth: seconds that each token takes longer for each token before it.
        budget: tokens of an engine's step, those of other prompts included.
        share: of the budget, and so of the GPU, that this prompt gets.
        overhead: seconds that each step costs besides.
        copy: chunks copied from RAM to the GPU a second.
        handover: seconds from the last step until copying begins, the preemption included.
    """

    token: float
    load: float
    growth: float = 0.0
    budget: int = 2048
    share: float = 1.0
    overhead: float = 0.0
    copy: float = math.inf
    handover: float = 0.0

    @property
    def step(self) -> int:
        """Tokens of this prompt in a step, at most."""
        return max(int(self.budget * self.share), 1)

    def computing(self, front: int, tokens: float) -> float:
        """Return the seconds that tokens take after ``front`` others, without any overhead."""
        return self.token * tokens + self.growth * (front * tokens + tokens**2 / 2)

    def stepping(self, front: int, tokens: int) -> float:
        """Return the seconds of one step; a short one costs as much as one of LEAST_STEP."""
        short = max(LEAST_STEP * self.share - tokens, 0)
        return self.computing(front, tokens) + self.token * short + self.overhead

    def steps(self, front: int, end: int) -> float:
        """Return the seconds of all steps from ``front`` to ``end``, each as long as may be."""
        return sum(
            self.stepping(begin, min(self.step, end - begin))
            for begin in range(front, end, self.step)
        )

    def copying(self, chunks: int) -> float:
        """Return the seconds from the last step until loaded chunks are in the GPU's memory."""
        return self.handover + chunks / self.copy if chunks else 0.0


def loaded(speeds: Speeds, chunks: int) -> float:
    """Return the seconds until all chunks of a prompt are loaded and nothing is computed."""
    return chunks / speeds.load + speeds.copying(chunks)


def bound(speeds: Speeds, chunks: int, chunk: int) -> float:
    """Return the seconds below which no meeting point leads: steps of any length, and no copy.

    Args:
        speeds: of the engine and the disk.
        chunks: of the prompt, all of them stored.
        chunk: tokens of a chunk.
    """
    low, high = 0.0, float(chunks * chunk)
    for _ in range(60):
        middle = (low + high) / 2
        if speeds.computing(0, middle) < (chunks * chunk - middle) / chunk / speeds.load:
            low = middle
        else:
            high = middle
    return speeds.computing(0, low)


def race(
    speeds: Speeds,
    chunks: int,
    chunk: int,
    prefill: Prefill | float,
    *,
    worth: Worth = ON_CPU,
    is_crowded: bool = False,
    load: float | None = None,
    comes: bool = True,
) -> tuple[float, int]:
    """Run a race to its end.

    Args:
        speeds: of the engine, the disk and the copy.
        chunks: of the prompt, all of them on disk.
        chunk: tokens of a chunk.
        prefill: the measured speed of computing, which steps of this race change; or a fixed one.
        worth: when racing is.
        is_crowded: whether answers are being written meanwhile.
        load: chunks a second that are expected of the disk; its true speed if None.
        comes: whether what is expected of the disk does come.

    Returns:
        The seconds it took, and the tokens that were computed.
    """
    ahead, now, front = Race(chunk, 0, chunks, 0.0, worth=worth), 0.0, 0
    while True:
        ahead.staged(max(chunks - int(now * speeds.load), 0) if comes else chunks, False, now)
        known = prefill.value if isinstance(prefill, Prefill) else prefill
        decision = ahead.next(front, known, load or speeds.load, now, is_crowded=is_crowded)
        if isinstance(decision, Load):
            return now + speeds.copying(chunks - front // chunk), front
        if isinstance(decision, Over):
            for begin in range(front, chunks * chunk, speeds.step):
                now += stepped(speeds, begin, min(speeds.step, chunks * chunk - begin), prefill)
            return now, chunks * chunk
        if isinstance(decision, Wait):
            now += TICK
            continue
        tokens = min(decision.tokens, speeds.step)
        now += stepped(speeds, front, tokens, prefill)
        front += tokens


def stepped(speeds: Speeds, front: int, tokens: int, prefill: Prefill | float) -> float:
    """Return the seconds of a step, measured as by the scheduler, with the other prompt in it."""
    took = speeds.stepping(front, tokens)
    if isinstance(prefill, Prefill):
        others = speeds.budget - speeds.step
        prefill.step([tokens, others] if others else [tokens], took)
    return took


def by_the_paper(speeds: Speeds, chunks: int, chunk: int, fetched: int) -> float:
    """Return the seconds of the paper's algorithm 1: compute until the next token is loaded.

    Args:
        speeds: of the engine, the disk and the copy.
        chunks: of the prompt, all of them on disk.
        chunk: tokens of a chunk.
        fetched: tokens fetched at a time.
    """
    end, now, front = chunks * chunk, 0.0, 0
    while front < end and end - int(now * speeds.load * chunk / fetched) * fetched > front:
        tokens = min(speeds.step, end - front)
        now += speeds.stepping(front, tokens)
        front += tokens
    return now + speeds.copying((end - front) // chunk)
