"""The tasks that install packages and set dpkg's holds, with real dpkg on files of the test's."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.plugin_files import ROOT

pytestmark = pytest.mark.skipif(shutil.which("dpkg") is None, reason="there is no dpkg here")

STATUS = """\
Package: {name}
Status: {selection} ok {state}
Priority: optional
Section: misc
Maintainer: nobody
Architecture: all
Version: 1.0
Description: one

"""
PACKAGES = {
    "engine": ("install", "installed"),
    "runtime": ("hold", "installed"),
    "gone": ("deinstall", "config-files"),
}
HELD = ["engine", "runtime", "gone", "never-known"]


@pytest.fixture
def admin(tmp_path: Path) -> Path:
    for name in ("info", "updates", "triggers"):
        (tmp_path / "dpkg" / name).mkdir(parents=True)
    (tmp_path / "dpkg/available").touch()
    rows = (
        STATUS.format(name=name, selection=selection, state=state)
        for name, (selection, state) in PACKAGES.items()
    )
    (tmp_path / "dpkg/status").write_text("".join(rows))
    return tmp_path / "dpkg"


def run(
    admin: Path, *options: str, tasks: str = "packages", **variables: Any
) -> tuple[int, list[str]]:
    """Include the tasks; return how many tasks changed something and which modules ran."""
    play = [{
        "hosts": "localhost",
        "gather_facts": False,
        "environment": {"DPKG_ADMINDIR": str(admin)},
        "tasks": [{
            "name": "Include the tasks",
            "ansible.builtin.include_role": {"name": "common", "tasks_from": tasks},
            "vars": variables,
        }],
    }]  # fmt: skip
    (admin.parent / "play.yml").write_text(yaml.safe_dump(play))
    done = subprocess.run(
        ["ansible-playbook", "--inventory", "localhost,", "--connection", "local", *options,
         str(admin.parent / "play.yml")],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
             "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
             "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
             "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout[done.stdout.index("{") :])
    hosts = [task["hosts"]["localhost"] for play in told["plays"] for task in play["tasks"]]
    ran = [host["action"] for host in hosts if not host.get("skipped")]
    return told["stats"]["localhost"]["changed"], ran


def selections(admin: Path) -> dict[str, str]:
    told = subprocess.run(
        ["dpkg", f"--admindir={admin}", "--get-selections"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return dict(line.split() for line in told.splitlines())


def test_holds_are_set_on_installed_packages_alone_and_once(admin: Path) -> None:
    assert run(admin, "--check", common_held_packages=HELD)[0] == 1
    assert selections(admin)["engine"] == "install"
    assert run(admin, common_held_packages=HELD)[0] == 1
    assert selections(admin) == {"engine": "hold", "runtime": "hold", "gone": "deinstall"}
    # Neither apt nor dpkg runs where nothing differs.
    changed, ran = run(admin, common_held_packages=HELD, common_packages=["engine", "runtime"])
    assert changed == 0
    assert not {"ansible.builtin.dpkg_selections", "ansible.builtin.apt"} & {*ran}
    assert run(admin, common_held_packages=HELD, common_hold=False)[0] == 1
    assert selections(admin) == {"engine": "install", "runtime": "install", "gone": "deinstall"}


def test_packages_that_another_apt_is_installing_are_waited_for(admin: Path) -> None:
    torn = STATUS.format(name="torn", selection="install", state="unpacked")
    (admin / "status").write_text((admin / "status").read_text() + torn)
    (admin / "info/torn.list").touch()
    with (admin / "lock-frontend").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        # Longer than Ansible takes to get there.
        release = threading.Timer(8, fcntl.lockf, [lock, fcntl.LOCK_UN])
        release.start()
        assert run(admin, tasks="repair_packages")[0] == 1
        release.join()
    assert "Package: torn\nStatus: install ok installed" in (admin / "status").read_text()
