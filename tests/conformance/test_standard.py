"""langchain's standard tests of chat models, through infbox as directly."""

import pytest

from tests.conformance import sdist
from tests.conformance.conftest import Outside
from tests.conformance.runner import DIRECT, EDGE, PACK
from tests.conformance.standard import FILE, StandardTests, results
from tests.conformance.verdict import Result, compare, read_expected

TOKENS = 64
CASE = '<testcase classname="tests.langchain_chat.TestResponses" name='
REPORT = f"""<testsuites><testsuite>
{CASE}"test_stream[model0]"/>
{CASE}"test_invoke"><failure message="no"/></testcase>
{CASE}"test_pdf"><skipped/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_read() -> None:
    place = f"tests/{FILE}::TestResponses"
    assert results(REPORT) == [
        Result(f"{place}::test_stream[model0]", "passed"),
        Result(f"{place}::test_invoke", "failed", "no"),
        Result(f"{place}::test_pdf", "skipped"),
    ]


@pytest.mark.lab
@pytest.mark.long
def test_langchain_s_tests_that_pass_directly_pass_through_infbox(
    outside: Outside,
) -> None:
    expected = read_expected(sdist.HERE / "libraries" / "expected.yml")
    runner = StandardTests(outside.targets, outside.authority, TOKENS)
    verdict = compare(runner, [FILE], (DIRECT, EDGE, PACK), expected)
    print("", verdict.table, "", *verdict.differences, sep="\n")
    assert not verdict.problems, "\n".join(verdict.problems)
