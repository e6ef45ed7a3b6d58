"""The benchmarks that `make bench-all` runs, one after the other."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from json import loads
from pathlib import Path

from ..growth.curves import joined
from . import results
from .results import MEASURED, Result

ROOT = Path(__file__).resolve().parent.parent.parent
LAB = "needs the lab: python -m lab up"
_SAID = 200  # characters of a failure that are kept
_KILL_SECONDS = 30.0  # for removing temporary files


@dataclass(frozen=True)
class Bench:
    """A benchmark.

    Attributes:
        name: of its module in ``bench``.
        arguments: that it is run with, besides ``--json FILE``.
        minutes: that it may take; then it is ended, and said to be too long.
        needs_lab: whether it needs root, a Docker Engine and the lab's images.
    """

    name: str
    arguments: str = ""
    minutes: float = 15
    needs_lab: bool = False

    @property
    def command(self) -> str:
        """What a person types for it."""
        return f"python -m bench.{self.name} {self.arguments}".rstrip()


BENCHES = (
    Bench("watch"),
    Bench("growth", minutes=60),
    Bench("retrieval", "--files 20000 200000", minutes=30),
    Bench("replay", "--commits 100"),
    Bench("use"),
    Bench("gateway", minutes=20),
    Bench("bodies"),
    Bench("peers", minutes=30),
    Bench("sessions", minutes=60, needs_lab=True),
    Bench("eviction", minutes=30, needs_lab=True),
    Bench("cake", minutes=90, needs_lab=True),
    Bench("operations", minutes=90, needs_lab=True),
)


def machine() -> str:
    """Return this machine in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    gpu = f"{gpus} NVIDIA GPUs" if gpus else "no GPU"
    return f"{os.cpu_count()} cores, {memory:.0f} GB, {gpu}"


def run(bench: Bench, say: Callable[[str], object], directory: Path = results.DIRECTORY) -> Result:
    """Run a benchmark, and keep what it measured; one that fails keeps its earlier figures.

    Args:
        bench: it.
        say: is told how it fares.
        directory: where results are kept.
    """
    load = f"load {os.getloadavg()[0]:.1f}"
    say(f"{bench.command}, {bench.minutes:g} minutes at most")
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        outcome = _outcome(bench, Path(file.name))
        written = Path(file.name).read_text()
    today = datetime.now(UTC).date().isoformat()
    if outcome == MEASURED:
        new = Result(bench.command, today, machine(), load, loads(written), (today, MEASURED))
    else:
        before = results.read(bench.name, directory) or Result(
            bench.command, "", "", "", {}, ("", "")
        )
        new = replace(before, last_run=(today, outcome))
    results.write(bench.name, new, directory)
    say(f"{bench.name}: {outcome}")
    return new


def keep(
    bench: Bench, file: Path, load: str, note: str, directory: Path = results.DIRECTORY
) -> Result:
    """Keep what a benchmark wrote that was run by hand, such as ``growth`` for some sizes.

    Args:
        bench: it. Of ``growth``, sizes that it did not measure stay as they were.
        file: that it wrote with ``--json``.
        load: beside it, in words.
        note: what a reader must know.
        directory: where results are kept.
    """
    today = datetime.now(UTC).date().isoformat()
    figures = loads(file.read_text())
    before = results.read(bench.name, directory)
    if before and bench.name == "growth":
        figures = joined(before.figures, figures)
    new = Result(bench.command, today, machine(), load, figures, (today, MEASURED), note)
    results.write(bench.name, new, directory)
    return new


def _outcome(bench: Bench, file: Path) -> str:
    """Run it; return how that ended, in words."""
    command = [sys.executable, *shlex.split(bench.command)[1:], "--json", str(file)]
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=subprocess.STDOUT)
        ends = time.monotonic() + bench.minutes * 60
        try:
            status = process.wait(max(ends - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            _end(process)
            return f"too long: not done after {bench.minutes:g} minutes"
        except KeyboardInterrupt:
            _end(process)
            raise
        told.seek(0)
        last = told.read().decode(errors="replace").strip().rpartition("\n")[2]
    if status:
        return f"failed with status {status}: {last[:_SAID]}"
    return MEASURED if file.stat().st_size else "failed: it wrote no figures"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a benchmark as Control-C does, so that it removes what it made."""
    process.send_signal(2)
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
