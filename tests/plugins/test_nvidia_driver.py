"""Which packages bring a driver to each supported system, and what is refused before a change."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.plugin_files import ROOT, load

driver = load("filter", "nvidia_driver")
apt_sources = load("filter", "apt_sources")

VARIABLES = yaml.safe_load((ROOT / "roles/nvidia_driver/vars/main.yml").read_text())
SOURCES = VARIABLES["_nvidia_driver_sources"]
ASKED = {"source": "auto", "version": "580", "open": "auto", "fabric_manager": "auto"}
WANTED = {"min_version": "", "upgrade": False, "enrolled": False, "disk_gb": 3.0}

PASCAL = {"address": "0000:04:00.0", "device": "15f8", "driver": ""}
TURING = {"address": "0000:05:00.0", "device": "1e87", "driver": ""}
HOPPER = {"address": "0000:18:00.0", "device": "2330", "driver": ""}
BLACKWELL = {"address": "0000:19:00.0", "device": "2bb1", "driver": ""}
KEPLER = {"address": "0000:20:00.0", "device": "102d", "driver": ""}
NVSWITCH = {"address": "0000:06:00.0", "device": "22a3", "driver": ""}


def host(system: str = "debian-13", *gpus: dict[str, str], **more: Any) -> dict[str, Any]:
    distribution, _, version = system.partition("-")
    ubuntu = distribution == "ubuntu"
    return {
        "distribution": distribution,
        "version": version,
        "architecture": "x86_64",
        "kernel": "6.8.0-45-generic" if ubuntu else "6.12.48+deb13-amd64",
        "secure_boot": False,
        "free_bytes": 100e9,
        "nvidia": {"gpus": list(gpus or (HOPPER,)), "switches": [], "processes": []},
        **more,
    }


def plan(there: dict[str, Any], **asked: str) -> dict[str, Any]:
    found = driver.driver_plan(there, SOURCES, ASKED | asked)
    assert isinstance(found, dict)
    return found


def refusals(there: dict[str, Any], **more: Any) -> str:
    asked = {name: value for name, value in more.items() if name in ASKED}
    found = {"running": "", "installed": "", "kept": "", "runfile": False, "enrolled": False}
    found |= {name: value for name, value in more.items() if name in found}
    found["open"] = (ASKED | asked)["open"]
    return " ".join(driver.driver_refusals(there, plan(there, **asked), SOURCES, found))


def meta(suffix: str, brings: str) -> str:
    return f"installed linux-image-{suffix} linux-image-{brings}, linux-firmware"


def kernel(running: str, *metas: str) -> dict[str, Any]:
    return {"running": running, "metas": driver.kernel_metas("\n".join(metas), running)}


class Archive:
    """What apt-cache would print of some packages."""

    def __init__(self) -> None:
        self.madison = ""
        self.show = ""
        self.pins = ""

    def has(self, version: str, *names: str) -> "Archive":
        for name in names:
            self.madison += f" {name} | {version} | http://archive.example noble-updates\n"
        return self

    def driver(self, version: str, branch: str = "580", without: str = "none") -> "Archive":
        """Add the packages of Canonical's driver, all but one."""
        names = [
            f"nvidia-headless-no-dkms-{branch}-server-open",
            f"nvidia-compute-utils-{branch}-server",
            f"nvidia-utils-{branch}-server",
            f"nvidia-dkms-{branch}-server-open",
        ]
        whole = f"{version}-0ubuntu0.24.04.1"
        return self.has(whole, *(name for name in names if without not in name))

    def prebuilt(self, suffix: str, version: str, whole: str = "6.8.0-45.45+1") -> "Archive":
        """Add modules for a kernel, or a meta package of them; both depend on their driver."""
        name = f"linux-modules-nvidia-580-server-open-{suffix}"
        self.show += (
            f"Package: {name}\nArchitecture: amd64\nVersion: {whole}\nPriority: optional\n"
            f"Depends: debconf (>= 0.5) | debconf-2.0, nvidia-kernel-common-580-server (<="
            f" {version}-1), nvidia-kernel-common-580-server (>= {version})\nSection: kernel\n\n"
        )
        return self.has(whole, name)

    def pinned(self, *versions: str) -> "Archive":
        for version in versions:
            self.pins += f"nvidia-driver-pinning-{version} - Pins NVIDIA packages\n"
        return self


