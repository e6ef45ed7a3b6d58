"""Bad input, and an engine that breaks off."""

from __future__ import annotations

import http.client
import json

import anthropic
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_apis import CHAT, COMPLETIONS, MESSAGES, RESPONSES, event
from gateway_stack import BODIES, TEXT, USER, Stack
from infbox.gateway.upstream.responses import Events, usage_in
from infbox.metrics import Usage

ALL = pytest.mark.parametrize("path", BODIES)


@ALL
def test_an_unknown_workspace_is_refused_in_the_api_s_own_form(stack: Stack, path: str) -> None:
    for headers, model in (({}, "coder@nowhere"), ({"X-Infbox-Workspace": "nowhere"}, "coder")):
        answer = stack.post(path, headers, model=model, **BODIES[path])
        assert answer.status == 404
        error = answer.json["error"]
        assert error["message"] == "The workspace `nowhere` does not exist. There are: shop, bare."
        anthropic_s = ("error", {"type": "not_found_error", "message": error["message"]})
        openai_s = (None, {**error, "type": "NotFoundError", "param": None, "code": 404})
        assert (answer.json.get("type"), error) == (anthropic_s if path == MESSAGES else openai_s)
    assert not stack.engine.seen


@pytest.mark.parametrize(
    ("headers", "model"),
    [
        ({"X-Infbox-Workspace": "bare"}, "coder@shop"),
        ({"X-Infbox-Workspace": "shop, bare"}, "coder"),
    ],
)
def test_two_workspaces_at_once_are_refused(
    stack: Stack, headers: dict[str, str], model: str
) -> None:
    assert stack.post(CHAT, headers, model=model, messages=[USER]).status in (400, 404)
    assert not stack.engine.seen


def test_a_header_given_twice_is_refused(stack: Stack) -> None:
    body = json.dumps({"model": "coder", "messages": [USER]}).encode()
    twice = b"X-Infbox-Workspace: shop\r\nX-Infbox-Workspace: bare\r\n"
    answer = stack.raw(request(CHAT, body, twice))
    assert answer.startswith(b"HTTP/1.1 400")
    assert not stack.engine.seen


@ALL
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 50_000, b"1e999", b"null"])
def test_a_workspace_by_header_needs_a_body_to_put_the_pack_into(
    stack: Stack, path: str, body: bytes
) -> None:
    status, _, answer = stack.ask("POST", path, body, {"X-Infbox-Workspace": "shop"})
    assert status == 400
    assert "must be a JSON object" in json.loads(answer)["error"]["message"]
    assert not stack.engine.seen


@ALL
@pytest.mark.parametrize("body", [b"", b"[1, 2]", b'{"model": "coder@shop", "messages": [}', b"["])
def test_what_is_no_json_object_is_refused(stack: Stack, path: str, body: bytes) -> None:
    status, _, answer = stack.ask("POST", path, body)
    assert status == 400
    assert json.loads(answer)["error"]["message"].startswith("The body must be a JSON object.")
    assert not stack.engine.seen


def test_a_body_over_the_limit_is_refused_in_anthropic_s_form(stack: Stack) -> None:
    answer = stack.post(MESSAGES, model="coder@shop", messages=["x" * 120_000])
    assert answer.status == 413
    assert answer.json["error"]["type"] == "request_too_large"


def request(path: str, body: bytes, headers: bytes = b"", length: str | None = None) -> bytes:
    """A request as it goes over the wire."""
    size = f"Content-Length: {len(body) if length is None else length}\r\n".encode()
    start = b"POST " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    return start + headers + size + b"\r\n" + body


EVIL = b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = [
    request("/v1/x", b"0\r\n\r\n" + EVIL, CHUNKED, "3"),
    request("/v1/x", b"0\r\n\r\n" + EVIL, CHUNKED),
    request("/v1/x", b"abc" + EVIL, b"Content-Length: 3\r\n", "6"),
    request("/v1/x", b"abc" + EVIL, b"Content-Length: 3\r\n", "3"),
    request("/v1/x", b"abc" + EVIL, length="+3"),
    request("/v1/x", b"abc" + EVIL, length="3, 3"),
    request("/v1/x", b"abc" + EVIL, length="-1"),
    request("/v1/x", b"0\r\n\r\n" + EVIL, b"Transfer-Encoding : chunked\r\n", "5"),
    request("/v1/x", b"0\r\n\r\n" + EVIL, b"Transfer-Encoding: xchunked\r\n", "5"),
    request("/v1/x", b"0\r\n\r\n" + EVIL, b"Transfer-Encoding:\r\n chunked\r\n", "5"),
    request("/v1/x", b"3\r\nabc\r\n0\r\n\r\n" + EVIL, b"Transfer-Encoding: chunked, gzip\r\n"),
    request("/v1/x", b"abc", b"X-A: b\r\n\r\n" + EVIL),
    request("/v1/x", b"abc", b"X-A: b\n" + EVIL),
    request("/v1/x", b"abc", b"X-A: \x00\r\n"),
    request("/v1/x", b"abc", b"X-A\x00: b\r\n"),
    request("/v1/x HTTP/1.1\r\nHost: x\r\n\r\nGET /evil", b"abc"),
    request("/v1/x\r\nX-B: c", b"abc"),
]


@pytest.mark.parametrize("smuggled", SMUGGLED, ids=range(len(SMUGGLED)))
def test_nothing_is_smuggled_in(stack: Stack, smuggled: bytes) -> None:
    """What follows a request may be one of its own, never a part of what reaches the engine."""
    answers = stack.raw(smuggled).count(b"HTTP/1.1 ")
    for seen in stack.engine.seen:
        assert not seen.target.startswith("/evil") or answers == len(stack.engine.seen)
        assert b"evil" not in b"".join(name + value for name, value in seen.headers)
        lengths = [value for name, value in seen.headers if name == b"content-length"]
        assert len(lengths) <= 1
        assert not (lengths and any(name == b"transfer-encoding" for name, _ in seen.headers))


