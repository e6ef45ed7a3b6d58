"""The callback that loads filters before Ansible forks its workers; a real ansible-playbook."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.plugins.plugin_files import ROOT

# Notes which process loaded it, each time that one does.
FILTERS = """
import os
with open({notes!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
class FilterModule:
    def filters(self):
        return {{"shout": str.upper}}
"""
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - {name: First, ansible.builtin.assert: {that: "'a' | shout == 'A'"}}
    - {name: Second, ansible.builtin.assert: {that: "'b' | shout == 'B'"}}
    - {name: Third, ansible.builtin.assert: {that: "'c' | shout == 'C'"}}
"""


def loads(folder: Path, callbacks: str) -> int:
    """Run the playbook and return how often the filters were loaded."""
    notes = folder / "notes"
    (folder / "filter_plugins").mkdir()
    (folder / "filter_plugins/noting.py").write_text(FILTERS.format(notes=str(notes)))
    (folder / "play.yml").write_text(PLAYBOOK)
    settings = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_CALLBACKS_ENABLED": callbacks,
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }
    subprocess.run(
        ["ansible-playbook", "--inventory", "localhost,", "--connection", "local", "play.yml"],
        cwd=folder, env={**os.environ, **settings}, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return len(notes.read_text().split())


# Without it the figure is Ansible's own; should that become 1, the callback is not needed any more.
@pytest.mark.parametrize(
    ("callbacks", "expected"), [("infbox_preload", 1), ("ansible.posix.timer", 3)]
)
def test_filters_are_loaded_once_a_run(tmp_path: Path, callbacks: str, expected: int) -> None:
    assert loads(tmp_path, callbacks) == expected
