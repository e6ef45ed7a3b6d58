"""Plugins and scripts are single files that Ansible finds by path; tests load them the same way."""

import importlib.util
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
