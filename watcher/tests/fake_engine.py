"""A small upstream that speaks as vLLM and LMCache do, for tests of what talks to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import chat_templates
import fake_apis
from serving import ANY, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from starlette.requests import Request

    from infbox.config import Listen

METHODS = ["GET", "POST", "PUT", "DELETE", "OPTIONS"]

MALFORMED = (ValueError, RecursionError, AttributeError, TypeError, LookupError)
"""What reading a request can raise."""

PATH = "/models/coder"
"""What the engine says it was started with."""

ENDING = {"error": {"message": "cannot schedule new futures after shutdown"}}
"""What vLLM says once it was told to end, of requests that come after that."""

DEAD = {"error": {"message": "EngineCore encountered an issue. See stack trace (above)."}}
"""What its server says once its core has ended."""

_NEWLINES = 0x110000  # ids above every character's


class TemplateRefusalError(Exception):
    """What a chat template raises."""


def render(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    """A chat template as most are: the system message first, unaltered, then the tools."""
    system, rest = split(messages)
    head = f"<system>\n{system}{''.join(map(str, tools))}<end>\n" if system or tools else ""
    return head + turns(rest)


def split(messages: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The system text, and the other messages."""
    first = messages[0] if messages else {}
    is_system = first.get("role") == "system"
    return (first["content"] if is_system else ""), messages[is_system:]


def turns(messages: list[dict[str, Any]]) -> str:
    """The messages after the system's, and the beginning of an answer."""
    return "".join(f"<{m['role']}>\n{m['content']}<end>\n" for m in messages) + "<assistant>\n"


def encode(text: str) -> list[int]:
    """A token is a character, but newlines beside each other are one: they merge, as in real
    vocabularies."""
    parts = re.findall(r"\n+|[^\n]", text)
    return [_NEWLINES + len(part) if part[0] == "\n" else ord(part) for part in parts]


