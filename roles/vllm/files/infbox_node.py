"""Run one host's part of an engine that several hosts share: all parts start and end as one.

vLLM's parts notice late, or never, that another one is gone: an idle one waits for its next order
without end, and a part that comes back alone waits for others who believe that they serve. So each
host runs its part under this program. The first host, the head, listens; the others keep a
connection to it. Nobody's part starts before all are connected, and once one of them ends, or is
not heard of for a while, all end. Docker restarts the containers, and the hosts find each other
anew.

Needs nothing but Python: it is mounted into whatever image holds the engine.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BEAT_SECONDS = 1.0
CONNECT_SECONDS = 5.0
RETRY_SECONDS = 1.0
ASK_SECONDS = 5.0  # how long the engine may take to say that it is well
STALE_SECONDS = 60.0  # since the last beat, after which this program itself counts as hung
KILL_SECONDS = 10.0  # from asking a part of a broken whole to end, to ending it
LONGEST_LINE = 256
OTHER = "other"  # the hosts are not told to run the same
START = "start"
WAIT = "wait"
STARTING = "starting"
SERVING = "serving"
LEAVING = "leaving"


class NodeError(Exception):
    """Why the whole ends; the message says whose fault it is."""


@dataclass(frozen=True)
class Settings:
    """What this host is told.

    Attributes:
        addresses: of all hosts by rank; the first one is the head.
        rank: this host's own.
        port: at which the head listens for the others.
        whole: names what all of them run together; hosts that differ in it do not start.
        patience: seconds without a word after which a host counts as lost.
        health: where the head's engine says that it is well.
        state: a file that is there while the whole serves.
        command: this host's part of the engine.
    """

    addresses: tuple[str, ...]
    rank: int
    port: int
    whole: str
    patience: float
    health: str
    state: Path
    command: tuple[str, ...]


@dataclass
class Peer:
    """A connection to another host, read by a thread of its own.

    Attributes:
        name: of the host, for messages.
        connection: to it.
        heard: when it last said something, on the monotonic clock.
        events: where what it says goes, as (peer, word); an empty word for its end.
    """

    name: str
    connection: socket.socket
    events: queue.Queue[tuple[Peer, str]]
    heard: float = field(default_factory=time.monotonic)

    def follow(self) -> None:
        """Read what it says from now on."""
        threading.Thread(target=self._read, daemon=True).start()

    def say(self, word: str) -> None:
        """Send a word; that it is gone shows when it is read from."""
        with contextlib.suppress(OSError):
            self.connection.sendall(f"{word}\n".encode())

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            for word in words(self.connection):
                self.heard = time.monotonic()
                self.events.put((self, word))
        self.events.put((self, ""))


def words(connection: socket.socket) -> Iterator[str]:
    """Yield the lines that come, until the connection ends or a line is longer than any of ours."""
    buffer = b""
    while len(buffer) < LONGEST_LINE and (piece := connection.recv(LONGEST_LINE)):
        *lines, buffer = (buffer + piece).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)


class Node:
    """This host's part.

    Args:
        settings: what the host is told.
        tell: takes what people should read.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._events: queue.Queue[tuple[Peer, str]] = queue.Queue()
        self._stopped = threading.Event()
        self._engine: subprocess.Popen[bytes] | None = None
        self._asked_to_end = False

    def stop(self, *_: object) -> None:
        """Have the whole end in good order, as a signal's handler."""
        self._stopped.set()

    def run(self) -> int:
        """Run until the whole ends.

        Returns:
            The exit status: 0 where it was told to stop.
        """
        self._settings.state.unlink(missing_ok=True)
        peers: list[Peer] = []
        try:
            peers = self._gather() if self._settings.rank == 0 else self._join()
            self._serve(peers)
        except NodeError as error:
            self._tell(str(error))
            return 1
        finally:
            self._settings.state.unlink(missing_ok=True)
            self._end()
            for peer in peers:
                peer.close()
        return 0

    def _gather(self) -> list[Peer]:
        """Wait until all others are connected, and have them start; none where it is stopped."""
        settings = self._settings
        found: dict[int, Peer] = {}
        with listener(settings.addresses[0], settings.port) as server:
            server.settimeout(BEAT_SECONDS)
            while not self._stopped.is_set():
                with contextlib.suppress(TimeoutError):
                    self._admit(server, found)
                self._drop_lost(found)
                if len(found) == len(settings.addresses) - 1:
                    break
                for peer in found.values():
                    peer.say(WAIT)
        peers = list(found.values())
        if self._stopped.is_set():
            return peers
        for peer in peers:
            peer.say(START)
        self._tell("All hosts are here; the engine starts.")
        return peers

    def _admit(self, server: socket.socket, found: dict[int, Peer]) -> None:
        """Take a connection of another host, the last one of each."""
        connection, (address, *_) = server.accept()
        rank = self._rank_of(address)
        if not rank:
            self._tell(f"{address} is turned away: it is none of the hosts of this model.")
            connection.close()
            return
        peer = Peer(f"host {rank} ({address})", connection, self._events)
        connection.settimeout(CONNECT_SECONDS)
        whole = ""
        with contextlib.suppress(OSError, StopIteration):
            whole = next(words(connection))
        if whole != self._settings.whole:
            self._tell(f"{peer.name} is to run something else than this host; it waits.")
            peer.say(OTHER)
            peer.close()
            return
        connection.settimeout(None)
        if rank in found:
            found[rank].close()
        found[rank] = peer
        peer.follow()
        self._tell(f"{peer.name} is here.")

    def _rank_of(self, address: str) -> int:
        """Return the rank of another host by its address, 0 for none."""
        known = [ipaddress.ip_address(one) for one in self._settings.addresses]
        given = ipaddress.ip_address(address)
        return known.index(given) if given in known else 0

    def _drop_lost(self, found: dict[int, Peer]) -> None:
        """Forget hosts that left again before all were there."""
        for peer, word in self._heard(0):
            if not word:
                for rank in [rank for rank, one in found.items() if one is peer]:
                    del found[rank]
        late = time.monotonic() - self._settings.patience
        for rank in [rank for rank, peer in found.items() if peer.heard < late]:
            found.pop(rank).close()

    def _join(self) -> list[Peer]:
        """Connect to the head and wait until it says to start; none where it is stopped."""
        settings = self._settings
        self._tell(f"Waiting for the head at {settings.addresses[0]}:{settings.port}.")
        while not self._stopped.is_set():
            peer = self._connect()
            if peer and self._may_start(peer):
                return [peer]
            self._stopped.wait(RETRY_SECONDS)
        return []

    def _connect(self) -> Peer | None:
        """Return a connection to the head, or None where there is none yet."""
        settings = self._settings
        with contextlib.suppress(OSError):
            connection = socket.create_connection(
                (settings.addresses[0], settings.port),
                CONNECT_SECONDS,
                # The head knows its hosts by their addresses.
                (settings.addresses[settings.rank], 0),
            )
            connection.settimeout(None)
            peer = Peer("the head", connection, self._events)
            peer.say(settings.whole)
            peer.follow()
            return peer
        return None

    def _may_start(self, peer: Peer) -> bool:
        """Return whether the head says to start, before it is lost or the host is stopped."""
        while not self._stopped.is_set():
            for who, word in self._heard(BEAT_SECONDS):
                if who is not peer:
                    continue
                if word == START:
                    self._tell("The head says that all hosts are here; the engine starts.")
                    return True
                if word == OTHER:
                    self._tell("The head is to run something else than this host; trying again.")
                if word != WAIT:
                    peer.close()
                    return False
            peer.say(WAIT)
            if time.monotonic() - peer.heard > self._settings.patience:
                break
        peer.close()
        return False

    def _serve(self, peers: Sequence[Peer]) -> None:
        """Run this host's part until it ends in good order.

        Raises:
            NodeError: it ended by itself, or another host's did.
        """
        if self._stopped.is_set():
            return
        self._engine = subprocess.Popen(self._settings.command, start_new_session=True)
        word = STARTING
        # The head alone has an engine that can be asked.
        asked = Repeated(self._ask) if self._settings.rank == 0 else None
        while True:
            status = self._engine.poll()
            if status is not None:
                if self._asked_to_end:
                    return
                raise NodeError(f"This host's engine ended with status {status}; all end.")
            if asked:
                word = SERVING if asked.last() else STARTING
                self._show(word)
            for peer in peers:
                peer.say(LEAVING if self._stopped.is_set() else word)
            self._listen(peers)
            if self._stopped.is_set() and asked:
                self._ask_to_end()

    def _listen(self, peers: Sequence[Peer]) -> None:
        """Take in what the others said, for a beat.

        Raises:
            NodeError: one of them is lost.
        """
        for peer, word in self._heard(BEAT_SECONDS):
            if peer not in peers:
                continue
            if not word:
                if self._stopped.is_set():
                    self._ask_to_end()
                    return
                raise NodeError(f"{peer.name} has ended its part; all end.")
            if word == LEAVING:
                # It is stopped in good order: who is being answered still needs all parts.
                if not self._stopped.is_set():
                    self._tell(f"{peer.name} is leaving; what is being answered is finished first.")
                self._stopped.set()
            elif self._settings.rank != 0:
                self._show(word)
        late = time.monotonic() - self._settings.patience
        for peer in peers:
            if peer.heard < late:
                raise NodeError(
                    f"{peer.name} was not heard of for {self._settings.patience:g} s; all end."
                )

    def _heard(self, seconds: float) -> Iterator[tuple[Peer, str]]:
        """Yield what is said within so many seconds, and with 0 what was said before."""
        ends = time.monotonic() + seconds
        with contextlib.suppress(queue.Empty):
            while True:
                left = ends - time.monotonic()
                yield self._events.get(timeout=left) if left > 0 else self._events.get_nowait()

    def _show(self, word: str) -> None:
        """Leave or take the sign by which this host's health check goes."""
        if word == SERVING:
            self._settings.state.touch()
        else:
            self._settings.state.unlink(missing_ok=True)

    def _ask(self) -> bool:
        """Return whether the engine says that it is well."""
        try:
            with urllib.request.urlopen(self._settings.health, timeout=ASK_SECONDS) as answer:  # noqa: S310
                return bool(answer.status == 200)  # noqa: PLR2004
        except OSError:
            return False

    def _ask_to_end(self) -> None:
        """Ask the engine once to end, which lets it finish what it is answering."""
        if self._engine and not self._asked_to_end:
            self._asked_to_end = True
            self._engine.terminate()

    def _end(self) -> None:
        """Ensure that nothing of the engine is left."""
        if not self._engine:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._engine.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._engine.wait(KILL_SECONDS)


