"""The gateway: puts a workspace's pack in front of a question, and passes all else untouched.

``MODEL@WORKSPACE``, or the header ``X-Infbox-Workspace``, asks for a pack on the paths of
``apis.APIS``. On others the name goes to vLLM as it is, which knows it and answers without a pack.

Where there are replicas, questions on those paths first go to the host that ``upstream.replicas``
finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route

from infbox.auth import told_limits, usage
from infbox.auth.audit import Audit
from infbox.auth.limiter import Limiter
from infbox.auth.shared_counts import SharedCounts
from infbox.gateway import apis, fields
from infbox.gateway.connection import Incoming
from infbox.gateway.conversations.service import Conversations
from infbox.gateway.conversations.summary import Summary
from infbox.gateway.exchange import check_user, user_of
from infbox.gateway.forwarder import Forwarder, Upstream
from infbox.gateway.limit import TokenLimits, computed
from infbox.gateway.questions import Questions
from infbox.gateway.refusals import RefusalError
from infbox.gateway.routes.health import Health
from infbox.gateway.routes.models import Models
from infbox.gateway.routes.own_usage import OwnUsage
from infbox.gateway.routes.responses import StoredResponses
from infbox.gateway.routes.tools import ToolRoutes
from infbox.gateway.routes.workspaces import WorkspacePages
from infbox.gateway.stored.store import ResponseStore
from infbox.gateway.upstream.engine import Engine, EngineForwarder
from infbox.gateway.upstream.queue import RequestQueue
from infbox.gateway.upstream.replicas import Balanced
from infbox.gateway.workspaces import Workspaces
from infbox.log import line
from infbox.metrics import GatewayMetrics
from infbox.runtime.serve import lasting, server
from infbox.status.page import FILES, Page
from infbox.status.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from infbox.config import Config
    from infbox.gateway.traces import Tracer
    from infbox.gateway.workspaces import SeenWorkspaces

_CLIENT_IDLE_SECONDS = 180  # longer than Caddy keeps its connections to us
_GRACE_SECONDS = 60
_PRIVATE_UMASK = 0o027
_MB = 1_000_000

# What nobody's key is asked for, or everybody sees alike.
_NOT_RECORDED = frozenset({"/health", "/ready", "/metrics", *FILES})

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


class Gateway:
    """The gateway of one configuration; ``app`` is the ASGI application.

    Args:
        config: the workspaces' directories need not be there.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        names = [workspace.name for workspace in config.workspaces]
        self._bases = {w.name: w.base for w in config.workspaces if w.base}
        self._workspaces = Workspaces(
            config.state_dir,
            names,
            self._bases,
            is_restricted=config.gateway.restricts_workspaces,
        )
        self._metrics = GatewayMetrics()
        self._daily = usage.Daily(usage.file_in(config.state_dir))
        self._limiter = _limiter(config)
        self._summary = Summary()
        self._engine = Engine(config.engine.url, config.engine.model)
        self._conversations = Conversations(
            config.state_dir / "conversations" / "conversations.db",
            config.gateway.conversations_mb * _MB,
            config.state_dir,
            weights=config.weights.retrieval,
        )
        self._responses = ResponseStore(config.gateway.responses_mb * _MB)
        self._balanced: Balanced | None = None
        if config.replicas:
            self._balanced = Balanced(config.replicas, self._metrics, self._bases)
        self._queue = self._made_queue()
        self._questions = Questions(
            config,
            self._engine,
            self._conversations,
            self._metrics,
            self._responses,
            queue=None if self._balanced else self._queue,
        )
        self._sampler = Sampler(config, self._workspaces.unrestricted, self._summary.of)
        self._tracer = _tracer(config.gateway.traces)
        self.page = Page(self._sampler, self._seen_by)
        self._upstream = self._made_upstream()
        self.forwarder = Forwarder(
            config.gateway,
            self._questions,
            self._upstream,
            self._workspaces,
            metrics=self._metrics,
            daily=self._daily,
            summary=self._summary,
            tokens=TokenLimits(self._limiter, config.engine.max_model_len),
            first_tokens=self._sampler.first_tokens,
        )
        routes = self._routes()
        self.app = Starlette(
            routes=routes,
            exception_handlers={RefusalError: _refuse},
            middleware=self._middleware(routes),
            lifespan=self._lifespan,
        )

    def _made_queue(self) -> RequestQueue:
        settings, balanced = self._config.gateway, self._balanced

        async def takes_requests() -> bool:
            if balanced is None:
                return await self._engine.takes_requests()
            return await balanced.takes_requests(self._engine.session)

        queue = RequestQueue(
            settings.request_queue_timeout_seconds, settings.request_queue_limit, takes_requests
        )
        self._metrics.queued.set_function(lambda: queue.count)
        return queue

    def _made_upstream(self) -> Upstream:
        forwarder = EngineForwarder(
            self._engine,
            self._queue,
            self._metrics,
            window=self._config.engine.max_model_len,
            is_replica=self._balanced is not None,
            on_cut=self._questions.note_front,
            on_drop=self._questions.drop_found,
        )
        return Upstream(self._engine, forwarder, self._queue, self._balanced)

    def _middleware(self, routes: Iterable[BaseRoute]) -> list[Middleware]:
        if not self._config.gateway.audit:
            return []
        names = [workspace.name for workspace in self._config.workspaces]
        paths = {route.path_format for route in routes if isinstance(route, Route)}
        recorded = paths - _NOT_RECORDED | fields.FIELDS.keys()
        return [Middleware(Audit, names, recorded, _NOT_RECORDED)]

    def _routes(self) -> list[BaseRoute]:
        config, engine, upstream = self._config, self._engine, self._upstream
        marks = upstream.balanced.marks if upstream.balanced else []
        window, watcher = config.engine.max_model_len, f"http://{config.watcher.listen}"
        told, admit = self._summary.of, self._admit
        rest = self._tracer.around(self.forwarder) if self._tracer else self.forwarder
        return [
            *Health(engine, self._metrics, marks).routes(),
            *Models(engine, upstream.queue, window, admit).routes(),
            *WorkspacePages(engine, watcher, told, admit).routes(),
            *StoredResponses(self._responses, admit).routes(),
            *self._tool_routes(),
            *OwnUsage(self._daily, self._limiter, self._seen_by).routes(),
            *self.page.routes(),
            Mount("/", app=rest),
        ]

    def _tool_routes(self) -> list[BaseRoute]:
        if not self._config.gateway.tools:
            return []
        weights = self._config.weights.retrieval
        return ToolRoutes(self._config.state_dir, self._metrics, self._admit, weights).routes()

    def _admit(self, request: Request) -> SeenWorkspaces:
        """Return the workspaces that a request's user may use.

        Raises:
            RefusalError: it must have a user and has none, or does not say which workspaces.
        """
        user = user_of(Incoming(request.scope, request.receive, 0))
        check_user(user, is_required=self._config.gateway.requires_user)
        return self._seen_by(request)

    def _seen_by(self, request: Request) -> SeenWorkspaces:
        return self._workspaces.seen_by(Incoming(request.scope, request.receive, 0))

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        tracing = self._tracer.running() if self._tracer else contextlib.nullcontext()
        keeping = self._conversations.running(self._workspaces.all_packs)
        counting = self._counting()
        async with tracing, self._engine.running(), self._sampler.running(), keeping, counting:
            gc.freeze()  # what is there now stays; looking through it takes 5 ms each time
            yield
            gc.unfreeze()
        self._questions.close()

    @contextlib.asynccontextmanager
    async def _counting(self) -> AsyncIterator[None]:
        """Count what users use, beginning with what they had of the day already."""
        for user, had in (await asyncio.to_thread(self._daily.of_today)).items():
            self._limiter.note(told_limits.person(user), computed(had))
        async with self._daily.running(), self._limiter.running():
            yield


def _limiter(config: Config) -> Limiter:
    shared = config.gateway.shared_limits
    host = config.replicas.host if config.replicas else ""
    return Limiter(SharedCounts(shared, host) if shared else None)


def _tracer(collector: str | None) -> Tracer | None:
    if collector is None:
        return None
    from infbox.gateway.traces import Tracer  # noqa: PLC0415  # 3 MiB and 0.2 s that few need

    return Tracer(collector)


async def _refuse(request: Request, refused: Exception) -> Response:
    assert isinstance(refused, RefusalError)  # noqa: S101  # Starlette's handlers are typed so
    return apis.refusal(request.url.path, refused)
