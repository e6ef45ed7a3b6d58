"""A file has git's name, whatever the file system of a laptop makes of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanging_fs import hanging_file_system
from infbox.mirror.copy import Copy, prepare
from infbox.tree.spelling import Spelling
from serving import until
from trees import fill, git

STUB_SYSTEM = Path(__file__).parents[1] / "stub_system.py"

APART, TOGETHER = "cafe\u0301.py", "caf\u00e9.py"


@pytest.fixture
def laptop(repo: Path, tmp_path: Path) -> Iterator[Path]:
    """A repository on a file system that folds names, of which the directories list other names
    than git has."""
    fill(repo, {"Readme.md": "1\n", "src/a.py": "2\n", "src/b.py": "3\n", TOGETHER: "4\n"})
    git(repo, "add", ".")
    git(repo, "config", "core.ignorecase", "true")
    git(repo, "config", "core.precomposeunicode", "true")  # which on Linux is for us alone
    (repo / "Readme.md").rename(repo / "README.MD")
    (repo / "src/b.py").rename(repo / "src/B.PY")
    (repo / "src").rename(repo / "Src")
    (repo / TOGETHER).rename(repo / APART)
    fill(repo, {"Src/New.py": "5\n"})
    with hanging_file_system(repo, tmp_path / "laptop", folds=True) as mounted:
        if mounted is None:
            pytest.skip("nothing can be mounted here")
        yield mounted.place


WANTED = {"Readme.md": "1\n", "src/a.py": "2\n", "src/b.py": "3\n", TOGETHER: "4\n"}


def copied(target: Path) -> dict[str, str]:
    tree = target / "tree"
    return {str(p.relative_to(tree)): p.read_text() for p in tree.rglob("*") if p.is_file()}


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_the_copy_has_git_s_names(laptop: Path, tmp_path: Path, system: str) -> None:
    command = [sys.executable, str(STUB_SYSTEM), system, "mirror", str(laptop)]
    subprocess.run([*command, str(tmp_path / "copy")], check=True)
    assert copied(tmp_path / "copy") == {**WANTED, "src/New.py": "5\n"}


def test_a_save_is_told_by_the_name_that_the_directory_has_and_copied_by_git_s(
    laptop: Path, repo: Path, tmp_path: Path
) -> None:
    target = tmp_path / "copy"
    command = [sys.executable, str(STUB_SYSTEM), "win32", "mirror", str(laptop), str(target)]
    process = subprocess.Popen([*command, "--follow"])
    try:
        until(lambda: "src/New.py" in copied(target), 20)
        fill(repo, {"README.MD": "saved\n", "Src/B.PY": "saved too\n", APART: "again\n"})
        changed = {"Readme.md": "saved\n", "src/b.py": "saved too\n", TOGETHER: "again\n"}
        expected = {**WANTED, **changed, "src/New.py": "5\n"}
        until(lambda: copied(target) == expected, 20)
        (repo / "Src/a.py").unlink()
        until(lambda: "src/a.py" not in copied(target), 20)
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()


def test_names_are_as_listed_where_git_takes_each_for_itself() -> None:
    plain = Spelling(["Readme.md"], folds_case=False, composes=False)
    assert [plain.of(path) for path in ("README.md", APART)] == ["README.md", APART]
    composing = Spelling(["Readme.md", APART], folds_case=False, composes=True)
    assert composing.of("README.md") == "README.md"
    assert composing.of(TOGETHER) == APART, "as in the index, which another system wrote"
    assert composing.of(f"new/{APART}") == f"new/{TOGETHER}"


def test_a_file_that_is_renamed_in_case_alone_is_renamed_in_a_copy_that_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    prepare(tmp_path / "tree", tmp_path / "copy")
    monkeypatch.setattr("infbox.mirror.copy._folds", lambda _: True)
    copy = Copy(tmp_path / "copy")
    for path in ("Readme.md", "src/a.py", "src/b.py"):
        assert copy.put(path, b"1")
    for path in ("README.md", "Src/a.py", "Src/b.py"):
        copy.put(path, b"1")
    gone = copy.remove({"Readme.md", "src/a.py", "src/b.py"})
    assert gone == 0, "there it would be the file that was just written"
    expected = {"README.md", "Src/a.py", "Src/b.py"}
    assert copied(tmp_path / "copy").keys() == expected
    again = Copy(tmp_path / "copy")
    assert again.keep_only({"readme.md", "Src/a.py", "Src/b.py"}) == 0, "it is renamed when written"
    assert not again.put("README.md", b"1")
    assert again.put("Readme.MD", b"1")
    assert copied(tmp_path / "copy").keys() == {"Readme.MD", "Src/a.py", "Src/b.py"}
