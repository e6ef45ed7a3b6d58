"""What differs is found again before it counts, and what is expected has to be true."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.conformance import sdist
from tests.conformance.runner import EDGE, PACK, suite
from tests.conformance.verdict import Expected, Result, Verdict, compare, read_expected

FILE = "entrypoints/test_a.py"
TARGETS = ("direct", "edge")


class Fake:
    """Stands for the runs: what each test does, run after run, by target."""

    def __init__(self, **outcomes: dict[str, str]) -> None:
        self.outcomes = outcomes
        self.runs: list[tuple[str, Sequence[str]]] = []

    def run(self, target: str, tests: Sequence[str], only: Sequence[str] = ()) -> list[Result]:
        assert list(tests) in ([FILE], [f"{FILE}::a"])
        number = sum(name == target for name, _ in self.runs)
        self.runs.append((target, only))
        found = []
        for name, each in self.outcomes[target].items():
            test = f"tests/{FILE}::{name}"
            if not only or test in only:
                passed = each[min(number, len(each) - 1)] == "."
                found.append(Result(test, "passed" if passed else "failed", "because"))
        return found


def judged(fake: Fake, *expected: Expected, is_whole: bool = True) -> Verdict:
    return compare(fake, [FILE], TARGETS, expected, is_whole=is_whole)


def known(test: str) -> Expected:
    return Expected(f"{FILE}::{test}", "a reason", ("edge",))


def test_what_passes_directly_alone_is_a_problem() -> None:
    verdict = judged(Fake(direct={"a": ".", "b": "F"}, edge={"a": "F", "b": "F"}))
    (problem,) = verdict.problems
    assert "edge: tests/entrypoints/test_a.py::a" in problem
    assert "because" in problem
    assert verdict.table.splitlines()[-1].split() == ["all", "2", "1", "0"]


def test_it_counts_only_where_it_is_so_each_time() -> None:
    later = Fake(direct={"a": "."}, edge={"a": "F."})
    assert not judged(later).problems
    assert later.runs[2:] == [(each, [f"tests/{FILE}::a"]) for each in TARGETS]
    assert not judged(Fake(direct={"a": "..F", "b": "."}, edge={"a": "F", "b": "."})).problems
    assert judged(Fake(direct={"a": "."}, edge={"a": "F"})).problems


def test_single_tests_are_run_again_too() -> None:
    fake = Fake(direct={"a[MODEL]": "."}, edge={"a[MODEL]": "F."})
    assert not compare(fake, [f"{FILE}::a"], TARGETS, []).problems


def test_a_test_that_is_not_run_there_is_a_problem() -> None:
    (problem,) = judged(Fake(direct={"a": "."}, edge={})).problems
    assert "it was not run" in problem


def test_what_is_expected_is_told_with_its_reason() -> None:
    fake = Fake(direct={"a[MODEL]": ".", "b": "."}, edge={"a[MODEL]": "F", "b": "."})
    verdict = judged(fake, known("a"))
    assert not verdict.problems
    assert "a reason" in verdict.differences[0]
    assert len(fake.runs) == len(TARGETS), "what is expected is not run again"


def test_all_of_a_file_may_be_expected() -> None:
    fake = Fake(direct={"a[MODEL]": ".", "b": "."}, edge={"a[MODEL]": "F", "b": "F"})
    assert not judged(fake, Expected(FILE, "a reason", ("edge",))).problems
    assert judged(fake, Expected("entrypoints/test_b.py", "a reason", ("edge",))).problems


def test_an_expected_difference_that_is_none_is_a_problem() -> None:
    passing = Fake(direct={"a": "."}, edge={"a": "."})
    (problem,) = judged(passing, known("a")).problems
    assert "take it off the list" in problem
    assert not judged(passing, replace(known("a"), by_answer=True)).problems
    (problem,) = judged(Fake(direct={"a": "."}, edge={"a": "."}), known("gone")).problems
    assert "no such test" in problem
    some = Fake(direct={"a": "."}, edge={"a": "."})
    assert not judged(some, known("of-another-file"), is_whole=False).problems
    failing = Fake(direct={"a": "F", "b": "."}, edge={"a": "F", "b": "."})
    assert not judged(failing, known("a")).problems, "directly it fails too"


def test_an_engine_that_passes_nothing_is_a_problem() -> None:
    (problem,) = judged(Fake(direct={"a": "F"}, edge={"a": "F"})).problems
    assert "no test passes at direct" in problem


def test_the_list_has_a_reason_for_each_and_no_test_twice(tmp_path: Path) -> None:
    expected = read_expected(sdist.HERE / "expected.yml")
    assert all(len(each.reason) > 20 and set(each.targets) <= {EDGE, PACK} for each in expected)
    tests = [each.test for each in expected]
    assert {test.partition("::")[0] for test in tests} <= set(suite()["tests"])
    assert len(tests) == len(set(tests))
    file = tmp_path / "empty.yml"
    file.write_text("# nothing\n")
    assert read_expected(file) == []
