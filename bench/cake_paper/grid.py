"""Every measurement of the paper, simulated."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from infbox_cake.race import ON_CPU, ON_GPU, Prefill, Worth

from .paper import BUDGET, FETCHED, MODELS, RAM_BYTES_PER_SECOND, Cell, cells
from .simulation import Speeds, bound, by_the_paper, race, stepped

CHUNK = 256
"""Tokens of LMCache's chunk, as infbox sets it."""

STEP_SECONDS = 0.003
"""Assumed: what a step costs besides, as each is decided only when the one before has ended."""

HANDOVER_SECONDS = 0.01
"""Assumed: the preemption and the scheduler's steps until copying begins."""

RACES = 3
"""Prompts one after the other, of which the last counts: speeds are known by then."""


@dataclass(frozen=True)
class Result:
    """One measurement of the paper, simulated; all times in seconds.

    Attributes:
        cell: the measurement.
        bound: below which no meeting point leads.
        rule: the paper's algorithm, without anything besides.
        ours: by infbox's decisions on a GPU, likewise.
        on_cpu: by its decisions on a CPU, likewise.
        built: by its decisions on a GPU, with its steps, its preemption and the copy at the end.
        computed: share of the prompt that was computed for `ours`.
    """

    cell: Cell
    bound: float
    rule: float
    ours: float
    on_cpu: float
    built: float
    computed: float

    def row(self) -> dict[str, object]:
        """Return it as JSON has it."""
        of = self.cell
        row = asdict(self)
        seconds = {
            "computed_alone": of.compute_seconds,
            "loaded_alone": of.load_seconds,
            "paper": of.cake_seconds,
        }
        times = {k: v for k, v in row.items() if k != "cell"} | seconds
        return {"cell": row["cell"], **{key: round(value, 4) for key, value in times.items()}}


def speeds_of(cell: Cell) -> Speeds:
    """Return the speeds that a measurement of the paper had."""
    each = cell.compute_seconds / (cell.tokens + cell.growth * cell.tokens**2 / 2)
    load = cell.tokens / CHUNK / cell.load_seconds
    return Speeds(each, load, growth=each * cell.growth, budget=BUDGET, share=cell.share)


def as_built(speeds: Speeds, chunk_bytes: float) -> Speeds:
    """Add to speeds what infbox adds to both computing and loading."""
    return replace(
        speeds,
        overhead=STEP_SECONDS,
        handover=HANDOVER_SECONDS,
        copy=RAM_BYTES_PER_SECOND / chunk_bytes,
    )


def settled(speeds: Speeds, chunks: int, worth: Worth, *, is_crowded: bool = False) -> float:
    """Return the seconds of a prompt once speeds are known; see `settled_with_tokens`."""
    return settled_with_tokens(speeds, chunks, worth, is_crowded=is_crowded)[0]


def settled_with_tokens(
    speeds: Speeds, chunks: int, worth: Worth, *, is_crowded: bool = False
) -> tuple[float, int]:
    """Race for a prompt several times, after one that had the GPU to itself.

    Returns:
        The seconds that the last race took, and the tokens computed in it.
    """
    prefill = Prefill()
    whole = replace(
        speeds, token=speeds.token * speeds.share, growth=speeds.growth * speeds.share, share=1.0
    )
    for front in range(0, chunks * CHUNK, whole.step):
        stepped(whole, front, min(whole.step, chunks * CHUNK - front), prefill)
    for _ in range(RACES):
        result = race(speeds, chunks, CHUNK, prefill, worth=worth, is_crowded=is_crowded)
    return result


def simulate(cell: Cell) -> Result:
    """Simulate one measurement of the paper."""
    speeds, chunks = speeds_of(cell), cell.tokens // CHUNK
    built = as_built(speeds, MODELS[cell.model].kv_bytes * cell.bits / 16 * CHUNK)
    ours, computed = settled_with_tokens(speeds, chunks, ON_GPU)
    return Result(
        cell,
        bound(speeds, chunks, CHUNK),
        by_the_paper(speeds, chunks, CHUNK, FETCHED),
        ours,
        settled(speeds, chunks, ON_CPU),
        settled(built, chunks, ON_GPU),
        computed / cell.tokens,
    )


def simulate_all() -> list[Result]:
    """Simulate the paper's tables 3 to 6."""
    return [simulate(cell) for cell in cells()]


def ratios(results: Sequence[Result], way: str) -> tuple[float, float]:
    """Return the mean of loading alone, and of computing alone, in times of one way."""
    seconds = [seconds_of(result, way) for result in results]
    of = [result.cell for result in results]
    return (
        statistics.mean(cell.load_seconds / s for cell, s in zip(of, seconds, strict=True)),
        statistics.mean(cell.compute_seconds / s for cell, s in zip(of, seconds, strict=True)),
    )


def against_bound(results: Sequence[Result], way: str) -> float:
    """Return the mean of one way in times of the bound."""
    return statistics.mean(seconds_of(result, way) / result.bound for result in results)


def seconds_of(result: Result, way: str) -> float:
    """Return the seconds of `paper`, or of one of a result's own."""
    return result.cell.cake_seconds if way == "paper" else float(getattr(result, way))
