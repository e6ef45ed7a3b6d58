"""Commands that only read: what they print, and that check mode runs them too."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.plugins import plugin_files
from tests.plugins.plugin_files import load

module = load("action", "query")


def shell(argv: list[str], environment: dict[str, str], chdir: str | None = None) -> list[str]:
    """Return what a command prints that a shell runs as the plugin has it do."""
    text: str = module.script(argv, environment, chdir)
    done = subprocess.run(["/bin/sh"], input=text, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_no_shell_reads_the_arguments_or_the_environment() -> None:
    odd = "a 'b' \"$HOME\" `id` $(id) *\\"
    assert shell(["printf", "%s\n", odd, ""], {}) == [odd, ""]
    assert shell(["printenv", "ODD"], {"ODD": odd}) == [odd]


def test_a_command_has_no_standard_input_and_runs_where_it_is_told(tmp_path: Path) -> None:
    directory = tmp_path / "-a $b"
    directory.mkdir()
    assert shell(["cat"], {}) == []
    assert shell(["pwd"], {}, str(directory)) == [str(directory)]


def play(folder: Path, tasks: list[dict[str, Any]], *options: str) -> dict[str, Any]:
    """Run tasks, the last of which writes what was registered as `found`; return that."""
    tell = {"content": "{{ found }}", "dest": f"{folder}/told"}
    tasks = [*tasks, {"ansible.builtin.copy": tell, "check_mode": False}]
    plugin_files.play(folder, tasks, {}, *options)
    found: dict[str, Any] = json.loads((folder / "told").read_text())
    return found


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_output_complaints_and_status_are_told_and_nothing_counts_as_changed(
    tmp_path: Path, options: list[str]
) -> None:
    command = "printf 'one\\ntwo\\n\\n'; echo $WORD $NUMBER >&2; cat; exit 3"
    task = {
        "infbox.infbox.query": {"argv": ["sh", "-c", command]},
        "environment": {"WORD": "three 'four'", "NUMBER": 5},
        "failed_when": False,
        "register": "found",
    }
    found = play(tmp_path, [task], *options)
    assert (found["rc"], found["changed"]) == (3, False)
    assert (found["stdout"], found["stdout_lines"]) == ("one\ntwo", ["one", "two"])
    assert found["stderr_lines"] == ["three 'four' 5"]


def test_what_ends_badly_or_is_not_there_fails(tmp_path: Path) -> None:
    tasks = [
        {
            "infbox.infbox.query": {"argv": "{{ item }}"},
            "loop": [["true"], ["false"], ["/no/such/program"], []],
            "ignore_errors": True,
            "register": "found",
        }
    ]
    results = play(tmp_path, tasks)["results"]
    assert [result.get("failed", False) for result in results] == [False, True, True, True]
    assert [result.get("rc") for result in results] == [0, 1, 127, None]
    assert results[3]["msg"] == "argv is empty. Give a program."
