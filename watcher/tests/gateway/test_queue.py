"""Requests that come while the engine is away."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from chat_templates import GUARDED, INLINE
from fake_apis import CHAT, MESSAGES, RESPONSES
from fake_engine import DEAD, ENDING, FakeEngine
from gateway_stack import BODIES, USER, Answer, Stack, publish
from infbox.config import Listen
from infbox.gateway.app import Gateway
from infbox.gateway.upstream import queue
from serving import serving, settings_for, until

ALL = pytest.mark.parametrize("path", BODIES)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for the engine more often, to wait less."""
    monkeypatch.setattr(queue, "_INTERVAL_SECONDS", 0.02)


@pytest.fixture
def place() -> Listen:
    """A free port for the engine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return Listen("127.0.0.1", listener.getsockname()[1])


@contextlib.contextmanager
def gateway(tmp_path: Path, place: Listen, seconds: int = 10, most: int = 5) -> Iterator[Stack]:
    """A gateway whose engine is not there yet."""
    publish(tmp_path)
    config = settings_for(tmp_path, f"http://{place}", shop=(tmp_path, 1000))
    holding = config.gateway._replace(
        request_queue_timeout_seconds=seconds, request_queue_limit=most
    )
    with serving(Gateway(config._replace(gateway=holding)).app) as url:
        yield Stack(FakeEngine(), url)


@contextlib.contextmanager
def asking(stack: Stack, count: int, path: str = CHAT) -> Iterator[list[Future[Answer]]]:
    """Ask so many questions at once, numbered in the order in which they wait."""
    with ThreadPoolExecutor(count) as pool:
        answers = []
        for number in range(count):
            body = {**BODIES[path], "model": "coder@shop", "seed": number}
            answers.append(pool.submit(stack.post, path, **body))
            until(lambda waiting=number + 1: held(stack) == waiting)
        yield answers


def held(stack: Stack) -> int:
    """How many requests wait, by the gateway's own count."""
    (line,) = [
        line
        for line in stack.metrics.splitlines()
        if line.startswith("infbox_gateway_queued_requests ")
    ]
    return int(float(line.split()[1]))


@ALL
def test_a_request_waits_for_the_engine_and_is_asked_once(
    tmp_path: Path, place: Listen, path: str
) -> None:
    with gateway(tmp_path, place) as stack, asking(stack, 1, path) as answers:
        with stack.engine.running(place):
            answer = answers[0].result(10)
        assert (answer.status, answer.headers["x-infbox-pack-tokens"]) == (200, "100")
        assert stack.engine.targets().count(path) == 1
        assert held(stack) == 0


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("shape", [GUARDED, INLINE])
def test_a_request_that_waits_goes_out_as_the_template_takes_it(
    tmp_path: Path, place: Listen, path: str, shape: str
) -> None:
    """Whether it takes a system message in between cannot be asked before the engine is there."""
    said = [USER, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And now?"}]
    said.insert(2, {"role": "system", "content": "a.py was saved"})
    with gateway(tmp_path, place) as stack, ThreadPoolExecutor(1) as pool:
        stack.engine.chat_template = shape
        body = {**BODIES[path], "input" if path == RESPONSES else "messages": said}
        asked = pool.submit(stack.post, path, model="coder@shop", **body)
        until(lambda: held(stack) == 1)
        with stack.engine.running(place):
            assert asked.result(10).status == 200
    prompt = str(stack.engine.prompts[-1])
    assert ("<system-reminder>\na.py was saved" in prompt) is (shape == GUARDED)
    assert prompt.index("So.") < prompt.index("a.py was saved")


def test_the_list_of_models_waits_for_the_engine(tmp_path: Path, place: Listen) -> None:
    with gateway(tmp_path, place) as stack, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stack.ask, "GET", "/v1/models")
        until(lambda: held(stack) == 1)
        with stack.engine.running(place):
            status, _, listed = asked.result(10)
    assert status == 200
    assert [model["id"] for model in json.loads(listed)["data"]] == ["coder", "coder@shop"]


def test_those_that_came_first_go_first(tmp_path: Path, place: Listen) -> None:
    with gateway(tmp_path, place) as stack, asking(stack, 4) as answers:
        with stack.engine.running(place):
            assert [answer.result(10).status for answer in answers] == [200] * 4
        assert [seen.chat["seed"] for seen in stack.engine.chats] == [0, 1, 2, 3]


@ALL
def test_after_the_time_the_api_s_own_error_says_when_to_ask_again(
    tmp_path: Path, place: Listen, path: str
) -> None:
    with gateway(tmp_path, place, seconds=1) as stack:
        answer = stack.post(path, **{**BODIES[path], "model": "coder"})
    assert (answer.status, answer.headers["retry-after"]) == (503, "10")
    assert "did not respond in time" in answer.json["error"]["message"]


def test_an_engine_that_is_about_to_end_has_not_begun_what_it_refuses(
    tmp_path: Path, place: Listen
) -> None:
    with gateway(tmp_path, place) as stack:
        stack.engine.ending = True
        with stack.engine.running(place), asking(stack, 2) as answers:
            asked = len(stack.engine.chats)
            stack.engine.ending = False
            assert [answer.result(10).status for answer in answers] == [200, 200]
        # The second waits behind the first, and is not tried before.
        assert asked == 1
        assert len(stack.engine.chats) == 3


