"""Makes a virtual environment of a lock: ``make_environment.py PYTHON-ENVIRONMENT LOCK``.

uv installs it, itself a package of the lock, in a tenth of pip's time. It does not read what this
machine tells pip (another index, wheels in a directory, a CA certificate), so that is handed to it;
where it cannot do with that, pip installs all.

Needs Python alone: there is no environment yet.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

INSTALLER = "uv"
# How pip's settings are called by uv; each may have several values.
OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
}
# The first that has a setting wins.
SECTIONS = (":env:", "install", "global")


def make(environment: Path, lock: Path) -> None:
    """Make an environment anew.

    Args:
        environment: where it is to be; what is there is removed.
        lock: requirements with hashes, the installer among them.

    Raises:
        subprocess.CalledProcessError: neither uv nor pip could install it.
    """
    venv.create(environment, clear=True, with_pip=True)
    python = environment / "bin" / "python"
    try:
        install_by_uv(python, lock)
    except subprocess.CalledProcessError:
        print("uv cannot install it here, so pip does (about a minute) ...", flush=True)
        install_by_pip(python, lock)


def install_by_pip(python: Path, lock: Path) -> None:
    """Install a lock by pip."""
    pip(python, "install", "--quiet", "--quiet", "--require-hashes", "--requirement", str(lock))


def install_by_uv(python: Path, lock: Path) -> None:
    """Install a lock by uv, which pip installs first."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as own:
        own.write(entry(lock.read_text(encoding="utf-8"), INSTALLER))
        own.flush()
        install_by_pip(python, Path(own.name))
    settings = pip_settings(pip(python, "config", "list"))
    environment = {**os.environ, "VIRTUAL_ENV": str(python.parent.parent)}
    if "cert" in settings:
        environment["SSL_CERT_FILE"] = settings["cert"]
    command = [str(python.with_name(INSTALLER)), "pip", "install", "--quiet", "--require-hashes",
               # All files are known by their hashes, whichever index has them.
               "--index-strategy", "unsafe-best-match", *uv_options(settings),
               "--requirement", str(lock)]  # fmt: skip
    subprocess.run(command, check=True, env=environment)


def pip(python: Path, *arguments: str) -> str:
    """Run an environment's pip and return its output."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def entry(lock: str, name: str) -> str:
    """Return a package's lines of a lock: its version, and its hashes below.

    Raises:
        SystemExit: it is not in the lock.
    """
    found = re.search(rf"^{re.escape(name)}==(?:.*\\\n)*.*\n", lock, re.MULTILINE)
    if not found:
        sys.exit(f"{name} is not in the lock: add it to the .in file beside it, and `make lock`.")
    return found[0]


def pip_settings(listing: str) -> dict[str, str]:
    """Return pip's settings by name.

    Args:
        listing: what `pip config list` prints, lines such as ``global.index-url='…'``.
    """
    lines = [line.partition("=") for line in listing.splitlines() if "=" in line]
    settings = {}
    for section in reversed(SECTIONS):
        for key, _, value in lines:
            if key.startswith(f"{section}."):
                settings[key.removeprefix(f"{section}.")] = ast.literal_eval(value)
    return settings


def uv_options(settings: dict[str, str]) -> list[str]:
    """Return options for uv that say the same as pip's settings."""
    options = ["--no-index"] if settings.get("no-index", "").lower() in ("1", "true", "yes") else []
    for name, option in OPTIONS.items():
        for value in settings.get(name, "").split():
            options += [option, value]
    return options


def main() -> int:
    """Make the environment; what was wrong has been told by uv and pip where it cannot be."""
    try:
        make(Path(sys.argv[1]), Path(sys.argv[2]))
    except subprocess.CalledProcessError as error:
        return error.returncode or 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
