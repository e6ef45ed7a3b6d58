"""A client of Valkey for the tier that replicas share; it never makes anybody wait.

LMCache's adapter ``native_plugin`` takes it in place of a client in C++: tasks are numbered, and
told of once they are done. This file knows nothing of LMCache, and is tested without it.

LMCache's own clients are not it (0.5.6, seen): that of ``resp`` waits without end for a Valkey that
is frozen and for a piece that was evicted, and does not connect again to one that was restarted;
that of ``valkey`` has each question wait for as long as one that is away might answer. Here Valkey
is asked for a sign of life all the time; while there is none, all that this client is asked counts
as not there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Completion = tuple[int, bool, str, list[bool] | None]
    Job = Callable[["Connection"], bool]

SECONDS = 1.0
"""Between two signs of life, and the longest time without a byte while something is under way."""

T = TypeVar("T")

_WRITE_BYTES = 1 << 20
_LINE_BYTES = 64  # longer than the first line of any answer to what is asked here

_log = logging.getLogger(__name__)


def bulk(word: bytes) -> bytes:
    """Return a word as Valkey reads it."""
    return b"$%d\r\n%s\r\n" % (len(word), word)


def command(*words: bytes) -> bytes:
    """Return a command as Valkey reads it."""
    return b"*%d\r\n" % len(words) + b"".join(map(bulk, words))


class AwayError(Exception):
    """Valkey does not answer."""


class Connection:
    """One connection, for one thing at a time.

    Args:
        address: host and port.
        context: what to trust, and what to show.

    Raises:
        OSError: nobody is there, or is not who it should be.
    """

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        raw = socket.create_connection(address, timeout=SECONDS)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(raw)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def ping(self) -> None:
        """See that it is Valkey that answers.

        Raises:
            OSError: it is not, or it may not be used.
        """
        self._socket.sendall(command(b"PING"))
        if (answer := self._line()[0]) != b"+PONG":
            raise OSError(f"Valkey says {answer.decode(errors='replace')}")

    def set(self, key: bytes, value: memoryview) -> bool:
        """Write; return whether it was taken."""
        self._socket.sendall(b"*3\r\n$3\r\nSET\r\n" + bulk(key) + b"$%d\r\n" % len(value))
        # Piece by piece, as the time that may pass is that of a call.
        for start in range(0, len(value), _WRITE_BYTES):
            self._socket.sendall(value[start : start + _WRITE_BYTES])
        self._socket.sendall(b"\r\n")
        return self._line()[0] == b"+OK"

    def get_into(self, key: bytes, buffer: memoryview) -> bool:
        """Read into a buffer; return whether there is such a thing of that very length.

        Raises:
            OSError: there is one of another length, of which the rest would be in the way.
        """
        self._socket.sendall(command(b"GET", key))
        first, have = self._line()
        if first != b"$%d" % len(buffer):
            if first.startswith(b"$") and first != b"$-1":
                raise OSError(f"a piece has another length: {first.decode()}")
            return False
        buffer[: len(have)] = have
        at = len(have)
        while at < len(buffer):
            at += self._some(self._socket.recv_into(buffer[at:]))
        self._rest(2)
        return True

    def exist(self, keys: Sequence[bytes]) -> list[bool]:
        """Return which keys are there, by one exchange."""
        self._socket.sendall(b"".join(command(b"EXISTS", key) for key in keys))
        have = b""
        while have.count(b"\r\n") < len(keys):
            have += self._socket.recv(_WRITE_BYTES) or self._ended()
        return [line == b":1" for line in have.split(b"\r\n")[: len(keys)]]

    def delete(self, key: bytes) -> bool:
        """Delete; return whether there was such a thing."""
        self._socket.sendall(command(b"DEL", key))
        return self._line()[0] == b":1"

    def _line(self) -> tuple[bytes, bytes]:
        """Return an answer's first line, and what was read after it."""
        have = b""
        while b"\r\n" not in have:
            have += self._socket.recv(_LINE_BYTES) or self._ended()
        first, _, rest = have.partition(b"\r\n")
        return first, rest

    def _rest(self, length: int) -> None:
        while length:
            length -= self._some(len(self._socket.recv(length)))

    def _some(self, count: int) -> int:
        return count or len(self._ended())

    def _ended(self) -> bytes:
        raise ConnectionResetError("Valkey closed the connection")


def reading(key: bytes, buffer: memoryview) -> Job:
    """Return what reads a piece into a buffer."""
    return lambda connection: connection.get_into(key, buffer.cast("B"))


def writing(key: bytes, value: memoryview) -> Job:
    """Return what writes a piece."""
    return lambda connection: connection.set(key, value.cast("B"))


def deleting(key: bytes) -> Job:
    """Return what deletes a piece."""
    return lambda connection: connection.delete(key)


class Task:
    """Something that was asked for, key by key.

    Args:
        number: its number.
        keys: how many there are.
    """

    def __init__(self, number: int, keys: int) -> None:
        self.number = number
        self.each = [False] * keys
        self.left = keys


