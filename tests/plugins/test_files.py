"""Files and directories of a role: what differs is found in one question, and made right."""

import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.plugins import plugin_files
from tests.plugins.plugin_files import load, on_a_terminal

module = load("action", "files")
Wanted, wanted = module.Wanted, module.wanted

OWN = {"owner": str(os.getuid()), "group": str(os.getgid())}


@pytest.fixture
def there(tmp_path: Path) -> list[Any]:
    """Return a directory and a file that are as they should be."""
    directory, file = tmp_path / "a directory", tmp_path / "a directory" / "file"
    directory.mkdir()
    directory.chmod(0o750)
    file.write_text("täxt\n")
    file.chmod(0o644)
    return [Wanted(str(directory), "0750", **OWN),
            Wanted(str(file), "0644", **OWN, content="täxt\n")]  # fmt: skip


def differing(items: list[Any]) -> list[str]:
    """Ask, and return the paths of those that are not as they should be."""
    return [item.path for item in module.differing(items, ask(*(item.path for item in items)))]


def ask(*paths: str) -> list[str]:
    """Return what the command prints of some paths."""
    command = module.state_command(paths)
    told = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602
    return told.stdout.splitlines()


def test_what_is_there_is_found_whatever_it_is(there: list[Any], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    paths = [*(item.path for item in there), str(link)]
    assert sorted(module.existing(ask(*paths, str(tmp_path / "none")))) == sorted(paths)


def test_on_a_terminal_the_same_is_told(tmp_path: Path) -> None:
    file = tmp_path / "täxt"
    file.touch()
    command = module.state_command([str(file)])
    told = on_a_terminal(command, LC_ALL="C")
    assert module.existing(told) == [str(file)]


def test_what_is_as_it_should_be_is_left_out(there: list[Any]) -> None:
    assert differing(there) == []


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "0755"},
        {"mode": "2750"},
        {"owner": "12345"},
        {"group": "nobody-of-this-name"},
        {"path": "/nowhere/at/all"},
        {"content": "a file in its place"},
    ],
)
def test_a_directory_that_differs_is_named(there: list[Any], change: dict[str, Any]) -> None:
    directory = replace(there[0], **change)
    assert differing([directory, there[1]]) == [directory.path]


def test_a_file_with_another_text_is_named(there: list[Any]) -> None:
    assert differing([there[0], replace(there[1], content="täxt")]) == [there[1].path]


def test_a_directory_where_a_file_should_be_is_named(there: list[Any]) -> None:
    Path(there[1].path).unlink()
    Path(there[1].path).mkdir(mode=0o644)
    assert differing(there) == [there[1].path]


