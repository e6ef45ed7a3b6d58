"""Carrying a copy to a host: by rsync from here, or by what lsyncd or Mutagen are told.

Whoever carries is given the copy and nothing else, in one direction, so that what the copy does not
hold cannot leave.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from infbox.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAYS = ("rsync", "lsyncd", "mutagen")

# No name of a host begins with a hyphen, which a program would take for an option.
_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9_][A-Za-z0-9._-]*:/[^\s'\"\\]+")
_MODES = "Du=rwx,Dgo=rx,Fu=rw,Fgo=r"  # in words that macOS's own rsync knows too
_SSH = "ssh -o BatchMode=yes -o ConnectTimeout=10"
_SECONDS = 60


class CarryError(Exception):
    """The copy could not be carried on at present."""


def checked_host(host: str) -> str:
    """Return where a copy goes, without a slash at its end.

    Args:
        host: SERVER:/DIRECTORY, where SERVER is what ssh calls it.

    Raises:
        InputError: it is something else.
    """
    if not _HOST.fullmatch(host) or host.endswith(":/"):
        raise InputError(f"--host: must be SERVER:/DIRECTORY, as gpu1:/srv/shop, not {host!r}")
    return host.rstrip("/")


def by_rsync(directory: Path, host: str) -> None:
    """Make a directory on a host equal to the copy.

    Args:
        directory: of the copy.
        host: as ``checked_host`` returns it; a local directory will do as well.

    Raises:
        CarryError: rsync is not there, or says so.
    """
    command = ["rsync", "-a", "--delete", f"--chmod={_MODES}", f"--timeout={_SECONDS}",
               "-e", _SSH, "--", "./", f"{host}/"]  # fmt: skip
    try:
        # From within: rsync would take the letter of a drive for a host.
        done = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise CarryError(f"rsync: {error.strerror}: install it") from error
    if done.returncode:
        raise CarryError(" ".join(done.stderr.split()) or f"rsync ended with {done.returncode}")


def written(way: str, source: Path, target: Path, host: str) -> list[str]:
    """Write what keeps a copy and its carrying running: units for systemd of the user, and what
    lsyncd or Mutagen read.

    Args:
        way: one of ``WAYS``.
        source: the tree.
        target: as ``mirror.prepare`` made it.
        host: as ``checked_host`` returns it.

    Returns:
        The commands that switch it on.

    Raises:
        InputError: the files cannot be written, or this system has no use for them.
    """
    if sys.platform != "linux":
        raise InputError("--carry: writes units for systemd: on this system start mirror --follow")
    name = "infbox-mirror-" + (re.sub(r"[^A-Za-z0-9_-]", "-", target.name) or "copy")
    tree = target / "tree"
    follow = [sys.executable, "-m", "infbox.cli", "mirror", str(source), str(target), "--follow"]
    if way == "rsync":
        follow += ["--host", host]
    units = {f"{name}.service": _unit(f"Copy {source}, as it is saved", follow)}
    files, more = {}, []
    if way == "lsyncd":
        file = target / "lsyncd.conf.lua"
        files[file] = _lsyncd(tree, host)
        command = ["/usr/bin/env", "lsyncd", "-nodaemon", str(file)]
        units[f"{name}-carry.service"] = _unit(f"Carry the copy of {source}", command)
    if way == "mutagen":
        file = target / "mutagen.yml"
        files[file] = _mutagen(name, tree, host)
        more = [f"mutagen project start -f {_shell(str(file))}"]  # its own daemon goes on with it
    try:
        for file, text in {
            **files,
            **{target / unit: text for unit, text in units.items()},
        }.items():
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}: free space, or fix it") from error
    paths = " ".join(_shell(str(target / unit)) for unit in units)
    names = " ".join(units)
    return [f"systemctl --user link {paths}", f"systemctl --user enable --now {names}", *more]


def _unit(description: str, command: list[str]) -> str:
    return f"""\
[Unit]
Description={_line(description)}

[Service]
ExecStart={_words(command)}
Restart=on-failure
RestartSec=5

[Install]
WantedBy=default.target
"""


def _lsyncd(tree: Path, host: str) -> str:
    return f"""\
settings {{ nodaemon = true, insist = true }}
sync {{
    default.rsync,
    source = {_lua(str(tree))},
    target = {_lua(host)},
    delay = 1,
    delete = true,
    rsync = {{
        rsh = {_lua(_SSH)},
        times = true,
        _extra = {{ "--chmod={_MODES}", "--timeout={_SECONDS}" }},
    }},
}}
"""


def _mutagen(name: str, tree: Path, host: str) -> str:
    # What is JSON is YAML.
    return f"""\
sync:
  {name}:
    alpha: {json.dumps(str(tree))}
    beta: {json.dumps(host)}
    mode: one-way-replica
    permissions:
      defaultFileMode: 0644
      defaultDirectoryMode: 0755
"""


def _quoted(special: str, double: str) -> Callable[[str], str]:
    """Return what puts a text between quotation marks."""

    def quote(text: str) -> str:
        for character in special:
            text = text.replace(character, f"\\{character}")
        for character in double:
            text = text.replace(character, character * 2)
        return f'"{text}"'

    return quote


_lua = _quoted('\\"', "")
_word = _quoted('\\"', "%$")
_shell = _quoted('\\"$`', "")


def _words(command: list[str]) -> str:
    return " ".join(map(_word, command))


def _line(text: str) -> str:
    return " ".join(text.split()).replace("%", "%%")
