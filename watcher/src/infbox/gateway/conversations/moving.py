"""When a conversation moves to the present pack.

To stay, the engine computes what is told; to move, all of the conversation behind the pack, for the
present pack is warm. What was told so far was computed already, but is a measure of what is still
to come: a conversation that moves once as much was told as moving computes never pays more than
twice the least.
"""

from __future__ import annotations

from typing import NamedTuple

IDLE_SECONDS = 8 * 3600
"""Without a turn for so long, the conversation's KV is taken to be gone, its pack's too: then to
move computes less. The present pack is warm."""

UNANSWERED_SECONDS = 3600
"""Since the last use of a beginning in which nothing was answered: for so long a conversation goes
on from it."""

MOST_SECONDS = 3 * 24 * 3600
"""Since a conversation has its pack."""

TOLD_SHARE = 0.5
"""Of the pack's tokens: with more told, what the model reads is no longer the tree, but its
corrections."""


class Standing(NamedTuple):
    """How a conversation stands at a user message.

    Attributes:
        own: tokens of the request without pack and notes, as estimated from bytes.
        told: tokens of all notes, with the one that would be told now.
        pack: tokens of the conversation's pack.
        idle: seconds since the last turn.
        age: seconds since the conversation has its pack.
    """

    own: int
    told: int
    pack: int
    idle: float
    age: float


def reason(standing: Standing) -> str:
    """Return why a conversation moves to the present pack, which is another one than its own, now;
    empty where it stays.

    Args:
        standing: how it stands.
    """
    if standing.idle > IDLE_SECONDS:
        return "idle"
    if standing.age > MOST_SECONDS:
        return "age"
    if standing.told >= standing.own:
        return "cheaper"
    if standing.told > standing.pack * TOLD_SHARE:
        return "told"
    return ""
