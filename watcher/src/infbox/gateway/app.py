"""The gateway: puts a workspace's pack in front of a question, and passes all else untouched.

``MODEL@WORKSPACE``, or the header ``X-Infbox-Workspace``, asks for a pack on the paths of
``apis.APIS``. On others the name goes to vLLM as it is, which knows it and answers without a pack.

Where there are replicas, questions on those paths first go to the host that ``replicas`` finds.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from infbox.gateway import apis, bodies, download, fields, requests
from infbox.gateway.apis import APIS
from infbox.gateway.bodies import Lease, Memory
from infbox.gateway.conversations import clients, forms, system_messages, volatile
from infbox.gateway.conversations.deciding import Asked
from infbox.gateway.conversations.keeper import Conversations
from infbox.gateway.conversations.summary import Summary
from infbox.gateway.refusals import (
    BAD_GATEWAY,
    BAD_REQUEST,
    NOT_FOUND,
    TOO_LARGE,
    TOO_MANY,
    UNAUTHORIZED,
    UNAVAILABLE,
    RefusalError,
)
from infbox.gateway.requests import Question
from infbox.gateway.upstream import forwarder, replicas, responses
from infbox.gateway.upstream.forwarder import Incoming, LateOutgoing, Outgoing
from infbox.gateway.upstream.queue import Hold
from infbox.gateway.upstream.replicas import Balanced, Handover
from infbox.log import line
from infbox.metrics import GatewayMetrics
from infbox.packing.published import PackFile
from infbox.runtime.serve import lasting, server
from infbox.status.history import FirstEvent
from infbox.status.page import Page
from infbox.status.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from infbox.config import Config
    from infbox.gateway.bodies import Body
    from infbox.gateway.conversations.deciding import Turn
    from infbox.gateway.requests import Named
    from infbox.gateway.traces import Tracer
    from infbox.metrics import Usage
    from infbox.packing.published import Pack

_CLIENT_IDLE_SECONDS = 180  # longer than Caddy keeps its connections to us
_GRACE_SECONDS = 60
_PRIVATE_UMASK = 0o027
_SHORT = aiohttp.ClientTimeout(total=5)
_OK = 200
_SERVER_ERROR = 500
_MB = 1_000_000
_NOT_ANSWERED = (BAD_GATEWAY, UNAVAILABLE)
_SLOW_SECONDS = 4  # nobody that is away takes so long to say nothing
_BUSY_SECONDS = 30  # that an engine may be busy before it counts as away

# What vLLM says of a prompt that is longer than its window, on one API or another.
_TOO_LONG = re.compile("maximum context length|exceeds the max_model_len|maximum model length")

_USER = re.compile("[a-z0-9][a-z0-9._-]{0,31}")  # so that no stranger makes labels of metrics

_logger = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Run the gateway until SIGTERM or SIGINT.

    Raises:
        InputError: its address cannot be had.
    """
    os.umask(_PRIVATE_UMASK)
    listener = lasting(config.gateway.listen, "gateway.listen")
    _logger.info(line("ready", listen=config.gateway.listen, workspaces=len(config.workspaces)))
    gateway = Gateway(config)
    serving = server(gateway.app, idle_seconds=_CLIENT_IDLE_SECONDS, grace_seconds=_GRACE_SECONDS)
    gateway.page.is_ending = lambda: serving.should_exit
    serving.run(sockets=[listener])


@dataclass
class _Exchange:
    """A request and its answer.

    Attributes:
        incoming: the request.
        outgoing: the answer.
        events: notes when it began.
        began: monotonic time at which the request arrived, in seconds.
        user: whose key it came with.
        lease: of the memory for its body.
        is_counted: whether it is counted as under way where it came from.
        handover: where it goes to a replica; None where it is answered here.
        own_workspace: that it names, where it is answered here.
    """

    incoming: Incoming
    outgoing: Outgoing
    events: FirstEvent
    began: float
    user: str
    lease: Lease
    is_counted: bool = False
    handover: Handover | None = None
    own_workspace: str = ""

    @property
    def workspace(self) -> str:
        """The workspace that the request names; empty where it names none."""
        return self.handover.workspace if self.handover else self.own_workspace

    @property
    def is_elsewhere(self) -> bool:
        """Whether a replica has it, which then counts it."""
        return self.handover is not None and self.handover.is_out