STOCK = "6.8.0-45-generic"


def choice(
    archive: Archive,
    there: dict[str, Any] | None = None,
    kernels: dict[str, Any] | None = None,
    installed: dict[str, str] | None = None,
    version: str = "580",
    **wanted: Any,
) -> dict[str, Any]:
    there = there or host("ubuntu-24.04")
    packages = {"installed": installed or {}, **vars(archive)}
    found = driver.choose_driver(
        plan(there, version=version),
        there,
        kernels or kernel(there["kernel"], meta("generic", there["kernel"])),
        packages,
        WANTED | wanted,
    )
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("system", ["ubuntu-22.04", "ubuntu-24.04", "ubuntu-26.04"])
@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_ubuntu_has_its_own_server_packages_with_the_branch_in_their_names(
    system: str, architecture: str
) -> None:
    found = plan(host(system, architecture=architecture))
    assert (found["source"], found["pin"]) == ("distribution", "")
    assert found["versioned"] == [
        ["nvidia-headless-no-dkms-580-server-open"],
        ["nvidia-compute-utils-580-server"],
        ["nvidia-utils-580-server"],
    ]
    assert found["dkms"] == "nvidia-dkms-580-server-open"
    assert found["prebuilt"] == "linux-modules-nvidia-580-server-open"


@pytest.mark.parametrize("branch", ["580", "590", "595"])
def test_each_branch_of_ubuntu_names_its_packages_alike(branch: str) -> None:
    found = plan(host("ubuntu-24.04"), version=f"{branch}.1.01")
    assert [f"nvidia-headless-no-dkms-{branch}-server-open"] in found["versioned"]
    assert refusals(host("ubuntu-24.04"), version=f"{branch}.1.01") == ""


@pytest.mark.parametrize(
    ("system", "key"), [("debian-12", "3bf863cc.pub"), ("debian-13", "8793F200.pub")]
)
@pytest.mark.parametrize(("architecture", "folder"), [("x86_64", "x86_64"), ("aarch64", "sbsa")])
def test_debian_has_those_of_nvidia_held_to_one_version_by_a_pinning_package(
    system: str, key: str, architecture: str, folder: str
) -> None:
    found = plan(host(system, architecture=architecture), version="590.48.01")
    assert found["directory"] == f"{system.replace('-', '')}/{folder}"
    assert (found["source"], found["key"]) == ("nvidia", key)
    assert (found["pin"], found["prebuilt"]) == ("nvidia-driver-pinning-", "")
    assert (found["versioned"], found["dkms"]) == (
        [["nvidia-driver-cuda"]],
        "nvidia-kernel-open-dkms",
    )


def test_a_point_release_of_debian_is_its_release() -> None:
    assert plan(host("debian-12.7"))["system"] == "debian-12"


def test_gpus_that_the_open_modules_do_not_support_get_the_others() -> None:
    assert plan(host("debian-13", PASCAL, HOPPER))["dkms"] == "nvidia-kernel-dkms"
    closed = plan(host("ubuntu-24.04", PASCAL))
    assert closed["dkms"] == "nvidia-dkms-580-server"
    assert closed["prebuilt"] == "linux-modules-nvidia-580-server"
    assert plan(host("debian-13", TURING))["open"] is True


def test_of_a_branch_the_newest_version_that_all_packages_have_is_taken() -> None:
    archive = Archive().driver("580.173.02").driver("580.178.04", without="compute-utils")
    archive.driver("595.71.05").has("1", f"linux-headers-{STOCK}")
    found = choice(archive)
    assert found["version"] == "580.173.02"
    assert found["versioned"]["nvidia-utils-580-server"] == "580.173.02-0ubuntu0.24.04.1"
    assert choice(archive.driver("580.178.04"))["version"] == "580.178.04"
    assert choice(archive, version="580.173.02")["version"] == "580.173.02"
    assert "no version 580.1.02 of all" in choice(archive, version="580.1.02")["refusal"]


def test_580_95_comes_before_580_126() -> None:
    archive = Archive().driver("580.95.05").driver("580.126.20").has("1", f"linux-headers-{STOCK}")
    assert choice(archive)["version"] == "580.126.20"


