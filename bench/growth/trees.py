"""What a tree costs, by its number of files: listing, pack, first start, saves, restart, questions.

Costs are processor time where that can be told, since a machine that does something else besides
changes it little; a save's way into the index is told in time, beside its floor.
"""

import contextlib
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from infbox.packing.tokens import Estimate
from infbox.retrieval import texts as text_index
from infbox.retrieval.search import choose
from infbox.retrieval.texts import Texts

from ..watch import LIST, following, list_once, saves
from ..workload import Watcher, cpu_seconds, environment, git, make, watching
from .curves import Curve

BUDGET = 32_000
SAVES = 120
QUESTIONS = 40
STARTS = 5
_WORDS = 3_000
_FUNCTIONS = 20
_FEW = 3
_FEW_FILES = 20
_PATIENCE_SECONDS = 3_600.0
_POLL_SECONDS = 0.2
_SETTLE_SECONDS = 2.0
_SPACE = 8_000

_READ_ALL = """
import os, subprocess, sys
from xxhash import xxh3_128_hexdigest
for root in sys.argv[1:]:
    listed = subprocess.run(["git", "-C", root, "ls-files", "-coz", "--exclude-standard"],
                            capture_output=True, check=True).stdout
    for path in filter(None, listed.split(b"\\0")):
        with open(os.path.join(os.fsencode(root), path), "rb") as stream:
            xxh3_128_hexdigest(stream.read())
"""
RESTART = "python -c pass, and a stat of each path"
_READ = "git's listing, and each file read and hashed by a bare Python"


def curves() -> dict[str, Curve]:
    """Return the curves of this module, without points."""
    one = "median of 120"
    return {
        "listing": Curve("first listing with watches", "ms of CPU", "files", "git ls-files -co", 2),
        "pack": Curve("infbox-watch pack", "s of CPU", "files", _READ),
        "start": Curve("first start to READY", "s of CPU", "files", _READ),
        "text": Curve("text index made", "s of CPU", "files", "whole files put into plain FTS5"),
        "memory": Curve("memory, both processes", "MB", "files", "two bare Pythons"),
        "peak": Curve("memory, the most of it", "MB", "files", "two bare Pythons"),
        "save": Curve(f"save to committed, {one}", "ms", "files", "inotify and SQLite alone"),
        "after": Curve("all work after a save", "ms of CPU", "files", "inotify and SQLite alone"),
        "restart": Curve("restart to READY", "s of CPU", "files", RESTART, 2),
        "question": Curve(
            f"a question, median of {QUESTIONS}", "ms of CPU", "files", "git grep of its words"
        ),
    }


def vocabulary() -> list[str]:
    """Return words that look like identifiers, those that are used most first."""
    chance = Random(7)  # noqa: S311  # the same words each time
    starts, ends = "bcdfghklmnprstvw", "aeiou"
    found: dict[str, None] = {}
    while len(found) < _WORDS:
        word = "".join(chance.choice(starts) + chance.choice(ends) for _ in range(3))
        found[word] = None
    return list(found)


VOCABULARY = vocabulary()
_WEIGHTS = [1 / (place + 10) for place in range(_WORDS)]  # as words in texts are used


def text(number: int) -> str:
    """Return the text of the file with a number: functions whose names are words of its own."""
    chance = Random(number)  # noqa: S311  # the same tree each time
    words = chance.choices(VOCABULARY, _WEIGHTS, k=3 * _FUNCTIONS)
    body = "".join(
        f"def {words[n]}_{words[n + 1]}(value):\n    return value * {words[n + 2]}\n\n"
        for n in range(0, len(words), 3)
    )
    return f"NUMBER = {number}\n\n\n{body}"


def questions() -> list[str]:
    """Return questions, each with words of which some are in many files and some in few."""
    chance = Random(11)  # noqa: S311
    return [
        "Where is {} computed, and what does {} do with the {} of {}?".format(
            *chance.choices(VOCABULARY, _WEIGHTS, k=2), *chance.sample(VOCABULARY, 2)
        )
        for _ in range(QUESTIONS)
    ]


