"""Starting git, and ending it with all that it started."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from pathlib import Path

END_SECONDS = 5.0
"""For a git that was killed. One that waits for a disk that is gone ends only with that wait."""


def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    directory: Path | None = None,
    is_asked: bool = True,
    is_heard: bool = True,
    buffer_bytes: int = -1,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that what it starts ends with it.

    Args:
        command: and its arguments.
        environment: all of it.
        directory: where it runs; None for where this process does.
        is_asked: whether something is written to it.
        is_heard: whether what it says on standard error is read.
        buffer_bytes: of its pipes, as for ``open``.

    Raises:
        OSError: it cannot be started.
    """
    import subprocess  # noqa: PLC0415  # a restart with nothing changed asks git nothing

    return subprocess.Popen(
        command,
        bufsize=buffer_bytes,
        cwd=directory,
        env=environment,
        stdin=subprocess.PIPE if is_asked else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if is_heard else subprocess.DEVNULL,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], *, grace_seconds: float = 0.0) -> None:
    """End a process and all that it started, where they did not end by themselves.

    Args:
        process: as made by ``started``.
        grace_seconds: that it has to take its locks away; what it left running is ended then too.
    """
    import subprocess  # noqa: PLC0415  # as above

    if grace_seconds and process.poll() is None:
        _end_all(process, is_asked=True)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    if grace_seconds or process.returncode is None:
        _end_all(process, is_asked=False)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()
    with suppress(subprocess.TimeoutExpired):  # it is taken note of later
        process.wait(END_SECONDS)


def read(process: subprocess.Popen[bytes], most: int, seconds: float) -> bytes | None:
    """Return what a process prints next.

    Args:
        process: as made by ``started``.
        most: bytes.
        seconds: that it has for it.

    Returns:
        Nothing where it has ended; None where nothing came in time. On Windows it is killed then.
    """
    assert process.stdout is not None  # noqa: S101  # it is a pipe
    if sys.platform == "win32":
        return _read_or_kill(process, most, seconds)
    import select  # noqa: PLC0415  # of which Windows has no such part

    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    return os.read(process.stdout.fileno(), most) if poll.poll(seconds * 1000) else None


def _read_or_kill(process: subprocess.Popen[bytes], most: int, seconds: float) -> bytes | None:
    """Do so where a pipe cannot be waited for: who kills the process ends the wait."""
    assert process.stdout is not None  # noqa: S101  # as above
    is_late = threading.Event()

    def kill() -> None:
        is_late.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        answer = os.read(process.stdout.fileno(), most)
    finally:
        timer.cancel()
    return None if is_late.is_set() and not answer else answer


def _end_all(process: subprocess.Popen[bytes], *, is_asked: bool) -> None:
    """End a process and what it started; on Windows it alone, which is not asked before."""
    if sys.platform == "win32":
        with suppress(OSError):
            process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM if is_asked else signal.SIGKILL)
