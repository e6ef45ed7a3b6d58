"""Blocks of system prompts that change with each request and mean nothing to a model.

A system prompt stands before the conversation, so one such line has the engine compute all of it
anew. Only what is known to carry no meaning is taken out, by this table.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from infbox.gateway.conversations import forms

if TYPE_CHECKING:
    from infbox.gateway.conversations.forms import Request


class Volatile(NamedTuple):
    """A kind of block.

    Attributes:
        name: of the kind.
        pattern: matches it at the beginning of a text.
    """

    name: str
    pattern: re.Pattern[str]


TABLE = (
    # Claude Code's first system block, with a hash of the request. vLLM takes it out of the blocks
    # of Anthropic's API (entrypoints/anthropic/serving.py), not of a system prompt that is one
    # text, nor of a chat.
    Volatile("claude-code-billing", re.compile(r"x-anthropic-billing-header:[^\n]*\n*")),
)


def without(path: str, request: Request) -> Request:
    """Return a request without the blocks of the table.

    Args:
        path: of the API.
        request: it is not changed.
    """
    if path in (forms.MESSAGES, forms.COUNT):
        return _with(request, "system", _stripped(request.get("system")))
    if path == forms.RESPONSES:
        request = _with(request, "instructions", _stripped(request.get("instructions")))
        return _with(request, "input", _of_items(request.get("input")))
    if path == forms.CHAT:
        return _with(request, "messages", _of_items(request.get("messages")))
    return request


def _with(request: Request, name: str, value: object) -> Request:
    return request if value is request.get(name) else {**request, name: value}


def _of_items(items: Any) -> Any:
    """Return messages with the first one's content stripped, where it is a system message."""
    first = items[0] if isinstance(items, list) and items else None
    if not isinstance(first, dict) or first.get("role") not in ("system", "developer"):
        return items
    content = first.get("content")
    stripped = _stripped(content)
    return items if stripped is content else [{**first, "content": stripped}, *items[1:]]


def _stripped(content: Any) -> Any:
    """Return a text, or blocks of text, without what the table has; the same object where it has
    nothing."""
    if isinstance(content, str):
        return _without_lines(content)
    if not isinstance(content, list):
        return content
    kept = [block for block in (_block(one) for one in content) if block is not None]
    is_same = len(kept) == len(content) and all(a is b for a, b in zip(kept, content, strict=True))
    return content if is_same else kept


def _block(block: Any) -> Any:
    text = block.get("text") if isinstance(block, dict) else None
    if not isinstance(text, str):
        return block
    stripped = _without_lines(text)
    if stripped is text:
        return block
    return {**block, "text": stripped} if stripped else None


def _without_lines(text: str) -> str:
    for kind in TABLE:
        found = kind.pattern.match(text)
        if found:
            text = text[found.end() :]
    return text
