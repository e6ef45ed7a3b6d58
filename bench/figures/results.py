"""What a benchmark measured, as it is kept in the repository: one file a benchmark."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).resolve().parent.parent / "results"
MEASURED = "measured"


@dataclass(frozen=True)
class Result:
    """One benchmark's last figures, and how its last run ended.

    Attributes:
        command: what measures it.
        date: of the figures, as YYYY-MM-DD; empty where there are none yet.
        machine: that they were measured on, in words.
        load: beside the benchmark, in words.
        figures: as the benchmark writes them.
        last_run: the date of the last run, and ``measured``, or why it gave no figures.
        note: what else a reader must know.
    """

    command: str
    date: str
    machine: str
    load: str
    figures: Any
    last_run: tuple[str, str]
    note: str = ""


def read(name: str, directory: Path = DIRECTORY) -> Result | None:
    """Return what is kept of a benchmark; None where nothing is.

    Args:
        name: of the benchmark, as in ``python -m bench.NAME``.
        directory: where results are kept.
    """
    file = directory / f"{name}.json"
    if not file.exists():
        return None
    kept = json.loads(file.read_text())
    return Result(**{**kept, "last_run": tuple(kept["last_run"])})


def write(name: str, result: Result, directory: Path = DIRECTORY) -> None:
    """Keep a benchmark's result, a figure a line, so that a change is one in a diff too."""
    text = json.dumps(asdict(result), indent=1, ensure_ascii=False)
    (directory / f"{name}.json").write_text(text + "\n")


def find(figures: Any, path: Sequence[str | int]) -> Any:
    """Return a figure.

    Args:
        figures: as a benchmark writes them: dicts, and lists of dicts.
        path: keys, and places in a list. In a list of dicts a text stands for the one that says it
            is of that: its ``what`` begins with the text.

    Raises:
        LookupError: there is none.
    """
    for step in path:
        if isinstance(figures, list) and isinstance(step, str):
            named = (row for row in figures if str(row.get("what", "")).startswith(step))
            figures = next(named, None)
        else:
            figures = figures[step]
        if figures is None:
            raise LookupError(f"no figure {list(path)}")
    return figures
