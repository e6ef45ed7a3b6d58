"""The outer Docker Engine: use the one that answers, else install and start one."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lab.settings import STATE
from lab.shell import LabError, run, run_logged, step, succeeds

PID_FILE = Path("/run/infbox-lab-dockerd.pid")
ENGINE_PID_FILE = Path("/var/run/docker.pid")
READY_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 30.0  # seconds
FREEZE_ATTEMPTS = 10


def answers() -> bool:
    """Return whether a Docker Engine answers."""
    return succeeds(["docker", "info"])


def ensure() -> None:
    """Make sure that a Docker Engine answers.

    Raises:
        LabError: none answers and none can be started here.
    """
    ensure_tools()
    if answers():
        return
    if os.geteuid() != 0:
        raise LabError(
            "No Docker Engine answers. Start one, or run this as root so that it can be started."
        )
    with step("Starting a Docker Engine"):
        start()


def ensure_tools() -> None:
    """Install what the lab calls and this machine lacks, from the system's packages.

    Raises:
        LabError: a tool is missing and cannot be installed here.
    """
    needed = {"docker": "docker.io", "dockerd": "docker.io", "debootstrap": "debootstrap",
              "iptables": "iptables", "skopeo": "skopeo", "ssh": "openssh-client"}  # fmt: skip
    if succeeds(["docker", "info"]):
        del needed["dockerd"], needed["iptables"]
    ensure_packages(needed)


def ensure_packages(needed: Mapping[str, str]) -> None:
    """Install what is missing on this machine, from the system's packages.

    Args:
        needed: packages, by a program of theirs.

    Raises:
        LabError: a program is missing and cannot be installed here.
    """
    missing = sorted({package for tool, package in needed.items() if not shutil.which(tool)})
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise LabError(f"Install these first: {' '.join(missing)}")
    with step(f"Installing {' '.join(missing)}"):
        run(["apt-get", "update"])
        run_logged(
            ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", *missing], "apt"
        )


def start() -> None:
    """Start an Engine of our own and wait until it answers."""
    forget_the_dead()
    log = STATE / "logs" / "dockerd.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        daemon = subprocess.Popen(
            ["dockerd"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    PID_FILE.write_text(str(daemon.pid))
    deadline = time.monotonic() + READY_TIMEOUT
    while not answers():
        if daemon.poll() is not None or time.monotonic() > deadline:
            end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise LabError(f"The Docker Engine did not start; the end of {log}:\n{end}")
        time.sleep(0.5)


def forget_the_dead() -> None:
    """Remove the pid file of an Engine that was killed.

    dockerd refuses to start while any process has the number that stands there.
    """
    if ENGINE_PID_FILE.exists() and not is_dockerd(int(ENGINE_PID_FILE.read_text())):
        ENGINE_PID_FILE.unlink()


def stop() -> None:
    """Stop the Engine, but only the one that `start` started."""
    if not PID_FILE.exists():
        return
    pid = int(PID_FILE.read_text())
    PID_FILE.unlink()
    if not is_dockerd(pid):
        return
    with step("Stopping the Docker Engine that the lab started"):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT
        while is_dockerd(pid) and time.monotonic() < deadline:
            time.sleep(0.2)


@contextmanager
def frozen(container: str) -> Iterator[None]:
    """Have all processes of a container stand still until the block is left.

    The kernel freezes none that waits for a disk, and Docker gives up within a second or two.

    Raises:
        LabError: the container is not there, or could not be frozen.
    """
    for _ in range(FREEZE_ATTEMPTS - 1):
        if succeeds(["docker", "pause", container]):
            break
    else:
        run(["docker", "pause", container])
    try:
        yield
    finally:
        run(["docker", "unpause", container])


def is_dockerd(pid: int) -> bool:
    """Return whether process `pid` is a running dockerd, and not a later owner of the number."""
    try:
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return False
        return "dockerd" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
