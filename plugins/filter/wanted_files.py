"""Files and folders that a role wants: one look at the host tells which of them it has already."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# What the look prints of each: type, permissions, user and group by number and by name, path.
FORMAT = r"%y %#m %U %u %G %g %p\n"
FOUND = re.compile(r"([a-z]) (0[0-7]*) (\d+) (\S+) (\d+) (\S+) (.*)")
CHECKSUM = re.compile(r"([0-9a-f]{64})  (.*)")
TYPES = {"directory": "d", "file": "f"}


def wanted(
    what: Mapping[str, str] | Sequence[str],
    mode: str,
    owner: str | int = "root",
    group: str | int = "root",
) -> list[dict[str, Any]]:
    """Return files or folders that are to be alike in who may do what with them.

    Args:
        what: contents by path are files, paths alone are folders.
        mode: permissions, octal, as text.
        owner: name or number.
        group: name or number.
    """
    rights = {"mode": mode, "owner": owner, "group": group}
    if isinstance(what, Mapping):
        return [{"path": path, "content": content, **rights} for path, content in what.items()]
    return [{"path": path, **rights} for path in what]


def look_command(paths: Iterable[str]) -> list[str]:
    """Return the command that says what of all this is on a host.

    It fails where something is missing, having told of the rest.

    Args:
        paths: of files and folders. What is to be in them is not asked for, since rendering it
            takes Ansible longer than the look does.
    """
    each = ["-maxdepth", "0", "-printf", FORMAT, "-type", "f", "-exec", "sha256sum", "{}", "+"]
    return ["find", *paths, *each]


def paths_found(found: Sequence[str]) -> list[str]:
    """Return the paths that are on the host, of whatever type.

    Args:
        found: the lines that the command printed.
    """
    return [match[7] for line in found if (match := FOUND.fullmatch(line))]


def unlike(
    wanted_files: Iterable[Mapping[str, Any]], found: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Return what is not on the host as it should be.

    Only what is the very same is left out, so that a look that was misread costs time and no more.

    Args:
        wanted_files: as `wanted` makes them.
        found: the lines that the command printed.
    """
    there: dict[str, re.Match[str]] = {}
    checksums: dict[str, str] = {}
    for line in found:
        if match := CHECKSUM.fullmatch(line):
            checksums[match[2]] = match[1]
        elif match := FOUND.fullmatch(line):
            there[match[7]] = match
    return [item for item in wanted_files if not is_like(item, there, checksums)]


def is_like(
    item: Mapping[str, Any], there: Mapping[str, re.Match[str]], checksums: Mapping[str, str]
) -> bool:
    """Tell whether one of them is there, with the same rights and content."""
    if (found := there.get(item["path"])) is None:
        return False
    same = (
        found[1] == TYPES["file" if "content" in item else "directory"]
        and int(found[2], 8) == int(item["mode"], 8)
        and str(item["owner"]) in (found[3], found[4])
        and str(item["group"]) in (found[5], found[6])
    )
    if "content" in item:
        same = same and checksums.get(item["path"]) == checksum(item["content"])
    return same


def checksum(content: str) -> str:
    """Return SHA-256 of a text as it is written to a file, in hexadecimal digits."""
    return hashlib.sha256(content.encode()).hexdigest()


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "look_command": look_command,
            "paths_found": paths_found,
            "unlike": unlike,
            "wanted": wanted,
        }
