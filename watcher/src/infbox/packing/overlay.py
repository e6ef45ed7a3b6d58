"""A pack over another workspace's: first what that one's begins with, then what differs from it.

What it begins with has the same tokens, so that the engine has their KV from the base. It is the
base's pack with its tail, up to where the developer's tree differs least from what it says: behind
that the base has what the developer has not taken over yet. What comes later supersedes what stands
above, as in any pack, so that the whole tells the developer's tree and never the base's.

The base goes on, and what an overlay says stays true, since it is about the developer's tree alone.
What it no longer shares is kept in the cache for it alone, though. So it is laid over the base anew
when that frees at least as many tokens as it computes.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from infbox.packing import layout
from infbox.packing.pack import DUE_SHARE, SUPERSEDED_SHARE, Kind, Pack, common_length
from infbox.watching.edit_frequency import cooled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from infbox.packing.layout import Tree
    from infbox.packing.pack import Entry
    from infbox.packing.tokens import Tokenizer
    from infbox.watching.index import Reader

MIN_SPACE = 0.003
"""Of the space: with less than that left, no further file is looked at."""

LOOK_SHARE = 0.01
"""Of the budget: once it did not pay to lay an overlay anew, so much must have come or gone before
that is looked at again. A look takes as long as a new generation."""

_FROZEN = frozenset({Kind.INTRO, Kind.MAP, Kind.BASE})


@dataclass(frozen=True)
class Base:
    """A base as it is now.

    Attributes:
        entries: of its pack.
        digests: of all files of its tree, by path.
    """

    entries: Sequence[Entry]
    digests: Mapping[str, str]


class BaseWorkspace:
    """The workspace that an overlay is laid over, as the overlay's packer sees it.

    Args:
        name: of the base.
        published: returns the entries of its published pack; none as long as there is no pack.
        index: what is known of its files, for this alone.
        root: of its tree.
        erased: returns the texts that were erased from its packs: path, and digest of the content.
    """

    def __init__(
        self,
        name: str,
        published: Callable[[], Sequence[Entry]],
        index: Reader,
        root: Path,
        erased: Callable[[], frozenset[tuple[str, str]]] = frozenset,
    ) -> None:
        self.name = name
        self.root = root
        self.erased = erased
        self._published = published
        self._index = index
        self._seen: tuple[int, int, int] | None = None

    @property
    def is_there(self) -> bool:
        """Whether it has a pack."""
        return bool(self._published())

    def now(self) -> Base | None:
        """Return what an overlay is laid over now; None where that cannot be known at present."""
        entries = self._published()
        try:
            digests = {file.path: file.digest for file in self._index.kept()}
        except sqlite3.Error:
            return None
        return Base(entries, digests) if entries else None

    def heats(self) -> dict[str, float]:
        """Return how often and lately its files were edited, as far as that can be known at
        present: a tree that was only copied has no history of its own."""
        try:
            last = self._index.last_edit()
            return {f.path: cooled(f.heat, last - f.edit) for f in self._index.kept()}
        except sqlite3.Error:
            return {}

    def shared(self, pack: Pack) -> int:
        """Return how many tokens a pack shares with the base's as that is now."""
        return sum(entry.tokens for entry in pack.entries[: self._length(pack)])

    def is_due(self, pack: Pack) -> bool:
        """Say whether an overlay's pack must be laid anew: what it shares does not count as
        superseded, since to lay it anew would not take that away."""
        superseded = pack.superseded_after(self._length(pack)) if self.is_there else 0
        too_large = pack.tokens > pack.budget * DUE_SHARE
        return too_large or superseded > pack.budget * SUPERSEDED_SHARE

    def may_pay(self, pack: Pack) -> bool:
        """Say whether it may pay to lay an overlay's pack anew: most of what it does not share is
        about files that are the same in the base by now."""
        length = self._length(pack)
        own = pack.entries[length:]
        look = (length, sum(entry.tokens for entry in self._published()), pack.tokens)
        if not own or not self.is_there or self._is_like_the_last(look, pack.budget):
            return False
        try:
            digests = self._index.digests({entry.path for entry in own})
        except sqlite3.Error:
            return False
        same = sum(e.tokens for e in own if digests.get(e.path, "") == pack.stands(e.path))
        if 2 * same < sum(entry.tokens for entry in own):
            return False
        self._seen = look
        return True

    def pays(self, pack: Pack, anew: Pack) -> bool:
        """Say whether a pack that was laid anew frees at least as many tokens as it computes."""
        return 2 * (anew.tokens - self.shared(anew)) <= pack.tokens - self.shared(pack)

    def close(self) -> None:
        """Close what was opened."""
        self._index.close()

    def _length(self, pack: Pack) -> int:
        return common_length(pack.entries, self._published())

    def _is_like_the_last(self, look: tuple[int, int, int], budget: int) -> bool:
        if self._seen is None or self._seen[0] != look[0]:
            return False
        moved = sum(abs(a - b) for a, b in zip(self._seen, look, strict=True))
        return moved < budget * LOOK_SHARE


