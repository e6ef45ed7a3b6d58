"""Requests that are answered here instead of by vLLM."""

from __future__ import annotations

from typing import Any

TIMED_OUT = 408
TOO_LARGE = 413
UNSUPPORTED = 415
TOO_MANY = 429
NOT_FOUND = 404
BAD_REQUEST = 400
UNAUTHORIZED = 401
BAD_GATEWAY = 502
UNAVAILABLE = 503

# As vLLM names them in OpenAI's form, and as Anthropic does in its own.
_TYPES = {
    UNAUTHORIZED: "AuthenticationError",
    NOT_FOUND: "NotFoundError",
    TOO_MANY: "RateLimitError",
    BAD_GATEWAY: "EngineAwayError",
    UNAVAILABLE: "EngineAwayError",
}
_ANTHROPIC_TYPES = {
    UNAUTHORIZED: "authentication_error",
    BAD_REQUEST: "invalid_request_error",
    NOT_FOUND: "not_found_error",
    TOO_LARGE: "request_too_large",
    TOO_MANY: "rate_limit_error",
}


# Seconds after which to ask again.
_RETRY_AFTER = {TOO_MANY: "1", UNAVAILABLE: "10"}
_BUSY_RETRY_AFTER = "1"


class RefusalError(Exception):
    """A request that is refused.

    Args:
        status: of the answer.
        message: for the client.
        param: the field that is wrong; None where it is none.
        ours: what there is to say besides, in a field of its own: programs look for the words that
            they know in the message.
        seconds: after which to ask again; None for what the status says.
    """

    is_busy = False

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        ours: dict[str, Any] | None = None,
        seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.status = status
        self.param = param
        self.ours = ours

    @property
    def retry_after(self) -> str | None:
        """Seconds after which to ask again; None where that would not help."""
        if self.seconds is not None:
            return str(self.seconds)
        return _BUSY_RETRY_AFTER if self.is_busy else _RETRY_AFTER.get(self.status)


class BusyError(RefusalError):
    """A request that there is no memory for at present.

    Args:
        message: for the client.
    """

    is_busy = True

    def __init__(self, message: str) -> None:
        super().__init__(UNAVAILABLE, message)


def in_openai_form(
    status: int, message: str, param: str | None = None, *, is_busy: bool = False
) -> dict[str, Any]:
    """Return a refusal as OpenAI's API words it, with vLLM's types."""
    kind = "OverloadedError" if is_busy else _TYPES.get(status, "BadRequestError")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def in_anthropic_form(
    status: int, message: str, _param: str | None = None, *, is_busy: bool = False
) -> dict[str, Any]:
    """Return a refusal as Anthropic's API words it."""
    kind = "overloaded_error" if is_busy else _ANTHROPIC_TYPES.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}
