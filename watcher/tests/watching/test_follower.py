"""Following a tree: real inotify, real files, real git. After anything that happens, the index is
what a fresh look says."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_files import as_git_says

from following import Following, following, follows_a_root_made_again, fresh, started
from infbox.errors import GitError, InputError
from infbox.runtime.background import QUIET_SECONDS
from infbox.tree.files import Tree
from infbox.tree.git import Git
from infbox.watching import reconciler
from infbox.watching.changes import Changes
from infbox.watching.follower import Follower
from infbox.watching.index import Index
from infbox.watching.inotify import Watch
from infbox.watching.reader import TreeReader
from infbox.watching.reconciler import Reconciler
from serving import until
from trees import fill, git

# Saves


def save_in_place(file: Path, text: str) -> None:
    file.write_text(text)


def save_as_vim(file: Path, text: str) -> None:
    """With its default backup: the old file moved away, a new one written, the old one removed."""
    backup = file.with_name(file.name + "~")
    file.rename(backup)
    file.write_text(text)
    backup.unlink()


def save_as_emacs(file: Path, text: str) -> None:
    """The old file moved to a backup that stays, a lock that is a link, the new one written."""
    lock = file.with_name(f".#{file.name}")
    lock.symlink_to("somebody@somewhere.123")
    file.rename(file.with_name(f"{file.name}~"))
    file.write_text(text)
    lock.unlink()


def save_as_vs_code(file: Path, text: str) -> None:
    """In place: truncated when opened, written in parts."""
    with file.open("w") as stream:
        for part in (text[:3], text[3:]):
            stream.write(part)
            stream.flush()


def save_as_jetbrains(file: Path, text: str) -> None:
    """Safe write: a new file beside, the old one moved away, the new one moved in, both told."""
    new, old = (
        file.with_name(f"{file.name}___jb_tmp___"),
        file.with_name(f"{file.name}___jb_old___"),
    )
    new.write_text(text)
    file.rename(old)
    new.rename(file)
    old.unlink()


def save_by_rename(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.tmp")
    beside.write_text(text)
    beside.replace(file)


def save_by_exchange(file: Path, text: str) -> None:
    """Removed, then made again."""
    file.unlink()
    file.write_text(text)


def save_by_link(file: Path, text: str) -> None:
    """Written elsewhere, then given its name by a hard link: no close of that name is ever told."""
    source = file.parent.parent / "elsewhere"
    source.write_text(text)
    file.unlink()
    os.link(source, file)


def save_without_a_name(file: Path, text: str) -> None:
    """Written to a file without a name, which then gets one: neither is its close told."""
    descriptor = os.open(file.parent, os.O_TMPFILE | os.O_WRONLY)
    os.write(descriptor, text.encode())
    file.unlink()
    # Only with a folder given does Python follow the link, whatever it is told.
    os.link(f"/proc/self/fd/{descriptor}", file, src_dir_fd=descriptor, follow_symlinks=True)
    os.close(descriptor)


SAVES = [
    *(save_in_place, save_as_vim, save_as_emacs, save_as_vs_code, save_as_jetbrains),
    *(save_by_rename, save_by_exchange, save_by_link, save_without_a_name),
]


@pytest.mark.parametrize("save", SAVES, ids=lambda save: save.__name__)
def test_a_save_reaches_the_index(repo: Path, save: Callable[[Path, str], None]) -> None:
    fill(repo, {"a.py": "first\n", "b.py": "b\n"})
    with following(repo) as seen:
        before = seen.indexed()["a.py"]
        save(repo / "a.py", "second\n")
        until(lambda: seen.indexed().get("a.py", before) != before)
        seen.agrees()
        until(lambda: seen.follower.save_to_indexed is not None)  # it is told after the commit
        assert seen.follower.save_to_indexed is not None
        assert seen.follower.save_to_indexed < 10


def test_a_save_is_committed_without_waiting_for_quiet(repo: Path) -> None:
    fill(repo, {"a.py": "first\n", "b.py": "b\n"})
    stopping = threading.Event()

    def keep_saving() -> None:
        while not stopping.is_set():
            (repo / "b.py").write_text(f"{time.time_ns()}\n")
            stopping.wait(QUIET_SECONDS / 3)

    with following(repo) as seen:
        busy = threading.Thread(target=keep_saving)
        busy.start()
        try:
            (repo / "a.py").write_text("second\n")
            digest = fresh(repo)["a.py"]
            until(lambda: seen.indexed()["a.py"] == digest)
        finally:
            stopping.set()
            busy.join()


# Changes of the tree


def made_at_once(root: Path) -> None:
    for n in range(20):
        fill(root, {f"new/{n}/deep/er/{m}.py": f"{n} {m}\n" for m in range(5)})


def moved_in(root: Path) -> None:
    outside = fill(root.parent / "outside", {"d/e/f.py": "f\n", "d/g.py": "g\n"})
    outside.rename(root / "came")


def moved_out(root: Path) -> None:
    (root / "old").rename(root.parent / "gone")
    fill(root.parent / "gone", {"x.py": "outside\n", "deep/new.py": "outside\n"})


def moved_within(root: Path) -> None:
    (root / "old").rename(root / "renamed")
    fill(root / "renamed", {"x.py": "after the move\n", "deep/y.py": "after\n"})
    fill(root, {"old/again.py": "a new folder of the old name\n"})


def moved_to_and_fro(root: Path) -> None:
    for _ in range(5):
        (root / "old").rename(root / "renamed")
        fill(root / "renamed", {"deep/y.py": f"{time.time_ns()}\n"})
        (root / "renamed").rename(root / "old")
        fill(root / "old", {"x.py": f"{time.time_ns()}\n"})


def moved_over_each_other(root: Path) -> None:
    fill(root, {"one/a.py": "1\n", "two/b.py": "2\n"})
    shutil.rmtree(root / "old")
    (root / "one").rename(root / "old")
    (root / "two").rename(root / "one")


def moved_file_out(root: Path) -> None:
    (root / "old/x.py").rename(root.parent / "x.py")


def removed(root: Path) -> None:
    shutil.rmtree(root / "old")


def checked_out(root: Path) -> None:
    git(root, "checkout", "--quiet", "other")


def became_ignored(root: Path) -> None:
    fill(root, {".gitignore": "old/\n"})


def became_ignored_below(root: Path) -> None:
    fill(root, {"old/.gitignore": "deep/\n", "old/deep/z.py": "z\n"})


def ignored_no_more(root: Path) -> None:
    fill(root, {"skipped/a/b.py": "b\n", "skipped/c.py": "c\n"})
    (root / ".gitignore").unlink()


def ignored_by_the_repository(root: Path) -> None:
    fill(root, {".git/info/exclude": "*.txt\n", "new.txt": "t\n", "new.py": "p\n"})


def ignored_by_configuration(root: Path) -> None:
    fill(root.parent, {"mine": "*.txt\n"})
    git(root, "config", "core.excludesFile", str(root.parent / "mine"))
    fill(root, {"new.txt": "t\n"})


def cloned_inside(root: Path) -> None:
    git(root, "clone", "--quiet", ".", "inner")


def became_a_repository(root: Path) -> None:
    fill(root, {"lib/a.py": "a\n", "lib/deep/b.py": "b\n"})
    time.sleep(0.3)  # so that it was taken in as a folder like any other
    git(root / "lib", "init", "--quiet")


def was_a_repository(root: Path) -> None:
    git(root, "init", "--quiet", "lib")
    fill(root, {"lib/a.py": "a\n", "lib/deep/b.py": "b\n"})
    time.sleep(0.3)
    shutil.rmtree(root / "lib/.git")


def empty_git_folder(root: Path) -> None:
    fill(root, {"lib/a.py": "a\n"})
    (root / "lib/.git").mkdir()


def came_a_repository(root: Path) -> None:
    outside = root.parent / "elsewhere"
    outside.mkdir()
    git(outside, "init", "--quiet")
    fill(outside, {"a.py": "a\n", "deep/b.py": "b\n"})
    outside.rename(root / "came")


def submodule(root: Path) -> None:
    other = root.parent / "other-repo"
    other.mkdir()
    git(other, "init", "--quiet")
    fill(other, {"s.py": "s\n"})
    git(other, "add", ".")
    git(other, "commit", "--quiet", "-m", "one")
    allow = ["-c", "protocol.file.allow=always"]
    git(root, *allow, "submodule", "--quiet", "add", str(other), "sub")


def tracked_though_ignored(root: Path) -> None:
    fill(root, {"skipped/kept.py": "k\n", "skipped/deep/kept.py": "k\n", "skipped/not.py": "n\n"})
    git(root, "add", "--force", "skipped/kept.py", "skipped/deep/kept.py")


def tracked_no_more(root: Path) -> None:
    tracked_though_ignored(root)
    time.sleep(0.5)
    git(root, "rm", "--quiet", "--cached", "skipped/kept.py")


def file_became_folder(root: Path) -> None:
    (root / "old/x.py").unlink()
    fill(root, {"old/x.py/inside.py": "x\n"})


def folder_became_file(root: Path) -> None:
    shutil.rmtree(root / "old")
    (root / "old").write_text("a file\n")


def link_took_its_place(root: Path) -> None:
    (root / "old/x.py").unlink()
    (root / "old/x.py").symlink_to("/etc/hostname")


def link_took_a_folder_s_place(root: Path) -> None:
    (root / "old").rename(root.parent / "away")
    (root / "old").symlink_to(root.parent / "away")


def turned_binary(root: Path) -> None:
    (root / "a.py").write_bytes(b"\0")


def own_ignore_file(root: Path) -> None:
    fill(root, {".infboxignore": "old/\n", "old/new.py": "n\n"})


def odd_names(root: Path) -> None:
    for name in (b"caf\xe9.py", b"new\nline.py", b" x", b":(top)y", b"-n", b'"q"', b"*"):
        (root / os.fsdecode(name)).write_text("x\n")
        (root / os.fsdecode(b"in-" + name)).mkdir()
        (root / os.fsdecode(b"in-" + name) / "f.py").write_text("f\n")


CHANGES = [
    *(made_at_once, moved_in, moved_out, moved_within, moved_to_and_fro, moved_over_each_other),
    *(moved_file_out, removed, checked_out, became_ignored, became_ignored_below, ignored_no_more),
    *(ignored_by_the_repository, ignored_by_configuration, cloned_inside, became_a_repository),
    *(was_a_repository, empty_git_folder, came_a_repository, submodule, tracked_though_ignored),
    *(tracked_no_more, file_became_folder, folder_became_file, link_took_its_place),
    *(link_took_a_folder_s_place, turned_binary, own_ignore_file, odd_names),
]


@pytest.fixture
def history(repo: Path) -> Path:
    """A repository with two branches and an ignored folder."""
    fill(repo, {"a.py": "a\n", "old/x.py": "x\n", "old/deep/y.py": "y\n"})
    fill(repo, {".gitignore": "skipped/\n*.o\n", "skipped/z.py": "z\n", "b.txt": "b\n"})
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "one")
    git(repo, "checkout", "--quiet", "-b", "other")
    fill(repo, {f"many/{n}.py": f"{n}\n" for n in range(300)})
    git(repo, "rm", "--quiet", "-r", "old")
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "two")
    git(repo, "checkout", "--quiet", "-")
    return repo


def test_a_tracked_folder_that_became_a_link_is_neither_read_nor_watched(repo: Path) -> None:
    fill(repo, {"old/deep/x.py": "x\n", "y.py": "y\n"})
    git(repo, "add", ".")
    away = repo.parent / "away"
    (repo / "old").rename(away)
    (repo / "old").symlink_to(away)
    with following(repo) as seen:
        assert seen.indexed().keys() == {"y.py"}
        assert str(repo / "old/deep") not in seen.follower._watch
        events = seen.follower.events
        fill(away, {"deep/x.py": "changed\n"})
        time.sleep(0.2)
        assert seen.follower.events == events
        seen.agrees()


def test_a_tracked_folder_that_is_a_repository_of_its_own_is_not_looked_into(repo: Path) -> None:
    fill(repo, {"inner/deep/x.py": "x\n", "y.py": "y\n"})
    git(repo, "add", ".")
    git(repo / "inner", "init", "--quiet")
    git(repo / "inner", "add", ".")
    git(repo / "inner", "commit", "--quiet", "-m", "Inner")
    with following(repo) as seen:
        seen.agrees()
        is_in = "inner/deep/x.py" in seen.indexed()
        assert (str(repo / "inner/deep") in seen.follower._watch) == is_in


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_after_any_change_the_index_is_what_a_fresh_look_says(
    history: Path, change: Callable[[Path], None]
) -> None:
    with following(history) as seen:
        change(history)
        seen.agrees()
        seen.settles()
        for turn in range(2):  # the first may make the folder, the second needs its watch
            if not (history / "old").is_file():
                fill(history, {f"old/deep/{turn}.py": "later\n"})
            fill(history, {f"later{turn}.py": "later\n", "skipped/z.py": f"{turn}\n"})
            for folder in ("inner", "lib", "came", "sub"):
                if (history / folder).is_dir():  # it may be a repository of its own
                    fill(history, {f"{folder}/later{turn}.py": "later\n"})
            seen.agrees()
        assert set(seen.indexed()) <= as_git_says(history)
        assert seen.follower.scans <= 8, "no storm of scans"


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_happened_while_away_is_found_at_the_start(
    history: Path, change: Callable[[Path], None]
) -> None:
    with following(history) as seen:
        seen.settles()
    change(history)
    with following(history) as seen:
        seen.agrees()
        fill(history, {"later.py": "later\n", "d/e/f.py": "new folder\n"})
        seen.agrees()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_outside_git_it_is_the_same(tmp_path: Path, change: Callable[[Path], None]) -> None:
    if change in (checked_out, ignored_by_the_repository, ignored_by_configuration, submodule,
                  cloned_inside, tracked_though_ignored, tracked_no_more):  # fmt: skip
        pytest.skip("it needs a repository")
    root = tmp_path / "plain"
    fill(root, {"a.py": "a\n", "old/x.py": "x\n", "old/deep/y.py": "y\n", ".gitignore": "*.o\n"})
    with following(root) as seen:
        change(root)
        seen.agrees()
        fill(root, {"later.py": "later\n", "later.o": "o\n", "d/e/f.py": "new folder\n"})
        seen.agrees()


@pytest.mark.parametrize("is_repository", [True, False])
def test_an_idle_tree_is_left_alone(tmp_path: Path, is_repository: bool) -> None:
    root = fill(tmp_path / "tree", {"a.py": "a\n", "d/b.py": "b\n", ".gitignore": "*.o\n"})
    if is_repository:
        git(root, "init", "--quiet")
    with following(root) as seen:
        fill(root, {".gitignore": "*.tmp\n"})
        seen.settles()
        before = (seen.follower.scans, seen.reader.last_edit())
        time.sleep(1)
        assert (seen.follower.scans, seen.reader.last_edit()) == before
        assert before[0] <= 3


def test_a_repository_made_of_the_tree_counts(tmp_path: Path) -> None:
    root = fill(tmp_path / "plain", {"a.py": "a\n", "inner/b.py": "b\n"})
    git(root / "inner", "init", "--quiet")
    with following(root) as seen:
        assert set(seen.indexed()) == {"a.py", "inner/b.py"}
        git(root, "init", "--quiet")
        until(lambda: set(seen.indexed()) == {"a.py"})
        shutil.rmtree(root / ".git")
        until(lambda: set(seen.indexed()) == {"a.py", "inner/b.py"})
        seen.agrees()


def test_a_scan_that_fails_halfway_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "plain", {"a.py": "a\n", "inner/b.py": "b\n"})
    git(root / "inner", "init", "--quiet")
    all_tracked = Reconciler._all_tracked

    def failing(self: Reconciler) -> object:
        if (root / ".git").exists():  # it goes right after git listed by it
            shutil.rmtree(root / ".git")
        return all_tracked(self)

    with following(root) as seen:
        seen.settles()
        monkeypatch.setattr("infbox.watching.follower.RETRY_SECONDS", 0.1)
        monkeypatch.setattr(Reconciler, "_all_tracked", failing)
        git(root, "init", "--quiet")
        until(lambda: not (root / ".git").exists())
        until(lambda: set(seen.indexed()) == {"a.py", "inner/b.py"})
        seen.agrees()


@pytest.mark.parametrize("last", ["HEAD", "objects", "refs"])
def test_a_repository_that_is_whole_right_after_git_was_asked_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    root = fill(tmp_path / "plain", {"a.py": "a\n", "a.o": "o\n", ".gitignore": "*.o\n"})
    git(fill(tmp_path / "other", {"inner/b.py": "b\n"}), "init", "--quiet")
    git(fill(root / "inner", {"b.py": "b\n"}), "init", "--quiet")
    half, rest = tmp_path / "other/.git", tmp_path / "rest"
    (half / last).rename(rest)
    time.sleep(0.1)  # what is there is old by now
    refresh = Tree.refresh

    def refreshed(self: Tree) -> None:
        refresh(self)
        if (root / ".git").exists() and rest.exists():
            rest.rename(root / ".git" / last)
            time.sleep(0.1)

    with following(root) as seen:
        seen.settles()
        assert set(seen.indexed()) == {".gitignore", "a.py", "inner/b.py"}
        monkeypatch.setattr(Tree, "refresh", refreshed)
        half.rename(root / ".git")
        until(lambda: "inner/b.py" not in seen.indexed())
        seen.agrees()


def test_a_repository_below_that_is_edited_is_followed(tmp_path: Path) -> None:
    root = fill(tmp_path / "plain", {"one/a.py": "a\n", "one/.gitignore": "*.o\nout/\n"})
    git(root / "one", "init", "--quiet")
    with following(root) as seen:
        fill(root, {"one/b.py": "b\n", "one/c.o": "o\n", "one/d/e.py": "e\n", "one/out/f.py": "f"})
        seen.agrees()
        git(root / "one", "add", "--force", "out/f.py")
        until(lambda: "one/out/f.py" in seen.indexed())
        fill(root, {"one/.git/info/exclude": "*.py\n"})
        until(lambda: "one/b.py" not in seen.indexed())
        seen.agrees()


@pytest.mark.parametrize("moment", ["between git's two listings", "after both"])
@pytest.mark.parametrize("command", [("add", "--force"), ("rm", "--quiet", "--cached")])
def test_what_git_comes_to_track_or_not_while_the_tree_is_listed_is_followed(
    history: Path, monkeypatch: pytest.MonkeyPatch, moment: str, command: tuple[str, ...]
) -> None:
    fill(history, {"skipped/kept.py": "k\n"})
    if "rm" in command:
        git(history, "add", "--force", "skipped/kept.py")
    with following(history) as seen:
        seen.settles()
        list_others, is_done = Git.other_files, threading.Event()

        def changing(self: Git) -> set[str]:
            before = list_others(self) if moment == "after both" else None
            if not is_done.is_set():
                time.sleep(0.5)  # git has named what it tracks
                git(history, *command, "skipped/kept.py")
                is_done.set()
            return list_others(self) if before is None else before

        monkeypatch.setattr(Git, "other_files", changing)
        fill(history, {".git/info/exclude": "*.o\n"})
        assert is_done.wait(10)
        until(lambda: ("skipped/kept.py" in seen.indexed()) == ("add" in command))
        seen.agrees()


def test_a_repository_made_while_git_is_asked_for_it_is_followed(
    history: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listed, asked = reconciler.tracked_paths, threading.Event()

    def too_early(folder: Path) -> list[str]:
        if not asked.is_set():
            asked.set()
            raise GitError("fatal: not a git repository")
        return listed(folder)

    monkeypatch.setattr(reconciler, "tracked_paths", too_early)
    with following(history) as seen:
        assert asked.is_set()
        seen.agrees()
    # Another test of the process may have had more logged.
    assert not [each for each in caplog.records if each.levelno > logging.INFO], "not put off"


def test_what_lies_in_a_submodule_that_was_not_checked_out_is_not_taken_in(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(history, "rev-parse", "HEAD").decode().strip()
    git(history, "update-index", "--add", "--cacheinfo", f"160000,{commit},libs/other")
    (history / "libs/other").mkdir(parents=True)
    time.sleep(0.1)  # what just changed is looked at once more anyway
    list_others = Git.other_files

    def slowly(self: Git) -> set[str]:
        time.sleep(0.5)
        return list_others(self)

    monkeypatch.setattr(Git, "other_files", slowly)
    with following(history) as seen:
        fill(history, {"libs/other/stray.py": "s\n", "libs/own.py": "o\n"})
        until(lambda: "libs/own.py" in seen.indexed())
        seen.agrees()
        assert "libs/other/stray.py" not in seen.indexed()


def test_a_linked_work_tree_is_followed(history: Path) -> None:
    root = history.parent / "linked"
    git(history, "worktree", "add", "--quiet", str(root), "other")
    with following(root) as seen:
        seen.agrees()
        fill(root, {"skipped/kept.py": "k\n"})
        git(root, "add", "--force", "skipped/kept.py")
        until(lambda: "skipped/kept.py" in seen.indexed())
        fill(history, {".git/info/exclude": "many/\n*.txt\n"})  # it is the common one that counts
        fill(root, {"x.txt": "x\n"})
        seen.agrees()


def test_a_part_of_a_repository_heeds_the_rules_above_it(history: Path) -> None:
    with following(history / "old") as seen:
        fill(history, {".gitignore": "y.py\nnew.py\n", "old/new.py": "n\n"})
        until(lambda: "new.py" not in seen.indexed())
        seen.agrees()


# Git's own index


def test_a_status_of_git_changes_nothing_and_scans_nothing(history: Path) -> None:
    with following(history) as seen:
        seen.settles()
        scans, edits = seen.follower.scans, seen.reader.last_edit()
        os.utime(history / "a.py")
        git(history, "status")  # it writes the index anew
        git(history, "add", ".")
        seen.settles()
        assert (seen.follower.scans, seen.reader.last_edit()) == (scans, edits)


def test_a_new_file_is_judged_by_the_rules_as_they_are_now(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with following(history) as seen:
        fill(history, {"one.o": "ignored\n", "one.tmp": "kept\n"})
        seen.settles()
        # A scan would find out later.
        monkeypatch.setattr(Reconciler, "scan", lambda *_, **__: iter(()))
        fill(history, {".gitignore": "skipped/\n*.tmp\n"})
        fill(history, {"two.o": "kept\n", "two.tmp": "ignored\n"})
        until(lambda: "two.o" in seen.indexed())
        seen.settles_itself()
        assert "two.tmp" not in seen.indexed()


# What is said about edits


def test_edits_are_numbered_as_they_come(repo: Path) -> None:
    fill(repo, {"a.py": "a\n", "b.py": "b\n", "c.py": "c\n"})
    with following(repo) as seen:
        assert {file.edit for file in seen.reader.kept()} == {0}
        for path in ("b.py", "a.py", "b.py"):
            digest = seen.indexed()[path]
            (repo / path).write_text(f"{path} {time.time_ns()}\n")
            until(lambda path=path, digest=digest: seen.indexed()[path] != digest)
        assert [(file.path, file.edit) for file in seen.reader.edited_since(0)] == [
            ("a.py", 2),
            ("b.py", 3),
        ]
        assert seen.reader.last_edit() == 3
        heats = {file.path: file.heat for file in seen.reader.kept()}
        assert heats["b.py"] > heats["a.py"] > heats["c.py"] == 0


def test_a_save_that_a_scan_finds_before_its_event_has_a_time(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, {"a.py": "a\n"})
    with following(repo) as seen:
        seen.settles()
        assert seen.follower.changes.wait() == (None,), "what the first scan finds is no save"
        events, are_late = Watch.events, True
        monkeypatch.setattr(Watch, "events", lambda watch: iter(()) if are_late else events(watch))
        began = time.monotonic()
        fill(repo, {"a.py": "b\n"})
        seen.follower._reconcile_at = 0.0
        seen.follower._wake()
        seen.agrees()
        are_late = False
        told = seen.follower.changes.wait()
        assert told is not None
        assert told[0] is not None
        assert told[0] >= began
        assert not seen.follower.times, "how long its event took is not known"


def test_what_changed_while_nobody_followed_is_no_save(repo: Path) -> None:
    fill(repo, {"a.py": "a\n"})
    with following(repo) as seen:
        seen.settles()
    fill(repo, {"a.py": "b\n"})
    with following(repo) as seen:
        seen.settles()
        assert seen.follower.changes.wait() == (None,)


def test_what_changed_is_found_where_no_directory_can_be_opened(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    fill(repo, {"a.py": "a\n", "d/b.py": "b\n"})
    with following(repo) as seen:
        seen.settles()
    fill(repo, {"d/b.py": "changed\n"})
    opening, looking = os.open, os.lstat

    def opening_files(path: Any, *rest: Any, **named: Any) -> int:
        assert not Path(path).is_dir()
        return opening(path, *rest, **named)

    def looking_by_path(path: Any, *, dir_fd: int | None = None) -> os.stat_result:
        assert dir_fd is None
        return looking(path)

    monkeypatch.setattr("os.supports_dir_fd", frozenset())
    monkeypatch.setattr("os.open", opening_files)
    monkeypatch.setattr("os.lstat", looking_by_path)
    with following(repo) as seen:
        assert seen.follower.crashed is None
        assert seen.follower.scans == 0
        seen.agrees()


def test_a_comparison_keeps_nothing_open_between_its_steps(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, {"a.py": "a\n", "b.py": "b\n", "c.py": "c\n"})
    with following(repo) as seen:
        seen.settles()
        file = seen.follower.index_file
    monkeypatch.setattr("infbox.watching.comparison.STATS_AT_ONCE", 1)
    tree, index, watch = Tree(repo), Index(file), Watch()
    reconciler = Reconciler(name="shop", tree=tree, index=index, watching=watch, wake=lambda: None)
    steps = 0
    for _ in reconciler.start():
        steps += 1
        open_files = {os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()}
        assert str(repo) not in open_files, "it could not be unmounted"
    assert steps >= 3
    assert not reconciler.queues.is_busy
    tree.close()
    index.close()
    watch.close()


def test_the_same_bytes_are_no_edit(repo: Path) -> None:
    fill(repo, {"a.py": "a\n"})
    with following(repo) as seen:
        seen.settles()
        (repo / "a.py").write_text("a\n")
        os.utime(repo / "a.py")
        seen.settles()
        assert seen.reader.last_edit() == 0
        assert seen.follower.save_to_indexed is None


def test_a_file_saved_by_moving_it_away_keeps_its_heat(repo: Path) -> None:
    fill(repo, {"a.py": "a\n"})
    with following(repo) as seen:
        for turn in range(3):
            save_as_vim(repo / "a.py", f"{turn}\n")
            seen.agrees()
        (file,) = seen.reader.kept()
    assert file.heat > 2.5


def test_many_files_at_once_are_new_edits_but_no_work_of_hands(history: Path) -> None:
    with following(history) as seen:
        git(history, "checkout", "--quiet", "other")
        seen.agrees()
        files = [file for file in seen.reader.kept() if file.path.startswith("many/")]
    assert all(file.edit > 0 for file in files)
    assert len({file.edit for file in files}) == 300
    assert {file.heat for file in files} == {0}


def test_a_new_index_takes_its_heats_from_the_history(history: Path) -> None:
    for turn in range(3):
        fill(history, {"a.py": f"{turn}\n"})
        git(history, "commit", "--quiet", "-a", "-m", "more")
    with following(history) as seen:
        files = {file.path: file for file in seen.reader.kept()}
    assert files["a.py"].heat > files["b.txt"].heat > 0
    assert files["a.py"].edit == 0


# Restarts


def spied_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which every path that is read from now on is added."""
    read: list[str] = []
    original = Tree.fetch

    def reading(tree: Tree, path: str, known: object = None) -> object:
        read.append(path)
        return original(tree, path, known)  # type: ignore[arg-type]

    monkeypatch.setattr(Tree, "fetch", reading)
    return read