def measure(directory: Path, size: int, found: dict[str, Curve]) -> None:
    """Measure all of it on one tree, which is made in an empty directory.

    Args:
        directory: for the tree and what is kept of it.
        size: files of the tree, and as many that git ignores.
        found: takes the points.
    """
    warm(directory)
    root, state = directory / "tree", directory / "state"
    root.mkdir()
    paths = make(root, kept=size, text=text)
    rounds = 9 if size <= 20_000 else _FEW  # noqa: PLR2004
    listing(root, directory, size, rounds, found["listing"])
    reading = children(lambda: read_all([root], directory))
    packed = children(lambda: _pack(root, directory))
    found["pack"].add(size, packed, reading)
    with watching(root, state, budget=BUDGET) as watcher:
        found["start"].add(size, watcher.ready_cpu_seconds, reading)
        peak = settle(watcher, {"bench": size})
        worked = watcher.cpu_seconds() - watcher.ready_cpu_seconds
        found["text"].add(size, worked, plain_index(root, paths, directory))
        bare = 2 * bare_megabytes(directory)
        found["memory"].add(size, watcher.memory(), bare)
        found["peak"].add(size, peak, bare)
        saving(root, watcher, paths, directory, found)
    found["restart"].add(size, *restarting(root, state))
    found["question"].add(size, *asking(root, state))


def warm(directory: Path) -> None:
    """Have Python compile what will be measured, as it is where a program was installed."""
    root = directory / "few"
    root.mkdir()
    make(root, kept=_FEW_FILES, text=text)
    read_all([root], directory)
    _pack(root, directory)
    with watching(root, directory / "few-state", budget=BUDGET) as watcher:
        settle(watcher, {"bench": _FEW_FILES})


def listing(root: Path, directory: Path, size: int, rounds: int, curve: Curve) -> None:
    """List as git does and as we do, in turn, since the machine's speed drifts."""
    by_git: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        by_git.append(used(lambda: git(root, *LIST)) * 1e3)
        ours.append(used(lambda: list_once(root, directory)) * 1e3)
    curve.add(size, statistics.median(ours), statistics.median(by_git))


