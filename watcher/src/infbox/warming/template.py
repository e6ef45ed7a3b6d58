"""Whether the model's chat template leaves a pack the first thing in every prompt, unaltered.

The warm-up asks by token ids that are put together here: what the template puts before the pack,
then the pack's own. That they are what a question begins with is checked against the engine's own
rendering, token by token. The one allowance is at the pack's ends: a tokenizer may merge its last
characters with the first ones of what follows, so up to ``MERGED`` tokens there may differ.
"""

from __future__ import annotations

import datetime
import re
from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from infbox.packing import prompt
from infbox.warming.engine import EngineRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infbox.warming.engine import Engine

MERGED = 8
"""Tokens at either end of the pack that may merge with what stands beside it. A merge takes one or
two in practice; a template that trims the text's last newline costs no more either."""

_SURE = 16  # equal tokens by which the pack's beginning is found
_BAD_REQUEST = 400

HINT = "start vLLM with --chat-template FILE, one that puts the system message first and unaltered"
HINT_HEAD = (
    "start vLLM with --chat-template FILE, one that puts nothing that changes, such as a date, "
    "before the system message"
)
HINT_TURNS = (
    "start vLLM with --chat-template FILE, one that renders each message where it stands, whatever "
    "comes after it"
)


class TemplateError(Exception):
    """The template breaks the prefix, so that warming the pack would serve no question.

    Args:
        reason: what it does.
        position: of the first token of a prompt that is not what it has to be; None where the
            template makes no prompt at all.
        hint: what to do.
    """

    def __init__(self, reason: str, position: int | None, hint: str = HINT) -> None:
        where = "" if position is None else f" (token {position} of the prompt differs)"
        super().__init__(f"{reason}{where}: {hint}")
        self.reason = reason
        self.position = position
        self.hint = hint


@dataclass(frozen=True)
class Template:
    """What a checked template makes of a pack.

    Attributes:
        head: token ids that stand before the pack.
        skip: how many of the pack's own first ids are not in the prompt, since they merged.
        lost: how many of its last ids may be others, depending on what follows.
        follows: an id to put after the sure part of a prompt.
        own_ids: whether the given ids of the pack are the engine's own; else they are asked for.
        warning: what is wrong though packs can be warmed; empty where all is well.
    """

    head: tuple[int, ...]
    skip: int
    lost: int
    follows: int
    own_ids: bool
    warning: str = ""

    def warm_up(self, pack: Sequence[int], block: int) -> array[int]:
        """Return the ids by which a pack is warmed, and proven warm.

        They are the whole blocks of the prompt's sure part and one token more: the cache holds
        whole blocks only, and the engine always computes a prompt's last token.

        Args:
            pack: ids of its text.
            block: tokens of a cache block.
        """
        ids = [*self.head, *pack[self.skip : len(pack) - self.lost]]
        return array("I", [*ids, self.follows][: len(ids) // block * block + 1])


@dataclass(frozen=True)
class _Place:
    """Where a pack's ids stand in a prompt: from ``at`` on, without its first ``skip``; the last
    ``lost`` of them differ."""

    at: int
    skip: int
    lost: int


# Each asks something else, so that a template that does not put the system message first, or puts
# it with the last question, is seen.
_PLAIN: dict[str, Any] = {"messages": [{"role": "user", "content": "Where do I begin?"}]}
_OWN_TEXT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": "A source tree."},
        {"role": "user", "content": "Explain it."},
    ]
}
_TOOLS: dict[str, Any] = {
    "messages": [{"role": "user", "content": "List the files."}],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "list_files",
                "description": "Lists files.",
                "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
            },
        }
    ],
}


async def check(
    engine: Engine,
    model: str,
    text: str,
    ids: Sequence[int] | None,
    today: datetime.date | None = None,
) -> Template:
    """Compare what the template makes of questions with a pack with the pack's own token ids.

    Args:
        engine: to ask for prompts.
        model: the name the engine serves.
        text: of the pack.
        ids: of the text, as the packer put them together; None where it does not know the
            tokenizer.
        today: the date to look for in what stands before the pack; today's when None.

    Raises:
        TemplateError: the template breaks the prefix.
        EngineAwayError, EngineRefusedError: the engine did not say.
    """
    plain = await _rendered(engine, model, text, _PLAIN)
    pack = [] if ids is None else list(ids)
    place = _place(plain, pack)
    own_ids = place is not None
    if place is None:
        pack = await text_ids(engine, model, text)
        place = _place(plain, pack)
    if place is None:
        raise await _altered(engine, model, plain, pack)
    end = place.at + len(pack) - place.skip - place.lost
    template = Template(
        head=tuple(plain[: place.at]),
        skip=place.skip,
        lost=place.lost,
        follows=plain[end] if end < len(plain) else plain[-1],
        own_ids=own_ids,
    )
    template = await _with_variants(engine, model, text, pack, template)
    await _check_told(engine, model)
    await _check_head(engine, model, template.head, today or datetime.date.today())
    return template


async def text_ids(engine: Engine, model: str, text: str) -> list[int]:
    """Return the engine's own ids of a text without any template.

    Raises:
        EngineAwayError, EngineRefusedError: the engine did not say.
    """
    return await engine.tokenize({"model": model, "prompt": text, "add_special_tokens": False})


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    end = min(len(one), len(other))
    if one[:end] == other[:end]:
        return end
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), end)