def decode(tokens: Sequence[int]) -> str:
    """The text of tokens."""
    return "".join("\n" * (t - _NEWLINES) if t > _NEWLINES else chr(t) for t in tokens)


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

    Its cache remembers every prompt, in blocks of ``block`` tokens.
    """

    model: str = "coder"
    served: tuple[str, ...] = ("coder",)
    busy: bool = False
    ending: bool = False
    deaths: int = 0  # so many questions are answered by DEAD
    healthy: bool = True
    encoding: str = ""
    forgets: bool = False
    tells_cached_tokens: bool = True
    delay: float = 0.0
    end_delay: float = 0.0  # between the last event of a stream and its end
    breaks_off: bool = False
    breaks_first: bool = False
    breaks_within: bytes = b""
    breaks_whole: bool = False
    fails: bool = False  # in the middle of a stream, which tells so and ends
    event: bytes = b""
    events: int = 5
    states_prompt: bool = False
    sent: int = 0
    window: int = 0
    template: Callable[[list[dict[str, Any]], list[Any]], str] = render
    chat_template: str = ""
    block: int = 1
    prefetch: str = "loaded"
    keeps: bool = False
    dropped: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    longest: int = 0
    seen: list[Seen] = field(default_factory=list)
    prompts: list[Sequence[object]] = field(default_factory=list)
    salts: dict[int, str] = field(default_factory=dict)  # of prompts that have one
    under_way: int = 0
    most_under_way: int = 0
    cancelled: int = 0
    url: str = ""

    @property
    def chats(self) -> list[Seen]:
        """The chat requests."""
        return [seen for seen in self.seen if seen.target.startswith("/v1/chat/completions")]

    @property
    def warm_ups(self) -> list[Seen]:
        """The completions by token ids."""
        return [seen for seen in self.seen if seen.target == "/v1/completions"]

    @property
    def tokenized(self) -> list[Seen]:
        """What was tokenised."""
        return [seen for seen in self.seen if seen.target == "/tokenize"]

    def targets(self) -> list[str]:
        """What was asked for, in order."""
        return [seen.target for seen in self.seen]

    @contextlib.contextmanager
    def running(self, listen: Listen = ANY) -> Iterator[FakeEngine]:
        """Listen until the block is left, on a port of its own where none is given."""
        with serving(self.app(), listen) as self.url:
            yield self

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/version", self._version),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/responses", self._chat, methods=["POST"]),
                Route("/v1/messages", self._chat, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/detokenize", self._detokenize, methods=["POST"]),
                Route("/metrics", self._metrics),
                Route("/status", self._lmcache_status),
                Route("/config/adapters", self._lmcache_adapters),
                Route("/cache/objects", self._drop, methods=["DELETE"]),
                Route("/cache/prefetches", self._begin_prefetch, methods=["POST"]),
                Route("/cache/prefetches/{id}", self._tell_prefetch),
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

    async def _version(self, _request: Request) -> Response:
        return JSONResponse({"version": "0.0.fake"})

    async def _models(self, request: Request) -> Response:
        await self._note(request)
        models = [
            {"id": name, "object": "model", "max_model_len": 4096, "root": PATH}
            for name in self.served
        ]
        return JSONResponse({"object": "list", "data": models})

    async def _chat(self, request: Request) -> Response:
        seen = await self._note(request)
        path = request.url.path
        if self.busy or self.ending or self.deaths:
            return self._unwilling()
        prompt, said = None, "malformed"
        try:
            prompt = self._prompt(path, seen.chat)
        except chat_templates.RefusedError as refusal:
            said = str(refusal)
        except MALFORMED:
            pass
        if prompt is None:
            return JSONResponse({"error": {"message": said}}, 400)
        if seen.chat.get("model", self.model) not in self.served:
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        if self.window and len(prompt) > self.window:
            message = f"This model's maximum context length is {self.window} tokens."
            return JSONResponse(fake_apis.refused(path, message), 400)
        if seen.chat.get("stream"):
            tells = path not in fake_apis.ASKED or asks_usage(seen.chat)
            events = self._events(path, prompt, self._salt(), tells=tells)
            return StreamingResponse(events, media_type="text/event-stream")
        return await self._whole_answer(request, prompt)

    def _prompt(self, path: str, body: dict[str, Any]) -> str | None:
        """What a request becomes: text where there is a chat template, else the messages."""
        if not self.chat_template or path == fake_apis.COMPLETIONS:
            return fake_apis.prompt_of(path, body)
        merges = chat_templates.merges(self.chat_template)
        chat = fake_apis.as_chat(path, body, merges=merges)
        return chat_templates.render(self.chat_template, chat, body.get("tools"))

    async def _count(self, request: Request) -> Response:
        seen = await self._note(request)
        try:
            prompt = self._prompt(fake_apis.MESSAGES, seen.chat) or ""
        except MALFORMED:
            return JSONResponse({"error": {"message": "malformed"}}, 400)
        return JSONResponse({"input_tokens": len(prompt)})

    async def _complete(self, request: Request) -> Response:
        try:
            prompt = json.loads(await request.body())["prompt"]
            is_ids = isinstance(prompt[0], int)
        except MALFORMED:
            is_ids = False
        if not is_ids:
            return await self._chat(request)
        await self._note(request)
        if self.busy:
            return JSONResponse({"error": {"message": "busy"}}, 503)
        if self.longest and len(prompt) > self.longest:
            return JSONResponse({"error": {"message": "too long"}}, 400)
        return await self._whole_answer(request, prompt)

    async def _tokenize(self, request: Request) -> Response:
        asked = (await self._note(request)).chat
        if self.busy or self.ending:
            return self._unwilling()
        if asked.get("model") not in self.served:
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        try:
            text = self._rendered(asked) if "messages" in asked else asked["prompt"]
        except (TemplateRefusalError, chat_templates.RefusedError) as refusal:
            return JSONResponse({"error": {"message": str(refusal)}}, 400)
        tokens = encode(text)
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": 4096})

    def _rendered(self, asked: dict[str, Any]) -> str:
        """What the chat template makes of messages."""
        messages, tools = asked["messages"], asked.get("tools") or []
        if not self.chat_template:
            return self.template(messages, tools)
        answers = asked.get("add_generation_prompt", True)
        return chat_templates.render(
            self.chat_template, messages, tools, add_generation_prompt=answers
        )

    async def _detokenize(self, request: Request) -> Response:
        asked = (await self._note(request)).chat
        return JSONResponse({"prompt": decode(asked["tokens"])})

    async def _metrics(self, _request: Request) -> Response:
        labels = f'block_size="{self.block}",cache_dtype="auto",engine="0",num_gpu_blocks="6000"'
        return PlainTextResponse(f"# HELP x y\nvllm:cache_config_info{{{labels}}} 1.0\n")

    async def _lmcache_status(self, _request: Request) -> Response:
        worker = {"model_name": PATH, "world_size": 2}
        return JSONResponse({"chunk_size": 256, "contexts": {"7": worker}})

    async def _lmcache_adapters(self, _request: Request) -> Response:
        names = ("fs_native", "resp")
        return JSONResponse({"adapters": [{"type_name": name, "tier": "l2"} for name in names]})

    async def _drop(self, request: Request) -> Response:
        asked = (await self._note(request)).chat
        if self.keeps:
            return JSONResponse({"deleted": 0, "skipped": 0, "ok": False, "error": "disk"})
        keys = asked["keys"]
        place = asked.get("adapter", asked["tier"])
        self.dropped.setdefault(place, []).extend(
            (key["chunk_hash_hex"], key["kv_rank"]) for key in keys
        )
        return JSONResponse({"deleted": len(keys), "skipped": 0, "ok": True})

    async def _begin_prefetch(self, request: Request) -> Response:
        await self._note(request)
        if self.prefetch == "unregistered":
            return JSONResponse({"detail": "no layout registered"}, 503)
        if self.prefetch == "short":
            return JSONResponse({"chunks": 0, "status": "noop"}, 202)
        return JSONResponse({"request_id": "p1", "chunks": 8, "status": "submitted"}, 202)

    async def _tell_prefetch(self, request: Request) -> Response:
        await self._note(request)
        looks = sum(seen.target == "/cache/prefetches/p1" for seen in self.seen)
        if self.prefetch == "slow" or looks < 2:
            return JSONResponse({"request_id": "p1", "status": "pending"})
        found = {"loaded": 16, "partly": 5}.get(self.prefetch, 0)
        counts = {"found_keys": found, "total_keys": 16}
        return JSONResponse({"request_id": "p1", "status": "completed", **counts})

    def _unwilling(self) -> JSONResponse:
        if self.ending:
            return JSONResponse(ENDING, 500)
        if self.deaths:
            self.deaths -= 1
            return JSONResponse(DEAD, 500)
        return JSONResponse({"error": {"message": "busy"}}, 503)

    async def _whole_answer(self, request: Request, prompt: Sequence[object]) -> Response:
        ends = time.monotonic() + self.delay  # first of all: a test sets another once it is counted
        salt = self._salt()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            while time.monotonic() < ends:
                if await request.is_disconnected():
                    self.cancelled += 1
                    return PlainTextResponse("")
                await asyncio.sleep(0.01)
        finally:
            self.under_way -= 1
        if self.breaks_whole:
            return Response(b"{", headers={"content-length": "100"})
        usage = self._usage(request.url.path, prompt, salt)
        told: dict[str, Any] = {"model": self.model, "choices": [], "usage": usage, "user": None}
        if request.url.path == fake_apis.RESPONSES:
            told |= fake_apis.response(self.seen[-1].chat)
        return JSONResponse(told)

    def _salt(self) -> str:
        """The salt of the request that came last."""
        salt = self.seen[-1].chat.get("cache_salt") if self.seen else None
        return salt if isinstance(salt, str) else ""

    def _usage(self, path: str, prompt: Sequence[object], salt: str) -> dict[str, Any]:
        alike = [old for old in self.prompts if self.salts.get(id(old), "") == salt]
        cached = max((_common_length(prompt, old) for old in alike), default=0)
        if self.block > 1:  # whole blocks, and the last token is always computed
            cached = min(cached, len(prompt) - 1) // self.block * self.block
        self.prompts.append(prompt)
        if salt:
            self.salts[id(prompt)] = salt
        found = 0 if self.forgets else cached
        return fake_apis.usage(path, len(prompt), found, details=self.tells_cached_tokens)

    async def _events(
        self, path: str, prompt: str, salt: str, *, tells: bool
    ) -> AsyncIterator[bytes]:
        self.under_way += 1
        try:
            if self.breaks_first:
                raise RuntimeError("the test asked for it")
            if self.states_prompt:
                yield fake_apis.first_event(path, len(prompt))
            for number in range(self.events):
                yield self.event or fake_apis.event(path, number)
                self.sent += 1
                await asyncio.sleep(self.delay)
                if self.breaks_off:
                    if self.breaks_within:
                        yield self.breaks_within
                        await asyncio.sleep(0.05)
                    raise RuntimeError("the test asked for it")
            if self.fails:
                yield fake_apis.failure(path)
                return
            told = self._usage(path, prompt, salt)
            yield fake_apis.last_events(path, told if tells else None)
            await asyncio.sleep(self.end_delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1


def asks_usage(asked: dict[str, Any]) -> bool:
    """Whether a stream says what it cost: see vLLM's serve/utils/api_utils.py."""
    return bool((asked.get("stream_options") or {}).get("include_usage"))


def _common_length(one: Sequence[object], other: Sequence[object]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
