"""Builds an image detached from the run that started it, and says how far a build is.

    infbox_build.py build DIRECTORY
    infbox_build.py follow --unit UNIT --seconds SECONDS DIRECTORY

DIRECTORY holds `context/`, `build.json` (what to build), `hash` and `log`. `build` is the process
of a transient systemd unit; `follow` is what a run asks every few seconds. Both need Python alone.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

# A log is a few hundred kB. What is before its last so many bytes is not read.
LOG_BYTES = 4 * 1024 * 1024
TITLE_LENGTH = 60
MINUTE = 60
UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SIZE = r"([\d.,]+) ?([kKMGT]?B)"

LINE = re.compile(r"#([1-9]\d*) (.*)")
SECONDS = re.compile(r"\d+\.\d+ ")
ENDED = re.compile(r"(DONE|CACHED|ERROR|CANCELED)\b")
STEP = re.compile(r"\[([^\]]+)\] ?(.*)")
LAYER = re.compile(rf"(sha256:[0-9a-f]+) {SIZE} / {SIZE}")
WHEEL = re.compile(rf"\s*Downloading (\S+\.(?:whl|tar\.gz|zip))(?: \({SIZE}\))?")
DEBIAN = re.compile(rf"Get:\d+ .*\[{SIZE}\]")
LOCK = re.compile(r"\brequirements[\w.-]*\.txt\b")


@dataclass
class Step:
    """A step of a build, as its log tells of it.

    Attributes:
        name: such as ``cuda-build 3/5``.
        title: what it runs.
        ended: whether it did.
        wheels: bytes of each Python package that is downloaded or was.
        packages: bytes of each Debian package.
        layers: bytes that are there and bytes in all, of each layer that is pulled.
        doing: what the step's output says of the moment.
    """

    name: str = ""
    title: str = ""
    ended: bool = False
    wheels: dict[str, float] = field(default_factory=dict)
    packages: list[float] = field(default_factory=list)
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)
    doing: str = ""

    @property
    def stage(self) -> str:
        """The stage that this step is of; empty for one without a name."""
        return self.name.rpartition(" ")[0]

    def read(self, text: str) -> None:
        """Take what one line of the log says of this step."""
        self.ended = bool(ENDED.match(text))
        if self.ended or text == "...":
            return
        if found := STEP.match(text):
            self.name, self.title = found.groups()
        elif not self.title:
            self.title = text
        else:
            self._read_output(SECONDS.sub("", text, count=1))

    def _read_output(self, text: str) -> None:
        if found := LAYER.match(text):
            self.layers[found[1]] = (size(found[2], found[3]), size(found[4], found[5]))
        elif found := WHEEL.match(text):
            name, number, unit = found.groups()
            self.wheels[name] = size(number, unit) if number else 0
            self.doing = "-".join(name.split("-")[:2]) + (f" ({number} {unit})" if number else "")
        elif found := DEBIAN.match(text):
            self.packages.append(size(found[1], found[2]))
        elif text.startswith("Installing collected packages"):
            self.doing = "installing them"


def size(number: str, unit: str) -> float:
    """Return the bytes that a log means, 0 for what is no number."""
    try:
        return float(number.replace(",", "")) * UNITS[unit]
    except ValueError:
        return 0


def amount(count: float) -> str:
    """Return a number of bytes as people read it, such as ``12.3 MB``."""
    for name in ("TB", "GB", "MB", "kB"):
        if count >= UNITS[name]:
            return f"{count / UNITS[name]:.1f} {name}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """Return a time as people read it, such as ``2 min 5 s``."""
    minutes, rest = divmod(int(seconds), MINUTE)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def steps_of(log: str) -> list[Step]:
    """Return the steps that a log of ``--progress=plain`` tells of, the latest line's last."""
    steps: dict[str, Step] = {}
    for line in log.splitlines():
        if found := LINE.match(line):
            step = steps.pop(found[1], None) or Step()
            steps[found[1]] = step
            step.read(found[2])
    return list(steps.values())


def locked(steps: list[Step], context: Path) -> int:
    """Return how many packages the lock has that some steps install; 0 where they name none."""
    names = [name for step in steps for name in LOCK.findall(step.title)]
    try:
        text = (context / names[-1]).read_text(encoding="utf-8") if names else ""
    except (OSError, ValueError):
        return 0
    return len(re.findall(r"^[\w.\[\]-]+==", text, re.MULTILINE))


