"""From the release before this one to this one; long, so `make upgrade-test` runs it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import hosts
from lab.client import Client
from lab.deployment import WORKSPACES, copy_tree, endpoint, inventory, play, ssh
from lab.settings import ROOT, STATE
from lab.shell import LabError, run
from tests.system.conftest import WORKSPACE

pytestmark = [pytest.mark.lab, pytest.mark.long]

HOST = "upgrade"


@pytest.fixture
def release_before(tmp_path: Path) -> Iterator[Path]:
    """A checkout of the last tag before this commit."""
    try:
        tag = run(["git", "-C", ROOT, "describe", "--tags", "--abbrev=0", "HEAD^"])
    except LabError:
        pytest.skip("this clone has no tag to upgrade from; git fetch --tags brings them")
    checkout = tmp_path / "checkout"
    run(["git", "-C", ROOT, "worktree", "add", "--detach", checkout, tag])
    print(f"upgrading from {tag}")
    try:
        yield checkout
    finally:
        run(["git", "-C", ROOT, "worktree", "remove", "--force", checkout])
        shutil.rmtree(checkout, ignore_errors=True)


def test_a_host_of_the_release_before_is_brought_to_this_one(release_before: Path) -> None:
    tree = copy_tree(ROOT, f"{HOST}-{WORKSPACE}")
    workspaces = [{"name": WORKSPACE, "path": f"{WORKSPACES}/{tree.name}"}]
    with hosts.fresh(HOST, "debian13", [f"{STATE / 'workspaces'}:{WORKSPACES}"]) as host:
        folder = inventory(host, {"infbox_workspaces": workspaces})
        play(["site.yml", "-i", folder], "upgrade-before", checkout=release_before)
        client = Client(endpoint(host), WORKSPACE)
        client.wait_until_warm()
        key = ssh(host, "cat /etc/infbox/secrets/api-keys/team")
        play(["playbooks/upgrade.yml", "-i", folder], "upgrade-to-this")
        client.wait_until_warm()
        assert client.ask().text == client.ask(cold=True).text
        assert ssh(host, "cat /etc/infbox/secrets/api-keys/team") == key
        assert "changed=0 " in play(["site.yml", "-i", folder], "upgrade-again")
