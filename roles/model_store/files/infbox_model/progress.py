"""How far a long run is, in a small file that others read while it goes on."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

# The rate is that of the last so many seconds, since a network's changes.
WINDOW = 30
MINUTE = 60
UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def amount(count: float) -> str:
    """Return a number of bytes as people read it, such as ``12.3 GB``."""
    for name, unit in UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """Return a time as people read it, such as ``about 2 min``."""
    if seconds < MINUTE:
        return "less than a minute"
    if seconds < 90 * MINUTE:
        return f"about {seconds / MINUTE:.0f} min"
    return f"about {seconds / 3600:.1f} h"


def sentence(done: int, total: int, rate: float, trouble: str = "") -> str:
    """Return how far a run is, in one line.

    Args:
        done: bytes.
        total: bytes.
        rate: bytes a second; 0 where it is not known.
        trouble: what holds it up, if anything.
    """
    share = 100 * done // total if total else 100
    parts = [f"{amount(done)} of {amount(total)}", f"{share} %"]
    if trouble:
        parts.append(trouble)
    elif done >= total:
        parts.append("making sure that all is there")
    elif rate:
        parts += [f"{amount(rate)}/s", f"{duration((total - done) / rate)} left"]
    return ", ".join(parts)


class Progress:
    """Counts bytes, and writes how far the run is each second while it is entered."""

    def __init__(
        self, path: Path, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the file to write to, the bytes in all, and those that an earlier run had done."""
        self.total = total
        self.trouble = ""
        self._path = path
        self._clock = clock
        self._done = done
        self._samples: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._write_on, daemon=True)

    def add(self, count: int) -> None:
        """Count bytes that came; fewer than 0 where some have to come again."""
        with self._lock:
            self._done += count

    def line(self) -> str:
        """Return how far the run is."""
        with self._lock:
            now, done = self._clock(), self._done
            self._samples.append((now, done))
            while now - self._samples[0][0] > WINDOW:
                self._samples.popleft()
            then, before = self._samples[0]
            rate = (done - before) / (now - then) if now > then else 0
            return sentence(done, self.total, max(rate, 0), self.trouble)

    def write(self) -> None:
        """Write how far the run is; readers see the line before or this one, never half of it."""
        partial = self._path.with_name(self._path.name + ".new")
        try:
            partial.write_text(json.dumps({"text": self.line()}) + "\n", encoding="utf-8")
            partial.replace(self._path)
        except OSError:
            # A full disk stops the download itself, which says so.
            partial.unlink(missing_ok=True)

    def _write_on(self) -> None:
        while not self._ended.wait(1):
            self.write()

    def __enter__(self) -> Progress:
        self.write()
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._writer.join()
        self._path.unlink(missing_ok=True)


def follow(container: str, path: Path, seconds: float) -> dict[str, object]:
    """Wait a while for a container, and say how far it is.

    Args:
        container: its name.
        path: where it writes its progress.
        seconds: how long to wait at most.

    Returns:
        ``running``, ``status`` (its exit status, None while it runs or where it is gone) and
        ``text``.
    """
    try:
        waited = subprocess.run(
            ["docker", "wait", container],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"running": True, "status": None, "text": read(path)}
    status = int(waited.stdout) if waited.returncode == 0 else None
    return {"running": False, "status": status, "text": "there" if status == 0 else "ended"}


def read(path: Path) -> str:
    """Return what a run wrote last."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["text"])
    except (OSError, ValueError, KeyError):
        return "starting, or waiting for another run that does the same"
