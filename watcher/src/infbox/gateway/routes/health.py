"""Whether the gateway takes requests, and what it counts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response
from starlette.routing import Route

from infbox.gateway.refusals import UNAVAILABLE

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from infbox.gateway.connection import Headers
    from infbox.gateway.upstream.engine import Engine
    from infbox.metrics import GatewayMetrics

_OK = 200
_SLOW_SECONDS = 4  # nobody that is away takes so long to say nothing
_BUSY_SECONDS = 30  # that an engine may be busy before it counts as away


class Health:
    """The paths for whoever watches over the gateway.

    Args:
        engine: of this host.
        metrics: of the gateway.
        marks: headers by which this host is known among replicas.
    """

    def __init__(self, engine: Engine, metrics: GatewayMetrics, marks: Headers) -> None:
        self._engine = engine
        self._metrics = metrics
        self._marks = {name.decode(): value.decode() for name, value in marks}
        self._ready_at = float("-inf")

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._show_metrics),
        ]

    async def _health(self, _request: Request) -> Response:
        return Response(status_code=_OK if await self._engine.is_healthy() else UNAVAILABLE)

    async def _ready(self, _request: Request) -> Response:
        """Say whether a question would be taken now. One that is slow to say so is only busy."""
        began = time.monotonic()
        is_ready = await self._engine.takes_requests()
        now = time.monotonic()
        if is_ready:
            self._ready_at = now
        is_busy = now - began >= _SLOW_SECONDS and now - self._ready_at < _BUSY_SECONDS
        status = _OK if is_ready or is_busy else UNAVAILABLE
        return Response(status_code=status, headers=self._marks)

    async def _show_metrics(self, _request: Request) -> Response:
        page = generate_latest(self._metrics.registry)
        return Response(page, headers={"content-type": CONTENT_TYPE_LATEST})
