"""A host that has no way out, deployed from a bundle. `make airgap` runs it; it takes long."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import hosts
from lab.client import Client
from lab.deployment import WORKSPACES, copy_tree, endpoint, inventory, play, ssh
from lab.settings import ROOT, STATE
from lab.shell import LabError
from tests.system.conftest import WORKSPACE, Site, diagnosed

pytestmark = [pytest.mark.lab, pytest.mark.long]

HOST = "airgap"
# The network of lab hosts is the only one that is left; nothing but this machine is there.
CUT_OFF = "ip route delete default"
REACH_OUT = (
    "timeout 30 apt-get -qq --option APT::Update::Error-Mode=any --option Acquire::Retries=0 update"
)
# Of an inventory, what leads to the lab's registry.
NEEDS_A_WAY = ("infbox_registry_prefix", "infbox_registry_insecure", "infbox_images")


@pytest.fixture(scope="module")
def bundle(site: Site) -> Iterator[Path]:
    """A bundle, collected from a deployed host."""
    folder = STATE / "airgap-bundle"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        play(["playbooks/bundle.yml", "-i", site.inventory, "-e", f"bundle={folder}"], "bundle")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_host_without_a_way_out_is_deployed_and_answers(bundle: Path) -> None:
    tree = copy_tree(ROOT, f"{HOST}-{WORKSPACE}")
    with hosts.fresh(HOST, "debian13", [f"{STATE / 'workspaces'}:{WORKSPACES}"]) as host:
        ssh(host, CUT_OFF)
        with pytest.raises(LabError):
            ssh(host, REACH_OUT)
        workspaces = [{"name": WORKSPACE, "path": f"{WORKSPACES}/{tree.name}"}]
        folder = inventory(host, {"infbox_workspaces": workspaces, "infbox_bundle": str(bundle)})
        file = folder / "hosts.yml"
        content = json.loads(file.read_text())
        for name in NEEDS_A_WAY:
            del content["inference"]["hosts"][host.instance][name]
        file.write_text(json.dumps(content))
        with diagnosed([host]):
            play(["site.yml", "-i", folder], "airgap-site")
            client = Client(endpoint(host), WORKSPACE)
            client.wait_until_warm()
            assert client.ask().prompt_tokens > 0
            assert "changed=0 " in play(["site.yml", "-i", folder], "airgap-again")
