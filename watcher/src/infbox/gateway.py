"""The gateway: puts a workspace's pack in front of a question, and passes all else untouched.

``MODEL@WORKSPACE`` asks for a pack on ``/v1/chat/completions``. On other paths it goes to vLLM as
it is, which knows the name and answers without the pack.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from infbox import prompt, relay
from infbox.log import line
from infbox.metrics import GatewayMetrics
from infbox.packs import Pack, PackFile
from infbox.relay import Headers, Incoming, Outgoing
from infbox.serve import listening, server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from infbox.config import Config

CHAT = "/v1/chat/completions"

_CLIENT_IDLE_SECONDS = 180  # longer than Caddy keeps its connections to us
_GRACE_SECONDS = 20
_PRIVATE_UMASK = 0o027
_SHORT = aiohttp.ClientTimeout(total=5)
_OK = 200

_logger = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Run the gateway until SIGTERM or SIGINT.

    Raises:
        InputError: its address cannot be had.
    """
    os.umask(_PRIVATE_UMASK)
    listener = listening(config.gateway.listen, "gateway.listen")
    _logger.info(line("ready", listen=config.gateway.listen, workspaces=len(config.workspaces)))
    gateway = Gateway(config)
    serving = server(gateway.app, idle_seconds=_CLIENT_IDLE_SECONDS, grace_seconds=_GRACE_SECONDS)
    serving.run(sockets=[listener])


class RefusalError(Exception):
    """A request that is answered here, with a status and a message in the API's own error form."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind

    def response(self) -> JSONResponse:
        """Return the answer."""
        error = {"message": str(self), "type": self.kind, "param": None, "code": self.status}
        return JSONResponse({"error": error}, self.status)


@dataclass(frozen=True)
class Question:
    """A request as it goes to vLLM.

    Attributes:
        body: to send; None to hand on the client's own as it comes.
        workspace: the one it names; empty where it names none.
        pack: what was put in front; None where there is none yet.
        streams: whether the answer is to come in pieces.
    """

    body: bytes | None = None
    workspace: str = ""
    pack: Pack | None = None
    streams: bool = True

    @property
    def marks(self) -> Headers:
        """Headers for the answer that say which pack was used; 0 where there is none yet."""
        if not self.workspace:
            return []
        generation, version = (self.pack.generation, self.pack.version) if self.pack else (0, 0)
        return [
            (b"x-infbox-generation", str(generation).encode()),
            (b"x-infbox-version", str(version).encode()),
        ]


class Gateway:
    """The gateway of one configuration; ``app`` is the ASGI application.

    Args:
        config: the workspaces' folders need not be there.
    """

    def __init__(self, config: Config) -> None:
        self._model = config.engine.model
        self._engine = config.engine.url
        self._watcher = f"http://{config.watcher.listen}"
        self._limit = config.gateway.max_body_bytes
        self._packs = {
            workspace.name: PackFile(config.state_dir / "packs" / workspace.name / "pack.json")
            for workspace in config.workspaces
        }
        self._metrics = GatewayMetrics()
        self._client: aiohttp.ClientSession
        # Stands for the pack while the request is encoded. Nobody outside can know it.
        self._placeholder = f"infbox-{secrets.token_hex(16)}"
        self.app = Starlette(
            routes=[
                Route("/health", self._show_health),
                Route("/metrics", self._show_metrics),
                Route("/v1/models", self._list_models),
                Route("/v1/workspaces", self._list_workspaces),
                Route("/v1/workspaces/{name}/status", self._show_workspace),
                Mount("/", app=self._pass),
            ],
            exception_handlers={RefusalError: _refuse},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        async with relay.session() as self._client:
            yield

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by what vLLM says (an ASGI application)."""
        incoming, outgoing = Incoming(scope, receive, self._limit), Outgoing(send)
        began = time.monotonic()
        workspace = ""
        async with anyio.create_task_group() as group:

            async def leave_with_client() -> None:
                await incoming.client_gone()
                self._metrics.cancelled.labels(workspace).inc()
                group.cancel_scope.cancel()

            group.start_soon(leave_with_client)
            try:
                question = await self._question(incoming)
                workspace = question.workspace
                await self._answer(incoming, question, outgoing, began)
            except RefusalError as refusal:
                await outgoing.respond(refusal.response())
            except relay.TooLargeError:
                await outgoing.respond(self._too_large().response())
            except relay.ClientGoneError:
                self._metrics.cancelled.labels(workspace).inc()
            group.cancel_scope.cancel()
        self._metrics.requests.labels(workspace, outgoing.status or "none").inc()

    async def _question(self, incoming: Incoming) -> Question:
        """Return the request as it goes to vLLM, with the pack where one is asked for.

        Raises:
            RefusalError: the workspace is unknown.
            ClientGoneError: the client left.
            TooLargeError: the body is over the limit.
        """
        incoming.check_announced_size()
        if incoming.method != "POST" or incoming.path != CHAT:
            return Question()
        body = await incoming.body()
        chat = _parse(body)
        model, _, name = str(chat.get("model", "")).rpartition("@")
        if chat.get("model") == self._model or not model:
            return Question(body)
        if name not in self._packs:
            raise self._unknown(name)
        if model != self._model:
            return Question(body)  # vLLM says best which models there are
        pack = self._packs[name].current()
        if pack is None:
            self._metrics.without_pack.labels(name).inc()
        return Question(self._encode(chat, pack), name, pack, streams=bool(chat.get("stream")))

    def _encode(self, chat: dict[str, Any], pack: Pack | None) -> bytes:
        """Return the request with the pack in it, the pack's text being encoded once a version."""
        renamed = {**chat, "model": self._model}
        messages = chat.get("messages")
        if pack is None or not isinstance(messages, list) or not all(map(_is_object, messages)):
            return json.dumps(renamed).encode()
        renamed["messages"] = prompt.with_pack(self._placeholder, messages)
        return json.dumps(renamed).encode().replace(self._placeholder.encode(), pack.encoded, 1)

    async def _answer(
        self, incoming: Incoming, question: Question, outgoing: Outgoing, began: float
    ) -> None:
        """Ask vLLM and hand its answer on.

        Raises:
            RefusalError: vLLM does not answer, or the request cannot be handed on.
            ClientGoneError, TooLargeError: the body did not come whole.
        """
        try:
            async with relay.ask(self._client, self._engine, incoming, question.body) as answer:
                waited = time.monotonic() - began
                self._metrics.first_byte.labels(question.workspace).observe(waited)
                if question.streams:
                    await _hand_on(answer, question.marks, outgoing)
                else:
                    await _hand_on_whole(answer, question.marks, outgoing)
        except relay.BadRequestError as error:
            raise RefusalError(400, "BadRequestError", str(error)) from error
        except relay.AWAY as error:
            if incoming.failure:  # what the engine saw as a broken request has its reason here
                raise incoming.failure from error
            _logger.warning(line("engine-failed", reason=error or type(error).__name__))
            if not outgoing.status:
                raise RefusalError(502, "EngineAwayError", "the engine does not answer") from error

    async def _show_health(self, _request: Request) -> Response:
        try:
            async with self._client.get(f"{self._engine}/health", timeout=_SHORT) as answer:
                return Response(status_code=200 if answer.status == _OK else 503)
        except relay.AWAY:
            return Response(status_code=503)

    async def _show_metrics(self, _request: Request) -> Response:
        page = generate_latest(self._metrics.registry)
        return Response(page, headers={"content-type": CONTENT_TYPE_LATEST})

    async def _list_models(self, request: Request) -> Response:
        """Return vLLM's list, with those ``@`` names that it does not list itself."""
        headers = {"authorization": request.headers.get("authorization", "")}
        try:
            url = f"{self._engine}/v1/models"
            async with self._client.get(url, headers=headers, timeout=_SHORT) as answer:
                body = await answer.read()
                status, kind = answer.status, answer.headers.get("content-type")
        except relay.AWAY as error:
            raise RefusalError(502, "EngineAwayError", "the engine does not answer") from error
        models = _parse(body)
        if status != _OK or not isinstance(models.get("data"), list):
            return Response(body, status, media_type=kind)
        return JSONResponse({**models, "data": self._with_workspaces(models["data"])})

    def _with_workspaces(self, cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
        listed = {card.get("id") for card in cards}
        own = next((card for card in cards if card.get("id") == self._model), {"object": "model"})
        names = (f"{self._model}@{name}" for name in self._packs)
        return [*cards, *({**own, "id": name} for name in names if name not in listed)]

    async def _list_workspaces(self, _request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [self._describe(n) for n in self._packs]})

    async def _show_workspace(self, request: Request) -> JSONResponse:
        """Return the pack in use, and what the watcher says of it; null where that is away."""
        name = request.path_params["name"]
        if name not in self._packs:
            raise self._unknown(name)
        status: dict[str, Any] = {}
        with contextlib.suppress(*relay.AWAY, ValueError):
            async with self._client.get(f"{self._watcher}/status", timeout=_SHORT) as answer:
                status = _parse(await answer.read()).get("workspaces", {})
        return JSONResponse({**self._describe(name), "watcher": status.get(name)})

    def _describe(self, name: str) -> dict[str, Any]:
        pack = self._packs[name].current()
        return {
            "name": name,
            "model": f"{self._model}@{name}",
            "generation": pack.generation if pack else 0,
            "version": pack.version if pack else 0,
            "tokens": pack.tokens if pack else 0,
            "sha256": pack.sha256 if pack else None,
        }

    def _unknown(self, name: str) -> RefusalError:
        known = ", ".join(self._packs) or "none"
        return RefusalError(
            404, "NotFoundError", f"The workspace `{name}` does not exist. There are: {known}."
        )

    def _too_large(self) -> RefusalError:
        return RefusalError(
            413, "BadRequestError", f"The request is larger than {self._limit} bytes."
        )


