"""Which files are worth their tokens: those that are edited often and lately, and are small.

What is shown is chosen by heat (``watching.edit_frequency``) for each token, since space in a pack
is what a file costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infbox.kinds import PACK_WEIGHTS, kind_of
from infbox.packing.tokens import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZE_POWER = 0.8
"""How much a file's size counts against it. 1 would choose the most edits for the room; a little
less keeps large files that are edited all the time."""

PRIOR = 0.003
"""Heat of a file that was never seen edited; the most imported one has ten times as much."""

_HEADING_TOKENS = 12  # what a section costs beside its content


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be shown.

    Attributes:
        path: of the file.
        digest: of its bytes.
        size: in bytes.
        heat: now.
        centrality: 0 to 1, by how many files import it.
        weight: what its edits are worth, beside those of others; None for the default of its kind.
    """

    path: str
    digest: str
    size: int
    heat: float = 0.0
    centrality: float = 0.0
    weight: float | None = None

    @property
    def value(self) -> float:
        """What showing it is worth: edits of late, with a little for files without any, by what
        kind of file it is."""
        weight = PACK_WEIGHTS[kind_of(self.path)] if self.weight is None else self.weight
        return weight * (self.heat + PRIOR * (1 + 9 * self.centrality))

    @property
    def tokens(self) -> float:
        """Estimate what showing it in full costs."""
        return self.size / BYTES_PER_TOKEN + _HEADING_TOKENS

    @property
    def worth(self) -> float:
        """Value for its cost."""
        return self.value / float(self.tokens**SIZE_POWER)


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates, those first that are worth most; the order is the same each time."""
    return sorted(candidates, key=lambda candidate: (-candidate.worth, candidate.path))