def laid(base: Base, tree: Tree, budget: int, tokenizer: Tokenizer) -> Pack:
    """Make the pack of a tree over a base.

    What differs in files that the base's pack is about always enters; then of the others, while
    there is space, those that are worth most. Where it does not fit, the pack shares as much of the
    base's as pays for a generation, which may be nothing.

    Args:
        base: as it is now.
        tree: the developer's, as it is now.
        budget: of the whole pack, in tokens.
        tokenizer: counts tokens.
    """
    space = int(budget * max(layout.FILLS))
    whole = _settled(_forked(base, tree, budget, tokenizer), tree)
    if whole.tokens <= space:
        _add_differing(whole, base, tree, space)
        return whole
    part = _settled(layout.following(Pack(base.entries, budget, tokenizer), tree, 0), tree)
    return part if part.tokens <= budget * DUE_SHARE else layout.first(tree, budget, tokenizer)


def _forked(base: Base, tree: Tree, budget: int, tokenizer: Tokenizer) -> Pack:
    """Return the base's pack up to where the tree differs least from it."""
    frozen = 1 + max((n for n, e in enumerate(base.entries) if e.kind in _FROZEN), default=-1)
    pack = Pack(base.entries[:frozen], budget, tokenizer)
    told = _told(pack.entries)
    best, minimum, differing = frozen, 0, 0
    for length, entry in enumerate(base.entries[frozen:], start=frozen + 1):
        paths = _told([entry])
        before = _differing(pack, tree, paths & told)
        pack.append(entry)
        told |= paths
        differing += (_differing(pack, tree, paths) - before) * entry.tokens
        if differing <= minimum:
            best, minimum = length, differing
    return pack.until(best)


def _differing(pack: Pack, tree: Tree, paths: Iterable[str]) -> int:
    """Return how many of the paths stand in a pack with another content than in the tree."""
    return sum(pack.stands(path) != tree.digests.get(path, "") for path in paths)


def _told(entries: Iterable[Entry]) -> set[str]:
    """Return the paths that entries are about."""
    return {path for entry in entries for path in (entry.path, entry.old_path) if path}


def _settled(pack: Pack, tree: Tree) -> Pack:
    """Bring all that a pack tells up to the tree, and return it.

    What it shows of a file is the base's. So one that cannot be read just now does not stay as it
    is, as in a pack of one's own; and one that the base has no more, and the tree has, is told.
    """
    layout.settle(pack, tree.digests, tree.read, tree.committed)
    for path, shown in sorted(pack.shown.items()):
        if shown.entry.digest != tree.digests[path] and tree.read(path) is None:
            pack.remove(path)
    for path in sorted(_told(pack.entries) & tree.digests.keys()):
        source = None if pack.stands(path) else tree.read(path)
        if source:
            pack.save(path, source, committed=partial(tree.committed, path))
    return pack


def _add_differing(pack: Pack, base: Base, tree: Tree, space: int) -> None:
    """Add what differs in files that a pack tells nothing of, those last that are edited most."""
    told = _told(pack.entries)
    there = told | tree.digests.keys()
    gone = {digest for path, digest in base.digests.items() if path not in there}
    min_worth = layout.min_worth(pack, tree)
    chosen: list[Entry] = []
    heats: dict[str, float] = {}
    for candidate in tree.candidates:
        path, digest = candidate.path, candidate.digest
        was = base.digests.get(path)
        left = space - pack.tokens - sum(entry.tokens for entry in chosen)
        if left < space * MIN_SPACE:
            break
        if path in told or was == digest or (was is None and digest in gone):
            continue  # the last was moved, and is not shown
        source = tree.read(path)
        if source is None or source.digest != digest:
            continue
        entry = pack.entrance(
            path, source, tree.committed(path), is_worth_space=candidate.worth >= min_worth
        )
        if entry.tokens <= left:
            chosen.append(entry)
            heats[path] = candidate.heat
    for entry in sorted(chosen, key=lambda e: (heats[e.path], e.path)):
        pack.append(entry)
