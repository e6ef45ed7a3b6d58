"""The page shows people what they had and may have, and nothing of anybody else."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from fake_apis import CHAT
from gateway_stack import BODIES, Stack
from infbox.auth.usage import Counts, Key, Store, file_in

ANN = {"X-Infbox-Account": "ann", "X-Infbox-User": "Ann A."}
LIMITS = "requests_per_minute=9;tokens_per_minute=7000;tokens_per_day=9000;concurrent_requests=2"


def usage(stack: Stack, headers: dict[str, str]) -> tuple[int, Any]:
    status, _, body = stack.ask("GET", "/status/usage", headers=headers)
    return status, json.loads(body) if body else None


def ask(stack: Stack, user: str) -> None:
    may = {"X-Infbox-User": user, "X-Infbox-Limits": LIMITS}
    assert stack.post(CHAT, may, model="coder@shop", max_tokens=5, **BODIES[CHAT]).status == 200


def test_what_somebody_had_is_shown_at_once_and_what_limits_leave(stack: Stack) -> None:
    for user in ("ann", "ann", "bob"):
        ask(stack, user)
    prompt = len(stack.engine.prompts[0])
    status, told = usage(stack, {**ANN, "X-Infbox-Limits": LIMITS})
    assert (status, told["user"]) == (200, "ann")
    assert told["today"] == told["all_days"]
    assert told["today"] == {
        "requests": 2,
        "computed_tokens": prompt + 2,
        "prompt_tokens": 2 * prompt,
        "cached_tokens": prompt,
        "completion_tokens": 2,
    }
    assert told["limits"] == [
        {"name": "requests_per_minute", "most": 9, "used": None},
        {"name": "tokens_per_minute", "most": 7000, "used": prompt + 2},
        {"name": "tokens_per_day", "most": 9000, "used": prompt + 2},
        {"name": "concurrent_requests", "most": 2, "used": None},
    ]


def test_who_changes_the_name_keeps_the_history_and_nobody_else_gets_it(
    stack: Stack, tmp_path: Path
) -> None:
    own = "0cfad52e3e04@page"
    # Of an earlier day, which is in the database alone.
    store = Store(file_in(tmp_path / "state"))
    day = (datetime.now(timezone.utc) - timedelta(days=3)).date().isoformat()
    others = ("bob", "x-bob", "anna-0cfad52e3e05@page", f"ann-{own.upper()}")
    for user in (f"anna-{own}", f"bob-{own}", *others):
        store.add({Key(day, user, "shop"): Counts(1, 0, 10, 5, 1)})
    store.close()
    for user in (f"anna-{own}", f"bob-x-{own}", "bob"):
        ask(stack, user)

    def had(account: str) -> tuple[int, int]:
        _, told = usage(stack, {"X-Infbox-Account": account})
        return told["today"]["requests"], told["all_days"]["requests"]

    assert had(f"somebody-{own}") == had(f"anna-{own}") == (2, 4)
    assert had("bob") == (1, 2)
    assert had("anna-0cfad52e3e05@page") == (0, 1)


def test_who_had_nothing_is_told_so(stack: Stack) -> None:
    ask(stack, "ann")
    status, told = usage(stack, {**ANN, "X-Infbox-Account": "zoe-0123456789ab@page"})
    assert (status, told["today"]["requests"], told["limits"]) == (200, 0, [])


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-Infbox-User": "ann"}, {"X-Infbox-Account": ""}, {"X-Infbox-Account": "ann'; --"}],
)
def test_without_an_account_nothing_is_shown(stack: Stack, headers: dict[str, str]) -> None:
    ask(stack, "ann")
    status, told = usage(stack, headers)
    assert (status, told) == (204, None)
