"""What changed since a conversation's pack was made, as a note for the next user message.

A pack is a log, and tells a file's changes in order, each of them by itself. So of a file that the
conversation knows at one of the states that the present pack tells, what follows that state is what
is new. Of any other the newest whole state is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from infbox.packing import hunks, pack
from infbox.packing.tokens import estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from infbox.gateway.conversations.forms import Item
    from infbox.packing.published import About, Pack

MOST_TOKENS = 2000
"""Of a note; files beyond that are named only."""

MOST_NAMES = 40
"""Files that a note names without showing what changed in them."""

_BEGIN = (
    "<source-tree-changes>\n"
    "Files of the source tree above changed meanwhile. What follows is what they are now, and "
    "supersedes what stands above about them.\n\n"
)
_UNDONE = "taken back to its last whole text above"
_END = "</source-tree-changes>\n"
_FRAME_TOKENS = 45
_NAME_TOKENS = 12

_TAIL = frozenset({"changed", "edited", "excerpt", "renamed", "removed"})
_IN_FULL = frozenset({"base", "changed"})
_BY_ITSELF = frozenset({*_IN_FULL, "excerpt", "removed"})
_RENAMED, _REMOVED, _EDITED = "renamed", "removed", "edited"

_LINE_NUMBER = re.compile(r"^\s*\d+\s*[\t→|:]")
_AROUND_NAMES = re.compile(r"[\s\"'`(),:;/]+")
_SHORT_SHARE = 0.7  # of a whole text: what differs is told in its place if it is shorter
_TELLING = 6  # characters of a line that is not found anywhere by chance


Chunk = tuple[str, str, int, int]
"""A part of a file: its path and digest, the first and the last line."""


@dataclass(frozen=True)
class Note:
    """What is told at one user message: what changed, or what was found for the question.

    Attributes:
        text: of it.
        tokens: of the text, about.
        shown: files whose present state can be read from the conversation with it: path, digest,
            and the digest of what it shows as a whole; empty where that is only what changed.
        named: files that it only names: path and digest.
        found: what it shows of files, where it was found for the question; empty where it tells
            what changed.
    """

    text: str
    tokens: int
    shown: tuple[tuple[str, str, str], ...] = ()
    named: tuple[tuple[str, str], ...] = ()
    found: tuple[Chunk, ...] = ()

    @property
    def paths(self) -> set[str]:
        """The files that it is about."""
        changed = (path for path, *_ in (*self.shown, *self.named))
        return {*changed, *(path for path, *_ in self.found)}


@dataclass(frozen=True)
class _Section:
    """A section of the present pack: what it is about, its place, its tokens."""

    about: About
    place: int
    tokens: int


@dataclass
class _Changes:
    """What a note is put together from."""

    texts: list[str] = field(default_factory=list)
    shown: list[tuple[str, str, str]] = field(default_factory=list)
    named: list[tuple[str, str]] = field(default_factory=list)
    tokens: int = 0


@dataclass(frozen=True)
class Known:
    """What a conversation shows of files.

    Attributes:
        digests: of the state of each file that it shows last; empty for one that is gone.
        in_full: of the last state of each file that it shows as a whole.
    """

    digests: Mapping[str, str]
    in_full: Mapping[str, str]


def known(about: Iterable[About], notes: Iterable[Note]) -> Known:
    """Return what a conversation shows of files.

    Args:
        about: the sections of its pack that stand in front of it.
        notes: that it was told. Of a file that nothing else shows, what was found is what is known:
            when it changes, that is told. Of any other it says nothing about the rest of the file.
    """
    digests: dict[str, str] = {}
    in_full: dict[str, str] = {}
    for section in about:
        if section.kind == _RENAMED:
            digests[section.old_path] = ""
            in_full[section.path] = in_full.pop(section.old_path, "")
        if section.kind in _IN_FULL:
            in_full[section.path] = section.digest
        if section.path:
            digests[section.path] = section.digest
    for told in notes:
        for path, digest, whole in told.shown:
            digests[path] = digest
            in_full[path] = whole or in_full.get(path, "")
        for path, digest, *_ in told.found:
            digests.setdefault(path, digest)
    return Known(digests, in_full)


def note(
    shows: Known,
    told: Sequence[Note],
    present: Pack,
    own: Own,
    most: int = MOST_TOKENS,
) -> Note | None:
    """Return what is new; None for nothing.

    Args:
        shows: what the conversation shows of files.
        told: the notes that it was told.
        present: the present pack.
        own: what the conversation itself shows is not told.
        most: tokens of the note.
    """
    sections = _sections(present)
    named = {path: digest for each in told for path, digest in each.named}
    changed = {
        path: now
        for path, now in _changed(shows.digests, sections, present.others).items()
        if named.get(path, shows.digests.get(path)) != now
    }
    if not changed or most < _FRAME_TOKENS + _NAME_TOKENS:
        return None
    found = _Changes(tokens=_FRAME_TOKENS)
    renamed: set[str] = set()
    for path in sorted(changed, key=lambda path: -_last_place(sections, path)):
        if path in renamed:
            found.shown.append((path, changed[path], ""))
            continue
        new = _new(sections.get(path, []), shows)
        texts = own.without(path, [(s, _text(present, s)) for s in new])
        if new and not texts:
            continue  # the conversation wrote it itself
        texts = _shortened(texts, shows, own.kept)
        if _take(found, path, changed[path], texts, most):
            renamed.update(section.about.old_path for section, _ in texts)
    return _composed(found)


def _sections(present: Pack) -> dict[str, list[_Section]]:
    """Return the sections about each file, in order."""
    found: dict[str, list[_Section]] = {}
    before = 0
    for place, (about, (_, tokens)) in enumerate(zip(present.about, present.ends, strict=True)):
        if about.path:
            found.setdefault(about.path, []).append(_Section(about, place, tokens - before))
        before = tokens
    return found


def _last_place(sections: Mapping[str, Sequence[_Section]], path: str) -> int:
    """Return the place of the last section about a file; -1 where there is none."""
    return sections[path][-1].place if path in sections else -1


def _changed(
    digests: Mapping[str, str],
    sections: Mapping[str, Sequence[_Section]],
    others: Mapping[str, str],
) -> dict[str, str]:
    """Return the files that are not what the conversation shows, with the digests that they have
    now."""
    moved = {s.about.old_path: s.place for each in sections.values() for s in each}
    found: dict[str, str] = {}
    for path in digests:
        now = others.get(path, "") if path not in sections else sections[path][-1].about.digest
        if moved.get(path, -1) > _last_place(sections, path):
            now = ""
        if path not in sections and path not in others and path not in moved:
            continue  # nobody knows
        if now != digests[path]:
            found[path] = now
    for path, each in sections.items():
        last = each[-1].about
        if path not in digests and last.kind in _TAIL and last.kind != _REMOVED:
            found[path] = last.digest
    return found


def _new(sections: Sequence[_Section], shows: Known) -> list[_Section]:
    """Return the sections about a file that lead from what the conversation shows of it to what it
    is now; none where they do not."""
    places = range(len(sections) - 1, -1, -1)
    for place in places:
        about = sections[place].about
        if about.digest and shows.digests.get(about.path) == about.digest:
            return list(sections[place + 1 :])
        if about.kind == _RENAMED and shows.digests.get(about.old_path) == about.digest:
            return list(sections[place:])
    start = next((n for n in places if sections[n].about.kind in _BY_ITSELF), None)
    if start is None:
        return []
    about = sections[start].about
    if about.kind in _IN_FULL and shows.in_full.get(about.path) == about.digest:
        undone = replace(sections[start], place=-1, tokens=2 * _NAME_TOKENS)
        return [undone, *sections[start + 1 :]]
    return list(sections[start:])


def _shortened(
    texts: Sequence[tuple[_Section, str]], shows: Known, kept: Pack
) -> Sequence[tuple[_Section, str]]:
    """Return sections with the whole text that they begin with as what differs from the last whole
    text that the conversation's pack shows, where that is much shorter."""
    if not texts or texts[0][0].place < 0 or texts[0][0].about.kind not in _IN_FULL:
        return texts
    whole, text = texts[0]
    path, digest = whole.about.path, shows.in_full.get(whole.about.path)
    places = (
        place
        for place, about in enumerate(kept.about)
        if about.kind in _IN_FULL and (about.path, about.digest) == (path, digest)
    )
    place = next(places, None)
    if place is None:
        return texts
    old = _text(kept, _Section(kept.about[place], place, 0))
    diff = hunks.unified(_fenced(old), _fenced(text))
    if diff is None:
        return texts
    short = f"## {path} ({_UNDONE})\n{pack.section(path, ' (edited)', diff, 'diff')}"
    tokens = estimate(short)
    if tokens > whole.tokens * _SHORT_SHARE:
        return texts
    return [(replace(whole, place=-1, tokens=tokens), short), *texts[1:]]


