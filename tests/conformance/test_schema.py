"""Requests of vLLM's own description: the edge says what the engine says, and so with a pack."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from schemathesis import Case
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

from tests.conformance.conftest import Outside
from tests.conformance.runner import DIRECT, EDGE, PACK, Target
from tests.conformance.schema import description, each_request

EXAMPLES = 30
OK = 200
TIMEOUT = 300  # seconds
# vLLM leaves out messages without content, and refuses what has no other. A pack is a message too.
EMPTY = "Cannot apply chat template to an empty conversation"


@dataclass(frozen=True)
class Said:
    """What a server said of a request.

    Attributes:
        status: HTTP's.
        follows: whether the answer is of the form that the description has.
        text: the beginning of it.
    """

    status: int
    follows: bool
    text: str


def asked(case: Case[Any], target: Target, authority: str) -> Said:
    """Send a request to a server, by the model that it has."""
    if isinstance(case.body, dict):
        case.body["model"] = target.model
    answer = case.call(
        base_url=target.url,
        headers={"Authorization": f"Bearer {target.key}"},
        verify=authority if target.has_authority else True,
        timeout=TIMEOUT,
    )
    try:
        checks = [content_type_conformance, response_schema_conformance]
        case.validate_response(answer, checks=checks)
    except (Failure, FailureGroup):
        return Said(answer.status_code, follows=False, text=answer.text[:300])
    return Said(answer.status_code, follows=True, text=answer.text[:300])


def difference(direct: Said, other: Said) -> str | None:
    """Return what another server says otherwise than the engine."""
    if other.status != direct.status:
        return f"{other.status} in the place of {direct.status}: {other.text}"
    if direct.follows and not other.follows:
        return f"not of the form that the description has: {other.text}"
    return None


def test_another_status_or_form_is_a_difference() -> None:
    good, bad = Said(200, follows=True, text=""), Said(400, follows=True, text="no")
    assert difference(good, good) is None
    assert difference(good, bad) == "400 in the place of 200: no"
    assert difference(good, Said(200, follows=False, text="x"))
    assert difference(Said(200, follows=False, text="x"), good) is None


@pytest.mark.lab
@pytest.mark.long
def test_requests_of_vllm_s_description_are_answered_alike(outside: Outside) -> None:
    statuses: Counter[tuple[str, str, int]] = Counter()
    found: list[str] = []

    def compare(path: str, case: Case[Any]) -> None:
        said = {name: asked(case, target, str(outside.authority))
                for name, target in outside.targets.items()}  # fmt: skip
        statuses.update((path, name, each.status) for name, each in said.items())
        for name in (EDGE, PACK):
            if name == PACK and EMPTY in said[DIRECT].text and said[PACK].status == OK:
                continue
            if words := difference(said[DIRECT], said[name]):
                found.append(
                    f"{name} {path}: {words}\n    {json.dumps(case.body, default=str)[:600]}"
                )

    each_request(description(outside.targets[DIRECT].url), EXAMPLES, compare)
    for (path, name, status), number in sorted(statuses.items()):
        print(f"{path} {name}: {number} times {status}")
    assert {status for _, name, status in statuses if name == DIRECT} >= {200, 400}
    assert not found, "\n".join(found)
