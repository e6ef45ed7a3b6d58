"""Responses that are stored, gone on from, shown and forgotten."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from fake_apis import RESPONSES
from fake_engine import FakeEngine
from gateway_stack import USER, Answer, Stack
from infbox.gateway.app import Gateway
from infbox.gateway.bodies import opened
from infbox.gateway.conversations import forms
from infbox.gateway.refusals import RefusalError
from infbox.gateway.stored import store as stored
from infbox.gateway.stored.following import follow
from infbox.gateway.stored.store import ResponseStore, Stored
from serving import serving, settings_for

ANN, BOB = {"X-Infbox-User": "ann"}, {"X-Infbox-User": "bob"}
MODELS = pytest.mark.parametrize("model", ["coder", "coder@shop"])
SAID = "That is why."


def ask(
    stack: Stack, text: str = "Why?", user: dict[str, str] | None = None, **more: Any
) -> Answer:
    return stack.post(RESPONSES, user or ANN, **{"model": "coder", "input": text, **more})


def call(stack: Stack, method: str, path: str, user: dict[str, str] | None = None) -> Answer:
    return Answer(*stack.ask(method, f"{RESPONSES}/{path}", headers=user or ANN))


def texts(stack: Stack) -> list[Any]:
    """What the engine was asked last, without a pack."""
    items = stack.engine.seen[-1].chat["input"]
    return [i["content"] if isinstance(i["content"], str) else i["content"][0]["text"]
            for i in items if i["role"] != "system"]  # fmt: skip


@MODELS
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_response_is_gone_on_from_shown_and_forgotten(
    stack: Stack, model: str, stream: bool
) -> None:
    first = ask(stack, "One?", model=model, stream=stream)
    name = id_of(first, stream=stream)
    second = ask(stack, "Two?", model=model, previous_response_id=name)
    assert texts(stack) == ["One?", SAID, "Two?"]
    assert "previous_response_id" not in stack.engine.seen[-1].chat
    ask(stack, "Three?", model=model, previous_response_id=second.json["id"])
    assert texts(stack) == ["One?", SAID, "Two?", SAID, "Three?"]
    shown = call(stack, "GET", second.json["id"])
    assert shown.status == 200
    assert shown.json == {**second.json, "previous_response_id": name}
    assert call(stack, "GET", f"{name}?stream=true").status == 400
    gone = call(stack, "DELETE", name)
    assert gone.json == {"id": name, "object": "response", "deleted": True}
    for answer in (
        call(stack, "GET", name),
        call(stack, "DELETE", name),
        ask(stack, previous_response_id=second.json["id"], model=model),
    ):
        assert answer.status == 404


def id_of(answer: Answer, *, stream: bool) -> str:
    if not stream:
        return str(answer.json["id"])
    line = answer.events[-1].split(b"data: ")[1]
    return str(json.loads(line)["response"]["id"])


def test_a_response_of_somebody_else_is_as_one_that_is_not_there(stack: Stack) -> None:
    name = ask(stack).json["id"]
    for user, of in ((BOB, name), (ANN, "resp_0")):
        answers = [
            call(stack, "GET", of, user),
            call(stack, "DELETE", of, user),
            call(stack, "POST", f"{of}/cancel", user),
            ask(stack, user=user, previous_response_id=of),
        ]
        for answer in answers:
            error = {**answer.json["error"]}
            assert (answer.status, error["type"]) == (404, "NotFoundError")
            assert error["message"].startswith(f"Response with id '{of}' not found: ")
    assert len(stack.engine.seen) == 1
    assert call(stack, "GET", name).status == 200


def test_what_is_not_to_be_stored_is_not(stack: Stack) -> None:
    name = ask(stack, store=False).json["id"]
    assert call(stack, "GET", name).status == 404
    stack.engine.window = 1
    assert ask(stack, "x" * 100).status == 400
    assert call(stack, "GET", name).status == 404


def test_a_stream_that_breaks_off_is_not_stored(stack: Stack) -> None:
    stack.engine.breaks_off = True
    assert ask(stack, stream=True).status == 200
    stack.engine.breaks_off = False
    assert ask(stack, previous_response_id="resp_0").status == 404


def test_what_is_computed_in_the_background_is_refused_and_nothing_can_be_cancelled(
    stack: Stack,
) -> None:
    answer = ask(stack, background=True)
    assert (answer.status, answer.json["error"]["param"]) == (400, "background")
    name = ask(stack, background=False).json["id"]
    refused = call(stack, "POST", f"{name}/cancel")
    assert refused.status == 400
    assert "`background` can be cancelled" in refused.json["error"]["message"]


def test_a_server_that_stores_none_says_so(tmp_path: Path) -> None:
    with FakeEngine().running() as engine:
        config = settings_for(tmp_path, engine.url)
        config = config._replace(gateway=config.gateway._replace(responses_mb=0))
        with serving(Gateway(config).app) as url:
            stack = Stack(engine, url)
            name = ask(stack).json["id"]
            answer = ask(stack, previous_response_id=name)
            assert (answer.status, answer.json["error"]["param"]) == (400, "previous_response_id")
            assert call(stack, "GET", name).status == 404


def test_a_conversation_may_not_become_larger_than_a_request(stack: Stack) -> None:
    name = ask(stack, "x" * 60_000).json["id"]
    assert ask(stack, "x" * 60_000, previous_response_id=name).status == 413


def test_items_and_parts_are_kept_as_they_came(stack: Stack) -> None:
    items = [USER, {"type": "function_call_output", "call_id": "c", "output": "1"}]
    name = ask(stack, input=items).json["id"]
    ask(stack, "So?", previous_response_id=name)
    assert stack.engine.seen[-1].chat["input"][:2] == items


@pytest.mark.parametrize("nothing", [None, []])
def test_a_response_is_not_gone_on_from_beside_messages(stack: Stack, nothing: object) -> None:
    name = ask(stack).json["id"]
    answer = ask(stack, previous_response_id=name, previous_input_messages=[USER])
    assert (answer.status, answer.json["error"]["param"]) == (400, "previous_input_messages")
    more = {"previous_response_id": name, "previous_input_messages": nothing}
    assert ask(stack, "So?", **more).status == 200
    assert texts(stack)[-1] == "So?"


NAMED: tuple[object, ...] = (None, "", "resp_1", "resp_2", 7, True, [], {}, ["resp_1"])
INPUTS: tuple[object, ...] = (None, "", "So?", 7, {}, [], [USER], [[USER]], [7, USER], ["So?"])
BESIDE: tuple[object, ...] = (None, 7, [], [USER], "x")


def test_nothing_behind_the_store_meets_an_earlier_response() -> None:
    """What reads conversations and puts in packs knows none: it is there already, or refused."""
    item = json.dumps(USER).encode()
    for named, given, beside in itertools.product(NAMED, INPUTS, BESIDE):
        store = ResponseStore(100_000)
        store.keep("ann", "resp_1", Stored([item], b'{"output": [%s]}' % item, ""))
        asked = {
            "previous_response_id": named,
            "input": given,
            "previous_input_messages": beside,
        }
        body = opened(RESPONSES, [json.dumps(asked).encode()], "ann", 1000)
        try:
            follow(store, RESPONSES, body, "ann", 1 << 20)
        except RefusalError:
            continue
        request = body.taken()
        left = request.get("previous_response_id")
        is_left = isinstance(left, str) and left != ""
        assert not is_left or forms.dialogue(RESPONSES, request) is None, asked


def response(size: int, previous: str = "") -> Stored:
    return Stored([b'"%s"' % (b"x" * size)], b'{"output": ["y"]}', previous)


def test_the_store_is_bounded_for_each_and_for_all() -> None:
    store = ResponseStore(100_000)
    for number in range(50):
        store.keep("ann", f"r{number}", response(4000))
    assert store.size <= 25_000
    for user in ("bob", "cy", "dee", "eve", "fay"):
        for number in range(9):
            store.keep(user, f"r{number}", response(4000))
        assert store.size <= 100_000
        assert store.find(user, "r8")
    assert store.find("bob", "r8"), "those who have most give first"
    store.keep("bob", "large", response(30_000))
    with pytest.raises(RefusalError):
        store.find("bob", "large")
    with pytest.raises(RefusalError):
        store.find("ann", "r0")


def test_what_others_go_on_from_is_forgotten_last() -> None:
    store = ResponseStore(40_000)
    store.keep("ann", "root", response(2000))
    store.keep("ann", "other", response(2000))
    store.keep("ann", "leaf", response(2000, "root"))
    assert store.history("ann", "leaf") == [*response(2000).items, b'"y"'] * 2
    store.keep("ann", "next", response(2000))
    assert [name for name in ("root", "other", "leaf") if has(store, name)] == ["root", "leaf"]


def test_a_response_is_forgotten_some_hours_after_its_last_use() -> None:
    now = 0.0
    store = ResponseStore(100_000, lambda: now)
    store.keep("ann", "used", response(10))
    store.keep("ann", "unused", response(10))
    now = stored.MOST_SECONDS / 2
    store.history("ann", "used")
    now = stored.MOST_SECONDS + 1
    assert (has(store, "used"), has(store, "unused")) == (True, False)
    now *= 2
    assert not has(store, "used")
    assert store.size == 0


def has(store: ResponseStore, name: str) -> bool:
    try:
        store.find("ann", name)
    except RefusalError:
        return False
    return True
