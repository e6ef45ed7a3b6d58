"""The harness of `make clients`, without a server: what is installed, printed, read and told."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import report

from lab.settings import ROOT
from tests.clients import __main__ as command
from tests.clients import libraries
from tests.clients.configured import Printed, Server, shell
from tests.clients.environments import LOCKS
from tests.clients.libraries import CHECKS, DRIVERS, LIBRARIES, Seen


def test_every_client_has_its_driver_and_its_lock_with_hashes() -> None:
    for library in LIBRARIES.values():
        assert (DRIVERS / library.driver).is_file()
        assert set(library.without) <= set(CHECKS)
    for lock in {library.lock for library in LIBRARIES.values() if library.lock}:
        text = (LOCKS / f"{lock}.txt").read_text()
        packages = re.findall(r"^[a-z0-9].*==.*$", text, re.MULTILINE)
        assert packages
        assert all(line.endswith("\\") for line in packages), "each package has its hashes"


def test_all_of_the_lock_for_node_has_hashes() -> None:
    wanted = json.loads((LOCKS / "package.json").read_text())["dependencies"]
    locked = json.loads((LOCKS / "package-lock.json").read_text())["packages"]
    assert locked[""]["dependencies"] == wanted
    for name, version in wanted.items():
        assert locked[f"node_modules/{name}"]["version"] == version
        assert locked[f"node_modules/{name}"]["integrity"].startswith("sha512-")


def test_a_shell_is_told_what_was_printed_and_nothing_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of this shell")
    found = shell(["export OPENAI_BASE_URL='https://a b'"], tmp_path)
    assert found["OPENAI_BASE_URL"] == "https://a b"
    assert found["HOME"] == str(tmp_path)
    assert "OPENAI_API_KEY" not in found


def test_what_a_client_leaves_running_is_ended(tmp_path: Path) -> None:
    """An agent's daemon has a session of its own, and knows its home directory."""
    homes = [tmp_path / name for name in ("own", "another")]
    daemons = [
        subprocess.Popen(["sleep", "60"], env={"HOME": str(home)}, start_new_session=True)
        for home in homes
    ]
    try:
        libraries.end_all_at(homes[0])
        assert daemons[0].wait(timeout=30) == -signal.SIGTERM
        assert daemons[1].poll() is None
    finally:
        for each in daemons:
            each.kill()
            each.wait()


def test_a_check_says_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    def not_forced() -> None:
        raise report.NotForcedError("no way")

    report.check("answer", lambda: "yes")
    report.check("stream", lambda: report.streamed([""]))
    report.check("tool", not_forced)
    report.check("models", list)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    outcomes = [(each["check"], each["outcome"]) for each in said]
    assert outcomes == [
        ("answer", "passed"), ("stream", "failed"), ("tool", "form"), ("models", "failed")
    ]  # fmt: skip
    assert "the stream had no pieces" in said[1]["seen"]


def test_a_call_with_other_arguments_than_the_schema_s_is_no_call() -> None:
    assert report.called('{"word": "cart"}') == {"word": "cart"}
    for other in ('{"word": "shop"}', "{}"):
        with pytest.raises(ValueError, match="the call's arguments are"):
            report.called(other)


def test_a_driver_that_ends_early_fails_what_it_did_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-infbox-x")
    line = json.dumps({"check": "answer", "outcome": "passed", "seen": "yes", "seconds": 1})
    script = f"echo '{line}'; echo broken >&2; exit 3"
    monkeypatch.setattr(libraries, "_programs", lambda _: tmp_path)
    monkeypatch.setattr(libraries, "_command", lambda *_: ["sh", "-c", script])
    monkeypatch.setattr(libraries, "configured", lambda *_: Printed("", "", {}))
    server = Server("https://gpu1", tmp_path / "root.crt", key, "shop")
    seen = libraries.run_library("langchain", server, tmp_path)
    assert [each.outcome for each in seen] == ["passed", "failed", "failed", "none"]
    assert "ended with 3: broken" in seen[1].said


def test_an_agent_whose_own_prompt_does_not_fit_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = Printed("", "", {}, window=5_591)
    monkeypatch.setattr(libraries, "configured", lambda *_: printed)
    monkeypatch.setattr(libraries, "_programs", lambda _: pytest.fail("it is installed"))
    server = Server("https://gpu1", tmp_path / "root.crt", tmp_path / "key", "shop")
    seen = libraries.run_library("claude-code", server, tmp_path)
    assert {each.outcome for each in seen} == {"none"}
    assert "needs 24000 tokens, and the window is 5591" in seen[0].said


def test_the_command_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["vi"], "there is no client vi: give one of openai, anthropic"),
        (["--server", "https://gpu1"], "--server needs --ca and --key-file"),
    ):
        with pytest.raises(SystemExit):
            command.parsed(arguments)
        assert words in capsys.readouterr().err


def test_agents_that_need_a_wide_window_ask_a_model_that_has_it() -> None:
    both = list(command.groups(command.parsed(["openai", "codex", "aider"])))
    assert both == [(command.SMALL, ["openai", "aider"]), (command.WIDE, ["codex"])]
    window = command.WIDE["infbox_more_presets"]["wide"]["engine"]["max_model_len"]
    for name in [name for _, names in command.groups(command.parsed([])) for name in names]:
        assert LIBRARIES[name].needs < window
    told = ["codex", "--server", "https://gpu1", "--ca", "a", "--key-file", "b"]
    assert [names for _, names in command.groups(command.parsed(told))] == [["codex"]]


def test_it_starts_as_make_starts_it() -> None:
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.clients", "vi"], cwd=ROOT, env=bare, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "there is no client vi" in done.stderr


def test_the_table_has_a_row_for_each_client() -> None:
    seen = [Seen(check, "passed", "") for check in CHECKS]
    table = command.table_of({"openai": seen, "llm": seen})
    assert table.row_count == 2
    assert len(table.columns) == 1 + len(CHECKS)
