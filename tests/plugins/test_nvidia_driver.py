"""Which packages bring a driver to each supported system, and what is refused before a change."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.plugin_files import ROOT, load

driver = load("filter", "nvidia_driver")

VARIABLES = yaml.safe_load((ROOT / "roles/nvidia_driver/vars/main.yml").read_text())
SOURCES = VARIABLES["_nvidia_driver_sources"]
ASKED = {"source": "auto", "version": "580.173.02", "open": "auto", "fabric_manager": "auto"}

PASCAL = {"address": "0000:04:00.0", "device": "15f8", "driver": ""}
TURING = {"address": "0000:05:00.0", "device": "1e87", "driver": ""}
HOPPER = {"address": "0000:18:00.0", "device": "2330", "driver": ""}
BLACKWELL = {"address": "0000:19:00.0", "device": "2bb1", "driver": ""}
KEPLER = {"address": "0000:20:00.0", "device": "102d", "driver": ""}
NVSWITCH = {"address": "0000:06:00.0", "device": "22a3", "driver": ""}


def host(system: str = "debian-13", *cards: dict[str, str], **more: Any) -> dict[str, Any]:
    distribution, _, version = system.partition("-")
    ubuntu = distribution == "ubuntu"
    return {
        "distribution": distribution,
        "version": version,
        "architecture": "x86_64",
        "kernel": "6.8.0-45-generic" if ubuntu else "6.12.48+deb13-amd64",
        "secure_boot": False,
        "free_bytes": 100e9,
        "nvidia": {"cards": list(cards or (HOPPER,)), "switches": [], "processes": []},
        **more,
    }


def plan(there: dict[str, Any], *, enrolled: bool = False, **asked: str) -> dict[str, Any]:
    found = driver.driver_plan(there, SOURCES, ASKED | asked, enrolled)
    assert isinstance(found, dict)
    return found


def refusals(
    there: dict[str, Any],
    *,
    running: str = "",
    installed: str = "",
    runfile: bool = False,
    enrolled: bool = False,
    **asked: str,
) -> str:
    found = {
        "running": running,
        "installed": installed,
        "runfile": runfile,
        "enrolled": enrolled,
        "open": (ASKED | asked)["open"],
    }
    wanted = plan(there, enrolled=enrolled, **asked)
    return " ".join(driver.driver_refusals(there, wanted, SOURCES, found, 3.0))


def names(found: dict[str, Any]) -> list[str]:
    return [*(name for names in found["versioned"] for name in names), *found["others"]]


@pytest.mark.parametrize("system", ["ubuntu-22.04", "ubuntu-24.04"])
@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_ubuntu_has_its_own_server_packages_with_the_branch_in_their_names(
    system: str, architecture: str
) -> None:
    found = plan(host(system, architecture=architecture))
    assert (found["source"], found["pin"], found["modules"]) == ("distribution", "", "dkms")
    assert names(found) == [
        "nvidia-headless-580-server-open",
        "nvidia-headless-no-dkms-580-server-open",
        "nvidia-dkms-580-server-open",
        "nvidia-compute-utils-580-server",
        "nvidia-utils-580-server",
        "dkms",
        "linux-headers-6.8.0-45-generic",
        "linux-headers-generic",
    ]


@pytest.mark.parametrize("branch", ["580", "590", "595"])
def test_each_branch_of_ubuntu_names_its_packages_alike(branch: str) -> None:
    found = plan(host("ubuntu-24.04"), version=f"{branch}.1.01")
    assert f"nvidia-headless-{branch}-server-open" in names(found)
    assert refusals(host("ubuntu-24.04"), version=f"{branch}.1.01") == ""


@pytest.mark.parametrize(
    ("system", "key"), [("debian-12", "3bf863cc.pub"), ("debian-13", "8793F200.pub")]
)
@pytest.mark.parametrize(
    ("architecture", "folder", "meta"),
    [("x86_64", "x86_64", "linux-headers-amd64"), ("aarch64", "sbsa", "linux-headers-arm64")],
)
def test_debian_has_those_of_nvidia_held_to_one_version_by_a_pinning_package(
    system: str, key: str, architecture: str, folder: str, meta: str
) -> None:
    found = plan(host(system, architecture=architecture), version="590.48.01")
    assert found["folder"] == f"{system.replace('-', '')}/{folder}"
    assert (found["source"], found["key"]) == ("nvidia", key)
    assert found["pin"] == "nvidia-driver-pinning-590.48.01"
    assert names(found) == [
        "nvidia-driver-cuda",
        "nvidia-kernel-open-dkms",
        "dkms",
        "linux-headers-6.12.48+deb13-amd64",
        meta,
    ]


def test_a_point_release_of_debian_is_its_release() -> None:
    assert plan(host("debian-12.7"))["system"] == "debian-12"


def test_cards_that_the_open_modules_do_not_know_get_the_others() -> None:
    assert "nvidia-kernel-dkms" in names(plan(host("debian-13", PASCAL, HOPPER)))
    assert "nvidia-dkms-580-server" in names(plan(host("ubuntu-24.04", PASCAL)))
    assert plan(host("debian-13", TURING))["open"] is True


def test_secure_boot_takes_signed_modules_and_their_kernel_where_there_are_some() -> None:
    found = plan(host("ubuntu-24.04", secure_boot=True))
    assert found["modules"] == "signed"
    assert found["others"] == [
        "linux-modules-nvidia-580-server-open-generic",
        "linux-image-generic",
    ]
    assert plan(host("ubuntu-24.04", secure_boot=True), enrolled=True)["modules"] == "dkms"


@pytest.mark.parametrize(
    ("system", "fabric_manager"),
    [
        ("ubuntu-24.04", ["nvidia-fabricmanager-580"]),
        ("debian-13", ["nvidia-fabricmanager", "nvidia-fabricmanager-580"]),
    ],
)
def test_switches_bring_the_fabric_manager(system: str, fabric_manager: list[str]) -> None:
    there = host(system)
    assert plan(there)["fabric_manager"] is False
    there["nvidia"]["switches"] = [NVSWITCH]
    assert plan(there)["versioned"][-1] == fabric_manager
    assert plan(there, fabric_manager="false")["fabric_manager"] is False
    assert plan(host(system), fabric_manager="true")["fabric_manager"] is True


def test_a_fresh_host_is_not_refused() -> None:
    for system in ("ubuntu-22.04", "ubuntu-24.04", "debian-12", "debian-13"):
        assert refusals(host(system)) == ""


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (lambda: refusals(host("ubuntu-20.04")), "no driver packages of source auto known for"),
        (lambda: refusals(host("debian-13"), source="distribution"), "of source distribution"),
        (lambda: refusals(host("ubuntu-24.04"), version="470.1.02"), "no branch 470 of the driver"),
        (lambda: refusals(host(), version="580"), "which is no exact version"),
        (lambda: refusals(host(architecture="riscv64")), "no driver packages for riscv64"),
        (
            lambda: refusals(host("debian-13", PASCAL), version="590.48.01"),
            "Branch 590 of the driver does not know the card 0000:04:00.0 (10de:15f8), which is",
        ),
        (lambda: refusals(host("debian-13", KEPLER)), "Branch 580 of the driver does not know"),
        (lambda: refusals(host("debian-13", PASCAL), open="true"), "they begin with Turing"),
        (lambda: refusals(host("debian-13", BLACKWELL), open="false"), "need the open kernel"),
        (lambda: refusals(host("debian-13", PASCAL, BLACKWELL)), "No module drives both"),
        (lambda: refusals(host(free_bytes=1e9)), "needs 3 GB in /var/lib/dkms, where 1.0 GB"),
        (lambda: refusals(host(), installed="590.48.01"), "a downgrade can leave a host without"),
        (lambda: refusals(host(), running="580.178.04"), "Driver 580.178.04 is here, later than"),
        (lambda: refusals(host(), running="550.1.02", runfile=True), "`nvidia-uninstall`"),
        (lambda: refusals(host(secure_boot=True)), "`mokutil --import /var/lib/dkms/mok.pub`"),
    ],
)
def test_it_refuses(said: Any, why: str) -> None:
    assert why in said()


def test_somebody_elses_program_on_a_card_is_named_and_ours_is_not() -> None:
    there = host()
    there["nvidia"]["processes"] = [
        {"pid": 31, "process": "train.py", "unit": "", "ours": False},
        {"pid": 32, "process": "vllm", "unit": "", "ours": True},
    ]
    said = refusals(there, running="570.1.02")
    assert "Another program uses a card: train.py (pid 31)." in said
    assert refusals(there, running="580.173.02", installed="580.173.02") == ""


def test_what_is_installed_needs_no_room_any_more() -> None:
    assert refusals(host(free_bytes=1e9), installed="580.173.02", running="580.173.02") == ""


def test_an_enrolled_key_makes_secure_boot_no_obstacle() -> None:
    assert refusals(host(secure_boot=True), enrolled=True) == ""


@pytest.mark.parametrize(
    ("running", "managed", "least", "choice"),
    [
        ("570.1.02", False, "", "leave"),
        ("570.1.02", False, "570.1.2", "leave"),
        ("570.1.02", False, "580.65.06", "install"),
        ("", False, "", "install"),
        ("580.95.05", True, "", "install"),
    ],
)
def test_a_driver_that_works_and_is_late_enough_is_left_alone(
    running: str, managed: bool, least: str, choice: str
) -> None:
    assert driver.driver_choice(running, managed, least) == choice


def test_the_drivers_packages_are_told_from_others() -> None:
    packages = driver.driver_packages(
        "installed nvidia-utils-580-server 580.173.02-0ubuntu0.24.04.1\n"
        "installed libnvidia-container1 1.20.0-1\n"
        "installed nvidia-container-toolkit 1.20.0-1\n"
        "config-files nvidia-utils-570-server 570.1.02-1\n"
        "installed linux-modules-nvidia-580-server-open-generic 6.8.0-45.45\n"
        "installed libcuda1 580.173.02-1\n"
        "not-installed nvidia-settings \n"
    )
    assert set(packages) == {
        "nvidia-utils-580-server",
        "linux-modules-nvidia-580-server-open-generic",
        "libcuda1",
    }
    assert driver.installed_driver(packages) == "580.173.02"
    assert driver.installed_driver({}) == ""


def test_the_latest_of_several_versions_counts() -> None:
    assert driver.installed_driver({"a": "580.95.05-1", "b": "580.126.20-1"}) == "580.126.20"


MADISON = """\
 nvidia-utils-580-server | 580.178.04-0ubuntu0.24.04.1 | http://archive.example noble-updates
 nvidia-utils-580-server | 580.173.02-0ubuntu0.24.04.1 | http://archive.example noble
 nvidia-fabricmanager-580 | 580.173.02-0ubuntu3 | http://archive.example noble
