"""What others take for the same, in the same run.

    python -m bench.peers [--environment DIR] [--files 20000] [--json FILE]

watchfiles and watchdog follow a tree, gitingest makes one text of it, litellm's proxy stands in
front of an engine. They are installed into a temporary environment, half a gigabyte, unless one
is given that has them.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import proxies, trees
from .environment import peer_programs


def measure(environment: Path | None, files: int) -> Iterator[dict[str, object]]:
    """Yield all figures."""
    with (
        peer_programs(environment) as programs,
        tempfile.TemporaryDirectory(prefix="infbox-bench-") as name,
    ):
        for part in ("tree", "proxies"):
            (Path(name) / part).mkdir()
        yield from proxies.measure(Path(name) / "proxies", programs)
        yield from trees.measure(Path(name) / "tree", programs, files)


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--environment", type=Path, metavar="DIR", help="that has the peers")
    parser.add_argument("--files", type=int, default=20_000, metavar="N", help="of the tree")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    found = []
    for row in measure(options.environment, options.files):
        found.append(row)
        print(f"{row['what']}: {row['seen']} {row['unit']}", file=sys.stderr, flush=True)
    table = Table("", "seen")
    for row in found:
        table.add_row(str(row["what"]), f"{row['seen']} {row['unit']}")
    Console(width=120).print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
