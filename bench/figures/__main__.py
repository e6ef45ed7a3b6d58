"""Runs the benchmarks, keeps what they measured, and makes docs/performance.md of it.

    python -m bench.figures run [NAME …]     all, or those that are named; then the page
    python -m bench.figures keep NAME FILE   what a benchmark wrote with --json, run by hand; with
                                             --load and --note in words
    python -m bench.figures page             the page, its pictures and the README's table alone

A benchmark that fails, or is not done in its time, is named on the page, keeps its earlier figures
with their date, and the next one runs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..pages import write
from . import page, results
from .benches import BENCHES, ROOT, keep, run

PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
PICTURES = ROOT / "docs" / "performance"


def texts() -> dict[Path, str]:
    """Return the pages as they should be, by their files."""
    return {
        PAGE: write(PAGE, page.tables(results.read)),
        README: write(README, {"performance": page.front(results.read)}),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.figures", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("what", choices=("run", "keep", "page"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks; all without any")
    parser.add_argument("--load", metavar="WORDS", help="what else the machine did")
    parser.add_argument("--note", metavar="WORDS", default="", help="what a reader must know")
    options = parser.parse_args(arguments)
    known = {bench.name: bench for bench in BENCHES}
    file = None
    if options.what == "keep":
        if len(options.names) != 2 or not options.load:  # noqa: PLR2004  # the two that it names
            parser.error("keep: give a benchmark's name, the file that it wrote, and --load")
        file = Path(options.names.pop())
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"{', '.join(unknown)}: no such benchmark: {', '.join(known)}")
    if file:
        keep(known[options.names[0]], file, options.load, options.note)
    if options.what == "run":
        for name in options.names or known:
            run(known[name], lambda text: print(text, file=sys.stderr, flush=True))
    for file, text in texts().items():
        file.write_text(text)
    from .plots import draw  # noqa: PLC0415  # only drawing needs matplotlib

    draw(results.read, PICTURES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
