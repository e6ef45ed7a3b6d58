"""What following a tree costs: 20,000 files in 3,000 directories, and 20,000 that git ignores.

Each row stands beside a floor that is measured in the same run: the same work with nothing around
it. The watcher is the real one, a process of its own, looked at from outside.

    python -m bench.watch [--tokenizer tokenizer.json] [--json FILE]
"""

import argparse
import contextlib
import gc
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from infbox.tree.files import Tree, Walk
from infbox.watcher.service import SWITCH_SECONDS
from infbox.watching.index import Index
from infbox.watching.inotify import Watch
from infbox.watching.reconciler import Reconciler
from rich.console import Console
from rich.table import Table
from xxhash import xxh3_128_hexdigest

from .workload import Watcher, environment, git, make, watching

SAVES = 400
STARTS = 9
LISTINGS = 15
CHECKED_OUT = 10_000
MIN_FILES = 1_000
LIST = ("ls-files", "-coz", "--exclude-standard")

_PAUSE_SECONDS = 0.03  # between two saves, so that each is one of its own
_PATIENCE_SECONDS = 60.0
_IDLE_SECONDS = 5.0

# A save's way with nothing around it: event, read, hash, upsert, commit.
_RAW = """
import os, sqlite3, sys
from infbox.watching.events import CLOSE_WRITE
from infbox.watching.inotify import Watch
from xxhash import xxh3_128_hexdigest
root, file = sys.argv[1:]
database = sqlite3.connect(file, isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("PRAGMA synchronous = NORMAL")
database.execute("CREATE TABLE files (path BLOB PRIMARY KEY, hash TEXT) WITHOUT ROWID")
watch = Watch()
for directory, _, _ in os.walk(root + "/src"):
    watch.add(directory)
print("ready", flush=True)
while True:
    watch.wait(-1)
    for event in watch.events():
        if event.mask & CLOSE_WRITE:
            place = f"{event.directory}/{event.name}"
            with open(place, "rb") as stream:
                digest = xxh3_128_hexdigest(stream.read())
            path = os.fsencode(place[len(root) + 1:])
            database.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (path, digest))
"""


