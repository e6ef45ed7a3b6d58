"""The watcher at work: real inotify, real files, a fake engine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from tokenizers import Tokenizer, models

from conversing import Talk, text_of
from fake_engine import FakeEngine
from forge import forge
from gateway_stack import Stack
from infbox.config import Remote, Replicas, check_paths
from infbox.errors import InputError
from infbox.gateway.app import Gateway
from infbox.gateway.conversations import retrieving
from infbox.remotes.checkout import Checkout
from infbox.retrieval.kept import FAILURES, KeptTexts
from infbox.watcher.link import Link
from infbox.watcher.monitor import Attendant
from infbox.watcher.service import Service
from infbox.watcher.worker import Work
from secret_corpus import Maker
from serving import free_port, get_json, get_text, serving, settings_for, until
from stub_balancer import StubHomes
from trees import fill

if TYPE_CHECKING:
    from starlette.requests import Request

    from infbox.config import Config


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

    def texts(self) -> set[str]:
        """The files that the text index has; none as long as there is none."""
        state = self.root.parent / "state"
        with contextlib.closing(KeptTexts(state, "shop")) as kept, contextlib.suppress(*FAILURES):
            return set(kept.texts().digests())
        return set()


@contextlib.contextmanager
def at_work(config: Config, patience: float = 10) -> Iterator[str]:
    """A service in a thread and its work beside it, joined as they are in two processes."""
    ends = socket.socketpair()
    ours, theirs = (Link(Connection(os.dup(end.fileno()))) for end in ends)
    service = Service(config)
    service.start(patience)
    attending = threading.Thread(target=attended, args=(service, ours), daemon=True)
    attending.start()
    try:
        with serving(Work(config, theirs, lambda: None).pages()) as url:
            yield url
    finally:
        for end in ends:
            end.shutdown(socket.SHUT_RDWR)  # which wakes those who wait
            end.close()
        attending.join()
        service.stop()


def attended(service: Service, link: Link) -> None:
    with contextlib.suppress(EOFError):
        Attendant(service, link).run()


@contextlib.contextmanager
def watching(
    root: Path, engine: str = "http://127.0.0.1:1", budget: int = 20_000
) -> Iterator[Running]:
    with at_work(settings_for(root.parent, engine, shop=(root, budget))) as url:
        running = Running(root, url)
        until(lambda: running.status["version"] > 0)
        yield running


def test_what_another_host_answers_for_is_packed_and_not_warmed(repo: Path) -> None:
    fill(repo, {"a.py": "first\n"})
    stub = StubHomes()
    stub.homes = {"shop": "there"}
    with FakeEngine().running() as engine, serving(stub.app()) as balancer:
        config = settings_for(repo.parent, engine.url, shop=(repo, 20_000))
        config = config._replace(replicas=Replicas(balancer, "here"))
        with at_work(config) as url:
            running = Running(repo, url)
            until(lambda: running.status["version"] > 0 and running.status["elsewhere"])
            assert "first" in running.pack["text"]
            assert engine.warm_ups == []
            stub.homes = {"shop": "here"}
            until(lambda: running.status["warm"], 20)
            assert running.status["elsewhere"] is False


def test_what_is_found_for_a_question_follows_saves_and_what_is_ignored(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieving, "SECONDS", 30.0)
    lines = "".join(f"line_{n} = {n}\n" for n in range(200))
    fill(repo, {"a.py": "first = 1\n", "large.py": f"def far_away():\n    return 7\n{lines}"})
    with FakeEngine().running() as engine, watching(repo, engine.url, budget=600) as running:
        config = settings_for(repo.parent, engine.url, shop=(repo, 600))
        with serving(Gateway(config).app) as url:
            talk = Talk(Stack(engine, url))
            until(lambda: "large.py" in running.texts())
            talk.ask("What does far_away return?")
            assert "return 7" not in running.pack["text"]
            assert "return 7" in text_of(talk.prompt[-1])
            fill(repo, {".gitignore": "large.py\n"})
            until(lambda: "large.py" not in running.indexed())
            talk.ask("And what does far_away return now?")
            assert "return 7" not in str(talk.prompt)


def test_a_text_index_that_cannot_be_kept_is_told(repo: Path) -> None:
    fill(repo, {"a.py": "first = 1\n"})
    (repo.parent / "state/index/shop.text.db").mkdir(parents=True)
    with watching(repo) as running:
        until(lambda: running.status["text_index_error"])
        assert not running.status["error"]
        failing = 'infbox_text_index_failing{workspace="shop"} 1.0'
        until(lambda: failing in get_text(f"{running.url}/metrics"))


def test_the_text_index_follows_saves_and_what_is_ignored(repo: Path) -> None:
    fill(repo, {"a.py": "first = 1\n"})
    with watching(repo) as running:
        until(lambda: running.texts() == running.indexed() != set())
        fill(repo, {"b.py": "second = 2\n"})
        until(lambda: "b.py" in running.texts())
        fill(repo, {".infboxignore": "b.py\n"})
        until(lambda: "b.py" not in running.texts())
        assert "a.py" in running.texts()


def test_the_last_save_is_one_that_is_published(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.runtime.background.QUIET_SECONDS", 1.0)
    monkeypatch.setattr("infbox.runtime.background.LONGEST_SECONDS", 1.0)
    fill(repo, {"a.py": "first\n"})
    with watching(repo) as running:
        version, began = running.status["version"], time.time()
        fill(repo, {"a.py": "second\n"})
        until(lambda: running.status["save_to_indexed_seconds"] is not None)
        status = running.status
        assert (status["version"], status["last_save"]) == (version, None), "indexed, not published"
        until(lambda: (running.status["last_save"] or 0.0) >= began)
        assert running.status["version"] == version + 1


def test_where_users_are_restricted_a_pack_is_warmed_under_the_salt_that_questions_have(
    repo: Path,
) -> None:
    fill(repo, {"a.py": "a\n"})
    with FakeEngine().running() as engine:
        config = settings_for(repo.parent, engine.url, shop=(repo, 20_000))
        config = config._replace(gateway=config.gateway._replace(restricts_workspaces=True))
        with at_work(config) as url:
            running = Running(repo, url)
            until(lambda: running.status["warm"], 20)
    salts = {seen.chat.get("cache_salt") for seen in engine.warm_ups}
    assert salts == {config.cache_salts(config.workspaces[0])[0]} != {""}


@pytest.mark.parametrize("where", [".gitignore", ".infboxignore", "saved with a secret"])
def test_what_must_not_be_shown_any_more_is_erased_from_pack_state_and_cache(
    repo: Path, where: str
) -> None:
    text = "".join(f"only here {n}\n" for n in range(200))
    fill(repo, {"a.py": "a\n", "b.py": text})
    with FakeEngine().running() as engine:
        config = settings_for(repo.parent, engine.url, shop=(repo, 20_000))
        config = config._replace(engine=config.engine._replace(lmcache=engine.url))
        with at_work(config) as url:
            running = Running(repo, url)
            until(lambda: running.status["version"] > 0 and running.status["warm"], 20)
            assert "only here" in running.pack["text"]
            assert not engine.dropped
            token = "ghp_" + Maker("service").alnum(36)
            secret = {"b.py": f"x = '{token}'\n"}
            fill(repo, secret if where.startswith("saved") else {where: "b.py\n"})
            until(lambda: "only here" not in running.pack["text"], 20)
            assert "## b.py" not in running.pack["text"]
            assert [path for path, _ in running.pack["withdrawn"]] == ["b.py"]
            until(lambda: {"l1", "fs_native", "resp"} <= engine.dropped.keys(), 20)
            state = repo.parent / "state"
            until(lambda: not holding(state, b"only here"), 20)


def holding(folder: Path, text: bytes) -> list[str]:
    """Return the files that hold a text, in their bytes."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file.name for file in files if text in file.read_bytes()]


