"""How the stack role puts files of host services back from a release, after an interruption too."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins import plugin_files
from tests.plugins.plugin_files import ROOT

LONG_AGO = 1_600_000_000


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """A file and a link, which a release has too, all of them old."""
    found = []
    for name, target in (("config", None), ("venv", "/opt/it")):
        path = tmp_path / "etc" / name
        copy = tmp_path / f"releases/7/host{path}"
        for each in (path, copy):
            each.parent.mkdir(parents=True, exist_ok=True)
            if target:
                each.symlink_to(target)
            else:
                each.write_text("the release's")
                each.chmod(0o640)
            os.utime(each, (LONG_AGO, LONG_AGO), follow_symlinks=False)
        found.append(path)
    return found


def put_back(folder: Path, paths: list[Path]) -> str:
    """Run the tasks in a directory and return what they say; no service is touched.

    The task that restarts services prints their names in place of that.
    """
    tasks = yaml.safe_load((ROOT / "roles/stack/tasks/host.yml").read_text())
    for task in tasks:
        for action in ("infbox.infbox.unit", "ansible.builtin.systemd_service"):
            if task.pop(action, None):
                task["ansible.builtin.debug"] = {"msg": "looks after {{ item.key }}"}
    variables: dict[str, Any] = {
        "stack_host_units": {"stub.service": [str(path) for path in paths],
                             "other.service": [str(paths[0]), "/nowhere/other.service"]},
        "stack_releases_dir": str(folder / "releases"),
        "_stack_host_release": 7,
    }  # fmt: skip
    inner = {"ansible.builtin.include_vars": str(ROOT / "roles/stack/vars/main.yml")}
    return plugin_files.play(folder, [inner, *tasks], variables)


def test_what_is_put_back_is_newer_than_what_runs(tmp_path: Path, paths: list[Path]) -> None:
    file, link = paths
    file.write_text("another's")
    link.unlink()
    link.symlink_to("/opt/another")
    assert "looks after stub.service" in put_back(tmp_path, paths)
    assert file.read_text() == "the release's"
    assert file.stat().st_mode & 0o777 == 0o640
    assert link.readlink() == Path("/opt/it")
    assert all(path.lstat().st_mtime > LONG_AGO for path in paths)


def test_a_run_after_an_interrupted_one_looks_after_services_too(
    tmp_path: Path, paths: list[Path]
) -> None:
    """The files are back, and the services run by others yet."""
    said = put_back(tmp_path, paths)
    assert "looks after stub.service" in said
    # It is not on this host, or the release knows nothing of it.
    assert "looks after other.service" not in said
