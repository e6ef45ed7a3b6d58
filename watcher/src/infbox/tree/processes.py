"""Starting git, and ending it with all that it started."""

from __future__ import annotations

import os
import signal
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
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    if grace_seconds or process.returncode is None:
        _signal(process, signal.SIGKILL)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()
    with suppress(subprocess.TimeoutExpired):  # it is taken note of later
        process.wait(END_SECONDS)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
