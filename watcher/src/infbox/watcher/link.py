"""What the process that follows the trees and the one that works on them tell each other.

They are two so that a save waits for nobody: a process of Python computes one thing at a time, and
a pack is computed for milliseconds, a new generation for seconds.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class Report(NamedTuple):
    """How a workspace's follower fares. To the one who works.

    Attributes:
        workspace: its name.
        is_alive: whether its thread runs.
        failure: why the tree cannot be followed at present; empty while it is.
        since: monotonic time since when, in seconds; None while it is.
        save_to_indexed: of the last save that changed the index, in seconds.
        times: the same of each save since the report before.
        events: so many were taken.
        overflows: so often some were lost.
        scans: so often the whole tree was looked at.
        unwatched_directories: that should be, and cannot.
        polled_directories: looked at from time to time.
        unreadable_paths: files and directories.
    """

    workspace: str
    is_alive: bool = True
    failure: str = ""
    since: float | None = None
    save_to_indexed: float | None = None
    times: tuple[float, ...] = ()
    events: int = 0
    overflows: int = 0
    scans: int = 0
    unwatched_directories: int = 0
    polled_directories: int = 0
    unreadable_paths: int = 0


class Changed(NamedTuple):
    """A workspace's index changed. To the one who works.

    Attributes:
        workspace: its name.
        saved_at: monotonic time of the save that led to it, in seconds; None where none did.
    """

    workspace: str
    saved_at: float | None


class Ready(NamedTuple):
    """Every tree was seen once. To the one who works."""


class ReadFailure(NamedTuple):
    """A workspace's index could not be read. To the one who follows."""

    workspace: str


class Alive(NamedTuple):
    """All that works is alive. To the one who follows."""


class Link:
    """One end of what joins the two.

    Args:
        connection: to the other end. Both come from the same installation, and nobody else has it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, message: object) -> None:
        """Tell the other end something. For any thread. An end that is gone is told nothing."""
        with self._sending:
            try:
                self._connection.send(message)
            except OSError:
                return  # ``receive`` tells

    def receive(self, seconds: float | None = None) -> Any:
        """Return what the other end told, in order.

        Args:
            seconds: to wait for it; None to wait for ever.

        Returns:
            A message, or None when there was none in time.

        Raises:
            EOFError: the other end is gone.
        """
        try:
            return self._connection.recv() if self._connection.poll(seconds) else None
        except OSError as error:
            raise EOFError from error

    def close(self) -> None:
        """Let the other end know that this one is gone."""
        self._connection.close()