def test_a_driver_of_the_branch_that_is_installed_stays_until_an_upgrade_is_asked_for() -> None:
    archive = Archive().driver("580.173.02").driver("580.178.04").has("1", f"linux-headers-{STOCK}")
    installed = {"nvidia-utils-580-server": "580.173.02-0ubuntu0.24.04.1"}
    assert choice(archive, installed=installed)["version"] == "580.173.02"
    assert choice(archive, installed=installed, upgrade=True)["version"] == "580.178.04"
    assert choice(archive, installed=installed, min_version="580.178")["version"] == "580.178.04"
    newer = {"nvidia-utils-580-server": "580.200.01-0ubuntu0.24.04.1"}
    refusal = choice(archive, installed=newer)["refusal"]
    assert "no version of branch 580 from 580.200.01 on, which is installed, of all of" in refusal


def test_a_least_version_that_the_branch_does_not_reach_is_refused_with_what_there_is() -> None:
    refusal = choice(Archive().driver("580.173.02"), min_version="580.178")["refusal"]
    assert "apt knows no version of branch 580 from 580.178 on of all of nvidia-headless" in refusal
    assert "nvidia-utils-580-server (there is: 580.173.02)" in refusal


@pytest.mark.parametrize("secure_boot", [False, True])
@pytest.mark.parametrize(
    ("running", "suffix"),
    [
        ("6.8.0-45-generic", "generic"),
        ("5.15.0-203-generic", "generic"),
        ("6.17.0-40-generic", "generic-hwe-24.04"),
        ("6.8.0-45-generic", "generic-hwe-22.04"),
        ("7.0.0-43-generic", "generic-hwe-26.04"),
        ("6.8.0-1045-aws", "aws"),
        ("6.17.0-1010-aws", "aws-6.17"),
        ("6.14.0-1020-azure", "azure"),
        ("6.8.0-1064-azure-fde", "azure-fde"),
        ("6.8.0-1035-gcp", "gcp-lts-24.04"),
        ("6.8.0-1035-oracle", "oracle"),
        ("6.8.0-1020-nvidia", "nvidia"),
        ("6.17.0-1014-nvidia-64k", "nvidia-64k-hwe-24.04"),
        ("6.8.0-45-lowlatency", "lowlatency-hwe-22.04"),
    ],
)
def test_modules_of_the_archive_come_first_and_follow_the_kernels_own_meta_package(
    secure_boot: bool, running: str, suffix: str
) -> None:
    there = host("ubuntu-24.04", kernel=running, secure_boot=secure_boot)
    archive = Archive().driver("580.178.04").has("1", f"linux-headers-{running}")
    archive.prebuilt(running, "580.178.04").prebuilt(suffix, "580.178.04")
    # Another kernel's, which must not be taken for it.
    archive.prebuilt("generic" if suffix != "generic" else "generic-hwe-24.04", "580.178.04")
    kernels = kernel(running, meta("generic", "5.4.0-1-generic"), meta(suffix, running))
    found = choice(archive, there, kernels)
    assert (found["version"], found["modules"]) == ("580.178.04", "prebuilt")
    assert found["next_kernel"] is False
    prebuilt = "linux-modules-nvidia-580-server-open"
    brought = {name for name in found["versioned"] if name.startswith(prebuilt)}
    assert brought == {f"{prebuilt}-{running}", f"{prebuilt}-{suffix}"}
    assert found["others"] == [f"linux-image-{suffix}"]


def test_a_virtual_machines_kernel_is_followed_by_the_modules_of_generic() -> None:
    archive = Archive().driver("580.178.04")
    archive.prebuilt(STOCK, "580.178.04").prebuilt("generic", "580.178.04")
    found = choice(archive, kernels=kernel(STOCK, meta("virtual", STOCK)))
    assert "linux-modules-nvidia-580-server-open-generic" in found["versioned"]
    assert found["others"] == ["linux-image-virtual"]


