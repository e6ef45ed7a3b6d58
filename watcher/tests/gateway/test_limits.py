"""How many requests a user may have under way."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator

import pytest

from fake_apis import CHAT, MESSAGES
from gateway_stack import BODIES, Stack
from serving import until

ALICE = {"X-Infbox-User": "alice", "X-Infbox-Concurrent": "2"}


@contextlib.contextmanager
def under_way(
    stack: Stack, headers: dict[str, str], count: int
) -> Iterator[list[http.client.HTTPConnection]]:
    """Have the engine think about so many questions."""
    stack.engine.delay = 30.0
    before = stack.engine.under_way
    body = json.dumps({"model": "coder", **BODIES[CHAT]})
    clients = [stack.connect() for _ in range(count)]
    try:
        for client in clients:
            client.request("POST", CHAT, body, headers)
        until(lambda: stack.engine.under_way == before + count)
        yield clients
    finally:
        stack.engine.delay = 0.0
        for client in clients:
            client.close()


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_one_more_than_a_user_may_have_is_refused(stack: Stack, path: str) -> None:
    with under_way(stack, ALICE, 2):
        stack.engine.delay = 0.0
        answer = stack.post(path, ALICE, model="coder@shop", **BODIES[path])
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        kind = {CHAT: "RateLimitError", MESSAGES: "rate_limit_error"}[path]
        assert answer.json["error"]["type"] == kind
        message = answer.json["error"]["message"]
        assert message.startswith("alice may have at most 2 requests in progress.")
        assert answer.json["error"]["infbox"] == {"limit": "concurrent_requests"}


def test_another_user_may_go_on(stack: Stack) -> None:
    with under_way(stack, ALICE, 2):
        stack.engine.delay = 0.0
        bob = {**ALICE, "X-Infbox-User": "bob"}
        assert stack.post(CHAT, bob, model="coder", **BODIES[CHAT]).status == 200


def test_a_request_that_ended_or_was_given_up_makes_room(stack: Stack) -> None:
    for _ in range(3):
        assert stack.post(CHAT, ALICE, model="coder", **BODIES[CHAT]).status == 200
    with under_way(stack, ALICE, 2) as clients:
        stack.engine.delay = 0.0
        clients[0].close()
        until(lambda: stack.post(CHAT, ALICE, model="coder", **BODIES[CHAT]).status == 200)


@pytest.mark.parametrize("most", ["0", "", "many", "-1"])
def test_what_is_no_limit_limits_nobody(stack: Stack, most: str) -> None:
    headers = {"X-Infbox-User": "alice", "X-Infbox-Concurrent": most}
    with under_way(stack, headers, 3):
        stack.engine.delay = 0.0
        assert stack.post(CHAT, headers, model="coder", **BODIES[CHAT]).status == 200
