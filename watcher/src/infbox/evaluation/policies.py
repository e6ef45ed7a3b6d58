"""Ways to make a pack, each following the saves of a history."""

from __future__ import annotations

import bisect
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from infbox.kinds import PACK_WEIGHTS, kind_of
from infbox.packing import context, layout, rank
from infbox.packing.context import Centre, KnownImports
from infbox.packing.pack import Kind, Pack, common_length
from infbox.packing.tokens import BYTES_PER_TOKEN
from infbox.watching import edit_frequency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from infbox.evaluation.history import Blob, History, Save
    from infbox.kinds import KindWeights
    from infbox.packing.pack import Entry
    from infbox.packing.tokens import Tokenizer

_FULL_ENOUGH = 0.01  # of the budget: with less space than that, no further file is tried
_REMEMBERED_COUNTS = 20_000
_ALL = (1, 1 << 30)  # lines of a file
_NEW = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


class Remembering:
    """A tokenizer that counts each text once.

    Args:
        tokenizer: counts tokens.
    """

    control: tuple[str, ...] = ()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name, self.most_chars = tokenizer.name, tokenizer.most_chars
        self._count = lru_cache(_REMEMBERED_COUNTS)(tokenizer.count)

    def count(self, text: str) -> int:
        """Return how many tokens the text has."""
        return self._count(text)

    def ids(self, text: str) -> None:
        """Return None: only the number counts here."""


class Policy(Protocol):
    """A way to make a pack, following the saves."""

    rebases: int

    def take(self, save: Save) -> int:
        """Take in a save; return the tokens that the engine has to compute."""

    def holds(self, path: str, blob: Blob) -> bool:
        """Say whether the pack shows this content in full."""

    def tokens(self) -> int:
        """Return the size of the pack."""


class Ordered:
    """The files in some order, as many as fit, laid out anew with each save.

    Args:
        tree: the files at the start.
        order: their paths, in the order of the pack; without ``recency`` that of their names.
        recency: whether a saved file moves to the end, and the files at the end are chosen first.
        budget: in tokens.
        tokenizer: counts tokens.
    """

    def __init__(
        self,
        tree: dict[str, Blob],
        order: list[str],
        *,
        recency: bool,
        budget: int,
        tokenizer: Tokenizer,
    ) -> None:
        self._tree = dict(tree)
        self._order = order
        self._recency = recency
        self._budget = budget
        self._writer = Pack([], budget, tokenizer)
        self._sections = self._chosen()
        self.rebases = 0

    def take(self, save: Save) -> int:
        """Take in a save; return the tokens that the engine has to compute."""
        self._move(save)
        if save.new:
            self._tree[save.path] = save.new
        before, self._sections = self._sections, self._chosen()
        return _recomputed(before, self._sections)

    def holds(self, path: str, blob: Blob) -> bool:
        """Say whether the pack shows this content in full."""
        return any(entry.path == path and entry.digest == blob.digest for entry in self._sections)

    def lines(self, path: str, blob: Blob) -> list[tuple[int, int]]:
        """Return which lines of this content the pack shows."""
        return [_ALL] if self.holds(path, blob) else []

    def tokens(self) -> int:
        """Return the size of the pack."""
        return sum(entry.tokens for entry in self._sections)

    def _move(self, save: Save) -> None:
        """Bring the order up to date."""
        known = self._tree.pop(save.path, None)
        if known and (self._recency or not save.new):
            self._order.remove(save.path)
        if save.new and self._recency:
            self._order.append(save.path)
        elif save.new and not known:
            bisect.insort(self._order, save.path)

    def _chosen(self) -> list[Entry]:
        space = float(self._budget)
        chosen: list[Entry] = []
        for path in reversed(self._order) if self._recency else self._order:
            if space < self._budget * _FULL_ENOUGH:
                break
            blob = self._tree[path]
            if blob.size > space * BYTES_PER_TOKEN:
                continue
            entry = self._writer.whole(Kind.BASE, path, blob)
            if entry.tokens <= space:
                chosen.append(entry)
                space -= entry.tokens
        return chosen[::-1] if self._recency else chosen