def test_modules_of_an_earlier_driver_of_the_branch_are_better_than_a_compiler() -> None:
    archive = Archive().driver("580.178.04").driver("580.173.02")
    archive.has("1", f"linux-headers-{STOCK}").prebuilt(STOCK, "580.173.02")
    # The meta package is for the later driver and the next kernel already: it is left out.
    archive.prebuilt("generic", "580.178.04")
    found = choice(archive)
    assert (found["version"], found["modules"]) == ("580.173.02", "prebuilt")
    assert "linux-modules-nvidia-580-server-open-generic" not in found["versioned"]
    assert found["others"] == []


def test_modules_of_a_driver_whose_other_packages_left_the_archive_are_of_no_use() -> None:
    archive = Archive().driver("580.178.04").has("1", f"linux-headers-{STOCK}")
    found = choice(archive.prebuilt(STOCK, "580.173.02"))
    assert (found["version"], found["modules"]) == ("580.178.04", "dkms")


def test_the_kernel_of_the_next_boot_gets_modules_too() -> None:
    kernels = kernel(STOCK, meta("generic", "6.8.0-50-generic"))
    archive = Archive().driver("580.178.04").has("1", f"linux-headers-{STOCK}")
    archive.has("1", "linux-headers-generic").prebuilt(STOCK, "580.178.04")
    found = choice(archive, kernels=kernels)
    assert found["modules"] == "dkms"
    assert found["others"] == ["dkms", f"linux-headers-{STOCK}", "linux-headers-generic"]
    found = choice(archive.prebuilt("6.8.0-50-generic", "580.178.04"), kernels=kernels)
    assert found["modules"] == "prebuilt"
    assert "linux-modules-nvidia-580-server-open-6.8.0-50-generic" in found["versioned"]


@pytest.mark.parametrize(
    ("system", "running", "suffix"),
    [
        ("ubuntu-24.04", "6.8.0-45-generic", "generic"),
        ("ubuntu-24.04", "6.17.0-40-generic", "generic-hwe-24.04"),
        ("debian-12", "6.1.0-40-amd64", "amd64"),
        ("debian-12", "6.1.0-40-cloud-amd64", "cloud-amd64"),
        ("debian-13", "6.12.48+deb13-amd64", "amd64"),
        ("debian-13", "6.12.48+deb13-cloud-arm64", "cloud-arm64"),
        ("debian-13", "6.12.48+deb13-rt-amd64", "rt-amd64"),
    ],
)
def test_a_kernel_without_modules_in_the_archive_builds_them_with_its_own_headers(
    system: str, running: str, suffix: str
) -> None:
    there = host(system, kernel=running)
    archive = Archive().has("1", f"linux-headers-{running}", f"linux-headers-{suffix}")
    archive.driver("580.178.04").pinned("580.178.04")
    archive.has("580.178.04-1", "nvidia-driver-cuda", "nvidia-kernel-open-dkms")
    found = choice(archive, there, kernel(running, meta(suffix, running)))
    assert (found["modules"], found["next_kernel"]) == ("dkms", False)
    assert found["others"] == ["dkms", f"linux-headers-{running}", f"linux-headers-{suffix}"]


def test_a_version_of_nvidias_without_its_pinning_package_is_not_taken() -> None:
    there = host("debian-13")
    archive = Archive().has("1", f"linux-headers-{there['kernel']}").pinned("580.173.02")
    for version in ("580.178.04-1", "580.173.02-1"):
        archive.has(version, "nvidia-driver-cuda", "nvidia-kernel-open-dkms")
    archive.has("580.173.02-1", "nvidia-persistenced")
    found = choice(archive, there, kernel(there["kernel"]))
    assert (found["version"], found["pin"]) == ("580.173.02", "nvidia-driver-pinning-580.173.02")
    assert found["versioned"]["nvidia-persistenced"] == "580.173.02-1"


def test_a_kernel_without_headers_in_the_archive_is_followed_by_the_next_one_and_a_reboot() -> None:
    there = host("debian-13")
    archive = Archive().has("580.178.04-1", "nvidia-driver-cuda", "nvidia-kernel-open-dkms")
    archive.pinned("580.178.04")
    kernels = kernel(there["kernel"], meta("amd64", there["kernel"]))
    refusal = choice(archive, there, kernels)["refusal"]
    assert f"nor linux-headers-{there['kernel']} to build them with" in refusal
    archive.has("1", "linux-image-amd64", "linux-headers-amd64")
    found = choice(archive, there, kernels)
    assert (found["modules"], found["next_kernel"]) == ("dkms", True)
    assert found["others"] == ["dkms", "linux-image-amd64", "linux-headers-amd64"]


