"""Clients that leave, and either side being slow."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fake_apis import CHAT, MESSAGES, RESPONSES
from gateway_stack import BODIES, USER, Stack, publish, running
from infbox.config import Gateway as Settings
from infbox.gateway.app import Gateway
from infbox.gateway.requests import Question
from infbox.gateway.upstream.client import _Body
from serving import ANY, serving, settings_for, until

MEGABYTE = 1_000_000


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("model", ["coder", "coder@shop"])
def test_a_client_that_leaves_cancels_the_engine_s_work(
    stack: Stack, path: str, streams: bool, model: str
) -> None:
    stack.engine.delay = 30.0
    connection = stack.connect()
    body = {"model": model, "stream": streams, **BODIES[path]}
    connection.request("POST", path, json.dumps(body))
    until(lambda: stack.engine.under_way == 1)
    connection.close()
    until(lambda: stack.engine.under_way == 0)
    assert stack.engine.cancelled == 1
    workspace = model.partition("@")[2]
    counted = f'infbox_gateway_cancelled_total{{workspace="{workspace}"}} 1.0'
    until(lambda: counted in stack.metrics)


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_a_client_that_leaves_in_the_middle_of_a_stream_cancels_it(stack: Stack, path: str) -> None:
    stack.engine.delay, stack.engine.events = 0.02, 100_000
    connection = stack.connect()
    connection.request("POST", path, json.dumps({"stream": True, "model": "coder", **BODIES[path]}))
    connection.getresponse().read(50)
    connection.close()
    until(lambda: stack.engine.cancelled == 1)
    assert stack.engine.sent < 1000


@pytest.mark.parametrize("path", BODIES)
def test_a_request_that_is_refused_is_not_counted_as_one_that_its_client_gave_up(
    stack: Stack, path: str
) -> None:
    for _ in range(5):
        assert stack.post(path, model="coder@nowhere", **BODIES[path]).status == 404
    counted = 'requests_total{status="404",user="",workspace=""} 5.0'
    until(lambda: counted in stack.metrics)
    assert 'infbox_gateway_cancelled_total{workspace=""} 0.0' in stack.metrics


def test_a_client_that_leaves_before_its_request_is_whole_reaches_nobody(stack: Stack) -> None:
    parts = urlsplit(stack.url)
    with socket.create_connection((str(parts.hostname), parts.port or 0)) as client:
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode())
    until(lambda: 'infbox_gateway_cancelled_total{workspace=""} 1.0' in stack.metrics)
    assert not stack.engine.seen


@pytest.mark.parametrize("model", ["coder", "coder@shop"])
def test_a_client_that_reads_slowly_slows_the_engine(tmp_path: Path, model: str) -> None:
    event = b"data: " + b"x" * 10_000 + b"\n\n"
    with running(tmp_path, events=10**9, event=event) as stack:
        with contextlib.closing(stack.connect()) as connection:
            body = {"stream": True, "model": model, "messages": [USER]}
            connection.request("POST", CHAT, json.dumps(body))
            answer = connection.getresponse()
            sent = settled(lambda: stack.engine.sent * len(event))
            assert sent < 20 * MEGABYTE, "what the sockets between hold, and no more"
            answer.read(2 * sent)
            until(lambda: stack.engine.sent * len(event) > sent)
        until(lambda: stack.engine.under_way == 0)


@pytest.mark.parametrize("model", ["coder", "coder@shop"])
def test_what_was_sent_is_forgotten_before_the_answer_ends(stack: Stack, model: str) -> None:
    stack.engine.delay = 30.0
    with contextlib.closing(stack.connect()) as connection:
        body = {"stream": True, "model": model, "messages": [USER]}
        connection.request("POST", CHAT, json.dumps(body))
        connection.getresponse().read(10)
        questions = [thing for thing in gc.get_objects() if isinstance(thing, Question)]
        bodies = [thing for thing in gc.get_objects() if isinstance(thing, _Body)]
        assert questions
        assert [question.parts for question in questions] == [None] * len(questions)
        assert [body._value for body in bodies] == [[]] * len(bodies)


def settled(measure: Callable[[], int]) -> int:
    """Return what a number is once it no longer grows."""
    value, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:
        now = measure()
        if now != value:
            value, since = now, time.monotonic()
        time.sleep(0.02)
    return value


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[str]:
    """A gateway before an engine that accepts connections and reads nothing."""
    publish(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as engine:
        address = f"http://127.0.0.1:{engine.getsockname()[1]}"
        config = settings_for(tmp_path, address, shop=(tmp_path, 1000))
        config = config._replace(gateway=Settings(ANY, 1000 * MEGABYTE))
        with serving(Gateway(config).app) as url:
            yield url


def test_an_engine_that_reads_slowly_slows_the_client(deaf: str) -> None:
    parts = urlsplit(deaf)
    with socket.create_connection((str(parts.hostname), parts.port or 0)) as client:
        length = 500 * MEGABYTE
        head = f"POST /v1/audio HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        client.sendall(head.encode())
        client.settimeout(1)
        sent, piece = 0, b"x" * 100_000
        with contextlib.suppress(TimeoutError):
            while sent < length:
                sent += client.send(piece)
    assert sent < 20 * MEGABYTE, "what the sockets between hold, and no more"
