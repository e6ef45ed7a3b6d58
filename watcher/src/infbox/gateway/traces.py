"""Traces of OpenTelemetry: a span a request, and vLLM's own below it.

Loaded only where they are switched on. Where they are off, a client's ``traceparent`` goes to vLLM
as it came. Spans tell how long a request took and what of it was cached, and no word of it.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import anyio
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.trace import Span
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from infbox.gateway.connection import Headers

_PATH = "/v1/traces"  # OTLP's own
_EXPORT_SECONDS = 2
_CONTEXT = (b"traceparent", b"tracestate")
_OURS = "x-infbox-"
_PATHS = "x-infbox-retrieved"
_SERVER_ERROR = 500


class Tracer:
    """Sends spans to a collector, in the background; what it does not take is dropped.

    Args:
        collector: base address at which it takes OTLP over HTTP.
    """

    def __init__(self, collector: str) -> None:
        names = {"service.name": "infbox-gateway", "host.name": socket.gethostname()}
        exporter = OTLPSpanExporter(endpoint=collector + _PATH, timeout=_EXPORT_SECONDS)
        self._provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("infbox")
        self._propagator = TraceContextTextMapPropagator()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send what is left when this ends."""
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(self._provider.shutdown)

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return an application that has a span made of each request to this one."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            with self._tracer.start_as_current_span(
                f"{scope['method']} {scope['path']}",
                context=self._propagator.extract(_text(scope["headers"])),
                kind=SpanKind.SERVER,
                attributes={"http.request.method": scope["method"], "url.path": scope["path"]},
            ) as span:
                headers = self._with_context(scope["headers"], span)
                await app({**scope, "headers": headers}, receive, _noting(span, send))

        return traced

    def _with_context(self, headers: Headers, span: Span) -> Headers:
        """Return headers that put what comes of them below a span."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        kept = [(name, value) for name, value in headers if name not in _CONTEXT]
        return [*kept, *((name.encode(), value.encode()) for name, value in carrier.items())]


def _noting(span: Span, send: Send) -> Send:
    """Return a ``send`` that notes an answer's status, what we say of it, and when it began."""
    is_begun = False

    async def noting(message: Message) -> None:
        nonlocal is_begun
        if message["type"] == "http.response.start":
            span.set_attribute("http.response.status_code", message["status"])
            if message["status"] >= _SERVER_ERROR:
                span.set_status(StatusCode.ERROR)
            for name, value in _text(message["headers"]).items():
                if name.startswith(_OURS) and name != _PATHS:
                    key = name.removeprefix(_OURS).replace("-", "_")
                    span.set_attribute(f"infbox.{key}", value)
        elif not is_begun and message.get("body"):
            is_begun = True
            span.add_event("first byte")
        await send(message)

    return noting


def _text(headers: Headers) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