def test_secure_boot_takes_signed_modules_alone_of_the_next_kernel_if_need_be() -> None:
    there = host("ubuntu-24.04", secure_boot=True)
    archive = Archive().driver("580.178.04").has("1", f"linux-headers-{STOCK}")
    refusal = choice(archive, there)["refusal"]
    assert "no signed modules of driver 580.178.04 for kernel 6.8.0-45-generic" in refusal
    assert "`update-secureboot-policy --new-key` and `mokutil --import" in refusal
    assert f" {driver.signing_key(there)}`" in refusal
    assert choice(archive, there, enrolled=True)["modules"] == "dkms"
    found = choice(archive.prebuilt("generic", "580.178.04"), there)
    assert (found["modules"], found["next_kernel"]) == ("prebuilt", True)
    assert found["others"] == ["linux-image-generic"]


def test_an_upgrade_takes_the_next_kernel_rather_than_a_compiler() -> None:
    archive = Archive().driver("580.178.04").has("1", f"linux-headers-{STOCK}")
    archive.prebuilt("generic", "580.178.04")
    assert choice(archive)["modules"] == "dkms"
    found = choice(archive, upgrade=True)
    assert (found["modules"], found["next_kernel"]) == ("prebuilt", True)


def test_only_building_modules_needs_disk_space() -> None:
    there = host("ubuntu-24.04", free_bytes=1e9)
    archive = Archive().driver("580.178.04").has("1", f"linux-headers-{STOCK}")
    assert "needs 3 GB in /var/lib/dkms, where 1.0 GB are free" in choice(archive, there)["refusal"]
    assert choice(archive.prebuilt(STOCK, "580.178.04"), there)["refusal"] == ""


def test_the_meta_package_of_a_kernel_is_the_one_that_brings_it() -> None:
    hwe = [meta("generic", "6.8.0-50-generic"), meta("generic-hwe-24.04", "6.17.0-41-generic")]

    def found(running: str, *listing: str) -> list[str]:
        return [each["suffix"] for each in kernel(running, *listing)["metas"]]

    assert found("6.17.0-41-generic", *hwe)[0] == "generic-hwe-24.04"
    assert found("6.17.0-35-generic", *hwe)[0] == "generic-hwe-24.04"
    assert found("6.8.0-45-generic", *hwe)[0] == "generic"
    both = [meta("generic", "7.0.0-43-generic"), meta("generic-hwe-26.04", "7.0.0-45-generic")]
    assert found("7.0.0-45-generic", *both)[0] == "generic-hwe-26.04"
    assert found("6.8.0-1045-aws", *hwe) == []
    assert found(STOCK, "installed linux-image-6.8.0-45-generic kmod, linux-base") == []
    assert found(STOCK, "not-installed linux-image-generic linux-image-6.8.0-45-generic") == []
    signed = "installed linux-image-cloud-amd64 linux-image-6.1.0-40-cloud-amd64 (= 6.1.153-1)"
    assert found("6.1.0-40-cloud-amd64", signed) == ["cloud-amd64"]


def test_apt_is_asked_about_all_that_a_choice_may_need() -> None:
    queries = driver.driver_queries(
        plan(host("ubuntu-24.04")), kernel(STOCK, meta("generic", "6.8.0-50-generic"))
    )
    prebuilt = "linux-modules-nvidia-580-server-open"
    assert queries["show"] == [
        f"{prebuilt}-{STOCK}",
        f"{prebuilt}-6.8.0-50-generic",
        f"{prebuilt}-generic",
    ]
    assert {f"linux-headers-{STOCK}", "linux-headers-generic", "linux-image-generic"} < set(
        queries["madison"]
    )
    assert driver.driver_queries(plan(host()), kernel("6.12.48+deb13-amd64"))["show"] == []


