"""All of vLLM's tests that a small model can answer, through infbox as directly."""

import os

import pytest

from lab.hosts import Host
from tests.conformance import sdist
from tests.conformance.conftest import WORKSPACE
from tests.conformance.runner import DIRECT, EDGE, PACK, Runner, suite
from tests.conformance.verdict import compare, read_expected

# Of an answer, at most. Fewer are quicker, and some tests then do not pass directly.
TOKENS = int(os.environ.get("CONFORMANCE_TOKENS", "256"))

pytestmark = [pytest.mark.lab, pytest.mark.long]


def test_what_passes_directly_passes_through_infbox(host: Host) -> None:
    expected = read_expected(sdist.HERE / "expected.yml")
    runner = Runner(host, WORKSPACE, TOKENS)
    verdict = compare(runner, suite()["tests"], (DIRECT, EDGE, PACK), expected)
    print("", verdict.table, "", *verdict.differences, sep="\n")
    assert not verdict.problems, "\n".join(verdict.problems)
