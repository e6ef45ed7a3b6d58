"""All of vLLM's tests that a small model can answer, through infbox as directly.

Those of a directory run together, so that one can be chosen (`-k responses`), and what is found in
it is printed before the next begins.
"""

import os
from collections.abc import Sequence
from itertools import groupby

import pytest

from lab.hosts import Host
from tests.conformance import sdist
from tests.conformance.conftest import WORKSPACE
from tests.conformance.runner import DIRECT, EDGE, PACK, Runner, suite
from tests.conformance.verdict import compare, read_expected

# Of an answer, at most. Fewer are quicker, and some tests then do not pass directly.
TOKENS = int(os.environ.get("CONFORMANCE_TOKENS", "256"))

pytestmark = [pytest.mark.lab, pytest.mark.long]


def directories() -> dict[str, Sequence[str]]:
    """Return the suite's files by their directory below vLLM's ``tests/entrypoints``."""
    return {place: list(files) for place, files in groupby(sorted(suite()["tests"]), key=directory)}


def directory(test: str) -> str:
    """Return the directory of a file, or of a test in it."""
    return test.partition("::")[0].rpartition("/")[0].removeprefix("entrypoints/")


@pytest.fixture(scope="module")
def runner(host: Host) -> Runner:
    """What runs tests against the host."""
    return Runner(host, WORKSPACE, TOKENS)


@pytest.mark.parametrize("place", directories())
def test_what_passes_directly_passes_through_infbox(runner: Runner, place: str) -> None:
    expected = [each for each in read_expected(sdist.HERE / "expected.yml")
                if directory(each.test) == place]  # fmt: skip
    verdict = compare(runner, directories()[place], (DIRECT, EDGE, PACK), expected)
    print("", verdict.table, "", *verdict.differences, sep="\n")
    assert not verdict.problems, "\n".join(verdict.problems)
