"""Traces: a span a request, between the client's and vLLM's; without them nothing changes."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fake_engine import FakeEngine
from gateway_stack import USER, Stack, publish
from infbox.gateway.app import Gateway
from serving import serving, settings_for

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
CLIENTS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}


HELD_SECONDS = 60.0  # after which a collector that hangs answers all the same


@dataclass
class Collector:
    """Takes spans by OTLP over HTTP, once it is not held any more."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    async def take(self, request: Request) -> Response:
        await asyncio.to_thread(self.released.wait, HELD_SECONDS)
        sent = ExportTraceServiceRequest.FromString(await request.body())
        for resource in sent.resource_spans:
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return Response(media_type="application/x-protobuf")


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    collector.released.set()
    routes = [Route("/v1/traces", collector.take, methods=["POST"])]
    with serving(Starlette(routes=routes)) as collector.url:
        yield collector


@contextlib.contextmanager
def traced(tmp_path: Path, collector: str) -> Iterator[Stack]:
    """Run a gateway that sends its traces somewhere; they are all sent when this is left."""
    publish(tmp_path)
    with FakeEngine().running() as engine:
        config = settings_for(tmp_path, engine.url, shop=(tmp_path, 1000))
        config = config._replace(gateway=config.gateway._replace(traces=collector))
        with serving(Gateway(config).app) as url:
            yield Stack(engine, url)


def attributes(span: Span) -> dict[str, str]:
    """What a span says, as text."""
    return {
        pair.key: pair.value.string_value or str(pair.value.int_value) for pair in span.attributes
    }


def handed_on(stack: Stack) -> dict[str, str]:
    """The headers of the last question that the engine saw."""
    headers = stack.engine.seen[-1].headers
    return {name.decode().lower(): value.decode() for name, value in headers}


def ask(stack: Stack, headers: dict[str, str] | None = None) -> None:
    answer = stack.post("/v1/chat/completions", headers, model="coder@shop", messages=[USER])
    assert answer.status == 200


def test_a_span_lies_between_the_clients_and_the_engines(
    tmp_path: Path, collector: Collector
) -> None:
    with traced(tmp_path, collector.url) as stack:
        ask(stack, CLIENTS)
        seen = handed_on(stack)
    (span,) = collector.spans
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert seen["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert seen["tracestate"] == "vendor=1"
    assert [event.name for event in span.events] == ["first byte"]
    told = attributes(span)
    assert told["http.response.status_code"] == "200"
    assert told["infbox.generation"] == "3"
    assert told["infbox.cached_tokens"] == "0"


def test_a_span_holds_no_word_of_a_question(tmp_path: Path, collector: Collector) -> None:
    with traced(tmp_path, collector.url) as stack:
        ask(stack, {"authorization": "Bearer a-secret"})
    sent = str(collector.spans)
    assert "Why?" not in sent
    assert "a-secret" not in sent


def test_without_a_clients_context_a_trace_begins_here(
    tmp_path: Path, collector: Collector
) -> None:
    with traced(tmp_path, collector.url) as stack:
        ask(stack)
        seen = handed_on(stack)
    (span,) = collector.spans
    assert not span.parent_span_id
    named = f"00-{span.trace_id.hex()}-{span.span_id.hex()}"
    assert seen["traceparent"].rpartition("-")[0] == named


def test_who_does_not_want_a_trace_gets_none(tmp_path: Path, collector: Collector) -> None:
    with traced(tmp_path, collector.url) as stack:
        ask(stack, NOT_SAMPLED)
        assert handed_on(stack)["traceparent"].startswith(f"00-{TRACE}-")
        assert handed_on(stack)["traceparent"].endswith("-00")
    assert collector.spans == []


def test_an_engine_that_fails_makes_a_span_that_failed(
    tmp_path: Path, collector: Collector
) -> None:
    with traced(tmp_path, collector.url) as stack:
        stack.engine.ending = True
        answer = stack.post("/v1/chat/completions", model="coder", messages=[USER])
    (span,) = collector.spans
    assert attributes(span)["http.response.status_code"] == str(answer.status)
    assert span.status.code == Status.STATUS_CODE_ERROR


def test_a_collector_that_is_away_takes_nothing_from_an_answer(tmp_path: Path) -> None:
    with traced(tmp_path, "http://127.0.0.1:9") as stack:
        ask(stack)


def test_a_collector_that_hangs_holds_nothing_up(tmp_path: Path, collector: Collector) -> None:
    collector.released.clear()
    try:
        with traced(tmp_path, collector.url) as stack:
            ask(stack)
            assert collector.spans == []
        assert collector.spans == [], "the gateway waited for it when it ended"
    finally:
        collector.released.set()


def test_without_traces_the_clients_context_passes(stack: Stack) -> None:
    ask(stack, CLIENTS)
    seen = handed_on(stack)
    assert {name: seen[name] for name in CLIENTS} == CLIENTS


def test_without_traces_nothing_of_them_is_loaded() -> None:
    code = "import sys, infbox.gateway.app; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
