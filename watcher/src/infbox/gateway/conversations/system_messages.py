"""System messages behind the first one, and those of developers.

Claude Code sends what it has to say between turns as system messages where it says it, and Codex
its system prompt as messages of the developer's. A chat template may refuse both, or leave the
latter out. vLLM merges what Anthropic's API has in between into the first system message where the
template refuses it there: each new one then has the whole conversation computed anew. So where that
is so, they go into the user's messages beside them, in the form that Claude Code itself has for
models without such messages.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import aiohttp

from infbox.gateway.conversations import forms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infbox.gateway.conversations.forms import Item, Request

_SYSTEM, _DEVELOPER, _USER = "system", "developer", "user"
_PATIENCE = aiohttp.ClientTimeout(total=5)
_SECONDS = 300.0
_BAD_REQUEST = 400

_FIRST, _LATER = "Answer briefly.", "Answer in one word."
_TURNS: tuple[Item, ...] = (
    {"role": _USER, "content": "Where do I begin?"},
    {"role": "assistant", "content": "Here."},
    {"role": _USER, "content": "And now?"},
)


def of_developers(path: str, request: Request) -> Request:
    """Return a request with developers' messages as system messages, which is what they are.

    Args:
        path: of the API.
        request: it is not changed.
    """
    name = "input" if path == forms.RESPONSES else "messages"
    items = request.get(name)
    if path not in (forms.CHAT, forms.RESPONSES) or not forms.are_items(items):
        return request
    if not any(item.get("role") == _DEVELOPER for item in items):
        return request
    return {**request, name: [_of_developer(item) for item in items]}


def _of_developer(item: Item) -> Item:
    return {**item, "role": _SYSTEM} if item.get("role") == _DEVELOPER else item


def are_there(path: str, request: Request) -> bool:
    """Say whether a request has system messages behind the first place.

    Args:
        path: of the API.
        request: the body.
    """
    found = forms.dialogue(path, request)
    if found is None:
        return False
    is_first_elsewhere = path != forms.CHAT and not (path == forms.RESPONSES and _begins(request))
    later = found.items if is_first_elsewhere else found.items[1:]
    return any(item.get("role") == _SYSTEM for item in later)


def _begins(request: Request) -> bool:
    """Say whether the prompt begins with the request's ``input``."""
    return not request.get("instructions")


def in_questions(path: str, request: Request) -> Request:
    """Return a request with such messages in the user's messages beside them.

    Where each stands follows from the messages around it, so it is the same in every later
    request: at the end of the user's message before it, else in front of the one behind, else in
    one of its own. The leading ones become one.

    Args:
        path: of the API.
        request: it is not changed.
    """
    found = forms.dialogue(path, request)
    if found is None:
        return request
    leading, turns = found.items[: found.start], found.turns
    if leading and path == forms.RESPONSES and request.get("instructions"):
        leading = [{"role": _SYSTEM, "content": request["instructions"]}, *leading]
        request = {name: value for name, value in request.items() if name != "instructions"}
    kept = _as_one(leading, found.part)
    waiting: list[str] = []
    for item in turns:
        said = _text(item) if item.get("role") == _SYSTEM else ""
        if said:
            waiting.append(said)
        else:
            kept += _placed(waiting, kept, found.part, item)
            waiting = []
    kept += _placed(waiting, kept, found.part)
    return {**request, found.field: kept}


def _as_one(leading: Sequence[Item], part: str) -> list[Item]:
    """Return leading system messages as one, which is a text where all are."""
    contents = [item.get("content") for item in leading]
    if not leading or not all(map(_is_content, contents)):
        return list(leading)
    merged: object = [one for content in contents for one in _parts(content, part)]
    if all(isinstance(content, str) for content in contents):
        merged = "\n\n".join(map(str, contents))
    return [{**leading[0], "content": merged}]


def _parts(content: Any, part: str) -> list[Any]:
    return [{"type": part, "text": content}] if isinstance(content, str) else content


