"""How vLLM reads requests and words answers on each of its APIs, as far as tests need it."""

from __future__ import annotations

import json
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
COUNT = f"{MESSAGES}/count_tokens"


def prompt_of(path: str, body: dict[str, Any]) -> str | None:
    """What becomes the prompt; None where the request is malformed."""
    if path == COMPLETIONS:
        own = body.get("prompt")
        return own if isinstance(own, str) else "".join(own or [])
    messages = _messages_of(path, body)
    return None if messages is None else json.dumps(messages)


def _messages_of(path: str, body: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The chat that vLLM makes of a request: see its anthropic/serving.py, responses/utils.py."""
    if path == CHAT:
        return body.get("messages")
    if path == RESPONSES:
        own = body.get("input")
        items = [{"role": "user", "content": own}] if isinstance(own, str) else own
        return None if items is None else [*_system(body.get("instructions")), *items]
    own = body.get("system")
    blocks = own if isinstance(own, list) else [{"text": own}]
    system = "".join(block["text"] or "" for block in blocks)
    messages = body.get("messages")
    return None if messages is None else [*_system(system), *messages]


def _system(text: str | None) -> list[dict[str, Any]]:
    return [{"role": "system", "content": text}] if text else []


def usage(path: str, prompt: int, cached: int, *, details: bool = True) -> dict[str, Any]:
    """A usage in the API's words; the answer has one token."""
    if path == MESSAGES:
        told = {"input_tokens": prompt - cached, "output_tokens": 1}
        return {**told, "cache_read_input_tokens": cached} if details else told
    read, made = ("input", "output") if path == RESPONSES else ("prompt", "completion")
    told = {f"{read}_tokens": prompt, f"{made}_tokens": 1}
    return {**told, f"{read}_tokens_details": {"cached_tokens": cached}} if details else told


def event(path: str, number: int) -> bytes:
    """An event in the middle of a stream."""
    if path == MESSAGES:
        return _named("content_block_delta", {"index": 0, "n": number})
    if path == RESPONSES:
        return _named("response.output_text.delta", {"sequence_number": number, "n": number})
    return _data({"n": number})


def last_events(path: str, told: dict[str, Any]) -> bytes:
    """How a stream ends."""
    if path == MESSAGES:
        return _named("message_delta", {"usage": told}) + _named("message_stop", {})
    if path == RESPONSES:
        return _named("response.completed", {"response": {"usage": told, "user": None}})
    return _data({"choices": [], "usage": told}) + b"data: [DONE]\n\n"


def refused(path: str, message: str) -> dict[str, Any]:
    """vLLM's own refusal."""
    error = {"message": message, "type": "BadRequestError"}
    return {"type": "error", "error": error} if path == MESSAGES else {"error": error}


def _named(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **data})


def _data(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
