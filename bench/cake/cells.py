"""What is measured of one prompt, and how it is kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """One prompt, by each way.

    Attributes:
        length: tokens of the prompt.
        share: of it that was asked to be stored; whole chunks of it are.
        ratio: speed of the disk, in speeds of computing.
        tries: seconds to the first token, by way and in the order of the turns.
        bound: what 1/(1/compute + 1/load) allows.
        equal: whether all three answered the same.
    """

    length: int
    share: float
    ratio: float
    tries: Mapping[str, Sequence[float]]
    bound: float
    equal: bool

    @property
    def computed(self) -> float:
        """Seconds to the first token where all is computed; the best try, as of the others."""
        return min(self.tries["computed"])

    @property
    def loaded(self) -> float:
        """Seconds where what is stored is loaded first, LMCache's own way."""
        return min(self.tries["loaded"])

    @property
    def raced(self) -> float:
        """Seconds with Cake."""
        return min(self.tries["raced"])

    @property
    def against_better(self) -> float:
        """Cake's time in times of the better way alone."""
        return self.raced / min(self.computed, self.loaded)


def write(cells: Sequence[Cell], file: Path | None) -> None:
    """Write what is measured so far, if a file is wanted."""
    if file:
        file.write_text(json.dumps([asdict(cell) for cell in cells], indent=2) + "\n")


def read(file: Path) -> list[Cell]:
    """Read what was written."""
    return [Cell(**row) for row in json.loads(file.read_text())]
