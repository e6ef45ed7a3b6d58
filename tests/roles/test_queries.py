"""Commands that only read are queries, of which none can be forgotten in check mode."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.plugin_files import ROOT

FILES = sorted([*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/**/*.yml")])
BLOCKS = ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks")
MODULE = "ansible.builtin.command"


def tasks(items: Any) -> Iterator[dict[str, Any]]:
    """Yield the tasks of a file, those of its blocks and plays too."""
    for item in items if isinstance(items, list) else []:
        yield item
        for name in BLOCKS:
            yield from tasks(item.get(name))


def could_be_query(task: dict[str, Any]) -> bool:
    """Say whether a task runs a command that needs no more than a query has."""
    given = task.get(MODULE)
    has_input = isinstance(given, dict) and "stdin" in given
    only_reads = task.get("changed_when") is False and task.get("check_mode") is False
    return given is not None and only_reads and not has_input


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_that_only_reads_is_a_query(path: Path) -> None:
    commands = [task["name"] for task in tasks(yaml.safe_load(path.read_text()))
                if could_be_query(task)]  # fmt: skip
    assert commands == [], f"{path}: run these by infbox.infbox.query"
