"""A port of a lab host's loopback, reached from this machine."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator

from lab.deployment import wait_for
from lab.hosts import Host


@contextlib.contextmanager
def forwarded(host: Host, port: int) -> Iterator[str]:
    """Reach a port of a host's loopback by SSH; give its address here.

    Args:
        host: the lab host.
        port: what listens there.

    Raises:
        LabError: the tunnel did not come up.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    tunnel = subprocess.Popen(
        ["ssh", "-N", "-i", host.identity_file, "-o", f"UserKnownHostsFile={host.known_hosts}",
         "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes",
         "-L", f"127.0.0.1:{own}:127.0.0.1:{port}", f"{host.user}@{host.address}"],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for("the tunnel", lambda: True if _listens(own) else None, 10)
        yield f"http://127.0.0.1:{own}"
    finally:
        tunnel.terminate()
        tunnel.wait()


def _listens(port: int) -> bool:
    """Say whether something listens on a port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
