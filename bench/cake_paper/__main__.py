"""Runs Cake's decisions in a simulation with the speeds of its paper, and of the GPU presets.

    python -m bench.cake_paper [--json FILE] [--docs docs/cake-paper.md]
                               [--plot docs/cake-paper.svg]

Needs nothing, and takes a second. docs/cake-paper.md says what came out.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..pages import write
from . import tables, tiers
from .grid import Result, simulate_all


def pages(results: Sequence[Result], rows: Sequence[tiers.Row]) -> dict[str, Sequence[str]]:
    """Return all tables of the page, by name."""
    return {
        "summary": tables.summary(results),
        "hardware": tables.hardware(results),
        "presets": tables.presets(rows),
    }


def main() -> int:
    """Simulate, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.cake_paper")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="make its tables anew")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw table 3 there, as SVG")
    arguments = parser.parse_args()
    results, rows = simulate_all(), list(tiers.rows())
    made = pages(results, rows)
    for lines in made.values():
        print(*lines, sep="\n", end="\n\n")
    if arguments.json:
        kept = {"paper": [r.row() for r in results], "presets": [row.json() for row in rows]}
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")
    if arguments.docs:
        arguments.docs.write_text(write(arguments.docs, made))
    if arguments.plot:
        from .plots import draw  # noqa: PLC0415 - only drawing needs matplotlib

        draw(results, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
