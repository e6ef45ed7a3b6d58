"""Measures the time to the first token where KV is computed, loaded from disk, or both at once.

Two engines, one without Cake and one with it, share an LMCache server, as `lab/cake.py` starts
them. The disk is slowed down to a share of the speed at which the engine computes.

    python -m bench.cake [--lengths 2000,8000] [--shares 0,25,50,100] [--ratios 0.1,0.3,1,3,10]
                         [--tries 3] [--larger] [--json FILE]

Needs root, a Docker Engine, `python -m lab up`, and nobody else on the machine: two cores compute.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.cake import CAKE, CHUNK, PLAIN, UNTHROTTLED, Rig, prompt, running, stored, throttle
from lab.images import engine_image

from .cells import Cell, read, write
from .plots import draw

SUFFIX = 40  # tokens of a question after what is cached
BELIEVED = 10  # speeds of computing at which a disk was before it stalls
PATIENCE = 0.5  # seconds until it counts as stalled, as race.py has it
DECODED_MEANWHILE = (0.3, 1.0, 3.0)  # speeds of the disk, at which others' answers are watched


@dataclass(frozen=True)
class Question:
    """What is asked, and how fast it is computed.

    Attributes:
        length: tokens of the prompt that it begins with.
        share: of that prompt that was asked to be stored.
        ids: its tokens.
        cached: how many of them are stored.
        speed: tokens computed a second, without any cache.
    """

    length: int
    share: float
    ids: Sequence[int]
    cached: int
    speed: float


def measure(rig: Rig, question: Question, ratio: float, tries: int) -> Cell:
    """Measure one cell; the ways take turns, and the best of the tries of each counts.

    A disk that is slower than computing is waited for once: it cannot be the better way.
    """
    load = question.speed * ratio
    turns: dict[str, list[tuple[float, str]]] = {"computed": [], "loaded": [], "raced": []}
    for index in range(tries):
        turns["computed"].append(compute(rig, question.ids))
        if index == 0 or ratio >= 1:
            turns["loaded"].append(rig.one(PLAIN, question.ids, load))
        turns["raced"].append(rig.one(CAKE, question.ids, load))
    seconds = {way: [round(took, 3) for took, _ in turn] for way, turn in turns.items()}
    speed = len(question.ids) / min(seconds["computed"])
    rest = len(question.ids) - question.cached
    bound = question.cached / (speed + load) + rest / speed
    answers = {answer for turn in turns.values() for _, answer in turn}
    return Cell(question.length, question.share, ratio, seconds, bound, len(answers) == 1)


def ask_whole(rig: Rig, ids: Sequence[int], share: float, tries: int) -> Question:
    """Have a question about a stored prompt computed, which tells how fast that is."""
    cached = int(len(ids) * share) // CHUNK * CHUNK
    asked = [*ids[:cached], *prompt(len(ids) - cached + SUFFIX, int(share * 100) + 1)]
    took = min(compute(rig, asked) for _ in range(tries))[0]
    return Question(len(ids), share, asked, cached, len(asked) / took)


def compute(rig: Rig, ids: Sequence[int]) -> tuple[float, str]:
    """Have a prompt computed without any cache; return the seconds it took, and the answer."""
    return rig.one(PLAIN, ids, 1e6, f"other-{time.time_ns()}")


def calibrate(rig: Rig, ids: Sequence[int], tries: int) -> None:
    """Print how much the engines differ where both do the same; the table does not allow for it."""
    turns = [
        [rig.one(engine, ids, 1e6, f"{turn}")[0] for engine in (PLAIN, CAKE)]
        for turn in range(tries)
    ]
    plain, cake = (min(way) for way in zip(*turns, strict=True))
    print(f"the same prompt computed: {plain:.2f} s, by Cake's engine {cake:.2f} s")


def grid(rig: Rig, arguments: argparse.Namespace) -> list[Cell]:
    """Measure all cells, and print each as it comes."""
    cells = []
    calibrate(rig, prompt(arguments.lengths[0], 0), arguments.tries)
    print(f"{'tokens':>7} {'stored':>7} {'disk':>6}  computed  loaded    cake   better   bound")
    for length in arguments.lengths:
        ids = prompt(length, length)
        rig.store(ids)
        for share in arguments.shares:
            question = ask_whole(rig, ids, share / 100, arguments.tries)
            # Of a prompt of which nothing is stored no disk is asked.
            for ratio in arguments.ratios if share else arguments.ratios[:1]:
                cell = measure(rig, question, ratio, arguments.tries)
                cells.append(cell)
                write(cells, arguments.json)
                print(
                    f"{length:>7,} {share:>6}% {ratio:>5}x {cell.computed:>8.2f}s"
                    f" {cell.loaded:>6.2f}s {cell.raced:>6.2f}s {cell.against_better:>7.2f}x"
                    f" {cell.raced / cell.bound:>6.2f}x{'' if cell.equal else '  NOT EQUAL'}",
                    flush=True,
                )
    return cells


def meanwhile(rig: Rig, length: int, tries: int) -> None:
    """Print how fast another answer is written while a stored prompt comes, by either way."""
    question = ask_whole(rig, prompt(length, length), 1.0, tries)
    for ratio in DECODED_MEANWHILE:
        plain, cake = (written_meanwhile(rig, way, question, ratio, tries) for way in (PLAIN, CAKE))
        print(
            f"another answer meanwhile, disk at {ratio}x: {cake:.1f} tokens/s,"
            f" {cake / plain:.2f} x of loading alone (bar 0.90)",
            flush=True,
        )


def written_meanwhile(rig: Rig, engine: str, question: Question, ratio: float, tries: int) -> float:
    """Return the tokens a second that another answer gets until a prompt's first; the best try."""
    speeds = []
    for _ in range(tries):
        rig.forget()
        with rig.writing(engine) as times:
            throttle(int(question.speed * ratio * rig.bytes_per_token))
            began = time.monotonic()
            try:
                took, _ = rig.ask(engine, question.ids)
            finally:
                throttle(UNTHROTTLED)
            speeds.append(sum(began < moment < began + took for moment in times) / took)
    return max(speeds)


