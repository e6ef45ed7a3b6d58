"""The bundle role on a lab host that lost its way out after everything was collected from it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

from tests.rerun import converge

FOLDER = "/var/lib/infbox/bundle"
BUNDLE = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / ".lab" / "molecule-bundle"


@pytest.fixture
def manifest() -> Iterator[str]:
    """What the bundle says of itself, put back afterwards."""
    file = BUNDLE / "bundle.json"
    text = file.read_text()
    yield text
    file.write_text(text)


def test_there_is_no_way_out(host: Host) -> None:
    assert host.run("timeout 20 apt-get update && apt-cache show bc").failed


def test_apt_installs_from_the_bundle(host: Host) -> None:
    host.check_output(f"APT_CONFIG={FOLDER}/apt.conf apt-get -qq install --yes bc")
    assert host.check_output("echo 6*7 | bc") == "42"


def test_pip_installs_from_the_bundle(host: Host) -> None:
    host.check_output(
        "/srv/venv/bin/pip --quiet install --no-index --require-hashes"
        f" --find-links {FOLDER}/wheels --requirement /srv/requirements.txt"
    )


def test_an_image_is_loaded_by_the_name_that_the_bundle_says(host: Host) -> None:
    image = json.loads((BUNDLE / "bundle.json").read_text())["images"]["it"]
    archive = f"{FOLDER}/images/it.tar"
    assert host.file(archive).sha256sum == image["checksum"]
    host.check_output(f"docker load --quiet --input {archive}")
    host.check_output(f"docker run --rm {image['reference']} /usr/bin/true")


def test_the_host_s_own_lists_of_packages_are_as_they_were(host: Host) -> None:
    assert not host.file("/etc/apt/sources.list.d/bundle.sources").exists
    assert host.run("apt-config dump | grep bundle").failed


def test_the_model_stays_on_the_controller_for_the_role_that_brings_it(host: Host) -> None:
    assert (BUNDLE / "model" / "weights").read_text() == "weights\n"
    assert not host.file(f"{FOLDER}/model").exists


def test_a_bundle_that_was_changed_is_refused_with_the_file() -> None:
    weights = BUNDLE / "model" / "weights"
    weights.write_text("damaged\n")
    try:
        status, said = converge()
    finally:
        weights.write_text("weights\n")
    assert status != 0
    assert "differs from its checksums: ./model/weights: FAILED" in said


def test_a_bundle_for_another_system_is_refused(manifest: str) -> None:
    (BUNDLE / "bundle.json").write_text(manifest.replace("Debian 13", "Ubuntu 24.04"))
    status, said = converge()
    assert status != 0
    assert "is a bundle for Ubuntu 24.04 x86_64, and infbox-bundle has Debian 13 x86_64" in said


def test_a_bundle_that_lacks_an_image_is_refused_by_name() -> None:
    status, said = converge(bundle_image_names=["it", "engine-cuda"])
    assert status != 0
    assert "lacks the images engine-cuda" in said
