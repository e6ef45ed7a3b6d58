"""What workspaces of 1,000 files cost, by their number."""

from pathlib import Path

from ..workload import make, watching
from . import trees
from .curves import Curve
from .trees import RESTART

FILES = 1_000
BUDGET = 8_000


def curves() -> dict[str, Curve]:
    """Return the curves of this module, without points."""
    reading = "each tree listed by git, read and hashed by a bare Python"
    by = "workspaces"
    return {
        "ready": Curve("workspaces of 1,000 files, first start to READY", "s of CPU", by, reading),
        "served": Curve("until all packs and text indexes are there", "s of CPU", by, reading),
        "restart": Curve("workspaces, restart to READY", "s of CPU", by, RESTART),
        "memory": Curve("memory of workspaces", "MB", by, "two bare Pythons"),
    }


def measure(directory: Path, count: int, roots: dict[str, Path], found: dict[str, Curve]) -> None:
    """Measure so many workspaces together.

    Args:
        directory: an empty one for what is kept of them.
        count: of the workspaces.
        roots: trees by name; those that are missing are made.
        found: takes the points.
    """
    trees.warm(directory)
    names = [f"w{number:03}" for number in range(count)]
    for name in names:
        if name not in roots:
            roots[name] = directory.parent / name
            roots[name].mkdir()
            make(roots[name], kept=FILES, text=trees.text)
    some = {name: roots[name] for name in names}
    state = directory / "state"
    reading = trees.children(lambda: trees.read_all(list(some.values()), directory))
    sizes = dict.fromkeys(names, FILES)
    with watching(some, state, budget=BUDGET) as watcher:
        found["ready"].add(count, watcher.ready_cpu_seconds, reading)
        trees.settle(watcher, sizes)
        found["served"].add(count, watcher.cpu_seconds(), reading)
        found["memory"].add(count, watcher.memory(), 2 * trees.bare_megabytes(directory))
    with watching(some, state, budget=BUDGET) as watcher:
        again = watcher.ready_cpu_seconds
    places = [
        place for name, root in some.items() for place in trees.known_places(root, state, name)
    ]
    found["restart"].add(count, again, trees.bare_restart(places, directory))
