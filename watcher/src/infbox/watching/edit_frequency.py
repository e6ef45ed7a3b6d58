"""How often and how lately files are edited, as their edits come."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infbox.watching.index import Row

MANY = 200
"""Files changed in one go by a machine rather than a person, as by a checkout."""

BURST_SECONDS = 1.0
"""Files that change with less than this between them change in one go."""

_REMEMBERED = 4096  # files that went


class Heats:
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
        from infbox.packing import rank  # noqa: PLC0415  # a restart with nothing changed needs it not

        return rank.bumped(heat, edit - old_edit)

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
