"""A service that is restarted: its socket is kept by systemd, whose part a test plays here."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving import free_port, get_text, until

KEYS = "from infbox.cli import keys; raise SystemExit(keys())"
# As systemd does: the socket is descriptor 3, and the process is told that it is meant for it.
HANDING_ON = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """What systemd is to a service: it hears of sockets, keeps them and passes them on."""

    def __init__(self, folder: Path) -> None:
        self.heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard.bind(str(folder / "notify"))
        self.heard.settimeout(20)
        self._folder = folder

    def hear(self) -> tuple[str, list[int]]:
        """Return the next state and the descriptors that came with it."""
        state, descriptors, _, _ = socket.recv_fds(self.heard, 200, 1)
        return state.decode(), descriptors

    @contextlib.contextmanager
    def running(self, port: int, kept: int | None = None) -> Iterator[None]:
        """Run the keys' service until the block is left."""
        command = [
            sys.executable, "-c", KEYS,
            "--digests", str(self._folder / "users.json"), "serve", "--listen", f"127.0.0.1:{port}",
        ]  # fmt: skip
        if kept is not None:
            command = [sys.executable, "-c", HANDING_ON, str(kept), *command]
        process = subprocess.Popen(
            command,
            env={**os.environ, "NOTIFY_SOCKET": str(self._folder / "notify")},
            pass_fds=[] if kept is None else [kept],
        )
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(20) in (0, -15)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    (tmp_path / "users.json").write_text("{}")
    manager = Manager(tmp_path)
    yield manager
    manager.heard.close()


def listens(port: int) -> bool:
    """Return whether a connection to a port of loopback opens."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def test_who_comes_while_it_is_restarted_waits_for_the_next_process(manager: Manager) -> None:
    port = free_port()
    page = f"http://127.0.0.1:{port}/metrics"
    with manager.running(port):
        state, kept = manager.hear()
        assert state == "FDSTORE=1\nFDNAME=listener"
        until(lambda: get_text(page))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(get_text, page)
        with manager.running(port, *kept):
            assert "infbox_" in waiting.result(20)
    os.close(kept[0])
    assert not listens(port), "a service that is stopped leaves its port"


def test_a_socket_of_another_address_is_given_up(manager: Manager) -> None:
    before, port = free_port(), free_port()
    with (
        socket.create_server(("127.0.0.1", before)) as kept,
        manager.running(port, kept.fileno()),
    ):
        assert manager.hear() == ("FDSTOREREMOVE=1\nFDNAME=listener", [])
        state, descriptors = manager.hear()
        assert state == "FDSTORE=1\nFDNAME=listener"
        until(lambda: listens(port))
        os.close(descriptors[0])