"""


def test_the_whole_version_of_each_package_is_found() -> None:
    wanted = [["nvidia-utils-580-server"], ["nvidia-fabricmanager", "nvidia-fabricmanager-580"]]
    assert driver.exact_versions(MADISON, wanted, "580.173.02") == {
        "nvidia-utils-580-server": "580.173.02-0ubuntu0.24.04.1",
        "nvidia-fabricmanager-580": "580.173.02-0ubuntu3",
    }


def test_a_version_that_apt_does_not_know_is_told_with_those_it_knows() -> None:
    wanted = [["nvidia-utils-580-server"], ["nvidia-dkms-580-server"]]
    assert driver.exact_versions(MADISON, wanted, "580.1.02") == {
        "nvidia-utils-580-server": "!580.178.04-0ubuntu0.24.04.1, 580.173.02-0ubuntu0.24.04.1",
        "nvidia-dkms-580-server": "!none",
    }


def test_packages_of_other_branches_leave() -> None:
    there = {
        "nvidia-utils-570-server": "",
        "libnvidia-compute-570-server": "",
        "nvidia-utils-580-server": "",
        "nvidia-firmware-570-server-570.1.02": "",
        "nvidia-driver-pinning-570.1.02": "",
        "libcuda1": "",
    }
    assert driver.other_branches(there, "580") == [
        "libnvidia-compute-570-server",
        "nvidia-driver-pinning-570.1.02",
        "nvidia-firmware-570-server-570.1.02",
        "nvidia-utils-570-server",
    ]


def test_the_maps_name_no_system_that_the_platforms_lack() -> None:
    preflight = yaml.safe_load((Path(ROOT) / "roles/preflight/vars/main.yml").read_text())
    supported = {
        f"{distribution}-{version}"
        for distribution, versions in preflight["_preflight_platforms"].items()
        for version in versions
    }
    assert {name for source in SOURCES.values() for name in source["systems"]} == supported
