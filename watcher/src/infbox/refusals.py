"""Requests that are answered here instead of by vLLM."""

from __future__ import annotations

from typing import Any

TOO_LARGE = 413
TOO_MANY = 429
NOT_FOUND = 404
BAD_REQUEST = 400
BAD_GATEWAY = 502
UNAVAILABLE = 503

# As vLLM names them in OpenAI's form, and as Anthropic does in its own.
_TYPES = {
    NOT_FOUND: "NotFoundError",
    TOO_MANY: "RateLimitError",
    BAD_GATEWAY: "EngineAwayError",
    UNAVAILABLE: "EngineAwayError",
}
_ANTHROPIC_TYPES = {
    BAD_REQUEST: "invalid_request_error",
    NOT_FOUND: "not_found_error",
    TOO_LARGE: "request_too_large",
    TOO_MANY: "rate_limit_error",
}


class RefusalError(Exception):
    """A request that is refused.

    Args:
        status: of the answer.
        message: for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def in_openai_form(status: int, message: str) -> dict[str, Any]:
    """Return a refusal as OpenAI's API words it, with vLLM's types."""
    kind = _TYPES.get(status, "BadRequestError")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def in_anthropic_form(status: int, message: str) -> dict[str, Any]:
    """Return a refusal as Anthropic's API words it."""
    kind = _ANTHROPIC_TYPES.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}
