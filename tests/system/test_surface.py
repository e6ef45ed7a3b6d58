"""What a stranger reaches of the deployed host, and what its units and containers may do."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from lab import hosts
from lab.deployment import ssh
from lab.hosts import Host
from lab.settings import ROOT
from tests.system.conftest import Site

pytestmark = pytest.mark.lab

# SSH, Caddy, and the pages of monitoring, which Caddy serves too.
REACHABLE = {22, 80, 443, 8443}
# Prints those of the ports, given as arguments after the address, at which a connection opens.
CONNECT = """
import socket, sys
for port in map(int, sys.argv[2:]):
    try:
        socket.create_connection((sys.argv[1], port), timeout=3).close()
    except OSError:
        continue
    print(port)
"""
# As `systemd-analyze security` reckons: 0 is best, 10 worst.
EXPOSURE = 2.0
UNITS = "systemctl list-unit-files --no-legend 'infbox-*.service'"
# What a container has beyond the profile, each with its reason in docs/security.md.
EXCEPTIONS = {
    "caddy": {"the capability NET_BIND_SERVICE", "new privileges"},
    "node-exporter": {"the host's files"},
}
NET_BIND_SERVICE = 1 << 10
PAGE = (ROOT / "docs" / "security.md").read_text()


@pytest.fixture(scope="module")
def stranger() -> Iterator[Host]:
    """Another host in the same network."""
    with hosts.fresh("stranger", "debian13") as host:
        yield host


def listeners(site: Site, protocol: str) -> set[tuple[str, int]]:
    """Return the addresses and ports at which anything on the host listens."""
    found = site.ssh(f"ss --no-header --listening --numeric --{protocol}").splitlines()
    places = (line.split()[3].rpartition(":") for line in found)
    return {(address, int(port)) for address, _, port in places}


def reached(site: Site, stranger: Host) -> set[int]:
    """Return the ports, of all at which anything on the host listens, that a stranger reaches."""
    ports = {port for _, port in listeners(site, "tcp")}
    words = " ".join(map(str, [site.host.address, *sorted(ports)]))
    return {int(p) for p in ssh(stranger, f"python3 - {words} <<'END'\n{CONNECT}\nEND").split()}


def test_a_port_that_is_open_is_seen(site: Site, stranger: Host) -> None:
    site.ssh("systemd-run --quiet --unit open-port python3 -m http.server 8099; sleep 1")
    try:
        assert 8099 in reached(site, stranger)
    finally:
        site.ssh("systemctl stop open-port")


def test_a_stranger_reaches_ssh_and_caddy_alone(site: Site, stranger: Host) -> None:
    assert len(listeners(site, "tcp")) > len(REACHABLE), "most things listen on loopback"
    found = reached(site, stranger)
    assert {22, 80, 443} <= found <= REACHABLE


def test_nothing_waits_for_datagrams_beyond_loopback(site: Site) -> None:
    beyond = {
        place for place in listeners(site, "udp") if not place[0].startswith(("127.", "[::1"))
    }
    assert beyond == set()


def test_units_stay_below_the_bar(site: Site) -> None:
    units = [line.split()[0].replace("@.", "@check.") for line in site.ssh(UNITS).splitlines()]
    assert len(units) >= 3
    said = {u: site.ssh(f"systemd-analyze security --no-pager {u} | tail -1") for u in units}
    exposure = {u: float(re.findall(r"service: ([\d.]+)", text)[0]) for u, text in said.items()}
    assert {u: e for u, e in exposure.items() if e > EXPOSURE} == {}


def beyond_the_profile(container: dict[str, Any], status: dict[str, str]) -> set[str]:
    """Return what a container has that the profile does not give.

    Args:
        container: what `docker inspect` says.
        status: `/proc/PID/status` of its first process, which says what is so.
    """
    host, mounts = container["HostConfig"], container["Mounts"]
    capabilities = int(status["CapEff"], 16) | int(status["CapBnd"], 16)
    found = {
        "root": "0" in status["Uid"].split(),
        "a file system to write": not host["ReadonlyRootfs"],
        "privileges": host["Privileged"] or host["PidMode"] == "host",
        "the capability NET_BIND_SERVICE": capabilities & NET_BIND_SERVICE,
        "capabilities": capabilities & ~NET_BIND_SERVICE,
        "new privileges": status["NoNewPrivs"] != "1",
        "every system call": status["Seccomp"] != "2",
        "Docker's socket": any("docker.sock" in m["Source"] for m in mounts),
        "the host's files": any(m["Source"] == "/" for m in mounts),
        "the host's files to write": any(m["Source"] == "/" and m["RW"] for m in mounts),
        "an image without a digest": "@sha256:" not in container["Config"]["Image"],
    }
    return {what for what, is_so in found.items() if is_so}


def statuses(site: Site) -> Iterator[tuple[str, set[str]]]:
    """Yield each container's service and what it has beyond the profile."""
    for container in json.loads(site.ssh("docker inspect $(docker ps --quiet)")):
        lines = site.ssh(f"cat /proc/{container['State']['Pid']}/status").splitlines()
        status = {k: v.strip() for k, _, v in (line.partition(":") for line in lines)}
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        yield service, beyond_the_profile(container, status)


def test_containers_have_no_more_than_the_profile_gives(site: Site) -> None:
    found = dict(statuses(site))
    assert {"caddy", "lmcache", "vllm"} <= found.keys()
    assert {s: more for s, more in found.items() if more - EXCEPTIONS.get(s, set())} == {}
    unneeded = {s: e - found[s] for s, e in EXCEPTIONS.items() if s in found and e - found[s]}
    assert unneeded == {}, "an exception that nobody needs any more"


def test_a_container_with_everything_is_seen(site: Site) -> None:
    image = site.ssh("docker inspect --format '{{.Image}}' infbox-caddy-1")
    site.ssh(
        "docker run --detach --name bold --label com.docker.compose.service=bold --user 0"
        " --volume /:/host"
        f" --volume /var/run/docker.sock:/s --entrypoint sleep {image} 60"
    )
    try:
        assert dict(statuses(site))["bold"] >= {
            "root", "a file system to write", "capabilities", "new privileges", "Docker's socket",
            "the host's files to write", "an image without a digest",
        }  # fmt: skip
    finally:
        site.ssh("docker rm --force bold")


def test_every_exception_is_explained() -> None:
    for service in EXCEPTIONS:
        assert re.search(rf"\| {service} \|", PAGE, re.IGNORECASE), f"{service} is not in the table"