COMPLETE = dict.fromkeys(
    (
        "nvidia-headless-no-dkms-580-server-open",
        "nvidia-compute-utils-580-server",
        "nvidia-utils-580-server",
    ),
    "580.173.02-0ubuntu0.24.04.1",
)
DKMS = {
    "nvidia-dkms-580-server-open": "580.173.02-0ubuntu0.24.04.1",
    f"linux-headers-{STOCK}": "6.8.0-45.45",
}
PREBUILT = {f"linux-modules-nvidia-580-server-open-{STOCK}": "6.8.0-45.45+1"}


@pytest.mark.parametrize(
    ("installed", "asked", "minimum", "version"),
    [
        (COMPLETE | DKMS, "580", "", "580.173.02"),
        (COMPLETE | PREBUILT, "580", "580.65.06", "580.173.02"),
        (COMPLETE | PREBUILT, "580.173.02", "", "580.173.02"),
        (COMPLETE | PREBUILT, "580.178.04", "", ""),
        (COMPLETE | PREBUILT, "595", "", ""),
        (COMPLETE | PREBUILT, "580", "580.178.04", ""),
        (COMPLETE, "580", "", ""),
        (COMPLETE | {"nvidia-dkms-580-server-open": DKMS["nvidia-dkms-580-server-open"]}, "580",
         "", ""),
        (COMPLETE | PREBUILT | {"nvidia-utils-580-server": "580.95.05-1"}, "580", "", ""),
        (COMPLETE | PREBUILT | {"nvidia-utils-570-server": "570.1.02-1"}, "580", "", ""),
        (PREBUILT, "580", "", ""),
        ({}, "580", "", ""),
    ],
)  # fmt: skip
def test_a_driver_is_complete_by_what_is_installed_alone(
    installed: dict[str, str], asked: str, minimum: str, version: str
) -> None:
    wanted = plan(host("ubuntu-24.04"), version=asked)
    assert driver.complete_driver(wanted, installed, STOCK, minimum) == version


def test_nvidias_driver_is_complete_with_its_pinning_package() -> None:
    there = host("debian-13")
    installed = {
        "nvidia-driver-cuda": "580.173.02-1",
        "nvidia-kernel-open-dkms": "580.173.02-1",
        f"linux-headers-{there['kernel']}": "6.12.48-1",
    }
    assert driver.complete_driver(plan(there), installed, there["kernel"], "") == ""
    installed["nvidia-driver-pinning-580.173.02"] = "580.173.02-1"
    assert driver.complete_driver(plan(there), installed, there["kernel"], "") == "580.173.02"


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
    for system in ("ubuntu-22.04", "ubuntu-24.04", "ubuntu-26.04", "debian-12", "debian-13"):
        assert refusals(host(system)) == ""


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (lambda: refusals(host("ubuntu-20.04")), "no driver packages of source auto known for"),
        (lambda: refusals(host("debian-13"), source="distribution"), "of source distribution"),
        (lambda: refusals(host("ubuntu-24.04"), version="470.1.02"), "no branch 470 of the driver"),
        (lambda: refusals(host(), version="latest"), "which is neither a branch nor a version"),
        (lambda: refusals(host("ubuntu-26.04"), version="590"), "there are 580, 595"),
        (lambda: refusals(host(architecture="riscv64")), "no driver packages for riscv64"),
        (
            lambda: refusals(host("debian-13", PASCAL), version="590.48.01"),
            "Branch 590 of the driver does not know the GPU 0000:04:00.0 (10de:15f8), which is",
        ),
        (lambda: refusals(host("debian-13", KEPLER)), "Branch 580 of the driver does not know"),
        (lambda: refusals(host("debian-13", PASCAL), open="true"), "they begin with Turing"),
        (lambda: refusals(host("debian-13", BLACKWELL), open="false"), "need the open kernel"),
        (lambda: refusals(host("debian-13", PASCAL, BLACKWELL)), "No module drives both"),
        (lambda: refusals(host(), installed="590.48.01"), "a downgrade can leave a host without"),
        (
            lambda: refusals(host(), version="580.173.02", running="580.178.04"),
            "Set nvidia_driver_version to 580.178.04, or",
        ),
        (lambda: refusals(host(), running="595.71.05"), "Set nvidia_driver_version to 595, or"),
        (lambda: refusals(host(), running="550.1.02", runfile=True), "`nvidia-uninstall`"),
        (lambda: refusals(host(secure_boot=True)), "`mokutil --import /var/lib/dkms/mok.pub`"),
    ],
)
def test_it_refuses(said: Any, why: str) -> None:
    assert why in said()


