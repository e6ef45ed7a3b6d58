"""How often and how lately files are edited: by their history, and as their edits come.

A file's *heat* counts its edits, each worth half of what it was after ``HALF_LIFE`` further edits
of any file. One number is enough to carry it, as in LRFU (Lee et al., IEEE Transactions on
Computers 50(12), 2001).
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from typing import TYPE_CHECKING

from infbox.errors import GitError
from infbox.tree import git

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from infbox.tree.records import Row

HALF_LIFE = 100
"""Edits, of any file, after which an edit counts half."""

HISTORY_COMMITS = 2000
"""Of a git history, that a new index takes its heats from."""

MANY = 200
"""Files changed in one go by a machine rather than a person, as by a checkout."""

BURST_SECONDS = 1.0
"""Files that change with less than this between them change in one go."""

_REMEMBERED = 4096  # files that went


class EditFrequency:
    """What edits make of the heats of files."""

    def __init__(self) -> None:
        self._burst: dict[str, float] = {}
        self._burst_ends = 0.0
        self._taken_back: dict[str, float] = {}
        self._graves: dict[str, tuple[str, int, float]] = {}

    def edited(self, path: str, digest: str, known: Row | None, edit: int, now: float) -> float:
        """Return the heat of a file after an edit.

        Args:
            path: of the file.
            digest: of its bytes now.
            known: as it was before; None where it was not there.
            edit: number of the edit.
            now: of the monotonic clock, in seconds.
        """
        old_digest, old_edit, heat = self._before(path, digest, known, edit)
        if now > self._burst_ends:
            self._burst.clear()
        self._burst_ends = now + BURST_SECONDS
        if len(self._burst) == MANY:
            self._taken_back = dict(self._burst)
        self._burst.setdefault(path, heat)  # a file may be seen twice, half written at first
        if len(self._burst) > MANY or old_digest == digest:
            return heat
        return bumped(heat, edit - old_edit)

    def taken_back(self) -> dict[str, float]:
        """Return, once, the heats as they were of files that turned out to be edited by a
        machine."""
        taken, self._taken_back = self._taken_back, {}
        return taken

    def bury(self, path: str, row: Row) -> None:
        """Remember a file that went: the one that takes its place has its heat, and so has one with
        its bytes elsewhere."""
        if not row.heat:
            return
        if len(self._graves) >= _REMEMBERED:
            self._graves.clear()
        self._graves[path] = self._graves[row.digest] = (row.digest, row.edit, row.heat)

    def _before(
        self, path: str, digest: str, known: Row | None, edit: int
    ) -> tuple[str, int, float]:
        if known:
            return known.digest, known.edit, known.heat
        return self._graves.get(path) or self._graves.get(digest) or ("", edit, 0.0)


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
        root: a directory in the repository; paths are relative to it, those outside are left out.
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
    except GitError:
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
