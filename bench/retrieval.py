"""What retrieval costs: the first index, its size on disk, a save, one question.

    python -m bench.retrieval [--files 20000 200000] [--repository REPO] [--json FILE]

A tree is made of copies of a history's last commit, in directories of their own, until there are so
many files: every word is in as many more chunks, which is harder than a real tree of that size.
What the first text index takes stands beside what the watcher's own first index of the same files
takes, in processor time of the same run: both are the real ones, on files in a repository. A
question is measured in processor time too, and in the gateway by the clock.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from infbox.config import MAX_FILE_BYTES
from infbox.evaluation.history import Blob, History
from infbox.gateway.conversations.retrieving import LATE, SECONDS, Found, Retrieval, Wanted
from infbox.packing.tokens import BYTES_PER_TOKEN, Estimate
from infbox.retrieval import texts as module
from infbox.retrieval.search import choose
from infbox.retrieval.texts import Texts
from infbox.tree.files import Tree
from infbox.watcher.text_index import TextIndex
from infbox.watching import index
from infbox.watching.follower import Follower
from rich.console import Console
from rich.table import Table

from .workload import git

ROOT = Path(__file__).resolve().parent.parent
NAME = "bench"
SPACE = 8000
QUESTIONS = 60
SAVES = 60


@dataclass
class Seen:
    """A figure beside its bar."""

    what: str
    value: float
    unit: str
    bar: str


def copies(repository: Path, most: int) -> dict[str, Blob]:
    """Return so many files, by path."""
    with History(repository) as history:
        last = list(history.files("HEAD"))
    files: dict[str, Blob] = {}
    for turn in range(most // len(last) + 1):
        files |= {f"copy{turn}/{path}": blob for path, blob in last}
    return dict(list(files.items())[:most])


def questions(repository: Path) -> list[str]:
    """Return the messages of the last commits."""
    with History(repository) as history:
        return [history.message(commit) for _, commit in history.steps(QUESTIONS)]


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return how long something keeps a processor busy, in all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def _nothing(_path: str) -> bool:
    """Say of no file that a pack shows it."""
    return False


def committed(files: dict[str, Blob], root: Path) -> Path:
    """Write files into a new repository."""
    tree = root / "tree"
    for path, blob in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(blob.text)
    for arguments in (
        ["init", "--quiet"],
        ["add", "--all", "--force"],
        ["commit", "--quiet", "-m", "all"],
    ):
        git(tree, *arguments)
    return tree


def first_index(tree: Path, root: Path) -> None:
    """Have the watcher's index made."""
    follower = Follower(
        name=NAME, root=tree, state_dir=root, max_file_bytes=MAX_FILE_BYTES, poll_seconds=5.0
    )
    follower.start()
    follower.scanned.wait()
    follower.stop()
    follower.join()
    if follower.failure:
        raise SystemExit(f"the tree cannot be followed: {follower.failure}")


def first_text_index(tree: Path, root: Path) -> None:
    """Have the text index made, as the watcher's thread does."""
    with contextlib.closing(
        TextIndex(_place(root), index.place(root, NAME), Tree(tree))
    ) as text_index:
        while text_index.step():
            pass


def measure(repository: Path, most: int, root: Path) -> Iterator[Seen]:
    """Measure all of it on a tree of so many files."""
    files = copies(repository, most)
    size = sum(blob.size for blob in files.values())
    tree = committed(files, root)
    floor = cpu_seconds(lambda: first_index(tree, root))
    took = cpu_seconds(lambda: first_text_index(tree, root))
    yield Seen("first text index, of the watcher's first index", took / floor, "times", "3")
    yield Seen("first text index, for each second of a processor", size / took / 1e6, "MB", "")
    disk = sum(part.stat().st_size for part in _place(root).parent.glob(f"{_place(root).name}*"))
    yield Seen("on disk, of the text", disk / size, "times", "1.5")
    texts = Texts(_place(root))
    paths = list(files)[:: max(len(files) // SAVES, 1)][:SAVES]
    saves = [seconds(partial(texts.put, path, files[path])) for path in paths]
    yield Seen("a save, median", statistics.median(saves) * 1e3, "ms", "")
    asked = questions(repository)
    times = sorted(
        cpu_seconds(partial(choose, texts, each, _nothing, SPACE, Estimate(), is_explained=False))
        for each in asked
    )
    bar = "15" if most <= 20_000 else "60"  # noqa: PLR2004
    yield Seen(
        "a question, of a processor, median",
        times[len(times) // 2] * 1e3,
        "ms",
        bar,
    )
    yield Seen("the same, 90 of 100 within", times[int(len(times) * 0.9)] * 1e3, "ms", "")
    texts.close()
    yield from in_the_gateway(root, asked, bar)


def in_the_gateway(root: Path, asked: list[str], bar: str) -> Iterator[Seen]:
    """Measure what a question waits for in the gateway: the search, what may be shown, the note."""
    retrieval = Retrieval(root, SECONDS)

    async def ask() -> list[Found]:
        wanted = Wanted(NAME, 0, "", (), SPACE, BYTES_PER_TOKEN, {}, frozenset())
        return [await retrieval.find(wanted._replace(text=each)) for each in asked]

    first, again = asyncio.run(ask()), asyncio.run(ask())
    retrieval.close()
    for name, seen in (("in the gateway, first asked", first), ("the same, asked again", again)):
        times = sorted(each.seconds * 1e3 for each in seen)
        yield Seen(f"{name}, median", times[len(times) // 2], "ms", bar)
        yield Seen("the same, 90 of 100 within", times[int(len(times) * 0.9)], "ms", "")
    late = sum(each.result == LATE for each in (*first, *again))
    yield Seen(f"broken off after {SECONDS} s, of {2 * len(asked)}", late, "", "")


def _place(root: Path) -> Path:
    file = module.place(root, NAME)
    file.parent.mkdir(exist_ok=True)
    return file


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval", description=__doc__)
    parser.add_argument("--repository", metavar="REPO", type=Path, default=ROOT)
    parser.add_argument("--files", metavar="N", type=int, nargs="+", default=[20_000])
    parser.add_argument("--json", metavar="FILE", type=Path)
    arguments = parser.parse_args()
    table = Table(title="What retrieval costs", title_justify="left")
    for heading in ("", "seen", "bar"):
        table.add_column(heading, justify="left" if not heading else "right")
    found = []
    for most in arguments.files:
        with tempfile.TemporaryDirectory(prefix="infbox-bench-") as root:
            for each in measure(arguments.repository, most, Path(root)):
                found.append(replace(each, what=f"{most:,} files: {each.what}"))
    for each in found:
        table.add_row(each.what, f"{each.value:,.2f} {each.unit}", each.bar)
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([vars(each) for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