def test_somebody_elses_program_on_a_gpu_is_named_and_ours_is_not() -> None:
    there = host()
    there["nvidia"]["processes"] = [
        {"pid": 31, "process": "train.py", "unit": "", "ours": False},
        {"pid": 32, "process": "vllm", "unit": "", "ours": True},
    ]
    said = refusals(there, running="570.1.02")
    assert "Another program uses a GPU: train.py (pid 31)." in said
    installed = {"running": "580.173.02", "installed": "580.173.02"}
    assert "train.py" in refusals(there, **installed)
    assert refusals(there, **installed, kept="580.173.02") == ""


def test_a_later_driver_of_the_branch_is_no_downgrade() -> None:
    assert refusals(host(), installed="580.178.04", running="580.178.04") == ""


@pytest.mark.parametrize(
    ("system", "certificate", "command"),
    [
        ("ubuntu-22.04", "/var/lib/shim-signed/mok/MOK.der", "update-secureboot-policy --new-key"),
        ("ubuntu-24.04", "/var/lib/shim-signed/mok/MOK.der", "update-secureboot-policy --new-key"),
        # Its dkms, 3.0.10, has no generate_mok.
        ("debian-12", "/var/lib/dkms/mok.pub", "[ -e /var/lib/dkms/mok.pub ] || openssl req -x509"),
        ("debian-13", "/var/lib/dkms/mok.pub", "dkms generate_mok"),
    ],
)
def test_the_key_to_enrol_is_the_one_by_which_dkms_signs_there(
    system: str, certificate: str, command: str
) -> None:
    assert driver.signing_key(host(system)) == certificate
    hint = driver.enrol_hint(host(system))
    assert f"`{command}" in hint
    assert f"`mokutil --import {certificate}`" in hint


def test_the_key_that_debian_12_is_to_make_is_one(tmp_path: Path) -> None:
    command = driver.enrol_hint(host("debian-12")).split("`")[3]
    made = command.replace("/var/lib/dkms", str(tmp_path))
    for _ in range(2):
        subprocess.run(["sh", "-c", made], check=True, capture_output=True)
    told = ["openssl", "x509", "-inform", "DER", "-noout", "-in", str(tmp_path / "mok.pub")]
    subprocess.run(told, check=True)
    assert (tmp_path / "mok.key").stat().st_mode & 0o077 == 0


def test_an_enrolled_key_makes_secure_boot_no_obstacle() -> None:
    assert refusals(host(secure_boot=True), enrolled=True) == ""


@pytest.mark.parametrize(
    ("running", "managed", "minimum", "choice"),
    [
        ("570.1.02", False, "", "leave"),
        ("570.1.02", False, "570.1.2", "leave"),
        ("570.1.02", False, "580.65.06", "install"),
        ("", False, "", "install"),
        ("580.95.05", True, "", "install"),
    ],
)
def test_a_driver_that_works_and_is_late_enough_is_left_alone(
    running: str, managed: bool, minimum: str, choice: str
) -> None:
    assert driver.driver_choice(running, managed, minimum) == choice


def test_the_drivers_packages_are_told_from_others() -> None:
    listed = apt_sources.installed_packages(
        "installed nvidia-utils-580-server 580.173.02-0ubuntu0.24.04.1\n"
        "installed libnvidia-container1 1.20.0-1\n"
        "installed nvidia-container-toolkit 1.20.0-1\n"
        "config-files nvidia-utils-570-server 570.1.02-1\n"
        "installed linux-modules-nvidia-580-server-open-generic 6.8.0-45.45\n"
        "installed libcuda1 580.173.02-1\n"
        "not-installed nvidia-settings \n"
    )
    assert "nvidia-container-toolkit" in listed and "nvidia-settings" not in listed
    packages = driver.driver_packages(listed)
    assert set(packages) == {
        "nvidia-utils-580-server",
        "linux-modules-nvidia-580-server-open-generic",
        "libcuda1",
    }
    assert driver.installed_driver(packages) == "580.173.02"
    assert driver.installed_driver({}) == ""


