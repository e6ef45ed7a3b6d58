"""Following a tree, and making one text of it, as others do and as infbox does.

A follower of others tells paths, of files that git ignores too. infbox tells a save once it was
judged, read, hashed and committed to its index, so it does more in the same time.
"""

import os
import statistics
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import watch
from ..growth import trees as growing
from ..workload import Watcher, environment, git, make, watching
from .environment import version

SAVES = 40
PACK_TOKENS = 32_000
_PAUSE_SECONDS = 0.1
_PATIENCE_SECONDS = 60.0

_WATCHFILES = """
import sys
from watchfiles import watch
first = True
for changes in watch(sys.argv[1], yield_on_timeout=True, rust_timeout=50):
    if first:
        print("ready", flush=True)
        first = False
    for _, path in changes:
        print(path, flush=True)
"""
_WATCHDOG = """
import sys
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer
class Tell(FileSystemEventHandler):
    def on_closed(self, event):
        print(event.src_path, flush=True)
observer = Observer()
observer.schedule(Tell(), sys.argv[1], recursive=True)
observer.start()
print("ready", flush=True)
observer.join()
"""
FOLLOWERS = {"watchfiles": _WATCHFILES, "watchdog": _WATCHDOG}


def row(what: str, who: str, seen: float, unit: str) -> dict[str, object]:
    """Return a figure."""
    return {"what": f"{who}: {what}", "seen": float(f"{seen:.3g}"), "unit": unit}


def measure(directory: Path, programs: Path, files: int) -> Iterator[dict[str, object]]:
    """Measure on a tree that is made in an empty directory.

    Args:
        directory: for the tree.
        programs: of the peers.
        files: of the tree, and as many that git ignores.
    """
    root = directory / "tree"
    root.mkdir()
    paths = make(root, kept=files, text=growing.text)
    chosen = paths[:: max(len(paths) // SAVES, 1)][:SAVES]
    yield from texts(root, directory, programs)
    with watching(root, directory / "state", budget=PACK_TOKENS) as watcher:
        cpu = watcher.ready_cpu_seconds
        growing.settle(watcher, {"bench": files})
        told = watch.saves(root, watcher.index, chosen)
        yield from following("infbox", cpu, watcher.memory(), told)
    for name, program in FOLLOWERS.items():
        yield from following(version(name), *follow(program, root, directory, programs, chosen))
    status = [growing.children(lambda: git(root, "status", "--porcelain")) for _ in range(5)]
    yield row("to see what changed, CPU", "git status", statistics.median(status) * 1e3, "ms")


def following(
    who: str, cpu: float, memory: float, told: Sequence[float]
) -> Iterator[dict[str, object]]:
    """Yield the rows of one that follows a tree."""
    yield row("from its start until it follows the tree, CPU", who, cpu, "s")
    yield row("memory", who, memory, "MB")
    yield row("from a save until it is told, median", who, statistics.median(told), "ms")


def follow(
    program: str, root: Path, directory: Path, programs: Path, paths: Sequence[str]
) -> tuple[float, float, list[float]]:
    """Have a peer follow a tree; return CPU until it does, memory, and milliseconds of saves."""
    process = subprocess.Popen(
        [programs / "python", "-c", program, str(root)],
        stdout=subprocess.PIPE, text=True, env=environment(directory),
    )  # fmt: skip
    try:
        assert process.stdout  # noqa: S101  # for mypy
        process.stdout.readline()
        watcher = Watcher(process, 0, 0, directory)  # type: ignore[arg-type]  # of text
        cpu, told = watcher.cpu_seconds(), []
        for path in paths:
            time.sleep(_PAUSE_SECONDS)
            content = (root / path).read_bytes() + b"\n"
            with (root / path).open("wb") as stream:
                stream.write(content)
            began = time.perf_counter()
            while not process.stdout.readline().rstrip("\n").endswith(path):
                if time.perf_counter() - began > _PATIENCE_SECONDS:
                    raise SystemExit(f"{path} was not told")
            told.append((time.perf_counter() - began) * 1e3)
        return cpu, watcher.memory(), told
    finally:
        process.kill()
        process.communicate()


def texts(root: Path, directory: Path, programs: Path) -> Iterator[dict[str, object]]:
    """Make one text of a tree: infbox's pack within its tokens, gitingest's of all files."""
    pack = [str(Path(sysconfig.get_path("scripts")) / "infbox-watch"), "pack", str(root)]
    pack += ["--budget", str(PACK_TOKENS)]
    digest = [str(programs / "gitingest"), str(root), "-o", "-"]
    for who, command in (("infbox", pack), (version("gitingest"), digest)):
        with (directory / "text").open("wb") as text:
            ran = run(command, text.fileno(), directory)
        size = (directory / "text").stat().st_size
        yield row("one text of the tree, CPU", who, ran[0], "s")
        yield row("one text of the tree, memory at most", who, ran[1], "MB")
        yield row("one text of the tree, its size", who, size / 1e6, "MB")


def run(command: Sequence[str], output: int, directory: Path) -> tuple[float, float]:
    """Run a program; return its seconds of CPU and its most memory, in MB."""
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, cwd=directory,
                               env=environment(directory))  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} ended with status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3
