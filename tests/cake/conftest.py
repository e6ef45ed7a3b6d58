"""Two real engines, one with Cake, that share a real LMCache."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from lab.cake import CAKE, SERVER, Rig, prompt, running
from lab.images import engine_image
from lab.settings import STATE
from lab.shell import run

TOKENS = 2560
CHUNKS = 10
SUFFIX = 40
AS_FAST_AS_IT_CAN = 1e6  # tokens a second


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    if not os.major(STATE.stat().st_dev):
        pytest.skip("no disk that could be held back lies below .lab")
    with running(engine_image()) as rig:
        yield rig


@pytest.fixture(autouse=True)
def logs(rig: Rig, request: pytest.FixtureRequest) -> Iterator[None]:
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        for container in (SERVER, *rig.engines):
            print(run(["docker", "logs", "--tail", "40", container]))


@dataclass(frozen=True)
class Question:
    """A stored prompt with a question behind it, and what it is without any cache.

    Attributes:
        ids: its tokens.
        answer: the greedy answer.
        speed: tokens computed a second.
    """

    ids: Sequence[int]
    answer: str
    speed: float


@pytest.fixture(scope="session")
def question(rig: Rig) -> Question:
    stem = prompt(TOKENS, 1)
    rig.store(stem)
    ids = [*stem, *prompt(SUFFIX, 2)]
    took, answer = min(rig.one(CAKE, ids, AS_FAST_AS_IT_CAN, salt) for salt in ("a", "b"))
    return Question(ids, answer, len(ids) / took)
