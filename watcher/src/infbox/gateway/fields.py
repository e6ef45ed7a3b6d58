"""Which fields and headers of a request are for clients. All others stay away from the engine.

Taken from the request models of vLLM 0.32; a test compares. What vLLM does not know, it ignores, so
that is dropped here; what it knows and a client must not say is refused by name.

This module runs in two places, so it imports nothing but Python's own: in the gateway, and in the
engine's server as ``Guard``, where it stands while Caddy goes round a gateway that is away.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

_OF_ALL = "model stream temperature top_k top_p tools tool_choice chat_template_kwargs"
_OF_OPENAI = (
    "frequency_penalty ignore_eos include_stop_str_in_output logit_bias min_p presence_penalty "
    "repetition_penalty seed skip_special_tokens stop stop_token_ids structured_outputs user"
)
_OF_TOKENS = (
    "add_special_tokens allowed_token_ids bad_words echo length_penalty logprob_token_ids logprobs "
    "max_tokens min_tokens n prompt_logprobs response_format return_token_ids "
    "return_tokens_as_token_ids spaces_between_special_tokens stream_interval stream_options "
    "thinking_token_budget truncate_prompt_tokens truncation_side"
)
_OF_MESSAGES = f"{_OF_ALL} messages output_config system thinking"

FIELDS: dict[str, frozenset[str]] = {
    path: frozenset(" ".join(names).split())
    for path, *names in (
        (
            "/v1/chat/completions",
            f"{_OF_ALL} {_OF_OPENAI} {_OF_TOKENS} messages",
            "add_generation_prompt continue_final_message documents include_reasoning",
            "max_completion_tokens parallel_tool_calls reasoning_effort return_prompt_text",
            "top_logprobs",
        ),
        (
            "/v1/completions",
            f"model stream temperature top_k top_p {_OF_OPENAI} {_OF_TOKENS} prompt suffix",
        ),
        (
            "/v1/responses",
            f"{_OF_ALL} {_OF_OPENAI} input instructions previous_response_id",
            "enable_response_messages include include_reasoning max_output_tokens",
            "max_tool_calls metadata parallel_tool_calls previous_input_messages prompt",
            "prompt_cache_key reasoning service_tier store text top_logprobs truncation",
        ),
        ("/v1/messages", f"{_OF_MESSAGES} max_tokens metadata stop_sequences"),
        (
            "/v1/messages/count_tokens",
            "model messages output_config system thinking tool_choice tools chat_template_kwargs",
        ),
        (
            "/v1/embeddings",
            "model input messages user dimensions embed_dtype encoding_format endianness padding",
            "use_activation add_generation_prompt add_special_tokens chat_template_kwargs",
            "continue_final_message truncate_prompt_tokens truncation_side",
        ),
    )
}
"""What clients may say, by path. A request to one of these paths has a body that is looked at."""

DROPPED = frozenset(
    {
        # Names of the request, which others could meet again; the engine gives its own.
        *("request_id", "session_id"),
        # Of the engine's other paths and uses; without a meaning on these.
        *("mm_payload", "return_mm_kwargs", "return_token_offsets", "routed_experts_prompt_start"),
        "watermarking",  # the operator decides
    }
)
"""What vLLM knows and nobody has to say: taken out, as what it does not know."""

SALTED = FIELDS.keys() - {"/v1/messages/count_tokens"}
"""Paths whose requests may have a salt."""

REFUSED: dict[str, str] = {
    "background": "the engine computes an answer only while its client waits for it",
    "priority": "the engine processes requests in the order of arrival",
    "kv_transfer_params": "the cache is the server's own",
    "ec_transfer_params": "the cache is the server's own",
    "vllm_xargs": "it controls parts of the engine that clients may not use",
    "chat_template": "the model's own template is used",
    "media_io_kwargs": "it changes how much memory the engine uses",
    "mm_processor_kwargs": "it changes how much memory the engine uses",
    "prompt_embeds": "prompts are text or token ids",
    "use_beam_search": "it computes many answers at once; set n for several",
    "repetition_detection": "it delays the requests of all users",
}
"""What gives one client power over others, and why it is refused."""

OPTIONS = "infbox"
"""What is for the gateway."""

SALT = "cache_salt"
"""Keeps a request's KV from requests of other salts. Those of a user are his own: whoever knows
another one's salt does not get at what was computed under it."""

MOST_ANSWERS = 128
"""That one request may have computed, as in OpenAI's API: they stand in the queue as so many."""

_NEUTRAL: tuple[object, ...] = (None, 0, {})
"""Values that ask for nothing, as programs send them that write out every field."""

HEADERS = frozenset(
    {
        *(b"accept", b"accept-encoding", b"authorization", b"content-type", b"content-length"),
        *(b"transfer-encoding", b"user-agent", b"host", b"connection", b"expect"),
        *(b"x-request-id", b"traceparent", b"tracestate"),
        *(b"anthropic-version", b"anthropic-beta"),
    }
)
"""What the engine is sent. It obeys others: X-Vllm-Priority, X-Data-Parallel-Rank, X-Session-Id."""

_USER = b"x-infbox-user"
_LENGTHS = (b"content-length", b"transfer-encoding")
MOST_VALUES = 1_000_000
"""Of JSON in one body: more than a window of as many tokens takes as text, or as token ids."""

