"""What infbox promises, and which figure of which benchmark says whether it is kept."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..cake.cells import Cell
from ..peers.environment import version
from .results import find

Path = Sequence[str | int]
Value = Path | Callable[[Any], float]


@dataclass(frozen=True)
class Promise:
    """One promise.

    Attributes:
        text: what is promised, without a number.
        bench: whose result has the figure.
        seen: where it is there, or what makes it of the figures.
        unit: of it, behind a space; ``%``, ``x`` and so on.
        scale: what the figure is multiplied by to be in that unit.
        bar: the bound that was set; None where none was.
        minimum: whether the bar is the least that it may be, not the most.
        floor: the same work with nothing around it, or what others take, from the same run.
        floor_is: what the floor is.
        of_floor: whether the bar is times of the floor.
        short: what the README calls it; empty where that does not show it.
    """

    text: str
    bench: str
    seen: Value
    unit: str = ""
    scale: float = 1.0
    bar: float | None = None
    minimum: bool = False
    floor: Value | None = None
    floor_is: str = ""
    of_floor: bool = False
    short: str = ""

    def figure(self, figures: Any) -> float:
        """Return what was measured, in the promise's unit.

        Raises:
            LookupError: the result has no such figure.
        """
        return self.scale * _value(self.seen, figures)

    def floor_figure(self, figures: Any) -> float | None:
        """Return the floor, in the promise's unit; None where there is none.

        Raises:
            LookupError: the result has no such figure.
        """
        return None if self.floor is None else self.scale * _value(self.floor, figures)

    def is_kept(self, figures: Any) -> bool | None:
        """Say whether the bar is met; None where there is none."""
        if self.bar is None:
            return None
        seen, floor = self.figure(figures), self.floor_figure(figures)
        if self.of_floor:
            seen /= floor or 1
        return seen >= self.bar if self.minimum else seen <= self.bar


def _value(value: Value, figures: Any) -> float:
    return float(value(figures) if callable(value) else find(figures, value))


def at(curve: str, size: int, key: str) -> Callable[[Any], float]:
    """Return what takes a curve's point of a size."""

    def taken(figures: Any) -> float:
        for point in find(figures, (curve, "points")):
            if point["size"] == size:
                return float(point[key])
        raise LookupError(f"{curve} has no point of {size}")

    return taken


def middle(*path: str) -> Callable[[Any], float]:
    """Return what takes the median of a figure over several histories."""
    return lambda figures: statistics.median(find(each, path) for each in figures.values())


def most(*path: str) -> Callable[[Any], float]:
    """Return what takes the largest of a figure over several histories."""
    return lambda figures: float(max(find(each, path) for each in figures.values()))


def worst(key: str) -> Callable[[Any], float]:
    """Return what takes the largest of a list's figures."""
    return lambda figures: float(max(row[key] for row in figures))


def cake(length: int, ratio: float) -> Callable[[Any], float]:
    """Return what takes Cake's time of a whole prompt by the better of the two ways alone."""

    def taken(figures: Any) -> float:
        for row in figures:
            cell = Cell(**row)
            if (cell.length, cell.share, cell.ratio) == (length, 1, ratio):
                return cell.against_better
        raise LookupError(f"no cell of {length} tokens at {ratio}")

    return taken


def whole_packs(figures: Any) -> float:
    """Return how many packs that were proven in between were whole, of a hundred."""
    proven = [row for row in figures if row["proven"]]
    whole = [row for row in proven if min(row["vllm"], row["lmcache"]) >= 2048]  # noqa: PLR2004
    return 100 * len(whole) / len(proven)


def equal(figures: Any) -> float:
    """Return the share of greedy answers that were equal."""
    same, _, compared = figures["equal_answers"].partition(" of ")
    return 100 * int(same) / int(compared)


def hosts(count: int) -> Callable[[Any], float]:
    """Return what takes the wall time of the runs for so many hosts."""

    def taken(figures: Any) -> float:
        walls = [row["wall"] for row in figures if row["hosts"] == count]
        if not walls:
            raise LookupError(f"no run for {count} hosts")
        return float(statistics.median(walls))

    return taken


TIMES = "\N{MULTIPLICATION SIGN}"
BM25 = "BM25 with all of the tokens"
GIT = "`git ls-files -co --exclude-standard`"
START = "`python -c pass` and a stat of each path"
MANY = 100