async def _hand_on(answer: aiohttp.ClientResponse, marks: Headers, outgoing: Outgoing) -> None:
    """Hand an answer on as it comes.

    An answer that vLLM breaks off ends in the API's error event where it is a stream of events,
    else in a connection that is closed early: never in what looks whole.
    """
    await outgoing.start(answer.status, [*relay.answer_headers(answer), *marks])
    try:
        async for chunk in answer.content.iter_any():
            await outgoing.write(chunk)
    except aiohttp.ClientError:
        if answer.content_type != "text/event-stream":
            raise
        error = {"message": "the engine broke off its answer", "type": "EngineAwayError"}
        await outgoing.write(b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
    await outgoing.end()


async def _hand_on_whole(
    answer: aiohttp.ClientResponse, marks: Headers, outgoing: Outgoing
) -> None:
    """Hand an answer on once it is whole, with its count of cached tokens in a header."""
    body = await answer.read()
    usage = _parse(body).get("usage") or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    count = [] if cached is None else [(b"x-infbox-cached-tokens", str(cached).encode())]
    await outgoing.start(answer.status, [*relay.answer_headers(answer), *marks, *count])
    await outgoing.write(body)
    await outgoing.end()


async def _refuse(_request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, RefusalError)  # noqa: S101  # Starlette's handlers are typed so
    return refusal.response()


def _parse(body: bytes) -> dict[str, Any]:
    """Return a JSON object, or an empty one for anything else: vLLM judges what is malformed."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_object(value: object) -> bool:
    return isinstance(value, dict)
