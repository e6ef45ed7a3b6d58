"""Installs clients as their locks name them, once for each content of a lock."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from make_environment import pip, pip_settings, uv_options

from lab.settings import ROOT

LOCKS = ROOT / "requirements" / "clients"
CACHE = ROOT / ".cache" / "clients"
# Scripts of packages run for these alone: they put the program for this machine into its place.
BUILT = ("@anthropic-ai/claude-code", "opencode-ai")


def python_environment(name: str) -> Path:
    """Return the directory of the programs of a lock for Python, installed where it is not yet.

    Args:
        name: of the lock, without its suffix.

    Raises:
        subprocess.CalledProcessError: it cannot be installed.
    """
    lock = LOCKS / f"{name}.txt"
    return _made(name, [lock], lambda place: _install_python(place, lock)) / "bin"


def node_environment() -> Path:
    """Return the directory of the programs of the lock for Node.js, installed where not yet.

    Raises:
        subprocess.CalledProcessError: they cannot be installed.
    """
    files = [LOCKS / "package.json", LOCKS / "package-lock.json"]
    return _made("node", files, lambda place: _install_node(place, files)) / "node_modules/.bin"


def _made(name: str, files: list[Path], make: Callable[[Path], None]) -> Path:
    """Return the place of what these files say, made anew where it is not whole."""
    content = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    place = CACHE / f"{name}-{content.hexdigest()[:16]}"
    whole = place / "whole"
    if not whole.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        make(place)
        whole.touch()
    return place


def _install_python(place: Path, lock: Path) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    settings = pip_settings(pip(Path(sys.executable), "config", "list"))
    environment = dict(os.environ)
    if "cert" in settings:
        environment["SSL_CERT_FILE"] = settings["cert"]
    subprocess.run(
        [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, place], check=True
    )
    # A lock names all that is wanted: one leaves out what its package asks for and tests do not.
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", place / "bin/python", "--require-hashes",
         "--no-deps", "--index-strategy", "unsafe-best-match", *uv_options(settings),
         "--requirement", lock],
        check=True, env=environment,
    )  # fmt: skip


def _install_node(place: Path, files: list[Path]) -> None:
    for file in files:
        shutil.copy(file, place)
    # Not `npm ci`: that refuses a lock without the packages for other systems, which not every
    # registry has. What is in the lock is verified by its hash all the same.
    npm = ["npm", "--prefix", str(place), "--no-audit", "--no-fund", "--loglevel", "error"]
    subprocess.run([*npm, "install", "--no-save", "--ignore-scripts"], check=True, cwd=place)
    subprocess.run([*npm, "rebuild", *BUILT], check=True, cwd=place, stdout=subprocess.DEVNULL)