def test_what_the_engine_may_have_begun_is_not_asked_again(tmp_path: Path, place: Listen) -> None:
    with gateway(tmp_path, place) as stack:
        stack.engine.breaks_whole = True
        with stack.engine.running(place):
            answer = stack.post(CHAT, model="coder@shop", **BODIES[CHAT])
        assert answer.status == 502
        assert len(stack.engine.chats) == 1


@pytest.mark.parametrize(("deaths", "status"), [(1, 200), (2, 500)])
def test_a_request_that_ends_with_the_engine_s_core_is_tried_again_once(
    tmp_path: Path, place: Listen, deaths: int, status: int
) -> None:
    with gateway(tmp_path, place) as stack, stack.engine.running(place):
        stack.engine.deaths = deaths
        answer = stack.post(CHAT, model="coder@shop", **BODIES[CHAT])
    assert answer.status == status
    assert len(stack.engine.chats) == 2
    if status != 200:
        assert answer.json == DEAD


def test_a_request_that_ends_with_the_engine_s_core_waits_for_the_next_one(
    tmp_path: Path, place: Listen
) -> None:
    """vLLM's server is there for a moment without its core, and goes on to tokenize."""
    with gateway(tmp_path, place) as stack, stack.engine.running(place):
        stack.engine.healthy, stack.engine.deaths = False, 1000
        with asking(stack, 1) as (answer,):
            until(lambda: len(stack.engine.tokenized) > 2)
            assert len(stack.engine.chats) == 1, "it was sent once more to what is about to end"
            stack.engine.healthy, stack.engine.deaths = True, 0
            assert answer.result(10).status == 200
        assert len(stack.engine.chats) == 2


def test_another_error_of_the_engine_is_handed_on(tmp_path: Path, place: Listen) -> None:
    with gateway(tmp_path, place) as stack, stack.engine.running(place):
        stack.engine.busy = True
        answer = stack.post(CHAT, model="coder", **BODIES[CHAT])
    assert (answer.status, answer.json) == (503, {"error": {"message": "busy"}})


def test_a_path_that_takes_no_pack_is_not_held(tmp_path: Path, place: Listen) -> None:
    with gateway(tmp_path, place) as stack:
        assert stack.ask("POST", "/v1/other", b"{}")[0] == 502
        stack.engine.ending = True
        with stack.engine.running(place):
            status, _, answer = stack.ask("POST", "/tokenize", b"{}")
        assert (status, json.loads(answer)) == (500, ENDING)


def test_a_client_that_leaves_is_held_no_longer(tmp_path: Path, place: Listen) -> None:
    with gateway(tmp_path, place) as stack:
        with contextlib.closing(stack.connect()) as client:
            client.request("POST", CHAT, json.dumps({"model": "coder", **BODIES[CHAT]}))
            until(lambda: held(stack) == 1)
        until(lambda: held(stack) == 0)
        with stack.engine.running(place):
            assert stack.post(CHAT, model="coder", **BODIES[CHAT]).status == 200
        assert len(stack.engine.chats) == 1


def test_no_more_are_held_than_may_be(tmp_path: Path, place: Listen) -> None:
    with gateway(tmp_path, place, most=2) as stack, asking(stack, 2) as answers:
        answer = stack.post(CHAT, model="coder", **BODIES[CHAT])
        assert (answer.status, answer.headers["retry-after"]) == (503, "10")
        assert "the request queue is full" in answer.json["error"]["message"]
        with stack.engine.running(place):
            assert [answer.result(10).status for answer in answers] == [200, 200]


def test_no_more_bytes_are_held_than_there_is_memory_for(
    tmp_path: Path, place: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_MOST_BYTES", 1000)
    with gateway(tmp_path, place) as stack, asking(stack, 1) as answers:
        answer = stack.post(CHAT, model="coder", messages=["x" * 1000])
        assert (answer.status, answer.headers["retry-after"]) == (503, "10")
        with stack.engine.running(place):
            assert answers[0].result(10).status == 200


def test_a_steady_stream_sees_nothing_of_a_restart(tmp_path: Path, place: Listen) -> None:
    statuses: list[int] = []
    done = threading.Event()

    def ask(stack: Stack) -> None:
        while not done.is_set():
            statuses.append(stack.post(CHAT, model="coder", **BODIES[CHAT]).status)

    with gateway(tmp_path, place) as stack, ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(ask, stack)
        for _ in range(3):
            with stack.engine.running(place):
                stack.engine.ending = False
                answered = len(statuses)
                until(grown(statuses, answered + 10))
                stack.engine.ending = True
                until(lambda: held(stack) == 3)
        done.set()
        stack.engine.ending = False
        with stack.engine.running(place):
            pool.shutdown()
    assert set(statuses) == {200}


def grown(things: list[int], size: int) -> Callable[[], bool]:
    """Whether a list has so many."""
    return lambda: len(things) >= size