@dataclass(frozen=True)
class Row:
    """A line of the table; times in milliseconds, memory in MB.

    Attributes:
        what: was measured.
        seen: the figure.
        unit: of it.
        bar: what it must not exceed, in the same unit; None for a floor.
        floor: the same work with nothing around it.
    """

    what: str
    seen: float
    unit: str
    bar: float | None = None
    floor: float | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.watch", description=__doc__)
    parser.add_argument("--tokenizer", type=Path, help="a model's tokenizer.json, for memory")
    parser.add_argument("--untracked", action="store_true", help="commit none of the files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    sys.setswitchinterval(SWITCH_SECONDS)  # as the service has it
    gc.freeze()  # the service has not imported what this benchmark has
    with tempfile.TemporaryDirectory(prefix="infbox-bench-") as name:
        rows = measure(Path(name), options.tokenizer, tracked=not options.untracked)
    show(rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def measure(directory: Path, tokenizer: Path | None, *, tracked: bool) -> list[Row]:
    """Measure everything, on a tree made in an empty directory."""
    root = directory / "tree"
    root.mkdir()
    paths = make(root, tracked=tracked)
    state = directory / "state"
    by_git, listed = listings(root, directory)
    rows = [
        Row("git ls-files -co, the floor of a listing", by_git, "ms"),
        Row("first listing with watches", listed, "ms", 2 * by_git, by_git),
    ]
    with watching(root, state, tokenizer) as watcher:
        rows.append(Row("first start to READY", watcher.ready_seconds * 1e3, "ms"))
        most = _most_memory(watcher)
        time.sleep(_IDLE_SECONDS)
        rows.append(Row("memory, pack of 32,000 tokens", watcher.memory(), "MB", 100))
        rows.append(Row("memory, the most while that is made", most, "MB", 100))
        chosen = paths[:: len(paths) // SAVES]
        ours = saves(root, watcher.index, chosen)
    raw = raw_saves(root, directory, chosen)
    for part, bar in (("median", 2.0), ("99th percentile", 10.0)):
        place = 0.5 if part == "median" else 0.99
        rows.append(Row(f"save to committed, {part}", _at(ours, place), "ms", bar, _at(raw, place)))
    rows += restarts(root, state, tokenizer)
    rows += checkout(root, state, paths) if tracked else []
    return rows


def listings(root: Path, directory: Path) -> tuple[float, float]:
    """List a tree as git does, and as we do for the first time, with watches.

    In turn, since the machine's speed drifts.

    Returns:
        How long either takes, in milliseconds.
    """
    by_git: list[float] = []
    ours: list[float] = []
    for _ in range(LISTINGS):
        by_git.append(_took(lambda: git(root, *LIST)))
        ours.append(list_once(root, directory))
    return statistics.median(by_git), statistics.median(ours)


def list_once(root: Path, directory: Path) -> float:
    """List a tree as the service does for the first time, with a watch on each directory.

    Args:
        root: of the tree.
        directory: an index of its own is made in there.

    Returns:
        How long it took, in milliseconds. Closing the watches is left out: the kernel waits for all
        processors before it frees them, up to 20 ms, and the service does so when it ends.
    """
    began = time.perf_counter()
    index = Index(Path(tempfile.mkdtemp(dir=directory)) / "index.db")
    tree, watch = Tree(root), Watch()
    reconciler = _Listing(name="bench", tree=tree, index=index, watching=watch, wake=lambda: None)
    try:
        for has_more in reconciler.scan():
            if not has_more:
                time.sleep(0.0002)
    except _Listed:
        return (time.perf_counter() - began) * 1e3
    finally:
        tree.close()
        watch.close()
        index.close()
    raise AssertionError  # it is always raised


class _Listed(Exception):  # noqa: N818  # it is no error
    """The listing is done."""


class _Listing(Reconciler):
    """A reconciler that stops where the listing ends and the reading of files would begin."""

    def _take_walk(self, walk: Walk) -> None:
        assert len(walk.files) >= MIN_FILES  # noqa: S101  # a wrong tree would measure nothing
        raise _Listed


def saves(root: Path, index: Path, paths: Sequence[str]) -> list[float]:
    """Save files one by one.

    Returns:
        For each, how long it took until another process could read it from the index, in
        milliseconds.
    """
    database = sqlite3.connect(f"file:{index}?mode=ro", uri=True, isolation_level=None)
    found: list[float] = []
    for path in paths:
        content = f"SAVED = {time.time_ns()}\n".encode() + (root / path).read_bytes()
        digest, key = xxh3_128_hexdigest(content), os.fsencode(path)
        with (root / path).open("wb") as stream:
            stream.write(content)
        began = time.perf_counter()
        while _hash(database, key) != digest:
            if time.perf_counter() - began > _PATIENCE_SECONDS:
                sys.exit(f"{path} was not seen")
        found.append((time.perf_counter() - began) * 1e3)
        time.sleep(_PAUSE_SECONDS)
    database.close()
    return found


def raw_saves(root: Path, directory: Path, paths: Sequence[str]) -> list[float]:
    """Return the same of inotify and SQLite alone."""
    with following(root, directory / "raw.db"):
        return saves(root, directory / "raw.db", paths)


@contextlib.contextmanager
def following(root: Path, database: Path) -> Iterator[int]:
    """Follow a tree with inotify and SQLite alone; give the number of the process that does."""
    process = subprocess.Popen(
        [sys.executable, "-c", _RAW, str(root), str(database)],
        stdout=subprocess.PIPE,
        env=environment(database),
    )
    try:
        if process.stdout:
            process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def restarts(root: Path, state: Path, tokenizer: Path | None) -> list[Row]:
    """Start again with nothing changed."""
    times: list[float] = []
    for _ in range(STARTS):
        with watching(root, state, tokenizer) as watcher:
            times.append(watcher.ready_seconds * 1e3)
            time.sleep(1.0)
    start = [sys.executable, "-c", "pass"]
    bare = _median(lambda: subprocess.run(start, check=True, env=environment(state)), STARTS)
    database = sqlite3.connect(state / "index" / "bench.db")
    names = [name for (name,) in database.execute("SELECT path FROM files")]
    names += [name for (name,) in database.execute("SELECT path FROM folders")]
    database.close()
    places = [os.fsencode(root) + b"/" + name for name in names]
    stats = _median(lambda: [os.lstat(place) for place in places], STARTS)
    floor = bare + stats
    return [
        Row("python -c pass, and a stat of each path", floor, "ms"),
        Row("restart to READY, median", statistics.median(times), "ms", 2 * floor, floor),
        Row("restart to READY, best", min(times), "ms", 2 * floor, floor),
    ]


def checkout(root: Path, state: Path, paths: Sequence[str]) -> list[Row]:
    """Check out a branch in which half of the files are others."""
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "What was saved")
    git(root, "checkout", "--quiet", "-b", "other")
    changed = paths[:CHECKED_OUT]
    for path in changed:
        with (root / path).open("a") as stream:
            stream.write("OTHER = True\n")
    git(root, "commit", "--quiet", "-a", "-m", "Other")
    wanted = {os.fsencode(p): xxh3_128_hexdigest((root / p).read_bytes()) for p in changed}
    git(root, "checkout", "--quiet", "-")
    with watching(root, state) as watcher:
        time.sleep(_IDLE_SECONDS)
        database = sqlite3.connect(f"file:{watcher.index}?mode=ro", uri=True, isolation_level=None)
        began = time.perf_counter()
        git(root, "checkout", "--quiet", "other")
        written = time.perf_counter()
        _until(lambda: _hashes(database, wanted) == wanted)
        indexed = time.perf_counter()
        database.close()
        time.sleep(_IDLE_SECONDS)
        before = watcher.cpu_seconds()
        time.sleep(_IDLE_SECONDS)
        busy = (watcher.cpu_seconds() - before) / _IDLE_SECONDS * 100
    return [
        Row("git checkout of 10,000 files", (written - began) * 1e3, "ms"),
        Row("all indexed after its end", (indexed - written) * 1e3, "ms", 5_000),
        Row("share of a core 5 s later", busy, "%", 1),
    ]


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table("", "seen", "bar", "floor", "of the floor")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row.what,
            f"{row.seen:.2f} {row.unit}" if row.seen < 10 else f"{row.seen:.0f} {row.unit}",  # noqa: PLR2004
            "" if row.bar is None else f"{row.bar:.0f}",
            "" if row.floor is None else f"{row.floor:.2f}",
            "" if row.floor is None else f"{row.seen / row.floor:.1f} x",
        )
    Console(width=100).print(table)


def _hash(database: sqlite3.Connection, path: bytes) -> str:
    found = database.execute("SELECT hash FROM files WHERE path = ?", (path,)).fetchone()
    return str(found[0]) if found else ""


def _most_memory(watcher: Watcher) -> float:
    """Return the most memory, in MB, that was seen until the first pack was published."""
    seen: list[float] = []

    def is_published() -> bool:
        seen.append(watcher.memory())
        return watcher.published.exists()

    _until(is_published)
    return max(seen)


def _hashes(database: sqlite3.Connection, wanted: dict[bytes, str]) -> dict[bytes, str]:
    rows = database.execute("SELECT path, hash FROM files")
    return {path: digest for path, digest in rows if path in wanted}


def _median(action: Callable[[], object], times: int) -> float:
    """Return how long something takes, in milliseconds: the median of so many times."""
    return statistics.median(_took(action) for _ in range(times))


def _took(action: Callable[[], object]) -> float:
    """Return how long something takes, in milliseconds."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e3


def _at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def _until(condition: Callable[[], bool]) -> None:
    ends = time.perf_counter() + _PATIENCE_SECONDS
    while not condition():
        if time.perf_counter() > ends:
            sys.exit("it took too long")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
