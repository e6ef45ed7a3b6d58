"""Trees to measure on, and the watcher as a process on one of them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DIRECTORIES = 3_000
KEPT = 20_000

_IGNORED_IN_DIRECTORY = 20
_BODY = "".join(f"def function_{n}(value):\n    return value * {n}\n\n" for n in range(20))
_SETTINGS = (
    "user.name=Bench",
    "user.email=bench@example.org",
    "gc.auto=0",  # else git packs a new repository for seconds, beside what is measured
)
_READY_SECONDS = 1800.0  # of 200,000 files, on a machine that does much else


def same_text(number: int) -> str:
    """Return a file's text that differs from the others' in its number alone."""
    return f"NUMBER = {number}\n\n\n{_BODY}"


def make(
    root: Path,
    *,
    kept: int = KEPT,
    tracked: bool = True,
    text: Callable[[int], str] = same_text,
) -> list[str]:
    """Make a repository of files in directories of six or seven, and of as many that it ignores.

    Args:
        root: to be made.
        kept: files that it does not ignore.
        tracked: whether the files are committed.
        text: of the file with a number.

    Returns:
        The paths of the files that are not ignored.
    """
    paths: list[str] = []
    directories = max(kept * DIRECTORIES // KEPT, 1)
    for number in range(directories):
        directory = f"src/part{number // 100:02}/module{number % 100:02}"
        (root / directory).mkdir(parents=True)
        share = kept // directories + (number < kept % directories)
        paths += [f"{directory}/file{n}.py" for n in range(share)]
    for number, path in enumerate(paths):
        (root / path).write_text(text(number))
    for number in range(kept // _IGNORED_IN_DIRECTORY):
        directory = f"node_modules/package{number}"
        (root / directory).mkdir(parents=True)
        for n in range(_IGNORED_IN_DIRECTORY):
            (root / directory / f"index{n}.js").write_text("module.exports = 1;\n")
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
        ready_cpu_seconds: the processor time that it had used by then.
        state: its state directory.
    """

    process: subprocess.Popen[bytes]
    ready_seconds: float
    ready_cpu_seconds: float
    state: Path

    @property
    def index(self) -> Path:
        """The database of the workspace ``bench``."""
        return self.state / "index" / "bench.db"

    @property
    def published(self) -> Path:
        """The pack that it publishes of the workspace ``bench``."""
        return self.state / "packs" / "bench" / "pack.json"

    def memory(self) -> float:
        """Return the memory of its processes, in MB.

        What they share is counted once, and in full where others on this machine use it too.
        """
        return _kilobytes(self._processes()) / 1000

    def cpu_seconds(self) -> float:
        """Return the processor time of its processes, and of those that they waited for."""
        return sum(cpu_seconds(process) for process in self._processes())

    def _processes(self) -> list[Path]:
        """Return the directories of those that run Python: it, and the one that packs."""
        own = Path(f"/proc/{self.process.pid}")
        children = (own / f"task/{self.process.pid}/children").read_text().split()
        found = [Path(f"/proc/{child}") for child in children]
        return [own, *(child for child in found if b"infbox" in (child / "cmdline").read_bytes())]


@contextlib.contextmanager
def watching(
    root: Path | Mapping[str, Path],
    state: Path,
    tokenizer: Path | None = None,
    budget: int = 32_000,
) -> Iterator[Watcher]:
    """Run the real watcher on trees until the block is left; there is no engine.

    Args:
        root: of the tree, whose workspace is ``bench``; or of each of several, by the names of
            their workspaces.
        state: its state directory; what is there is used.
        tokenizer: a tokenizer.json to count with.
        budget: of each pack, in tokens.
    """
    roots = {"bench": root} if isinstance(root, Path) else root
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
        "workspaces": [
            {"name": name, "path": str(place), "budget": budget} for name, place in roots.items()
        ],
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
            threading.Thread(target=_drain, args=(heard,), daemon=True).start()
            used = cpu_seconds(Path(f"/proc/{process.pid}"))
            yield Watcher(process, took, used, state)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            heard.shutdown(socket.SHUT_RDWR)  # ends the thread's wait


def environment(state: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which Python keeps what it compiled, as an installed program's is.

    Args:
        state: a directory for that.
        variables: more of them.
    """
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(state.parent / "compiled"), **variables}


def _drain(heard: socket.socket) -> None:
    """Take what the watcher tells systemd each second: it waits for whoever does not."""
    with contextlib.suppress(OSError):  # it was closed
        while heard.fileno() >= 0:
            with contextlib.suppress(TimeoutError):
                heard.recv(100)


def cpu_seconds(process: Path) -> float:
    """Return the processor time of a process and its children, by its directory in /proc."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _kilobytes(processes: Sequence[Path]) -> int:
    """Return what processes have of memory: their own, and the most that one has of each file.

    The kernel's ``Pss`` would be less where others run the same programs.
    """
    own, shared = 0, Counter[str]()
    for process in processes:
        here, name = Counter[str](), ""
        for line in (process / "smaps").read_text().splitlines():
            key, *values = line.split(maxsplit=5)
            if not key.endswith(":"):
                name = values[4] if len(values) > 4 else ""  # noqa: PLR2004  # the last field
            elif key.startswith("Private_"):
                own += int(values[0])
            elif key.startswith("Shared_"):
                here[name] += int(values[0])
        shared |= here
    return own + shared.total()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
