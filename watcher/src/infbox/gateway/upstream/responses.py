"""Handing vLLM's answers on, and reading from them what they cost."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import aiohttp

from infbox.gateway.refusals import BAD_REQUEST
from infbox.gateway.upstream import client
from infbox.metrics import Usage

if TYPE_CHECKING:
    from infbox.gateway.apis import Api
    from infbox.gateway.connection import Headers, Outgoing

_TAIL_BYTES = 4096  # the end of an answer that is broken off
_USAGE_BYTES = 4096  # of a usage, at most
_MARK_BYTES = 64  # before its object, however it is written
_WHOLE_BYTES = 1024 * 1024  # an answer is held so far, for its usage to become a header
_EVENT_BYTES = 256 * 1024  # an event is held so far until it is whole

_USAGE = re.compile(rb'"usage":\s*(?=\{)')
_DECODER = json.JSONDecoder()

# How vLLM itself ends a stream that it cannot finish, on one API or another. No text of a model has
# this, as line ends and quotes are escaped within JSON.
_FAILED = re.compile(rb'(?:^|\n)(?:event: ?error\n|data: ?\{"error":)')


async def hand_on(
    answer: aiohttp.ClientResponse,
    marks: Headers,
    api: Api,
    outgoing: Outgoing,
    *,
    drops_usage: bool = False,
) -> Usage | None:
    """Hand an answer on as it comes, or at once where it is whole and small.

    An answer that vLLM breaks off ends in the API's error event where it is a stream of events,
    else in a connection that is closed early: never in what looks whole. Of one that had not begun
    to go to the client nothing goes there. What it cost is noted in ``outgoing`` too, as far as it
    said so by then, where the client leaves before the end.

    Args:
        answer: of vLLM.
        marks: further headers.
        api: the API that it is an answer of.
        outgoing: where it goes.
        drops_usage: whether the event of a stream that says nothing but what it cost is left out.

    Returns:
        What it cost; None where it does not say.

    Raises:
        aiohttp.ClientError: vLLM broke off what is no stream of events, or had not begun.
    """
    headers = [*client.answer_headers(answer), *marks]
    if answer.content_type == "text/event-stream":
        await outgoing.start(answer.status, headers)
        return await _hand_on_events(answer, api, outgoing, drops_usage=drops_usage)
    is_small = (answer.content_length or _WHOLE_BYTES + 1) <= _WHOLE_BYTES
    if answer.status >= BAD_REQUEST or (marks and is_small):
        return await _hand_on_whole(answer, headers, outgoing)
    await outgoing.start(answer.status, headers)
    usage = UsageReader()
    try:
        async for chunk in answer.content.iter_any():
            usage.take(chunk)
            await outgoing.write(chunk)
        await outgoing.end()
    finally:
        outgoing.usage = usage.found
    return outgoing.usage


async def _hand_on_whole(
    answer: aiohttp.ClientResponse, headers: Headers, outgoing: Outgoing
) -> Usage | None:
    """Hand an answer on once it is whole, with its count of cached tokens in a header."""
    body = await answer.read()
    usage = outgoing.usage = usage_in(body)
    if usage and usage.cached is not None:
        headers = [*headers, (b"x-infbox-cached-tokens", str(usage.cached).encode())]
    await outgoing.start(answer.status, headers)
    await outgoing.write(body)
    await outgoing.end()
    return usage


async def _hand_on_events(
    answer: aiohttp.ClientResponse, api: Api, outgoing: Outgoing, *, drops_usage: bool
) -> Usage | None:
    events, usage, tail, is_whole = Events(), UsageReader(), b"", False
    try:
        try:
            async for chunk in answer.content.iter_any():
                whole = events.take(chunk)
                usage.take(whole)
                tail = _end(tail, whole)
                if told := without_usage(whole) if drops_usage else whole:
                    await outgoing.write(told)
        except aiohttp.ClientError:
            if events.is_torn or not outgoing.status:
                raise
            outgoing.is_cut = True
            await outgoing.write(api.broken_off(tail))
        else:
            outgoing.is_cut = _FAILED.search(_end(tail, events.rest)) is not None
            is_whole = not outgoing.is_cut
            if told := without_usage(events.rest) if drops_usage else events.rest:
                await outgoing.write(told)
        await outgoing.end()
    finally:
        _state_usage(outgoing, usage.found, is_whole=is_whole)
    return outgoing.usage


def _state_usage(outgoing: Outgoing, usage: Usage | None, *, is_whole: bool) -> None:
    """Note what a stream said that it cost. Anthropic's first event has the tokens of the prompt,
    and only the last one says how many of them came from the cache."""
    if is_whole or usage is None or usage.cached is not None:
        outgoing.usage = usage
    else:
        outgoing.stated_prompt = usage.prompt


class UsageReader:
    """Finds the last usage that passes by: what a client may have put behind it can be long."""

    def __init__(self) -> None:
        self._kept = b""  # from the last mark on, as far as a usage may go
        self._end = b""  # of what passed by, in which a mark may begin

    def take(self, chunk: bytes) -> None:
        """Look at the next piece of an answer."""
        joined = self._end + chunk
        places = [match.start() for match in _USAGE.finditer(joined)]
        if places:
            self._kept = joined[places[-1] :][:_USAGE_BYTES]
        elif self._kept:
            self._kept += chunk[: _USAGE_BYTES - len(self._kept)]
        self._end = joined[-_MARK_BYTES:]

    @property
    def found(self) -> Usage | None:
        """The usage; None where there was none."""
        return usage_in(self._kept)


class Events:
    """A stream of events, cut where one ends, so that one of ours can follow at any time."""

    def __init__(self) -> None:
        self.rest = b""
        """The beginning of an event."""
        self.is_torn = False
        """Whether an event was so long that its beginning is already given away."""

    def take(self, chunk: bytes) -> bytes:
        """Return as much as is whole of what came so far and was not yet returned."""
        if self.rest:
            chunk = self.rest + chunk
        end = chunk.rfind(b"\n\n") + 2
        if end > 1:
            self.is_torn = False
        elif self.is_torn or len(chunk) > _EVENT_BYTES:
            self.is_torn, end = True, len(chunk) - 1  # a line's end may come in two pieces
        else:
            end = 0
        self.rest = chunk[end:]
        return chunk[:end]


def without_usage(events: bytes) -> bytes:
    """Return events of a stream without the one that says nothing but what it cost."""
    if not _USAGE.search(events):
        return events
    return b"\n\n".join(event for event in events.split(b"\n\n") if not _is_usage(event))


def _is_usage(event: bytes) -> bool:
    told = parsed(event.removeprefix(b"data:")) if event.startswith(b"data:") else None
    return told is not None and told.get("choices") == [] and isinstance(told.get("usage"), dict)


def parsed(data: bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def usage_in(data: bytes) -> Usage | None:
    """Return the last usage that an answer, or its end, tells of; None where there is none."""
    places = [match.end() for match in _USAGE.finditer(data)]
    if not places:
        return None
    try:
        told, _ = _DECODER.raw_decode(data[places[-1] :].decode(errors="replace"))
        return _usage(told)
    except (ValueError, TypeError, AttributeError):
        return None


def _usage(told: dict[str, Any]) -> Usage:
    """Read a usage in the words of any of the APIs."""
    if "prompt_tokens" in told:
        cached = (told.get("prompt_tokens_details") or {}).get("cached_tokens")
        return Usage(told["prompt_tokens"], cached, told.get("completion_tokens") or 0)
    prompt, completion = int(told.get("input_tokens") or 0), int(told.get("output_tokens") or 0)
    if "input_tokens_details" in told:
        cached = (told["input_tokens_details"] or {}).get("cached_tokens")
        return Usage(prompt, cached, completion)
    cached = told.get("cache_read_input_tokens")  # Anthropic counts the others only as input
    others = (cached or 0) + (told.get("cache_creation_input_tokens") or 0)
    return Usage(prompt + others, cached, completion)


def _end(tail: bytes, chunk: bytes) -> bytes:
    return chunk[-_TAIL_BYTES:] if len(chunk) >= _TAIL_BYTES else (tail + chunk)[-_TAIL_BYTES:]
