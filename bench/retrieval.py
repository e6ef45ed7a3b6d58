"""What retrieval costs: the first index, its size on disk, a save, one question.

    python -m bench.retrieval [--files 20000] [--repository REPO] [--json FILE]

The tree is made of copies of a history's last commit, in directories of their own, until there are
so many files: every word is in as many more chunks, which is harder than a real tree of that size.
Times stand beside floors of the same run: reading, hashing and judging the same files, as the
watcher's first listing does, and one transaction of SQLite.
"""

import argparse
import asyncio
import contextlib
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infbox.evaluation.history import Blob, History
from infbox.gateway.conversations.retrieving import LATE, SECONDS, Found, Retrieval, Wanted
from infbox.packing.tokens import BYTES_PER_TOKEN, Estimate
from infbox.retrieval import texts as module
from infbox.retrieval.search import choose
from infbox.retrieval.texts import Texts
from infbox.tree.records import Row
from infbox.tree.rules import Rules
from infbox.watching import index
from infbox.watching.index import Index
from rich.console import Console
from rich.table import Table
from xxhash import xxh3_128_hexdigest

ROOT = Path(__file__).resolve().parent.parent
NAME = "bench"
ROOM = 8000
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


def _nothing(_path: str) -> bool:
    """Say of no file that a pack shows it."""
    return False


def first_listing(files: dict[str, Blob], root: Path) -> None:
    """Do what the watcher's first listing does with each file's content."""
    rules = Rules()
    database = sqlite3.connect(root / "floor.db", isolation_level=None)
    database.execute("CREATE TABLE files (path TEXT PRIMARY KEY, hash TEXT) WITHOUT ROWID")
    database.execute("BEGIN")
    for path, blob in files.items():
        data = blob.text.encode()
        rules.by_content(data, path)
        database.execute("INSERT INTO files VALUES (?, ?)", (path, xxh3_128_hexdigest(data)))
    database.execute("COMMIT")
    database.close()


def measure(repository: Path, most: int, root: Path) -> Iterator[Seen]:
    """Measure all of it on a tree of so many files."""
    files = copies(repository, most)
    size = sum(blob.size for blob in files.values())
    floor = seconds(lambda: first_listing(files, root))
    texts = Texts(_place(root))
    digests = {path: blob.digest for path, blob in files.items()}
    took = seconds(lambda: texts.bring_up(digests, files.get))
    yield Seen("first index, of judging and hashing the same files", took / floor, "times", "3")
    yield Seen("first index", size / took / 1e6, "MB/s", "")
    texts.forget_removed()
    disk = sum(part.stat().st_size for part in _place(root).parent.iterdir())
    yield Seen("on disk, of the text", disk / size, "times", "1.5")
    paths = list(files)[:: max(len(files) // SAVES, 1)][:SAVES]
    saves = [seconds(partial(texts.put, path, files[path])) for path in paths]
    yield Seen("a save, median", statistics.median(saves) * 1e3, "ms", "")
    asked = questions(repository)
    times = sorted(
        seconds(partial(choose, texts, each, _nothing, ROOM, Estimate(), is_explained=False))
        for each in asked
    )
    bar = "15" if most <= 20_000 else "60 at 200,000"  # noqa: PLR2004
    yield Seen(
        f"a question on {len(files):,} files, median", times[len(times) // 2] * 1e3, "ms", bar
    )
    yield Seen("the same, 90 of 100 within", times[int(len(times) * 0.9)] * 1e3, "ms", "")
    texts.close()
    yield from in_the_gateway(root, digests, asked, bar)


def in_the_gateway(
    root: Path, digests: dict[str, str], asked: list[str], bar: str
) -> Iterator[Seen]:
    """Measure what a question waits for in the gateway: the search, what may be shown, the note."""
    with contextlib.closing(Index(index.place(root, NAME))) as known, known.transaction():
        known.write({path: Row(0, 0, 0, digest, None) for path, digest in digests.items()})
    retrieval = Retrieval(root, SECONDS)

    async def ask() -> list[Found]:
        wanted = Wanted(NAME, 0, "", (), ROOM, BYTES_PER_TOKEN, {}, frozenset())
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
    parser.add_argument("--files", metavar="N", type=int, default=20_000)
    parser.add_argument("--json", metavar="FILE", type=Path)
    arguments = parser.parse_args()
    table = Table(title="What retrieval costs", title_justify="left")
    for heading in ("", "seen", "bar"):
        table.add_column(heading, justify="left" if not heading else "right")
    with tempfile.TemporaryDirectory(prefix="infbox-bench-") as root:
        found = list(measure(arguments.repository, arguments.files, Path(root)))
    for each in found:
        table.add_row(each.what, f"{each.value:,.2f} {each.unit}", each.bar)
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([vars(each) for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
