"""How conversations fared in the last hour, for the status; in memory and in bounds."""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from infbox.gateway.conversations.deciding import Turn
    from infbox.metrics import Usage

SECONDS = 3600.0
_MOST_TURNS = 1000  # of a workspace


class _Turn(NamedTuple):
    """A turn: when, of which conversation, what share of its prompt was cached, what it was
    told."""

    at: float
    conversation: int
    cached: float | None
    told: int


class Summary:
    """Of the last hour.

    Args:
        clock: seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turns: dict[str, deque[_Turn]] = {}

    def note(self, workspace: str, turn: Turn, usage: Usage | None) -> None:
        """Note a turn that was answered.

        Args:
            workspace: that it named.
            turn: how it went out.
            usage: of it; None where the answer does not tell.
        """
        if turn.root is None:
            return
        cached = None
        if usage and usage.cached is not None and usage.prompt:
            cached = usage.cached / usage.prompt
        turns = self._turns.setdefault(workspace, deque(maxlen=_MOST_TURNS))
        turns.append(_Turn(self._clock(), turn.root, cached, turn.note_tokens))

    def of(self, workspace: str) -> dict[str, Any]:
        """Return how many conversations a workspace had, the median of what share of a prompt was
        in the cache, and how many tokens of changes were told."""
        since = self._clock() - SECONDS
        turns = [turn for turn in self._turns.get(workspace, ()) if turn.at >= since]
        shares = [turn.cached for turn in turns if turn.cached is not None]
        return {
            "count": len({turn.conversation for turn in turns}),
            "turns": len(turns),
            "cached_median": median(shares) if shares else None,
            "told_tokens": sum(turn.told for turn in turns),
        }
