"""Trees that give no answer: a file system that hangs, and pipes where git reads files."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_service import at_work

from hanging_fs import HangingFileSystem, hanging_file_system
from infbox.config import check_paths
from infbox.packing.packer import Packer
from infbox.tree.files import Tree
from infbox.tree.rules import IGNORE_FILE
from infbox.watcher.monitor import NO_ANSWER
from infbox.watcher.service import Service
from infbox.watching.follower import Follower
from serving import get_json, get_text, settings_for, until
from trees import fill, git


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return fill(tmp_path / "shop", {"a.py": "a\n"})


@pytest.fixture
def away(tmp_path: Path) -> Iterator[HangingFileSystem]:
    """A repository on a file system that can be made to hang."""
    behind = fill(tmp_path / "behind", {"b.py": "b\n", "d/c.py": "c\n"})
    git(behind, "init", "--quiet")
    with hanging_file_system(behind, tmp_path / "away") as mounted:
        if mounted is None:
            pytest.skip("no file system may be mounted here")
        yield mounted
        mounted.answer()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infbox.watching.follower.HUNG_SECONDS", 0.3)
    monkeypatch.setattr("infbox.watching.follower._GIT_SECONDS", 0.3)
    monkeypatch.setattr("infbox.watching.follower.RETRY_SECONDS", 0.1)
    monkeypatch.setattr("infbox.config._LOOK_SECONDS", 0.3)


def of_workspaces(url: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = get_json(f"{url}/status")["workspaces"]
    return found


def goes_on(url: str, root: Path, name: str = "shop") -> None:
    """See that a save in a tree is published."""
    before = of_workspaces(url)[name]["version"]
    fill(root, {"a.py": f"after version {before}\n"})
    until(lambda: of_workspaces(url)[name]["version"] > before)


@pytest.mark.usefixtures("impatient")
def test_a_tree_that_hangs_from_the_start_holds_up_no_other_and_comes_by_itself(
    shop: Path, away: HangingFileSystem, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings_for(
        tmp_path, "http://127.0.0.1:1", shop=(shop, 5000), away=(away.place, 5000)
    )
    caplog.set_level(logging.INFO)
    away.hang()
    check_paths(config)
    with at_work(config, 0.1) as url:
        until(lambda: get_json(f"{url}/status")["ready"])
        until(lambda: of_workspaces(url)["shop"]["version"])
        until(lambda: of_workspaces(url)["away"]["unhealthy_since"])
        assert of_workspaces(url)["away"]["error"] == NO_ANSWER
        assert of_workspaces(url)["shop"]["unhealthy_since"] is None
        metrics = get_text(f"{url}/metrics")
        assert 'infbox_workspace_readable{workspace="away"} 0.0' in metrics
        since = 'infbox_workspace_unhealthy_since_timestamp_seconds{workspace="%s"}'
        assert f"{since % 'away'} 0.0" not in metrics
        assert f"{since % 'shop'} 0.0" in metrics
        goes_on(url, shop)
        assert caplog.text.count("no-answer workspace=away") == 1
        away.answer()
        until(lambda: of_workspaces(url)["away"]["version"], 20)
        until(lambda: of_workspaces(url)["away"]["error"] is None)
        assert of_workspaces(url)["away"]["files"] == 2
        assert of_workspaces(url)["away"]["unhealthy_since"] is None
        assert "answers-again workspace=away" in caplog.text


@pytest.mark.usefixtures("impatient")
def test_a_tree_that_comes_to_hang_takes_no_sign_of_life_from_the_service(
    shop: Path, away: HangingFileSystem, tmp_path: Path
) -> None:
    config = settings_for(
        tmp_path, "http://127.0.0.1:1", shop=(shop, 5000), away=(away.place, 5000)
    )
    service = Service(config._replace(watcher=config.watcher._replace(poll_seconds=0.1)))
    service.start(10)
    try:
        of_away = service.followers[1]
        until(lambda: of_away.scanned.is_set() and not of_away.failure)
        away.hang()
        # By its next poll, in which the thread itself stands still.
        until(lambda: of_away.hangs_since() == of_away._turned_at is not None)
        service.beat()
        until(service.have_heard)
        assert of_away.sentinel_seen < (service._beat_at or 0.0), "it cannot have heard"
        away.answer()
        until(lambda: of_away.hangs_since() is None)
        service.beat()
        until(service.have_heard)
    finally:
        away.answer()
        service.stop()


PIPES = {
    "an ignore file": ".gitignore",
    "the repository's configuration": ".git/config",
    "its own ignore file": ".git/info/exclude",
    "its index": ".git/index",
    "ours": IGNORE_FILE,
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("place", PIPES.values(), ids=PIPES.keys())
def test_a_pipe_where_a_file_is_read_holds_up_no_other(
    shop: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.tree.git.run.__kwdefaults__", {**limits(), "limit_seconds": 1.0})
    monkeypatch.setattr("infbox.tree.git._CHECK_SECONDS", 1.0)
    piped = fill(tmp_path / "piped", {"p.py": "p\n"})
    git(piped, "init", "--quiet")
    (piped / place).unlink(missing_ok=True)
    os.mkfifo(piped / place)
    trees = {"shop": (shop, 5000), "piped": (piped, 5000)}
    with at_work(settings_for(tmp_path, "http://127.0.0.1:1", **trees), 0.1) as url:
        until(lambda: get_json(f"{url}/status")["ready"])
        until(lambda: of_workspaces(url)["shop"]["version"])
        if place != IGNORE_FILE:
            until(lambda: of_workspaces(url)["piped"]["error"])
        goes_on(url, shop)
        (piped / place).unlink()
        if place == ".git/config":
            git(piped, "init", "--quiet")
        until(lambda: of_workspaces(url)["piped"]["version"], 20)
        until(lambda: of_workspaces(url)["piped"]["error"] is None)


def limits() -> dict[str, Any]:
    from infbox.tree.git import run  # noqa: PLC0415

    return dict(run.__kwdefaults__ or {})


@pytest.mark.usefixtures("impatient")
def test_what_no_one_thought_of_ends_no_follower(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = threading.Event()
    failing.set()
    original = Tree.fetch

    def fetch(tree: Tree, *arguments: Any) -> Any:
        if failing.is_set() and tree.root.name == "other":
            raise RecursionError("as deep as it goes")
        return original(tree, *arguments)

    monkeypatch.setattr(Tree, "fetch", fetch)
    other = fill(tmp_path / "other", {"o.py": "o\n"})
    trees = {"shop": (shop, 5000), "other": (other, 5000)}
    with at_work(settings_for(tmp_path, "http://127.0.0.1:1", **trees), 0.1) as url:
        until(lambda: "RecursionError" in (of_workspaces(url)["other"]["error"] or ""))
        assert get_json(f"{url}/status")["alive"]
        goes_on(url, shop)
        failing.clear()
        until(lambda: of_workspaces(url)["other"]["error"] is None)
        until(lambda: of_workspaces(url)["other"]["files"] == 1)
    assert caplog.text.count("not-readable workspace=other") == 1, "told once"


@pytest.mark.usefixtures("impatient")
def test_what_no_one_thought_of_ends_no_packer(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.watcher.worker._RETRY_SECONDS", 0.1)
    failing = threading.Event()
    failing.set()
    original = Packer.update

    def update(packer: Packer) -> bool:
        if failing.is_set() and packer.name == "other":
            raise UnicodeError("a name that is no text")
        return original(packer)

    monkeypatch.setattr(Packer, "update", update)
    other = fill(tmp_path / "other", {"o.py": "o\n"})
    trees = {"shop": (shop, 5000), "other": (other, 5000)}
    with at_work(settings_for(tmp_path, "http://127.0.0.1:1", **trees), 0.1) as url:
        until(lambda: "UnicodeError" in (of_workspaces(url)["other"]["error"] or ""))
        assert of_workspaces(url)["other"]["unhealthy_since"]
        until(lambda: of_workspaces(url)["shop"]["version"])
        assert get_json(f"{url}/status")["alive"]
        failing.clear()
        until(lambda: of_workspaces(url)["other"]["version"])
        assert of_workspaces(url)["other"]["unhealthy_since"] is None


def test_a_failing_git_is_tried_less_and_less_often(tmp_path: Path) -> None:
    from infbox.errors import GitError  # noqa: PLC0415

    follower = Follower(
        name="shop", root=tmp_path, state_dir=tmp_path, max_file_bytes=1, poll_seconds=1
    )
    pauses = [follower._pause(GitError("it hangs")) for _ in range(9)]
    assert pauses[:3] == [5.0, 10.0, 20.0]
    assert pauses[-1] == 300.0
    assert follower._pause(FileNotFoundError()) == 5.0, "what is mounted late is seen soon"


def test_an_ignore_file_of_any_size_is_refused_by_name(shop: Path) -> None:
    from infbox.errors import InputError  # noqa: PLC0415

    with (shop / IGNORE_FILE).open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(InputError, match="shorten it"):
        _ = Tree(shop).rules
