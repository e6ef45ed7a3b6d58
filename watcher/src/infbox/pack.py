"""The pack: a source tree rendered as text whose beginning changes as seldom as possible.

A pack is a log. Its base is frozen; what is saved later is added at the end and supersedes what
stands above it. The cache holds exact prefixes, so a change costs its own entry and no more. When
too much of the text is superseded, or it has grown beyond its budget, a new base is made: the next
generation.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from infbox.tokens import BYTES_PER_TOKEN, Counter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

BASE_SHARE = 0.9
"""Of the budget, for the base; the rest is for the tail. A tail of edits that fills the rest has
superseded as much as a pack may carry, so the two limits meet."""

SUPERSEDED_SHARE = 0.1
"""Of the budget, at most, before a new generation is due."""

_FULL_ENOUGH = 0.01  # of the budget: with less room than that, no further file is tried

_INTRO = """\
# Source tree: {name}

These are files of the source tree as they are on disk now. The order is that of time: where a \
path appears more than once, its last section is the file as it is now and supersedes every \
earlier one; a path marked as removed is no longer there.

"""


class Kind(Enum):
    """What an entry says of its path."""

    INTRO = "intro"
    BASE = "base"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Entry:
    """A section of the pack; ``digest`` is that of the file's bytes, empty where there is none."""

    kind: Kind
    path: str
    digest: str
    tokens: int
    text: str


class Source(Protocol):
    """A file's content, as far as a pack needs it."""

    @property
    def digest(self) -> str:
        """xxh3_128 of the bytes, hex."""

    @property
    def text(self) -> str:
        """The content as text."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may enter a base.

    Attributes:
        path: of the file.
        size: in bytes.
        edit: a number that is larger the later the file was edited; 0 when that was not seen.
    """

    path: str
    size: int
    edit: int = 0


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates, best first: those edited last, then by path."""
    return sorted(candidates, key=lambda candidate: (-candidate.edit, candidate.path))


class Pack:
    """The entries of one generation, in order.

    Args:
        entries: as made by ``Pack.build`` and changed since.
        budget: tokens.
        count: counts the tokens of a text.
    """

    def __init__(self, entries: Sequence[Entry], budget: int, count: Counter) -> None:
        self._entries = list(entries)
        self._budget = budget
        self._count = count
        self._current = {entry.path: entry for entry in entries if entry.kind is not Kind.INTRO}
        self.tokens = sum(entry.tokens for entry in entries)

    @classmethod
    def build(
        cls,
        name: str,
        candidates: Iterable[Candidate],
        read: Callable[[str], Source | None],
        budget: int,
        count: Counter,
    ) -> Pack:
        """Make the base of a new generation: files by rank until it is full, laid out by path.

        Args:
            name: the workspace's name, for the text.
            candidates: best first.
            read: returns a file's content, or None when it is gone or may not be shown.
            budget: tokens of the whole pack, the tail included.
            count: counts the tokens of a text.
        """
        text = _INTRO.format(name=name)
        intro = Entry(Kind.INTRO, "", "", count(text), text)
        room = budget * BASE_SHARE - intro.tokens
        chosen: list[Entry] = []
        for candidate in candidates:
            if room < budget * _FULL_ENOUGH:
                break
            source = read(candidate.path) if candidate.size <= room * BYTES_PER_TOKEN else None
            entry = section(Kind.BASE, candidate.path, source, count) if source else None
            if entry and entry.tokens <= room:
                chosen.append(entry)
                room -= entry.tokens
        chosen.sort(key=lambda entry: entry.path)
        return cls([intro, *chosen], budget, count)

    @property
    def entries(self) -> Sequence[Entry]:
        """All entries in order."""
        return self._entries

    @property
    def text(self) -> str:
        """The text that goes in front of a question."""
        return "".join(entry.text for entry in self._entries)

    @property
    def superseded(self) -> int:
        """Tokens of the entries that a later one supersedes."""
        return self.tokens - sum(
            entry.tokens
            for entry in self._entries
            if entry.kind is Kind.INTRO or self._current[entry.path] is entry
        )

    @property
    def is_worn(self) -> bool:
        """Whether a new generation is due."""
        too_large = self.tokens > self._budget
        return too_large or self.superseded > self._budget * SUPERSEDED_SHARE

    def save(self, path: str, source: Source) -> None:
        """Take in the new content of a file, at the end."""
        if self._standing(path) != source.digest:
            self._forget_last(path)
        if self._standing(path) != source.digest:
            self._append(section(Kind.CHANGED, path, source, self._count))

    def remove(self, path: str) -> None:
        """Take in that a file is gone. A file that the pack does not show needs no word."""
        if self._standing(path):
            self._forget_last(path)
        if self._standing(path):
            text = f"## {_plain(path)} (removed)\n"
            self._append(Entry(Kind.REMOVED, path, "", self._count(text), text))

    def holds(self, path: str, digest: str) -> bool:
        """Say whether the pack shows this content, in full, as the file's present one."""
        return self._standing(path) == digest

    def shown(self) -> set[str]:
        """Return the paths whose present content the pack shows."""
        return {path for path, entry in self._current.items() if entry.kind is not Kind.REMOVED}

    def _standing(self, path: str) -> str:
        entry = self._current.get(path)
        return entry.digest if entry else ""

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._current[entry.path] = entry
        self.tokens += entry.tokens

    def _forget_last(self, path: str) -> None:
        """Take back the last entry if it is a change of this path: nothing after it is lost."""
        last = self._entries[-1]
        if last.path != path or last.kind not in (Kind.CHANGED, Kind.REMOVED):
            return
        del self._entries[-1]
        del self._current[path]
        self.tokens -= last.tokens
        for entry in reversed(self._entries):
            if entry.path == path:
                self._current[path] = entry
                break


def common_length(before: Sequence[Entry], after: Sequence[Entry]) -> int:
    """Return how many entries are the same at the beginning of both."""
    pairs = enumerate(zip(before, after, strict=False))
    shorter = min(len(before), len(after))
    return next((place for place, (old, new) in pairs if old != new), shorter)


def section(kind: Kind, path: str, source: Source, count: Counter) -> Entry:
    """Return the entry that shows a file in full."""
    note = " (changed)" if kind is Kind.CHANGED else ""
    content = source.text
    fence = _fence(content)
    end = "" if content.endswith("\n") or not content else "\n"
    text = f"## {_plain(path)}{note}\n{fence}\n{content}{end}{fence}\n"
    return Entry(kind, path, source.digest, count(text), text)


def _fence(content: str) -> str:
    """Return a run of backticks longer than any in the content, so that it cannot end early."""
    longest = max((len(run) for run in re.findall("`{3,}", content)), default=2)
    return "`" * (longest + 1)


def _plain(path: str) -> str:
    """Return the path on one line; one with control characters or other bytes is quoted."""
    return path if path.isprintable() else json.dumps(path)
