"""What kind of file a path tells of."""

from __future__ import annotations

import pytest

from infbox.errors import InputError
from infbox.kinds import (
    MAX_WEIGHT,
    MIN_WEIGHT,
    PACK_WEIGHTS,
    RETRIEVAL_WEIGHTS,
    FileKind,
    changed,
    described,
    kind_of,
)
from infbox.packing.rank import Candidate, ranked

KINDS = {
    FileKind.SOURCE: [
        "src/app.py", "lib/response.js", "cmd/main.go", "include/a.hpp", "latest/contest.py",
        "roles/web/tasks/main.yml", "web/index.html", "protest.rs", "news/feed.py",
    ],
    FileKind.TESTS: [
        "tests/test_app.py", "app_test.go", "test/res.send.js", "src/cart.spec.ts",
        "src/test/java/CartTest.java", "conftest.py", "test_suite/tests/test_de.rs",
    ],
    FileKind.DOCS: ["docs/guide.md", "docs/conf.py", "examples/hello.py", "lib/README.md", "a.rst"],
    FileKind.README: ["README.md", "readme"],
    FileKind.CONFIGURATION: [
        "pyproject.toml", "Makefile", ".gitignore", "requirements-dev.txt", "config/app.yaml",
        "CMakeLists.txt",
    ],
    FileKind.FIXTURES: ["tests/data.json", "pkg/testdata/in.go", "__snapshots__/a.snap"],
    FileKind.CHANGELOG: [
        "CHANGES.rst", "CHANGELOG.md", "HISTORY", "LICENSE", "changelog.d/1.fixed.md", "AUTHORS",
    ],
    FileKind.CI: [".github/workflows/test.yml", ".travis.yml", ".pre-commit-config.yaml"],
    FileKind.LOCK: ["poetry.lock", "go.sum", "web/package-lock.json"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "kind"), [(path, kind) for kind, paths in KINDS.items() for path in paths]
)
def test_a_path_tells_of_one_kind(path: str, kind: FileKind) -> None:
    assert kind_of(path) is kind


@pytest.mark.parametrize("weights", [PACK_WEIGHTS, RETRIEVAL_WEIGHTS])
def test_each_kind_has_a_weight_that_may_be_set(weights: dict[FileKind, float]) -> None:
    assert set(weights) == set(FileKind)
    assert all(MIN_WEIGHT <= weight <= 1 for weight in weights.values())


def test_a_weight_that_is_set_replaces_its_default_alone() -> None:
    weights = changed(PACK_WEIGHTS, {"docs": 2, "tests": 0.5}, "")
    assert weights == {**PACK_WEIGHTS, FileKind.DOCS: 2.0, FileKind.TESTS: 0.5}
    assert described(weights, PACK_WEIGHTS) == "docs 2, tests 0.5"
    assert described(PACK_WEIGHTS, PACK_WEIGHTS) == ""


@pytest.mark.parametrize(
    "wrong", ["1", "much", None, True, 0, -1, MAX_WEIGHT * 2, 10**400, float("nan"), [1]]
)
def test_a_weight_that_is_no_usable_number_is_refused_by_its_name(wrong: object) -> None:
    with pytest.raises(InputError, match=r"weights\.pack\.docs: must be a number from 0\.001 to"):
        changed(PACK_WEIGHTS, {"docs": wrong}, "weights.pack.")


def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"weights\.pack\.test is not a kind of file: use source,"):
        changed(PACK_WEIGHTS, {"test": 1}, "weights.pack.")


def test_of_files_that_are_edited_alike_source_comes_first_and_lock_files_last() -> None:
    names = ["go.sum", ".travis.yml", "CHANGES.rst", "docs/a.md", "tests/test_a.py", "a.py"]
    order = ranked(Candidate(name, "", 1000, heat=1.0) for name in names)
    assert [candidate.path for candidate in order][:2] == ["a.py", "tests/test_a.py"]
    assert [candidate.path for candidate in order][-1] == "go.sum"


def test_a_file_of_another_kind_comes_first_where_it_is_what_people_edit() -> None:
    hot = Candidate("CHANGES.rst", "", 1000, heat=60.0)
    assert ranked([Candidate("a.py", "", 1000, heat=1.0), hot])[0] is hot