@given(raw=st.binary(max_size=200) | st.lists(st.sampled_from(SMUGGLED), max_size=3).map(b"".join))
@settings(max_examples=40)
def test_any_bytes_leave_the_gateway_well(stack: Stack, raw: bytes) -> None:
    stack.raw(raw + b"\r\n\r\n" if len(raw) < 20 else raw[: len(raw) // 2] + raw)
    assert stack.post(CHAT, model="coder@shop", messages=[USER]).status == 200


def broken(stack: Stack, path: str, model: str = "coder@shop") -> list[bytes]:
    stack.engine.breaks_off = True
    answer = stack.post(path, model=model, stream=True, **BODIES[path])
    assert answer.status == 200
    return answer.events


@ALL
@pytest.mark.parametrize("model", ["coder", "coder@shop"])
def test_a_stream_that_breaks_off_ends_in_the_api_s_error_event(
    stack: Stack, path: str, model: str
) -> None:
    first, last = broken(stack, path, model)
    assert first + b"\n\n" == event(path, 0)
    name, _, data = last.rpartition(b"data: ")
    told = json.loads(data)
    assert told["error"]["message"] == "the engine broke off its answer"
    named_error = path in (MESSAGES, RESPONSES)
    assert (name, told.get("type")) == (
        (b"event: error\n", "error") if named_error else (b"", None)
    )
    if path == RESPONSES:
        assert told["sequence_number"] == 1
        assert {"code", "message", "param"} <= set(told)


@ALL
def test_an_event_that_is_not_whole_is_not_handed_on(stack: Stack, path: str) -> None:
    stack.engine.breaks_within = b'event: x\ndata: {"n": '
    events = broken(stack, path)
    assert len(events) == 2
    assert b'{"n": ' not in events[1]


def test_an_event_too_long_to_hold_ends_in_a_broken_connection(stack: Stack) -> None:
    stack.engine.breaks_within = b"data: " + b"x" * 600_000
    with pytest.raises(http.client.IncompleteRead):
        broken(stack, CHAT)


def test_an_answer_that_breaks_off_is_none(stack: Stack) -> None:
    stack.engine.breaks_whole = True
    answer = stack.post(CHAT, model="coder@shop", messages=[USER])
    assert answer.status == 502
    assert answer.json["error"]["type"] == "EngineAwayError"
    with pytest.raises(http.client.IncompleteRead):
        stack.post(CHAT, model="coder", messages=[USER])
    answer = stack.post(MESSAGES, model="coder@shop", **BODIES[MESSAGES])
    assert answer.json["error"]["type"] == "api_error"


def test_the_openai_client_raises_what_a_broken_stream_says(stack: Stack) -> None:
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key="x", max_retries=0)
    stack.engine.breaks_off = True
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(model="coder@shop", messages=[USER], stream=True))
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.completions.create(model="coder@shop", prompt="x", stream=True))
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.responses.create(model="coder@shop", input="x", stream=True))


def test_the_anthropic_client_raises_what_a_broken_stream_says(stack: Stack) -> None:
    client = anthropic.Anthropic(base_url=stack.url, api_key="x", max_retries=0)
    stack.engine.breaks_off = True
    with pytest.raises(anthropic.APIError, match="broke off"):
        list(client.messages.create(**BODIES[MESSAGES], model="coder@shop", stream=True))


@given(st.lists(st.sampled_from([b"data: x", b"\n", b"\n\n", b"y"]), max_size=30))
def test_events_come_whole_and_in_order(chunks: list[bytes]) -> None:
    events, taken = Events(), b""
    for chunk in chunks:
        whole = events.take(chunk)
        assert whole == b"" or whole.endswith(b"\n\n")
        taken += whole
    assert taken + events.rest == b"".join(chunks)


@given(st.lists(st.binary(max_size=300_000), max_size=4))
@settings(max_examples=20)
def test_no_event_is_held_for_ever(chunks: list[bytes]) -> None:
    events, taken = Events(), b""
    for chunk in chunks:
        taken += events.take(chunk)
        assert len(events.rest) <= 256 * 1024
    assert taken + events.rest == b"".join(chunks)


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ('{"prompt_tokens": 5, "completion_tokens": 2}', Usage(5, None, 2)),
        ('{"prompt_tokens": 5, "prompt_tokens_details": null}', Usage(5, None, 0)),
        ('{"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}', Usage(5, 4, 0)),
        ('{"input_tokens": 5, "output_tokens": 1}', Usage(5, None, 1)),
        ('{"input_tokens": 5, "input_tokens_details": {"cached_tokens": 3}}', Usage(5, 3, 0)),
        (
            '{"input_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}',
            Usage(10, 3, 0),
        ),
        ("{", None),
        ('{"prompt_tokens": ', None),
    ],
)
def test_usage_is_read_in_any_words(told: str, usage: Usage | None) -> None:
    data = f'{{"text": "\\"usage\\": {{9}}", "usage": {{"x": 1}}, "usage":{told}, "user": null}}'
    assert usage_in(data.encode()) == usage


def test_no_pack_is_in_what_the_gateway_says_of_an_error(stack: Stack) -> None:
    stack.engine.window = 10
    assert TEXT not in stack.post(COMPLETIONS, model="coder@shop", prompt="x").body.decode()