def test_a_save_becomes_the_end_of_the_pack(repo: Path) -> None:
    fill(repo, {"a.py": "first\n", "b.py": "b\n"})
    with watching(repo) as running:
        fill(repo, {"a.py": "second\n"})
        until(lambda: "second" in running.pack["text"])
        assert running.pack["text"].index("second") > running.pack["text"].index("## b.py")
        until(lambda: running.status["version"] == running.pack["version"])
        status = running.status
    assert status["last_save"] == pytest.approx(time.time(), abs=30)
    assert status["save_to_indexed_seconds"] < 10
    assert status["unwatched_directories"] == status["polled_directories"] == 0
    assert (
        sum(status["sections"][part] for part in ("intro", "map", "base", "tail"))
        == (status["tokens"])
    )


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


def test_a_root_that_is_gone_leaves_what_was_published(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.watching.follower.RETRY_SECONDS", 0.1)
    fill(repo, {"a.py": "a\n"})
    with watching(repo) as running:
        before = running.pack
        repo.rename(repo.parent / "away")
        until(lambda: running.status["error"])
        assert running.status["files"] == 1
        assert running.pack == before
        assert 'infbox_workspace_readable{workspace="shop"} 0.0' in get_text(
            f"{running.url}/metrics"
        )
        (repo.parent / "away").rename(repo)
        until(lambda: not running.status["error"])
        fill(repo, {"b.py": "b\n"})
        until(lambda: "## b.py" in running.pack["text"])


def test_an_index_that_is_damaged_is_built_anew_under_the_pack(
    repo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(repo, {f"{n}.py": f"{n}\n" for n in range(200)})
    with watching(repo) as running:
        index = repo.parent / "state" / "index" / "shop.db"
        time.sleep(1.5)  # until the log was moved into it
        with index.open("r+b") as stream:
            stream.seek(4096)
            stream.write(b"\xff" * (index.stat().st_size - 4096))
        fill(repo, {"0.py": "changed\n"})
        until(lambda: "index-damaged" in caplog.text, 20)
        until(lambda: "changed" in running.pack["text"], 20)
        assert get_json(f"{running.url}/status")["alive"]


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
    assert status["prompt_tokens"] * 0.9 < status["cached_tokens"] <= status["prompt_tokens"]
    assert 0 < status["save_to_warm_seconds"] < 5
    assert 'infbox_pack_warm{workspace="shop"} 1.0' in metrics
    assert 'infbox_save_to_warm_seconds_count{workspace="shop"} 1.0' in metrics


def test_two_workspaces_do_not_mix(repo: Path, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", {"o.py": "o\n"})
    fill(repo, {"a.py": "a\n"})
    config = settings_for(tmp_path, "http://127.0.0.1:1", shop=(repo, 5000), other=(other, 5000))
    with at_work(config) as url:
        until(lambda: all(w["version"] for w in get_json(f"{url}/status")["workspaces"].values()))
        fill(other, {"p.py": "p\n"})
        until(lambda: get_json(f"{url}/status")["workspaces"]["other"]["version"] == 2)
        assert get_json(f"{url}/status")["workspaces"]["shop"]["version"] == 1


def test_a_workspace_that_is_not_mounted_yet_holds_up_no_other(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.watching.follower.RETRY_SECONDS", 0.1)
    fill(repo, {"a.py": "a\n"})
    later = tmp_path / "later"
    config = settings_for(tmp_path, "http://127.0.0.1:1", shop=(repo, 5000), later=(later, 5000))
    check_paths(config)
    with at_work(config) as url:

        def status(name: str) -> dict[str, Any]:
            found: dict[str, Any] = get_json(f"{url}/status")["workspaces"][name]
            return found

        until(lambda: status("shop")["version"])
        assert "later" in status("later")["error"]
        assert not status("later")["version"]
        fill(later, {"l.py": "l\n"})
        until(lambda: status("later")["files"] == 1 and not status("later")["error"])
        until(lambda: status("later")["version"])


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
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
    assert process.returncode in (0, -signal.SIGTERM)
    assert b"event=ready" in log
    assert b"Traceback" not in log


def test_a_server_feeds_the_watchdog_while_its_loop_turns_and_not_while_it_is_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked, released = threading.Event(), threading.Event()

    async def block(_request: Request) -> Response:
        blocked.set()
        released.wait(30)  # the whole loop, as a library that computes for long does
        return Response()

    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "600000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(20)
        with serving(Starlette(routes=[Route("/", block)])) as url:
            assert [heard.recv(100), heard.recv(100)] == [b"WATCHDOG=1"] * 2
            asked = threading.Thread(target=get_text, args=(url,))
            asked.start()
            assert blocked.wait(10)
            heard.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while heard.recv(100):  # what was sent before the loop was blocked
                    pass
            heard.settimeout(0.6)
            with pytest.raises(TimeoutError):
                heard.recv(100)
            released.set()
            heard.settimeout(20)
            assert heard.recv(100) == b"WATCHDOG=1"
            asked.join()


def test_there_is_no_sign_of_life_unless_a_write_is_really_seen(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, {"a.py": "a\n"})
    service = Service(settings_for(tmp_path, "http://127.0.0.1:1", shop=(repo, 5000)))
    service.start(10)
    try:
        assert not service.have_heard(), "nothing was written yet"
        service.beat()
        until(service.have_heard)
        with monkeypatch.context() as patch:
            patch.setattr("infbox.watching.inotify.Watch.events", lambda _: iter(()))
            service.beat()
            time.sleep(0.3)
            assert not service.have_heard()
        service.beat()
        until(service.have_heard)
    finally:
        service.stop()


def test_a_tokenizer_is_read_before_ready_only_when_it_is_new(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106
    words.add_special_tokens(["<|end|>"])
    file = tmp_path / "tokenizer.json"
    words.save(str(file))
    fill(repo, {"a.py": "a\n", "b.py": "print('<|end|>')\n"})
    plain = settings_for(tmp_path, "http://127.0.0.1:1", shop=(repo, 5000))
    config = plain._replace(engine=plain.engine._replace(tokenizer=file))
    assert Service(config)._control == ("<|end|>",)
    with monkeypatch.context() as patch:
        patch.setattr(
            "infbox.watcher.service.read_control_tokens", lambda _: pytest.fail("it was read")
        )
        assert Service(config)._control == ("<|end|>",)
    file.write_text("{}")
    with pytest.raises(InputError, match="no tokenizer"):
        Service(config)


def test_a_checkout_of_a_remote_is_followed_from_its_first_poll_on(tmp_path: Path) -> None:
    """Beside another tree, while nothing is there yet; its history tells what is edited often."""
    (tmp_path / "forge").mkdir()
    for name in ("checkouts", "secrets", "other"):
        (tmp_path / name).mkdir()
    with forge(tmp_path / "forge") as place:
        work = place.repository(often_py="0\n", once_py="0\n")
        for number in range(3):
            work.push(often_py=f"often {number}\n")
        remote = Remote("shop", work.url)
        checkout = Checkout(remote, tmp_path / "checkouts", tmp_path / "secrets")
        trees = {"shop": (checkout.place, 20_000), "other": (tmp_path / "other", 20_000)}
        config = settings_for(tmp_path, "http://127.0.0.1:1", **trees)
        with at_work(config) as url:
            running = Running(tmp_path / "checkouts", url)
            until(lambda: running.status["error"])
            checkout.poll()
            until(lambda: running.status["error"] is None and running.status["version"] > 0, 30)
            assert "often 2" in running.pack["text"]
            index = tmp_path / "state/index/shop.db"
            with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
                heats = dict(database.execute("SELECT path, heat FROM files").fetchall())
            assert heats[b"often.py"] > 2 > heats[b"once.py"]
            work.push(once_py="pushed\n")
            checkout.poll()
            until(lambda: "pushed" in running.pack["text"])
