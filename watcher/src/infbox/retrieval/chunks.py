"""Cutting a file into what can be shown by itself: definitions, sections, else windows of lines.

The chunks of a file are in order and together are all of its lines, so that what lies between two
definitions is found too.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate, count, pairwise
from operator import add
from typing import TYPE_CHECKING, NamedTuple

from infbox.packing.symbols import Definition, definitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

VERSION = 2
"""Changes when the same text gives other chunks: what was made by another version is made anew."""

LARGEST = 1200
"""Characters of a chunk, some 280 tokens: a definition that has members is cut into them above."""

WHOLE = 3000
"""Characters of a definition without members that is still shown whole."""

SMALLEST = 300
"""Characters: neighbours are joined as long as they have no more together."""

MAX_CHUNKS = 1000
"""Of a file; the last one is what is left."""

_ABOVE = 40  # lines of comments and decorators that are taken to belong to a definition
_MARKDOWN = re.compile(r"#{1,6}\s")
_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.])\1{2,}\s*$")
_FENCE = re.compile(r"\s{0,3}(`{3,}|~{3,})")


class Chunk(NamedTuple):
    """Lines of a file, from 1, the last one included.

    Attributes:
        start: the first line.
        end: the last line.
        names: what is defined in it; of a part of a type, the type's first.
        size: in characters, each line with its end.
    """

    start: int
    end: int
    names: tuple[str, ...] = ()
    size: int = 0


class _Lines(list[str]):
    """The lines of a file, which know how long some of them are together."""

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__(lines)
        # By functions of C alone: there are as many lines as files are large.
        lengths = accumulate(map(len, self), initial=0)
        self._ends: list[int] = list(map(add, lengths, count()))

    def size(self, chunk: Chunk) -> int:
        """Return how many characters a chunk has."""
        return self._ends[chunk.end] - self._ends[chunk.start - 1]

    def has_text(self, chunk: Chunk) -> bool:
        """Say whether a chunk has more than empty lines."""
        return any(map(str.strip, self[chunk.start - 1 : chunk.end]))

    def too_far(self, start: int, behind: int) -> int:
        """Return the first line behind another up to which, from ``start`` on, there are more than
        LARGEST characters."""
        return bisect_right(self._ends, self._ends[start - 1] + LARGEST, lo=behind + 1)


def chunks(path: str, text: str) -> list[Chunk]:
    """Cut a file into chunks.

    Args:
        path: relative, with `/`; its ending decides how.
        text: the whole file.

    Returns:
        Chunks in the order of the file that have each of its lines once; none of an empty file.
    """
    lines = _Lines(lines_of(text))
    if not lines:
        return []
    ending = path.rpartition(".")[2].lower()
    whole = Chunk(1, len(lines))
    if ending in ("md", "mdx", "markdown"):
        pieces = _cut_at(whole, _markdown_headings(lines))
    elif ending in ("rst", "txt"):
        pieces = _cut_at(whole, _underlined_headings(lines))
    else:
        pieces = list(_defined(lines, whole, definitions(path, text)))
    return _joined(lines, [part for piece in pieces for part in _fitting(lines, piece)])


def windows(text: str, length: int) -> list[Chunk]:
    """Cut a file into windows of so many lines."""
    lines = _Lines(lines_of(text))
    total = len(lines)
    cut = (Chunk(n, min(n + length - 1, total)) for n in range(1, total + 1, length))
    return [chunk._replace(size=lines.size(chunk)) for chunk in cut]


def lines_of(text: str) -> list[str]:
    """Return the lines of a text without their ends."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _defined(lines: _Lines, around: Chunk, inside: Sequence[Definition]) -> Iterator[Chunk]:
    """Cut lines into the definitions in them and what lies between; large types into members."""
    at = around.start
    for definition in inside:
        end = min(definition.end, around.end)
        if definition.start < at or end < definition.start:
            continue  # on the lines of the one before, as in minified text
        start = _with_comments(lines, at, definition.start)
        if start > at:
            yield Chunk(at, start - 1, around.names)
        names = (*around.names[:1], definition.name)
        chunk = Chunk(start, end, names)
        if definition.members and lines.size(chunk) > LARGEST:
            yield from _defined(lines, chunk, definition.members)
        else:
            inner = tuple(member.name for member in definition.members)
            yield Chunk(start, end, (*names, *inner))
        at = end + 1
    if at <= around.end:
        yield Chunk(at, around.end, around.names)


def _with_comments(lines: Sequence[str], lowest: int, start: int) -> int:
    """Return where the lines directly above a definition begin: its comments and decorators."""
    for line in range(start - 1, max(lowest, start - _ABOVE) - 1, -1):
        if not lines[line - 1].strip():
            return line + 1
    return max(lowest, start - _ABOVE)


def _fitting(lines: _Lines, piece: Chunk) -> Iterator[Chunk]:
    """Cut a piece that is too large to be shown whole, best at an empty line."""
    if lines.size(piece) <= (WHOLE if piece.names else LARGEST):
        yield piece
        return
    start = line = piece.start
    while (line := lines.too_far(start, max(line, start))) <= piece.end:
        blank = next((n for n in range(line - 1, start, -1) if not lines[n - 1].strip()), 0)
        end = blank or line - 1
        yield Chunk(start, end, piece.names)
        start = end + 1
    yield Chunk(start, piece.end, piece.names)


def _joined(lines: _Lines, pieces: Sequence[Chunk]) -> list[Chunk]:
    """Join neighbours that are small together, empty lines to what is above them, and chunks beyond
    the most that a file may have."""
    joined: list[Chunk] = []
    before = Chunk(1, 0)
    for piece in pieces:
        size = lines.size(piece)
        is_small = before.size + size <= SMALLEST or not lines.has_text(piece)
        if joined and (is_small or len(joined) >= MAX_CHUNKS):
            names = tuple(dict.fromkeys((*before.names, *piece.names)))
            before = joined[-1] = Chunk(before.start, piece.end, names, before.size + size)
        else:
            before = Chunk(piece.start, piece.end, piece.names, size)
            joined.append(before)
    return joined


def _cut_at(whole: Chunk, headings: Sequence[tuple[int, str]]) -> list[Chunk]:
    """Cut before each heading, given by its line and its text."""
    starts = [(1, "")] if not headings or headings[0][0] > 1 else []
    starts += headings
    ends = [start - 1 for start, _ in starts[1:]] + [whole.end]
    return [
        Chunk(start, end, (text,) if text else ())
        for (start, text), end in zip(starts, ends, strict=True)
    ]


def _markdown_headings(lines: Sequence[str]) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    fence = ""
    for number, line in enumerate(lines, start=1):
        mark = _FENCE.match(line)
        if mark and (not fence or line.strip() == fence):
            fence = "" if fence else mark[1]
        elif not fence and _MARKDOWN.match(line):
            found.append((number, line.strip("# \t")[:80]))
    return found


def _underlined_headings(lines: Sequence[str]) -> list[tuple[int, str]]:
    return [
        (number, line.strip()[:80])
        for number, (line, under) in enumerate(pairwise(lines), start=1)
        if line[:1].strip() and _UNDERLINE.fullmatch(under) and len(under) >= len(line.strip())
    ]
