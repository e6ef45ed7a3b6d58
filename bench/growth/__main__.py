"""How costs grow, from 1,000 to 200,000 files and from 1 to 100 workspaces, each beside a floor.

    python -m bench.growth [--files 1000,20000] [--workspaces 1,20] [--json FILE]

Trees are made in a temporary directory and removed. Costs are processor time where that can be
told. The exponent of a curve says how it grows: 1 where ten times the files cost ten times as much.
"""

import argparse
import gc
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from infbox.watcher.service import SWITCH_SECONDS
from rich.console import Console
from rich.table import Table

from . import curves, trees, workspaces
from .curves import Curve

SIZES = (1_000, 5_000, 20_000, 50_000, 200_000)
COUNTS = (1, 5, 20, 100)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and name what grows worse than linearly."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--files", type=_numbers, default=SIZES, metavar="N,N", help="of a tree")
    parser.add_argument("--workspaces", type=_numbers, default=COUNTS, metavar="N,N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the curves there too")
    options = parser.parse_args(arguments)
    sys.setswitchinterval(SWITCH_SECONDS)  # as the service has it
    gc.freeze()  # the service has not imported what this benchmark has
    found = {**trees.curves(), **{f"many_{k}": v for k, v in workspaces.curves().items()}}
    with tempfile.TemporaryDirectory(prefix="infbox-bench-") as name:
        for told in measure(Path(name), options.files, options.workspaces, found):
            print(f"{told} measured", file=sys.stderr, flush=True)
            if options.json:  # each time: whoever cannot wait has the smaller sizes
                kept = {name: curve.json() for name, curve in found.items() if curve.points}
                options.json.write_text(json.dumps(kept, indent=1) + "\n")
    show({name: curve for name, curve in found.items() if curve.points})
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(part) for part in text.split(",") if part))


def measure(
    directory: Path, sizes: Sequence[int], counts: Sequence[int], found: Mapping[str, Curve]
) -> Iterator[str]:
    """Measure each size in turn, and say which; a tree is removed before the next one is made."""
    for size in sizes:
        place = directory / f"files-{size}"
        place.mkdir()
        trees.measure(place, size, dict(found))
        shutil.rmtree(place)
        yield f"{size:,} files"
    roots: dict[str, Path] = {}
    several = {name.removeprefix("many_"): c for name, c in found.items() if "many_" in name}
    for count in counts:
        place = directory / f"workspaces-{count}"
        place.mkdir()
        workspaces.measure(place, count, roots, several)
        yield f"{count} workspaces"


def show(found: Mapping[str, Curve]) -> None:
    """Print the table."""
    table = Table("", "", "seen", "floor", "of the floor")
    for column in table.columns[2:]:
        column.justify = "right"
    for cells in curves.rows(found):
        table.add_row(*cells, end_section=not cells[0])
    Console(width=120).print(table)
    worse = [curve.name for curve in found.values() if curve.is_worse_than_linear]
    print("grows worse than linearly:", "; ".join(worse) or "nothing")


if __name__ == "__main__":
    sys.exit(main())
