"""The package maps of driver and Docker, resolved for each supported system against package lists.

package_lists.yml has what was seen, and what was not: a map that names anything else fails here.
"""

from itertools import product
from typing import Any

import pytest
import yaml

from tests.plugins.plugin_files import ROOT
from tests.plugins.test_nvidia_driver import NVSWITCH, host, plan

SYSTEMS = ("debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04", "ubuntu-26.04")
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
SEEN = yaml.safe_load((ROOT / "tests/plugins/package_lists.yml").read_text())
DOCKER = yaml.safe_load((ROOT / "roles/docker/vars/main.yml").read_text())


def named(system: str, architecture: str) -> set[str]:
    """Return the packages of the distribution and of NVIDIA that the maps name."""
    there = host(system, architecture=ARCHITECTURES[architecture])
    there["nvidia"]["switches"] = [NVSWITCH]
    found: dict[str, Any] = plan(there)
    # Of a list of names one exists. A kernel's own headers and modules are as their kernel: the
    # meta packages of the stock kernel stand for them here.
    stock = "generic" if system.startswith("ubuntu") else architecture
    names = {alternatives[0] for alternatives in found["versioned"]} | {found["dkms"], "dkms"}
    names |= {f"linux-headers-{stock}", *found["optional"]}
    if found["prebuilt"]:
        names |= {f"{found['prebuilt']}-{stock}"}
    return names | set(DOCKER["_docker_distribution_packages"].get(system, ()))


@pytest.mark.parametrize(("system", "architecture"), product(SYSTEMS, ARCHITECTURES))
def test_each_package_that_the_maps_name_was_seen_or_is_known_not_to_have_been(
    system: str, architecture: str
) -> None:
    seen = {
        name
        for entry in SEEN["lists"]
        if system in entry["systems"] and architecture in entry["architectures"]
        for name in entry["names"]
    }
    assert named(system, architecture) - seen == set(SEEN["unseen"][f"{system} {architecture}"])


@pytest.mark.parametrize(
    ("system", "suffix"),
    [
        ("ubuntu-22.04", "generic-hwe-22.04"),
        ("ubuntu-24.04", "generic-hwe-24.04"),
        ("ubuntu-24.04", "aws"),
        ("ubuntu-24.04", "gcp"),
        ("ubuntu-24.04", "oracle-edge"),
        ("ubuntu-26.04", "azure"),
    ],
)
def test_modules_are_prebuilt_for_other_kernels_than_the_stock_one(
    system: str, suffix: str
) -> None:
    seen = {
        name for entry in SEEN["lists"] if system in entry["systems"] for name in entry["names"]
    }
    assert f"{plan(host(system))['prebuilt']}-{suffix}" in seen


def test_debian_12_has_no_compose_of_its_own_and_so_takes_dockers() -> None:
    assert "debian-12" not in DOCKER["_docker_distribution_packages"]
    assert "debian-12" in DOCKER["_docker_source"]
