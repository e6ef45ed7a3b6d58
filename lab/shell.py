"""Running commands, and telling a person what takes long."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.settings import STATE

_REMOVE_TIMEOUT = 120.0  # seconds
# What the Engine says of a container whose processes are still ending.
_STILL_ENDING = ("did not receive an exit event", "is already in progress")


class LabError(Exception):
    """Something the lab needs is not there; the message says what to do."""


def run(command: Sequence[str | Path], *, stdin: bytes | None = None) -> str:
    """Run a command quietly.

    Args:
        command: program and arguments.
        stdin: bytes for its standard input; empty when None.

    Returns:
        Its standard output, without white space at the ends.

    Raises:
        LabError: it failed; the message ends with what it printed.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, input=stdin or b"", capture_output=True, check=False)
    except FileNotFoundError:
        raise LabError(f"{words[0]} is not installed") from None
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace")[-4000:]
        raise LabError(f"`{' '.join(words)[:300]}` failed ({done.returncode}):\n{output}")
    return done.stdout.decode().strip()


def remove_container(name: str) -> None:
    """Remove a container of the outer Docker Engine with its volumes.

    The Engine waits ten seconds for the processes to end and then gives up, though they are
    ending: those of a whole host take longer on a busy machine. So it is asked again until it
    has removed the container.

    Raises:
        LabError: it could not be removed within `_REMOVE_TIMEOUT`.
    """
    deadline = time.monotonic() + _REMOVE_TIMEOUT
    while True:
        try:
            run(["docker", "rm", "--force", "--volumes", name])
        except LabError as error:
            is_ending = any(words in str(error) for words in _STILL_ENDING)
            if not is_ending or time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def succeeds(command: Sequence[str | Path]) -> bool:
    """Return whether a command can be run and exits with 0."""
    try:
        run(command)
    except LabError:
        return False
    return True


def run_logged(command: Sequence[str | Path], log: str) -> None:
    """Run a long command with its output in `.lab/logs/LOG.log`.

    Raises:
        LabError: it failed; the message names the log and shows its end.
    """
    path = STATE / "logs" / f"{log}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as output:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        end = "\n".join(path.read_text(errors="replace").splitlines()[-30:])
        raise LabError(f"`{command[0]}` failed ({done.returncode}); the end of {path}:\n{end}")


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say on standard error what is being done, and how long it took."""
    print(f"  {text} ...", file=sys.stderr, flush=True)
    start = time.monotonic()
    yield
    print(f"  {text}: done in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
