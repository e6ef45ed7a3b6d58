"""The peers, installed into an environment of their own, which nothing of infbox needs."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("watchfiles==1.3.0", "watchdog==7.1.0", "gitingest==0.3.1", "litellm[proxy]==1.108.7")


@contextlib.contextmanager
def peer_programs(directory: Path | None) -> Iterator[Path]:
    """Give the directory of the peers' programs.

    Args:
        directory: a virtual environment that has them. Without it, one of half a gigabyte is made
            and removed.
    """
    if directory:
        yield directory / "bin"
        return
    with tempfile.TemporaryDirectory(prefix="infbox-bench-") as name:
        subprocess.run([sys.executable, "-m", "venv", name], check=True)
        python = str(Path(name) / "bin" / "python")
        quiet = ("--quiet", "--disable-pip-version-check")
        subprocess.run([python, "-m", "pip", "install", *quiet, *PROGRAMS], check=True)
        yield Path(name) / "bin"


def version(name: str) -> str:
    """Return a peer's name with the version that is compared with."""
    pinned = next(peer for peer in PROGRAMS if peer.partition("[")[0].startswith(name))
    return pinned.replace("==", " ").replace("[proxy]", "")
