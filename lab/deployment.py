"""infbox on a lab host: the same `site.yml` that a user runs, with the lab's inventory."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lab.hosts import Host
from lab.images import EXTRA_AUTHORITIES
from lab.settings import IMAGES_FILE, REGISTRY_PULL, ROOT, STATE
from lab.shell import LabError, run, step

AUTHORITY = "/var/lib/infbox/caddy/caddy/pki/authorities/local/root.crt"
WORKSPACES = "/srv/workspaces"
# What a checkout holds that is no source; a copy for the demo leaves it out.
NOT_SOURCE = shutil.ignore_patterns(".venv", ".lab", ".cache", "node_modules", "__pycache__")

# Which of the lab's images stands for which of infbox's. Nothing stands for Grafana's.
IMAGES = {
    "caddy": "caddy",
    "engine-cpu": "engine",
    "prometheus": "monitoring",
    "node-exporter": "monitoring",
    "blackbox-exporter": "monitoring",
    "alertmanager": "monitoring",
    "valkey": "valkey",
}
SUMMARY_LINES = 40
# Seconds between two questions whether something has happened. To ask a host over SSH computes a
# tenth of one, which whatever is waited for would need: the longer it takes, the rarer it is asked.
MIN_PAUSE, MOST_PAUSE = 0.05, 2.0
PAUSE_SHARE = 1 / 20

T = TypeVar("T")


@dataclass(frozen=True)
class Endpoint:
    """How to reach a deployed host.

    Attributes:
        url: base address of the API, ending in ``/v1``.
        key: the API key of the user ``team``.
        authority: file with the root certificate that the host's own is signed by.
    """

    url: str
    key: str
    authority: Path


def inventory(host: Host, variables: Mapping[str, Any], group: str = "inference") -> Path:
    """Write the inventory of one lab host.

    Args:
        host: the host.
        variables: further `infbox_*` variables.
        group: that it belongs to.

    Returns:
        The directory to give to ``ansible-playbook -i``.
    """
    published = json.loads(IMAGES_FILE.read_text())
    images = {
        name: {key: published[source][key] for key in ("repository", "tag", "digest")}
        for name, source in IMAGES.items()
    }
    variables = {
        "ansible_host": host.address,
        "ansible_user": host.user,
        "ansible_ssh_private_key_file": host.identity_file,
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={host.known_hosts}",
        "infbox_registry_prefix": REGISTRY_PULL,
        "infbox_registry_insecure": True,
        "infbox_images": images,
        "infbox_grafana": False,
        # The engine computes in its own process, as on one GPU: a second one takes a quarter of its
        # start, and keeps a core busy for a second after each request, which all stages wait for.
        "vllm_cpu_threads": os.cpu_count(),
        "infbox_ca_certificates": [str(path) for path in EXTRA_AUTHORITIES.glob("*.crt")],
        **variables,
    }
    # The host's own variables, so that several such inventories can be given to one run.
    content = {group: {"hosts": {host.instance: variables}}}
    directory = STATE / "inventory" / host.instance
    directory.mkdir(parents=True, exist_ok=True)
    # JSON is YAML, and needs no library here.
    (directory / "hosts.yml").write_text(json.dumps(content, indent=2) + "\n")
    return directory


def copy_tree(source: Path, name: str) -> Path:
    """Copy a source tree, so that nothing here ever writes into the original.

    Returns:
        The copy, made only once: a later run finds what it was left with.
    """
    target = STATE / "workspaces" / name
    if not target.exists():
        # Copied beside and renamed, so that an interrupted copy is not taken for a whole one.
        partial = target.with_name(f".{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial, symlinks=True, ignore=NOT_SOURCE)
        partial.rename(target)
    return target


def play(
    arguments: Sequence[str | Path],
    log: str,
    tell: Callable[[str], None] | None = None,
    *,
    cut_off: float | None = None,
    checkout: Path = ROOT,
) -> str:
    """Run ansible-playbook from the root of a checkout.

    Args:
        arguments: of ansible-playbook.
        log: name of the log below ``.lab/logs``, where each line begins with its second.
        tell: given the name of each task as it begins.
        cut_off: seconds after which it is killed, as a lost connection or a closed laptop would.
        checkout: the checkout, this one unless given.

    Returns:
        All it printed.

    Raises:
        LabError: it failed; the message shows the end of the log.
    """
    path = STATE / "logs" / f"{log}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(checkout / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    command = [Path(sys.executable).with_name("ansible-playbook"), *arguments]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=checkout,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    began = time.monotonic()
    killer = threading.Timer(cut_off or 0, process.kill)
    if cut_off:
        killer.start()
    with path.open("w") as file:
        for line in process.stdout or ():
            lines.append(line)
            file.write(f"{time.monotonic() - began:6.1f} {line}")
            file.flush()
            if tell and line.startswith("TASK ["):
                tell(line.removeprefix("TASK [").rpartition("]")[0])
    killer.cancel()
    if process.wait():
        end = "".join(lines[-SUMMARY_LINES:])
        raise LabError(f"ansible-playbook failed; the end of {path}:\n{end}")
    return "".join(lines)


def endpoint(host: Host) -> Endpoint:
    """Fetch what a client needs from a deployed host."""
    with step("Fetching the key and the root certificate"):
        authority = STATE / f"{host.instance}.crt"
        authority.write_text(ssh(host, f"cat {AUTHORITY}") + "\n")
        key = ssh(host, "cat /etc/infbox/secrets/api-keys/team")
    return Endpoint(f"https://{host.address}/v1", key, authority)


def ssh(host: Host, command: str) -> str:
    """Run a command on a host and return its output.

    Raises:
        LabError: it failed.
    """
    return run(
        ["ssh", "-i", host.identity_file, "-o", f"UserKnownHostsFile={host.known_hosts}",
         "-o", "BatchMode=yes", f"{host.user}@{host.address}", command]
    )  # fmt: skip


def wait_for(what: str, ask: Callable[[], T | None], timeout: float) -> T:
    """Ask until there is an answer, which is noticed a twentieth of the time later at most.

    Args:
        what: what is waited for, for the error.
        ask: returns None while there is no answer yet.
        timeout: seconds.

    Raises:
        LabError: there was none in time.
    """
    began = time.monotonic()
    while (answer := ask()) is None:
        waited = time.monotonic() - began
        if waited > timeout:
            raise LabError(f"{what} did not happen within {timeout:.0f} s")
        time.sleep(min(max(MIN_PAUSE, waited * PAUSE_SHARE), MOST_PAUSE))
    return answer
