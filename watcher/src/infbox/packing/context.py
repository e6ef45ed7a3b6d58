"""What is known of a source tree beside its files' bytes: who imports whom, and a map of it all."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from infbox.packing.imports import centrality, imported
from infbox.packing.pack import plain
from infbox.packing.symbols import outline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from infbox.packing.pack import Source
    from infbox.packing.rank import Candidate
    from infbox.packing.tokens import Tokenizer

MOST_READ = 5000
"""Files that are read at once to learn what they import: a few seconds' work."""

CHANGED_SHARE = 0.01
"""Of the files: when more of them changed, it is looked at anew who imports whom. In a large tree
that takes seconds, and the answer changes slowly."""

MOST_OUTLINED = 400
"""Files whose symbols are looked at for a map."""

_HEADING = """\
# Map of the rest of the tree, as it was when this text was begun

"""
_DIRECTORIES_SHARE = 0.3  # of a map, for the directories
_DEEPEST = 4  # directories of the map are told apart down to here


class Imports(Protocol):
    """Where it is kept what files import, by the digest of their bytes."""

    def imports(self) -> Mapping[str, Sequence[str]]:
        """Return what is known."""

    def note_imports(self, noted: Mapping[str, Sequence[str]], wanted: Iterable[str]) -> None:
        """Add to what is known, and forget digests that are not wanted."""


class KnownImports:
    """Imports kept in memory, for as long as one looks."""

    def __init__(self) -> None:
        self._names: dict[str, Sequence[str]] = {}

    def imports(self) -> Mapping[str, Sequence[str]]:
        """Return what is known."""
        return self._names

    def note_imports(self, noted: Mapping[str, Sequence[str]], wanted: Iterable[str]) -> None:
        """Add to what is known, and forget digests that are not wanted."""
        self._names |= noted
        self._names = {name: self._names[name] for name in set(wanted) & self._names.keys()}


class Centre:
    """Tells how central each file is to its tree, 0 to 1, by how many files import it.

    Args:
        known: where imports are kept; those of up to ``MOST_READ`` files are added at a time.
    """

    def __init__(self, known: Imports) -> None:
        self._known = known
        self._seen = array("q")
        """A hash of each file's path and digest: texts of all of them are ten times as much."""
        self._found: dict[str, float] = {}

    def centralities(
        self, digests: Mapping[str, str], read: Callable[[str], Source | None]
    ) -> dict[str, float]:
        """Return the centrality of files by path, without those that nobody imports; it may be that
        of a short while ago.

        Args:
            digests: of all files, by path.
            read: returns a file's content, or None.
        """
        seen, before = array("q", map(hash, digests.items())), set(self._seen)
        if sum(each not in before for each in seen) > len(digests) * CHANGED_SHARE:
            found = centrality(self._imports(digests, read))
            self._found = {path: share for path, share in found.items() if share}
            self._seen = seen
        return self._found

    def _imports(
        self, digests: Mapping[str, str], read: Callable[[str], Source | None]
    ) -> dict[str, Sequence[str]]:
        imports = dict(self._known.imports())
        unknown = [
            path for path in sorted(digests, key=_near_first) if digests[path] not in imports
        ]
        noted: dict[str, Sequence[str]] = {}
        for path in unknown[:MOST_READ]:
            source = read(path)
            if source:
                noted[source.digest] = imported(path, source.text)
        if noted:
            self._known.note_imports(noted, digests.values())
        imports |= noted
        return {path: imports.get(digest, ()) for path, digest in digests.items()}


def drawn_map(
    candidates: Sequence[Candidate],
    read: Callable[[str], Source | None],
    space: int,
    tokenizer: Tokenizer,
) -> str:
    """Return a map of files: the best with their symbols, all others counted by directory.

    Identifiers and paths only, so that nothing of a file's content can be in it.

    Args:
        candidates: the files, best first.
        read: returns a file's content, or None.
        space: tokens that it may have.
        tokenizer: counts tokens.

    Returns:
        The map; empty where there is no space for one.
    """
    directories = _within(
        _directories(c.path for c in candidates), space * _DIRECTORIES_SHARE, tokenizer
    )
    left = space - tokenizer.count(_HEADING) - sum(map(tokenizer.count, directories))
    outlines = (_line(c.path, read) for c in candidates[:MOST_OUTLINED])
    lines = sorted(_within(outlines, left, tokenizer))
    return "".join([_HEADING, *directories, *lines, "\n"]) if directories or lines else ""


def _within(lines: Iterable[str], space: float, tokenizer: Tokenizer) -> list[str]:
    """Return those of the lines, in their order, that fit into the space."""
    fitting: list[str] = []
    for text in lines:
        cost = tokenizer.count(text)
        if cost <= space:
            fitting.append(text)
            space -= cost
    return fitting


def _near_first(path: str) -> tuple[int, str]:
    return path.count("/"), path


def _line(path: str, read: Callable[[str], Source | None]) -> str:
    source = read(path)
    symbols = outline(path, source.text) if source else ()
    name = plain(path)
    return f"{name}: {'; '.join(symbols)}\n" if symbols else f"{name}\n"


def _directories(paths: Iterable[str]) -> list[str]:
    """Return a line a directory with how many files are below it, those near the root first."""
    counts: Counter[str] = Counter()
    for path in paths:
        counts["/".join(path.split("/")[:-1][:_DEEPEST])] += 1
    return [
        f"{plain(directory) or '.'}/ {counts[directory]} files\n"
        for directory in sorted(counts, key=_near_first)
    ]
