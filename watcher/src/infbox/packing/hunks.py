"""What differs between two versions of a file, as a unified diff without its file names."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import groupby
from typing import TYPE_CHECKING

from rapidfuzz.distance import Indel

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTEXT_LINES = 2
"""Lines around a change: enough to find its place by, few enough to be cheap."""

MAX_COMPARED_PAIRS = 100_000_000
"""Lines before times lines after, without the equal beginning and end, that are compared at most.
The comparison takes a bit of memory for each pair, so 12.5 MB, and less than a nanosecond."""

_NO_NEWLINE = "\\ No newline at end of file"
_HEADING = re.compile(r"[A-Za-z_$]")
_HEADING_LENGTH = 60

Opcode = tuple[str, int, int, int, int]


def unified(old: str, new: str) -> str | None:
    """Return the hunks that make ``new`` of ``old``; empty where both are the same.

    Each hunk names, as git does, the last line before it that begins with a letter: most often the
    definition that it lies in. Lines end at a line feed and nowhere else.

    Args:
        old: the text before.
        new: the text after.

    Returns:
        The hunks; None where more than ``MAX_COMPARED_PAIRS`` would have to be compared.
    """
    before, after = _lines(old), _lines(new)
    opcodes = _opcodes(before, after)
    if opcodes is None:
        return None
    groups = _Changes(opcodes).get_grouped_opcodes(CONTEXT_LINES)
    return "".join(
        f"{_header(before, group)}\n{_body(before, after, group)}"
        for group in groups
        if any(tag != "equal" for tag, *_ in group)
    )


def replaced(old: str, new: str) -> list[tuple[int, int]] | None:
    """Return which lines of ``old`` are other ones in ``new``.

    Args:
        old: the text before.
        new: the text after.

    Returns:
        Ranges of lines from 0, without their ends; an empty one where lines are put between two.
        None where more than ``MAX_COMPARED_PAIRS`` would have to be compared.
    """
    opcodes = _opcodes(_lines(old), _lines(new))
    if opcodes is None:
        return None
    return [(start, end) for tag, start, end, _, _ in opcodes if tag != "equal"]


def added(old: str, new: str) -> str | None:
    """Return the lines of ``new`` that are not those of ``old``; None as ``replaced`` does."""
    before, after = _lines(old), _lines(new)
    opcodes = _opcodes(before, after)
    if opcodes is None:
        return None
    kept = (after[start:end] for tag, _, _, start, end in opcodes if tag != "equal")
    return "".join(line for lines in kept for line in lines)


class _Changes(SequenceMatcher[str]):
    """difflib's grouping of changes that were found by other means."""

    def __init__(self, opcodes: list[Opcode]) -> None:
        super().__init__(None, "", "")
        self._found = opcodes

    def get_opcodes(self) -> list[Opcode]:  # type: ignore[override]  # typeshed narrows the tags
        return self._found


def _opcodes(before: Sequence[str], after: Sequence[str]) -> list[Opcode] | None:
    """Return the longest common lines and what stands between them, in turn; None for too many.

    The longest common subsequence is found bit-parallel (Hyyrö, "Bit-parallel LCS-length
    computation revisited", 2004), 64 pairs of lines a step, so that repeated lines cost no more
    than others. difflib's time grows with the cube of the lines where many are alike, as in JSON.
    """
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    if len(old) * len(new) > MAX_COMPARED_PAIRS:
        return None
    numbers: dict[str, int] = {}
    found = Indel.opcodes(
        [numbers.setdefault(line, len(numbers)) for line in old],
        [numbers.setdefault(line, len(numbers)) for line in new],
    )
    whole = [("equal", 0, start, 0, start)] if start else []
    for is_equal, run in groupby(found, key=lambda each: each.tag == "equal"):
        changes = list(run)
        places = (changes[0].src_start, changes[-1].src_end,
                  changes[0].dest_start, changes[-1].dest_end)  # fmt: skip
        old_start, old_end, new_start, new_end = (place + start for place in places)
        whole.append(("equal" if is_equal else "replace", old_start, old_end, new_start, new_end))
    if end:
        ends = len(before), len(after)
        whole.append(("equal", ends[0] - end, ends[0], ends[1] - end, ends[1]))
    return whole


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many lines both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def _header(before: Sequence[str], group: Sequence[Opcode]) -> str:
    _, old_start, _, new_start, _ = group[0]
    _, _, old_end, _, new_end = group[-1]
    old = _range(old_start, old_end)
    new = _range(new_start, new_end)
    heading = next((line for line in before[:old_start][::-1] if _HEADING.match(line)), "")
    return f"@@ -{old} +{new} @@ {heading[:_HEADING_LENGTH]}".rstrip()


def _range(start: int, end: int) -> str:
    """Return lines as the unified format counts them: from 1, and the line before where none."""
    length = end - start
    return f"{start + 1 if length else start},{length}"


def _body(before: Sequence[str], after: Sequence[str], group: Sequence[Opcode]) -> str:
    lines: list[str] = []
    for tag, old_start, old_end, new_start, new_end in group:
        if tag == "equal":
            lines += (f" {line}" for line in before[old_start:old_end])
            continue
        lines += (f"-{line}" for line in before[old_start:old_end])
        lines += (f"+{line}" for line in after[new_start:new_end])
    return "".join(line if line.endswith("\n") else f"{line}\n{_NO_NEWLINE}\n" for line in lines)


def _lines(text: str) -> list[str]:
    """Return the lines with their ends; the last one may have none."""
    *whole, rest = text.split("\n")
    return [*(f"{line}\n" for line in whole), *([rest] if rest else [])]
