"""A host is lost, and another one comes back from its backup: `make drill`, two deployments."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab import hosts
from lab.client import Client
from lab.deployment import AUTHORITY, WORKSPACES, copy_tree, endpoint, inventory, play, ssh
from lab.hosts import Host
from lab.settings import ROOT, STATE
from lab.shell import LabError

pytestmark = [pytest.mark.lab, pytest.mark.long]

LOST, FRESH = "backup-lost", "backup-fresh"
# On a file system of this machine, which outlives the hosts.
BACKUPS = f"{WORKSPACES}/.drill-backup"
PASSWORD = "what-opens-the-backups-of-the-drill"  # noqa: S105  # of the lab
DIGESTS = (
    "sha256sum /etc/infbox/secrets/api-keys/team /etc/infbox/keys/users.json"
    " /var/lib/infbox/caddy/caddy/pki/authorities/local/*"
)

Make = Callable[[str], tuple[Host, Path]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a bare host, and the inventory that both hosts of the drill have."""
    tree = copy_tree(ROOT / "watcher", "drill")
    made: list[str] = []

    def make_host(name: str) -> tuple[Host, Path]:
        made.append(name)
        hosts.remove(name)
        host = hosts.create(name, "debian13", [f"{STATE / 'workspaces'}:{WORKSPACES}"])
        settings = {
            "infbox_workspaces": [{"name": "drill", "path": f"{WORKSPACES}/{tree.name}"}],
            "infbox_backup": {"target": BACKUPS, "password": PASSWORD},
            "infbox_site_addresses": [host.address, "infbox.test"],
        }
        return host, inventory(host, settings)

    yield make_host
    for name in made:
        hosts.remove(name)


def test_a_lost_host_comes_back_with_its_keys(make: Make) -> None:
    lost, folder = make(LOST)
    play(["site.yml", "-i", folder], "drill-lost")
    client = Client(endpoint(lost), "drill")
    client.wait_until_warm()
    answer = client.ask()
    before = endpoint(lost)
    digests = ssh(lost, DIGESTS)
    packs = client.status()["watcher"]["generation"]
    play(["playbooks/backup.yml", "-i", folder, "-e", "infbox_backup_check=true"], "drill-backup")
    hosts.remove(LOST)

    fresh, folder = make(FRESH)
    restore: list[str | Path] = [
        "playbooks/restore.yml",
        "-i",
        folder,
        "-e",
        f"infbox_restore_host={LOST}",
    ]
    play([*restore, "--check"], "drill-restore-check")
    assert ssh(fresh, "ls /etc/infbox 2> /dev/null || true") == "", "check mode changed something"
    play(restore, "drill-restore")
    assert ssh(fresh, DIGESTS) == digests
    play(["site.yml", "-i", folder], "drill-fresh")

    assert ssh(fresh, DIGESTS) == digests
    assert ssh(fresh, f"cat {AUTHORITY}").strip() == before.authority.read_text().strip()
    # With the key and the root certificate that a client of the lost host has.
    known = Client(replace(before, url=f"https://{fresh.address}/v1"), "drill")
    known.wait_until_warm()
    again = known.ask()
    assert (again.text, again.prompt_tokens) == (answer.text, answer.prompt_tokens)
    assert known.status()["watcher"]["generation"] == packs

    # What runs is not put aside by mistake.
    with pytest.raises(LabError, match="with newer state than any backup"):
        play(restore, "drill-refused")
    assert known.ask().text == answer.text
    ssh(fresh, f"rm -rf {BACKUPS}")
