"""vLLM's own tests that need no words of a model: what passes directly passes through infbox."""

import pytest

from tests.conformance import sdist
from tests.conformance.runner import DIRECT, EDGE, PACK, Runner, suite
from tests.conformance.verdict import compare, read_expected
from tests.system.conftest import WORKSPACE, Site

pytestmark = pytest.mark.lab

ANSWER_TOKENS = 8  # of random words


def test_vllm_s_own_tests_pass_through_infbox(site: Site) -> None:
    site.client.wait_until_warm()
    runner = Runner(site.host, WORKSPACE, ANSWER_TOKENS)
    expected = read_expected(sdist.HERE / "expected.yml")
    targets = DIRECT, EDGE, PACK
    verdict = compare(runner, suite()["quick"], targets, expected, is_whole=False)
    print("", verdict.table, "", *verdict.differences, sep="\n")
    assert not verdict.problems, "\n".join(verdict.problems)
