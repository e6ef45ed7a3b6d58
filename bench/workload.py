"""Trees to measure on, and the watcher as a process on one of them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDERS = 3_000
KEPT = 20_000
IGNORED = 20_000

_IGNORED_FOLDERS = 1_000
_FUNCTIONS = 20
_SETTINGS = (
    "user.name=Bench",
    "user.email=bench@example.org",
    "gc.auto=0",  # else git packs a new repository for seconds, beside what is measured
)
_READY_SECONDS = 180.0


def make(root: Path, *, tracked: bool = True) -> list[str]:
    """Make a repository of 20,000 files in 3,000 folders, and 20,000 files that it ignores.

    Args:
        root: to be made.
        tracked: whether the files are committed.

    Returns:
        The paths of the 20,000 files.
    """
    body = "".join(
        f"def function_{n}(value):\n    return value * {n}\n\n" for n in range(_FUNCTIONS)
    )
    paths: list[str] = []
    for number in range(FOLDERS):
        folder = f"src/part{number // 100:02}/module{number % 100:02}"
        (root / folder).mkdir(parents=True)
        share = KEPT // FOLDERS + (number < KEPT % FOLDERS)
        paths += [f"{folder}/file{n}.py" for n in range(share)]
    for number, path in enumerate(paths):
        (root / path).write_text(f"NUMBER = {number}\n\n\n{body}")
    for number in range(_IGNORED_FOLDERS):
        folder = f"node_modules/package{number}"
        (root / folder).mkdir(parents=True)
        for n in range(IGNORED // _IGNORED_FOLDERS):
            (root / folder / f"index{n}.js").write_text("module.exports = 1;\n")
    (root / ".gitignore").write_text("node_modules/\n*.o\n")
    git(root, "init", "--quiet")
    if tracked:
        git(root, "add", ".")
        git(root, "commit", "--quiet", "-m", "All of it")
    os.sync()  # else it is written out while something is measured
    return paths


def git(root: Path, *arguments: str) -> bytes:
    """Run git and return what it prints."""
    options = [part for setting in _SETTINGS for part in ("-c", setting)]
    done = subprocess.run(["git", *options, *arguments], cwd=root, check=True, capture_output=True)
    return done.stdout


@dataclass(frozen=True)
class Watcher:
    """A running ``infbox-watch run``.

    Attributes:
        process: it.
        ready_seconds: from its start until it said that it is ready.
        index: its database.
        published: the pack it publishes.
    """

    process: subprocess.Popen[bytes]
    ready_seconds: float
    index: Path
    published: Path

    def memory(self) -> float:
        """Return the memory of its processes, in MB; what they share is counted once."""
        shares = [_kilobytes(process / "smaps_rollup", "Pss") for process in self._processes()]
        return sum(shares) / 1000

    def cpu_seconds(self) -> float:
        """Return the processor time that its processes have used."""
        ticks = 0
        for process in self._processes():
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _processes(self) -> list[Path]:
        """Return the folders of those that run Python: it, and the one that packs."""
        own = Path(f"/proc/{self.process.pid}")
        children = (own / f"task/{self.process.pid}/children").read_text().split()
        found = [Path(f"/proc/{child}") for child in children]
        return [own, *(child for child in found if b"infbox" in (child / "cmdline").read_bytes())]


@contextlib.contextmanager
def watching(
    root: Path, state: Path, tokenizer: Path | None = None, budget: int = 32_000
) -> Iterator[Watcher]:
    """Run the real watcher on a tree until the block is left; there is no engine.

    Args:
        root: of the tree.
        state: its state directory; what is there is used.
        tokenizer: a tokenizer.json to count with.
        budget: of the pack, in tokens.
    """
    state.mkdir(exist_ok=True)
    settings = {
        "state_dir": str(state),
        "engine": {
            "url": "http://127.0.0.1:1",
            "model": "bench",
            "max_model_len": budget,
            **({"tokenizer": str(tokenizer)} if tokenizer else {}),
        },
        "watcher": {"listen": f"127.0.0.1:{_free_port()}"},
        "workspaces": [{"name": "bench", "path": str(root), "budget": budget}],
    }
    config = state / "watcher.yml"
    config.write_text(json.dumps(settings))  # which is YAML too
    command = [str(Path(sysconfig.get_path("scripts")) / "infbox-watch")]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        address = state / "notify"
        address.unlink(missing_ok=True)
        heard.bind(str(address))
        heard.settimeout(_READY_SECONDS)
        began = time.perf_counter()
        with (state / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "run", "--config", str(config)],
                env=environment(state, NOTIFY_SOCKET=str(address)),
                stderr=log,
            )
        try:
            heard.recv(100)
            took = time.perf_counter() - began
            index = state / "index" / "bench.db"
            yield Watcher(process, took, index, state / "packs" / "bench" / "pack.json")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def environment(state: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which Python keeps what it compiled, as an installed program's is.

    Args:
        state: a folder for that.
        variables: more of them.
    """
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(state.parent / "compiled"), **variables}


def _kilobytes(file: Path, key: str) -> int:
    lines = file.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
