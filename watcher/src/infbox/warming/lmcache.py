"""Asking LMCache to bring KV from its disk into its memory, and to drop what must not be kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SHORT = aiohttp.ClientTimeout(total=10, sock_connect=2)
_OK, _ACCEPTED, _NOT_READY = 200, 202, 503
_CHUNK_TOKENS = 256
_KEYS_AT_ONCE = 5000  # of 10,000 that it takes


@dataclass(frozen=True)
class Prefetched:
    """How a prefetch ended.

    Attributes:
        result: ``loaded`` all, ``partly``, ``nothing`` was stored, ``short`` of one chunk,
            ``slow``: it was not waited for any longer, ``unregistered``: LMCache does not know
            the model yet, ``away``, or ``refused``.
        found: pieces of KV that are in memory now.
        wanted: pieces that were asked for.
        tokens: that are surely in memory now, from the first on.
        reason: what LMCache said, where it did not do it.
    """

    result: str
    found: int = 0
    wanted: int = 0
    tokens: int = 0
    reason: str = ""


class _FailedError(Exception):
    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result


class LMCache:
    """LMCache's HTTP interface at one address.

    Args:
        session: for the requests; the caller closes it.
        url: the base address.
        longest: seconds to wait for one prefetch.
        first_pause: seconds between looks at how far it is; they grow to a second.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        longest: float = 60.0,
        first_pause: float = 0.02,
    ) -> None:
        self._session = session
        self._url = url
        self._longest = longest
        self._first_pause = first_pause

    async def prefetch(self, model_path: str, tokens: Sequence[int], salt: str = "") -> Prefetched:
        """Have the KV of a prompt brought from disk to memory, and wait for it.

        Args:
            model_path: what vLLM was started with.
            tokens: ids of the prompt; whole chunks of it are stored.
            salt: under which they are; empty for none.

        Returns:
            How it ended; nothing is raised, since the engine can always compute.
        """
        ends = time.monotonic() + self._longest
        try:
            world_size, chunk = await self._layout(model_path)
            body = {
                "model_name": model_path,
                "world_size": world_size or 1,
                "token_ids": list(tokens),
                "cache_salt": salt,
            }
            begun = await self._ask("POST", "/cache/prefetches", body)
            if not begun.get("request_id"):
                return Prefetched("short")
            done = await self._completion(str(begun["request_id"]), ends)
        except _FailedError as failure:
            return Prefetched(failure.result, reason=str(failure))
        found, wanted = int(done.get("found_keys", 0)), int(done.get("total_keys", 0))
        if found and found >= wanted:
            return Prefetched("loaded", found, wanted, len(tokens) // chunk * chunk)
        return Prefetched("partly" if found else "nothing", found, wanted)

    async def drop(
        self, model_path: str, names: Sequence[bytes], salts: Sequence[str] = ("",)
    ) -> str:
        """Drop pieces of KV from memory and from each disk tier.

        Args:
            model_path: what vLLM was started with.
            names: hashes of the chunks.
            salts: under which they may be kept; the empty one is none.

        Returns:
            Why it was not done; empty where it was.
        """
        try:
            world_size, _ = await self._layout(model_path)
            if not world_size:  # how many pieces there are of each chunk
                return "no engine has registered the model with LMCache yet"
            keys = [
                {
                    "chunk_hash_hex": name.hex(),
                    "model_name": model_path,
                    "kv_rank": _kv_rank(world_size, rank),
                    "cache_salt": salt,
                }
                for name in names
                for salt in salts
                for rank in range(world_size)
            ]
            tiers: list[dict[str, Any]] = [{"tier": "l1", "force": True}]
            adapters = (await self._ask("GET", "/config/adapters")).get("adapters", ())
            tiers += [{"tier": "l2", "adapter": each["type_name"]} for each in adapters]
            for tier in tiers:
                for start in range(0, len(keys), _KEYS_AT_ONCE):
                    body = {"keys": keys[start : start + _KEYS_AT_ONCE], **tier}
                    done = await self._ask("DELETE", "/cache/objects", body)
                    if not done.get("ok", False):
                        return str(done.get("error") or done)
        except (_FailedError, KeyError, TypeError) as failure:
            return str(failure) or type(failure).__name__
        return ""

    async def chunk_tokens(self, model_path: str) -> int:
        """Return the tokens of a chunk; the usual number where LMCache does not say."""
        try:
            return (await self._layout(model_path))[1]
        except _FailedError:
            return _CHUNK_TOKENS

    async def _layout(self, model_path: str) -> tuple[int, int]:
        """Return over how many ranks the model's KV is spread, as its workers registered, 0 where
        none did, and the tokens of a chunk."""
        status = await self._ask("GET", "/status")
        sizes = (
            entry["world_size"]
            for entry in _mappings(status)
            if entry.get("model_name") == model_path and isinstance(entry.get("world_size"), int)
        )
        return next(sizes, 0), int(status.get("chunk_size") or _CHUNK_TOKENS)

    async def _completion(self, request: str, ends: float) -> dict[str, Any]:
        pause = self._first_pause
        while True:
            answer = await self._ask("GET", f"/cache/prefetches/{request}")
            if answer.get("status") == "completed":
                return answer
            if time.monotonic() + pause > ends:
                raise _FailedError("slow", f"not done in {self._longest:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        with _failures():
            async with self._session.request(
                method, f"{self._url}{path}", json=body, timeout=_SHORT
            ) as answer:
                if answer.status == _NOT_READY:
                    raise _FailedError("unregistered", (await answer.text())[:300])
                if answer.status not in (_OK, _ACCEPTED):
                    said = f"{path}: status {answer.status}: {await answer.text()}"
                    raise _FailedError("refused", said[:300])
                value = await answer.json()
        if not isinstance(value, dict):
            raise _FailedError("refused", f"the answer of {path} is no object")
        return value


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        raise _FailedError("away", str(error) or type(error).__name__) from error
    except ValueError as error:
        raise _FailedError("refused", "the answer is no JSON") from error


def _kv_rank(world_size: int, rank: int) -> int:
    """Return the number by which LMCache knows one of an engine's workers."""
    return world_size << 24 | rank << 16 | world_size << 8 | rank


def _mappings(value: object) -> Iterator[dict[str, Any]]:
    """Yield every mapping within a piece of JSON."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _mappings(inner)
