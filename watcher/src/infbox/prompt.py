"""How a pack enters a prompt: the one place that knows, for the warm-up and for questions alike.

The cache serves exact prefixes, so both must render to the same tokens as far as the pack goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SEPARATOR = "\n\n"
"""Between the pack and the client's own system text."""

Message = dict[str, Any]


def with_pack(pack: str, messages: list[Message]) -> list[Message]:
    """Return the messages with the pack as the first thing in the first system message.

    A system message whose content is a list of parts gets one more part in front. vLLM joins text
    parts by a newline, so the part ends in one and the whole reads as the plain text does.

    Args:
        pack: the pack's text.
        messages: of a chat, as the client sent them; they are not changed.
    """
    first = messages[0] if messages else {}
    if first.get("role") != "system":
        return [{"role": "system", "content": pack}, *messages]
    return [{**first, "content": _joined(pack, first.get("content"))}, *messages[1:]]


def _joined(pack: str, own: object) -> object:
    if isinstance(own, str):
        return f"{pack}{SEPARATOR}{own}" if own else pack
    if isinstance(own, list):
        return [{"type": "text", "text": f"{pack}\n"}, *own]
    return pack if own is None else own  # the engine says best what is wrong with it


def warm_up(tokens: Sequence[int], model: str, priority: int) -> dict[str, Any]:
    """Return the body of a completion that has the engine compute a prompt and little else.

    By token ids, so that the engine neither renders nor tokenises a long text each time.

    Args:
        tokens: ids of the prompt.
        model: the name the engine serves.
        priority: larger is served later.
    """
    return {
        "model": model,
        "prompt": list(tokens),
        "max_tokens": 1,
        "temperature": 0,
        "priority": priority,
    }
