"""What differs between two versions of a file, as a unified diff without its file names."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTEXT_LINES = 2
"""Lines around a change: enough to find its place by, few enough to be cheap."""

_NO_NEWLINE = "\\ No newline at end of file"
_HEADING = re.compile(r"[A-Za-z_$]")
_HEADING_LENGTH = 60

Opcode = tuple[str, int, int, int, int]


def unified(old: str, new: str) -> str:
    """Return the hunks that make ``new`` of ``old``; empty where both are the same.

    Each hunk names, as git does, the last line before it that begins with a letter: most often the
    definition that it lies in. Lines end at a line feed and nowhere else.

    Args:
        old: the text before.
        new: the text after.
    """
    before, after = _lines(old), _lines(new)
    return "".join(
        f"{_header(before, group)}\n{_body(before, after, group)}"
        for group in _groups(before, after)
    )


def _groups(before: Sequence[str], after: Sequence[str]) -> list[list[Opcode]]:
    """Return difflib's groups of operations; it is asked only about what lies between the equal
    beginning and the equal end, since its time grows with the square of the lines."""
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    if start == len(before) == len(after):
        return []
    first = max(start - CONTEXT_LINES, 0)
    spare = max(end - CONTEXT_LINES, 0)
    matcher = SequenceMatcher(
        None, before[first : len(before) - spare], after[first : len(after) - spare], autojunk=False
    )
    return [
        [(tag, a + first, b + first, c + first, d + first) for tag, a, b, c, d in group]
        for group in matcher.get_grouped_opcodes(CONTEXT_LINES)
    ]


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
