"""What `infbox-watch client NAME` prints, used as a person would use it."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Server:
    """Where clients send their requests.

    Attributes:
        url: of the server, with or without ``/v1``.
        authority: file with the certificate that the server's is signed by.
        key_file: file with the API key.
        workspace: that is asked about.
    """

    url: str
    authority: Path
    key_file: Path
    workspace: str


@dataclass(frozen=True)
class Printed:
    """What was printed for a client.

    Attributes:
        text: on standard output: the content of a file, or commands.
        said: on standard error: where it belongs.
        environment: the variables of a shell that was told all that are printed.
        window: tokens of conversation and answer that the model takes beside the pack.
    """

    text: str
    said: str
    environment: dict[str, str]
    window: int = 0


def configured(name: str, server: Server, home: Path) -> Printed:
    """Return what a client is configured with, by the command alone.

    Args:
        name: of the client.
        server: that it asks.
        home: the home directory of who starts it.

    Raises:
        subprocess.CalledProcessError: the command fails.
    """
    done = _run(name, server)
    exports = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if line.startswith("export ") and "=" in line
    ]
    # The one that says the window in words.
    window = re.search(r"Context window (\d+) tokens", _run("openai", server).stderr)
    return Printed(done.stdout, done.stderr, shell(exports, home), int(window[1]) if window else 0)


def _run(name: str, server: Server) -> subprocess.CompletedProcess[str]:
    """Run the command and return what it printed."""
    return subprocess.run(
        [Path(sys.executable).with_name("infbox-watch"), "client", name, "--show-key",
         "--server", server.url, "--ca", server.authority, "--key-file", server.key_file,
         "--workspace", server.workspace],
        check=True, capture_output=True, text=True,
    )  # fmt: skip


def shell(lines: list[str], home: Path) -> dict[str, str]:
    """Return the variables of a shell after these lines, in a home directory."""
    script = "\n".join([*lines, "exec env -0"])
    given = {"HOME": str(home), "PATH": PATH, "LANG": "C.UTF-8", "TERM": "dumb"}
    given |= {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}
    done = subprocess.run(
        ["bash", "-eu", "-c", script], env=given, check=True, capture_output=True, text=True
    )
    pairs = (pair.partition("=") for pair in done.stdout.split("\0") if pair)
    return {name: value for name, _, value in pairs}
