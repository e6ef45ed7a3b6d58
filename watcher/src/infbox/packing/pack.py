"""The pack: a source tree rendered as text whose beginning changes as seldom as possible.

A pack is a log. Its base is frozen; what is saved later is added at the end and supersedes what
stands above it: as the lines that changed where that is much shorter than the file, else as the
whole file. The cache holds exact prefixes, so a change costs its own entry and no more.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from infbox.packing import hunks, tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from infbox.packing.tokens import Ids, Tokenizer

DUE_SHARE = 0.985
"""Of the budget: with more than that in the pack, the next generation is made. What is left is for
the saves that come until it is warm."""

SUPERSEDED_SHARE = 0.1
"""Of the budget, at most, before the next generation is due."""

HUNK_SHARE = 0.5
"""Of a file: its changes are shown as hunks while they are no longer than this."""

ADMITTED_SHARE = 0.2
"""Of the budget: larger files that are saved enter the pack in full with a new generation only."""

NEW_SHARE = 0.3
"""Of the budget: a file that is larger is not shown in full even if nothing else shows it."""

_INTRO = """\
# Source tree: {name}

Below are files of the source tree, as they are on disk now. The order is that of time: what comes \
later about a path supersedes what stands above. "changed" is followed by the whole file as it is \
now; "edited" by a unified diff to apply to the file as shown above; "excerpt" by a diff from the \
last commit to the file as it is now, of which nothing else is shown; "renamed" by nothing, the \
content being that of the old path; "removed" files are no longer there.

"""


class Kind(Enum):
    """What an entry says of its path."""

    INTRO = "intro"
    MAP = "map"
    BASE = "base"
    CHANGED = "changed"
    EDITED = "edited"
    EXCERPT = "excerpt"
    RENAMED = "renamed"
    REMOVED = "removed"


def introduction(name: str) -> str:
    """Return the text that a pack begins with.

    Args:
        name: of the source tree.
    """
    return _INTRO.format(name=name)


_FRONT = frozenset({Kind.INTRO, Kind.MAP})
_TAIL = frozenset({Kind.CHANGED, Kind.EDITED, Kind.EXCERPT, Kind.RENAMED, Kind.REMOVED})
_ANCHORS = frozenset({Kind.BASE, Kind.CHANGED, Kind.EXCERPT, Kind.REMOVED})


@dataclass(frozen=True, slots=True)
class Entry:
    """A section of the pack.

    Attributes:
        kind: what it says.
        path: of the file; empty for what is about no single file.
        digest: of the file's bytes; empty where there is no file.
        content: the file's text after this entry, for the diffs to come.
        text: the section itself.
        tokens: of the section.
        ids: of the section's tokens; None where they are not known.
        old_path: of a renamed file.
    """

    kind: Kind
    path: str
    digest: str
    content: str
    text: str
    tokens: int
    ids: Ids[int] | None = field(default=None, compare=False, repr=False)
    old_path: str = ""


class Source(Protocol):
    """A file's content, as far as a pack needs it."""

    @property
    def digest(self) -> str:
        """Names the bytes: equal bytes have equal digests."""

    @property
    def text(self) -> str:
        """The content as text."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a pack shows of a path.

    Attributes:
        entry: the last one about it.
        in_full: whether the whole file can be read from the pack.
        changes: tokens of the hunks that follow the whole file.
    """

    entry: Entry
    in_full: bool
    changes: int = 0