class Repeated:
    """A question that is asked over and over beside the work, since its answer may take long.

    Args:
        ask: asks it once.
    """

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._answer: object = None
        threading.Thread(target=self._go_on, daemon=True).start()

    def last(self) -> object:
        """Return the last answer."""
        return self._answer

    def _go_on(self) -> None:
        while True:
            self._answer = self._ask()
            time.sleep(BEAT_SECONDS)


def serves(state: Path) -> bool:
    """Return whether the whole serves, by the sign that is left with each beat."""
    try:
        return time.time() - state.stat().st_mtime < STALE_SECONDS
    except OSError:
        return False


def listener(address: str, port: int) -> socket.socket:
    """Return a socket that listens at an address of IPv4 or IPv6."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this host's part, or say by `--check` whether the whole serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--addresses", default="", help="of all hosts by rank, with commas")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--whole", default="")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds")
    parser.add_argument("--health", default="")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("command", nargs="*")
    given = parser.parse_args(arguments)
    if given.check:
        return 0 if serves(given.state) else 1
    node = Node(
        Settings(
            addresses=tuple(given.addresses.split(",")),
            rank=given.rank,
            port=given.port,
            whole=given.whole,
            patience=given.patience,
            health=given.health,
            state=given.state,
            command=tuple(given.command),
        ),
        lambda text: print(f"infbox node {given.rank}: {text}", flush=True),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, node.stop)
    return node.run()


if __name__ == "__main__":
    sys.exit(main())
