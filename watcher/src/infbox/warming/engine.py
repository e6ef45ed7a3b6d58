"""Asking vLLM, for the watcher."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

_SHORT = aiohttp.ClientTimeout(total=5)
# A long pack on a slow machine takes minutes to compute.
_LONG = aiohttp.ClientTimeout(total=1800, sock_connect=5)
_BUSY = frozenset({429, 503})
_OK = 200
_BLOCK_SIZE = re.compile(r'^vllm:cache_config_info\{[^}]*\bblock_size="(\d+)"', re.MULTILINE)


class EngineAwayError(Exception):
    """The engine did not answer, or is too busy to; later it may."""


class EngineBusyError(EngineAwayError):
    """The engine is there, and said that it has too much to do."""


class EngineRefusedError(Exception):
    """The engine refused the request; the message is what it said.

    Args:
        message: for people.
        status: of the answer; None where it was no refusal in form.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Usage:
    """What the engine counted: tokens of the prompt, and those of them that were in its cache.

    ``cached_tokens`` is None when the engine does not tell.
    """

    prompt_tokens: int
    cached_tokens: int | None


class Engine:
    """The engine at one address.

    Every method that returns what the engine said raises EngineAwayError where no answer came,
    EngineBusyError where the engine is too busy, and EngineRefusedError where it will not answer.

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
            async with self._session.get(f"{self._url}/health", timeout=_SHORT) as answer:
                return answer.status == _OK
        except (aiohttp.ClientError, asyncio.TimeoutError):
            return False

    async def complete(self, body: Mapping[str, Any]) -> Usage:
        """Send a completion that does not stream, and return what it cost."""
        return _usage(await self._post("/v1/completions", body))

    async def tokenize(self, body: Mapping[str, Any]) -> list[int]:
        """Return the token ids of a prompt or, through the chat template, of messages."""
        answer = await self._post("/tokenize", body)
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(tokens, list):
            raise EngineRefusedError("the answer of /tokenize has no tokens")
        return tokens

    async def detokenize(self, model: str, tokens: Sequence[int]) -> str:
        """Return the text of token ids."""
        answer = await self._post("/detokenize", {"model": model, "tokens": list(tokens)})
        return str(answer.get("prompt", "")) if isinstance(answer, dict) else ""

    async def path_of(self, model: str) -> str:
        """Return the path that the engine was started with for this model.

        Args:
            model: a name that it serves.
        """
        async with self._asking("GET", "/v1/models") as answer:
            models = await answer.json()
        try:
            return next(str(listed["root"]) for listed in models["data"] if listed["id"] == model)
        except (KeyError, TypeError, StopIteration) as error:
            raise EngineRefusedError(f"/v1/models does not tell where {model} is") from error

    async def block_size(self) -> int | None:
        """Return how many tokens a block of its cache holds; None where it does not tell."""
        async with self._asking("GET", "/metrics") as answer:
            found = _BLOCK_SIZE.search(await answer.text())
        return int(found[1]) if found else None

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        async with self._asking("POST", path, body) as answer:
            return await answer.json()

    @contextlib.asynccontextmanager
    async def _asking(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(
                method, f"{self._url}{path}", json=body, timeout=_LONG if body else _SHORT
            ) as answer:
                if answer.status in _BUSY:
                    raise EngineBusyError(f"busy, status {answer.status}")
                if answer.status != _OK:
                    said = f"{path}: status {answer.status}: {await answer.text()}"
                    raise EngineRefusedError(said[:500], answer.status)
                yield answer
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise EngineAwayError(str(error) or type(error).__name__) from error
        except ValueError as error:
            raise EngineRefusedError(f"the answer of {path} is no JSON") from error


def _usage(answer: Any) -> Usage:
    try:
        usage = answer["usage"]
        details = usage.get("prompt_tokens_details") or {}
        return Usage(int(usage["prompt_tokens"]), details.get("cached_tokens"))
    except (KeyError, TypeError, AttributeError) as error:
        raise EngineRefusedError("the answer has no usage") from error
