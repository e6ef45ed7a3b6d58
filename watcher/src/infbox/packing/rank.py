"""Which files are worth their tokens: those that are edited often and lately, and are small.

A file's *heat* counts its edits, each worth half of what it was after ``HALF_LIFE`` further edits
of any file. One number is enough to carry it, as in LRFU (Lee et al., IEEE Transactions on
Computers 50(12), 2001). What is shown is chosen by heat for each token, since room in a pack is
what a file costs.
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infbox.packing.kinds import WEIGHTS, kind_of
from infbox.packing.tokens import BYTES_PER_TOKEN
from infbox.tree import git

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HALF_LIFE = 100
"""Edits, of any file, after which an edit counts half."""

HISTORY_COMMITS = 2000
"""Of a git history, that a new index takes its heats from."""

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
    """

    path: str
    digest: str
    size: int
    heat: float = 0.0
    centrality: float = 0.0

    @property
    def value(self) -> float:
        """What showing it is worth: edits of late, with a little for files without any, by what
        kind of file it is."""
        return WEIGHTS[kind_of(self.path)] * (self.heat + PRIOR * (1 + 9 * self.centrality))

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


def cooled(heat: float, elapsed: int) -> float:
    """Return what is left of a heat.

    Args:
        heat: when it was noted.
        elapsed: edits of any file since.
    """
    return float(heat * 2.0 ** (-elapsed / HALF_LIFE))


def bumped(heat: float, elapsed: int) -> float:
    """Return a file's heat after one more edit of it; arguments as for ``cooled``."""
    return 1.0 + cooled(heat, elapsed)


def heats_of(edits: Iterable[str]) -> dict[str, float]:
    """Return the heats at the end of a sequence of edits, each the path of a file."""
    heats: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    clock = 0
    for clock, path in enumerate(edits, start=1):
        heat, noted = heats[path]
        heats[path] = bumped(heat, clock - noted), clock
    return {path: cooled(heat, clock - noted) for path, (heat, noted) in heats.items()}


def heats_from_git(root: Path, commit: str = "HEAD") -> dict[str, float]:
    """Return the heats that a git history leaves, each file of a commit being one edit.

    Args:
        root: a folder in the repository; paths are relative to it, those outside are left out.
        commit: where the history ends.

    Returns:
        Heats by path; none where there is no history.
    """
    command = ["log", "-z", "--name-only", "--relative", "--format=%x01", "--no-renames"]
    try:
        cut = _cut_off(root)
        log = git.run(
            root, *command, f"--max-count={HISTORY_COMMITS}", "--stdin", commit, given=cut
        )
    except git.GitError:
        return {}
    newest_first = (
        [os.fsdecode(path.lstrip(b"\n")) for path in entry.split(b"\0") if path.strip(b"\n")]
        for entry in log.split(b"\x01")
    )
    return heats_of(itertools.chain.from_iterable(reversed(list(newest_first))))


def _cut_off(root: Path) -> bytes:
    """Return what leaves out the commits at which a shallow history was cut off: to git each of
    them adds every file there is, which nobody did."""
    file = root / os.fsdecode(git.run(root, "rev-parse", "--git-path", "shallow")[:-1])
    try:
        return b"".join(b"^%s\n" % commit for commit in file.read_bytes().split())
    except OSError:
        return b""
