"""Asking vLLM, for the watcher."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=5)
# A long pack on a slow machine takes minutes to compute.
_ASK_TIMEOUT = aiohttp.ClientTimeout(total=1800, sock_connect=5)
_BUSY = frozenset({429, 503})
_OK = 200


class EngineAwayError(Exception):
    """The engine did not answer, or is too busy to; later it may."""


class EngineRefusedError(Exception):
    """The engine refused the request; the message is what it said."""


@dataclass(frozen=True)
class Usage:
    """What the engine counted: tokens of the prompt, and those of them that were in its cache.

    ``cached_tokens`` is None when the engine does not tell.
    """

    prompt_tokens: int
    cached_tokens: int | None


class Engine:
    """The engine at one address.

    Args:
        session: for the requests; the caller closes it.
        url: the engine's base address.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def is_healthy(self) -> bool:
        """Say whether the engine answers that it can serve."""
        try:
            async with self._session.get(f"{self._url}/health", timeout=_HEALTH_TIMEOUT) as answer:
                return answer.status == _OK
        except (aiohttp.ClientError, asyncio.TimeoutError):
            return False

    async def chat(self, body: Mapping[str, Any]) -> Usage:
        """Send a chat request that does not stream, and return what it cost.

        Raises:
            EngineAwayError: no answer came, or the engine is too busy.
            EngineRefusedError: the engine will not answer this request.
        """
        url = f"{self._url}/v1/chat/completions"
        try:
            async with self._session.post(url, json=body, timeout=_ASK_TIMEOUT) as answer:
                if answer.status in _BUSY:
                    raise EngineAwayError(f"busy, status {answer.status}")
                if answer.status != _OK:
                    raise EngineRefusedError(f"status {answer.status}: {await answer.text()}"[:500])
                return _usage(await answer.json())
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise EngineAwayError(str(error) or type(error).__name__) from error


def _usage(answer: object) -> Usage:
    try:
        usage = answer["usage"]  # type: ignore[index]
        details = usage.get("prompt_tokens_details") or {}
        return Usage(int(usage["prompt_tokens"]), details.get("cached_tokens"))
    except (KeyError, TypeError, AttributeError) as error:
        raise EngineRefusedError("the answer has no usage") from error
