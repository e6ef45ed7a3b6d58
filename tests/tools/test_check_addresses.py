"""The check that no file names what holds for one machine only."""

import subprocess
from pathlib import Path

import check_addresses
import pytest


def test_a_line_with_a_host_is_found_and_a_longer_name_is_another(tmp_path: Path) -> None:
    file = tmp_path / "lock.txt"
    file.write_text(
        "--index https://MIRROR.example/simple\nother-mirror.example\nmirror.example2\n"
    )
    assert list(check_addresses.mentions(file, ["mirror.example"])) == [(1, "mirror.example")]


def test_a_folder_of_this_machine_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere/wheels https://mirror.example/wheels")
    paths = check_addresses.machine_paths(Path("/home/me/infbox"))
    assert paths == {"/home/me/infbox", "/nowhere/wheels"}
    file = tmp_path / "page.md"
    file.write_text("See /home/me/infbox/docs.\nSee /home/me/infbox2.\n")
    assert list(check_addresses.mentions(file, paths)) == [(1, "/home/me/infbox")]


def test_a_checkout_where_the_product_lies_is_not_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert check_addresses.machine_paths(Path("/opt/infbox")) == set()


def test_the_hosts_of_pip_are_known() -> None:
    assert check_addresses.package_hosts(), "pip has a package index, built in or configured"


def test_new_files_count_and_ignored_ones_do_not(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for name in (".gitignore", "new.txt", "ignored.txt"):
        (tmp_path / name).write_text("ignored.txt\n")
    names = [path.name for path in check_addresses.tracked(tmp_path)]
    assert sorted(names) == [".gitignore", "new.txt"]
