"""The next generation of a pack: how much of the present one it keeps, and what comes after.

A log-structured file system cleans segments by cost and benefit (Rosenblum and Ousterhout, ACM
TOCS 10(1), 1992); so does this. What stands before a *cut* is kept as it is, and its KV with it.
After it come the files that are worth most, coldest first, so that what will change soon stands
last and the next cut can be late; then what has changed in the files before the cut. Cuts and
amounts of space left free are compared by what has to be computed for each token of space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from statistics import median
from typing import TYPE_CHECKING

from infbox.packing.pack import DUE_SHARE, Kind, Pack, Source, introduction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from infbox.packing.pack import Entry, Shown
    from infbox.packing.rank import Candidate
    from infbox.packing.tokens import Tokenizer

CUTS = 24
"""Places at which the pack may be cut, spread over its entries."""

FILLS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Shares of the budget that a new generation may fill; the rest is space for its tail."""

MIN_SPACE = 0.05
"""Of the budget, left free by any generation."""

VALUE_SHARE = 0.97
"""Of the best value in reach: cheaper layouts must show at least so much."""

MIN_VALUE_SHARE = 0.8
"""Of the best value of all: what any generation shows, whatever it costs."""

SPEND_SHARE = 0.5
"""Of the tokens of the files that were edited: a generation costs no more, where one can be had."""

MAP_SHARE = 0.02
"""Of the budget, for the map of what is not shown in full."""

EXCERPTS_SHARE = 0.01
"""Of the budget, for excerpts that are carried over, newest first."""

_ENTRY_TOKENS = 12  # of an entry that only tells that a file is gone
_REQUEST_TOKENS = 200  # what another generation costs beside its tokens
_FULL_ENOUGH = 0.003  # of the budget: with less space than that, no further file is tried

_REACH = 4.0  # times the budget: candidates beyond that need not be looked at


