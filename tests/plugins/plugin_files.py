"""Plugins are single files that Ansible finds by path; the tests load them the same way."""

import importlib.util
from pathlib import Path
from types import ModuleType

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


def load(kind: str, name: str) -> ModuleType:
    """Return the plugin `name` of a kind, such as ``filter`` or ``modules``."""
    spec = importlib.util.spec_from_file_location(name, PLUGINS / kind / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
