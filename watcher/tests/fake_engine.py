"""A small upstream that speaks as vLLM does, for tests of what talks to vLLM."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

METHODS = ["GET", "POST", "PUT", "DELETE", "OPTIONS"]


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def chat(self) -> dict[str, Any]:
        """The body as JSON."""
        value: dict[str, Any] = json.loads(self.body)
        return value


@dataclass
class FakeEngine:
    """What it answers is set by the test; what it was asked is in ``seen``.

    A token is a character of the prompt, and the cache remembers every prompt.
    """

    model: str = "coder"
    served: tuple[str, ...] = ("coder",)
    busy: bool = False
    healthy: bool = True
    encoding: str = ""
    forgets: bool = False
    tells_cached_tokens: bool = True
    delay: float = 0.0
    breaks_off: bool = False
    seen: list[Seen] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    cancelled: int = 0
    url: str = ""

    @property
    def chats(self) -> list[Seen]:
        """The chat requests."""
        return [seen for seen in self.seen if seen.target.startswith("/v1/chat/completions")]

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeEngine]:
        """Listen on a port of its own until the block is left."""
        with serving(self.app()) as self.url:
            yield self

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/{path:path}", self._echo, methods=METHODS),
            ]
        )

    async def _note(self, request: Request) -> Seen:
        body = await request.body()
        query = request.url.query
        target = request.scope["raw_path"].decode() + (f"?{query}" if query else "")
        seen = Seen(request.method, target, list(request.headers.raw), body)
        self.seen.append(seen)
        return seen

    async def _echo(self, request: Request) -> Response:
        seen = await self._note(request)
        answer = Response(seen.body)
        answer.headers.append("x-seen", "a")
        answer.headers.append("x-seen", "b")
        if self.encoding:
            answer.headers["content-encoding"] = self.encoding
        return answer

    async def _health(self, _request: Request) -> Response:
        return Response(status_code=200 if self.healthy else 503)

    async def _models(self, request: Request) -> Response:
        await self._note(request)
        cards = [{"id": name, "object": "model", "max_model_len": 4096} for name in self.served]
        return JSONResponse({"object": "list", "data": cards})

    async def _chat(self, request: Request) -> Response:
        seen = await self._note(request)
        if self.busy:
            return JSONResponse({"error": {"message": "busy"}}, 503)
        try:
            chat = seen.chat
        except (ValueError, RecursionError):
            chat = {}
        if not isinstance(chat, dict) or "messages" not in chat:
            return JSONResponse({"error": {"message": "malformed"}}, 400)
        if chat.get("model") not in self.served:
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        if chat.get("stream"):
            return StreamingResponse(self._events(), media_type="text/event-stream")
        return await self._whole_answer(request, chat)

    async def _whole_answer(self, request: Request, chat: dict[str, Any]) -> Response:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            ends = time.monotonic() + self.delay
            while time.monotonic() < ends:
                if await request.is_disconnected():
                    self.cancelled += 1
                    return PlainTextResponse("")
                await asyncio.sleep(0.01)
        finally:
            self.under_way -= 1
        return JSONResponse({"model": self.model, "choices": [], "usage": self._usage(chat)})

    def _usage(self, chat: dict[str, Any]) -> dict[str, Any]:
        prompt = json.dumps(chat["messages"])
        cached = max((_common_length(prompt, old) for old in self.prompts), default=0)
        self.prompts.append(prompt)
        usage: dict[str, Any] = {"prompt_tokens": len(prompt), "completion_tokens": 1}
        if self.tells_cached_tokens:
            usage["prompt_tokens_details"] = {"cached_tokens": 0 if self.forgets else cached}
        return usage

    async def _events(self) -> AsyncIterator[bytes]:
        self.under_way += 1
        try:
            for number in range(5):
                yield f'data: {{"n": {number}}}\n\n'.encode()
                await asyncio.sleep(self.delay)
                if self.breaks_off:
                    raise RuntimeError("the test asked for it")
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1


def _common_length(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
