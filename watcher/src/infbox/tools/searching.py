"""Tools that look for text, definitions and references in all files.

Patterns are matched by RE2, in time that grows with the text alone, whatever a client sends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from infbox.packing.tokens import Estimate
from infbox.retrieval import search as retrieval
from infbox.retrieval.chunks import lines_of
from infbox.tools.reading import bounded, cut
from infbox.tools.source import ToolError, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from infbox.retrieval.texts import Place
    from infbox.tools.source import Source

MAX_RESULTS = 100
"""Of one call."""

MAX_PATTERN_CHARS = 1000
"""Of a pattern or a name that is looked for."""

MAX_QUERY_CHARS = 4000
"""Of words that are looked for."""

MAX_TEXT_TOKENS = 6000
"""Of the chunks that a search by words shows, as bytes let one estimate."""

MAX_BYTES = 512_000_000
"""Of files that one call looks through."""

_PATTERN_MEMORY = 8 << 20  # bytes, for what RE2 makes of one pattern
_DEFINITION_LINES = 12  # of a definition that is found by its name
_CHECKED_EVERY = 8  # blocks
# What means another place in a whole block than it does in each line of it.
_OF_WHOLE_TEXTS = re.compile(r"\\[Az]|\(\?[A-Za-z]*-")
_NO_LETTER = r"[^\pL\pN_]"


class Line(NamedTuple):
    """A line that was found."""

    path: str
    number: int
    text: str


def by_words(source: Source, query: str, below: str, results: int) -> str:
    """Return the chunks of files that match words best.

    Args:
        source: the files.
        query: words, names, paths, or a stack trace.
        below: a file or a directory to look in; empty for all.
        results: how many chunks, at most.
    """
    found = source.texts

    def is_left_out(path: str) -> bool:
        return not _is_below(path, below) or path not in source.shown([path])

    chosen = retrieval.choose(
        found,
        query[:MAX_QUERY_CHARS],
        is_left_out,
        MAX_TEXT_TOKENS,
        Estimate(),
        weights=source.weights,
    )[:results]
    shown = source.shown({each.place.path for each in chosen})
    parts = [
        f"{_named(each.place)}  {shortened(each.reason)}\n{each.text.rstrip()}\n"
        for each in chosen
        if each.place.path in shown
    ]
    return "\n".join(bounded(parts)) or _nothing(query, below)


def by_symbol(source: Source, name: str, below: str, results: int) -> str:
    """Return where a name is defined, with the first lines of each definition.

    Args:
        source: the files.
        name: as the source writes it.
        below: a file or a directory to look in; empty for all.
        results: how many definitions, at most.
    """
    places = source.texts.naming(name, MAX_RESULTS)
    places = [place for place in places if _is_below(place.path, below)]
    texts = {place: source.texts.text(place) for place in places}
    shown = source.shown({place.path for place in places})
    ordered = sorted(places, key=lambda place: (place.path, place.start))
    firsts = [place for place in _beginnings(ordered, name) if place.path in shown]
    chosen = firsts[:results]
    parts = [_definition(place, texts[place], name) for place in chosen]
    return "\n".join(bounded(parts)) or (
        f"No definition of {shortened(name)} is known. Try references, or search by words."
    )


def by_pattern(
    source: Source, pattern: str, below: str, results: int, *, ignore_case: bool = False
) -> str:
    """Return lines that match a pattern.

    Args:
        source: the files.
        pattern: in RE2's syntax; each line is matched by itself.
        below: a file or a directory to look in; empty for all.
        results: how many lines, at most.
        ignore_case: whether upper and lower case are the same.

    Raises:
        ToolError: it is no such pattern.
    """
    return _lines(source, _compiled(pattern, ignore_case=ignore_case), below, results, pattern)


def references(source: Source, name: str, below: str, results: int) -> str:
    """Return the lines in which a name stands by itself.

    Args:
        source: the files.
        name: as the source writes it.
        below: a file or a directory to look in; empty for all.
        results: how many lines, at most.

    Raises:
        ToolError: it is no name.
    """
    import re2  # noqa: PLC0415  # few who run the gateway's process need it

    if not name.strip() or "\n" in name:
        raise ToolError("name must be a name as the source writes it. Give one.")
    quoted = re2.escape(name)
    pattern = f"(?:^|{_NO_LETTER}){quoted}(?:$|{_NO_LETTER})"
    return _lines(source, _compiled(pattern, most=None), below, results, name)


class _Pattern(NamedTuple):
    """A pattern: for a line, and for a block that has such a line, or None where there is none."""

    line: Any
    block: Any


def _compiled(
    pattern: str, *, ignore_case: bool = False, most: int | None = MAX_PATTERN_CHARS
) -> _Pattern:
    import re2  # noqa: PLC0415

    if not pattern or (most and len(pattern) > most):
        raise ToolError(f"A pattern must have 1 to {most} characters. Shorten it.")
    options = re2.Options()
    options.log_errors = False  # they are raised
    options.max_mem = _PATTERN_MEMORY
    options.case_sensitive = not ignore_case
    try:
        data = pattern.encode()
        line = re2.compile(data, options)
        is_of_lines = not _OF_WHOLE_TEXTS.search(pattern)
        block = re2.compile(b"(?m)" + data, options) if is_of_lines else None
    except (re2.error, UnicodeError) as error:
        reason = error.args[0] if error.args else error
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ToolError(
            f"The pattern cannot be used: {shortened(reason)}. Write it in RE2's syntax, which has "
            "neither look-around nor back references."
        ) from error
    return _Pattern(line, block)


def _lines(source: Source, pattern: _Pattern, below: str, results: int, what: str) -> str:
    """Return lines that match, and whether files were left."""
    found: list[Line] = []
    looked = _Looked()
    for line in _matching(source, pattern, below, looked):
        found.append(line)
        if len(found) > results:
            break
    shown = source.shown({line.path for line in found})
    told = [
        f"{line.path}:{line.number}: {cut(line.text)}"
        for line in found[:results]
        if line.path in shown
    ]
    ends = [f"There are more: narrow it by path, or raise max_results to {MAX_RESULTS}."]
    if looked.is_cut:
        ends = ["Not all files were looked through in time: narrow it by path."]
    elif len(found) <= results:
        ends = []
    return "\n".join([*bounded(told), *ends]) or _nothing(what, below)


class _Looked:
    """How much was looked through."""

    is_cut = False


def _matching(source: Source, pattern: _Pattern, below: str, looked: _Looked) -> Iterator[Line]:
    size = 0
    for count, (path, start, data) in enumerate(source.texts.all_blocks(below)):
        size += len(data)
        if size > MAX_BYTES or (count % _CHECKED_EVERY == 0 and source.is_late):
            looked.is_cut = True
            return
        if pattern.block is not None and not pattern.block.search(data):
            continue
        for number, line in enumerate(data.split(b"\n")[:-1], start):
            if pattern.line.search(line):
                yield Line(path, number, line.decode(errors="replace"))


def _beginnings(places: Iterable[Place], name: str) -> Iterator[Place]:
    """Yield the chunks in which definitions begin: a type's members bear its name first, too."""
    before: Place | None = None
    for place in places:
        follows = before and before.path == place.path and before.end + 1 == place.start
        if not (follows and before and name == before.names[0] == place.names[0]):
            yield place
        before = place


def _definition(place: Place, text: str, name: str) -> str:
    """Write a definition: from the first line that has its name."""
    lines = lines_of(text)
    first = next((n for n, line in enumerate(lines) if name in line), 0)
    some = lines[first : first + _DEFINITION_LINES]
    numbered = [f"{n}\t{cut(line)}" for n, line in enumerate(some, place.start + first)]
    return "\n".join([_named(place), *numbered, ""])


def _named(place: Place) -> str:
    return f"{place.path}:{place.start}-{place.end}"


def _is_below(path: str, below: str) -> bool:
    directory = below.strip("/")
    return not directory or path == directory or path.startswith(f"{directory}/")


def _nothing(what: str, below: str) -> str:
    where = f" below {shortened(below)}" if below else ""
    return f"Nothing was found for {shortened(what)}{where}."