def test_a_link_is_named_whatever_it_leads_to(there: list[Any], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(there[0].path)
    assert differing([replace(there[0], path=str(link)), there[1]]) == [str(link)]


@pytest.mark.parametrize("change", [{"target": "/elsewhere"}, {"owner": "12345"}])
def test_a_link_that_differs_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    link = tmp_path / "a link"
    link.symlink_to("/to täxt")
    item = Wanted(str(link), "", **OWN, target="/to täxt")
    assert differing([item]) == []
    assert differing([replace(item, **change)]) == [str(link)]


def test_names_of_users_will_do_as_well_as_numbers(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert differing([Wanted(str(tmp_path), "0755", tmp_path.owner(), tmp_path.group())]) == []


def test_what_was_not_understood_counts_as_missing(there: list[Any]) -> None:
    assert module.differing(there[::-1], ["find: something new", ""]) == there[::-1]


def test_a_failure_ends_it_with_the_path_and_the_reason(there: list[Any]) -> None:
    done: list[str] = []

    def run(item: Any) -> dict[str, Any]:
        done.append(item.path)
        return {"failed": True, "msg": "no space left"}

    result = module.apply(there, run)
    assert (result["failed"], result["msg"]) == (True, f"{there[0].path}: no space left")
    assert done == [there[0].path]


@dataclass(frozen=True)
class Run:
    """What a playbook did: the results of its tasks that use the plugin, and what it printed."""

    results: list[dict[str, Any]]
    output: str


def names(result: dict[str, Any]) -> list[str]:
    """Return the names of what a task changed."""
    return [Path(path).name for path in result["changed_paths"]]


def play(folder: Path, *options: str) -> Run:
    """Run a playbook that makes the same twice, and then, one mode being wrong, something else."""
    made = folder / "made"
    action = {
        "directories": [{"paths": [str(made), f"{made}/deep"], "mode": "0750", **OWN}],
        "files": [
            {"path": f"{made}/deep/one", "content": "{{ text }}\n", "mode": "0640", **OWN},
            {"contents": "{{ {made ~ '/two': '{\"a\": 1}'} }}", "mode": "0600",
             "validate": "grep a %s", **OWN},
        ],
        "links": [{"path": f"{made}/link", "target": f"{made}/{{{{ leads }}}}", **OWN}],
    }  # fmt: skip
    make = {"name": "Make", "infbox.infbox.files": action}
    spoil = {"path": f"{made}/two", "mode": "0644"}
    tell = {"content": "{{ [first, second, third] }}", "dest": f"{folder}/told"}
    tasks: list[dict[str, Any]] = [
        {**make, "register": "first"},
        {**make, "register": "second"},
        {"ansible.builtin.file": spoil, "when": "not ansible_check_mode", "diff": False},
        {**make, "register": "third", "vars": {"text": "other", "leads": "two"}},
        {"ansible.builtin.copy": tell, "check_mode": False, "diff": False},
    ]
    variables = {"text": "täxt", "made": str(made), "leads": "deep"}
    output = plugin_files.play(folder, tasks, variables, *options)
    return Run(json.loads((folder / "told").read_text()), output)


def test_check_mode_tells_what_would_change_and_changes_nothing(tmp_path: Path) -> None:
    done = play(tmp_path, "--check", "--diff")
    assert [names(result) for result in done.results] == [
        ["made", "deep", "one", "two", "link"]
    ] * 3
    assert [result["existing"] for result in done.results] == [[], [], []]
    assert "+täxt\n" in done.output
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("options", [["--diff"], []])
def test_what_is_made_is_changed_again_only_where_it_differs(
    tmp_path: Path, options: list[str]
) -> None:
    done = play(tmp_path, *options)
    first, second, third = done.results
    assert names(first) == ["made", "deep", "one", "two", "link"]
    assert (second["changed"], names(second), second["diff"]) == (False, [], [])
    assert len(second["existing"]) == 5
    assert (third["changed"], names(third)) == (True, ["one", "two", "link"])
    assert ("-täxt\n+other\n" in done.output) is bool(options)
    made = tmp_path / "made"
    paths = ("deep", "deep/one", "two")
    assert {path.name for path in made.rglob("*")} == {"deep", "one", "two", "link"}
    assert (made / "link").readlink() == made / "two"
    modes = {path: (made / path).stat().st_mode & 0o7777 for path in paths}
    assert modes == {"deep": 0o750, "deep/one": 0o640, "two": 0o600}
    assert (made / "deep/one").read_text() == "other\n"
    assert json.loads((made / "two").read_text()) == {"a": 1}


def test_a_directory_on_the_way_to_one_gets_that_one_s_permissions(tmp_path: Path) -> None:
    """One command makes directories; where it fails, Ansible's module does what is left."""
    paths = [f"{tmp_path}/first", f"{tmp_path}/on/the/way"]
    make = {
        "infbox.infbox.files": {"directories": [{"paths": paths, "mode": "0750", **OWN}]},
        "register": "made",
    }
    told = tmp_path / "told"
    tell = {"ansible.builtin.copy": {"content": "{{ made.changed_paths }}", "dest": str(told)}}
    plugin_files.play(tmp_path, [make, tell], {})
    assert json.loads(told.read_text()) == paths
    places = [tmp_path / place for place in ("first", "on", "on/the", "on/the/way")]
    assert [place.stat().st_mode & 0o7777 for place in places] == [0o750] * 4


def test_a_content_that_is_no_text_is_refused_by_its_path() -> None:
    item = {"path": None, "content": None, "contents": {"/a": 5}, "validate": None,
            "mode": "0644", "owner": "root", "group": "root"}  # fmt: skip
    with pytest.raises(ValueError, match=r"The content of /a is of type int\. Give text\."):
        wanted({"directories": [], "files": [item], "links": []})


@pytest.mark.parametrize("mode", ["420", "u=rwx", "0755 ", "09"])
def test_a_mode_that_is_not_octal_is_refused(mode: str) -> None:
    item = {"path": "/a", "paths": None, "mode": mode, "owner": "root", "group": "root"}
    with pytest.raises(ValueError, match=f"The mode {mode} is not octal"):
        wanted({"directories": [item], "files": [], "links": []})


def test_warnings_are_handed_on(there: list[Any]) -> None:
    result = module.apply(there, lambda item: {"changed": True, "warnings": [f"no {item.path}"]})
    assert result["warnings"] == [f"no {item.path}" for item in there]
