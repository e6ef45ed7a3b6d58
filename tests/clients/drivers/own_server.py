"""Servers that people run between their programs and infbox, each started for one run."""

import contextlib
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

LONG = 300  # seconds: they import most of what they could talk to


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], environment: Mapping[str, str], health: str
) -> Iterator[None]:
    """Run a server until the block ends, in the home directory: some write beside them.

    Args:
        command: that starts it.
        environment: of it.
        health: address that answers once it is ready.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    log = Path.home() / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, env=environment, cwd=Path.home(), stdout=out, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        if not _answers(health, server):
            raise RuntimeError(f"the server does not answer: {log.read_text()[-600:]}")
        yield
    finally:
        server.terminate()
        server.wait()


def _answers(address: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until it does; say whether it did."""
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):  # noqa: S310  # ours
            return True
        time.sleep(0.5)
    return False
