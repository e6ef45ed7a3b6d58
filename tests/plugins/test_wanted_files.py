"""Which files and folders of a role are not on a host as they should be."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.plugin_files import load

module = load("filter", "wanted_files")
wanted, look_command, unlike = module.wanted, module.look_command, module.unlike
paths_found = module.paths_found

OWN = {"owner": os.getuid(), "group": os.getgid()}


@pytest.fixture
def there(tmp_path: Path) -> list[dict[str, Any]]:
    """Return a folder and a file that are as they should be."""
    folder, file = tmp_path / "a folder", tmp_path / "a folder" / "file"
    folder.mkdir(mode=0o750)
    folder.chmod(0o750)
    file.write_text("täxt\n")
    file.chmod(0o644)
    return [
        *wanted([str(folder)], "0750", **OWN),
        *wanted({str(file): "täxt\n"}, "0644", **OWN),
    ]


def missing(wanted_files: list[dict[str, Any]]) -> list[str]:
    """Look, and return the paths of those that are not as they should be."""
    lines = look(*(item["path"] for item in wanted_files))
    return [item["path"] for item in unlike(wanted_files, lines)]


def look(*paths: str) -> list[str]:
    """Return what the look prints of some paths."""
    command = look_command(paths)
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def test_what_is_there_is_found_whatever_it_is(there: list[dict[str, Any]], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    paths = [*(item["path"] for item in there), str(link)]
    assert sorted(paths_found(look(*paths, str(tmp_path / "none")))) == sorted(paths)


def test_what_is_as_it_should_be_is_left_out(there: list[dict[str, Any]]) -> None:
    assert missing(there) == []


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "0755"},
        {"mode": "2750"},
        {"owner": 12345},
        {"group": "nobody-of-this-name"},
        {"path": "/nowhere/at/all"},
        {"content": "a file in its place"},
    ],
)
def test_a_folder_that_differs_is_named(
    there: list[dict[str, Any]], change: dict[str, Any]
) -> None:
    folder, file = there
    assert missing([{**folder, **change}, file]) == [{**folder, **change}["path"]]


def test_a_file_with_another_text_is_named(there: list[dict[str, Any]]) -> None:
    folder, file = there
    assert missing([folder, {**file, "content": "täxt"}]) == [file["path"]]


def test_a_folder_where_a_file_should_be_is_named(there: list[dict[str, Any]]) -> None:
    folder, file = there
    Path(file["path"]).unlink()
    Path(file["path"]).mkdir(mode=0o644)
    assert missing([folder, file]) == [file["path"]]


def test_a_link_is_named_whatever_it_leads_to(there: list[dict[str, Any]], tmp_path: Path) -> None:
    folder, file = there
    link = tmp_path / "link"
    link.symlink_to(folder["path"])
    assert missing([{**folder, "path": str(link)}, file]) == [str(link)]


def test_names_of_users_will_do_as_well_as_numbers(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    owner, group = tmp_path.owner(), tmp_path.group()
    assert missing(wanted([str(tmp_path)], "0755", owner, group)) == []


def test_what_was_not_understood_counts_as_missing(there: list[dict[str, Any]]) -> None:
    assert unlike(there, ["find: something new", ""]) == there


def test_order_is_kept(there: list[dict[str, Any]]) -> None:
    assert unlike(there[::-1], []) == there[::-1]
