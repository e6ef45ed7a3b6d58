"""The peers, installed into an environment of their own, which nothing of infbox needs."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PEERS = ("watchfiles==1.3.0", "watchdog==7.1.0", "gitingest==0.3.1", "litellm[proxy]==1.108.7")


@contextlib.contextmanager
def peers(folder: Path | None) -> Iterator[Path]:
    """Give the directory of the peers' programs.

    Args:
        folder: a virtual environment that has them; else one is made, half a gigabyte, and removed.
    """
    if folder:
        yield folder / "bin"
        return
    with tempfile.TemporaryDirectory(prefix="infbox-bench-") as name:
        subprocess.run([sys.executable, "-m", "venv", name], check=True)
        python = str(Path(name) / "bin" / "python")
        quiet = ("--quiet", "--disable-pip-version-check")
        subprocess.run([python, "-m", "pip", "install", *quiet, *PEERS], check=True)
        yield Path(name) / "bin"


def version(name: str) -> str:
    """Return a peer's name with the version that is compared with."""
    pinned = next(peer for peer in PEERS if peer.partition("[")[0].startswith(name))
    return pinned.replace("==", " ").replace("[proxy]", "")