class ValkeyClient:
    """Looks up, reads and writes pieces, each kind in threads of its own.

    Args:
        host: where Valkey is.
        port: at which port.
        certificate: file with the one certificate that is trusted, and shown.
        key: file with its key.
        namespace: what each key begins with.
        readers: pieces that are read at a time.
        writers: pieces that are written at a time.

    Raises:
        OSError: the certificate cannot be read.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        certificate: str,
        key: str,
        namespace: str = "",
        readers: int = 4,
        writers: int = 2,
    ) -> None:
        self._address = host, port
        # Who has the key is one of the group, whatever it is called.
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.load_verify_locations(certificate)
        self._context.load_cert_chain(certificate, key)
        self._namespace = namespace
        self._lanes = {
            kind: ThreadPoolExecutor(threads, f"shared-tier-{kind}")
            for kind, threads in {"look": 1, "read": readers, "write": writers}.items()
        }
        self._own = threading.local()
        self._lock = threading.Lock()
        self._tasks = 0
        self._done: list[Completion] = []
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_there = False
        self._losses = 0
        self._why = ""
        self._stopped = threading.Event()
        self._watch = threading.Thread(target=self._keep_looking, daemon=True, name="shared-tier")
        self._watch.start()

    @property
    def is_there(self) -> bool:
        """Whether Valkey answers."""
        return self._is_there

    def event_fd(self) -> int:
        """Return what is readable once a task is done."""
        return self._event

    def submit_batch_exists(self, keys: Sequence[str]) -> int:
        """Begin to look up; return the task's number."""
        names = self._names(keys)
        task = self._task(len(keys))

        def look() -> None:
            found: list[bool] = []
            with contextlib.suppress(AwayError):
                found = self._on_connection(lambda connection: connection.exist(names))
            self._tell(task, True, found or task.each)

        self._lanes["look"].submit(look)
        return task.number

    def submit_batch_get(self, keys: Sequence[str], buffers: Sequence[memoryview]) -> int:
        """Begin to read; return the task's number."""
        return self._submit("read", list(map(reading, self._names(keys), buffers)))

    def submit_batch_set(self, keys: Sequence[str], buffers: Sequence[memoryview]) -> int:
        """Begin to write; return the task's number."""
        return self._submit("write", list(map(writing, self._names(keys), buffers)))

    def submit_batch_delete(self, keys: Sequence[str]) -> int:
        """Begin to delete; return the task's number."""
        return self._submit("write", list(map(deleting, self._names(keys))))

    def drain_completions(self) -> Sequence[Completion]:
        """Return the tasks that were done since: number, success, error, and that of each key."""
        with self._lock:
            done, self._done = self._done, []
            if done:
                os.eventfd_read(self._event)
            return done

    def close(self) -> None:
        """End; no buffer is touched after that."""
        self._stopped.set()
        self._is_there = False
        self._watch.join()
        for lane in self._lanes.values():
            lane.shutdown()
        os.close(self._event)

    def _names(self, keys: Sequence[str]) -> list[bytes]:
        return [f"{self._namespace}{key}".encode() for key in keys]

    def _task(self, keys: int) -> Task:
        with self._lock:
            self._tasks += 1
            return Task(self._tasks, keys)

    def _submit(self, lane: str, jobs: Sequence[Job]) -> int:
        task = self._task(len(jobs))
        if not jobs:
            self._tell(task, True, [])
        for index, job in enumerate(jobs):
            self._lanes[lane].submit(self._do, task, index, job)
        return task.number

    def _do(self, task: Task, index: int, job: Job) -> None:
        """Do one key's part of a task, and tell of the task if it was the last one."""
        is_well = False
        with contextlib.suppress(AwayError):
            is_well = self._on_connection(job)
        with self._lock:
            task.each[index] = is_well
            task.left -= 1
            is_last = not task.left
        if is_last:
            self._tell(task, all(task.each), task.each)

    def _tell(self, task: Task, is_well: bool, each: list[bool]) -> None:
        with self._lock:
            if not self._done:
                os.eventfd_write(self._event, 1)
            self._done.append((task.number, is_well, "" if is_well else "not all of it", each))

    def _on_connection(self, do: Callable[[Connection], T]) -> T:
        """Do something on this thread's connection.

        Raises:
            AwayError: Valkey does not answer, or did not just now.
        """
        if not self._is_there:
            raise AwayError
        try:
            return do(self._connection())
        except OSError as error:
            self._lose(error)
            raise AwayError from error

    def _connection(self) -> Connection:
        """Return this thread's connection, a new one where Valkey was away meanwhile."""
        losses = self._losses
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is None or self._own.losses != losses:
            if connection:
                connection.close()
            self._own.connection = None
            connection = self._own.connection = Connection(self._address, self._context)
            self._own.losses = losses
        return connection

    def _keep_looking(self) -> None:
        """Ask for signs of life, on a connection of its own."""
        connection: Connection | None = None
        while not self._stopped.is_set():
            try:
                connection = connection or Connection(self._address, self._context)
                connection.ping()
                if not self._is_there:
                    _log.warning("The shared cache answers")
                self._is_there = True
            except OSError as error:
                if connection:
                    connection.close()
                connection = None
                self._lose(error)
            self._stopped.wait(SECONDS)
        if connection:
            connection.close()

    def _lose(self, error: OSError) -> None:
        with self._lock:
            # What lasts is said once.
            is_news = self._is_there or str(error) != self._why
            self._is_there = False
            self._losses += 1
            self._why = str(error)
        if is_news:
            _log.warning("The shared cache is left alone until it answers again: %s", error)
