"""What is installed with an extra is needed by that service alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trees import fill, git

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest's own, on Python 3.10
    import tomli as tomllib

WATCHER = Path(__file__).parents[1]
PROJECT = tomllib.loads((WATCHER / "pyproject.toml").read_text())["project"]

# Run with the name of a module that is away, then a program's function and its arguments.
PROGRAM = """
import contextlib, io, sys
from infbox import cli
if sys.argv[1]:
    sys.modules[sys.argv[1]] = None
status = getattr(cli, sys.argv[2])(sys.argv[3:])
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(status)
"""


def run(away: str, function: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, away, function, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def names(requirements: list[str]) -> set[str]:
    found = {re.split(r"[<>=\[ ;]", each)[0].lower() for each in requirements}
    return found - {PROJECT["name"], "anthropic", "hypothesis", "openai", "pytest", "pytest-xdist"}


@pytest.mark.parametrize("command", ["scan", "pack", "mirror", "replay"])
def test_a_laptop_s_commands_import_nothing_of_an_extra(repo: Path, command: str) -> None:
    fill(repo, {"a.py": "def a():\n    pass\n"})
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "--message=one")
    fill(repo, {"a.py": "def b():\n    pass\n"})
    git(repo, "commit", "--quiet", "--all", "--message=two")
    more = {
        "pack": ["--budget", "1000"],
        "mirror": [str(repo.parent / "copy")],
        "replay": ["--budget", "1000", "--commits", "1"],
    }
    done = run("", "watch", command, str(repo), *more.get(command, []))
    assert done.returncode == 0, done.stderr
    imported = set(done.stderr.splitlines()[-1].split())
    extras = names([each for group in PROJECT["optional-dependencies"].values() for each in group])
    modules = {name.replace("-", "_") for name in extras} | {"opentelemetry"}
    assert "starlette" in modules
    assert not imported & modules


@pytest.mark.parametrize(
    ("function", "extra"),
    [("watch", "watcher"), ("gateway", "gateway"), ("signin", "sign-in"), ("remotes", "remotes")],
)
def test_a_service_without_its_extra_says_which_to_install(
    tmp_path: Path, function: str, extra: str
) -> None:
    (tmp_path / "c.yml").write_text("{}")
    more = ["--secret", str(tmp_path / "c.yml")] if function == "signin" else []
    done = run("starlette", function, "run", "--config", str(tmp_path / "c.yml"), *more)
    assert done.returncode == 2
    assert f"install infbox-watcher with its extra `{extra}`" in done.stderr


def test_the_lock_is_made_of_all_that_is_required() -> None:
    lines = (WATCHER / "requirements.in").read_text().splitlines()
    wanted = names([line for line in lines if line and not line.startswith("#")])
    groups = PROJECT["optional-dependencies"].values()
    required = names([*PROJECT["dependencies"], *(each for group in groups for each in group)])
    assert wanted - {"flit-core"} == required


def test_a_start_of_the_watcher_imports_nothing_that_only_its_work_needs() -> None:
    program = """
import re, sys
from infbox import config
from infbox.watcher import main
print(*(name for name in sys.argv[1:] if name in sys.modules))
from infbox import kinds
print(*(name for name, value in vars(kinds).items() if isinstance(value, re.Pattern)))
"""
    late = ["subprocess", "tempfile", "dataclasses", "hashlib", "asyncio", "pathspec", "yaml"]
    done = subprocess.run(
        [sys.executable, "-c", program, *late],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.split() == [], "the time until it is ready is longer for it"
