"""The watcher at work: real inotify, real files, a fake engine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fake_engine import FakeEngine
from infbox.files import Tree
from infbox.service import Service
from infbox.watch import LONGEST_SECONDS, QUIET_SECONDS, Batch, Watch
from serving import get_json, get_text, serving, settings_for, until
from trees import fill, git


class Running:
    """A service that watches one tree."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url

    @property
    def status(self) -> dict[str, Any]:
        value: dict[str, Any] = get_json(f"{self.url}/status")["workspaces"]["shop"]
        return value

    @property
    def pack(self) -> dict[str, Any]:
        file = self.root.parent / "state" / "packs" / "shop" / "pack.json"
        value: dict[str, Any] = json.loads(file.read_text())
        return value

    def indexed(self) -> set[str]:
        """The files that the index on disk says may enter the pack."""
        index = self.root.parent / "state" / "index" / "shop.db"
        with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT path FROM files WHERE refused IS NULL").fetchall()
        return {os.fsdecode(path) for (path,) in rows}

    def agrees(self) -> None:
        """Wait until the index is what a fresh scan says."""
        tree = Tree(self.root)
        until(lambda: self.indexed() == {p for p in tree.scan() if tree.readable(p)})


@contextlib.contextmanager
def watching(
    root: Path, engine: str = "http://127.0.0.1:1", budget: int = 20_000
) -> Iterator[Running]:
    service = Service(settings_for(root.parent, engine, shop=(root, budget)))
    with serving(service.app) as url:
        running = Running(root, url)
        until(lambda: running.status["version"] > 0)
        yield running


def save_in_place(file: Path, text: str) -> None:
    file.write_text(text)


def save_as_vim(file: Path, text: str) -> None:
    """With its default backup: the old file moved away, a new one written, the old one removed."""
    backup = file.with_name(file.name + "~")
    file.rename(backup)
    file.write_text(text)
    backup.unlink()


def save_by_rename(file: Path, text: str) -> None:
    """As JetBrains' safe write, emacs and many others: written beside, moved over."""
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


SAVES = [save_in_place, save_as_vim, save_by_rename, save_by_exchange, save_by_link]


@pytest.mark.parametrize("save", SAVES, ids=lambda save: save.__name__)
def test_a_save_reaches_the_pack(repo: Path, save: Callable[[Path, str], None]) -> None:
    fill(repo, {"a.py": "first\n", "b.py": "b\n"})
    with watching(repo) as running:
        save(repo / "a.py", "second\n")
        until(lambda: running.pack["text"].endswith("## a.py (changed)\n```\nsecond\n```\n"))
        running.agrees()
        status = running.status
    assert status["last_save"] == pytest.approx(time.time(), abs=5)
    assert status["save_to_indexed_seconds"] < 2


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


def moved_file_out(root: Path) -> None:
    (root / "old/x.py").rename(root.parent / "x.py")


def removed(root: Path) -> None:
    shutil.rmtree(root / "old")


def checked_out(root: Path) -> None:
    git(root, "checkout", "--quiet", "other")


def became_ignored(root: Path) -> None:
    fill(root, {".gitignore": "old/\n"})


def cloned_inside(root: Path) -> None:
    git(root, "clone", "--quiet", ".", "inner")


def file_became_folder(root: Path) -> None:
    (root / "old/x.py").unlink()
    fill(root, {"old/x.py/inside.py": "x\n"})


def link_took_its_place(root: Path) -> None:
    (root / "old/x.py").unlink()
    (root / "old/x.py").symlink_to("/etc/hostname")


CHANGES = [
    *(made_at_once, moved_in, moved_out, moved_within, moved_file_out, removed, checked_out),
    *(became_ignored, cloned_inside, file_became_folder, link_took_its_place),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_after_any_change_the_index_is_what_a_fresh_scan_says(
    repo: Path, change: Callable[[Path], None]
) -> None:
    fill(repo, {"a.py": "a\n", "old/x.py": "x\n", "old/deep/y.py": "y\n"})
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "one")
    git(repo, "checkout", "--quiet", "-b", "other")
    fill(repo, {f"many/{n}.py": f"{n}\n" for n in range(300)})
    git(repo, "rm", "--quiet", "-r", "old")
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "two")
    git(repo, "checkout", "--quiet", "-")
    with watching(repo) as running:
        change(repo)
        running.agrees()
        fill(repo, {"later.py": "later\n"})
        until(lambda: "later.py" in running.indexed())
        for turn in range(2):  # the first may make the folder, the second needs its watch
            fill(repo, {f"old/{turn}.py": "later\n"})
            running.agrees()


def test_a_link_that_took_a_file_s_place_shows_nothing_of_its_target(
    repo: Path, tmp_path: Path
) -> None:
    fill(tmp_path, {"outside.txt": "not for the model\n"})
    fill(repo, {"a.py": "a\n", "b.py": "b\n"})
    with watching(repo) as running:
        (repo / "a.py").unlink()
        (repo / "a.py").symlink_to(tmp_path / "outside.txt")
        until(lambda: "## a.py (removed)" in running.pack["text"])
        assert "not for the model" not in running.pack["text"]