async def _with_variants(
    engine: Engine, model: str, text: str, ids: list[int], template: Template
) -> Template:
    """Check the other kinds of questions, and note how much of the pack's end they share."""
    wanted = [*template.head, *ids[template.skip :]]
    lost, warning = template.lost, ""
    for what, question in (("a system text of its own", _OWN_TEXT), ("tools", _TOOLS)):
        try:
            tokens = await _rendered(engine, model, text, question)
        except TemplateError:
            if question is _TOOLS:  # such questions are refused, and so lose nothing
                continue
            raise
        same = common_length(tokens, wanted)
        if len(wanted) - same <= MERGED:
            lost = max(lost, len(wanted) - same)
        elif question is _TOOLS:
            warning = (
                f"questions with tools do not begin with the pack: token {same} of their prompt "
                f"differs: {HINT}, also with tools"
            )
        elif same < len(template.head):
            reason = "what stands before the pack differs from question to question"
            raise TemplateError(reason, same, HINT_HEAD)
        else:
            reason = f"the pack does not stand first and unaltered in a question with {what}"
            raise TemplateError(reason, same)
    return replace(template, lost=lost, warning=warning)


_NOTE = "Files of the source tree above changed meanwhile: orders.py, prices.py, customers.py.\n"


async def _check_told(engine: Engine, model: str) -> None:
    """Refuse a template that does not leave what a conversation was told where it was told.

    What the gateway puts in front of a question has to be in the prompt, behind all that was there
    before, and to stand there as it is in every later prompt.
    """
    begun: list[dict[str, Any]] = [*_OWN_TEXT["messages"][:2]]
    asked = [*begun, *_OWN_TEXT["messages"][2:]]
    told = [*asked[:-1], {**asked[-1], "content": f"{_NOTE}{asked[-1]['content']}"}]
    later = [*told, {"role": "assistant", "content": "It is."}, {"role": "user", "content": "Why?"}]
    first, plain, with_note, last = [
        await engine.tokenize({"model": model, "messages": each, "add_generation_prompt": False})
        for each in (begun, asked, told, later)
    ]
    for before, after in ((first, plain), (first, with_note), (with_note, last)):
        same = common_length(before, after)
        if same < len(before) - MERGED:
            reason = "it renders what was said otherwise once more is said"
            raise TemplateError(reason, same, HINT_TURNS)
    note = await text_ids(engine, model, _NOTE)
    if len(with_note) - len(plain) < len(note) - MERGED:
        raise TemplateError("it leaves out a part of a question", None, HINT_TURNS)


async def _rendered(engine: Engine, model: str, text: str, question: dict[str, Any]) -> list[int]:
    """Return the prompt of a question with the pack, as the engine makes it."""
    messages = prompt.with_pack(text, question["messages"])
    body = {**question, "model": model, "messages": messages, "add_generation_prompt": True}
    try:
        return await engine.tokenize(body)
    except EngineRefusedError as error:
        if error.status != _BAD_REQUEST or not await _renders(engine, model, question):
            raise
        reason = f"it refuses a system message ({error})"
        raise TemplateError(reason, None) from error


async def _renders(engine: Engine, model: str, question: dict[str, Any]) -> bool:
    """Say whether a question is rendered once it has no system message."""
    messages = [message for message in question["messages"] if message["role"] != "system"]
    try:
        await engine.tokenize({**question, "model": model, "messages": messages})
    except EngineRefusedError:
        return False
    return True


async def _altered(engine: Engine, model: str, plain: list[int], ids: list[int]) -> TemplateError:
    """Return the error for a prompt that does not hold the pack as it is."""
    found = _beginning(plain, ids)
    if found is None:  # where the pack should begin is where a prompt with another one differs
        other = await _rendered(engine, model, "x", _PLAIN)
        found = common_length(plain, other), 0
    at, skip = found
    position = at + common_length(plain[at:], ids[skip:])
    return TemplateError("it does not put the pack into the prompt as it is", position)


def _place(tokens: list[int], ids: list[int]) -> _Place | None:
    """Return where the pack stands in a prompt, or None when too much of it differs."""
    found = _beginning(tokens, ids)
    if found is None:
        return None
    at, skip = found
    lost = len(ids) - skip - common_length(tokens[at:], ids[skip:])
    return _Place(at, skip, lost) if lost <= MERGED else None


def _beginning(tokens: list[int], ids: list[int]) -> tuple[int, int] | None:
    """Return where the pack begins in a prompt, and how many of its first ids are not there."""
    for skip in range(min(MERGED, len(ids) - 1) + 1):
        start = ids[skip : skip + _SURE]
        for at in range(len(tokens) - len(start) + 1):
            if tokens[at] == start[0] and tokens[at : at + len(start)] == start:
                return at, skip
    return None


async def _check_head(
    engine: Engine, model: str, head: Sequence[int], today: datetime.date
) -> None:
    """Refuse a template that writes the date before the pack.

    Questions of one day look alike, so comparing them does not show it.
    """
    try:
        text = await engine.detokenize(model, head) if head else ""
    except EngineRefusedError:
        return  # an engine that cannot say it; a date is then seen when it changes
    if has_date(text, today):
        raise TemplateError("it writes the date before the pack", None, HINT_HEAD)


def has_date(text: str, today: datetime.date) -> bool:
    """Say whether a text holds today's date, or yesterday's or tomorrow's for the sake of time
    zones, in any usual form.

    Args:
        text: to look at; dates that stay, such as a model's knowledge cutoff, do no harm.
        today: where this program runs.
    """
    words = set(re.findall(r"[a-z]+|\d+", text.lower()))
    for day in (today + datetime.timedelta(days) for days in (-1, 0, 1)):
        if day.strftime("%Y%m%d") in words:
            return True
        names = {day.strftime("%B").lower(), day.strftime("%b").lower()}
        numbers = {str(day.month), f"{day.month:02}"}
        days = {str(day.day), f"{day.day:02}"}
        if str(day.year) in words and words & (names | numbers) and words & days:
            return True
    return False
