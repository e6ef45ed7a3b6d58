"""What the APIs differ in: where a pack goes, and how they say that something went wrong."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from infbox.gateway.fields import OPTIONS
from infbox.gateway.refusals import BAD_GATEWAY, in_anthropic_form, in_openai_form
from infbox.packing import prompt

if TYPE_CHECKING:
    from collections.abc import Callable

    from infbox.gateway.refusals import RefusalError

BROKEN_OFF = "the engine broke off its answer"

_ANTHROPIC = "/v1/messages"

# The window and the prompt's tokens, in vLLM's words.
_LENGTHS = re.compile(
    r"maximum context length is (\d+) tokens.*?contains (?:at least )?(\d+) input"
)


@dataclass(frozen=True)
class Api:
    """One API.

    Attributes:
        with_pack: returns a request with the text of a pack in it.
        broken_off: returns the event that ends a stream which the engine broke off, given the end
            of what came of it.
    """

    with_pack: Callable[[str, dict[str, Any]], dict[str, Any]]
    broken_off: Callable[[bytes], bytes]


def refusal(path: str, refused: RefusalError) -> JSONResponse:
    """Return a refusal in the form that the clients of a path understand."""
    headers = {"retry-after": refused.retry_after} if refused.retry_after else None
    return JSONResponse(_told(path, refused), refused.status, headers)


def _told(path: str, refused: RefusalError) -> dict[str, Any]:
    is_anthropic = path == _ANTHROPIC or path.startswith(f"{_ANTHROPIC}/")
    form = in_anthropic_form if is_anthropic else in_openai_form
    told = form(refused.status, str(refused), refused.param, is_busy=refused.is_busy)
    if refused.ours is not None:
        told["error"][OPTIONS] = refused.ours
    return told


def too_long(path: str, words: str) -> str:
    """Return what to say of a prompt that is too long, in the words that programs look for.

    Those made for OpenAI's API know vLLM's own; those made for Anthropic's, Claude Code for one,
    know only how Anthropic begins, and make their conversation shorter then.

    Args:
        path: of the API.
        words: of vLLM.
    """
    if not path.startswith(_ANTHROPIC):
        return words
    numbers = _LENGTHS.search(words)
    if numbers is None:
        return f"prompt is too long: {words}"
    return f"prompt is too long: {numbers[2]} tokens > {numbers[1]} maximum. {words}"


def _chunk_broken_off(_tail: bytes) -> bytes:
    return _event(in_openai_form(BAD_GATEWAY, BROKEN_OFF))


def _message_broken_off(_tail: bytes) -> bytes:
    return b"event: error\n" + _event(in_anthropic_form(BAD_GATEWAY, BROKEN_OFF))


def _response_broken_off(tail: bytes) -> bytes:
    """Return the event of OpenAI's Responses API.

    Its own fields are those of the API's description; its `error` is what OpenAI's service sends
    besides, and what OpenAI's client raises an exception for.
    """
    numbers = re.findall(rb'"sequence_number":\s*(\d+)', tail)
    error = in_openai_form(BAD_GATEWAY, BROKEN_OFF)
    event = {
        "type": "error",
        "code": "server_error",
        "message": BROKEN_OFF,
        "param": None,
        "sequence_number": int(numbers[-1]) + 1 if numbers else 0,
    }
    return b"event: error\n" + _event({**event, **error})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


_MESSAGES = Api(prompt.into_messages, _message_broken_off)

OTHER = Api(lambda _pack, request: request, _chunk_broken_off)
"""Stands for all paths that take no pack."""

APIS = {
    "/v1/chat/completions": Api(prompt.into_chat, _chunk_broken_off),
    "/v1/completions": Api(prompt.into_completion, _chunk_broken_off),
    "/v1/responses": Api(prompt.into_responses, _response_broken_off),
    _ANTHROPIC: _MESSAGES,
    f"{_ANTHROPIC}/count_tokens": _MESSAGES,
}
"""Those that take a pack, by their path."""