def sentence(log: str, seconds: float, context: Path) -> str:
    """Return how far a build is, in one line.

    Args:
        log: what it printed so far.
        seconds: since it began.
        context: where the lock is that a step may install.
    """
    steps = steps_of(log)
    running = [step for step in steps if not step.ended and step.name != "internal"]
    if not running:
        return f"{duration(seconds)}, between two steps"
    step = running[-1]
    parts = [duration(seconds)]
    # A stage may install what its lock names in several steps.
    stage = [each for each in steps if each.stage == step.stage]
    wheels = {name: size for each in stage for name, size in each.wheels.items()}
    if wheels:
        total = locked(stage, context)
        of_all = f" of the lock's {total}" if total else ""
        parts.append(f"{len(wheels)} package{'s' * (len(wheels) != 1)}{of_all}")
        parts.append(amount(sum(wheels.values())))
    elif step.packages:
        parts.append(f"{len(step.packages)} Debian packages, {amount(sum(step.packages))}")
    elif step.layers:
        there = sum(done for done, _ in step.layers.values())
        whole = sum(total for _, total in step.layers.values())
        parts.append(f"base image, {amount(there)} of {amount(whole)}")
    if step.doing:
        parts.append(step.doing)
    title = step.title if len(step.title) <= TITLE_LENGTH else step.title[:TITLE_LENGTH] + "..."
    parts.append(f"step {step.name}: {title}" if step.name else title)
    return ", ".join(parts)


def command(told: dict[str, object], context: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command that builds an image, and its environment.

    Values of build arguments pass by the environment: a proxy's address may hold a password, and
    everybody on the host can read a command line.
    """
    pairs = told["args"].items() if isinstance(told["args"], dict) else ()
    args = {str(k): str(v).lower() if isinstance(v, bool) else str(v) for k, v in pairs}
    line = [shutil.which("docker") or "docker", "buildx", "build", "--progress=plain", "--load"]
    line += [f"--network={told['network']}", f"--tag={told['reference']}"]
    line += [f"--label={told['label']}"]
    line += [f"--target={told['target']}"] if told["target"] else []
    line += [f"--build-arg={name}" for name in args]
    # A unit of the system has no home, where Docker keeps the logins of registries.
    home = {"HOME": pwd.getpwuid(os.getuid()).pw_dir}
    return [*line, "--", str(context)], {**home, **os.environ, **args}


def build(directory: Path) -> int:
    """Build the image that a directory is about; the context is gone afterwards in every case.

    Where it succeeds nothing is left, else the log.
    """
    told = directory / "build.json"
    line, environment = command(json.loads(told.read_text(encoding="utf-8")), directory / "context")
    try:
        status = subprocess.run(line, env=environment, check=False).returncode
    finally:
        shutil.rmtree(directory / "context", ignore_errors=True)
        told.unlink(missing_ok=True)
    if status == 0:
        shutil.rmtree(directory)
    return status


def active(unit: str) -> bool:
    """Return whether a unit runs."""
    asked = ["systemctl", "is-active", "--quiet", unit]
    return subprocess.run(asked, check=False).returncode == 0


def follow(unit: str, directory: Path, seconds: float) -> dict[str, object]:
    """Wait a while for a build, and say how far it is.

    Args:
        unit: that runs it.
        directory: where its log is.
        seconds: how long to wait at most.

    Returns:
        ``running`` and ``text``.
    """
    end = time.monotonic() + seconds
    while active(unit):
        if time.monotonic() >= end:
            return {"running": True, "text": how_far(directory)}
        time.sleep(0.5)
    return {"running": False, "text": "ended"}


def how_far(directory: Path) -> str:
    """Return how far a build is by what its directory holds."""
    log = directory / "log"
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - LOG_BYTES, 0))
            text = file.read().decode(errors="replace")
        began = (directory / "hash").stat().st_mtime
    except OSError:
        # It began or ended this moment.
        return "starting or ending"
    return sentence(text, time.time() - began, directory / "context")


def main() -> int:
    """Run."""
    top = argparse.ArgumentParser(description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    builds = commands.add_parser("build")
    follows = commands.add_parser("follow")
    follows.add_argument("--unit", required=True)
    follows.add_argument("--seconds", type=float, default=15)
    for one in (builds, follows):
        one.add_argument("directory", type=Path)
    given = top.parse_args()
    if given.command == "build":
        return build(given.directory)
    print(json.dumps(follow(given.unit, given.directory, given.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
