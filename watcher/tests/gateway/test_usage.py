"""Tokens are counted by user and workspace, in metrics and by day, whatever a client asks for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_apis import CHAT, COMPLETIONS, COUNT, MESSAGES, RESPONSES
from fake_engine import FakeEngine
from gateway_stack import BODIES, USER, Stack, publish
from infbox.auth import usage
from infbox.auth.usage import Counts
from infbox.gateway.app import Gateway
from infbox.gateway.upstream.responses import without_usage
from serving import serving, settings_for, until

ASKED = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])


class Counted:
    """A gateway, and what it has written down once it ended."""

    def __init__(self, state: Path) -> None:
        self._file = usage.file_in(state)
        self._ending = contextlib.ExitStack()
        self.stack: Stack

    def start(self, tmp_path: Path, **engine: Any) -> Stack:
        for name in ("shop", "mango"):
            publish(tmp_path, workspace=name)
        upstream = self._ending.enter_context(FakeEngine(**engine).running())
        config = settings_for(tmp_path, upstream.url, shop=(tmp_path, 1000), mango=(tmp_path, 1000))
        self.stack = Stack(upstream, self._ending.enter_context(serving(Gateway(config).app)))
        return self.stack

    def end(self) -> dict[tuple[str, str], Counts]:
        """End the gateway; return what was written, by user and workspace."""
        self._ending.close()
        return {(key.user, key.workspace): counts for key, counts in usage.read(self._file, 30)}


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    made = Counted(tmp_path / "state")
    made.start(tmp_path)
    yield made
    made.end()


def ask(stack: Stack, path: str, user: str = "ann", **body: Any) -> bytes:
    return stack.post(path, {"X-Infbox-User": user}, **{**BODIES[path], **body}).body


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
@pytest.mark.parametrize("streams", [False, True])
def test_each_answer_is_counted_by_day(counted: Counted, path: str, streams: bool) -> None:
    for user in ("ann", "ann", "bob@page"):
        ask(counted.stack, path, user, model="coder@shop", stream=streams)
    ask(counted.stack, path, model="coder", stream=streams)
    prompt = len(counted.stack.engine.prompts[0])
    own = len(counted.stack.engine.prompts[-1])
    found = counted.end()
    assert found[("ann", "shop")] == Counts(2, 0, 2 * prompt, prompt, 2)
    assert found[("bob@page", "shop")] == Counts(1, 0, prompt, prompt, 1)
    assert found[("ann", "")][:3] == (1, 0, own)


@ASKED
@pytest.mark.parametrize("model", ["coder", "coder@shop"])
def test_a_stream_that_was_not_asked_for_its_usage_is_the_same_to_its_client(
    counted: Counted, path: str, model: str
) -> None:
    asked = ask(
        counted.stack, path, model=model, stream=True, stream_options={"include_usage": True}
    )
    events = asked.removesuffix(b"\n\n").split(b"\n\n")
    assert b'"usage"' in events[-2]
    untold = b"\n\n".join([*events[:-2], events[-1], b""])
    for options in ({}, {"stream_options": None}, {"stream_options": {"include_usage": False}}):
        assert ask(counted.stack, path, model=model, stream=True, **options) == untold
    told = counted.stack.engine.seen[-1].chat["stream_options"]
    assert told == {"include_usage": True, "continuous_usage_stats": False}


@ASKED
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"stream": False},
        {"stream": 0},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": True, "stream_options": "usage"},
        {"stream": True, "stream_options": [1]},
    ],
)
def test_what_says_its_usage_or_is_malformed_goes_out_as_it_came(
    counted: Counted, path: str, body: dict[str, Any]
) -> None:
    sent = json.dumps({"model": "coder", **BODIES[path], **body}).encode()
    with contextlib.suppress(Exception):  # the stub trips over what is malformed
        counted.stack.ask("POST", path, sent)
    assert counted.stack.engine.seen[-1].body == sent


def test_a_wish_for_usage_in_each_event_is_not_granted_by_ours(counted: Counted) -> None:
    options = {"include_usage": False, "continuous_usage_stats": True}
    ask(counted.stack, CHAT, model="coder", stream=True, stream_options=options)
    told = counted.stack.engine.seen[-1].chat["stream_options"]
    assert told == {"include_usage": True, "continuous_usage_stats": False}


def test_an_answer_that_does_not_come_to_its_end_is_counted_without_tokens(tmp_path: Path) -> None:
    made = Counted(tmp_path / "state")
    stack = made.start(tmp_path, breaks_off=True, delay=0.01)
    ask(stack, CHAT, model="coder@shop", stream=True)
    line = 'infbox_gateway_uncounted_requests_total{user="ann",workspace="shop"} 1.0'
    until(lambda: line in stack.metrics)
    assert made.end() == {("ann", "shop"): Counts(1, 1)}


def test_a_client_that_leaves_within_a_stream_is_counted(tmp_path: Path) -> None:
    made = Counted(tmp_path / "state")
    stack = made.start(tmp_path, delay=0.01, events=10_000)
    connection = stack.connect()
    body = json.dumps({"model": "coder@shop", "messages": [USER], "stream": True})
    connection.request("POST", CHAT, body, {"X-Infbox-User": "ann"})
    connection.getresponse().read(10)
    connection.close()
    until(lambda: stack.engine.cancelled)
    until(lambda: "infbox_gateway_uncounted_requests_total{" in stack.metrics)
    assert made.end() == {("ann", "shop"): Counts(1, 1)}


def test_what_has_no_tokens_is_not_counted(counted: Counted) -> None:
    ask(counted.stack, CHAT, model="coder@my-word")
    ask(counted.stack, CHAT, model="my-word")
    counted.stack.post(COUNT, model="coder@shop", messages=[USER])
    counted.stack.ask("GET", "/v1/models")
    metrics = counted.stack.metrics
    assert counted.end() == {}
    assert "my-word" not in metrics
    assert "infbox_gateway_uncounted_requests_total{" not in metrics


def test_those_who_signed_in_have_one_label(counted: Counted) -> None:
    for user in ("bob@page", "carol-example.org@page"):
        ask(counted.stack, CHAT, user, model="coder@shop")
    line = 'infbox_gateway_tokens_total{kind="completion",user="@page",workspace="shop"} 2.0'
    until(lambda: line in counted.stack.metrics)
    assert "bob" not in counted.stack.metrics
    assert "carol" not in counted.stack.metrics


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices": [{"delta": {"content": "\\"usage\\": {"}}]}',
        b'data: {"choices": [{"delta": {}}], "usage": {"prompt_tokens": 1}}',
        b'data: {"choices": [], "usage": null}',
        b'data: {"error": {"usage": {}}}',
        b'data: {"choices": [], "usage": {"prompt',
        b': "usage": {"choices": []}',
        b"data: [DONE]",
    ],
)
def test_no_other_event_is_left_out(event: bytes) -> None:
    before = b"data: 1\n\n" + event + b"\n\n"
    last = b'data: {"id": "x", "choices": [], "usage": {"prompt_tokens": 1}}\n\n'
    assert without_usage(before) == before
    assert without_usage(before + last + b"data: [DONE]\n\n") == before + b"data: [DONE]\n\n"
