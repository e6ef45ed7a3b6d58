"""What people find at the root: license, workflows, hooks, tags, and paths that exist."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stages import ROOT, STAGES

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
MOLECULE = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_licence_is_the_one_that_the_roles_name() -> None:
    assert (
        "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    )
    for meta in ROOT.glob("roles/*/meta/main.yml"):
        assert yaml.safe_load(meta.read_text())["galaxy_info"]["license"] == "Apache-2.0", meta


def test_workflows_run_targets_that_there_are() -> None:
    for workflow in (ROOT / ".github/workflows").glob("*.yml"):
        jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
        commands = [step.get("run", "") for job in jobs for step in job["steps"]]
        called = [word for command in commands for word in re.findall(r"make ([a-z-]+)", command)]
        assert called or ".ci/run" in " ".join(commands), workflow
        assert set(called) <= TARGETS, workflow


def test_hooks_are_local_and_call_what_lint_calls() -> None:
    assert {repo["repo"] for repo in HOOKS} == {"local"}
    hooks = " ; ".join(hook["entry"].replace(".venv/bin/", "") for hook in HOOKS[0]["hooks"])
    for stage in STAGES:
        if stage.group != "lint":
            continue
        for command in re.split(r" && ", " ".join(stage.command).removeprefix("sh -c ")):
            # Which files it is called for is the hook's.
            words = [word for word in command.split() if word != "." and not Path(word).is_file()]
            for name in [word for word in command.split() if word.startswith("tools/")]:
                words.append(name)
            assert all(word in hooks for word in words), (stage.name, words)


def test_the_map_for_contributors_names_files_that_there_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    below = {"layout.py": "watcher/src/infbox/packing", "tree/rules.py": "watcher/src/infbox",
             "gateway/app.py": "watcher/src/infbox", "client/ask.py": "watcher/src/infbox",
             "conftest.py": "tests/system"}  # fmt: skip
    quoted = " ".join(re.findall(r"`([^`\n]+)`", text))
    named = re.findall(r"(?<!\S)([\w./-]+(?:/|\.(?:py|yml|toml|md)))(?!\S)", quoted)
    assert len(named) >= 20
    for name in named:
        assert (ROOT / below.get(name, "") / name).exists(), name


@pytest.mark.parametrize(
    "pattern",
    [
        *PYPROJECT["tool"]["ruff"]["extend-exclude"],
        *PYPROJECT["tool"]["ruff"]["lint"]["per-file-ignores"],
        *PYPROJECT["tool"]["mypy"]["mypy_path"],
        *PYPROJECT["tool"]["pytest"]["ini_options"]["pythonpath"],
        *(value.removeprefix("${MOLECULE_PROJECT_DIRECTORY}/")
          for value in MOLECULE["provisioner"]["env"].values() if value.startswith("${MOLECULE")
          and ".lab" not in value),
    ],
)  # fmt: skip
def test_configuration_names_paths_that_there_are(pattern: str) -> None:
    if pattern == ".":
        return
    found = ROOT.glob(pattern.removeprefix("**/") if pattern.startswith("**/") else pattern)
    assert next(iter(found), None) is not None, pattern


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inventory")
    host = {"ansible_connection": "local", "ansible_become": False}
    (folder / "hosts.yml").write_text(json.dumps({"inference": {"hosts": {"one": host}}}))
    return folder


def site(inventory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "site.yml", "-i", inventory, *more],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_steps_of_site_yml_have_tags_and_preflight_is_always_there(inventory: Path) -> None:
    listed = site(inventory, "--list-tags").stdout
    plays: list[tuple[str, Any]] = re.findall(r"\): (.*)\tTAGS: \[(.*)\]", listed)
    checks = [found.split(",") for name, found in plays if "preflight" in name.lower()]
    steps = [found for name, found in plays if "preflight" not in name.lower()]
    assert len(checks) >= 3
    assert all("always" in found for found in checks)
    assert {"provision", "deploy", "monitoring"} == set(steps) - {"always"}


def test_a_tag_that_would_do_a_part_of_a_step_is_refused_with_the_reason(inventory: Path) -> None:
    done = site(inventory, "--tags", "caddy")
    assert done.returncode != 0
    told = " ".join(done.stdout.split()).replace("\\n", " ")
    assert (
        "site.yml has no tag caddy. The services of a release are rendered and started as" in told
    )
    assert "preflight" not in done.stdout.lower()
