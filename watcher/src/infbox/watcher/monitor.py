"""What the process that follows the trees does once it is ready.

It starts the one that packs, warms and shows, tells it what changes, and tells systemd that both
are alive.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from infbox.log import line
from infbox.runtime.notify import notify, watchdog_seconds
from infbox.watcher.link import Alive, Changed, Link, ReadFailure, Ready, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infbox.config import Config
    from infbox.watcher.service import Service
    from infbox.watching.follower import Follower

_TICK_SECONDS = 0.25
_PERIOD_SECONDS = 10.0  # between signs of life where systemd wants none
_GRACE_SECONDS = 10.0

_LEAN = ("-X", "no_debug_ranges")
"""Without the columns of each instruction, which only underline a line of a traceback: 1.7 MB."""

NO_ANSWER = (
    "the tree does not respond: check whether its file system responds, and whether git hangs in "
    "it, for example because a pipe replaces a file that git reads"
)

_logger = logging.getLogger(__name__)


def monitor(service: Service, listener: socket.socket) -> int:
    """Have a process work on what a service follows, until one of the two ends.

    Args:
        service: begun.
        listener: for the pages; closed here.

    Returns:
        The exit status.
    """
    with _working(service.config, listener) as (process, link):
        with contextlib.suppress(EOFError):
            Attendant(service, link).run()
        status = _ended(process)
    if status < 0:
        _logger.critical(line("stopped-working", signal=-status, hint="systemd restarts it"))
        return 1
    return status


class Attendant:
    """Tells the one who works what a service's followers tell.

    Args:
        service: begun.
        link: to the one who works.
    """

    def __init__(self, service: Service, link: Link) -> None:
        self._service = service
        self._link = link
        self._reports: dict[str, Report] = {}
        self._telling = threading.Lock()
        self._hanging: set[str] = set()
        self._period = watchdog_seconds() or _PERIOD_SECONDS
        self._beat_at = 0.0
        self._is_working = False
        self._is_told_ready = False

    def run(self) -> None:
        """Attend until the one who works has ended.

        Raises:
            EOFError: it has.
        """
        for follower in self._service.followers:
            threading.Thread(target=self._hand_on, args=(follower,), daemon=True).start()
        while True:
            self._hear(self._link.receive(min(_TICK_SECONDS, self._period / 3)))
            self._tell()
            if time.monotonic() >= self._beat_at + self._period / 3:
                self._beat()

    def _hear(self, message: object) -> None:
        if isinstance(message, Alive):
            self._is_working = True
        elif isinstance(message, ReadFailure):
            for follower in self._service.followers:
                if follower.workspace == message.workspace:
                    follower.check_index()

    def _tell(self) -> None:
        self._service.tell_ready()
        if self._service.is_ready and not self._is_told_ready:
            self._is_told_ready = True
            self._link.send(Ready())
        for follower in self._service.followers:
            self._tell_of(follower)

    def _tell_of(self, follower: Follower) -> None:
        """Tell how a follower fares, if that is news. For any thread: no report overtakes another,
        or counters would run backwards."""
        with self._telling:
            report = _report(follower)
            self._note_hanging(follower, report)
            if report != self._reports.get(follower.workspace):
                self._reports[follower.workspace] = report._replace(times=())
                self._link.send(report)

    def _note_hanging(self, follower: Follower, report: Report) -> None:
        """Log that a tree gives no answer, or does so again."""
        since = follower.hangs_since()
        was = follower.workspace in self._hanging
        if since is not None and not was:
            self._hanging.add(follower.workspace)
            seconds = time.monotonic() - since
            _logger.error(
                line(
                    "no-answer",
                    workspace=follower.workspace,
                    seconds=seconds,
                    reason=report.failure,
                )
            )
        elif was and since is None:
            self._hanging.discard(follower.workspace)
            _logger.info(line("answers-again", workspace=follower.workspace))

    def _beat(self) -> None:
        """Tell systemd that all is alive, if it was since the last time."""
        service = self._service
        if self._is_working and service.is_ready and service.have_heard():
            notify("WATCHDOG=1")
        self._is_working = False
        self._beat_at = time.monotonic()
        service.beat()

    def _hand_on(self, follower: Follower) -> None:
        """Hand a follower's changes on until it ends."""
        while (change := follower.changes.wait()) is not None:
            self._tell_of(follower)
            self._link.send(Changed(follower.workspace, *change))


@contextlib.contextmanager
def _working(
    config: Config, listener: socket.socket
) -> Iterator[tuple[subprocess.Popen[bytes], Link]]:
    """Run the process that works; it is ended with the block."""
    ours, theirs = socket.socketpair()
    with theirs, listener:
        shared = [theirs.fileno(), listener.fileno()]
        command = [sys.executable, *_LEAN, "-m", "infbox.watcher.worker", *map(str, shared)]
        process = subprocess.Popen(command, pass_fds=shared)
    link = Link(Connection(ours.detach()))
    try:
        link.send(config)
        yield process, link
    finally:
        link.close()
        _ended(process)


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Return the exit status of a process that ends by itself soon, or is killed."""
    try:
        return process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def health(follower: Follower) -> tuple[str, float | None]:
    """Return why a workspace is not followed at present, and since when, of the monotonic clock; an
    empty text and None while it is. One that hangs cannot say so itself."""
    hangs_since = follower.hangs_since()
    if hangs_since is None:
        return follower.failure, follower.failing_since
    before = follower.failing_since
    return follower.failure or NO_ANSWER, hangs_since if before is None else before


def _report(follower: Follower) -> Report:
    times = follower.times
    return Report(
        follower.workspace,
        follower.is_alive(),
        *health(follower),
        follower.save_to_indexed,
        tuple(times.popleft() for _ in range(len(times))),
        follower.events,
        follower.overflows,
        follower.scans,
        follower.unwatched_directories,
        follower.polled_directories,
        follower.unreadable_paths,
    )