class Gateway:
    """The gateway of one configuration; ``app`` is the ASGI application.

    Args:
        config: the workspaces' folders need not be there.
    """

    def __init__(self, config: Config) -> None:
        self._model = config.engine.model
        self._engine = config.engine.url
        self._watcher = f"http://{config.watcher.listen}"
        self._window = config.engine.max_model_len
        self._limit = config.gateway.max_body_bytes
        self._requires_user = config.gateway.requires_user
        self._memory = Memory()
        self._reader = bodies.Reader()
        self._packs = {
            workspace.name: PackFile(config.state_dir / "packs" / workspace.name / "pack.json")
            for workspace in config.workspaces
        }
        self._conversations = Conversations(
            config.state_dir / "conversations" / "conversations.db",
            config.gateway.conversations_mb * _MB,
        )
        self._strips = config.gateway.strip_volatile
        self._later_system = system_messages.LaterSystem(self._engine, self._model)
        self._summary = Summary()
        self._under_way: Counter[str] = Counter()
        self._metrics = GatewayMetrics()
        bases = {w.name: w.base for w in config.workspaces if w.base}
        self._balanced = (
            Balanced(config.replicas, self._metrics, bases) if config.replicas else None
        )
        self._ready_at = float("-inf")
        self._hold = Hold(
            config.gateway.hold_seconds,
            config.gateway.hold_requests,
            self._takes_requests if self._balanced is None else self._any_takes_requests,
        )
        self._metrics.held.set_function(lambda: self._hold.count)
        self._client: aiohttp.ClientSession
        self._sampler = Sampler(config, self._packs, self._summary.of)
        self._tracer = _tracer(config.gateway.traces)
        self.page = Page(self._sampler)
        self.app = Starlette(
            routes=[
                Route("/health", self._show_health),
                Route("/ready", self._show_ready),
                Route("/metrics", self._show_metrics),
                Route("/v1/models", self._list_models),
                Route("/v1/models/{name:path}", self._show_model),
                Route("/v1/workspaces", self._list_workspaces),
                Route("/v1/workspaces/{name}/status", self._show_workspace),
                Route("/v1/workspaces/{name}/pack", self._show_pack),
                *self.page.routes(),
                Mount("/", app=self._tracer.around(self._pass) if self._tracer else self._pass),
            ],
            exception_handlers={RefusalError: _refuse},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        tracing = self._tracer.running() if self._tracer else contextlib.nullcontext()
        keeping = self._conversations.running(self._present)
        async with tracing, forwarder.session() as self._client, self._sampler.running(), keeping:
            gc.freeze()  # what is there now stays; looking through it takes 5 ms each time
            yield
            gc.unfreeze()
        self._reader.close()

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by what vLLM says (an ASGI application)."""
        exchange = self._exchange(scope, receive, send)
        with exchange.lease:
            await self._answer_it(exchange)
        if not exchange.is_elsewhere:
            labels = exchange.workspace, exchange.user, exchange.outgoing.status or "none"
            self._metrics.requests.labels(*labels).inc()

    async def _answer_it(self, exchange: _Exchange) -> None:
        """Answer a request, or leave it with the client."""
        async with anyio.create_task_group() as group:

            async def leave_with_client() -> None:
                await exchange.incoming.client_gone()
                self._note_gone(exchange)
                group.cancel_scope.cancel()

            group.start_soon(leave_with_client)
            try:
                await self._serve(exchange)
            except RefusalError as refused:
                await self._respond(exchange, refused)
            except forwarder.TooLargeError:
                await self._respond(exchange, self._too_large())
            except forwarder.ClientGoneError:
                self._note_gone(exchange)
            group.cancel_scope.cancel()

    def _exchange(self, scope: Scope, receive: Receive, send: Send) -> _Exchange:
        began = time.monotonic()
        events = FirstEvent(send, began)
        incoming = Incoming(scope, receive, self._limit)
        user = _user_of(incoming)
        lease = Lease(self._memory, user)
        if self._balanced is None:
            return _Exchange(incoming, Outgoing(events), events, began, user, lease)
        if replicas.is_routed(incoming):
            outgoing = LateOutgoing(events, self._balanced.marks)
            return _Exchange(incoming, outgoing, events, began, user, lease, is_counted=True)
        if not replicas.can_go(incoming):
            return _Exchange(incoming, Outgoing(events), events, began, user, lease)
        handover = Handover(incoming, LateOutgoing(events))
        return _Exchange(incoming, handover.outgoing, events, began, user, lease, handover=handover)

    async def _serve(self, exchange: _Exchange) -> None:
        """Answer a request here, or have a replica do so.

        Raises:
            RefusalError: it is not answered.
            ClientGoneError, TooLargeError: the body did not come whole.
        """
        incoming = exchange.incoming
        self._check_user(exchange.user)
        most = _most_at_once(incoming)
        under_way = self._one_more(exchange.user, most)
        with contextlib.nullcontext() if exchange.is_counted else under_way:
            if self._balanced is not None and exchange.handover is not None:
                await self._read_whole(exchange, exchange.handover)
                await self._balanced.answer(self._client, exchange.handover, self._hold)
                return
            question = await self._question(exchange)
            exchange.own_workspace = question.workspace
            usage = await self._answer(exchange, question)
        self._metrics.count(usage, exchange.workspace, exchange.user)
        if question.turn is not None:
            self._summary.note(exchange.workspace, question.turn, usage)
        self._sampler.first_tokens.note(time.monotonic(), exchange.events.seconds, usage)

    async def _read_whole(self, exchange: _Exchange, handover: Handover) -> None:
        """Read what a request asks for, so that it is known where it goes.

        Raises:
            RefusalError: it names a workspace that there is not, or cannot be understood.
            ClientGoneError: the client left.
            TooLargeError: the body is over the limit.
        """
        handover.incoming.check_announced_size()
        chunks = await handover.incoming.body(exchange.lease)
        handover.body = await self._reader.run(exchange.lease.size, b"".join, chunks)
        body = await self._opened(exchange, [handover.body])
        asked = requests.named(body, _workspace_of(handover.incoming), self._model)
        if asked is not None:
            if asked.workspace not in self._packs:
                raise self._unknown(asked.workspace)
            handover.workspace = asked.workspace

    async def _opened(self, exchange: _Exchange, chunks: list[bytes]) -> Body:
        """Return a body with what is for clients.

        Raises:
            RefusalError: it says what must not be said, or cannot be understood.
        """
        lease, incoming = exchange.lease, exchange.incoming
        for encoding in incoming.header(b"content-encoding"):
            if encoding.lower() != "identity":
                chunks = await self._reader.run(
                    self._limit, bodies.inflated, chunks, encoding, self._limit
                )
                lease.resize(max(lease.size, sum(map(len, chunks))))
        told = incoming.path, chunks, exchange.user, self._window
        return await self._reader.run(exchange.lease.size, bodies.opened, *told)

    def _check_user(self, user: str) -> None:
        """See that a request has come through who knows the users, where there is somebody.

        Raises:
            RefusalError: it has not.
        """
        if self._requires_user and not user:
            raise RefusalError(
                UNAUTHORIZED,
                "The request came without a user. Ask at the server's address, with a key; on the "
                "host itself with the header X-Infbox-User.",
            )

    async def _respond(self, exchange: _Exchange, refused: RefusalError) -> None:
        if refused.status in _NOT_ANSWERED:
            exchange.outgoing.marks = []
        if refused.is_busy:
            await exchange.incoming.drain()
        await exchange.outgoing.respond(_refusal(exchange.incoming.path, refused))

    def _note_gone(self, exchange: _Exchange) -> None:
        if not exchange.is_elsewhere:
            self._metrics.cancelled.labels(exchange.workspace).inc()

    @contextlib.contextmanager
    def _one_more(self, user: str, most: int) -> Iterator[None]:
        """Count a request of a user's while it is under way.

        Raises:
            RefusalError: as many are as there may be; 0 is any number.
        """
        if most and self._under_way[user] >= most:
            raise RefusalError(
                TOO_MANY, f"{user} may have {most} requests under way. Wait until one has ended."
            )
        self._under_way[user] += 1
        try:
            yield
        finally:
            self._under_way[user] -= 1
            if not self._under_way[user]:
                del self._under_way[user]

    async def _question(self, exchange: _Exchange) -> Question:
        """Return the request as it goes to vLLM, with the pack where one is asked for.

        Raises:
            RefusalError: it says what must not be said, or no pack can be put in.
            ClientGoneError: the client left.
            TooLargeError: the body is over the limit.
        """
        incoming = exchange.incoming
        incoming.check_announced_size()
        if incoming.path not in fields.FIELDS or incoming.method != "POST":
            return Question()
        body = await self._opened(exchange, await incoming.body(exchange.lease))
        api = APIS.get(incoming.path)
        asked = requests.named(body, _workspace_of(incoming), self._model) if api else None
        if asked is not None and asked.workspace not in self._packs:
            raise self._unknown(asked.workspace)
        if api is None or asked is None or asked.model not in (None, self._model):
            return Question([body.data], limit=body.limit)  # vLLM says best which models there are
        pack = self._packs[asked.workspace].current()
        if pack is None:
            self._metrics.without_pack.labels(asked.workspace).inc()
        size = exchange.lease.size
        turn = await self._turn(exchange, asked, pack)
        told = api, asked, turn, self._window, _wants_fit(incoming)
        question = await self._reader.run(size, requests.question, *told)
        exchange.lease.resize(question.size)
        self._note_front(question)
        return question

    async def _turn(self, exchange: _Exchange, named: Named, pack: Pack | None) -> Turn:
        """Return how a request goes out, by the conversation that it is of."""
        incoming, size = exchange.incoming, exchange.lease.size
        client = clients.family("".join(incoming.header(b"user-agent")))
        request = await self._reader.run(size, named.body.taken)
        if self._strips:
            request = volatile.without(incoming.path, request)
        request = system_messages.of_developers(incoming.path, request)
        user, model = exchange.user, named.model or self._model
        asked = Asked(
            incoming.path, request, size, named.workspace, user, model, client, self._window
        )
        turn = await self._conversations.turn(asked, pack)
        if turn.record is not None:
            told = turn.state, turn.beginning, turn.note_tokens
            self._metrics.count_turn(named.workspace, client, *told)
        if system_messages.are_there(incoming.path, turn.request) and not (
            await self._later_system.is_taken(self._client)
        ):
            turn.request = system_messages.in_questions(incoming.path, turn.request)
        return turn

    def _note_front(self, question: Question) -> None:
        """Note how much of the pack goes out, where that may be less than all of it."""
        if question.turn and question.front and question.bare is not None:
            self._conversations.note_front(question.turn, question.front.tokens)

    def _present(self) -> dict[str, Pack | None]:
        return {name: file.current() for name, file in self._packs.items()}

    async def _answer(self, exchange: _Exchange, question: Question) -> Usage | None:
        """Ask vLLM and hand its answer on; return what it cost.

        Raises:
            RefusalError: vLLM does not answer, or the request does not fit or cannot be handed on.
            ClientGoneError, TooLargeError: the body did not come whole.
        """
        incoming, outgoing, began = exchange.incoming, exchange.outgoing, exchange.began
        try:
            while True:
                async with await self._ask(incoming, question, began) as answer:
                    too_long = await _too_long(answer, question, incoming.path)
                    if too_long is None:
                        waited = time.monotonic() - began
                        labels = question.workspace, exchange.user
                        self._metrics.first_byte.labels(*labels).observe(waited)
                        question.forget()
                        exchange.lease.resize(0)
                        api = APIS.get(incoming.path, apis.OTHER)
                        return await responses.hand_on(answer, question.marks, api, outgoing)
                if not question.cut():
                    raise self._does_not_fit(question, apis.too_long(incoming.path, too_long))
                self._note_front(question)
        except forwarder.BadRequestError as error:
            raise RefusalError(BAD_REQUEST, str(error)) from error
        except forwarder.AWAY as error:
            if incoming.failure:  # what the engine saw as a broken request has its reason here
                raise incoming.failure from error
            _logger.warning(line("engine-failed", reason=error or type(error).__name__))
            if not outgoing.status:
                raise RefusalError(BAD_GATEWAY, "the engine does not answer") from error
            return None

    async def _ask(
        self, incoming: Incoming, question: Question, began: float
    ) -> aiohttp.ClientResponse:
        """Ask vLLM; the request is held while vLLM is away or about to end.

        Only a request that is here as a whole, and that vLLM has not begun. While others are held,
        it is not tried before them. One that came from a replica is held there.

        Raises:
            RefusalError: the request cannot be held any longer.
        """
        can_wait = question.parts is not None
        is_held = can_wait and self._hold.count > 0
        while True:
            if is_held:
                await self._hold.wait(question.size, began + self._hold.seconds)
            try:
                headers = forwarder.engine_headers(incoming.headers)
                answer = await forwarder.ask(
                    self._client, self._engine, incoming, question.pieces, headers
                )
                if not (can_wait and await forwarder.is_ending(answer)):
                    return answer
            except forwarder.NOT_SENT:
                if not can_wait:
                    raise
            if self._balanced is not None:  # another one may take it, and who asked us holds it
                raise RefusalError(UNAVAILABLE, "The engine is away.")
            is_held = True

    async def _takes_requests(self) -> bool:
        asked = {"model": self._model, "prompt": "."}
        try:
            url = f"{self._engine}/tokenize"
            async with self._client.post(url, json=asked, timeout=_SHORT) as answer:
                return answer.status < _SERVER_ERROR
        except forwarder.AWAY:
            return False

    async def _any_takes_requests(self) -> bool:
        return self._balanced is not None and await self._balanced.takes_requests(self._client)

    async def _show_ready(self, _request: Request) -> Response:
        """Say whether a question would be taken now. One that is slow to say so is only busy."""
        began = time.monotonic()
        is_ready = await self._takes_requests()
        now = time.monotonic()
        if is_ready:
            self._ready_at = now
        is_busy = now - began >= _SLOW_SECONDS and now - self._ready_at < _BUSY_SECONDS
        marks = self._balanced.marks if self._balanced else []
        headers = {name.decode(): value.decode() for name, value in marks}
        return Response(status_code=200 if is_ready or is_busy else UNAVAILABLE, headers=headers)

    async def _show_health(self, _request: Request) -> Response:
        try:
            async with self._client.get(f"{self._engine}/health", timeout=_SHORT) as answer:
                return Response(status_code=200 if answer.status == _OK else 503)
        except forwarder.AWAY:
            return Response(status_code=503)

    async def _show_metrics(self, _request: Request) -> Response:
        page = generate_latest(self._metrics.registry)
        return Response(page, headers={"content-type": CONTENT_TYPE_LATEST})

    async def _list_models(self, request: Request) -> Response:
        """Return vLLM's list, with those ``@`` names that it does not list itself."""
        self._check_user(_user_of(Incoming(request.scope, request.receive, 0)))
        models = await self._engine_models(request)
        if isinstance(models, Response):
            return models
        return JSONResponse({**models, "data": self._with_workspaces(models["data"])})

    async def _show_model(self, request: Request) -> Response:
        """Return the entry of the list that has this name: vLLM has no such path."""
        self._check_user(_user_of(Incoming(request.scope, request.receive, 0)))
        models = await self._engine_models(request)
        if isinstance(models, Response):
            return models
        name = request.path_params["name"]
        cards = self._with_workspaces(models["data"])
        found = next((card for card in cards if card.get("id") == name), None)
        if found is None:
            raise RefusalError(
                NOT_FOUND, f"There is no model {name}. GET /v1/models lists those that there are."
            )
        return JSONResponse(found)

    async def _engine_models(self, request: Request) -> dict[str, Any] | Response:
        """Return vLLM's list, or what else it answers.

        Held like a question while vLLM is away: clients ask for it when they start.
        """
        headers = {"authorization": request.headers.get("authorization", "")}
        deadline = time.monotonic() + self._hold.seconds
        while True:
            try:
                url = f"{self._engine}/v1/models"
                async with self._client.get(url, headers=headers, timeout=_SHORT) as answer:
                    body = await answer.read()
                    status, kind = answer.status, answer.headers.get("content-type")
                break
            except forwarder.AWAY:
                await self._hold.wait(0, deadline)
        models = responses.parsed(body) or {}
        if status != _OK or not isinstance(models.get("data"), list):
            return Response(body, status, media_type=kind)
        return models

    def _with_workspaces(self, cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return models with a name for each workspace, and the window that its pack leaves."""
        own = next((card for card in cards if card.get("id") == self._model), {"object": "model"})
        listed = {card.get("id"): card for card in cards}
        for name, file in self._packs.items():
            pack, of_it = file.current(), f"{self._model}@{name}"
            card = listed.get(of_it, own)
            left = card.get("max_model_len", self._window) - (pack.tokens if pack else 0)
            listed[of_it] = {**card, "id": of_it, "max_model_len": max(left, 1)}
        return list(listed.values())

    async def _list_workspaces(self, request: Request) -> JSONResponse:
        self._check_user(_user_of(Incoming(request.scope, request.receive, 0)))
        return JSONResponse({"object": "list", "data": [self._describe(n) for n in self._packs]})

    async def _show_workspace(self, request: Request) -> JSONResponse:
        """Return the pack in use, and what the watcher says of it; null where that is away."""
        name = self._known(request)
        status: dict[str, Any] = {}
        with contextlib.suppress(*forwarder.AWAY, ValueError):
            async with self._client.get(f"{self._watcher}/status", timeout=_SHORT) as answer:
                status = (responses.parsed(await answer.read()) or {}).get("workspaces", {})
        return JSONResponse({**self._describe(name), "watcher": status.get(name)})

    async def _show_pack(self, request: Request) -> Response:
        name = self._known(request)
        pack = self._packs[name].current()
        if pack is None:
            raise RefusalError(NOT_FOUND, f"The workspace `{name}` has no pack yet.")
        return download.response(pack, request.headers)

    def _known(self, request: Request) -> str:
        """Return the workspace that a path names.

        Raises:
            RefusalError: there is none of that name, or the request has no user.
        """
        self._check_user(_user_of(Incoming(request.scope, request.receive, 0)))
        name: str = request.path_params["name"]
        if name not in self._packs:
            raise self._unknown(name)
        return name

    def _describe(self, name: str) -> dict[str, Any]:
        pack = self._packs[name].current()
        return {
            "name": name,
            "model": f"{self._model}@{name}",
            "generation": pack.generation if pack else 0,
            "version": pack.version if pack else 0,
            "tokens": pack.tokens if pack else 0,
            "sha256": pack.sha256 if pack else None,
            "conversations": self._summary.of(name),
        }

    def _unknown(self, name: str) -> RefusalError:
        known = ", ".join(self._packs) or "none"
        return RefusalError(
            NOT_FOUND, f"The workspace `{name}` does not exist. There are: {known}."
        )

    def _too_large(self) -> RefusalError:
        return RefusalError(TOO_LARGE, f"The request is larger than {self._limit} bytes.")

    def _does_not_fit(self, question: Question, message: str) -> RefusalError:
        """Return the refusal of a prompt that is too long, with what the pack has to do with it."""
        if question.front is None:
            return RefusalError(BAD_REQUEST, message)
        tokens = question.front.tokens
        ours: dict[str, Any] = {
            "workspace": question.workspace,
            "pack_tokens": tokens,
            "window": self._window,
            "left": max(self._window - tokens, 0),
        }
        if question.bare is None:
            ours["hint"] = "With the header X-Infbox-Pack: fit the pack is cut to fit."
        return RefusalError(BAD_REQUEST, message, ours=ours)


def _tracer(collector: str | None) -> Tracer | None:
    if collector is None:
        return None
    from infbox.gateway.traces import Tracer  # noqa: PLC0415  # 3 MiB and 0.2 s that few need

    return Tracer(collector)


async def _too_long(answer: aiohttp.ClientResponse, question: Question, path: str) -> str | None:
    """Return vLLM's own words if it refuses a prompt as too long and we have more to say of it.

    vLLM alone counts tokens, so that nothing is refused that would have fitted.
    """
    is_plain = question.front is None and not path.startswith(forms.MESSAGES)
    if answer.status != BAD_REQUEST or is_plain:
        return None
    error = (responses.parsed(await answer.read()) or {}).get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) and _TOO_LONG.search(message) else None


def _user_of(incoming: Incoming) -> str:
    """Return whose key the request came with, as Caddy says; empty where it does not."""
    names = incoming.header(b"x-infbox-user")
    return names[0] if len(names) == 1 and _USER.fullmatch(names[0]) else ""


def _most_at_once(incoming: Incoming) -> int:
    """Return how many requests the user may have under way, as Caddy says; 0 is any number."""
    given = incoming.header(b"x-infbox-concurrent")
    return int(given[0]) if len(given) == 1 and given[0].isascii() and given[0].isdigit() else 0


def _wants_fit(incoming: Incoming) -> bool:
    """Say whether a request's headers have the pack cut to fit.

    Raises:
        RefusalError: it cannot be told.
    """
    given = incoming.header(b"x-infbox-pack")
    if given not in ([], ["fit"], ["whole"]):
        raise RefusalError(BAD_REQUEST, "The header X-Infbox-Pack must be `fit` or `whole`.")
    return given == ["fit"]


def _workspace_of(incoming: Incoming) -> str:
    """Return the workspace that a request's headers name; empty where they name none.

    Raises:
        RefusalError: they name several.
    """
    names = incoming.header(b"x-infbox-workspace")
    if len(names) > 1:
        raise RefusalError(BAD_REQUEST, f"X-Infbox-Workspace names several: {', '.join(names)}.")
    return names[0] if names else ""


async def _refuse(request: Request, refused: Exception) -> Response:
    assert isinstance(refused, RefusalError)  # noqa: S101  # Starlette's handlers are typed so
    return _refusal(request.url.path, refused)


def _refusal(path: str, refused: RefusalError) -> JSONResponse:
    headers = {"retry-after": refused.retry_after} if refused.retry_after else None
    return JSONResponse(apis.refusal(path, refused), refused.status, headers)
