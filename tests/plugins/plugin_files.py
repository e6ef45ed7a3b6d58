"""Plugins and scripts are single files that Ansible finds by path; tests load them the same way."""

import importlib.util
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def load(kind: str, name: str) -> ModuleType:
    """Return the plugin `name` of a kind, such as ``filter`` or ``modules``."""
    return load_file(ROOT / "plugins" / kind / f"{name}.py")


def load_file(path: Path) -> ModuleType:
    """Return a Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up there.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def on_a_terminal(command: str, **environment: str) -> list[str]:
    """Return the lines that a shell command prints on a terminal, which Ansible's SSH gives it.

    Args:
        command: for a shell.
        environment: variables beside those of this process.
    """
    ours, its = pty.openpty()
    running = subprocess.Popen(  # noqa: S602
        command,
        shell=True,
        stdout=its,
        stderr=its,
        env={**os.environ, **environment},
    )
    os.close(its)
    told = b""
    try:
        while piece := os.read(ours, 4096):
            told += piece
    except OSError:  # nobody writes to it any more
        pass
    os.close(ours)
    running.wait()
    return told.decode().splitlines()


def play(
    folder: Path, tasks: list[dict[str, Any]], variables: dict[str, Any], *options: str
) -> str:
    """Run tasks on this machine, by a playbook in a directory, and return what it printed.

    Args:
        folder: where the playbook is written and run.
        tasks: of it.
        variables: for them.
        options: of `ansible-playbook`.
    """
    variables = {"ansible_python_interpreter": sys.executable, **variables}
    plays = [{"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": tasks}]
    (folder / "play.yml").write_text(json.dumps(plays))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", *options, "play.yml"],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
             "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
