"""Which fields and headers of a request reach the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fake_apis import CHAT, COMPLETIONS, COUNT, MESSAGES, RESPONSES
from gateway_stack import BODIES, USER, Stack
from infbox.gateway import fields

ENGINE = json.loads((Path(__file__).parents[1] / "engine_fields.json").read_text())
EMBEDDINGS = "/v1/embeddings"
QUESTIONS: dict[str, dict[str, Any]] = {
    **BODIES,
    COUNT: {"messages": [USER]},
    EMBEDDINGS: {"input": "Why?"},
}
MODELS = pytest.mark.parametrize("model", ["coder", "coder@shop"])
ALICE = {"X-Infbox-User": "alice"}


def test_every_field_of_the_engine_s_schema_is_decided_on() -> None:
    decided = fields.REFUSED.keys() | fields.DROPPED | {fields.SALT}
    assert ENGINE["fields"].keys() == fields.FIELDS.keys()
    for path, names in ENGINE["fields"].items():
        assert set(names) - fields.FIELDS[path] <= decided, path
        assert fields.FIELDS[path] <= set(names), path
        assert not fields.FIELDS[path] & decided


def ask(stack: Stack, path: str, body: bytes) -> Any:
    """Send a body as alice."""
    status, _, answer = stack.ask("POST", path, body, ALICE)
    return status, json.loads(answer)


@MODELS
@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize("name", sorted(fields.REFUSED))
def test_what_is_not_for_clients_is_refused_by_name(
    stack: Stack, path: str, name: str, model: str
) -> None:
    for value in (-(2**31), {"do_remote_prefill": True}, "x", [0], 1.5):
        answer = stack.post(path, ALICE, model=model, **QUESTIONS[path], **{name: value})
        assert answer.status == 400
        error = answer.json["error"]
        assert error["message"].startswith(f"`{name}` is not for clients: ")
        if path in (MESSAGES, COUNT):
            assert (answer.json["type"], error["type"]) == ("error", "invalid_request_error")
        else:
            assert (error["type"], error["param"], error["code"]) == ("BadRequestError", name, 400)
    assert not stack.engine.seen


@MODELS
@pytest.mark.parametrize("path", QUESTIONS)
def test_what_asks_for_nothing_is_left_out(stack: Stack, path: str, model: str) -> None:
    nothing = dict.fromkeys(fields.REFUSED) | {"priority": 0, "vllm_xargs": {}, "cache_salt": None}
    odd = dict.fromkeys(fields.DROPPED, 7) | {"context_management": {}, "extra_body": {"n": 1}}
    answer = stack.post(path, ALICE, model=model, **QUESTIONS[path], **nothing, **odd)
    assert answer.status == 200
    (seen,) = stack.engine.seen
    assert seen.chat.keys() <= fields.FIELDS[path]


@pytest.mark.parametrize(
    "written",
    [
        b'"priority": 0, "priority": -5',
        b'"pri\\u006frity": -5',
        b'"\\u0070\\u0072\\u0069\\u006f\\u0072\\u0069\\u0074\\u0079" : -5',
        b'"priority": -5e0',
        b'"priority": "-5"',
        b'"priority": ' + b" " * 5000 + b"-5",
        b'"priority": [' + b"0," * 5000 + b"0]",
    ],
)
@MODELS
def test_it_is_found_however_it_is_written(stack: Stack, written: bytes, model: str) -> None:
    body = b'{"model": "%s", "messages": [], %s}' % (model.encode(), written)
    status, answer = ask(stack, CHAT, body)
    assert (status, answer["error"]["param"]) == (400, "priority")
    assert ask(stack, CHAT, body.decode().encode("utf-16"))[0] == 400
    assert not stack.engine.seen


def test_the_last_of_two_is_what_counts_as_in_the_engine(stack: Stack) -> None:
    body = b'{"model": "coder", "messages": [], "priority": -5, "priority": 0}'
    assert ask(stack, CHAT, body)[0] == 200
    assert "priority" not in stack.engine.seen[0].chat


@MODELS
def test_what_has_such_a_name_further_down_stays(stack: Stack, model: str) -> None:
    said = {"role": "user", "content": "x", "priority": 1}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"priority": {}}}}
    stack.post(CHAT, ALICE, model=model, messages=[said], tools=[tool])
    (seen,) = stack.engine.seen
    assert (seen.chat["messages"][-1], seen.chat["tools"]) == (said, [tool])


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, EMBEDDINGS])
def test_a_template_is_not_taken_out_of_what_a_template_is_told(stack: Stack, path: str) -> None:
    told: dict[str, Any] = {"enable_thinking": False}
    answer = stack.post(path, model="coder", chat_template_kwargs=told, **QUESTIONS[path])
    assert answer.status == 200
    assert stack.engine.seen.pop().chat["chat_template_kwargs"] == told
    told["chat_template"] = "{{ x }}"
    answer = stack.post(path, model="coder", chat_template_kwargs=told, **QUESTIONS[path])
    assert answer.status == 400
    assert "chat_template_kwargs.chat_template" in answer.json["error"]["message"]
    assert not stack.engine.seen


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_one_request_asks_for_no_more_answers_than_may_be(stack: Stack, path: str) -> None:
    for count in (129, 16384, 1e9, 10**400):
        assert stack.post(path, model="coder", n=count, **BODIES[path]).status == 400
    most = stack.post(path, model="coder", n=fields.MOST_ANSWERS, **BODIES[path])
    assert most.status == 200
    assert len(stack.engine.seen) == 1


@MODELS
def test_a_salt_is_the_user_s_own(stack: Stack, model: str) -> None:
    salts = []
    for user, salt in (("alice", "a"), ("alice", "b"), ("bob", "a"), ("alice", "a")):
        headers = {"X-Infbox-User": user}
        answer = stack.post(CHAT, headers, model=model, messages=[USER], cache_salt=salt)
        assert answer.status == 200
        salts.append(stack.engine.seen.pop().chat["cache_salt"])
    assert len(set(salts)) == 3
    assert salts[0] == salts[3]
    assert all(salt.isalnum() and len(salt) <= 128 for salt in salts)
    for wrong in (7, ["a"], "x" * 5000):
        answer = stack.post(CHAT, ALICE, model=model, messages=[USER], cache_salt=wrong)
        assert (answer.status, answer.json["error"]["param"]) == (400, "cache_salt")
    assert not stack.engine.seen


@MODELS
def test_headers_that_the_engine_would_obey_stay_outside(stack: Stack, model: str) -> None:
    obeyed = {"X-Vllm-Priority": "-5", "X-Data-Parallel-Rank": "1", "X-Session-Id": "s"}
    kept = {"X-Request-Id": "r", "Traceparent": "00-1-1-00", "Anthropic-Version": "2023-06-01"}
    body = json.dumps({"model": model, "messages": [USER]}).encode()
    stack.ask("POST", CHAT, body, {**ALICE, **obeyed, **kept})
    names = {name.decode() for name, _ in stack.engine.seen[0].headers}
    assert {name.lower() for name in kept} <= names
    assert not {name.lower() for name in {**ALICE, **obeyed}} & names


@MODELS
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_more_tokens_than_there_can_be_are_lowered_to_what_can(
    stack: Stack, path: str, model: str
) -> None:
    name = "max_output_tokens" if path == RESPONSES else "max_tokens"
    answer = stack.post(path, model=model, **{**BODIES[path], name: 10**9})
    room = 100_000 if model == "coder" else 100_000 - 100
    assert stack.engine.seen.pop().chat[name] == room
    assert answer.headers["X-Infbox-Max-Tokens"] == str(room)
    answer = stack.post(path, model=model, **{**BODIES[path], name: 50})
    assert stack.engine.seen.pop().chat[name] == 50
    assert "X-Infbox-Max-Tokens" not in answer.headers


def test_a_pack_is_cut_as_if_no_limit_were_given_where_it_can_be_none(stack: Stack) -> None:
    body = {"model": "coder@shop", "messages": [USER], "infbox": {"pack": "fit"}}
    answer = stack.post(CHAT, **body, max_tokens=10**9)
    assert answer.headers["X-Infbox-Pack-Tokens"] == "100"


def test_half_a_character_becomes_what_stands_for_it(stack: Stack) -> None:
    for model in (b"coder", b"coder@shop"):
        body = b'{"model": "%s", "messages": [{"role": "user", "content": "cut \\ud83d"}]}' % model
        assert ask(stack, CHAT, body)[0] == 200
        assert (
            stack.engine.seen.pop().chat["messages"][-1]["content"]
            == "cut \N{REPLACEMENT CHARACTER}"
        )