def test_a_restart_with_nothing_changed_reads_no_file_and_asks_git_nothing(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(history, {"a.py": "just now\n"})
    with following(history) as seen:
        seen.settles()
        time.sleep(0.1)
        assert index_row(seen, "a.py")[1] > 0, "a stamp to be trusted"
    read = spied_reads(monkeypatch)

    def no_git(*_: object, **__: object) -> bytes:
        raise AssertionError("git was asked")

    with monkeypatch.context() as patch:
        patch.setattr("infbox.tree.git.run", no_git)
        patch.setattr("infbox.tree.git._Checker.__init__", no_git)
        patch.setattr(
            "infbox.watching.follower.Follower._is_ready", lambda self, _: self.scanned.set()
        )
        with following(history) as seen:
            assert seen.follower.failure == ""
            assert seen.follower.scans == 0
            assert set(seen.indexed()) == {
                "a.py",
                "old/x.py",
                "old/deep/y.py",
                ".gitignore",
                "b.txt",
            }
    assert read == []


def index_row(seen: Following, path: str) -> tuple[int, int]:
    with contextlib.closing(sqlite3.connect(seen.follower.index_file)) as database:
        row: tuple[int, int] = database.execute(
            "SELECT size, mtime_ns FROM files WHERE path = ?", (os.fsencode(path),)
        ).fetchone()
    return row


def test_a_file_read_within_a_clock_tick_of_its_change_is_not_trusted(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.watching.queues.SETTLE_SECONDS", 1.0)
    fill(repo, {"a.py": "one\n"})
    with following(repo) as seen:
        seen.settles()
        fill(repo, {"a.py": "two\n"})
        until(lambda: seen.reader.last_edit() == 1)
        assert index_row(seen, "a.py")[1] == -1
        until(lambda: index_row(seen, "a.py")[1] == (repo / "a.py").stat().st_mtime_ns)


def test_other_rules_read_every_file_again(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(repo, {"a.py": "a\n", "b.py": "b\n" * 100})
    with following(repo) as seen:
        assert set(seen.indexed()) == {"a.py", "b.py"}
        seen.settles()
    with following(repo, max_file_bytes=50) as seen:
        until(lambda: set(seen.indexed()) == {"a.py"})
    with following(repo, control_tokens=("a\n",)) as seen:
        until(lambda: set(seen.indexed()) == {"b.py"})
        edit = seen.reader.edited_since(0)
        assert [file.path for file in edit] == ["b.py"], "the pack is told that it is back"


@pytest.mark.parametrize("moment", range(3))
def test_a_kill_at_any_moment_leaves_an_index_to_go_on_from(repo: Path, moment: int) -> None:
    program = (
        "import sys; from pathlib import Path; from infbox.watching.follower import Follower\n"
        "follower = Follower(name='shop', root=Path(sys.argv[1]), state_dir=Path(sys.argv[2]),"
        " max_file_bytes=10**6, poll_seconds=5)\n"
        "follower.start(); print('started', flush=True); follower.join()\n"
    )
    fill(repo, {f"d{n % 7}/{n}.py": f"{n}\n" for n in range(400)})
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(repo), str(repo.parent / "state")],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    ends = time.monotonic() + 0.15 + moment * 0.3
    turn = 0
    while time.monotonic() < ends:
        turn += 1
        fill(repo, {f"d{turn % 7}/{turn % 400}.py": f"again {turn}\n"})
    process.kill()
    process.wait()
    process.stdout.close()
    with contextlib.closing(sqlite3.connect(repo.parent / "state/index/shop.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with following(repo) as seen:
        seen.agrees()


# The index


def test_a_damaged_index_is_set_aside_and_built_anew(
    repo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(repo, {"a.py": "a\n"})
    file = repo.parent / "state/index/shop.db"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no database at all, but long enough to look at" * 100)
    with following(repo) as seen:
        seen.agrees()
        assert [file.path for file in seen.reader.edited_since(1)] == ["a.py"]
    assert "index-damaged" in caplog.text
    assert file.with_name("shop.db.damaged").read_bytes().startswith(b"no database")


def test_an_index_that_is_damaged_while_it_is_used_is_built_anew(
    repo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(repo, {f"{n}.py": f"{n}\n" for n in range(300)})
    with following(repo) as seen:
        seen.settles()
        last = seen.reader.last_edit()
        seen.follower._index.checkpoint()
        file = seen.follower.index_file
        with file.open("r+b") as stream:
            stream.seek(4096)
            stream.write(b"\xff" * (file.stat().st_size - 4096))
        fill(repo, {"0.py": "changed\n"})
        seen.follower.check_index()  # as who reads it does
        until(lambda: "index-damaged" in caplog.text)
        seen.agrees()
        assert seen.reader.last_edit() > last
        assert seen.follower.is_alive()


def test_an_index_that_is_removed_while_it_is_used_is_built_anew(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.watching.follower.RECONCILE_SECONDS", 0.2)
    fill(repo, {"a.py": "a\n"})
    with following(repo) as seen:
        for part in seen.follower.index_file.parent.iterdir():
            part.unlink()
        until(seen.follower.index_file.exists)
        fill(repo, {"b.py": "b\n"})
        seen.agrees()


def test_an_index_of_a_newer_version_is_refused(repo: Path) -> None:
    with following(repo):
        pass
    with contextlib.closing(sqlite3.connect(repo.parent / "state/index/shop.db")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match=r"shop\.db: a newer version .* remove the file"):
        started(repo)


def test_an_index_of_the_version_before_is_begun_anew(repo: Path) -> None:
    fill(repo, {"a.py": "a\n"})
    file = repo.parent / "state/index/shop.db"
    file.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.executescript(
            "CREATE TABLE files (path BLOB PRIMARY KEY, size INTEGER); PRAGMA user_version = 1;"
        )
    with following(repo) as seen:
        seen.agrees()


def test_a_reader_sees_only_what_may_enter_the_pack(repo: Path) -> None:
    fill(repo, {"a.py": "a\n", "b.py": "b\n"})
    (repo / "c.bin").write_bytes(b"\0\1")
    with following(repo) as seen:
        reader = seen.reader
        assert [file.path for file in reader.kept()] == ["a.py", "b.py"]
        assert reader.digests(["a.py", "c.bin", "none"]).keys() == {"a.py"}
        fill(repo, {"a.py": "a2\n"})
        until(lambda: reader.last_edit() == 1)
        assert [file.path for file in reader.edited_since(0)] == ["a.py"]
        assert reader.edited_since(1) == []
        (repo / "a.py").write_bytes(b"\0")
        until(lambda: [file.path for file in reader.kept()] == ["b.py"])


# What cannot be told, or not be read


def test_an_overflow_leads_to_a_look_at_everything(
    repo: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, {"a.py": "a\n", "d/one": "x\n"})
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    pausing, paused = threading.Event(), threading.Event()
    original = Follower._turn

    def turn(follower: Follower) -> None:
        if pausing.is_set():
            paused.set()
            until(lambda: not pausing.is_set(), 60)
        original(follower)

    monkeypatch.setattr(Follower, "_turn", turn)
    with following(repo) as seen:
        seen.settles()
        pausing.set()
        fill(repo, {"a.py": "wake up\n"})
        assert paused.wait(10)
        for _ in range(limit // 4 + 1):  # two events each, never the same twice in a row
            (repo / "d/one").rename(repo / "d/other")
            (repo / "d/other").rename(repo / "d/one")
        fill(repo, {"lost.py": "l\n", "new/lost.py": "l\n", "a.py": "lost\n"})
        pausing.clear()
        seen.agrees(30)
    assert seen.follower.overflows == 1
    assert "events-lost" in caplog.text


def test_a_root_that_comes_back_is_followed_again(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.watching.follower.RETRY_SECONDS", 0.1)
    fill(repo, {"a.py": "a\n", "d/b.py": "b\n"})
    with following(repo) as seen:
        repo.rename(repo.parent / "away")
        until(lambda: seen.follower.failure)
        fill(repo.parent / "away", {"meanwhile.py": "m\n"})
        assert set(seen.indexed()) == {"a.py", "d/b.py"}
        (repo.parent / "away").rename(repo)
        until(lambda: not seen.follower.failure)
        seen.agrees()
        fill(repo, {"d/c.py": "c\n"})
        seen.agrees()


def test_a_root_that_is_removed_and_made_again_is_followed_again(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.watching.follower.RETRY_SECONDS", 0.1)
    follows_a_root_made_again(repo)


def test_what_events_do_not_tell_is_found_in_time(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.watching.follower.RECONCILE_SECONDS", 0.2)
    monkeypatch.setattr("infbox.watching.inotify.Watch.events", lambda _watch: iter(()))
    fill(repo, {"a.py": "a\n", "b.txt": "b\n"})
    with following(repo) as seen:
        fill(repo, {".git/info/exclude": "*.txt\n", "a.py": "a2\n", "d/c.py": "c\n"})
        seen.agrees()


def test_a_file_that_changes_while_it_is_read_is_never_taken_in_half(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, {"a.py": "old\n"})
    with following(repo) as seen:
        seen.settles()
        before = seen.indexed()["a.py"]
        original, reads = os.fstat, []

        def changing(descriptor: int) -> os.stat_result:
            status = original(descriptor)
            if Path(f"/proc/self/fd/{descriptor}").readlink() == repo / "a.py":
                reads.append(descriptor)
                if len(reads) <= 12:  # between the two looks of a read: it always changed
                    os.write(writer, b"more\n")  # and nobody tells, since it stays open
            return status

        writer = os.open(repo / "a.py", os.O_WRONLY | os.O_APPEND)
        monkeypatch.setattr("infbox.tree.files.os.fstat", changing)
        with (repo / "a.py").open("w") as stream:
            stream.write("new\n")
        seen_digests = set()
        until(lambda: seen_digests.add(seen.indexed()["a.py"]) or len(reads) > 12)  # type: ignore[func-returns-value]
        seen.settles()
        final = seen.indexed()["a.py"]
        os.close(writer)
    assert final == fresh(repo)["a.py"]
    assert seen_digests <= {before, final}


WITHOUT_RIGHTS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from infbox import log
log.to_stderr()
from following import following
from serving import until
root = Path(sys.argv[1])
with following(root) as seen:
    def step(word, wanted, unreadable):
        until(lambda: set(seen.indexed()) == wanted, 20)
        until(lambda: seen.follower.unreadable_paths == unreadable, 20)
        print(word, flush=True); sys.stdin.readline()
    step("start", {"a.py"}, 2)
    step("folder may be read", {"a.py", "closed/b.py"}, 1)
    step("file may be read", {"a.py", "closed/b.py", "secret.py"}, 0)
    step("file may not be read again", {"a.py", "closed/b.py"}, 1)
"""
# Root without these two capabilities reads what its rights allow, as anybody does, and can
# still import whatever it comes to need: another user may not read root's own Python.
NO_BYPASS = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--")
NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")
def test_what_may_not_be_read_is_counted_and_tried_again(tmp_path: Path) -> None:
    root = fill(tmp_path / "repo", {"a.py": "a\n", "closed/b.py": "b\n", "secret.py": "s\n"})
    closed, secret = root / "closed", root / "secret.py"
    for path, mode in ((closed, 0o700), (secret, 0o600)):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(mode)
    process = subprocess.Popen(
        [
            *NO_BYPASS,
            sys.executable,
            "-c",
            WITHOUT_RIGHTS,
            str(root),
            str(Path(__file__).parents[1]),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    changes = {
        "start": lambda: closed.chmod(0o755),
        "folder may be read": lambda: secret.chmod(0o644),
        "file may be read": lambda: secret.chmod(0o600),
        "file may not be read again": lambda: None,
    }
    for step, change in changes.items():
        if process.stdout.readline().strip() != step:
            pytest.fail(f"did not come to {step!r}: {process.communicate(timeout=60)[1]}")
        change()
        process.stdin.write("\n")
        process.stdin.flush()
    _, log = process.communicate(timeout=20)
    assert log.count("path=secret.py") == 2, "logged once each time"
    assert log.count("path=closed ") == 1


AS_POOR = """
import sys
from pathlib import Path
Path("/proc/sys/user/max_inotify_watches").write_text("12")
sys.path.insert(0, sys.argv[2])
from infbox import log
log.to_stderr()
from following import following
from trees import fill
root = Path(sys.argv[1])
with following(root) as seen:
    seen.agrees()
    assert seen.follower.unwatched_directories >= 18, seen.follower.unwatched_directories
    assert seen.follower.polled_directories == seen.follower.unwatched_directories
    for n in (1, 15, 29):
        fill(root, {f"d{n}/a.py": "changed\\n", f"d{n}/new.py": "n\\n", f"d{n}/deep/er.py": "d\\n"})
        seen.agrees(20)
    (root / "d7/a.py").unlink()
    seen.agrees()
    Path("/proc/sys/user/max_inotify_watches").write_text("10000")
    from serving import until
    until(lambda: seen.follower.unwatched_directories == 0, 20)
print("done")
"""


def test_what_the_limit_of_watches_leaves_out_is_polled(repo: Path) -> None:
    fill(repo, {f"d{n}/a.py": f"{n}\n" for n in range(30)})
    command = [sys.executable, "-c", AS_POOR, str(repo), str(Path(__file__).parents[1])]
    allowed = subprocess.run(
        ["unshare", "--user", "--map-root-user", "true"], check=False, capture_output=True
    )
    if allowed.returncode:
        pytest.skip("no user namespaces here")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "done\n", done.stderr
    assert done.stderr.count("event=not-watched") == 1
    assert "fs.inotify.max_user_watches" in done.stderr


IN_A_MOUNT_NAMESPACE = """
import subprocess, sys, os
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from infbox import log
from infbox.watching import follower as follow
log.to_stderr()
follow.RETRY_SECONDS = 0.1
from following import following
from serving import until
from trees import fill
tmp = Path(sys.argv[1])
def mount(*arguments): subprocess.run(["mount", *arguments], check=True)
def unmount(place):  # not while a git is asked
    until(lambda: subprocess.run(["umount", str(place)], check=False).returncode == 0, 8)
"""

OVERLAY = """
lower = fill(tmp / "lower", {"a.py": "a\\n", "d/b.py": "b\\n"})
for name in ("upper", "work", "merged"): (tmp / name).mkdir()
layers = f"lowerdir={lower},upperdir={tmp}/upper,workdir={tmp}/work"
mount("-t", "overlay", "overlay", "-o", layers, str(tmp / "merged"))
with following(tmp / "merged") as seen:
    seen.agrees()
    assert seen.follower.polled_directories == 2, seen.follower.polled_directories
    # Only in a folder that is in one layer does the kernel itself show what was done behind it.
    fill(lower, {"d/behind.py": "its back\\n", "d/new/too.py": "t\\n", "d/b.py": "changed\\n"})
    until(lambda: set(seen.indexed()) == {"a.py", "d/b.py", "d/behind.py", "d/new/too.py"})
    fill(tmp / "merged", {"a.py": "through it\\n"})
    seen.agrees()
print("done")
"""

UNMOUNTED = """
root = tmp / "root"
root.mkdir()
mount("-t", "tmpfs", "tmpfs", str(root))
fill(root, {"a.py": "a\\n", "d/b.py": "b\\n"})
with following(root) as seen:
    seen.agrees()
    unmount(root)
    until(lambda: "mounted" in seen.follower.failure)
    assert set(seen.indexed()) == {"a.py", "d/b.py"}
with following(root) as seen:
    assert "mounted" in seen.follower.failure, "after a restart too"
    assert set(seen.indexed()) == {"a.py", "d/b.py"}
    mount("-t", "tmpfs", "tmpfs", str(root))
    fill(root, {"a.py": "a\\n", "d/c.py": "c\\n"})
    seen.agrees()
    until(lambda: not seen.follower.failure)
    fill(root, {"d/e.py": "e\\n"})
    seen.agrees()
print("done")
"""

MOUNTED_INSIDE = """
root = fill(tmp / "root", {"a.py": "a\\n", "d/hidden.py": "h\\n", "d/deep/er.py": "e\\n"})
with following(root) as seen:
    seen.agrees()
    mount("-t", "tmpfs", "tmpfs", str(root / "d"))
    seen.agrees()
    fill(root, {"d/inside.py": "i\\n", "d/new/too.py": "t\\n"})
    seen.agrees()
    unmount(root / "d")
    seen.agrees()
    fill(root, {"d/deep/later.py": "l\\n"})
    seen.agrees()
print("done")
"""

FULL_DISK = """
state = tmp / "state"
state.mkdir()
mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(state))
root = fill(tmp / "root", {"a.py": "a\\n", "d/b.py": "b\\n"})
with following(root) as seen:
    seen.agrees()
    before = seen.indexed()
    with open(state / "filler", "wb", buffering=0) as filler:
        try:
            while True: filler.write(bytes(4096))
        except OSError:
            pass
    many = {f"many/{n}.py": f"{n}\\n" for n in range(3000)}
    fill(root, {"a.py": "saved while it was full\\n", **many})
    until(lambda: "full" in seen.follower.failure)
    assert before.keys() <= seen.indexed().keys(), "what was known is gone"
    (state / "filler").unlink()
    seen.agrees(100)
    until(lambda: not seen.follower.failure)
    fill(root, {"d/later.py": "l\\n"})
    seen.agrees()
print("done")
"""


@pytest.mark.parametrize("scenario", ["OVERLAY", "UNMOUNTED", "MOUNTED_INSIDE", "FULL_DISK"])
def test_mounts_that_come_and_go(tmp_path: Path, scenario: str) -> None:
    unshare = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    program = IN_A_MOUNT_NAMESPACE + globals()[scenario]
    done = subprocess.run(
        [*unshare, sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parents[1])],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout == "done\n", done.stderr


# When the pack is told


def test_changes_carry_the_time_of_their_first_save() -> None:
    changes = Changes()
    changes.mark(None)
    changes.mark(5.0)
    changes.mark(6.0)
    assert changes.wait() == (5.0,)
    changes.close()
    assert changes.wait() is None


# Many that go at once


def test_a_save_goes_before_what_was_removed_before_it(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, {"keep.py": "k\n", **{f"big/d{n}/f.py": f"{n}\n" for n in range(300)}})
    looked: list[list[str]] = []
    is_blocked, may_go_on = threading.Event(), threading.Event()
    look = TreeReader.read

    def looking(reader: TreeReader, paths: Iterable[str], is_judged: bool = False) -> None:
        if "first.py" in (told := list(paths)):
            is_blocked.set()
            may_go_on.wait(20)
        looked.append(told)
        look(reader, told, is_judged)

    with following(repo) as seen:
        seen.settles()
        monkeypatch.setattr(TreeReader, "read", looking)
        fill(repo, {"first.py": "it is being read\n"})
        assert is_blocked.wait(10)
        shutil.rmtree(repo / "big")
        fill(repo, {"keep.py": "saved\n"})
        looked.clear()
        may_go_on.set()
        seen.agrees()
        assert "keep.py" in looked[1], "the first after what was under way"
        assert not seen.follower._index.directory_paths("big")


def test_a_folder_with_many_files_that_is_moved_out_is_forgotten_in_small_steps(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, {"keep.py": "k\n", **{f"big/f{n}.py": f"{n}\n" for n in range(600)}})
    gone: list[int] = []
    write = TreeReader.write

    def writing(reader: TreeReader, rows: dict[str, Any], left: list[str]) -> None:
        gone.append(len(left))
        write(reader, rows, left)

    with following(repo) as seen:
        seen.settles()
        monkeypatch.setattr(TreeReader, "write", writing)
        (repo / "big").rename(repo.parent / "out")
        seen.agrees()
        assert sum(gone) == 600
        assert max(gone) <= 256


class OneByOne(dict[str, int]):
    """What can be looked up, and not looked through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("all of it is looked through")


def test_to_drop_a_folder_looks_at_nothing_beside_it(tmp_path: Path) -> None:
    watch = Watch()
    try:
        folders = [tmp_path / f"d{n}/e" for n in range(3)]
        for folder in folders:
            folder.mkdir(parents=True)
            for each in (folder.parent, folder):
                assert watch.add(str(each))
        watch._watches = OneByOne(watch._watches)
        watch.drop(str(tmp_path / "d1"))
        assert [str(each) in watch for each in folders] == [True, False, True]
        assert len(watch) == 4
        shutil.rmtree(folders[0])
        until(lambda: list(watch.events()) and str(folders[0]) not in watch)
        watch.drop(str(tmp_path))
        assert len(watch) == 0
        assert not watch._below
    finally:
        watch.close()


@given(st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from("ab"), max_size=4))))
def test_what_is_watched_below_a_folder_is_known(steps: list[tuple[bool, list[str]]]) -> None:
    """Against a look through all, whatever is added and dropped in whatever order."""
    watch, watched, numbers = Watch(), set[str](), itertools.count(1)
    real, watch._libc = (
        watch._libc,
        SimpleNamespace(inotify_add_watch=lambda *_: next(numbers), inotify_rm_watch=lambda *_: 0),
    )
    try:
        for is_added, parts in steps:
            folder = "/" + "/".join(["root", *parts])
            if is_added:
                watch.add(folder)
                watched.add(folder)
            else:
                watch.drop(folder)
                watched -= {w for w in watched if w == folder or w.startswith(f"{folder}/")}
            assert set(watch._watches) == watched
        watch.drop("/root")
        assert not watch._below
    finally:
        watch._libc = real
        watch.close()