class Log:
    """The pack as the watcher makes it.

    Args:
        tree: the files at the start.
        heats: of the files at the start.
        budget: in tokens.
        tokenizer: counts tokens.
        weights: what edits are worth, by the kind of their file.
    """

    def __init__(
        self,
        tree: dict[str, Blob],
        heats: dict[str, float],
        budget: int,
        tokenizer: Tokenizer,
        weights: KindWeights = PACK_WEIGHTS,
    ) -> None:
        self._weights = weights
        self._tree = dict(tree)
        self._heats = {path: (heat, 0) for path, heat in heats.items()}
        self._clock = 0
        self._centre = Centre(KnownImports())
        self._central: dict[str, float] = {}
        self._tokenizer = tokenizer
        self._edited = 0.0
        now = self._now()
        self._pack = layout.first(now, budget, tokenizer)
        self._min_worth = layout.min_worth(self._pack, now)
        self.rebases = 0

    def take(self, save: Save) -> int:
        """Take in a save; return the tokens that the engine has to compute."""
        before = tuple(self._pack.entries)
        if save.new:
            self._save(save.path, save.new, save.old)
        else:
            del self._tree[save.path]
            self._pack.remove(save.path)
        if self._pack.is_due:
            self._rebase()
        return _recomputed(before, self._pack.entries)

    def holds(self, path: str, blob: Blob) -> bool:
        """Say whether the pack shows this content in full."""
        return self._pack.holds(path, blob.digest)

    def lines(self, path: str, blob: Blob) -> list[tuple[int, int]]:
        """Return which lines of this content the pack shows, from 1, the last one included."""
        shown = self._pack.shown.get(path)
        if shown is None or shown.entry.digest != blob.digest:
            return []
        if shown.in_full:
            return [_ALL]
        starts = [
            (int(start), int(length or 1)) for start, length in _NEW.findall(shown.entry.text)
        ]
        return [(start, start + length - 1) for start, length in starts]

    def tokens(self) -> int:
        """Return the size of the pack."""
        return self._pack.tokens

    def text(self) -> str:
        """Return the pack."""
        return self._pack.text

    def heat(self, path: str) -> float:
        """Return how often and how lately a file was edited."""
        heat, noted = self._heats.get(path, (0.0, 0))
        return edit_frequency.cooled(heat, self._clock - noted)

    def _save(self, path: str, new: Blob, old: Blob | None) -> None:
        self._clock += 1
        heat, noted = self._heats.get(path, (0.0, 0))
        self._heats[path] = edit_frequency.bumped(heat, self._clock - noted), self._clock
        self._tree[path] = new
        candidate = self._candidate(path, new)
        self._edited += candidate.tokens
        self._pack.save(
            path,
            new,
            committed=lambda: old.text if old else None,
            is_worth_space=candidate.worth >= self._min_worth,
        )

    def _rebase(self) -> None:
        before = self._pack.entries
        now = self._now()
        self._pack = layout.following(self._pack, now, self._edited)
        cost = _recomputed(before, self._pack.entries)
        self._edited = layout.left_to_spend(self._edited, cost)
        self._min_worth = layout.min_worth(self._pack, now)
        self.rebases += 1

    def _now(self) -> layout.Tree:
        digests = {path: blob.digest for path, blob in self._tree.items()}
        self._central = self._centre.centralities(digests, self._tree.get)
        candidates = (self._candidate(path, blob) for path, blob in self._tree.items())
        return layout.Tree(
            name="replay",
            candidates=rank.ranked(candidates),
            read=self._tree.get,
            committed=lambda _: None,
            draw_map=lambda rest, space: context.drawn_map(
                rest, self._tree.get, space, self._tokenizer
            ),
        )

    def _candidate(self, path: str, blob: Blob) -> rank.Candidate:
        central = self._central.get(path, 0.0)
        weight = self._weights[kind_of(path)]
        return rank.Candidate(path, blob.digest, blob.size, self.heat(path), central, weight)


def by_age(history: History, start: str, tree: Mapping[str, Blob]) -> list[str]:
    """Return the paths of a commit's tree, those that were touched last at the end."""
    seen = [path for path in history.last_touched(start) if path in tree]
    return sorted(tree.keys() - set(seen)) + seen


def policies_at(
    history: History, start: str, budget: int, tokenizer: Tokenizer
) -> dict[str, Policy]:
    """Return the ways to make a pack as they stand at a commit, by name."""
    tree = dict(history.files(start))
    by_name = sorted(tree)
    heats = history.heats(start)
    return {
        "path": Ordered(tree, by_name, recency=False, budget=budget, tokenizer=tokenizer),
        "recency": Ordered(
            tree, by_age(history, start, tree), recency=True, budget=budget, tokenizer=tokenizer
        ),
        "log": Log(tree, heats, budget, tokenizer),
    }


def _recomputed(before: Sequence[Entry], after: Sequence[Entry]) -> int:
    return sum(entry.tokens for entry in after[common_length(before, after) :])
