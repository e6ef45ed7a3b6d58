"""From touched paths to a published pack, without an event loop."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infbox import tokens
from infbox.errors import InputError
from infbox.files import Content, Tree
from infbox.watch import Batch
from infbox.workspace import Publication, Workspace
from trees import fill, git

EVERYTHING = Batch(everything=True)


@contextlib.contextmanager
def opened(root: Path, budget: int = 5000, counted_by: str = "bytes") -> Iterator[Workspace]:
    workspace = Workspace(
        name="shop",
        model="coder",
        tree=Tree(root),
        budget=budget,
        count=tokens.estimate,
        counted_by=counted_by,
        state_dir=root.parent / "state",
    )
    try:
        yield workspace
    finally:
        workspace.close()


def published(root: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(pack_file(root).read_text())
    return value


def pack_file(root: Path) -> Path:
    return root.parent / "state" / "packs" / "shop" / "pack.json"


def now(workspace: Workspace) -> Publication:
    assert workspace.publication is not None
    return workspace.publication


def spied_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which every path that is read from now on is added."""
    read: list[str] = []
    original = Tree.read

    def reading(tree: Tree, path: str) -> Content | None:
        read.append(path)
        return original(tree, path)

    monkeypatch.setattr(Tree, "read", reading)
    return read


def settle() -> None:
    """Let the kernel's clock tick, so that files just written are trusted by their stamps."""
    time.sleep(0.05)


def test_the_first_look_publishes_the_tree(repo: Path) -> None:
    fill(repo, {"a.py": "a\n", ".env": "KEY=1\n"})
    with opened(repo) as workspace:
        assert workspace.look(EVERYTHING)
        pack = published(repo)
    assert pack["workspace"] == "shop"
    assert pack["model"] == "coder"
    assert (pack["generation"], pack["version"]) == (1, 1)
    assert "## a.py" in pack["text"]
    assert "KEY" not in pack["text"]
    assert stat.S_IMODE(pack_file(repo).stat().st_mode) == 0o640


