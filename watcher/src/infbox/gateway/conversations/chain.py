"""A conversation's name: a chain of hashes over its messages.

Each message's hash is of all messages up to it, in a canonical form: whatever clients vary between
turns without a meaning for the model is left out. So the longest known beginning of a request is
found by the last hash that is known.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_64_intdigest, xxh3_128

from infbox.gateway.conversations.forms import TEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infbox.gateway.conversations.forms import Item

_IGNORED = frozenset(
    {
        "cache_control",  # marks of Anthropic's, which move on with each turn
        *("id", "call_id", "tool_call_id", "tool_use_id", "index"),  # some clients make them anew
        *("status", "annotations", "logprobs", "refusal", "audio", "function_call"),
        *("prompt_cache_breakpoint", "phase"),
    }
)
_EXACT = frozenset({"input", "arguments", "parameters"})
"""What a tool is called with: there any name may have a meaning."""

_CONTENTS = frozenset({"content", "output"})


def hashes(seed: str, items: Sequence[Item]) -> list[bytes]:
    """Return a hash for each message, of it and of all before it.

    Args:
        seed: whose conversations these are, and about what: those of others have other hashes.
        items: the messages.

    Raises:
        RecursionError: one is nested too deeply.
    """
    hasher = xxh3_128(seed.encode())
    found = []
    for item in items:
        feed: list[bytes] = []
        _feed(feed, item)
        hasher.update(b"".join(feed))
        found.append(hasher.digest())
    return found


def digest(value: object) -> int:
    """Return a number of 63 bits for a value of JSON, in the form of the chain.

    Raises:
        RecursionError: it is nested too deeply.
    """
    feed: list[bytes] = []
    _feed(feed, value)
    return xxh3_64_intdigest(b"".join(feed)) >> 1


def digest_of_tools(tools: object) -> int:
    """Return the same for tools, whose order matters; fast, for there may be 64 kB of them.

    Raises:
        RecursionError: one is nested too deeply.
    """
    if isinstance(tools, list):
        tools = [_without_marks(tool) for tool in tools]
    return xxh3_64_intdigest(json.dumps(tools, ensure_ascii=False).encode(errors="replace")) >> 1


def _without_marks(tool: object) -> object:
    if not isinstance(tool, dict) or "cache_control" not in tool:
        return tool
    return {name: value for name, value in tool.items() if name != "cache_control"}


def _feed(feed: list[bytes], value: Any) -> None:
    """Add the canonical form of a value."""
    if isinstance(value, str):
        _feed_text(feed, value)
    elif isinstance(value, dict):
        _feed_object(feed, value)
    elif isinstance(value, list):
        feed.append(b"[")
        for one in value:
            _feed(feed, one)
        feed.append(b"]")
    else:
        feed.append(b"=%s;" % repr(value).encode())


def _feed_object(feed: list[bytes], value: dict[str, Any]) -> None:
    feed.append(b"{")
    for name in sorted(value):
        own = value[name]
        if name in _EXACT:
            _feed_text(feed, name)
            _feed_exact(feed, own)
            continue
        if name in _IGNORED or not (own or own == 0) or own is False:
            continue
        if name == "type":
            if own == "message":
                continue
            own = "text" if own in TEXTS else own
        elif name in _CONTENTS:
            own = _one_text(own)
        _feed_text(feed, name)
        _feed(feed, own)
    feed.append(b"}")


def _feed_exact(feed: list[bytes], value: object) -> None:
    _feed_text(feed, json.dumps(value, ensure_ascii=False, sort_keys=True))


def _feed_text(feed: list[bytes], text: str) -> None:
    encoded = text.encode("utf-8", "surrogatepass")
    feed.append(b"%d:" % len(encoded))
    feed.append(encoded)


def _one_text(content: object) -> object:
    """Return the text of what is one part of text, as clients write the same text either way."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        only = content[0]
        if only.get("type") in TEXTS and isinstance(only.get("text"), str):
            return only["text"]
    return content
