"""The package's rules of single values: its file, loaded by path, since no controller installs it.

A collection that is installed elsewhere has the file in the same place.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

__all__ = ["rules"]

if TYPE_CHECKING:
    from infbox import inputs as rules
else:
    FILE = Path(__file__).resolve().parents[2] / "watcher/src/infbox/inputs.py"
    spec = spec_from_file_location("infbox_inputs", FILE)
    rules = module_from_spec(spec)
    sys.modules[spec.name] = rules
    spec.loader.exec_module(rules)