def test_a_save_becomes_the_tail_of_the_same_generation(repo: Path) -> None:
    fill(repo, {"a.py": "a\n", "b.py": "b\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        before = now(workspace)
        fill(repo, {"a.py": "a2\n"})
        assert workspace.look(Batch({"a.py"}))
        after = now(workspace)
    assert (after.generation, after.version) == (1, 2)
    assert after.text.startswith(before.text)
    assert published(repo)["sha256"] == after.sha256


def test_a_save_of_the_same_content_publishes_nothing(repo: Path) -> None:
    fill(repo, {"a.py": "a\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        fill(repo, {"a.py": "a\n"})
        assert not workspace.look(Batch({"a.py"}))


def test_a_restart_gives_the_same_bytes_and_reads_no_file(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, {"a.py": "a\n", "b.py": "b\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        fill(repo, {"b.py": "b2\n"})
        workspace.look(Batch({"b.py"}))
        settle()
        workspace.look(EVERYTHING)
    before = pack_file(repo).read_bytes()
    read = spied_reads(monkeypatch)
    with opened(repo) as workspace:
        assert workspace.look(EVERYTHING), "what stands is told once, so that it is warmed"
        assert not workspace.look(EVERYTHING)
    assert pack_file(repo).read_bytes() == before
    assert read == []


def test_what_happened_while_away_becomes_the_tail(repo: Path) -> None:
    fill(repo, {"a.py": "a\n", "b.py": "b\n", "c.py": "c\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        before = now(workspace)
    fill(repo, {"b.py": "b2\n", "new.py": "n\n"})
    (repo / "c.py").unlink()
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        after = now(workspace)
    assert after.generation == before.generation
    assert after.text.startswith(before.text)
    tail = after.text[len(before.text) :]
    assert "b2" in tail
    assert "## new.py" in tail
    assert "## c.py (removed)" in tail


def test_a_touched_file_is_read_whatever_its_stamp(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, {"a.py": "one\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        fill(repo, {"a.py": "two\n"})
        # As if both writes fell into one tick of the kernel's clock.
        monkeypatch.setattr(Workspace, "_is_unchanged", lambda *_: True)
        workspace.look(Batch({"a.py"}))
        assert "two" in now(workspace).text


@pytest.mark.parametrize(("age", "reads_again"), [(1, True), (10**9, False)])
def test_a_file_read_within_a_clock_tick_of_its_change_is_read_again(
    repo: Path, monkeypatch: pytest.MonkeyPatch, age: int, reads_again: bool
) -> None:
    fill(repo, {"a.py": "one\n"})
    changed = (repo / "a.py").stat().st_ctime_ns
    monkeypatch.setattr("infbox.workspace.time.time_ns", lambda: changed + age)
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        read = spied_reads(monkeypatch)
        workspace.look(EVERYTHING)
    assert (read == ["a.py"]) is reads_again


def test_a_new_time_alone_is_no_new_content(repo: Path) -> None:
    fill(repo, {"a.py": "one\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        os.utime(repo / "a.py")
        assert not workspace.look(EVERYTHING)


def test_a_crash_between_index_and_pack_loses_nothing(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, {"a.py": "a\n", "b.py": "b\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        fill(repo, {"a.py": "a2\n"})
        with monkeypatch.context() as patch:
            patch.setattr(Workspace, "_repack", lambda _workspace: exit_by_crash())
            with pytest.raises(KeyboardInterrupt):
                workspace.look(Batch({"a.py"}))
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        assert "a2" in now(workspace).text


def exit_by_crash() -> bool:
    raise KeyboardInterrupt


def test_a_damaged_pack_file_is_written_again(repo: Path) -> None:
    fill(repo, {"a.py": "a\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        before = pack_file(repo).read_bytes()
        pack_file(repo).write_text("{")
        assert workspace.look(EVERYTHING)
        assert pack_file(repo).read_bytes() == before


def test_a_damaged_index_is_built_anew(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(repo, {"a.py": "a\n"})
    index = repo.parent / "state" / "index" / "shop.db"
    index.parent.mkdir(parents=True)
    index.write_bytes(b"no database at all, but long enough to look at" * 100)
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
    assert "index-damaged" in caplog.text
    assert "## a.py" in published(repo)["text"]


def test_an_index_of_a_newer_version_is_refused(repo: Path) -> None:
    with opened(repo):
        pass
    index = repo.parent / "state" / "index" / "shop.db"
    with contextlib.closing(sqlite3.connect(index)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="newer version"), opened(repo):
        pass


@pytest.mark.parametrize("change", [{"budget": 4000}, {"counted_by": "another tokenizer"}])
def test_another_policy_makes_a_new_generation(repo: Path, change: dict[str, Any]) -> None:
    fill(repo, {"a.py": "a\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
    with opened(repo, **change) as workspace:
        workspace.look(EVERYTHING)
        assert (now(workspace).generation, now(workspace).version) == (2, 2)


def test_a_worn_pack_is_rebased_with_the_edited_files_in_it(repo: Path) -> None:
    files = {f"f{n:02}.py": f"x{n}\n" * 100 for n in range(40)}
    fill(repo, files)
    with opened(repo, budget=1500) as workspace:
        workspace.look(EVERYTHING)
        assert "## f39.py" not in now(workspace).text
        for turn in range(6):
            fill(repo, {"f39.py": f"y{turn}\n" * 100, "f00.py": f"z{turn}\n" * 100})
            workspace.look(Batch({"f39.py", "f00.py"}))
        last = now(workspace)
    assert last.generation > 1
    assert last.tokens <= 1500
    assert "y5\n" in last.text
    assert "z5\n" in last.text


def test_an_ignore_file_that_changes_changes_the_pack(repo: Path) -> None:
    fill(repo, {"a.py": "a\n", "b.txt": "b\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        fill(repo, {".gitignore": "*.txt\n"})
        workspace.look(Batch({".gitignore"}))
        assert "## b.txt (removed)" in now(workspace).text
        assert workspace.files == 2


def test_a_file_that_turns_binary_leaves_the_pack(repo: Path) -> None:
    fill(repo, {"a.py": "a\n", "b.py": "b\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        (repo / "a.py").write_bytes(b"\0")
        workspace.look(Batch({"a.py"}))
        assert "## a.py (removed)" in now(workspace).text


def test_a_touched_file_that_git_ignores_stays_out(repo: Path) -> None:
    fill(repo, {".gitignore": "*.o\nout/\n", "a.py": "a\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        fill(repo, {"a.o": "x", "out/b.py": "x", ".git/x": "x"})
        assert not workspace.look(Batch({"a.o", "out", "out/b.py", ".git", ".git/x"}))
        assert workspace.files == 2


def test_a_root_that_is_gone_leaves_what_was_published(repo: Path) -> None:
    fill(repo, {"a.py": "a\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        before = pack_file(repo).read_bytes()
        repo.rename(repo.parent / "away")
        with pytest.raises(OSError, match="repo"):
            workspace.look(EVERYTHING)
        assert workspace.files == 1
        assert pack_file(repo).read_bytes() == before
        (repo.parent / "away").rename(repo)
        assert not workspace.look(EVERYTHING)


def test_a_reader_never_sees_half_a_pack(repo: Path) -> None:
    fill(repo, {"a.py": "a\n"})
    with opened(repo) as workspace:
        workspace.look(EVERYTHING)
        with pack_file(repo).open() as reader:
            half = reader.read(10)
            fill(repo, {"a.py": "b\n" * 1000})
            workspace.look(Batch({"a.py"}))
            old = json.loads(half + reader.read())
    assert old["version"] == 1
    assert published(repo)["version"] == 2
    assert [file.name for file in pack_file(repo).parent.iterdir()] == ["pack.json"]


def test_the_same_tree_gives_the_same_text(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        root = tmp_path / name / "repo"
        root.mkdir(parents=True)
        git(root, "init", "--quiet")
        fill(root, {"b.py": "b\n", "a.py": "a\n", "c/d.py": "d\n"})
        with opened(root) as workspace:
            workspace.look(EVERYTHING)
            texts.append(now(workspace).text)
    assert texts[0] == texts[1]
