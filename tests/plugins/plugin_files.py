"""Plugins and scripts are single files that Ansible finds by path; tests load them the same way."""

import importlib.util
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import ModuleType

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
