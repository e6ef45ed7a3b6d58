"""A user may have no more tokens computed than the limits say, and one request beyond."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fake_apis import CHAT, COMPLETIONS, COUNT, MESSAGES, RESPONSES
from fake_engine import FakeEngine
from gateway_stack import BODIES, Stack, publish
from infbox.auth import told_limits, usage
from infbox.gateway.app import Gateway
from infbox.gateway.bodies import EMBEDDINGS, opened
from infbox.gateway.upstream import responses
from infbox.gateway.upstream.responses import UsageReader
from infbox.metrics import Usage
from serving import serving, settings_for, until

DAY, MINUTE = "tokens_per_day", "tokens_per_minute"


def ann(**limits: int) -> dict[str, str]:
    told = ";".join(f"{name}={most}" for name, most in limits.items())
    return {"X-Infbox-User": "ann", "X-Infbox-Limits": told}


def ask(stack: Stack, headers: dict[str, str], path: str = CHAT, **body: Any) -> int:
    return stack.post(path, headers, **{"model": "coder", **BODIES[path], **body}).status


@contextlib.contextmanager
def gateway(tmp_path: Path, **engine: Any) -> Iterator[Stack]:
    """A gateway in front of an engine; the next one in the same place goes on where it ended."""
    publish(tmp_path)
    with FakeEngine(**engine).running() as upstream:
        config = settings_for(tmp_path, upstream.url, shop=(tmp_path, 1000))
        with serving(Gateway(config).app) as url:
            yield Stack(upstream, url)


@pytest.mark.parametrize("limit", [MINUTE, DAY])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_a_limit_that_is_used_up_refuses_in_the_form_of_the_api(
    stack: Stack, path: str, limit: str
) -> None:
    may = ann(**{limit: 1})
    assert ask(stack, may, path) == 200, "the one that goes beyond"
    answer = stack.post(path, may, model="coder", **BODIES[path])
    assert answer.status == 429
    error = answer.json["error"]
    assert error["type"] == ("rate_limit_error" if path == MESSAGES else "RateLimitError")
    assert error["message"].startswith("ann may use at most 1 computed tokens per ")
    assert error["message"].endswith(f"Limit: {limit}.")
    assert error["infbox"] == {"limit": limit}
    assert 1 <= int(answer.headers["retry-after"]) <= (61 if limit == MINUTE else 86_400)
    assert ask(stack, {**may, "X-Infbox-User": "bob"}, path) == 200
    assert ask(stack, {"X-Infbox-User": "ann"}, path) == 200, "without a limit"


def test_counting_tokens_is_free(stack: Stack) -> None:
    assert ask(stack, ann(tokens_per_day=1)) == 200
    body = {"model": "coder", "messages": BODIES[CHAT]["messages"]}
    assert stack.post(COUNT, ann(tokens_per_day=1), **body).status == 200


def test_tokens_from_the_cache_do_not_count(stack: Stack) -> None:
    assert ask(stack, {"X-Infbox-User": "ann"}, model="coder@shop") == 200
    had = len(stack.engine.prompts[-1]) + 1
    may = ann(tokens_per_day=had + 3)
    for _ in range(2):  # of which each costs its answer, and the end of its prompt
        assert ask(stack, may, model="coder@shop") == 200


@contextlib.contextmanager
def under_way(stack: Stack, headers: dict[str, str], **body: Any) -> Iterator[None]:
    """Have the engine think about a question."""
    stack.engine.delay, before = 30.0, stack.engine.under_way
    with contextlib.closing(stack.connect()) as client:
        told = json.dumps({"model": "coder", **BODIES[CHAT], **body})
        client.request("POST", CHAT, told, headers)
        until(lambda: stack.engine.under_way == before + 1)
        stack.engine.delay = 0.0
        yield


def test_what_is_under_way_counts_with_the_most_that_it_may_cost(stack: Stack) -> None:
    may = ann(tokens_per_minute=5000)
    with under_way(stack, may, max_tokens=10):
        assert ask(stack, may, max_tokens=10) == 200
    until(lambda: stack.engine.under_way == 0)
    with under_way(stack, may):  # may fill the window
        answer = stack.post(CHAT, may, model="coder", **BODIES[CHAT])
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    until(lambda: ask(stack, may) == 200)


@pytest.mark.parametrize(
    ("body", "answers", "tokens"),
    [
        ({}, 1, 100),
        ({"max_tokens": 7}, 1, 7),
        ({"max_tokens": 7, "max_completion_tokens": 8}, 1, 7),
        ({"max_tokens": 1000}, 1, 100),
        ({"max_tokens": "many"}, 1, 100),
        ({"max_tokens": -5, "n": -5}, 1, 1),
        ({"max_tokens": 7, "n": 50}, 50, 350),
        ({"max_tokens": 7, "n": 1.5}, 2, 14),
        ({"max_tokens": 7, "n": 2, "prompt": ["a", "b", "c"]}, 6, 42),
        ({"max_tokens": 7, "prompt": [[1, 2], [3]]}, 2, 14),
        ({"max_tokens": 7, "prompt": [1, 2, 3]}, 1, 7),
        ({"max_tokens": 7, "prompt": []}, 1, 7),
        ({"max_tokens": 7, "prompt": "[1, 2]"}, 1, 7),
    ],
)
def test_each_answer_that_is_asked_for_counts(
    body: dict[str, Any], answers: int, tokens: int
) -> None:
    read = opened(COMPLETIONS, [json.dumps(body).encode()], "ann", 100)
    assert (read.answers, read.answer_tokens) == (answers, tokens)


@pytest.mark.parametrize(
    ("given", "answers"),
    [("Why?", 1), (["Why?", "How?"], 2), ([1, 2, 3], 1), ([[1], [2], [3]], 3), ([], 1)],
)
def test_each_text_to_embed_counts_and_no_answer_does(given: object, answers: int) -> None:
    body = json.dumps({"input": given, "n": 7}).encode()
    read = opened(EMBEDDINGS, [body], "ann", 100)
    assert (read.answers, read.answer_tokens) == (answers, 0)
    assert opened(RESPONSES, [body], "ann", 100).answers == 1


@pytest.mark.parametrize(
    ("most", "tokens"), [(8, 8), (90.5, 91), ("90", 100), ("1" * 2000, 100), (None, 1)]
)
def test_of_two_limits_of_an_answer_the_larger_counts(most: object, tokens: int) -> None:
    body = json.dumps({"max_tokens": 1, "max_completion_tokens": most}).encode()
    assert opened(CHAT, [body], "ann", 100).answer_tokens == tokens


@pytest.mark.parametrize("n", ["128", "10000", [2], {}])
def test_a_number_of_answers_that_is_none_is_refused(stack: Stack, n: object) -> None:
    answer = stack.post(CHAT, ann(), model="coder", **BODIES[CHAT], n=n)
    assert answer.status == 400
    assert "`n` must be a whole number" in answer.json["error"]["message"]


@pytest.mark.parametrize(("interval", "tokens"), [(None, 1), (7, 7), (1e9, 100), ("50", 100)])
def test_an_event_of_many_tokens_counts_as_so_many(interval: object, tokens: int) -> None:
    body = json.dumps({"stream_interval": interval}).encode()
    assert opened(CHAT, [body], "ann", 100).event_tokens == tokens


@pytest.mark.parametrize(
    ("options", "is_asked"),
    [
        ({"stream": True}, True),
        ({"stream": 1}, True),
        ({"stream": "true"}, True),
        ({"stream": "off"}, False),
        ({"stream": 0}, False),
        ({"stream": None}, False),
        ({"stream": True, "stream_options": None}, True),
        ({"stream": True, "stream_options": {"include_usage": "false"}}, True),
        ({"stream": True, "stream_options": {"include_usage": False, "pad": "x" * 2000}}, True),
        ({"stream": True, "stream_options": {"include_usage": True}}, False),
        ({"stream": True, "stream_options": 5}, False),
    ],
)
def test_a_stream_is_asked_what_it_costs_however_its_client_writes_it(
    options: dict[str, object], is_asked: bool
) -> None:
    read = opened(CHAT, [json.dumps(options).encode()], "ann", 100)
    assert read.adds_usage is is_asked
    if is_asked:
        assert json.loads(read.data)["stream_options"]["include_usage"] is True


def test_whoever_hides_what_an_answer_costs_pays_the_most(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UsageReader, "found", None)
    monkeypatch.setattr(responses, "usage_in", lambda _: None)
    may = ann(tokens_per_day=2000)
    assert ask(stack, may, max_tokens=1000, stream=True) == 200
    assert ask(stack, may, max_tokens=1000, stream=True) == 200
    assert ask(stack, may, max_tokens=1000, stream=True) == 429


def test_a_usage_is_found_whatever_comes_behind_it() -> None:
    told = b'{"usage": {"prompt_tokens": 7, "completion_tokens": 3}, "prompt_token_ids": ['
    answer = b'{"choices": [{"text": "' + b"x" * 9000 + b'"}],' + told + b"1," * 9000 + b"1]}"
    for size in (1, 7, 4096, len(answer)):
        reader = UsageReader()
        for at in range(0, len(answer), size):
            reader.take(answer[at : at + size])
        assert reader.found == Usage(7, None, 3)


def test_a_person_has_one_count_whatever_the_name() -> None:
    names = ("anna-0cfad52e3e04@page", "bob-x-0cfad52e3e04@page", "0cfad52e3e04@page")
    assert {told_limits.person(name) for name in names} == {"0cfad52e3e04@page"}
    assert told_limits.person("anna-0cfad52e3e04") == "anna-0cfad52e3e04"


def test_a_person_who_changes_the_name_has_no_limit_anew(stack: Stack) -> None:
    may = ann(tokens_per_day=1)
    assert ask(stack, {**may, "X-Infbox-User": "anna-0cfad52e3e04@page"}) == 200
    assert ask(stack, {**may, "X-Infbox-User": "bob-0cfad52e3e04@page"}) == 429


def test_a_limit_beyond_all_sense_is_none_that_locks_out() -> None:
    told = told_limits.to_header({"tokens_per_day": 10**20})
    assert told_limits.from_header(told) == {"tokens_per_day": 10**15 - 1}


def test_what_the_engine_refuses_costs_nothing(stack: Stack) -> None:
    may = ann(tokens_per_day=1)
    for _ in range(2):
        assert ask(stack, may, model="coder@nowhere") == 404
        assert ask(stack, may, model="another") == 404
    assert ask(stack, may) == 200


def test_who_leaves_is_counted_by_an_estimate(stack: Stack) -> None:
    long = {"messages": [{"role": "user", "content": "x" * 4000}], "max_tokens": 1}
    may = ann(tokens_per_day=900)
    with under_way(stack, may, **long):
        pass
    until(lambda: stack.engine.under_way == 0)
    until(lambda: ask(stack, may, max_tokens=1) == 429)


def used(stack: Stack, limits: dict[str, str]) -> int:
    """Return how many tokens of the day the page says that ann has used."""
    headers = {"X-Infbox-Account": "ann", "X-Infbox-Limits": limits["X-Infbox-Limits"]}
    told = json.loads(stack.ask("GET", "/status/usage", headers=headers)[2])["limits"]
    return int(told[0]["used"])


@pytest.mark.parametrize("is_broken_off", [False, True])
def test_of_a_stream_that_ends_early_the_pack_is_taken_for_cached(
    tmp_path: Path, *, is_broken_off: bool
) -> None:
    """Anthropic's first event says what the prompt has, not how much of it was cached."""
    changes = {"breaks_off": True, "events": 20} if is_broken_off else {"events": 10_000}
    with gateway(tmp_path, states_prompt=True, delay=0.01, **changes) as stack:
        may = ann(tokens_per_day=10**6)
        body = json.dumps({**BODIES[MESSAGES], "model": "coder@shop", "stream": True})
        with contextlib.closing(stack.connect()) as client:
            client.request("POST", MESSAGES, body, may)
            answer = client.getresponse()
            assert answer.readline() == b"event: message_start\n"
            said = json.loads(answer.readline().removeprefix(b"data:"))
            if is_broken_off:
                answer.read()
            else:
                until(lambda: stack.engine.sent > 20)
        prompt = said["message"]["usage"]["input_tokens"]
        until(lambda: 0 < used(stack, may) < 10**5)
        own = prompt - 100  # without the pack
        assert own < used(stack, may) <= own + stack.engine.sent + 2
        until(lambda: "infbox_gateway_uncounted_requests_total{" in stack.metrics)
    (counted,) = usage.read(usage.file_in(tmp_path / "state"), 1)
    assert counted[1] == usage.Counts(1, 1), "what is only guessed is in no table"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES])