def _fenced(text: str) -> str:
    """Return what a section that shows a whole file has between its fences."""
    _, fence, rest = text.split("\n", 2)
    return rest[: -len(fence) - 1]


def _text(present: Pack, section: _Section) -> str:
    """Return the text of a section; one without a place takes back what follows a whole text."""
    place = section.place
    if place < 0:
        return f"## {section.about.path} ({_UNDONE})\n"
    start = present.ends[place - 1][0] if place else 0
    encoded = present.encoded[start : present.ends[place][0]]
    text: str = json.loads(b'"' + encoded + b'"')
    return text


class Own:
    """What a conversation shows that it wrote itself.

    Args:
        items: its messages.
        kept: its pack.
        told: the notes that it was told.
    """

    def __init__(self, items: Sequence[Item], kept: Pack, told: Sequence[Note]) -> None:
        self._items = items
        self.kept = kept
        self._told = told

    def without(
        self, path: str, new: Sequence[tuple[_Section, str]]
    ) -> Sequence[tuple[_Section, str]]:
        """Return what is new of a file without what the conversation shows: sections at the
        beginning, or all."""
        for place, (section, text) in enumerate(new):
            if section.place >= 0 and not self._shows(path, section.about.kind, text):
                return new if new[0][0].place < 0 else new[place:]
        return []

    def _shows(self, path: str, kind: str, text: str) -> bool:
        """Say whether all lines that a section brings are there, in a conversation about it."""
        wanted = _brought(kind, text)
        if not any(len(line) >= _TELLING for line in wanted):
            return False
        if path.rpartition("/")[2] not in self._names:
            return False
        left = [line for line in wanted if line not in self._lines]
        return not left or self._lines_about(path).issuperset(left)

    @cached_property
    def _lines(self) -> set[str]:
        """The lines of its messages and notes, less the spaces and numbers around them."""
        found: set[str] = set()
        for text in [*_texts_of(list(self._items)), *(each.text for each in self._told)]:
            for line in text.splitlines():
                plain = line.strip()
                found.update((plain, _LINE_NUMBER.sub("", line).strip()))
                if plain[:1] in "+-":
                    found.add(plain[1:].strip())
        return found

    @cached_property
    def _names(self) -> set[str]:
        """The words of its messages that may be names of files."""
        words = (word for line in self._lines for word in _AROUND_NAMES.split(line))
        return {word for word in words if "." in word}

    def _lines_about(self, path: str) -> set[str]:
        """Return the lines that its pack shows as changes of a file."""
        found: set[str] = set()
        for place, about in enumerate(self.kept.about):
            if about.path == path:
                section = _Section(about, place, 0)
                found.update(_brought(about.kind, _text(self.kept, section)))
        return found


