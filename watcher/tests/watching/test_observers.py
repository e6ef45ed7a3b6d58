"""Following a tree by what watchdog tells, where there is no inotify of our own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from watchdog.observers.inotify import InotifyObserver
from watchdog.observers.polling import PollingObserver

from following import following, follows_a_root_made_again
from infbox.watching import observers
from serving import until
from trees import fill, git

KINDS = {"inotify": InotifyObserver, "polling": lambda: PollingObserver(timeout=0.1)}


@pytest.fixture(params=KINDS, autouse=True)
def _told_by_watchdog(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    make = KINDS[request.param]
    monkeypatch.setattr("infbox.watching.system.watch", lambda: observers.Watch(make))


@pytest.fixture
def _never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing found but by what is told."""
    monkeypatch.setattr(observers.Watch, "net_seconds", 3600)


@pytest.mark.usefixtures("_never_looks")
def test_whatever_happens_to_a_tree_is_told(repo: Path) -> None:
    fill(repo, {"a.py": "a\n", "d/b.py": "b\n", "d/e/c.py": "c\n", ".gitignore": "build\n"})
    git(repo, "add", ".")
    with following(repo) as seen:
        fill(repo, {"a.py": "a2\n", "d/new.py": "n\n", "f/g/h.py": "h\n", "build/x.py": "x\n"})
        seen.agrees()
        (repo / "d").rename(repo / "moved")
        seen.agrees()
        fill(repo, {"moved/e/c.py": "c2\n"})
        (repo / "a.py").rename(repo / "b.py")
        seen.agrees()
        shutil.rmtree(repo / "f")
        git(repo, "rm", "--cached", "--quiet", "-r", "d")
        fill(repo, {".gitignore": "build\nmoved/new.py\n"})
        seen.agrees()
        fill(repo, {".git/info/exclude": "b.py\n"})
        seen.agrees()


@pytest.mark.usefixtures("_never_looks")
def test_a_directory_that_git_ignores_is_not_told_of(repo: Path) -> None:
    fill(repo, {"a.py": "a\n", "build/x.py": "x\n", ".gitignore": "build\n"})
    with following(repo) as seen:
        seen.settles()
        before = seen.follower.events
        for number in range(20):
            fill(repo, {f"build/{number}.py": "x\n", f"build/deep/{number}.py": "x\n"})
        fill(repo, {"a.py": "saved\n"})
        seen.agrees()
        assert seen.follower.events - before < 10, "those of the one file that was saved"


def test_more_than_is_kept_has_the_whole_tree_looked_at(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers, "_MOST", 3)
    fill(repo, {f"{number}.py": "a\n" for number in range(40)})
    with following(repo) as seen:
        fill(repo, {f"{number}.py": f"{number}\n" for number in range(40)})
        seen.agrees()
        until(lambda: seen.follower.overflows)


def test_a_root_that_is_removed_and_made_again_is_followed_again(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.watching.follower.RETRY_SECONDS", 0.1)
    follows_a_root_made_again(repo)


@pytest.mark.usefixtures("_never_looks")
def test_what_decides_outside_the_tree_is_looked_at(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's own ignore rules, and those above a directory of a repository."""
    fill(tmp_path, {"home/.gitconfig": "[core]\n\texcludesFile = ~/mine\n", "home/mine": ""})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    fill(repo, {"part/a.py": "a\n", "part/b.py": "b\n", "part/c.py": "c\n"})
    with following(repo / "part") as seen:
        seen.settles()
        assert seen.indexed().keys() == {"a.py", "b.py", "c.py"}
        fill(tmp_path, {"home/mine": "b.py\n"})
        until(lambda: seen.indexed().keys() == {"a.py", "c.py"})
        fill(repo, {".gitignore": "c.py\n"})
        until(lambda: seen.indexed().keys() == {"a.py"})
