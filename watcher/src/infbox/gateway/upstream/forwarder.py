"""Handing a request to vLLM and its answer back, byte for byte.

aiohttp is the client: it gives an answer's bytes and headers as they came, stops reading when the
reader is slow, and spends a third of httpx's time on a request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import aiohttp
import anyio
from multidict import CIMultiDict
from yarl import URL

from infbox.gateway import fields
from infbox.gateway.refusals import TIMED_OUT, RefusalError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http import StreamWriter
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from infbox.gateway.bodies import Lease

Headers = list[tuple[bytes, bytes]]
Pieces = Sequence[bytes | memoryview]

# vLLM closes connections that were idle for 5 s. One that is taken from the pool just then fails a
# question, which must not be sent twice; so they are given up well before.
_IDLE_SECONDS = 2
_BODY_SECONDS = 300
_DRAIN_SECONDS = 30
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


class TooLargeError(Exception):
    """The request's body is over the limit."""


class ClientGoneError(Exception):
    """The client closed the connection before its request was whole."""


class BadRequestError(Exception):
    """The request cannot be handed on; the message says why."""


class Incoming:
    """A client's request: its body, and after that the client's leaving.

    Args:
        scope: of the request.
        receive: of the request.
        limit: of the body, in bytes.
    """

    def __init__(self, scope: Scope, receive: Receive, limit: int) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._scope = scope
        self._receive = receive
        self._limit = limit
        self._whole = asyncio.Event()
        self.failure: TooLargeError | ClientGoneError | None = None
        """Why the body did not come whole."""

    @property
    def headers(self) -> Headers:
        """The headers, in order, names in lower case."""
        return list(self._scope["headers"])

    @property
    def target(self) -> str:
        """The path and query as they were sent.

        Raises:
            BadRequestError: it is no path, and would change whom we ask.
        """
        path: bytes = self._scope["raw_path"]
        query: bytes = self._scope["query_string"]
        if not path.startswith(b"/"):
            raise BadRequestError("the request's target is not a path")
        return (path + (b"?" + query if query else b"")).decode("ascii", "surrogateescape")

    def header(self, name: bytes) -> list[str]:
        """Return the values of a header, each once, in order.

        Args:
            name: in lower case.
        """
        values = [value.strip().decode("latin-1") for key, value in self.headers if key == name]
        return list(dict.fromkeys(values))

    @property
    def has_body(self) -> bool:
        """Whether the headers announce one."""
        names = {name for name, value in self.headers if value != b"0"}
        return b"content-length" in names or b"transfer-encoding" in names

    def check_announced_size(self) -> None:
        """Look at what the headers say of the body's size.

        Raises:
            TooLargeError: it is over the limit.
        """
        if self._announced > self._limit:
            raise TooLargeError

    @property
    def _announced(self) -> int:
        """Bytes of the body, as the headers say; 0 where they do not."""
        announced = dict(self.headers).get(b"content-length", b"0")
        return int(announced) if announced.isdigit() else 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises:
            TooLargeError: it is over the limit.
            ClientGoneError: it ended early.
        """
        size = 0
        while not self._whole.is_set():
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.failure = ClientGoneError()
                raise self.failure
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > self._limit:
                self.failure = TooLargeError()
                raise self.failure
            if not message.get("more_body", False):
                self._whole.set()
            if chunk:
                yield chunk

    async def body(self, lease: Lease) -> list[bytes]:
        """Return the whole body, in pieces.

        Args:
            lease: of the memory that it takes.

        Raises:
            TooLargeError: it is over the limit.
            ClientGoneError: it ended early.
            RefusalError: there is no memory for it, or it takes too long.
        """
        chunks: list[bytes] = []
        size = 0
        # All of it at once: of several that come together some have room then, instead of none.
        lease.resize(self._announced)
        try:
            with anyio.fail_after(_BODY_SECONDS):
                async for chunk in self.chunks():
                    size += len(chunk)
                    lease.resize(max(size, lease.size))
                    chunks.append(chunk)
        except TimeoutError:
            message = f"The body did not come whole within {_BODY_SECONDS} seconds."
            raise RefusalError(TIMED_OUT, message) from None
        return chunks

    async def drain(self) -> None:
        """Read what is left of the body, and keep nothing of it: most clients look for an answer
        once they have sent all."""
        with (
            contextlib.suppress(TooLargeError, ClientGoneError),
            anyio.move_on_after(_DRAIN_SECONDS),
        ):
            async for _ in self.chunks():
                pass

    async def client_gone(self) -> None:
        """Return when the client has closed the connection, its request being whole."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Outgoing:
    """An answer on its way to the client.

    Args:
        send: of the request.
        marks: further headers of it, whatever it is.
    """

    def __init__(self, send: Send, marks: Headers | None = None) -> None:
        self._send = send
        self.marks = marks or []
        """Further headers, until it began."""
        self.status = 0
        """0 until the answer began."""

    async def start(self, status: int, headers: Headers) -> None:
        """Send the status and the headers."""
        self.status = status
        headers = [*headers, *self.marks]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body; this waits while the client is slow to read."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """Say that the answer is whole. Without it the client sees a broken connection."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def respond(self, response: Response) -> None:
        """Send a whole answer of our own."""
        await self.start(response.status_code, list(response.raw_headers))
        await self.write(bytes(response.body))
        await self.end()


class LateOutgoing(Outgoing):
    """An answer that begins with the first of its body: until then it may be another one yet.

    Args:
        send: of the request.
        marks: further headers of it, whatever it is.
    """

    def __init__(self, send: Send, marks: Headers | None = None) -> None:
        super().__init__(send, marks)
        self._head: tuple[int, Headers] | None = None

    async def start(self, status: int, headers: Headers) -> None:
        """Keep the status and the headers; what was kept before is forgotten."""
        self._head = status, headers

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body; this waits while the client is slow to read."""
        await self._begin()
        await super().write(chunk)

    async def end(self) -> None:
        """Say that the answer is whole. Without it the client sees a broken connection."""
        await self._begin()
        await super().end()

    async def _begin(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            await super().start(*head)


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
