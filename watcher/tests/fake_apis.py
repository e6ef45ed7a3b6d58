"""How vLLM reads requests and words answers on each of its APIs, as far as tests need it."""

from __future__ import annotations

import json
import secrets
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
ASKED = (CHAT, COMPLETIONS)  # whose streams say what they cost where they are asked to
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


def as_chat(path: str, body: dict[str, Any], *, merges: bool) -> list[dict[str, Any]]:
    """The chat that vLLM gives to the chat template, as far as our clients' requests need it.

    Args:
        path: of the API.
        body: of the request.
        merges: whether system messages in between go into the first one, on Anthropic's API, as
            where the template refuses them.
    """
    if path == CHAT:
        return [
            {**message, "content": _flat(message.get("content"))} for message in body["messages"]
        ]
    if path == RESPONSES:
        return _of_items([*_system(body.get("instructions")), *body["input"]])
    messages = body["messages"]
    later = [_flat(m["content"]) for m in messages if m["role"] == "system" and merges]
    blocks = body.get("system") or []
    own = [blocks] if isinstance(blocks, str) else [block["text"] for block in blocks]
    kept = [m for m in messages if not (merges and m["role"] == "system")]
    system = "".join(text for text in [*own, *later] if not text.startswith("x-anthropic-billing"))
    return [*_system(system), *(chat for message in kept for chat in _of_message(message))]


def _of_message(message: dict[str, Any]) -> list[dict[str, Any]]:
    """See vLLM's anthropic/serving.py: results of tools come first, as messages of their own."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    results = [part for part in parts if part["type"] == "tool_result"]
    chats: list[dict[str, Any]] = [
        {"role": "tool", "content": _flat(part["content"])} for part in results
    ]
    calls = [
        {"function": {"name": part["name"], "arguments": part["input"]}}
        for part in parts
        if part["type"] == "tool_use"
    ]
    text = _flat([part for part in parts if part["type"] == "text"])
    own = {"role": message["role"], "content": text, **({"tool_calls": calls} if calls else {})}
    return [*chats, own] if text or calls else chats


def _of_items(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """See vLLM's responses/utils.py: what the model said and called in a row is one message."""
    chats: list[dict[str, Any]] = []
    for item in items:
        kind = item.get("type", "message")
        is_said = kind in ("reasoning", "function_call") or item.get("role") == "assistant"
        if not is_said:
            result = {"role": "tool", "content": item.get("output")}
            own = {"role": item.get("role"), "content": _flat(item.get("content"))}
            chats.append(own if kind == "message" else result)
            continue
        if not chats or chats[-1]["role"] != "assistant":
            chats.append({"role": "assistant", "content": ""})
        if kind == "function_call":
            call = {"name": item["name"], "arguments": json.loads(item["arguments"])}
            chats[-1].setdefault("tool_calls", []).append({"function": call})
        elif kind == "reasoning":
            chats[-1]["reasoning_content"] = item["content"][0]["text"]
        else:
            chats[-1]["content"] = _flat(item["content"])
    return chats


def _flat(content: Any) -> str:
    """A content's texts, joined as vLLM does for templates that take a text."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""


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


def first_event(path: str, prompt: int) -> bytes:
    """How a stream begins that says at once what its prompt has, those of the cache included: see
    vLLM's anthropic/serving.py."""
    if path != MESSAGES:
        return b""
    told = {"input_tokens": prompt, "output_tokens": 0}
    return _named("message_start", {"message": {"usage": told, "content": []}})


def event(path: str, number: int) -> bytes:
    """An event in the middle of a stream."""
    if path == MESSAGES:
        return _named("content_block_delta", {"index": 0, "n": number})
    if path == RESPONSES:
        return _named("response.output_text.delta", {"sequence_number": number, "n": number})
    return _data({"n": number})


def failure(path: str) -> bytes:
    """How a stream ends whose request the engine could not finish: see the stream generators of
    vLLM's chat_completion/serving.py, and the converter of anthropic/serving.py."""
    error = {"message": "EngineCore encountered an issue.", "type": "InternalServerError"}
    if path == MESSAGES:
        return _named("error", {"type": "error", "error": error})
    return _data({"error": error}) + b"data: [DONE]\n\n"


def last_events(path: str, told: dict[str, Any] | None) -> bytes:
    """How a stream ends; None for one that does not say what it cost."""
    if path == MESSAGES:
        return _named("message_delta", {"usage": told}) + _named("message_stop", {})
    if path == RESPONSES:
        whole = {"usage": told, "user": None, **response({})}
        return _named("response.completed", {"response": whole})
    return (_data({"choices": [], "usage": told}) if told else b"") + b"data: [DONE]\n\n"


def refused(path: str, message: str) -> dict[str, Any]:
    """vLLM's own refusal."""
    error = {"message": message, "type": "BadRequestError"}
    return {"type": "error", "error": error} if path == MESSAGES else {"error": error}


def _named(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **data})


def _data(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def response(asked: dict[str, Any]) -> dict[str, Any]:
    """What only the Responses API says."""
    part = {"type": "output_text", "text": "That is why.", "annotations": []}
    said = {"type": "message", "role": "assistant", "content": [part]}
    return {
        "id": asked.get("request_id") or f"resp_{secrets.token_hex(8)}",
        "object": "response",
        "status": "completed",
        "output": [said],
    }