def _placed(waiting: Sequence[str], kept: list[Item], part: str, *behind: Item) -> list[Item]:
    """Put what waits into the last message that is kept, or return it with the one behind it.

    All at once: each by itself would copy the message as often as there are any.
    """
    text = "\n".join(waiting)
    if not text:
        return [*behind]
    if kept and _takes_text(kept[-1]):
        kept[-1] = {**kept[-1], "content": _behind(kept[-1]["content"], text, part)}
        return [*behind]
    if behind and _takes_text(behind[0]):
        return [{**behind[0], "content": forms.in_front(text, behind[0]["content"], part)}]
    return [{"role": _USER, "content": text}, *behind]


def _behind(content: str | list[Item], text: str, part: str) -> str | list[Item]:
    """Return a message's content with a text behind its last one; see ``forms.in_front`` for why it
    is no part of its own."""
    if isinstance(content, str):
        return f"{content}\n{text}"
    last = content[-1]
    if last.get("type") in forms.TEXTS and isinstance(last.get("text"), str):
        return [*content[:-1], {**last, "text": f"{last['text']}\n{text}"}]
    return [*content, {"type": part, "text": text}]


def _takes_text(item: Item) -> bool:
    return item.get("role") == _USER and _is_content(item.get("content"))


def _is_content(content: object) -> bool:
    return bool(content) and (isinstance(content, str) or forms.are_items(content))


def _text(item: Item) -> str:
    """Return what a system message says, in the form that it has in a user's; empty for one that is
    not understood, which the engine says best."""
    content = item.get("content")
    if isinstance(content, list):
        texts = [one.get("text") for one in content if isinstance(one, dict)]
        content = "\n".join(text for text in texts if isinstance(text, str))
    if not isinstance(content, str) or not content:
        return ""
    return f"<system-reminder>\n{content}\n</system-reminder>"


class LaterSystem:
    """Whether the engine's chat template takes system messages behind the first place.

    Args:
        url: of the engine.
        model: that it serves.
    """

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = url, model
        self._is_taken: bool | None = None
        self._known_until = float("-inf")

    async def is_taken(self, client: aiohttp.ClientSession) -> bool | None:
        """Ask the engine, or say what it said lately; None where it never said anything yet.

        Args:
            client: to ask with.
        """
        if time.monotonic() > self._known_until:
            try:
                self._is_taken = await self._ask(client)
                self._known_until = time.monotonic() + _SECONDS
            except (aiohttp.ClientError, asyncio.TimeoutError, ValueError):
                pass  # the request itself will show that the engine is away
        return self._is_taken

    async def _ask(self, client: aiohttp.ClientSession) -> bool:
        """Say whether the template renders one, and Anthropic's API leaves it at its place."""
        first = {"role": _SYSTEM, "content": _FIRST}
        later = {"role": _SYSTEM, "content": _LATER}
        question, *rest = _TURNS
        chat = {"messages": [first, question, later, *rest]}
        if await self._count(client, "/tokenize", chat) is None:
            plain = {"messages": [first, *_TURNS]}
            return await self._count(client, "/tokenize", plain) is None  # it takes none at all
        inline = {"system": _FIRST, "messages": [question, later, *rest]}
        merged = {"system": f"{_FIRST}{_LATER}", "messages": list(_TURNS)}
        counts = [await self._count(client, forms.COUNT, each) for each in (inline, merged)]
        return counts[0] is None or counts[0] != counts[1]

    async def _count(
        self, client: aiohttp.ClientSession, path: str, body: dict[str, Any]
    ) -> int | None:
        """Return how many tokens a chat has; None where it is refused.

        Raises:
            aiohttp.ClientError, asyncio.TimeoutError, ValueError: the engine does not say.
        """
        request = {"model": self._model, **body}
        async with client.post(f"{self._url}{path}", json=request, timeout=_PATIENCE) as answer:
            if answer.status == _BAD_REQUEST:
                return None
            answer.raise_for_status()
            told = await answer.json()
        return int(told["count"] if "count" in told else told["input_tokens"])
