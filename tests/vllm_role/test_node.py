"""The program that starts and ends the hosts' parts of one engine together; engines are stubs.

Hosts are addresses of the loopback interface. With the real engine: tests/system/test_multinode.py.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/vllm/files/infbox_node.py"
ADDRESSES = [f"127.0.0.{number}" for number in (11, 12, 13)]
WAITED = 15.0  # seconds; a busy machine may need some
PATIENCE = 3.0
# Notes in a file that it runs, and when it was asked to end and when it did.
STUB = (
    "import signal, sys, time; from pathlib import Path; log = Path(sys.argv[1])\n"
    "def note(word): log.open('a').write(f'{time.time()} {sys.argv[2]} {word}\\n')\n"
    "def end(*_): note('asked'); time.sleep(float(sys.argv[3])); note('ended'); sys.exit()\n"
    "signal.signal(signal.SIGTERM, end); note('began')\n"
    "while True: time.sleep(0.1)\n"
)


@dataclass
class Group:
    """Hosts of one model.

    Attributes:
        folder: for what they leave.
        size: how many hosts there are.
        port: of the head.
        health: where the stub of the head's engine says that it is well.
        processes: by rank.
    """

    folder: Path
    size: int
    port: int
    health: str
    processes: dict[int, subprocess.Popen[str]] = field(default_factory=dict)

    def start(
        self, rank: int, whole: str = "same", address: str = "", last_answer: float = 0
    ) -> None:
        """Start a host's part."""
        addresses = ADDRESSES[: self.size]
        if address:
            addresses[rank] = address
        self.processes[rank] = subprocess.Popen(
            [sys.executable, PROGRAM, f"--addresses={','.join(addresses)}", f"--rank={rank}",
             f"--port={self.port}", f"--whole={whole}", f"--patience={PATIENCE}",
             f"--health={self.health}", f"--state={self.state(rank)}", "--",
             sys.executable, "-c", STUB, self.folder / "log", str(rank), str(last_answer)],
            stdout=(self.folder / f"said{rank}").open("a"), stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def state(self, rank: int) -> Path:
        """Return the file that is there while the whole serves."""
        return self.folder / f"state{rank}"

    def noted(self) -> list[str]:
        """Return what the stubs noted, as RANK WORD, in order."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split(" ", 1)[1] for line in lines]

    def said(self, rank: int) -> str:
        """Return what a host's part told."""
        return (self.folder / f"said{rank}").read_text()

    def until_began(self, *ranks: int) -> None:
        """Wait until the stubs of some hosts run."""
        until(lambda: {f"{rank} began" for rank in ranks} <= set(self.noted()))

    def status(self, rank: int) -> int:
        """Wait until a host's part has ended, and return its status."""
        return self.processes[rank].wait(WAITED)


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + WAITED
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(params=[2])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Group]:
    with socket.create_server((ADDRESSES[0], 0)) as probe:
        port = probe.getsockname()[1]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Well)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/health"
    group = Group(tmp_path, request.param, port, url)
    yield group
    server.shutdown()
    for process in group.processes.values():
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
    for process in group.processes.values():
        process.wait(WAITED)


class Well(BaseHTTPRequestHandler):
    """Says that the engine is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("group", [3], indirect=True)
def test_nobody_starts_before_all_are_there(group: Group) -> None:
    group.start(1)
    group.start(0)
    until(lambda: "host 1 (127.0.0.12) is here." in group.said(0))
    assert group.noted() == []
    group.start(2)
    group.until_began(0, 1, 2)


def test_all_are_well_once_the_head_is(group: Group) -> None:
    group.start(0)
    time.sleep(0.5)
    assert not group.state(0).exists()
    group.start(1)
    until(lambda: group.state(0).exists() and group.state(1).exists())
    assert checked(group, 1) == 0
    engine = engine_of(group.processes[0])
    group.processes[0].kill()
    # A container takes with it what its first process leaves behind.
    os.kill(engine, signal.SIGKILL)
    assert group.status(1) == 1
    assert checked(group, 1) == 1


def checked(group: Group, rank: int) -> int:
    """Return what a host's health check says."""
    check: list[str | Path] = [sys.executable, PROGRAM, "--check", "--state", group.state(rank)]
    return subprocess.run(check, check=False).returncode


@pytest.mark.parametrize("lost", [0, 1])
def test_when_an_engine_ends_all_end_and_begin_anew(group: Group, lost: int) -> None:
    for rank in (0, 1):
        group.start(rank)
    group.until_began(0, 1)
    os.kill(engine_of(group.processes[lost]), signal.SIGKILL)
    assert [group.status(rank) for rank in (0, 1)] == [1, 1]
    assert f"{1 - lost} ended" in group.noted()
    assert "This host's engine ended with status -9; all end." in group.said(lost)
    (group.folder / "log").unlink()
    for rank in (1, 0):
        group.start(rank)
    group.until_began(0, 1)


def engine_of(process: subprocess.Popen[str]) -> int:
    """Return the process that a host's part runs."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


@pytest.mark.parametrize("lost", [0, 1])
def test_a_host_that_says_nothing_any_more_is_lost(group: Group, lost: int) -> None:
    for rank in (0, 1):
        group.start(rank)
    group.until_began(0, 1)
    group.processes[lost].send_signal(signal.SIGSTOP)
    assert group.status(1 - lost) == 1
    assert f"was not heard of for {PATIENCE:g} s; all end." in group.said(1 - lost)


@pytest.mark.parametrize("stopped", [0, 1])
def test_whichever_is_stopped_the_head_finishes_its_answers_first(
    group: Group, stopped: int
) -> None:
    group.start(0, last_answer=PATIENCE + 1)
    group.start(1)
    group.until_began(0, 1)
    group.processes[stopped].terminate()
    assert [group.status(rank) for rank in (0, 1)] == [0, 0]
    assert group.noted()[-4:] == ["0 asked", "0 ended", "1 asked", "1 ended"]


def test_hosts_that_are_to_run_different_things_wait(group: Group) -> None:
    group.start(0)
    group.start(1, whole="another")
    until(lambda: "is to run something else" in group.said(0))
    assert group.noted() == []
    group.processes[1].terminate()
    assert group.status(1) == 0
    group.start(1)
    group.until_began(0, 1)


def test_a_host_of_no_account_is_turned_away(group: Group) -> None:
    group.start(0)
    group.start(1, address="127.0.0.99")
    until(lambda: "127.0.0.99 is turned away" in group.said(0))
    assert group.noted() == []


def test_a_head_that_waits_can_be_stopped(group: Group) -> None:
    for rank in (0, 1):
        group.start(rank, whole=str(rank))
    until(lambda: "it waits." in group.said(0))
    for process in group.processes.values():
        process.terminate()
    assert [group.status(rank) for rank in (0, 1)] == [0, 0]


def test_a_sign_that_nobody_renews_is_none(tmp_path: Path) -> None:
    group = Group(tmp_path, 2, 0, "")
    group.state(1).touch()
    assert checked(group, 1) == 0
    os.utime(group.state(1), (0, time.time() - 100))
    assert checked(group, 1) == 1
