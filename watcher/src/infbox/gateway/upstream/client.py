"""Handing a request to vLLM and its answer back, byte for byte.

aiohttp is the client: it gives an answer's bytes and headers as they came, stops reading when the
reader is slow, and spends a third of httpx's time on a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from infbox.gateway import fields
from infbox.gateway.connection import BadRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http import StreamWriter

    from infbox.gateway.connection import Headers, Incoming

Pieces = Sequence[bytes | memoryview]

# vLLM closes connections that were idle for 5 s. One that is taken from the pool just then fails a
# question, which must not be sent twice; so they are given up well before.
_IDLE_SECONDS = 2
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5)
_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization"),
        *(b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
_OF_ONE_REQUEST = _HOP_BY_HOP | {b"host", b"expect"}
_NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

AWAY = (aiohttp.ClientError, asyncio.TimeoutError)
"""What is raised where vLLM does not answer, or breaks off."""

NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""What of it is raised before anything was sent, so that to ask again repeats nothing."""

# vLLM's words for a request that came after it was told to end. It has not begun it.
_ENDING = b"cannot schedule new futures after shutdown"
_ENDING_STATUS = 500

# vLLM's words while its server is there and its core is not: the core ended or was ended.
_DEAD = b"EngineCore encountered an issue"


def session() -> aiohttp.ClientSession:
    """Return a client that adds nothing to a request and takes nothing from an answer."""
    return aiohttp.ClientSession(
        auto_decompress=False,
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_NOT_ADDED,
        timeout=_TIMEOUT,
    )


def ask(
    client: aiohttp.ClientSession,
    base: str,
    incoming: Incoming,
    pieces: Pieces | None,
    headers: Headers | None = None,
) -> aiohttp.client._RequestContextManager:
    """Send a request on; the result is a context that holds the answer.

    Args:
        client: as made by ``session``.
        base: address of the engine.
        incoming: the client's request.
        pieces: of the body to send in place of the client's own; None to hand that on as it
            comes. They are sent one after the other, and not joined.
        headers: in place of the client's own.

    Raises:
        BadRequestError: the request cannot be handed on.
    """
    data: AsyncIterator[bytes] | _Body | None = None
    if pieces is not None:
        data = _Body(pieces)
    elif incoming.has_body:
        data = incoming.chunks()
    return client.request(
        incoming.method,
        URL(base + incoming.target, encoded=True),
        headers=_request_headers(headers or incoming.headers, is_whole=pieces is not None),
        data=data,
        allow_redirects=False,
    )


async def is_ending(answer: aiohttp.ClientResponse) -> bool:
    """Return whether vLLM has refused a request since it is about to end.

    While it finishes what is under way, it answers new requests so, and its ``/health`` with 200.
    """
    return answer.status == _ENDING_STATUS and _ENDING in await answer.read()


async def is_dead(answer: aiohttp.ClientResponse) -> bool:
    """Return whether vLLM has refused a request since its core has ended.

    It may have begun the request, but nothing of an answer has come.
    """
    return answer.status == _ENDING_STATUS and _DEAD in await answer.read()


def engine_headers(headers: Headers) -> Headers:
    """Return the headers of a request that are for vLLM, which obeys some that are for nobody."""
    kept = _without(headers, _HOP_BY_HOP)
    return [(name, value) for name, value in kept if name in fields.HEADERS]


def answer_headers(answer: aiohttp.ClientResponse) -> Headers:
    """Return the headers of an answer that are meant for the client."""
    return _without(list(answer.raw_headers), _HOP_BY_HOP)


class _Body(aiohttp.Payload):
    """A body in pieces, written without joining them, and forgotten once it is.

    They are given to the transport together, which holds and sends them as they are. It would else
    be waited for after each large one, and the last few bytes be sent a moment later.
    """

    def __init__(self, pieces: Pieces) -> None:
        super().__init__(list(pieces))
        self._size = sum(map(len, pieces))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        pieces, self._value = self._value, []
        for piece in pieces:
            await cast("StreamWriter", writer).write(piece, drain=False)
        pieces.clear()
        await writer.drain()


def _request_headers(headers: Headers, *, is_whole: bool) -> CIMultiDict[str]:
    kept = _without(headers, _OF_ONE_REQUEST)
    if is_whole:  # its length is known to the client's library
        kept = _without(kept, frozenset({b"content-length"}))
    try:
        return CIMultiDict((name.decode(), value.decode()) for name, value in kept)
    except UnicodeDecodeError as error:
        raise BadRequestError("a header is neither ASCII nor UTF-8") from error


def _without(headers: Headers, names: frozenset[bytes]) -> Headers:
    """Drop these headers, and those that ``Connection`` says are for one hop only."""
    listed = b",".join(value for name, value in headers if name.lower() == b"connection")
    dropped = names | {name.strip().lower() for name in listed.split(b",")}
    return [(name, value) for name, value in headers if name.lower() not in dropped]