SECTIONS: dict[str, Sequence[Promise]] = {
    "A question": (
        Promise("Time to first token in the demo, nothing cached", "demo", ["cold_seconds"], "s"),
        Promise("The same once the workspace is warm", "demo", ["warm_seconds"], "s",
                floor=["cold_seconds"], floor_is="nothing cached",
                short="Time to first token, warm workspace"),
        Promise("The same after a save", "demo", ["after_save_seconds"], "s",
                floor=["cold_seconds"], floor_is="nothing cached"),
        Promise("Turns after a save in a session of 30, time to first token", "sessions",
                ["first_token_after_saves"], "ms", 1e3, bar=1.2,
                floor=["first_token_without"], floor_is="the same session without infbox",
                of_floor=True, short="A turn of an agent's session after a save"),
        Promise("Of it outside the engine", "sessions", ["first_token_outside_engine"], "ms", 1e3),
        Promise("Tokens computed a turn, of 1.05 times those without infbox and of what is told",
                "sessions", ["computed_of_bar"], TIMES, bar=1),
        Promise("Greedy answers equal to those of the same prompt sent to the engine", "sessions",
                equal, "%", bar=100, minimum=True),
        Promise("Packs proven warm that are whole after 16 unrelated prompts", "eviction",
                whole_packs, "%", bar=100, minimum=True),
    ),
    "A prompt of 32,000 tokens, three histories that nothing was tuned on": (
        Promise("Shown of what a commit goes on to change in source files, median",
                "use_histories", middle("hunks", "both", "source"), "%", 100, bar=55, minimum=True,
                floor=middle("hunks", "bm25", "source"), floor_is=BM25,
                short="Shown in a prompt of what a commit goes on to change in source files"),
        Promise("Source files of it that are located, median",
                "use_histories", middle("files", "both", "source"), "%", 100, bar=75, minimum=True,
                floor=middle("files", "bm25", "source"), floor_is=BM25),
        Promise("Tokens computed for a question, up to 8,000 for what is retrieved; highest mean",
                "use_histories", most("computed_per_question"), "tokens", bar=8300),
    ),
    "A save": (
        Promise("Until it is committed to the index, median", "watch",
                ["save to committed, median", "seen"], "ms", bar=2,
                floor=["save to committed, median", "floor"], floor_is="inotify and SQLite alone"),
        Promise("The same, 99th percentile", "watch",
                ["save to committed, 99th percentile", "seen"], "ms", bar=10,
                floor=["save to committed, 99th percentile", "floor"],
                floor_is="inotify and SQLite alone"),
        Promise("Until it is warm, beyond the engine's own prefill", "warm", ["difference"], "ms",
                1e3, bar=150,
                short="From a save until it is warm, beyond the engine's own prefill"),
        Promise("Until it is warm", "warm", ["save_to_warm"], "ms", 1e3,
                floor=["engine_prefill"], floor_is="the engine's prefill"),
        Promise("Tokens computed of those of the edited files, the most of 12 histories",
                "replay_histories", worst("of_edited"), TIMES, bar=1.5,
                short="Tokens computed for a save, of the edited files' own"),
        Promise("All indexed after a checkout of 10,000 files", "watch",
                ["all indexed after its end", "seen"], "ms", bar=5000),
    ),
    "A source tree": (
        Promise("First listing with watches, 20,000 files", "watch",
                ["first listing with watches", "seen"], "ms", bar=2,
                floor=["first listing with watches", "floor"], floor_is=GIT, of_floor=True),
        Promise("Restart until ready, 20,000 files", "watch",
                ["restart to READY, median", "seen"], "ms", bar=2,
                floor=["restart to READY, median", "floor"], floor_is=START, of_floor=True,
                short="Restart of the watcher, 20,000 files"),
        Promise("The same in processor time, 200,000 files", "growth",
                at("restart", 200_000, "seen"), "s", bar=2,
                floor=at("restart", 200_000, "floor"), floor_is=START, of_floor=True),
        Promise("Memory of the watcher with a pack of 32,000 tokens", "watch",
                ["memory, pack of 32,000 tokens", "seen"], "MB", bar=100,
                short="Memory of the watcher, 20,000 files"),
        Promise("100 workspaces of 1,000 files each, processor time until ready", "growth",
                at("many_ready", MANY, "seen"), "s", bar=60,
                floor=at("many_ready", MANY, "floor"), floor_is="listed, read and hashed",
                short="100 workspaces of 1,000 files until ready, processor time"),
        Promise("Secrets found, of kinds that no rule was made with", "secrets",
                ["found_percent"], "%", bar=99, minimum=True, floor=["peer_found_percent"],
                floor_is="detect-secrets, all plugins",
                short="Files with secrets that are left out"),
        Promise("Harmless files left out as secret", "secrets", ["harmless_left_out_percent"], "%",
                floor=["peer_harmless_percent"], floor_is="detect-secrets, all plugins"),
    ),
    "Retrieval": (
        Promise("A question on 20,000 files, processor time", "retrieval",
                ["20,000 files: a question, of a processor", "value"], "ms", bar=15),
        Promise("The same in the gateway, by the clock, first asked", "retrieval",
                ["20,000 files: in the gateway", "value"], "ms", bar=15),
        Promise("A question on 200,000 files, processor time", "retrieval",
                ["200,000 files: a question, of a processor", "value"], "ms", bar=60),
        Promise("The same in the gateway, by the clock, first asked", "retrieval",
                ["200,000 files: in the gateway", "value"], "ms", bar=60),
        Promise("First text index of 20,000 files, processor time, of the watcher's own index",
                "retrieval", ["20,000 files: first text index, of", "value"], TIMES, bar=3),
        Promise("On disk, of the text", "retrieval", ["20,000 files: on disk", "value"], TIMES,
                bar=1.5),
    ),
    "The gateway": (
        Promise("Added to the first byte, 50 streams, a pack of 100,000 tokens, median", "gateway",
                ["added_first_byte_median_ms"], "ms", bar=2,
                short="Added by the gateway to the first byte, median"),
        Promise("The same, 99th percentile", "gateway", ["added_first_byte_p99_ms"], "ms", bar=8),
        Promise("Added with 1,000 known conversations of 100 messages, median", "gateway",
                ["known_added_first_byte_median_ms"], "ms", bar=2,
                floor=["known_direct_first_byte_median_ms"], floor_is="the first byte, direct"),
        Promise("The same, 99th percentile", "gateway", ["known_added_first_byte_p99_ms"], "ms",
                bar=8, floor=["known_direct_first_byte_p99_ms"],
                floor_is="the first byte, direct"),
        Promise("Events a second, as fast as can be, of direct", "gateway", ["flat_out_of_direct"],
                TIMES, bar=0.9, minimum=True),
        Promise("Memory with 500 idle streams", "gateway", ["idle_mb"], "MB", bar=150),
        Promise("Sockets left of 10,000 requests", "gateway", ["leaked_sockets"], bar=0),
        Promise("Longest standstill of its loop, bodies of 32 MB", "bodies",
                lambda figures: max(row["loop_ms"] for row in figures.values()), "ms"),
    ),
    "Beside others": (
        Promise("A question through the gateway, processor time", "peers",
                ["infbox's gateway: a question", "seen"], "ms",
                floor=[f"{version('litellm')}: a question", "seen"], floor_is="litellm's proxy"),
        Promise("Memory of the gateway", "peers",
                ["infbox's gateway: memory", "seen"], "MB",
                floor=[f"{version('litellm')}: memory", "seen"], floor_is="litellm's proxy"),
        Promise("One text of a tree of 5,000 files, processor time: a pack of 32,000 tokens",
                "peers", ["infbox: one text of the tree, CPU", "seen"], "s",
                floor=[f"{version('gitingest')}: one text of the tree, CPU", "seen"],
                floor_is="gitingest, all files"),
        Promise("Until a save is told: judged, hashed and committed", "peers",
                ["infbox: from a save", "seen"], "ms",
                floor=[f"{version('watchfiles')}: from a save", "seen"],
                floor_is="watchfiles, the path alone"),
        Promise("The same", "peers", ["infbox: from a save", "seen"], "ms",
                floor=[f"{version('watchdog')}: from a save", "seen"],
                floor_is="watchdog, the path alone"),
        Promise("Memory of what follows a tree: with pack, text index and warming", "peers",
                ["infbox: memory", "seen"], "MB",
                floor=[f"{version('watchdog')}: memory", "seen"], floor_is="watchdog"),
    ),
    "Cake": (
        Promise("Whole prompt of 2,000 tokens, disk as fast as computing, of the better way alone",
                "cake", cake(2000, 1), TIMES, bar=0.65),
        Promise("The same, 8,000 tokens", "cake", cake(8000, 1), TIMES, bar=0.65),
    ),
    "Operations": (
        Promise("`site.yml` with nothing to do, one host", "operations", hosts(1), "s", bar=25),
        Promise("The same, four hosts of one machine", "operations", hosts(4), "s", bar=70),
        Promise("`make demo` from a fresh clone, with nothing built", "demo",
                ["clone_seconds"], "s", bar=420),
        Promise("The same with images at hand", "demo", ["first_run_seconds"], "s"),
        Promise("The same while it runs", "demo", ["second_run_seconds"], "s", bar=60),
    ),
}  # fmt: skip
