"""The callback that spares Ansible's workers what was done before them; a real ansible-playbook."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.plugins.plugin_files import ROOT

WITH, WITHOUT = "infbox_workers", "ansible.posix.timer"

# The plugin notes that it was loaded, and what it is asked about.
PLUGIN = """
import gc, os, pathlib
notes = pathlib.Path({notes!r})
def note(name, what):
    with (notes / name).open("a") as file:
        file.write(f"{{what}}\\n")
note("loaded", os.getpid())
def keep(value):
    note("kept", repr(value))
    return value
class FilterModule:
    def filters(self):
        return {{"shout": str.upper, "keep": keep, "collects": lambda value: gc.isenabled()}}
"""
# Jinja asks an extension about each text that it is about to compile.
EXTENSION = """
import pathlib
from jinja2.ext import Extension
class Noting(Extension):
    def preprocess(self, source, name, filename=None):
        if "to_be_noted" in source:
            with pathlib.Path({notes!r}, "compiled").open("a") as file:
                file.write("x\\n")
        return source
"""
THREE_TASKS = """
- hosts: localhost
  gather_facts: false
  vars:
    to_be_noted: a
    said: "{{ to_be_noted | shout }}"
  tasks:
    - {name: First, ansible.builtin.assert: {that: said == 'A'}}
    - {name: Second, ansible.builtin.assert: {that: said == 'A'}}
    - {name: Third, ansible.builtin.assert: {that: [said == 'A', said != 'B']}}
"""
# A text that means one thing here and another there: what a backslash is, what a mark is.
ALIKE = r"""
- hosts: localhost
  gather_facts: false
  vars:
    item_of: "{{ item }}!"
    slashed: "{{ 'a\\nb' }}"
    text: "{{ 'a' }} [[ 'b' ]]"
  tasks:
    - name: In a list, each its own
      ansible.builtin.debug: {msg: "{{ item_of | keep }}"}
      loop: [1, 2, "{{ slashed }}"]
    - name: In a variable
      ansible.builtin.debug: {msg: "{{ [slashed, text] | keep }}"}
    - name: In a file, the same texts
      ansible.builtin.debug: {msg: "{{ lookup('template', item) | keep }}"}
      loop: [slashed.j2, text.j2, marks.j2]
    - name: With marks of its own
      ansible.builtin.debug: {msg: "{{ lookup('template', 'text.j2', **marks) | keep }}"}
      vars: {marks: {variable_start_string: "[[", variable_end_string: "]]"}}
    - name: In a condition
      ansible.builtin.debug: {msg: "{{ (item is search('a\\.b')) | keep }}"}
      when: item is match('a\.b')
      loop: [a.b, acb]
"""
FILES = {
    "slashed.j2": r"{{ 'a\nb' }}",
    "text.j2": "{{ 'a' }} [[ 'b' ]]",
    "marks.j2": "#jinja2: variable_start_string:'[[', variable_end_string:']]'\n[[ 'b' ]]",
}
COLLECTING = """
- hosts: localhost
  gather_facts: false
  tasks:
    - {name: Look, ansible.builtin.debug: {msg: "{{ 'x' | collects | keep }}"}}
"""


# A Jinja whose method takes something else; Python imports this first.
OTHER_JINJA = """
import inspect, jinja2
whole = inspect.signature(jinja2.Environment.compile)
other = whole.replace(parameters=[*whole.parameters.values()][:1])
jinja2.Environment.compile.__signature__ = other
"""


def notes_of(folder: Path, playbook: str, callbacks: str, **settings: str) -> dict[str, list[str]]:
    """Run a playbook and return what was noted, by the name of the note."""
    notes = folder / f"notes-{callbacks}"
    notes.mkdir()
    (folder / "filter_plugins").mkdir(exist_ok=True)
    (folder / "filter_plugins/noting.py").write_text(PLUGIN.format(notes=str(notes)))
    (folder / "noting_extension.py").write_text(EXTENSION.format(notes=str(notes)))
    (folder / "play.yml").write_text(playbook)
    (folder / "templates").mkdir(exist_ok=True)
    for name, content in FILES.items():
        (folder / "templates" / name).write_text(content)
    settings |= {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_CALLBACKS_ENABLED": callbacks,
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "PYTHONPATH": str(folder),
    }
    run = subprocess.run(
        ["ansible-playbook", "--inventory", "localhost,", "--connection", "local", "play.yml"],
        cwd=folder, env={**os.environ, **settings}, check=True, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    noted = {note.name: note.read_text().splitlines() for note in notes.iterdir()}
    return {**noted, "warned": [" ".join(run.stderr.split())]}


# Without it the figures are Ansible's own; where one becomes 1, that part is not needed any more.
@pytest.mark.parametrize(("callbacks", "expected"), [(WITH, 1), (WITHOUT, 3)])
def test_filters_are_loaded_once_a_run(tmp_path: Path, callbacks: str, expected: int) -> None:
    assert len(notes_of(tmp_path, THREE_TASKS, callbacks)["loaded"]) == expected


@pytest.mark.parametrize(("callbacks", "expected"), [(WITH, 1), (WITHOUT, 4)])
def test_a_template_is_compiled_once_a_run(tmp_path: Path, callbacks: str, expected: int) -> None:
    extension = {"ANSIBLE_JINJA2_EXTENSIONS": "noting_extension.Noting"}
    assert len(notes_of(tmp_path, THREE_TASKS, callbacks, **extension)["compiled"]) == expected


def test_what_does_not_fit_is_left_out_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(OTHER_JINJA)
    extension = {"ANSIBLE_JINJA2_EXTENSIONS": "noting_extension.Noting"}
    notes = notes_of(tmp_path, THREE_TASKS, WITH, **extension)
    assert (len(notes["loaded"]), len(notes["compiled"])) == (1, 4)
    assert "infbox_workers does not fit this ansible-core" in notes["warned"][0]


def test_nothing_private_of_ansible_is_imported() -> None:
    tree = ast.parse((ROOT / "plugins/callback/infbox_workers.py").read_text())
    names = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(each.name for each in node.names)]
    }
    assert [name for name in names if re.search(r"(^|\.)_[a-z]", name)] == []


def test_a_text_means_what_it_meant(tmp_path: Path) -> None:
    kept = notes_of(tmp_path, ALIKE, WITH)["kept"]
    assert kept == notes_of(tmp_path, ALIKE, WITHOUT)["kept"]
    assert len(kept) == 9, kept


@pytest.mark.parametrize(("callbacks", "expected"), [(WITH, "False"), (WITHOUT, "True")])
def test_workers_collect_no_garbage(tmp_path: Path, callbacks: str, expected: str) -> None:
    assert notes_of(tmp_path, COLLECTING, callbacks)["kept"] == [expected]
