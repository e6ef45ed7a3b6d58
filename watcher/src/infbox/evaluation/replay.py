"""Replaying a git history: what each way to make a pack would have had the engine compute.

The work tree is never looked at. Each file that a commit changes counts as one save. What a save
costs are the tokens of the new pack after the longest common beginning with the one before, in
whole sections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infbox.evaluation.history import History
from infbox.evaluation.policies import Policy, Remembering, policies_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from infbox.packing.tokens import Tokenizer


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
        policies = policies_at(history, start, budget, remembering)
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


def _mean(values: Sequence[int]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0


def _percentile(values: Iterable[int], share: float) -> int:
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0