@dataclass(frozen=True)
class Tree:
    """The source tree as it is now.

    Attributes:
        name: of the workspace.
        candidates: the files that may be shown, those first that are worth most.
        read: returns a file's content, or None when it is gone or may not be shown.
        committed: returns a file's text in the last commit, or None.
        draw_map: returns a map of files that are not shown, of at most so many tokens.
    """

    name: str
    candidates: Sequence[Candidate]
    read: Callable[[str], Source | None]
    committed: Callable[[str], str | None]
    draw_map: Callable[[Sequence[Candidate], int], str]

    @cached_property
    def by_path(self) -> dict[str, Candidate]:
        """The candidates by their paths."""
        return {candidate.path: candidate for candidate in self.candidates}

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digests of the candidates by their paths."""
        return {candidate.path: candidate.digest for candidate in self.candidates}


@dataclass(frozen=True, order=True)
class Plan:
    """A way to make the next generation.

    Attributes:
        price: tokens to compute for each token of space.
        cut: entries that are kept.
        fill: share of the budget to fill.
        cost: tokens to compute.
        value: of all that is shown in full.
    """

    price: float
    cut: int
    fill: float
    cost: float
    value: float


def first(tree: Tree, budget: int, tokenizer: Tokenizer) -> Pack:
    """Make a pack from nothing."""
    pack = Pack([], budget, tokenizer)
    best = _affordable(_plans(pack, tree, cuts=[0]), float("inf"))
    return _laid(pack, tree, best)


def following(pack: Pack, tree: Tree, edited: float) -> Pack:
    """Make the generation that follows a pack.

    Args:
        pack: the present one; it is not changed.
        tree: as it is now.
        edited: tokens of the files that were edited, less what generations cost since.
    """
    plans = _plans(pack, tree, _cuts(pack))
    return _laid(pack, tree, _affordable(plans, edited * SPEND_SHARE))


def beginning(pack: Pack, cut: int, tree: Tree) -> Pack:
    """Make the generation that keeps no more than the first entries of a pack.

    Args:
        pack: the present one; it is not changed.
        cut: how many entries it may keep.
        tree: as it is now.
    """
    kept = pack.until(cut)
    if cut < max(pack.front, 1):
        return first(tree, pack.budget, pack.tokenizer)
    plans = _plans(kept, tree, [len(kept)]) or _plans(kept, tree, _cuts(kept))
    return _laid(kept, tree, _affordable(plans, float("inf")))


def left_to_spend(edited: float, cost: float) -> float:
    """Return what is left of the tokens of edited files once a generation was paid from them."""
    return max(edited - cost / SPEND_SHARE, 0.0)


def settle(
    pack: Pack,
    digests: Mapping[str, str],
    read: Callable[[str], Source | None],
    committed: Callable[[str], str | None],
) -> None:
    """Bring what a pack shows up to what the files are now.

    Args:
        pack: to change, at its end.
        digests: of the files that are there, at least of those that the pack shows.
        read: returns a file's content, or None.
        committed: returns a file's text in the last commit, or None.
    """
    take_absences(pack, digests)
    for path, shown in sorted(pack.shown.items()):
        source = read(path) if digests[path] != shown.entry.digest else None
        if source:
            pack.save(path, source, committed=partial(committed, path))


def take_absences(pack: Pack, digests: Mapping[str, str]) -> None:
    """Take in what files are gone: as renamed where a file that is not shown has their content.

    Args:
        pack: to change, at its end.
        digests: as for ``settle``.
    """
    shown = pack.shown
    gone = {path: s for path, s in sorted(shown.items()) if path not in digests}
    if not gone:
        return
    full = {s.entry.digest: path for path, s in gone.items() if s.in_full}
    for path, digest in sorted(digests.items()):
        if digest in full and path not in shown:
            pack.rename(full.pop(digest), path)
    for path in sorted(gone.keys() & pack.shown.keys()):
        pack.remove(path)


def min_worth(pack: Pack, tree: Tree) -> float:
    """Return the worth at which a file may enter in full between generations: the median of those
    that are shown in full."""
    by_path = tree.by_path
    shown = (by_path.get(path) for path, s in pack.shown.items() if s.in_full)
    return median([c.worth for c in shown if c] or [0.0])


def _cuts(pack: Pack) -> list[int]:
    """Return lengths at which to cut: 0 makes all anew, the map included."""
    body = len(pack) - pack.front
    return [0, *sorted({pack.front + body * n // CUTS for n in range(1, CUTS)})]


def _affordable(plans: Sequence[Plan], spend: float) -> Plan:
    """Return the plan with the least price among those that show nearly the most of what can be
    paid for; where nothing can, of those that show most of what is worth it."""
    best = max(plan.value for plan in plans)
    decent = [plan for plan in plans if plan.value >= best * MIN_VALUE_SHARE]
    able = [plan for plan in decent if plan.cost <= spend]
    if not able:
        return min(decent)
    best = max(plan.value for plan in able)
    return min(plan for plan in able if plan.value >= best * VALUE_SHARE)


def _plans(pack: Pack, tree: Tree, cuts: Iterable[int]) -> list[Plan]:
    by_path = tree.by_path
    candidates = _within_reach(tree.candidates, pack.budget)
    plans: list[Plan] = []
    for cut in cuts:
        kept = pack.until(cut)
        changes = _changes_after(pack, cut, kept.shown, by_path)
        in_full = {path for path, shown in kept.shown.items() if shown.in_full and path in by_path}
        value = sum(by_path[path].value for path in in_full)
        fixed = changes + (0.0 if cut else _front_tokens(candidates, pack))
        for fill in FILLS:
            space = pack.budget * fill - kept.tokens - fixed
            chosen = _chosen(candidates, in_full, space, pack.budget)
            cost = fixed + sum(c.tokens for c in chosen) + _REQUEST_TOKENS
            left = max(pack.budget * DUE_SHARE - kept.tokens - cost, 1.0)
            if left >= pack.budget * MIN_SPACE or (not cut and fill == FILLS[0]):
                total = value + sum(c.value for c in chosen)
                plans.append(Plan(cost / left, cut, fill, cost, total))
    return plans


def _front_tokens(candidates: Sequence[Candidate], pack: Pack) -> float:
    """Estimate the tokens of what is about no file: the introduction, and a map where it is of
    use."""
    introducing = pack.tokenizer.count(introduction(""))
    fits = sum(candidate.tokens for candidate in candidates) <= pack.budget * max(FILLS)
    return introducing if fits else introducing + pack.budget * MAP_SHARE


def _changes_after(
    pack: Pack, cut: int, kept: Mapping[str, Shown], by_path: Mapping[str, Candidate]
) -> float:
    """Estimate the tokens that say what became of the files before a cut."""
    later: dict[str, int] = {}
    for entry in pack.entries[cut:]:
        later[entry.path] = later.get(entry.path, 0) + entry.tokens
    total = 0.0
    for path, shown in kept.items():
        now = by_path.get(path)
        if now is None:
            total += _ENTRY_TOKENS
        elif now.digest != shown.entry.digest:
            total += min(later.get(path, now.tokens), now.tokens)
    return total


def _within_reach(candidates: Sequence[Candidate], budget: int) -> Sequence[Candidate]:
    """Return those of the best candidates that could be chosen at all, and some more."""
    total = 0.0
    for place, candidate in enumerate(candidates):
        total += candidate.tokens
        if total > budget * _REACH:
            return candidates[:place]
    return candidates


def _chosen(
    candidates: Sequence[Candidate], besides: set[str], space: float, budget: int
) -> list[Candidate]:
    """Return the best candidates that fit into the space."""
    chosen: list[Candidate] = []
    for candidate in candidates:
        if space < budget * _FULL_ENOUGH:
            break
        if candidate.tokens <= space and candidate.path not in besides:
            chosen.append(candidate)
            space -= candidate.tokens
    return chosen


def _laid(pack: Pack, tree: Tree, plan: Plan) -> Pack:
    """Carry a plan out."""
    new = pack.until(plan.cut)
    by_path = tree.by_path
    if not plan.cut:
        _add_front(new, tree, plan)
    in_full = {path for path, shown in new.shown.items() if shown.in_full and path in by_path}
    changes = _changes_after(pack, len(new), new.shown, by_path)
    space = pack.budget * plan.fill - new.tokens - changes
    chosen = _chosen(tree.candidates, in_full, space, pack.budget)
    for candidate in sorted(chosen, key=lambda c: (c.heat, c.path)):
        source = tree.read(candidate.path)
        if source and source.digest == candidate.digest:
            entry = new.whole(Kind.BASE, candidate.path, source)
            if new.tokens + entry.tokens <= pack.budget * max(FILLS):
                new.append(entry)
    settle(new, tree.digests, tree.read, tree.committed)
    _carry_excerpts(pack, new, by_path)
    return new


def _add_front(new: Pack, tree: Tree, plan: Plan) -> None:
    new.add_front(Kind.INTRO, introduction(tree.name))
    space = new.budget * plan.fill - new.tokens
    chosen = {c.path for c in _chosen(tree.candidates, set(), space, new.budget)}
    rest = [candidate for candidate in tree.candidates if candidate.path not in chosen]
    text = tree.draw_map(rest, int(new.budget * MAP_SHARE)) if rest else ""
    if text:
        new.add_front(Kind.MAP, text)


def _carry_excerpts(pack: Pack, new: Pack, by_path: Mapping[str, Candidate]) -> None:
    """Keep showing what was changed last in files that are not shown in full."""
    space = pack.budget * EXCERPTS_SHARE
    kept: list[Entry] = []
    for shown in reversed(pack.shown.values()):
        entry = shown.entry
        now = by_path.get(entry.path)
        if entry.kind is not Kind.EXCERPT or entry.path in new.shown or now is None:
            continue
        if entry.digest == now.digest and entry.tokens <= space:
            kept.append(entry)
            space -= entry.tokens
    for entry in reversed(kept):
        new.append(entry)
