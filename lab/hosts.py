"""Lab hosts: creating, finding and removing them."""

import contextlib
import fcntl
import ipaddress
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.images import host_image, lock
from lab.settings import (
    CHECKOUT,
    KEEP_MODULES,
    KEPT_MODULES,
    LABEL,
    NETWORK,
    REGISTRY_ADDRESS,
    SSH_KEY,
    STATE,
    SUBNET,
    container_name,
)
from lab.shell import LabError, remove_container, run, succeeds

READY_TIMEOUT = 90.0  # seconds

# What systemd and a Docker Engine need inside a container. Less than --privileged asks for, and
# it works where the outer machine itself lacks SYS_RESOURCE.
CAPABILITIES = (
    "DAC_READ_SEARCH", "LEASE", "MKNOD", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_CHROOT",
    "SYS_NICE", "SYS_PTRACE", "SYSLOG",
)  # fmt: skip
CONFINEMENT = ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined")


@dataclass(frozen=True)
class Host:
    """A lab host that can be reached; the names are those of molecule's instance configuration.

    Attributes:
        instance: its name in the lab and in inventories.
        address: its IPv4 address.
        user: the account to log in with.
        port: its SSH port.
        identity_file: the private key that the account accepts.
        known_hosts: a file with the host's own SSH key.
    """

    instance: str
    address: str
    identity_file: str
    known_hosts: str
    user: str = "root"
    port: int = 22


def create(name: str, base: str, mounts: Sequence[str] = ()) -> Host:
    """Create a host, or return it where it runs already.

    Args:
        name: its name, unique in this checkout.
        base: see `host_image`.
        mounts: directories of this machine to share, ``SOURCE:TARGET[:ro]``.

    Returns:
        The host, booted, with SSH answering.

    Raises:
        LabError: it did not come up; the message holds the end of its journal.
    """
    container = container_name(name)
    with lock():
        if not succeeds(["docker", "container", "inspect", container]):
            start_container(container, name, host_image(base), mounts)
    running = run(["docker", "container", "inspect", "--format", "{{.State.Running}}", container])
    if running != "true":
        run(["docker", "start", container])
    wait_until_booted(container)
    return prepare_ssh(container, name)


@contextlib.contextmanager
def fresh(name: str, base: str, mounts: Sequence[str] = ()) -> Iterator[Host]:
    """Have a new host until the block is left; what a run that was cut off left of it is removed.

    Args:
        name: as for `create`.
        base: as there.
        mounts: as there.

    Raises:
        LabError: another run has a host of that name, or it did not come up.
    """
    file = STATE / "locks" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock_of_host:
        try:
            fcntl.flock(lock_of_host, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(f"Another run has the lab host {name}: wait until it is over.") from None
        remove(name)
        try:
            yield create(name, base, mounts)
        finally:
            remove(name)


def start_container(container: str, name: str, image: str, mounts: Sequence[str]) -> None:
    """Run a new host; its own Engine keeps its data on a volume that goes with it."""
    run(
        ["docker", "run", "--detach", "--name", container, "--hostname", name,
         "--label", f"{LABEL}={CHECKOUT}", "--network", NETWORK, "--ip", free_address(),
         # A reboot ends the container's first process; this is what starts it again.
         "--restart", "always",
         *(f"--cap-add={capability}" for capability in CAPABILITIES),
         *(f"--security-opt={option}" for option in CONFINEMENT),
         "--cgroupns=host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw",
         "--tmpfs", "/run:exec", "--tmpfs", "/tmp:exec,mode=1777", "--shm-size", "4g",
         "--volume", "/var/lib/docker",
         *(word for mount in [*mounts, *kept_modules()] for word in ("--volume", mount)),
         image]
    )  # fmt: skip


def kept_modules() -> list[str]:
    """Return what to mount so that a host keeps what Ansible's modules compile to, if it should."""
    if not os.environ.get(KEEP_MODULES):
        return []
    KEPT_MODULES.mkdir(parents=True, exist_ok=True)
    # Below a directory that each boot empties, so that no test takes it for a part of the host.
    return [f"{KEPT_MODULES}:/run/lab-modules"]


def free_address() -> str:
    """Return the lowest address of the lab's network that no host has.

    Fixed addresses survive a reboot; the Engine's own choice may not.
    """
    ids = run(["docker", "ps", "--all", "--quiet", "--filter", f"network={NETWORK}"]).split()
    taken = {REGISTRY_ADDRESS}
    for container in json.loads(run(["docker", "inspect", *ids])) if ids else []:
        settings = container["NetworkSettings"]["Networks"][NETWORK]
        taken.add(settings["IPAddress"])
        taken.add((settings["IPAMConfig"] or {}).get("IPv4Address", ""))
    addresses = list(ipaddress.ip_network(SUBNET).hosts())[9:]
    return next(str(address) for address in addresses if str(address) not in taken)


def wait_until_booted(container: str) -> None:
    """Wait until systemd says that the host is up; a failed unit does not count against it."""
    deadline = time.monotonic() + READY_TIMEOUT
    while time.monotonic() < deadline:
        if succeeds(["docker", "exec", container, "systemctl", "is-active", "--quiet", "ssh"]):
            return
        time.sleep(0.3)
    logs = run(["docker", "exec", container, "journalctl", "--no-pager", "--lines", "40"])
    raise LabError(f"{container} did not boot within {READY_TIMEOUT:.0f} s:\n{logs}")


def prepare_ssh(container: str, name: str) -> Host:
    """Let this checkout's key in, and note the host's own key."""
    if not SSH_KEY.exists():
        SSH_KEY.parent.mkdir(parents=True, exist_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "infbox-lab", "-f", SSH_KEY])
    public = Path(f"{SSH_KEY}.pub").read_bytes()
    install = "umask 077; mkdir -p /root/.ssh; cat > /root/.ssh/authorized_keys"
    run(["docker", "exec", "--interactive", container, "sh", "-c", install], stdin=public)
    host_key = run(["docker", "exec", container, "cat", "/etc/ssh/ssh_host_ed25519_key.pub"])
    address = address_of(container)
    known_hosts = STATE / "ssh" / f"{name}.known_hosts"
    known_hosts.write_text(f"{address} {' '.join(host_key.split()[:2])}\n")
    return Host(name, address, str(SSH_KEY), str(known_hosts))


def address_of(container: str) -> str:
    """Return a container's address in the lab's network."""
    template = '{{(index .NetworkSettings.Networks "' + NETWORK + '").IPAddress}}'
    return run(["docker", "container", "inspect", "--format", template, container])


def network_of(name: str) -> Path:
    """Return the file of a lab host's network namespace, for ``nsenter``."""
    inspect = ["docker", "container", "inspect", "--format", "{{.State.Pid}}", container_name(name)]
    return Path(f"/proc/{run(inspect)}/ns/net")


def remove(name: str) -> None:
    """Remove a host and all it held; nothing happens where it is not there."""
    container = container_name(name)
    if succeeds(["docker", "container", "inspect", container]):
        remove_container(container)
    (STATE / "ssh" / f"{name}.known_hosts").unlink(missing_ok=True)


def names() -> list[str]:
    """Return the names of this checkout's hosts."""
    listing = run(
        ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter", f"label={LABEL}={CHECKOUT}"]
    )
    prefix = container_name("")
    return sorted(line.removeprefix(prefix) for line in listing.splitlines())
