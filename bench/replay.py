"""What a save costs and what a pack holds, replayed over git histories.

Each history is replayed at a budget of 32,000 tokens, which few trees fit into, and at one that the
whole tree fits into. The peers are replayed in the same run: files in path order, and the most
recently edited first.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from infbox.evaluation.replay import replay
from infbox.packing import tokens
from rich.console import Console
from rich.table import Table

BUDGET = 32_000
WHOLE_TREE = 100_000_000
ROOT = Path(__file__).resolve().parent.parent


def name_of(repository: Path) -> str:
    """Return what a history is called."""
    path = repository.resolve()
    return path.parent.name if path.name in ("repo", ".git") else path.name


def measure(repository: Path, commits: int, tokenizer: tokens.Tokenizer) -> dict[str, Any]:
    """Replay one history at both budgets.

    Returns:
        The two results by their budget's name, as `infbox-watch replay --json` prints them.
    """
    return {
        name: replay(repository, commits, budget, tokenizer)
        for name, budget in (("budget", BUDGET), ("whole", WHOLE_TREE))
    }


def row(name: str, result: dict[str, Any]) -> list[str]:
    """Return a history's figures as cells: ratios, then recall."""
    small, whole = result["budget"], result["whole"]
    recall = small["recall"]
    return [
        name,
        f"{small['saves']:,}",
        f"{small['edited_mean']:,.0f}",
        f"{_log(small) / small['edited_mean']:.2f}",
        f"{_log(whole) / whole['edited_mean']:.2f}",
        f"1/{_path(small) / _log(small):.1f}",
        f"1/{_path(whole) / _log(whole):.0f}",
        *(f"{recall[policy]:.1%}" for policy in ("pack", "path", "recent")),
    ]


def _log(result: dict[str, Any]) -> float:
    return float(result["policies"]["log"]["recomputed_mean"])


def _path(result: dict[str, Any]) -> float:
    return float(result["policies"]["path"]["recomputed_mean"])


def main() -> int:
    """Replay the histories given, or this repository's own."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__)
    parser.add_argument("repositories", metavar="REPO", nargs="*", type=Path, default=[ROOT])
    parser.add_argument("--commits", metavar="N", type=int, default=150)
    parser.add_argument("--tokenizer", metavar="FILE", type=Path)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there too")
    arguments = parser.parse_args()
    tokenizer = tokens.load(arguments.tokenizer)
    table = Table(
        title=f"Tokens recomputed for each save, mean, rebases counted in; recall at {BUDGET:,}",
        title_justify="left",
    )
    for heading in (
        *("history", "saves", "edited", "of edited, 32k", "of edited, whole"),
        *("of path order, 32k", "of path order, whole", "recall", "path", "recent"),
    ):
        table.add_column(heading, justify="left" if heading == "history" else "right")
    results: dict[str, Any] = {}
    for repository in arguments.repositories:
        name = name_of(repository)
        results[name] = measure(repository, arguments.commits, tokenizer)
        table.add_row(*row(name, results[name]))
        print(f"{name} replayed", file=sys.stderr)
    Console(width=140).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
