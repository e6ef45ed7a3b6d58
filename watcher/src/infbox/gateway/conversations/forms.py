"""Where each API's request holds a conversation, and how a note enters it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Item = dict[str, Any]
Request = dict[str, Any]

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
COUNT = f"{MESSAGES}/count_tokens"
RESPONSES = "/v1/responses"

TEXTS = frozenset({"text", "input_text", "output_text"})
"""Types of content parts that are text."""

_OF_CLIENTS = ("system-reminder", "environment_context", "user_instructions")
"""Elements that clients put into a user's message, which are no words of the user's."""

_MOST_CHARS = 200_000  # of a message that is looked at for its question

_SYSTEM = ("system", "developer")
_ROLES_OF_PEOPLE = ("user", *_SYSTEM)
_TOOL_RESULT = "tool_result"


@dataclass(frozen=True)
class Dialogue:
    """The conversation in a request.

    Attributes:
        field: of the request that holds the messages.
        items: the messages, or what the Responses API has in their place, in order.
        start: how many leading ones are system messages, which are not part of the conversation:
            clients put clocks and the like there.
        system: what stands before the messages, as the client sent it.
        tools: that the client offers, as it sent them.
        part: the type of a content part that is text.
    """

    field: str
    items: Sequence[Item]
    start: int
    system: object
    tools: object
    part: str = "text"

    @property
    def turns(self) -> Sequence[Item]:
        """The items without the leading system messages."""
        return self.items[self.start :]

    @property
    def has_begun(self) -> bool:
        """Whether there is an answer in it; what was never answered has nothing to be kept."""
        return any(not is_of_people(item) for item in self.turns)


def dialogue(path: str, request: Request) -> Dialogue | None:
    """Return the conversation in a request; None where there is none, or it cannot be understood.

    Args:
        path: of the API.
        request: the body.
    """
    if path == RESPONSES:
        return _of_responses(request)
    items = request.get("messages")
    if path not in (CHAT, MESSAGES, COUNT) or not are_items(items):
        return None
    if path == CHAT:
        start = _leading(items)
        return Dialogue("messages", items, start, items[:start], request.get("tools"))
    return Dialogue("messages", items, 0, request.get("system"), request.get("tools"))


def is_of_people(item: Item) -> bool:
    """Say whether an item is neither the model's nor a tool's."""
    return item.get("role") in _ROLES_OF_PEOPLE and not _has_tool_result(item)


def takes_note(item: Item) -> bool:
    """Say whether a note can stand in an item: a user's message that answers no tool call."""
    content = item.get("content")
    is_message = item.get("role") == "user" and item.get("type") in (None, "message")
    return is_message and _is_content(content) and not _has_tool_result(item)


def place_for_note(turns: Sequence[Item], sent: int = 0) -> int | None:
    """Return the place of the last message that takes a note; None for none.

    None too while it is a tool's result that is answered: nothing is put into a loop of tools.

    Args:
        turns: the messages.
        sent: how many of them were sent before, and stay as they are.
    """
    for place in range(len(turns) - 1, sent - 1, -1):
        if takes_note(turns[place]):
            return place
        if not is_of_people(turns[place]):
            return None
    return None


def question_of(item: Item) -> str:
    """Return what a user's message asks, without what clients put beside it."""
    content = item.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if part.get("type") in TEXTS]
        content = "\n".join(text for text in texts if isinstance(text, str))
    text = content[-_MOST_CHARS:] if isinstance(content, str) else ""
    for name in _OF_CLIENTS:
        text = _without(text, f"<{name}>", f"</{name}>")
    return text.strip()


def _without(text: str, begin: str, end: str) -> str:
    """Return a text without what stands between these two; in the time that one look takes."""
    kept, at = [], 0
    while (start := text.find(begin, at)) >= 0 and (stop := text.find(end, start)) >= 0:
        kept.append(text[at:start])
        at = stop + len(end)
    return "".join([*kept, text[at:]])


def with_notes(request: Request, found: Dialogue, notes: Mapping[int, str]) -> Request:
    """Return a request with notes in front of the texts of messages.

    A note becomes a part of a message that is there, so that no chat template can refuse it, as
    some do two messages of a user's in a row.

    Args:
        request: it is not changed.
        found: the conversation in it.
        notes: texts, by the place of the message among the ``turns``.
    """
    if not notes:
        return request
    items = list(found.items)
    for place, note in notes.items():
        item = items[found.start + place]
        items[found.start + place] = {
            **item,
            "content": in_front(note, item["content"], found.part),
        }
    return {**request, found.field: items}


def in_front(note: str, content: object, part: str) -> object:
    """Return a message's content with a text in front of its first one.

    Not as a part of its own: some clients send the same text as a part and as it is by turns, and
    what a template puts between parts would make two texts of it.

    Args:
        note: the text.
        content: a text, or a list of parts.
        part: the type of a part that is text.
    """
    if isinstance(content, str):
        return f"{note}\n{content}"
    assert isinstance(content, list)  # noqa: S101  # as takes_note has seen
    for place, own in enumerate(content):
        if own.get("type") in TEXTS and isinstance(own.get("text"), str):
            changed = {**own, "text": f"{note}\n{own['text']}"}
            return [*content[:place], changed, *content[place + 1 :]]
    return [{"type": part, "text": note}, *content]


def _of_responses(request: Request) -> Dialogue | None:
    items = request.get("input")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if not are_items(items):
        return None
    start = _leading(items)
    system = [request.get("instructions"), items[:start]]
    return Dialogue("input", items, start, system, request.get("tools"), part="input_text")


def _leading(items: Sequence[Item]) -> int:
    roles = enumerate(item.get("role") for item in items)
    return next((place for place, role in roles if role not in _SYSTEM), len(items))


def _is_content(content: object) -> bool:
    if isinstance(content, str):
        return bool(content)
    return bool(content) and are_items(content)


def _has_tool_result(item: Item) -> bool:
    content = item.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == _TOOL_RESULT for part in content
    )


def are_items(items: object) -> TypeGuard[list[Item]]:
    """Say whether something is a list of messages, or of parts of one."""
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)
