"""What the demo asks, and what it saves in between."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lab.settings import ROOT

SHOP = ROOT / "demo" / "shop"
COMMENTS = {".c": "//", ".go": "//", ".js": "//", ".py": "#", ".rs": "//", ".sh": "#", ".ts": "//"}


@dataclass(frozen=True)
class Scene:
    """What is asked about a source tree.

    Attributes:
        question: about the tree as it is.
        asked_after: what nobody can answer before the save.
        path: of the file that is saved, below the tree.
        added: what is put at its end; the file is made where there is none.
        fact: what a right answer has after the save.
    """

    question: str
    asked_after: str
    path: str
    added: str
    fact: str


def scene(source: Path, copy: Path) -> Scene:
    """Return what to ask about a tree.

    The fact is another number in each run, so that no answer can be remembered or guessed.

    Args:
        source: the tree that was named.
        copy: the copy of it that is kept warm.
    """
    numbers = [str(number) for number in range(31, 100)]
    if source.resolve() == SHOP:
        texts = "".join(path.read_text() for path in copy.rglob("*.*") if path.is_file())
        number = random.choice([text for text in numbers if text not in texts])  # noqa: S311
        return Scene(
            "For how long are the books of a cart reserved?",
            # In the file's own words the model repeats all of 69 numbers, in others 60.
            "For how many days can a book be returned?",
            "shop/returns.py",
            '"""Books that customers send back."""\n\n'
            f"RETURN_DAYS = {number}  # a book can be returned for {number} days\n",
            number,
        )
    number = random.choice(numbers)  # noqa: S311
    path = some_file(copy)
    comment = COMMENTS.get(Path(path).suffix, "#")
    return Scene(
        "What is this source tree for? Answer in one sentence.",
        "How many days does the trial period last? Answer in one sentence.",
        path,
        f"\n{comment} The trial period lasts {number} days.\n",
        number,
    )


def some_file(copy: Path) -> str:
    """Return a file of a tree that is in its pack, a source where there is one."""
    listed = subprocess.run(
        [Path(sys.executable).with_name("infbox-watch"), "scan", copy],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    sources = [name for name in listed if Path(name).suffix in COMMENTS]
    return (sources or listed)[0]


def save(copy: Path, shown: Scene) -> None:
    """Save the change to a tree, as an editor does."""
    file = copy / shown.path
    text = file.read_text() if file.exists() and shown.path != "shop/returns.py" else ""
    file.write_text(text + shown.added)
