"""What the demo asks and tells, as far as it needs no host."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from demo import __main__ as demo
from demo.scene import SHOP, save, scene
from lab.deployment import Endpoint
from lab.hosts import Host
from lab.shell import LabError
from tests.stages import ROOT

KEY = "sk-infbox-0123456789"


def test_what_is_asked_after_the_save_stands_nowhere_before_it(tmp_path: Path) -> None:
    copy = tmp_path / "shop"
    shutil.copytree(SHOP, copy)
    shown = scene(SHOP, copy)
    texts = "".join(path.read_text() for path in copy.rglob("*.*") if path.is_file())
    assert "30 minutes" in texts
    assert shown.fact not in texts
    for _again in range(2):
        save(copy, shown)
        assert (copy / shown.path).read_text() == shown.added
    assert shown.fact in shown.added


def test_another_tree_gets_a_line_at_the_end_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.go").write_text("package main\n")
    shown = scene(tmp_path, tmp_path)
    save(tmp_path, shown)
    assert (tmp_path / "a.go").read_text().startswith("package main\n\n// The trial period lasts ")


def test_the_model_of_the_demo_fits_its_window() -> None:
    engine, model = demo.PRESET["engine"], demo.PRESET["model"]
    assert isinstance(engine, dict)
    assert isinstance(model, dict)
    window = engine["max_model_len"]
    assert window <= model["config"]["max_position_embeddings"]
    # What stands around the pack and the question takes less than a thousand tokens.
    assert demo.PRESET["workspace_budget"] + 1000 + demo.ANSWER_TOKENS <= window  # type: ignore[operator]


def test_small_programs_know_the_host_and_not_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "STATE", tmp_path)
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    host = Host("demo", "10.0.0.9", str(tmp_path / "id"), str(tmp_path / "known hosts"))
    point = Endpoint("https://10.0.0.9/v1", KEY, tmp_path / "demo.crt")
    for name in demo.write_helpers(point, host):
        program = tmp_path / name
        assert os.access(program, os.X_OK)
        assert KEY not in program.read_text()
        assert subprocess.run(["bash", "-n", program], check=False).returncode == 0
    # Programs that say what they are given, in the place of ssh and curl.
    for program_name, says in (
        ("ssh", f"echo {KEY}"),
        ("curl", 'printf "%s\\n" "$@"; cat "${6#@}"'),
    ):
        (tmp_path / program_name).write_text(f"#!/bin/bash\n{says}\n")
        (tmp_path / program_name).chmod(0o755)
    done = subprocess.run(
        [tmp_path / "demo-curl", "/v1/models", "--fail"], capture_output=True, text=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False,
    )  # fmt: skip
    assert "https://10.0.0.9/v1/models\n--fail\n" in done.stdout, done.stderr
    told = done.stdout.splitlines()
    assert told[-1] == f"Authorization: Bearer {KEY}"
    assert not [word for word in told[:-1] if KEY in word]


def test_a_question_without_a_demo_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "STATE", tmp_path)
    with pytest.raises(LabError, match=r"run `make demo`, or name a server"):
        demo.ask(["Why?"])


def test_make_hands_a_question_on_as_it_is(tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (binaries / "python").chmod(0o755)
    lock = hashlib.sha256((ROOT / "requirements/dev.txt").read_bytes()).hexdigest()[:16]
    (tmp_path / f"made-from-{lock}").touch()
    question = "What does `f(\"$HOME\")` $(date) 'cost'?"
    done = subprocess.run(
        ["make", "--no-print-directory", "ask", f"VENV={tmp_path}", f"Q={question}",
         "ARGS=--cold"],
        cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["-m", "demo", "ask", "--cold", "--", question], done.stderr


def test_what_was_shown_goes_into_readme_and_a_picture_without_strange_fonts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "README.md").read_text()
    assert demo.SHOWN.search(page)
    monkeypatch.setattr(demo, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(page)
    demo.console.export_text()
    demo.console.print("an answer of 30 minutes")
    for _again in range(2):
        demo.write_picture(tmp_path / "demo.svg")
    written = (tmp_path / "README.md").read_text()
    assert written.count("```text\nan answer of 30 minutes\n```\n<!-- end -->") == 1
    assert demo.SHOWN.sub("", written) == demo.SHOWN.sub("", page)
    picture = (tmp_path / "demo.svg").read_text()
    assert "answer&#160;of&#160;30&#160;minutes" in picture
    assert "@font-face" not in picture
    assert "url(http" not in picture
