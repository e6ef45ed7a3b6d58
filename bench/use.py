"""How much of what commits went on to change a prompt would have shown, over git histories.

    python -m bench.use TUNED… [--held-back REPO …] [--json FILE]

The weights of kinds and of retrieval were tuned on some histories; those that were not looked at
meanwhile are told apart, and theirs alone count. What the numbers do not prove is in
docs/evaluation.md.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from infbox.evaluation.evaluate import VIEWS, evaluate
from infbox.packing import tokens
from rich.console import Console
from rich.table import Table

from .replay import ROOT, name_of

BUDGET = 32_000
RETRIEVE = 8000


def row(name: str, result: dict[str, Any]) -> list[str]:
    """Return a history's figures as cells."""
    pairs = ((result["hunks"][view]["source"], result["files"][view]["source"]) for view in VIEWS)
    cells = ["-" if hunks is None else f"{hunks:.0%} ({files:.0%})" for hunks, files in pairs]
    everything = result["hunks"]["both"]["all"], result["files"]["both"]["all"]
    return [
        name,
        str(result["questions"]),
        *cells,
        "-" if everything[0] is None else f"{everything[0]:.0%} ({everything[1]:.0%})",
        f"{result['computed_per_question']:,.0f}",
        f"{result['computed_per_save']:,.0f}",
    ]


def main() -> int:
    """Evaluate the histories given, or this repository's own."""
    parser = argparse.ArgumentParser(prog="python -m bench.use", description=__doc__)
    parser.add_argument("repositories", metavar="REPO", nargs="*", type=Path, default=[ROOT])
    parser.add_argument("--held-back", metavar="REPO", nargs="*", type=Path, default=[])
    parser.add_argument("--commits", metavar="N", type=int, default=100)
    parser.add_argument("--budget", metavar="TOKENS", type=int, default=BUDGET)
    parser.add_argument("--retrieve", metavar="TOKENS", type=int, default=RETRIEVE)
    parser.add_argument("--tokenizer", metavar="FILE", type=Path)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there too")
    arguments = parser.parse_args()
    tokenizer = tokens.load(arguments.tokenizer)
    table = Table(
        title=f"Hunks shown (files located) in source files at {arguments.budget:,} tokens",
        title_justify="left",
    )
    headings = ("history", "questions", *VIEWS, "both, all kinds", "a question", "a save")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "history" else "right")
    results: dict[str, Any] = {}
    numbers = arguments.commits, arguments.budget, arguments.retrieve
    for group in (arguments.repositories, arguments.held_back):
        for repository in group:
            name = name_of(repository)
            results[name] = evaluate(repository, *numbers, tokenizer)
            table.add_row(*row(name, results[name]))
            print(f"{name} replayed", file=sys.stderr)
        shares = [results[name_of(each)]["hunks"]["both"]["source"] for each in group]
        known = [share for share in shares if share is not None]
        if known:
            table.add_row(f"median of {len(known)}: {statistics.median(known):.0%} of hunks")
            table.add_section()
    Console(width=150).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