def _brought(kind: str, text: str) -> list[str]:
    """Return the lines that a section brings, or where it only takes some away, those."""
    body = text.split("\n")[2:-2]  # less the heading, and a fence on either side
    if kind in (_EDITED, "excerpt"):
        body = [line for line in body if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        added = [line[1:].strip() for line in body if line[:1] == "+"]
        body = [line for line in added if line] or [line[1:] for line in body]
    elif kind not in _IN_FULL:
        return []
    return [line.strip() for line in body if line.strip()]


def _take(
    found: _Changes,
    path: str,
    digest: str,
    texts: Sequence[tuple[_Section, str]],
    most: int,
) -> bool:
    """Add a file to the changes: what is new in it where that fits, else its name; say which."""
    tokens = sum(section.tokens for section, _ in texts)
    if not texts and not digest:
        texts_of_it, tokens = [f"## {path} (removed)\n"], _NAME_TOKENS
    else:
        texts_of_it = [text for _, text in texts]
    if texts_of_it and found.tokens + tokens <= most:
        found.texts.append("".join(texts_of_it))
        wholes = [s.about.digest for s, _ in texts if s.about.kind in _IN_FULL and s.place >= 0]
        found.shown.append((path, digest, wholes[-1] if wholes else ""))
        found.tokens += tokens
        return True
    found.named.append((path, digest))
    return False


def _composed(found: _Changes) -> Note | None:
    if not found.texts and not found.named:
        return None
    told = found.named[:MOST_NAMES]
    names = ", ".join(path for path, _ in told)
    more = f" and {len(found.named) - len(told)} more" if len(found.named) > len(told) else ""
    ending = f"Changed too, without being shown here: {names}{more}.\n" if told else ""
    text = _BEGIN + "".join(reversed(found.texts)) + ending + _END
    tokens = found.tokens + _NAME_TOKENS * len(told)
    return Note(text, tokens, tuple(found.shown), tuple(found.named))


def _texts_of(value: object) -> Iterable[str]:
    """Yield all texts in a value, those within JSON in a text too."""
    if isinstance(value, str):
        yield value
        if value[:1] == "{":
            try:
                yield from _texts_of(json.loads(value))
            except (ValueError, RecursionError):
                return
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts_of(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts_of(one)