def test_an_overflow_asks_for_the_whole_tree(tmp_path: Path) -> None:
    touched: list[str | None] = []
    watch = Watch(tmp_path, touched.append)
    watch.add("")
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    one, other = tmp_path / "one", tmp_path / "other"
    one.touch()
    for _ in range(limit // 4 + 1):  # two events each, never the same twice in a row
        one.rename(other)
        other.rename(one)
    watch.take_events()
    watch.close()
    assert None in touched


def test_a_root_that_comes_back_is_followed_again(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.service._RETRY_SECONDS", 0.1)
    fill(repo, {"a.py": "a\n"})
    with watching(repo) as running:
        repo.rename(repo.parent / "away")
        until(lambda: running.status["error"])
        assert running.status["files"] == 1
        (repo.parent / "away").rename(repo)
        until(lambda: not running.status["error"])
        fill(repo, {"b.py": "b\n"})
        until(lambda: "b.py" in running.indexed())


def test_what_events_do_not_tell_is_found_in_time(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.service.RECONCILE_SECONDS", 0.2)
    fill(repo, {"a.py": "a\n", "b.txt": "b\n"})
    with watching(repo) as running:
        fill(repo, {".git/info/exclude": "*.txt\n"})  # nobody watches the repository itself
        until(lambda: running.indexed() == {"a.py"})


def test_a_batch_waits_for_quiet_but_not_for_ever() -> None:
    batch = Batch()
    batch.add("a", now=100.0)
    assert batch.due() == pytest.approx(100.0 + QUIET_SECONDS)
    for tick in range(1, 100):
        batch.add("a", now=100.0 + tick * 0.01)
    assert batch.due() == pytest.approx(100.0 + LONGEST_SECONDS)


def test_a_burst_of_saves_is_one_version(repo: Path) -> None:
    fill(repo, {"a.py": "a\n"})
    with watching(repo) as running:
        before = running.pack["version"]
        for n in range(10):
            fill(repo, {f"f{n}.py": f"{n}\n"})
        until(lambda: len(running.indexed()) == 11)
        until(lambda: "## f9.py" in running.pack["text"])
        assert running.pack["version"] <= before + 2


def test_a_save_is_warm_soon_after(repo: Path) -> None:
    fill(repo, {"a.py": "a\n"})
    with FakeEngine().running() as engine, watching(repo, engine.url) as running:
        until(lambda: running.status["warm"])
        fill(repo, {"a.py": "b\n"})
        until(lambda: running.status["version"] == 2 and running.status["warm"])
        status = running.status
        metrics = get_text(f"{running.url}/metrics")
    assert status["warm_version"] == 2
    assert status["cached_tokens"] == status["prompt_tokens"] > 0
    assert 0 < status["save_to_warm_seconds"] < 5
    assert 'infbox_pack_warm{workspace="shop"} 1.0' in metrics
    assert 'infbox_save_to_warm_seconds_count{workspace="shop"} 1.0' in metrics


def test_two_workspaces_do_not_mix(repo: Path, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", {"o.py": "o\n"})
    fill(repo, {"a.py": "a\n"})
    config = settings_for(tmp_path, "http://127.0.0.1:1", shop=(repo, 5000), other=(other, 5000))
    with serving(Service(config).app) as url:
        until(lambda: all(w["version"] for w in get_json(f"{url}/status")["workspaces"].values()))
        fill(other, {"p.py": "p\n"})
        until(lambda: get_json(f"{url}/status")["workspaces"]["other"]["version"] == 2)
        assert get_json(f"{url}/status")["workspaces"]["shop"]["version"] == 1


def test_it_tells_systemd_and_ends_soon_when_asked(repo: Path, tmp_path: Path) -> None:
    fill(repo, {"a.py": "a\n"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(20)
        config = {
            "state_dir": str(tmp_path / "state"),
            "engine": {"url": "http://127.0.0.1:1", "model": "coder", "max_model_len": 9000},
            "watcher": {"listen": f"127.0.0.1:{free_port()}"},
            "workspaces": [{"name": "shop", "path": str(repo), "budget": 5000}],
        }
        (tmp_path / "watcher.yml").write_text(yaml.safe_dump(config))
        variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        command = [sys.executable, "-c", "from infbox.cli import watch; raise SystemExit(watch())"]
        process = subprocess.Popen(
            [*command, "run", "--config", str(tmp_path / "watcher.yml")],
            env={**os.environ, **variables},
            stderr=subprocess.PIPE,
        )
        assert heard.recv(100) == b"READY=1"
        assert heard.recv(100) == b"WATCHDOG=1"
        assert heard.recv(100) == b"WATCHDOG=1"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
        assert time.monotonic() - began < 2
    assert process.returncode in (0, -signal.SIGTERM)
    assert b"event=ready" in log
    assert b"Traceback" not in log


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
