"""What may leave a developer's machine, and nothing else, is copied."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infbox.cli import watch
from serving import until
from trees import fill, git

SECRET = 'key = "AKIA' + 'Q3EGRXWTJ5LXZJ4A"\n'


@pytest.fixture
def source(repo: Path) -> Path:
    fill(repo, {"a.py": "1\n", "sub/b.py": "2\n", ".gitignore": "ignored.py\n", ".env": "A=1\n"})
    fill(repo, {"ignored.py": "x\n", "leak.py": SECRET})
    git(repo, "add", "a.py", "leak.py", ".gitignore")
    return repo


def copied(target: Path) -> dict[str, str]:
    tree = target / "tree"
    return {str(p.relative_to(tree)): p.read_text() for p in tree.rglob("*") if p.is_file()}


def test_what_is_ignored_or_secret_stays_and_what_is_not_committed_goes(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch(["mirror", str(source), str(tmp_path / "copy")]) == 0
    assert copied(tmp_path / "copy") == {
        ".gitignore": "ignored.py\n",
        "a.py": "1\n",
        "sub/b.py": "2\n",
    }
    assert capsys.readouterr().out == "3 written, 0 removed, 0 kept\n"


def test_a_file_that_becomes_secret_or_goes_is_taken_back_and_the_rest_is_not_touched(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "copy"
    watch(["mirror", str(source), str(target)])
    before = (target / "tree/.gitignore").stat()
    fill(source, {"a.py": SECRET})
    (source / "sub/b.py").unlink()
    watch(["mirror", str(source), str(target)])
    assert copied(target) == {".gitignore": "ignored.py\n"}
    assert not (target / "tree/sub").exists()
    assert (target / "tree/.gitignore").stat() == before
    assert capsys.readouterr().out.endswith("0 written, 2 removed, 1 kept\n")
    assert not any(b"AKIA" in path.read_bytes() for path in target.rglob("*") if path.is_file())


def test_a_file_and_a_folder_may_change_places(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    watch(["mirror", str(source), str(target)])
    (source / "a.py").unlink()
    (source / "sub/b.py").unlink()
    (source / "sub").rmdir()
    fill(source, {"a.py/inner.py": "1\n", "sub": "text\n"})
    assert watch(["mirror", str(source), str(target)]) == 0
    assert copied(target) == {".gitignore": "ignored.py\n", "a.py/inner.py": "1\n", "sub": "text\n"}


def test_a_link_in_the_copy_leads_nowhere(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    watch(["mirror", str(source), str(target)])
    fill(tmp_path, {"theirs/a.py": "1\n", "theirs/b.py": "theirs\n"})
    (target / "tree/a.py").unlink()
    (target / "tree/a.py").symlink_to(tmp_path / "theirs/a.py")
    (target / "tree/sub/b.py").unlink()
    (target / "tree/sub").rmdir()
    (target / "tree/sub").symlink_to(tmp_path / "theirs")
    watch(["mirror", str(source), str(target)])
    assert copied(target)["a.py"] == "1\n"
    assert (tmp_path / "theirs/b.py").read_text() == "theirs\n"
    assert not any(path.is_symlink() for path in (target / "tree").rglob("*"))


def test_a_folder_with_something_else_in_it_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, {"mine/letter.txt": "dear\n"})
    for target, reason in {
        tmp_path / "mine": "holds something else: give a new folder, or empty it",
        source / "copy": "lies in the tree, or around it: give a folder elsewhere",
        tmp_path: "lies in the tree, or around it: give a folder elsewhere",
        tmp_path / "mine/letter.txt": "give a folder that can be written",
    }.items():
        assert watch(["mirror", str(source), str(target)]) == 2
        assert reason in capsys.readouterr().err
    assert (tmp_path / "mine/letter.txt").read_text() == "dear\n"
    assert not (source / "copy").exists()


def test_it_goes_on_as_files_are_saved(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    command = "import sys; from infbox.cli import watch; sys.exit(watch())"
    arguments = ["mirror", str(source), str(target), "--every", "1"]
    process = subprocess.Popen([sys.executable, "-c", command, *arguments])
    try:
        until((target / "tree/a.py").exists)
        fill(source, {"a.py": "saved\n"})
        until(lambda: copied(target)["a.py"] == "saved\n")
        fill(source, {"a.py": SECRET})
        until(lambda: "a.py" not in copied(target))
    finally:
        process.terminate()
        process.wait()