_PIECE_BYTES = 1_000_000
_ANTHROPIC = "/v1/messages"
_BAD_REQUEST = 400
_TOO_LARGE = 413


def has_too_many_values(body: bytes) -> bool:
    """Say whether to parse a body could take much memory and time, by what it has at most.

    Each value of JSON stands beside one of these characters, and takes some 60 bytes once parsed.
    """
    if len(body) <= MOST_VALUES:
        return False
    found = 0
    for start in range(0, len(body), _PIECE_BYTES):  # so that other threads have a turn
        for character in (b",", b":", b"[", b"{"):
            found += body.count(character, start, start + _PIECE_BYTES)
        if found > MOST_VALUES:
            return True
    return False


NO_OBJECT = "The body must be a JSON object."
TOO_MANY_VALUES = f"The body has more than {MOST_VALUES:,} values of JSON. Send less at once."


def is_neutral(value: object) -> bool:
    """Say whether a value of a field asks for nothing."""
    return value in _NEUTRAL


def salt_of(user: str, salt: object) -> str:
    """Return the salt that the engine is told in place of a user's own.

    Args:
        user: who asks; empty where that is not known.
        salt: that was given.
    """
    return sha256(f"{user}\0{salt}".encode(errors="replace")).hexdigest()


def problem(name: str, value: object) -> str | None:
    """Return what is wrong with a field that is there; None for nothing.

    Args:
        name: of the field.
        value: of the field. Of a large one that is refused whatever it says, any object.
    """
    if name == SALT and not is_neutral(value) and not isinstance(value, str):
        return "`cache_salt` must be a text of up to 128 characters."
    if name in REFUSED and not is_neutral(value):
        return f"`{name}` is not for clients: {REFUSED[name]}. Leave it out."
    if name == "n" and value is not None and not isinstance(value, int | float):
        return f"`n` must be a whole number of at most {MOST_ANSWERS}."
    if name == "n" and isinstance(value, int | float) and value > MOST_ANSWERS:
        return f"`n` may be {MOST_ANSWERS}: one request may ask for so many answers."
    if name == "chat_template_kwargs" and isinstance(value, dict) and "chat_template" in value:
        return f"`chat_template_kwargs.chat_template`: {REFUSED['chat_template']}. Leave it out."
    return None


LOOKED_AT = frozenset({*REFUSED, SALT, "n", "chat_template_kwargs"})
"""Fields whose value decides."""


def is_kept(path: str, name: str, value: object) -> bool:
    """Say whether a field that has no problem goes to the engine.

    Args:
        path: of the request.
        name: of the field.
        value: of the field, where it is one of ``LOOKED_AT``.
    """
    return name in FIELDS[path] or (name == SALT and path in SALTED and not is_neutral(value))


class Guard:
    """Keeps from the engine what is not for clients, while the gateway is away.

    It looks at requests that Caddy has sent by itself, which it tells by the user's name: the
    gateway and the watcher send none. An ASGI application, as vLLM's ``--middleware`` takes it.

    Args:
        app: the engine's server.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        headers = scope.get("headers") or []
        if scope["type"] != "http" or not any(name.lower() == _USER for name, _ in headers):
            await self._app(scope, receive, send)
            return
        kept = [(name, value) for name, value in headers if name.lower() in HEADERS]
        scope = {**scope, "headers": kept}
        if scope["method"] != "POST" or scope["path"] not in FIELDS:
            await self._app(scope, receive, send)
            return
        body = await _body(receive)
        if body is None:
            return
        user = next(value for name, value in headers if name.lower() == _USER).decode("latin-1")
        try:
            body = _sifted(scope["path"], body, user)
        except _RefusedError as refused:
            await _refuse(scope["path"], send, refused)
            return
        length = (b"content-length", str(len(body)).encode())
        scope["headers"] = [*(one for one in kept if one[0].lower() not in _LENGTHS), length]
        await self._app(scope, _again(body, receive), send)


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def _body(receive: Any) -> bytes | None:
    """Return a whole body; Caddy bounds it. None where the client left."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


def _sifted(path: str, body: bytes, user: str) -> bytes:
    """Return a body with what is for clients.

    Raises:
        _RefusedError: it has something that must not be said.
    """
    if has_too_many_values(body):
        raise _RefusedError(_TOO_LARGE, TOO_MANY_VALUES)
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise _RefusedError(_BAD_REQUEST, NO_OBJECT)
    for name in LOOKED_AT & values.keys():
        if found := problem(name, values[name]):
            raise _RefusedError(_BAD_REQUEST, found)
    kept = {name: value for name, value in values.items() if is_kept(path, name, value)}
    if SALT in kept:
        kept[SALT] = salt_of(user, kept[SALT])
    elif len(kept) == len(values):
        return body
    return json.dumps(kept).encode()


async def _refuse(path: str, send: Any, refused: _RefusedError) -> None:
    status, message = refused.status, str(refused)
    kind = "request_too_large" if status == _TOO_LARGE else "invalid_request_error"
    if path == _ANTHROPIC or path.startswith(f"{_ANTHROPIC}/"):
        told: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": message}}
    else:
        error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
        told = {"error": error}
    content = json.dumps(told).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _again(body: bytes, receive: Any) -> Any:
    """Return a ``receive`` that gives a body which was read, and then what comes after it."""
    is_given = False

    async def again() -> Any:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
