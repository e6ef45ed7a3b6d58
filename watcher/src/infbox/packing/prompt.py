"""How a pack enters a prompt: the one place that knows, for the warm-up and for questions alike.

The cache serves exact prefixes, so both must render to the same tokens as far as the pack goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Sequence

SEPARATOR = "\n\n"
"""Between the pack and the client's own system text."""

Message = dict[str, Any]
Request = dict[str, Any]


class PromptError(ValueError):
    """A request that no pack can be put into; the message says why."""


def into_chat(pack: str, request: Request) -> Request:
    """Return a request to ``/v1/chat/completions`` with the pack in it.

    One that the engine will refuse comes back as it is, for the engine says best what is wrong.

    Args:
        pack: the pack's text.
        request: as the client sent it; it is not changed.
    """
    messages = request.get("messages")
    if not messages or not _are_objects(messages):
        return request
    return {**request, "messages": with_pack(pack, messages)}


def into_messages(pack: str, request: Request) -> Request:
    """Return a request to ``/v1/messages``, or to count its tokens, with the pack in it.

    vLLM makes one system message of ``system``, whose blocks it joins by nothing.

    Args:
        pack: the pack's text.
        request: as the client sent it; it is not changed.
    """
    own = request.get("system")
    if not request.get("messages"):
        return request
    if isinstance(own, list) and own:
        return {**request, "system": [{"type": "text", "text": f"{pack}{SEPARATOR}"}, *own]}
    if own is None or isinstance(own, str | list):
        return {**request, "system": _joined(pack, own or "")}
    return request


def into_responses(pack: str, request: Request) -> Request:
    """Return a request to ``/v1/responses`` with the pack in it.

    vLLM makes the first system message of ``instructions``, and repeats them in the answer, in a
    stream three times. So they go into the input, which it does not repeat.

    Args:
        pack: the pack's text.
        request: as the client sent it; it is not changed.
    """
    items, own = request.get("input"), request.get("instructions")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if not items or not _are_objects(items) or not (own is None or isinstance(own, str)):
        return request
    rest = {key: value for key, value in request.items() if key != "instructions"}
    if own:
        items = [{"role": "system", "content": own}, *items]
    return {**rest, "input": with_pack(pack, items, part="input_text")}


def into_completion(pack: str, request: Request) -> Request:
    """Return a request to ``/v1/completions`` with the pack in front of each prompt.

    Args:
        pack: the pack's text.
        request: as the client sent it; it is not changed.

    Raises:
        PromptError: the prompt is no text.
    """
    own = request.get("prompt")
    if isinstance(own, str):
        return {**request, "prompt": f"{pack}{SEPARATOR}{own}"}
    if isinstance(own, list) and own and all(isinstance(text, str) for text in own):
        return {**request, "prompt": [f"{pack}{SEPARATOR}{text}" for text in own]}
    raise PromptError(
        "`prompt` must be text, or a list of texts, where a workspace is named: a pack is text, "
        "and cannot be put in front of token ids or embeddings."
    )


def with_pack(pack: str, messages: list[Message], part: str = "text") -> list[Message]:
    """Return the messages with the pack as the first thing in the first system message.

    A system message whose content is a list of parts gets one more part in front. vLLM joins text
    parts by a newline, so the part ends in one and the whole reads as the plain text does.

    Args:
        pack: the pack's text.
        messages: of a chat, as the client sent them; they are not changed.
        part: the type of a part that is text.
    """
    first = messages[0] if messages else {}
    if first.get("role") != "system":
        return [{"role": "system", "content": pack}, *messages]
    return [{**first, "content": _joined(pack, first.get("content"), part)}, *messages[1:]]


def _joined(pack: str, own: object, part: str = "text") -> object:
    if isinstance(own, str):
        return f"{pack}{SEPARATOR}{own}" if own else pack
    if isinstance(own, list):
        return [{"type": part, "text": f"{pack}\n"}, *own]
    return pack if own is None else own  # the engine says best what is wrong with it


def _are_objects(items: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)


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