def test_the_latest_of_several_versions_counts() -> None:
    assert driver.installed_driver({"a": "580.95.05-1", "b": "580.126.20-1"}) == "580.126.20"


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
    mapped = {name for source in SOURCES.values() for name in source["systems"]}
    assert mapped - {"ubuntu-26.04"} == supported - {"ubuntu-26.04"}


def stanza(name: str, version: str, **relations: str) -> str:
    fields = {"Package": name, "Version": version, "Architecture": "all"}
    fields |= {"Filename": f"./{name}.deb", "Size": "1", "SHA256": "0" * 64, **relations}
    return "".join(f"{field}: {text}\n" for field, text in fields.items()) + "\n"


@pytest.mark.skipif(not shutil.which("apt-get"), reason="apt is not here")
@pytest.mark.parametrize("pinned", [True, False])
def test_apt_takes_what_an_earlier_driver_depends_on_only_by_our_preferences(
    tmp_path: Path, pinned: bool
) -> None:
    index = ""
    for version in ("580.173.02", "580.178.04"):
        whole, common = f"{version}-0ubuntu0.24.04.1", "nvidia-kernel-common-580-server"
        index += stanza(common, whole, Provides=f"{common}-{version}")
        index += stanza("libnvidia-compute-580-server", whole, Depends=f"{common}-{version}")
        index += stanza(
            "nvidia-utils-580-server",
            whole,
            Depends=f"libnvidia-compute-580-server (>= {version}), {common}-{version}",
        )
    for folder in ("repository", "lists/partial", "cache/archives/partial"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "repository/Packages").write_text(index)
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] copy:{tmp_path}/repository ./\n")
    (tmp_path / "status").write_text("")
    preferences = (ROOT / "roles/nvidia_driver/templates/preferences.j2").read_text()
    preferences = preferences.replace("{{ _nvidia_driver_target }}", "580.173.02").replace(
        "{{ _nvidia_driver_plan.family }}", plan(host("ubuntu-24.04"))["family"]
    )
    (tmp_path / "preferences").write_text(preferences if pinned else "")
    options = {
        "Dir::State": tmp_path,
        "Dir::State::lists": tmp_path / "lists",
        "Dir::State::status": tmp_path / "status",
        "Dir::Cache": tmp_path / "cache",
        "Dir::Etc::sourcelist": tmp_path / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": tmp_path / "preferences",
        "Dir::Etc::preferencesparts": "-",
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", *(f"--option={name}={value}" for name, value in options.items())]
    subprocess.run([*apt, "update"], check=True, capture_output=True)
    done = subprocess.run(
        [*apt, "--simulate", "install", "nvidia-utils-580-server=580.173.02-0ubuntu0.24.04.1"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) is pinned, done.stdout + done.stderr
    if pinned:
        assert "Inst libnvidia-compute-580-server (580.173.02" in done.stdout
        assert "580.178.04" not in done.stdout


FAKE_MODPROBE = """#!/bin/sh
echo "$@" > {log}
cat {bind} >> {log}
exit {status}
"""


@pytest.mark.parametrize(("status", "kept"), [(0, "0"), (1, "1")])
def test_consoles_leave_nouveaus_frame_buffer_and_come_back_where_it_stays_stub(
    tmp_path: Path, status: int, kept: str
) -> None:
    (tmp_path / "sys/module/nouveau").mkdir(parents=True)
    binds = {}
    for number, name in enumerate(("(S) dummy device", "(M) frame buffer device")):
        console = tmp_path / f"sys/class/vtconsole/vtcon{number}"
        console.mkdir(parents=True)
        (console / "name").write_text(f"{name}\n")
        binds[number] = console / "bind"
        binds[number].write_text("1\n")
    modprobe = tmp_path / "bin/modprobe"
    modprobe.parent.mkdir()
    log = tmp_path / "log"
    modprobe.write_text(FAKE_MODPROBE.format(log=log, bind=binds[1], status=status))
    modprobe.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", ROOT / "roles/nvidia_driver/files/release_nouveau.sh", tmp_path / "sys"],
        env={"PATH": f"{modprobe.parent}:/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == status
    # At that moment no console held it.
    assert log.read_text() == "--remove nouveau\n0\n"
    assert (binds[0].read_text(), binds[1].read_text()) == ("1\n", f"{kept}\n")
