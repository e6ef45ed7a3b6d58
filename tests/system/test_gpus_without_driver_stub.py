"""GPUs on the PCI bus and no driver: known by their ids, or the driver comes before the plan.

Bus, driver and packages are stubs, on a real host that the real playbooks run against. The tests
build on one another, in the order they stand here; the last one installs the driver.
"""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from lab import hosts
from lab.deployment import inventory, play, ssh
from lab.hosts import Host
from lab.settings import ROOT, STATE
from lab.shell import LabError
from tests.system.conftest import LOOK

pytestmark = pytest.mark.lab

# pci.ids has this as the H100 SXM5 80GB, and nobody has the other one.
KNOWN, UNKNOWN = "2330", "ffff"
ADDRESSES = ("0000:00:00.0", "0000:01:00.0")
STUBS: dict[str, Any] = {
    "stub_gpus": ["NVIDIA H100 80GB HBM3"] * len(ADDRESSES),
    "stub_devices": [
        {"address": address, "device": KNOWN, "class": "0x030200"} for address in ADDRESSES
    ],
    "stub_packages": (
        f"{{{{ lookup('ansible.builtin.template', '{ROOT}/molecule/nvidia_driver/packages.yml.j2')"
        " | from_yaml }}"
    ),
}
SETTINGS: dict[str, Any] = {
    "infbox_workspaces": [{"name": "shop", "path": "/srv/shop"}],
    "infbox_driver_version": "580.95.05",
    "nvidia_driver_repository": "file:///opt/stub/repository",
    "nvidia_driver_key": "/opt/stub/repository/key.asc",
    "nvidia_driver_disk_gb": 0.1,
    # Enough for a preset of GPUs on a host that is none.
    "infbox_preset_overrides": {
        "host_memory_gb": 1, "disk_gb": 1, "lmcache": {"l1_size_gb": 1, "l2_size_gb": 1},
    },
}  # fmt: skip
PROVISION = "playbooks/provision.yml"
TOO_LARGE = "infbox_preset=prod480"


@pytest.fixture(scope="module")
def server() -> Generator[Host]:
    """A bare host with two GPUs on the bus, no driver, and packages of one within reach."""
    with hosts.fresh("gpus", "debian13") as host, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOLECULE_PROJECT_DIRECTORY", str(ROOT))
        folder = inventory(host, SETTINGS)
        stubs = json.dumps(STUBS)
        play(["molecule/shared/stub_gpu.yml", "-i", folder, "-e", stubs], "system-gpus-stubs")
        ssh(host, "mkdir -p /srv/shop")
        yield host


def look(host: Host) -> frozenset[str]:
    """Return what a host is, a line for each thing, and when each file of its system changed."""
    times = "find /etc /usr /opt /var/lib/infbox -xdev -type f -printf '%p %T@ %s\\n' 2> /dev/null"
    return frozenset(ssh(host, f"{LOOK}\n{times} || true").splitlines())


def put(host: Host, number: str) -> None:
    """Put GPUs of a PCI id on the bus."""
    for address in ADDRESSES:
        ssh(host, f"echo 0x{number} > /opt/stub/pci/{address}/device")


def run(host: Host, playbook: str, *arguments: str) -> str:
    """Return, on one line, what a run says that may fail."""
    folder = inventory(host, SETTINGS)
    try:
        printed = play([playbook, "-i", folder, *arguments], "system-gpus")
    except LabError as error:
        printed = f"FAILED {error}"
    return " ".join(printed.split())


def planned(host: Host, folder: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """Return what playbooks/plan.yml says, on one line, and the plan that it writes."""
    output = folder / "plan.json"
    printed = run(host, "playbooks/plan.yml", "-e", f"infbox_plan_output={output}", *arguments)
    return printed, json.loads(output.read_text())["hosts"]["gpus"]


def test_gpus_that_pci_ids_tell_are_planned_without_a_driver(server: Host, tmp_path: Path) -> None:
    before = look(server)
    printed, plan = planned(server, tmp_path)
    assert (plan["preset"], plan["fits"]) == ("air141", True)
    assert "on each of 2 x NVIDIA H100 80GB HBM3" in plan["reasons"][0]
    assert "by their PCI ids the GPUs are 2 x NVIDIA H100 80GB HBM3 of 81559 MiB" in printed
    assert look(server) == before


def test_a_preset_too_large_for_them_is_refused_before_any_change(server: Host) -> None:
    before = look(server)
    printed = run(server, PROVISION, "-e", TOO_LARGE)
    assert "FAILED" in printed
    assert "gpus was not changed, because of these problems:" in printed
    assert "Preset prod480 does not fit:" in printed
    assert "on each of 2 x NVIDIA H100 80GB HBM3" in printed
    assert "It would fit with 4 x NVIDIA H100 80GB HBM3" in printed
    assert look(server) == before


def test_a_plan_says_which_gpus_pci_ids_do_not_tell(server: Host, tmp_path: Path) -> None:
    put(server, UNKNOWN)
    before = look(server)
    printed, plan = planned(server, tmp_path)
    assert not plan["fits"]
    assert "0000:01:00.0 (PCI id 10de:ffff)" in printed
    assert "Describe the GPUs in infbox_gpus, or install the driver with" in printed
    assert look(server) == before


def test_all_else_that_is_wrong_is_refused_before_a_driver_is_installed(server: Host) -> None:
    put(server, UNKNOWN)
    before = look(server)
    wrong = json.dumps({"infbox_workspaces": [{"name": "shop", "path": "/srv/nowhere"}]})
    printed = run(server, PROVISION, "-e", wrong, "-e", TOO_LARGE)
    assert "gpus was not changed, because of these problems:" in printed
    assert "The path of workspace shop does not exist: /srv/nowhere." in printed
    assert look(server) == before


def test_check_mode_says_what_it_cannot_know_and_changes_nothing(server: Host) -> None:
    put(server, UNKNOWN)
    before = look(server)
    printed = run(server, PROVISION, "--check")
    assert "gpus: check mode cannot continue." in printed
    assert "0000:01:00.0 (PCI id 10de:ffff)" in printed
    assert look(server) == before


def test_the_driver_is_installed_first_where_nothing_else_tells_the_gpus(server: Host) -> None:
    put(server, UNKNOWN)
    before = look(server)
    printed = run(server, PROVISION, "-e", TOO_LARGE)
    assert "FAILED" in printed
    # Each line of it begins with the seconds since the run's start.
    lines = (STATE / "logs/system-gpus.log").read_text(encoding="utf-8").splitlines()
    log = " ".join(" ".join(line.split()[1:]) for line in lines)
    assert "The driver is installed first" in log
    assert (
        "gpus got the NVIDIA driver and was not changed otherwise, because of these problems:"
        in printed
    )
    assert "on each of 2 x NVIDIA H100 80GB HBM3" in printed
    assert "It would fit with 4 x NVIDIA H100 80GB HBM3" in printed
    assert ssh(server, "nvidia-smi -L | wc -l").strip() == "2"
    came = {
        line.split()[1]
        for line in look(server) - before
        if line.startswith("package ") and line.split()[2:] == ["ii"]
    }
    drivers = ("dkms", "libcuda1", "linux-headers-", "nvidia-", "python3-")
    assert came
    assert [name for name in came if not name.startswith(drivers)] == []
    # What a removal must know was recorded before.
    assert ssh(server, "ls /etc/docker /etc/infbox/releases 2> /dev/null || true").strip() == ""
