"""Requests that schemathesis makes from vLLM's own description of its APIs."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import hypothesis
import schemathesis
from infbox.gateway import fields
from schemathesis import Case

# What is asked of vLLM, and the field by which an answer is bounded.
PATHS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
    "/v1/messages/count_tokens": "max_tokens",
}
LONG_ANSWERS = ("n", "best_of", "min_tokens", "use_beam_search", "max_completion_tokens")
# vLLM compiles a kernel for them, and ends where its image has no compiler, as the one for CPUs.
LOGPROBS = ("logprobs", "top_logprobs", "prompt_logprobs", "include")


def description(engine: str) -> Any:
    """Return an engine's own description of its APIs.

    Args:
        engine: its root.
    """
    with urllib.request.urlopen(f"{engine}/openapi.json") as answer:  # noqa: S310  # ours
        return schemathesis.openapi.from_dict(json.load(answer))


def each_request(schema: Any, examples: int, ask: Callable[[str, Case[Any]], None]) -> None:
    """Make requests, the same ones each time, none of which names a workspace.

    Args:
        schema: a description.
        examples: how many for each path, some of which are left out.
        ask: given a path and a request of one token.
    """
    bounded = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for path in PATHS:
        requests = schema[path]["POST"].as_strategy()
        bounded(hypothesis.given(case=requests)(_sender(path, ask)))()


def _sender(path: str, ask: Callable[[str, Case[Any]], None]) -> Callable[[Case[Any]], None]:
    """Return what is given each request of a path."""

    def send(case: Case[Any]) -> None:
        shorten(case, PATHS[path])
        hypothesis.assume("@" not in json.dumps(case.body, default=str))
        ask(path, case)

    return send


def shorten(case: Case[Any], limit: str) -> None:
    """Have a request answered by one token, with nothing in it that is not for clients."""
    if isinstance(case.body, dict):
        for name in (*LONG_ANSWERS, *LOGPROBS, *fields.REFUSED, fields.SALT):
            case.body.pop(name, None)
        case.body[limit] = 1
