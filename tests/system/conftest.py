"""A lab host with the whole stack on it, made by the same `site.yml` that a user runs."""

import contextlib
import secrets
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import hosts
from lab.client import Client
from lab.deployment import WORKSPACES, copy_tree, endpoint, inventory, play, ssh
from lab.hosts import Host
from lab.settings import ROOT, STATE
from lab.shell import LabError

HOST = "system"
WORKSPACE = "infbox"
# On a file system of this machine, another than the host's. A run that is cut off leaves it there.
BACKUPS = f"{WORKSPACES}/.{HOST}-backup"
# Made anew: the workspace is a copy of this checkout, where no secret may be found.
BACKUP_PASSWORD = secrets.token_urlsafe(24)
# What a host is: packages, users, units, rules of the firewall, and files that last. Left out is
# what changes by itself, or tells of what was done: caches, logs, lists of apt and systemd.
LEFT_OUT = (
    "/dev", "/proc", "/root", "/run", "/srv/workspaces", "/sys", "/tmp",  # noqa: S108
    "/var/backups", "/var/cache", "/var/lib/apt", "/var/lib/dpkg", "/var/lib/systemd", "/var/log",
    "/var/tmp",  # noqa: S108
)  # fmt: skip
LOOK = rf"""
dpkg-query --show --showformat='package ${{Package}} ${{db:Status-Abbrev}}\n'
sed 's/^/user /' /etc/passwd /etc/group
systemctl list-unit-files --no-legend --no-pager | awk '{{print "unit", $1, $2}}'
{{ iptables-save; ip6tables-save; }} 2> /dev/null | grep --extended-regexp '^(-A|:.* DROP)' |
  sed 's/^/rule /'
ip -oneline link show type bridge | awk '{{print "bridge", $2}}'
find / -xdev \( -path {" -o -path ".join(LEFT_OUT)} \) -prune -o -printf 'file %p\n'
"""
DIAGNOSTICS = (
    "systemctl --failed --no-legend; "
    "journalctl --no-pager --lines 30 --unit 'infbox-*'; "
    "for c in $(docker ps --all --quiet); do docker logs --tail 30 $c 2>&1; done"
)


@dataclass(frozen=True)
class Site:
    """A deployed host.

    Attributes:
        host: the lab host.
        inventory: its inventory folder.
        tree: the workspace, as this machine sees it.
        client: asks it questions.
        output: what the first run of `site.yml` printed.
        before: what the bare host was, a line for each thing.
    """

    host: Host
    inventory: Path
    tree: Path
    client: Client
    output: str
    before: frozenset[str]

    def ssh(self, command: str) -> str:
        """Run a command on the host and return its output."""
        return ssh(self.host, command)

    def fetch(self, url: str) -> str:
        """Return a page of a part that listens on the host's loopback.

        Raises:
            LabError: there is none.
        """
        fetch = (
            "import sys, urllib.request as r;"
            " print(r.urlopen(sys.argv[1], timeout=5).read().decode())"
        )
        return self.ssh(f"python3 -c '{fetch}' {url}")

    def metric(self, url: str, name: str, label: str = "") -> float:
        """Return the sum of a metric's samples on the host.

        Args:
            url: of the exposition.
            name: of the metric, without labels.
            label: text that the labels must hold.
        """
        samples = [
            line
            for line in self.fetch(url).splitlines()
            if line.split("{")[0].split(" ")[0] == name and label in line
        ]
        assert samples, f"{name} is not among the metrics of {url}"
        return sum(float(line.rpartition(" ")[2]) for line in samples)


def look(host: Host) -> frozenset[str]:
    """Return what a host is, a line for each thing."""
    return frozenset(ssh(host, LOOK).splitlines())


@contextlib.contextmanager
def diagnosed(of: Iterable[Host]) -> Iterator[None]:
    """Print what hosts tell of themselves where the lab fails.

    Args:
        of: looked through at the failure, so that a view of those made until then will do.
    """
    try:
        yield
    except LabError:
        for host in of:
            print(ssh(host, DIAGNOSTICS))
        raise


@pytest.fixture(scope="session")
def site() -> Generator[Site]:
    """Deploy the whole stack onto a bare host; remove it afterwards."""
    with hosts.fresh(HOST, "debian13", [f"{STATE / 'workspaces'}:{WORKSPACES}"]) as host:
        tree = copy_tree(ROOT, f"{HOST}-{WORKSPACE}")
        workspaces = [{"name": WORKSPACE, "path": f"{WORKSPACES}/{tree.name}"}]
        backup = {"target": BACKUPS, "password": BACKUP_PASSWORD}
        variables = {
            "infbox_workspaces": workspaces,
            "infbox_backup": backup,
            # However long an engine takes to start on a busy machine.
            "infbox_request_queue_timeout_seconds": 600,
        }
        folder = inventory(host, variables)
        # Of a run that was cut off; its password is not known any more.
        ssh(host, f"rm -rf {BACKUPS}")
        before = look(host)
        try:
            with diagnosed([host]):
                output = play(["site.yml", "-i", folder], "system-site")
                client = Client(endpoint(host), WORKSPACE)
                client.wait_until_warm()
                yield Site(host, folder, tree, client, output, before)
        finally:
            # By the host, whose root owns it.
            with contextlib.suppress(LabError):
                ssh(host, f"rm -rf {BACKUPS}")


@pytest.fixture(scope="session")
def second_run(site: Site) -> str:
    """What `site.yml` prints when there is nothing to do, with all that Ansible can tell."""
    return play(["site.yml", "-i", site.inventory, "-vvvv"], "system-site-again")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the host's journals and container logs to the report of a failed test."""
    report = yield
    fixtures = getattr(item, "funcargs", {})
    if report.failed and report.when == "call" and "site" in fixtures:
        report.sections.append(("journals and logs", fixtures["site"].ssh(DIAGNOSTICS)))
    return report