class Pack:
    """The entries of one generation, in order.

    Args:
        entries: as made by this class.
        budget: tokens.
        tokenizer: counts tokens.
    """

    def __init__(self, entries: Iterable[Entry], budget: int, tokenizer: Tokenizer) -> None:
        self._budget = budget
        self._tokenizer = tokenizer
        self._entries: list[Entry] = []
        self._shown: dict[str, Shown] = {}
        self.tokens = 0
        for entry in entries:
            self.append(entry)

    @property
    def entries(self) -> Sequence[Entry]:
        """All entries in order."""
        return self._entries

    @property
    def budget(self) -> int:
        """Tokens that it may have."""
        return self._budget

    @property
    def tokenizer(self) -> Tokenizer:
        """What counts its tokens."""
        return self._tokenizer

    @property
    def text(self) -> str:
        """The text that goes in front of a question."""
        return "".join(entry.text for entry in self._entries)

    @property
    def ids(self) -> Ids[int] | None:
        """The token ids of the text, entry by entry; None where they are not known."""
        joined = tokens.Ids("I")
        for entry in self._entries:
            if entry.ids is None:
                return None
            joined.extend(entry.ids)
        return joined

    @property
    def front(self) -> int:
        """How many entries at the beginning are about no file."""
        return next((n for n, e in enumerate(self._entries) if e.kind not in _FRONT), len(self))

    @property
    def shown(self) -> dict[str, Shown]:
        """What is shown of each path that is there."""
        return {path: s for path, s in self._shown.items() if s.entry.kind is not Kind.REMOVED}

    @property
    def superseded(self) -> int:
        """Tokens of the entries that a later one supersedes as a whole."""
        return self.superseded_after(0)

    def superseded_after(self, length: int) -> int:
        """Return the same of those after the first so many."""
        gone = 0
        closed: set[str] = set()
        for entry in reversed(self._entries[length:]):
            if entry.path in closed:
                gone += entry.tokens
                if entry.kind is Kind.RENAMED:
                    closed.add(entry.old_path)
            elif entry.kind in _ANCHORS:
                closed.add(entry.path)
        return gone

    @property
    def is_due(self) -> bool:
        """Whether the next generation should be made."""
        too_large = self.tokens > self._budget * DUE_SHARE
        return too_large or self.superseded > self._budget * SUPERSEDED_SHARE

    def __len__(self) -> int:
        return len(self._entries)

    def until(self, length: int) -> Pack:
        """Return a pack of the first entries."""
        return Pack(self._entries[:length], self._budget, self._tokenizer)

    def holds(self, path: str, digest: str) -> bool:
        """Say whether this content can be read in full from the pack as the file's present one."""
        shown = self._shown.get(path)
        return shown is not None and shown.in_full and shown.entry.digest == digest

    def stands(self, path: str) -> str:
        """Return the digest of the content that the pack takes the file to have; else empty."""
        shown = self._shown.get(path)
        return shown.entry.digest if shown else ""

    def save(
        self,
        path: str,
        source: Source,
        *,
        committed: Callable[[], str | None] = lambda: None,
        is_worth_space: bool = True,
    ) -> None:
        """Take in the new content of a file, at the end.

        A file that stands in full gets hunks while they are no longer than ``HUNK_SHARE`` of it,
        and together no longer than it; else it is shown anew. Of a file that does not stand in
        full, its difference from the last commit is shown; unless the whole file costs at most
        twice as much, or is worth its space and within ``ADMITTED_SHARE`` of the budget, or was
        never committed.

        Args:
            path: of the file.
            source: its content.
            committed: returns its text in the last commit, or None where there is none.
            is_worth_space: whether the file may enter in full though it is not short.
        """
        if self.stands(path) == source.digest:
            return
        self._take_back(path)
        if self.stands(path) == source.digest:
            return
        shown = self._shown.get(path)
        if shown and shown.in_full:
            self.append(self._change(path, source, shown))
        else:
            self.append(self.entrance(path, source, committed(), is_worth_space=is_worth_space))

    def remove(self, path: str) -> None:
        """Take in that a file is gone. A file that the pack does not show needs no word."""
        if self.stands(path):
            self._take_back(path)
        if self.stands(path):
            text = f"## {plain(path)} (removed)\n"
            self.append(self._entry(Kind.REMOVED, path, "", "", text))

    def rename(self, old_path: str, path: str) -> None:
        """Take in that a file which stands in full has another path and the same content."""
        entry = self._shown[old_path].entry
        text = f"## {plain(old_path)} (renamed to {plain(path)})\n"
        renamed = self._entry(Kind.RENAMED, path, entry.digest, entry.content, text)
        self.append(replace(renamed, old_path=old_path))

    def add(self, path: str, source: Source) -> Entry:
        """Add a file in full, as a part of the base."""
        entry = self.whole(Kind.BASE, path, source)
        self.append(entry)
        return entry

    def add_front(self, kind: Kind, text: str) -> None:
        """Add text that is about no single file."""
        self.append(self._entry(kind, "", "", "", text))

    def whole(self, kind: Kind, path: str, source: Source) -> Entry:
        """Return the entry that shows a file in full."""
        note = " (changed)" if kind is Kind.CHANGED else ""
        return self._entry(kind, path, source.digest, source.text, section(path, note, source.text))

    def entrance(
        self, path: str, source: Source, old: str | None, *, is_worth_space: bool
    ) -> Entry:
        """Return the entry by which ``save`` takes in a file that does not stand in full.

        Args:
            path: of the file.
            source: its content.
            old: its text in the last commit, or None where there is none.
            is_worth_space: as for ``save``.
        """
        size = tokens.estimate(source.text)
        changes = None if old is None else hunks.unified(old, source.text)
        if changes is None:
            if size <= self._budget * NEW_SHARE:
                return self.whole(Kind.CHANGED, path, source)
            note = f"## {plain(path)} (changed, too large to be shown)\n"
            return self._entry(Kind.EXCERPT, path, source.digest, source.text, note)
        diff = section(path, " (excerpt)", changes, "diff")
        is_short = size <= 2 * tokens.estimate(diff)
        if is_short or (is_worth_space and size <= self._budget * ADMITTED_SHARE):
            return self.whole(Kind.CHANGED, path, source)
        return self._entry(Kind.EXCERPT, path, source.digest, source.text, diff)

    def append(self, entry: Entry) -> None:
        """Add an entry as it is."""
        self._entries.append(entry)
        self.tokens += entry.tokens
        self._note(entry)

    def _change(self, path: str, source: Source, shown: Shown) -> Entry:
        """Return the cheaper of hunks and the whole file, by their length in bytes."""
        changes = hunks.unified(shown.entry.content, source.text)
        if changes is None:
            return self.whole(Kind.CHANGED, path, source)
        diff = section(path, " (edited)", changes, "diff")
        whole = len(source.text.encode())
        together = len(diff.encode()) + shown.changes * tokens.BYTES_PER_TOKEN
        if source.text != shown.entry.content and (
            len(diff.encode()) <= whole * HUNK_SHARE and together <= whole
        ):
            return self._entry(Kind.EDITED, path, source.digest, source.text, diff)
        return self.whole(Kind.CHANGED, path, source)

    def _entry(self, kind: Kind, path: str, digest: str, content: str, text: str) -> Entry:
        ids = self._tokenizer.ids(text)
        count = self._tokenizer.count(text) if ids is None else len(ids)
        return Entry(kind, path, digest, content, text, count, ids)

    def _take_back(self, path: str) -> None:
        """Take back the last entry if it is a change of this path: nothing after it is lost."""
        last = self._entries[-1]
        if last.path != path or last.kind not in _TAIL or last.kind is Kind.RENAMED:
            return
        del self._entries[-1]
        self.tokens -= last.tokens
        self._shown.clear()
        for entry in self._entries:
            self._note(entry)

    def _note(self, entry: Entry) -> None:
        """Take note of what an entry shows."""
        if entry.kind in _FRONT:
            return
        before = self._shown.pop(entry.old_path or entry.path, None)
        in_full, changes = entry.kind in (Kind.BASE, Kind.CHANGED), 0
        if before and entry.kind in (Kind.EDITED, Kind.RENAMED):
            in_full, changes = before.in_full, before.changes + entry.tokens
        self._shown[entry.path] = Shown(entry, in_full, changes)


def common_length(before: Sequence[Entry], after: Sequence[Entry]) -> int:
    """Return how many entries are the same at the beginning of both."""
    pairs = enumerate(zip(before, after, strict=False))
    return next((n for n, (a, b) in pairs if a.text != b.text), min(len(before), len(after)))


def section(path: str, note: str, content: str, language: str = "") -> str:
    """Return a heading and the fenced content.

    Args:
        path: of the file.
        note: of the heading; empty, or with a space in front of it.
        content: what is fenced.
        language: of that; empty for none.
    """
    fence = _fence(content)
    end = "" if content.endswith("\n") or not content else "\n"
    return f"## {plain(path)}{note}\n{fence}{language}\n{content}{end}{fence}\n"


def _fence(content: str) -> str:
    """Return a run of backticks longer than any in the content, so that it cannot end early."""
    longest = max((len(run) for run in re.findall("`{3,}", content)), default=2)
    return "`" * (longest + 1)


def plain(path: str) -> str:
    """Return the path on one line; one with control characters or other bytes is quoted."""
    return path if path.isprintable() else json.dumps(path)