def saving(
    root: Path, watcher: Watcher, paths: Sequence[str], directory: Path, found: dict[str, Curve]
) -> None:
    """Save files one by one: until each is committed, and all that is computed for it."""
    chosen = paths[:: max(len(paths) // SAVES, 1)][:SAVES]
    before = watcher.cpu_seconds()
    ours = saves(root, watcher.index, chosen)
    time.sleep(_SETTLE_SECONDS)
    worked = watcher.cpu_seconds() - before
    with following(root, directory / "raw.db") as process:
        place = Path(f"/proc/{process}")
        before = cpu_seconds(place)
        raw = saves(root, directory / "raw.db", chosen)
        alone = cpu_seconds(place) - before
    found["save"].add(len(paths), statistics.median(ours), statistics.median(raw))
    found["after"].add(len(paths), worked / len(chosen) * 1e3, alone / len(chosen) * 1e3)


def restarting(root: Path, state: Path) -> tuple[float, float]:
    """Start again with nothing changed; return the seconds of CPU of that and its floor."""
    starts: list[float] = []
    for _ in range(STARTS):
        with watching(root, state, budget=BUDGET) as watcher:
            starts.append(watcher.ready_cpu_seconds)
    return statistics.mean(starts), bare_restart(known_places(root, state), state)


def bare_restart(places: Sequence[bytes], directory: Path) -> float:
    """Return the seconds of CPU of Python's own start and a stat of each path."""
    start = [sys.executable, "-c", "pass"]
    bare = [
        children(lambda: subprocess.run(start, check=True, env=environment(directory)))
        for _ in range(STARTS)
    ]
    stats = [own(lambda: [os.lstat(place) for place in places]) for _ in range(STARTS)]
    return statistics.median(bare) + statistics.median(stats)


def known_places(root: Path, state: Path, name: str = "bench") -> list[bytes]:
    """Return the files and directories that an index knows, as paths."""
    with contextlib.closing(sqlite3.connect(state / "index" / f"{name}.db")) as database:
        names = [path for (path,) in database.execute("SELECT path FROM files")]
        names += [path for (path,) in database.execute("SELECT path FROM folders")]
    return [os.fsencode(root) + b"/" + path for path in names]


def asking(root: Path, state: Path) -> tuple[float, float]:
    """Ask questions as retrieval does and as git grep does; return milliseconds of CPU."""
    texts = Texts(text_index.place(state, "bench"), is_read_only=True)
    ours: list[float] = []
    theirs: list[float] = []
    with contextlib.closing(texts):
        for question in questions():
            ask = _chooses(texts, question)
            ours.append(own(ask) * 1e3)
        for question in questions()[:_FEW]:
            words = [word for word in question.split() if word.strip("?,") in VOCABULARY]
            theirs.append(children(_greps(root, words)) * 1e3)
    return statistics.median(ours), statistics.median(theirs)


def _chooses(texts: Texts, question: str) -> Callable[[], object]:
    return lambda: choose(
        texts, question, lambda _path: False, _SPACE, Estimate(), is_explained=False
    )


def _greps(root: Path, words: Sequence[str]) -> Callable[[], object]:
    wanted = [part for word in words for part in ("-e", word.strip("?,"))]
    command = ["git", "-C", str(root), "grep", "--fixed-strings", "--count", *wanted]
    return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


def settle(watcher: Watcher, sizes: dict[str, int]) -> float:
    """Wait until all packs are published and all text indexes whole; return the most memory, in MB.

    Args:
        watcher: it.
        sizes: files of each workspace, by its name.
    """
    waiting = dict(sizes)
    peak = 0.0
    ends = time.monotonic() + _PATIENCE_SECONDS
    while waiting:
        if time.monotonic() > ends:
            raise SystemExit(f"not ready after {_PATIENCE_SECONDS:.0f} s: {', '.join(waiting)}")
        time.sleep(_POLL_SECONDS)
        peak = max(peak, watcher.memory())
        waiting = {n: size for n, size in waiting.items() if not _is_whole(watcher, n, size)}
    return peak


def _is_whole(watcher: Watcher, name: str, size: int) -> bool:
    """Say whether a workspace has its pack and each file in its text index."""
    if not (watcher.state / "packs" / name / "pack.json").exists():
        return False
    file = text_index.place(watcher.state, name)
    with contextlib.suppress(sqlite3.Error):
        uri = f"{file.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            (count,) = database.execute("SELECT count(*) FROM files").fetchone()
            return bool(count >= size)
    return False


def plain_index(root: Path, paths: Sequence[str], directory: Path) -> float:
    """Put whole files into a plain FTS5 table; return the seconds of CPU."""

    def make_it() -> None:
        with contextlib.closing(sqlite3.connect(directory / "plain.db")) as database:
            database.execute("CREATE VIRTUAL TABLE plain USING fts5 (body, content='')")
            for path in paths:
                body = (root / path).read_text()
                database.execute("INSERT INTO plain (body) VALUES (?)", (body,))
            database.commit()

    return own(make_it)


def bare_megabytes(directory: Path) -> float:
    """Return the memory of a Python that does nothing, counted as the watcher's."""
    process = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(directory),
    )
    if process.stdout:
        process.stdout.readline()
    alone = Watcher(process, 0, 0, directory).memory()
    process.communicate(b"\n")
    return alone


def read_all(roots: Sequence[Path], directory: Path) -> None:
    """Have a bare Python list and read trees."""
    command = [sys.executable, "-c", _READ_ALL, *map(str, roots)]
    subprocess.run(command, check=True, env=environment(directory))


def _pack(root: Path, directory: Path) -> None:
    program = str(Path(sysconfig.get_path("scripts")) / "infbox-watch")
    command = [program, "pack", str(root), "--budget", str(BUDGET), "--stats"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment(directory))


def own(action: Callable[[], object]) -> float:
    """Return the seconds of CPU that this process takes for something."""
    before = time.process_time()
    action()
    return time.process_time() - before


def children(action: Callable[[], object]) -> float:
    """Return the seconds of CPU that processes take which end meanwhile."""
    before = _of(resource.RUSAGE_CHILDREN)
    action()
    return _of(resource.RUSAGE_CHILDREN) - before


def used(action: Callable[[], object]) -> float:
    """Return the seconds of CPU that this process and others for it take."""
    before = _of(resource.RUSAGE_SELF) + _of(resource.RUSAGE_CHILDREN)
    action()
    return _of(resource.RUSAGE_SELF) + _of(resource.RUSAGE_CHILDREN) - before


def _of(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime
