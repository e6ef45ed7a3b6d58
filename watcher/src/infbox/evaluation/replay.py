"""Replaying a git history: what each way to make a pack would have had the engine compute.

The work tree is never looked at. Each file that a commit changes counts as one save. What a save
costs are the tokens of the new pack after the longest common beginning with the one before, in
whole sections.
"""

from __future__ import annotations

import bisect
import itertools
import math
import os
import subprocess
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, Protocol

from infbox.errors import GitError, InputError
from infbox.packing import context, layout, rank
from infbox.packing.context import Centre, KnownImports
from infbox.packing.pack import Kind, Pack, common_length
from infbox.packing.tokens import BYTES_PER_TOKEN
from infbox.tree import git
from infbox.tree.rules import Rules, as_utf8
from infbox.watching import edit_frequency

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from infbox.packing.pack import Entry
    from infbox.packing.tokens import Tokenizer

_PLAIN_MODES = frozenset({b"100644", b"100755"})
_FULL_ENOUGH = 0.01  # of the budget: with less room than that, no further file is tried
_REMEMBERED_COUNTS = 20_000
_SKIP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    """A file's content; ``digest`` is git's name for it."""

    digest: str
    text: str
    size: int


@dataclass(frozen=True, slots=True)
class Save:
    """What a commit did to a file: None stands for no file, or one that may not be shown."""

    path: str
    old: Blob | None
    new: Blob | None


class History:
    """The commits of a repository, and the files in them that may enter a prompt.

    Args:
        repository: a folder in it.

    Raises:
        InputError: the folder is in no repository.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._rules = Rules()
        self._blobs: dict[bytes, Blob | None] = {}
        try:
            git.run(repository, "rev-parse", "--git-dir")
        except GitError as error:
            raise InputError(f"{repository}: {error}: give a git repository") from error
        self._reader = subprocess.Popen(
            git.command(repository, "cat-file", "--batch"),
            env=git.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.communicate()

    def steps(self, commits: int) -> list[tuple[str, str]]:
        """Return the last commits along first parents, oldest first, each after its parent.

        The first commit of all comes after the empty tree.

        Raises:
            InputError: there are no commits.
        """
        arguments = ["rev-list", "--first-parent", f"--max-count={commits + 1}", "HEAD"]
        try:
            found = git.run(self._repository, *arguments).decode().split()[::-1]
        except GitError as error:
            raise InputError(f"{self._repository}: {error}: commit something first") from error
        if len(found) <= commits:
            empty = git.run(self._repository, "hash-object", "-t", "tree", "--stdin").decode()
            found.insert(0, empty.strip())
        return list(itertools.pairwise(found))

    def files(self, commit: str) -> Iterator[tuple[str, Blob]]:
        """Yield the files of a commit."""
        for entry in _entries(git.run(self._repository, "ls-tree", "-r", "-z", commit)):
            about, _, path = entry.partition(b"\t")
            mode, _, name = about.split(b" ")
            blob = self._blob(mode, name, path)
            if blob:
                yield os.fsdecode(path), blob

    def saves(self, parent: str, commit: str) -> Iterator[Save]:
        """Yield what a commit changes, file by file."""
        changes = git.run(self._repository, "diff-tree", "-r", "-z", "--no-renames", parent, commit)
        entries = iter(_entries(changes))
        for about, path in zip(entries, entries, strict=True):
            old_mode, new_mode, old, new, _ = about.removeprefix(b":").split(b" ")
            save = Save(
                os.fsdecode(path),
                self._blob(old_mode, old, path),
                self._blob(new_mode, new, path),
            )
            if save.old or save.new:
                yield save

    def last_touched(self, commit: str) -> list[str]:
        """Return paths in the order in which commits up to this one touched them last."""
        log = git.run(
            self._repository, "log", "-z", "--name-only", "--no-renames", "--format=", commit
        )
        seen = dict.fromkeys(os.fsdecode(path).lstrip("\n") for path in _entries(log))
        return list(seen)[::-1]

    def heats(self, commit: str) -> dict[str, float]:
        """Return the heats of files at a commit."""
        return edit_frequency.heats_from_git(self._repository, commit)

    def _blob(self, mode: bytes, name: bytes, path: bytes) -> Blob | None:
        if mode not in _PLAIN_MODES or self._rules.by_name(os.fsdecode(path)):
            return None
        if name not in self._blobs:
            self._blobs[name] = self._read(name, os.fsdecode(path))
        return self._blobs[name]

    def _read(self, name: bytes, path: str) -> Blob | None:
        stdin, stdout = self._reader.stdin, self._reader.stdout
        if stdin is None or stdout is None:  # never so with pipes; the types cannot say it
            return None
        stdin.write(name + b"\n")
        stdin.flush()
        answer = stdout.readline().split()
        if answer[-1] == b"missing":  # as in a partial clone
            return None
        size = int(answer[2])
        if self._rules.by_size(size):
            _skip(stdout, size + 1)
            return None
        data = stdout.read(size + 1)[:-1]
        if self._rules.by_content(data, path):
            return None
        return Blob(name.decode(), as_utf8(data).decode(errors="replace"), size)


class Remembering:
    """A tokenizer that counts each text once.

    Args:
        tokenizer: counts tokens.
    """

    control: tuple[str, ...] = ()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name = tokenizer.name
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
        room = float(self._budget)
        chosen: list[Entry] = []
        for path in reversed(self._order) if self._recency else self._order:
            if room < self._budget * _FULL_ENOUGH:
                break
            blob = self._tree[path]
            if blob.size > room * BYTES_PER_TOKEN:
                continue
            entry = self._writer.whole(Kind.BASE, path, blob)
            if entry.tokens <= room:
                chosen.append(entry)
                room -= entry.tokens
        return chosen[::-1] if self._recency else chosen


class Log:
    """The pack as the watcher makes it.

    Args:
        tree: the files at the start.
        heats: of the files at the start.
        budget: in tokens.
        tokenizer: counts tokens.
    """

    def __init__(
        self, tree: dict[str, Blob], heats: dict[str, float], budget: int, tokenizer: Tokenizer
    ) -> None:
        self._tree = dict(tree)
        self._heats = {path: (heat, 0) for path, heat in heats.items()}
        self._clock = 0
        self._centre = Centre(KnownImports())
        self._central: dict[str, float] = {}
        self._tokenizer = tokenizer
        self._edited = 0.0
        now = self._now()
        self._pack = layout.first(now, budget, tokenizer)
        self._least_worth = layout.least_worth(self._pack, now)
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

    def tokens(self) -> int:
        """Return the size of the pack."""
        return self._pack.tokens

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
            is_worth_room=candidate.worth >= self._least_worth,
        )

    def _rebase(self) -> None:
        before = self._pack.entries
        now = self._now()
        self._pack = layout.following(self._pack, now, self._edited)
        cost = _recomputed(before, self._pack.entries)
        self._edited = layout.left_to_spend(self._edited, cost)
        self._least_worth = layout.least_worth(self._pack, now)
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
            draw_map=lambda rest, room: context.drawn_map(
                rest, self._tree.get, room, self._tokenizer
            ),
        )

    def _candidate(self, path: str, blob: Blob) -> rank.Candidate:
        heat, noted = self._heats.get(path, (0.0, 0))
        cooled = edit_frequency.cooled(heat, self._clock - noted)
        return rank.Candidate(path, blob.digest, blob.size, cooled, self._central.get(path, 0.0))


@dataclass
class Tally:
    """What was measured of one policy."""

    recomputed: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    found: int = 0

    def summary(self, policy: Policy) -> dict[str, float]:
        """Return it as numbers of tokens."""
        return {
            "recomputed_mean": _mean(self.recomputed),
            "recomputed_p50": _percentile(self.recomputed, 0.50),
            "recomputed_p99": _percentile(self.recomputed, 0.99),
            "pack_mean": _mean(self.sizes),
            "rebases": policy.rebases,
        }


def replay(repository: Path, commits: int, budget: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Replay the last commits of what is checked out.

    Args:
        repository: a git repository; its work tree is not looked at.
        commits: how many, along first parents; a shorter history is replayed whole.
        budget: of a pack, in tokens.
        tokenizer: counts tokens.

    Returns:
        ``saves``, ``edited_mean`` (tokens of the saved files themselves), ``policies`` with what
        each save had the engine compute, rebases counted in, and ``recall``: the share of the
        existing files that a commit touches which stood in full in the pack just before it.

    Raises:
        InputError: the folder is in no repository, or that has no commits.
    """
    remembering = Remembering(tokenizer)
    with History(repository) as history:
        steps = history.steps(commits)
        start = steps[0][0]
        policies = _policies(history, start, budget, remembering)
        tallies = {name: Tally() for name in policies}
        edited: list[int] = []
        touched = 0
        for parent, commit in steps:
            saves = list(history.saves(parent, commit))
            existing = [(save.path, save.old) for save in saves if save.old]
            touched += len(existing)
            for name, policy in policies.items():
                tallies[name].found += sum(policy.holds(path, blob) for path, blob in existing)
            for save in saves:
                edited.append(remembering.count(save.new.text) if save.new else 0)
                for name, policy in policies.items():
                    tallies[name].recomputed.append(policy.take(save))
                    tallies[name].sizes.append(policy.tokens())
    recall = {name: round(tally.found / max(touched, 1), 4) for name, tally in tallies.items()}
    return {
        "saves": len(edited),
        "edited_mean": _mean(edited),
        "policies": {name: tallies[name].summary(policy) for name, policy in policies.items()},
        "recall": {"pack": recall["log"], "path": recall["path"], "recent": recall["recency"]},
    }


def _policies(history: History, start: str, budget: int, tokenizer: Tokenizer) -> dict[str, Policy]:
    tree = dict(history.files(start))
    by_name = sorted(tree)
    seen = [path for path in history.last_touched(start) if path in tree]
    by_age = sorted(tree.keys() - set(seen)) + seen
    heats = history.heats(start)
    return {
        "path": Ordered(tree, by_name, recency=False, budget=budget, tokenizer=tokenizer),
        "recency": Ordered(tree, by_age, recency=True, budget=budget, tokenizer=tokenizer),
        "log": Log(tree, heats, budget, tokenizer),
    }


def _recomputed(before: Sequence[Entry], after: Sequence[Entry]) -> int:
    return sum(entry.tokens for entry in after[common_length(before, after) :])


def _entries(answer: bytes) -> list[bytes]:
    return answer.split(b"\0")[:-1]


def _skip(stream: IO[bytes], size: int) -> None:
    """Read so many bytes and keep none."""
    while size > 0 and (part := stream.read(min(size, _SKIP_BYTES))):
        size -= len(part)


def _mean(values: Sequence[int]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0


def _percentile(values: Iterable[int], share: float) -> int:
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0
