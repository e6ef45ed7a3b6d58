"""A client's connection: the request as it comes, and the answer on its way, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import anyio

from infbox.auth import audit
from infbox.gateway.refusals import TIMED_OUT, RefusalError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from infbox.gateway.bodies import Lease
    from infbox.metrics import Usage

Headers = list[tuple[bytes, bytes]]

_BODY_SECONDS = 300
_DRAIN_SECONDS = 30
_EVENT = b"data: {"


class BadRequestError(Exception):
    """The request cannot be handed on; the message says why."""


class TooLargeError(Exception):
    """The request's body is over the limit."""


class ClientGoneError(Exception):
    """The client closed the connection before its request was whole."""


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

    def note(self, **facts: object) -> None:
        """Note what the record of this request is to say; arguments as for ``audit.note``."""
        audit.note(self._scope, **facts)

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
        # All of it at once: of several that come together some have space then, instead of none.
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
        self.usage: Usage | None = None
        """What the answer cost, as far as it said so."""
        self.stated_prompt: int | None = None
        """Tokens of the prompt, those from the cache included, where that is all that a stream said
        before it ended early."""
        self.events = 0
        """Of a stream that went to the client so far; of what is none, 0."""
        self.is_cut = False
        """Whether vLLM broke the answer off, or ended it in an error event."""
        self.tap: Callable[[bytes], None] | None = None
        """Called with each piece of the body before it goes to the client."""

    async def start(self, status: int, headers: Headers) -> None:
        """Send the status and the headers."""
        self.status = status
        headers = [*headers, *self.marks]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body; this waits while the client is slow to read."""
        self.events += chunk.count(_EVENT)
        if self.tap is not None:
            self.tap(chunk)
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
