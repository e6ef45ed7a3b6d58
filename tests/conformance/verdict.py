"""What came of others' tests: differences between targets, and whether each is expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

PASSED, SKIPPED = "passed", "skipped"
RERUNS = 2
_MOST_WORDS = 300  # characters of a failure that are shown


@dataclass(frozen=True)
class Result:
    """What came of one test at one target.

    Attributes:
        id: of the test.
        outcome: ``passed``, ``failed`` or ``skipped``.
        why: it did not pass.
    """

    id: str
    outcome: str
    why: str = ""


@dataclass(frozen=True)
class Expected:
    """A test that passes directly and does not pass through infbox.

    Attributes:
        test: its id; without parameters all of that name are meant, and without a name all of
            that file.
        reason: of it, for people.
        targets: where it is so.
        by_answer: whether it passes there too where the model happens to answer otherwise.
    """

    test: str
    reason: str
    targets: tuple[str, ...]
    by_answer: bool = False

    def is_of(self, test: str) -> bool:
        """Say whether a test is meant."""
        return test in (self.test, f"tests/{self.test}") or _is_of(test, self.test)


class Runs(Protocol):
    """Runs tests against a target by its name."""

    def run(self, target: str, tests: Sequence[str], only: Sequence[str] = ()) -> list[Result]: ...


@dataclass(frozen=True)
class Verdict:
    """What came of all.

    Attributes:
        table: for people: each file's tests, and how many pass where.
        differences: a line for each test that passes directly alone.
        problems: a line for each thing that the gate does not let pass.
    """

    table: str
    differences: Sequence[str]
    problems: Sequence[str]


def read_expected(file: Path) -> list[Expected]:
    """Return the differences that are expected.

    Args:
        file: YAML, a list of ``test``, ``at`` (targets), ``reason`` and, if need be, ``by_answer``.
    """
    said = yaml.safe_load(file.read_text()) or []
    return [
        Expected(each["test"], each["reason"], tuple(each["at"]), each.get("by_answer", False))
        for each in said
    ]


def compare(
    runs: Runs,
    tests: Sequence[str],
    targets: Sequence[str],
    expected: Sequence[Expected],
    *,
    is_whole: bool = True,
) -> Verdict:
    """Run tests everywhere, those that differ again, and judge what differs then.

    The tests sample: a test that passes directly and fails elsewhere is run again at both. It
    differs where it passes directly each time and elsewhere never.

    Args:
        runs: runs tests.
        tests: files below vLLM's ``tests``, or tests of them, ``FILE::TEST``.
        targets: the first is the one that the others are compared with.
        expected: what may differ.
        is_whole: whether these are all tests, so that each one that is expected must be among them.
    """
    first, others = targets[0], targets[1:]
    # At once: an engine answers several requests in little more time than one.
    with ThreadPoolExecutor(len(targets)) as pool:
        results = list(pool.map(lambda target: runs.run(target, tests), targets))
    found = {target: _by_id(each) for target, each in zip(targets, results, strict=True)}
    for _ in range(RERUNS):
        doubtful = {target: _differing(found[first], found[target], expected, target)
                    for target in others}  # fmt: skip
        again = sorted({test for each in doubtful.values() for test in each})
        if not again:
            break
        files = [name for name in tests if any(_is_of(test, name) for test in again)]
        for test, result in _by_id(runs.run(first, files, again)).items():
            if result.outcome != PASSED:
                found[first][test] = result
        for target, names in doubtful.items():
            if names:
                for test, result in _by_id(runs.run(target, files, names)).items():
                    if result.outcome == PASSED:
                        found[target][test] = result
    return judge(found, expected, is_whole=is_whole)


def judge(
    found: Mapping[str, Mapping[str, Result]],
    expected: Sequence[Expected],
    *,
    is_whole: bool = True,
) -> Verdict:
    """Judge what came of all tests.

    Args:
        found: results by test by target, the first target the one that is compared with.
        expected: what may differ.
        is_whole: whether each one that is expected must be among them.
    """
    first, *others = found
    differences: list[str] = []
    problems: list[str] = []
    used: set[tuple[int, str]] = set()
    for target in others:
        for test in _not_passed(found[first], found[target]):
            known = _known(expected, test, target)
            used |= {(number, target) for number, _ in known}
            line = _line(target, test, found[target].get(test), [each for _, each in known])
            differences.append(line)
            if not known:
                problems.append(f"new difference: {line}")
        for number, each in enumerate(expected):
            passed = [test for test, result in found[first].items()
                      if each.is_of(test) and result.outcome == PASSED]  # fmt: skip
            if target in each.targets and (number, target) not in used:
                if passed and not each.by_answer:
                    problems.append(f"{each.test} passes at {target} now: take it off the list")
                elif is_whole and not any(each.is_of(test) for test in found[first]):
                    problems.append(f"{each.test} is listed, and there is no such test")
    if not any(result.outcome == PASSED for result in found[first].values()):
        problems.append(f"no test passes at {first}: is that the engine?")
    return Verdict(_table(found), differences, problems)


def _by_id(results: Iterable[Result]) -> dict[str, Result]:
    """Return results by test; of a test that passed and whose end failed the latter."""
    found: dict[str, Result] = {}
    for each in results:
        if each.id not in found or found[each.id].outcome == PASSED:
            found[each.id] = each
    return found


def _not_passed(direct: Mapping[str, Result], other: Mapping[str, Result]) -> list[str]:
    return [test for test, result in direct.items() if result.outcome == PASSED
            and (test not in other or other[test].outcome != PASSED)]  # fmt: skip


def _differing(
    direct: Mapping[str, Result],
    other: Mapping[str, Result],
    expected: Sequence[Expected],
    target: str,
) -> list[str]:
    """Return the tests that are to be run again: the expected ones need not be."""
    return [test for test in _not_passed(direct, other) if not _known(expected, test, target)]


def _known(expected: Sequence[Expected], test: str, target: str) -> list[tuple[int, Expected]]:
    return [(number, each) for number, each in enumerate(expected)
            if target in each.targets and each.is_of(test)]  # fmt: skip


def _line(target: str, test: str, result: Result | None, known: Sequence[Expected]) -> str:
    if known:
        return f"{target}: {test}\n    expected: {known[0].reason}"
    why = " ".join(result.why.split())[:_MOST_WORDS] if result else "it was not run"
    return f"{target}: {test}\n    {why}"


def _table(found: Mapping[str, Mapping[str, Result]]) -> str:
    tests = dict.fromkeys(test for results in found.values() for test in results)
    counts = {target: Counter(_file(test) for test, result in results.items()
                              if result.outcome == PASSED)
              for target, results in found.items()}  # fmt: skip
    sizes = Counter(map(_file, tests))
    rows = [[file, str(size), *(str(counts[target][file]) for target in found)]
            for file, size in sizes.items()]  # fmt: skip
    sums = [str(sum(counts[target].values())) for target in found]
    rows = [["passed", "run", *found], *rows, ["all", str(len(tests)), *sums]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]),
                   *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )  # fmt: skip


def _is_of(test: str, name: str) -> bool:
    """Say whether a test is a file's, or is named without its parameters."""
    return name in (_bare(test).removeprefix("tests/"), test.removeprefix("tests/").split("::")[0])


def _file(test: str) -> str:
    return test.partition("::")[0].removeprefix("tests/entrypoints/")


def _bare(test: str) -> str:
    return test.partition("[")[0]