def test_a_stream_that_ends_in_the_engine_s_error_counts_as_one_that_is_broken_off(
    tmp_path: Path, path: str
) -> None:
    with gateway(tmp_path, states_prompt=True, fails=True, events=20) as stack:
        may = ann(tokens_per_day=10**6)
        answer = stack.post(path, may, model="coder@shop", stream=True, **BODIES[path])
        assert b"EngineCore" in answer.body
        until(lambda: "infbox_gateway_uncounted_requests_total{" in stack.metrics)
        assert 0 < used(stack, may) < 2000, "and no whole window"
    (counted,) = usage.read(usage.file_in(tmp_path / "state"), 1)
    assert counted[1] == usage.Counts(1, 1)


def test_a_stream_that_came_to_its_end_counts_as_it_says(tmp_path: Path) -> None:
    with gateway(tmp_path, states_prompt=True) as stack:
        may = ann(tokens_per_day=10**6)
        for _ in range(2):
            assert ask(stack, may, MESSAGES, model="coder@shop", stream=True) == 200
        assert used(stack, may) == len(stack.engine.prompts[-1]) + 2


def test_a_day_goes_on_after_a_restart(tmp_path: Path) -> None:
    may = ann(tokens_per_day=1)
    with gateway(tmp_path) as stack:
        assert ask(stack, {"X-Infbox-User": "ann"}) == 200
    assert usage.read(usage.file_in(tmp_path / "state"), 1)
    with gateway(tmp_path) as stack:
        assert ask(stack, may) == 429


@pytest.mark.parametrize("told", ["many", "tokens_per_day=-1", "tokens_per_day=1, x=2"])
def test_limits_that_cannot_be_understood_let_nobody_in(stack: Stack, told: str) -> None:
    assert ask(stack, {"X-Infbox-User": "ann", "X-Infbox-Limits": told}) == 401


def test_twenty_clients_at_the_limit_have_one_request_beyond_it(stack: Stack) -> None:
    most, may = 6000, ann(tokens_per_day=6000)

    def client(number: int) -> int:
        computed = 0
        for turn in range(15):
            content = f"{number} {turn} " + "x" * (10 * number)
            question = {"messages": [{"role": "user", "content": content}], "max_tokens": 5}
            answer = stack.post(CHAT, may, model="coder", **question)
            assert answer.status in (200, 429)
            if answer.status == 200:
                told = answer.json["usage"]
                cached = told["prompt_tokens_details"]["cached_tokens"]
                computed += told["prompt_tokens"] - cached + told["completion_tokens"]
        return computed

    with ThreadPoolExecutor(20) as clients:
        computed = sum(clients.map(client, range(20)))
    assert most - 1000 < computed < most + 400, "the largest has some 300 tokens"
