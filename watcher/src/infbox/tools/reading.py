"""Tools that show files: their lines, what they define, and which were edited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infbox.packing.symbols import definitions
from infbox.retrieval.chunks import lines_of
from infbox.tools.source import ToolError, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from infbox.packing.symbols import Definition
    from infbox.tools.source import Source

MAX_LINES = 2000
"""That one call reads."""

MAX_CHARS = 60_000
"""Of one answer: some 15,000 tokens."""

MAX_LINE_CHARS = 1000
"""Of a line that is shown."""

MAX_ENTRIES = 500
"""Of a list of files or definitions."""


def read(source: Source, path: str, start: int, lines: int) -> str:
    """Return lines of a file, each with its number.

    Args:
        source: the files.
        path: of the file.
        start: the first line, from 1.
        lines: how many, at most MAX_LINES.

    Raises:
        ToolError: there is no such file, or no such line in it.
    """
    all_lines = lines_of(source.text(path))
    if start > max(len(all_lines), 1):
        raise ToolError(f"{path} has {len(all_lines)} lines. Give a smaller start.")
    chosen = all_lines[start - 1 : start - 1 + lines]
    shown = bounded(f"{n}\t{cut(text)}" for n, text in enumerate(chosen, start))
    last = start + len(shown) - 1
    head = f"{path}, lines {start} to {last} of {len(all_lines)}" if shown else f"{path} is empty"
    return "\n".join([head, *shown])


def outline(source: Source, path: str) -> str:
    """Return what a file defines, or what a directory holds.

    Args:
        source: the files.
        path: of a file or a directory; empty for the whole tree.

    Raises:
        ToolError: there is neither.
    """
    directory = path.strip("/")
    files = source.files()
    if directory in files:
        return _of_file(directory, source.text(directory))
    start = f"{directory}/" if directory else ""
    inside = {file: size for file, size in files.items() if file.startswith(start)}
    if not inside:
        raise ToolError(
            f"There is no file and no directory {shortened(path)} that may be shown. "
            "outline without a path lists what there is."
        )
    return _of_directory(directory, start, inside)


def changed(source: Source, since: int | None, results: int) -> str:
    """Return files by their last edit, the newest first, and a number for the next call.

    Args:
        source: the files.
        since: the number that an earlier call told; None for the last edits.
        results: how many files, at most.
    """
    last = source.last_edit()
    edited = source.edited_since(since or 0)[::-1]
    left_out = max(len(edited) - results, 0)
    shown = [f"{file.path} ({file.size} bytes)" for file in edited[:results]]
    head = f"{len(edited)} files changed" if since is not None else "edited last, newest first"
    if not edited:
        head = "no file changed"
    more = [f"{left_out} more: raise max_results"] if left_out and since is not None else []
    end = f"Call changed_since with since={last} to see what changes from now on."
    return "\n".join([head, *shown, *more, end])


def cut(line: str) -> str:
    """Return a line as it is shown."""
    return line if len(line) <= MAX_LINE_CHARS else f"{line[:MAX_LINE_CHARS]}…"


def bounded(lines: Iterable[str]) -> list[str]:
    """Return lines until an answer would be too long."""
    kept: list[str] = []
    size = 0
    for line in lines:
        size += len(line) + 1
        if size > MAX_CHARS and kept:
            break
        kept.append(line)
    return kept


def _of_file(path: str, text: str) -> str:
    found = list(_lines(definitions(path, text)))
    head = f"{path}, {len(lines_of(text))} lines"
    if not found:
        return f"{head}: no definitions are known in it; read shows its lines"
    more = [f"… {len(found) - MAX_ENTRIES} more"] if len(found) > MAX_ENTRIES else []
    return "\n".join([head, *found[:MAX_ENTRIES], *more])


def _lines(found: Iterable[Definition], depth: int = 0) -> Iterator[str]:
    for each in found:
        yield f"{'  ' * depth}{each.name} {each.start}-{each.end}"
        yield from _lines(each.members, depth + 1)


def _of_directory(directory: str, start: str, inside: dict[str, int]) -> str:
    """Name what lies in a directory: files with their sizes, directories with their files."""
    counts: dict[str, int] = {}
    own: list[str] = []
    for path, size in inside.items():
        name, slash, _ = path[len(start) :].partition("/")
        if slash:
            counts[name] = counts.get(name, 0) + 1
        else:
            own.append(f"{start}{name} ({size} bytes)")
    entries = [f"{start}{name}/ ({count} files)" for name, count in sorted(counts.items())] + own
    more = [f"… {len(entries) - MAX_ENTRIES} more"] if len(entries) > MAX_ENTRIES else []
    head = f"{directory or 'the tree'}: {len(inside)} files"
    return "\n".join([head, *bounded(entries[:MAX_ENTRIES]), *more])