def faults(rig: Rig, length: int, tries: int) -> None:
    """Print what a disk that stalls, and chunks that are damaged, do to a prompt; the best try."""
    question = ask_whole(rig, prompt(length, length), 1.0, tries)
    fast = question.speed * BELIEVED
    turns: dict[str, list[tuple[float, str]]] = {"computed": [], "stalled": []}
    for _ in range(tries):
        turns["computed"].append(compute(rig, question.ids))
        rig.one(CAKE, question.ids, fast)  # so that the disk is expected to be
        turns["stalled"].append(rig.one(CAKE, question.ids, 1e-3))
    (computed, answer), (stalled, other) = map(min, turns.values())
    bar = 1.1 + PATIENCE / computed
    print(f"the disk stalls: {stalled / computed:.2f} x computing (bar {bar:.2f}, the wait for it"
          f" counted), {equal(answer, other)}")  # fmt: skip
    for file in stored()[::3]:
        with file.open("r+b") as chunk:
            chunk.truncate(chunk.seek(0, os.SEEK_END) // 2)
    took, cut = rig.one(CAKE, question.ids, 1e6)
    print(f"a third of the chunks is cut: {took / computed:.2f} x ({equal(answer, cut)})")


def equal(first: str, second: str) -> str:
    """Say whether two answers are the same."""
    return "same answer" if first == second else "ANOTHER ANSWER"


def summary(cells: Sequence[Cell]) -> None:
    """Print the figures of the bars."""
    worst = max(cells, key=lambda cell: cell.against_better)
    even = [c.against_better for c in cells if c.ratio == 1 and c.share == 1]
    mean = statistics.mean
    print(f"worst cell against the better way: {worst.against_better:.2f} x (bar 1.05)")
    if even:
        print(f"where both are equally fast: {', '.join(f'{r:.2f}' for r in even)} x (bar 0.65)")
    print(f"mean against computing: 1/{mean(c.computed / c.raced for c in cells):.2f}")
    print(f"mean against loading: 1/{mean(c.loaded / c.raced for c in cells):.2f}")
    print(f"mean against the bound: {mean(c.raced / c.bound for c in cells):.2f} x (bar 1.25)")
    print(f"answers equal: {sum(cell.equal for cell in cells)} of {len(cells)}")


def numbers(text: str) -> list[float]:
    """Read a list of numbers with commas."""
    return [float(part) for part in text.split(",")]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lengths", type=numbers, default=[2000, 8000], metavar="TOKENS,…")
    parser.add_argument("--shares", type=numbers, default=[0, 25, 50, 100], metavar="PERCENT,…")
    parser.add_argument("--ratios", type=numbers, default=[0.1, 0.3, 1, 3, 10], metavar="RATIO,…")
    parser.add_argument(
        "--tries", type=int, default=3, help="of each way, of which the best counts"
    )
    parser.add_argument("--no-faults", action="store_true", help="the table alone")
    parser.add_argument("--larger", action="store_true", help="a model of four times the weights")
    parser.add_argument("--json", type=Path, help="write the cells there")
    parser.add_argument("--plot", type=Path, help="draw the cells there, as SVG")
    parser.add_argument("--cells", type=Path, nargs="+", metavar="FILE",
                        help="measure nothing, and take the cells that --json wrote")  # fmt: skip
    arguments = parser.parse_args()
    arguments.lengths = [int(length) for length in arguments.lengths]
    if arguments.cells:
        cells = [cell for file in arguments.cells for cell in read(file)]
    else:
        cells = measure_all(arguments)
    summary(cells)
    if arguments.plot:
        draw(cells, arguments.plot)
    return 0


def measure_all(arguments: argparse.Namespace) -> list[Cell]:
    """Measure what was asked for, and print it as it comes."""
    with running(engine_image(), larger=arguments.larger) as rig:
        cells = grid(rig, arguments)
        if not arguments.no_faults:
            meanwhile(rig, arguments.lengths[0], arguments.tries)
            faults(rig, arguments.lengths[0], arguments.tries)
    return cells


if __name__ == "__main__":
    sys.exit(main())
