"""What apt's configuration says of a repository."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A target that belongs to no architecture or component: apt leaves the variable as it is.
UNSET = "$("


def apt_repository(told: str, repository: Mapping[str, Any] | None, own: str) -> dict[str, Any]:
    """Return how apt knows a repository.

    To apt, two entries that differ in scheme and credentials alone are one repository, and where
    their keys differ it reads no source at all. So a repository that another file names is left to
    that file.

    Args:
        told: what `_common_apt_question` of the role `common` prints: the host's architecture,
            where apt looks for entries, and its targets, those configured and those downloaded.
        repository: its uri, suite (ending in a slash for a flat one) and components; None for none.
        own: the file in which infbox names it.

    Returns:
        `state`: `elsewhere` (another file names it), `own`, `absent`, `unusable` (another file
        names it without the packages that are wanted, so that it can be neither used nor added), or
        `redirected` (apt reads other files than /etc/apt/sources.list.d, as with an offline
        bundle); `files`: which others name it; `downloaded`: whether apt has its package lists.
    """
    lines = [line.split("\t") for line in told.splitlines()]
    values = {line[0]: line[1] for line in lines if len(line) == 2}  # noqa: PLR2004
    targets = [line for line in lines if len(line) == 6]  # noqa: PLR2004
    if values.get("parts", "").rstrip("/") != own.rpartition("/")[0]:
        return {"state": "redirected", "files": [], "downloaded": True}
    if not repository:
        return {"state": "absent", "files": [], "downloaded": False}

    wanted = components(repository)
    here = [line for line in targets if place(line[2]) == place(base_uri(repository))]
    usable = [
        line
        for line in here
        if line[4] == "Packages"
        and (line[5].startswith(UNSET) or line[5] == values.get("architecture"))
    ]

    def complete(kind: str) -> bool:
        has = {line[3] for line in usable if line[0] == kind}
        return bool(has) and (not wanted or wanted <= has)

    files = sorted({line[1].rpartition(":")[0] for line in here if line[0] == "configured"})
    others = [file for file in files if file != own]
    if own in files:
        # It may lack what is wanted now, and is written anew then.
        state = "own"
    elif others:
        state = "elsewhere" if complete("configured") else "unusable"
    else:
        state = "absent"
    return {"state": state, "files": others, "downloaded": complete("downloaded")}


def components(repository: Mapping[str, Any]) -> set[str]:
    """Return a repository's components: a text with blanks between, or a list."""
    given: str | Sequence[str] = repository.get("components") or ""
    return set(given.split() if isinstance(given, str) else given)


def base_uri(repository: Mapping[str, Any]) -> str:
    """Return the directory of a repository's Release file."""
    uri, suite = str(repository["uri"]).strip().rstrip("/"), str(repository["suite"])
    return f"{uri}/{suite}" if suite.endswith("/") else f"{uri}/dists/{suite}"


def place(uri: str) -> str:
    """Return an address as one of several ways to write it.

    The scheme, credentials, a default port, double slashes and `./` make no other repository.
    """
    scheme, colon, rest = uri.strip().partition(":")
    if not colon:
        rest = scheme
    authority, _, path = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    authority = re.sub(r":(80|443)$", "", authority.rpartition("@")[2].lower())
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/".join([authority, *parts])


def apt_conflict(said: str) -> str:
    """Return what the entries look like whose conflict stops apt; empty where it is none.

    Args:
        said: what apt prints on stderr, in English.

    Returns:
        An extended regular expression for a line of an entry's file.
    """
    found = re.search(
        r"^E: Conflicting values set for option \S+ regarding source (\S+) ", said, re.MULTILINE
    )
    if not found:
        return ""
    *parts, last = (
        re.sub(r"([][.+*?(){}^$|\\])", r"\\\1", part) for part in place(found[1]).split("/") if part
    )
    # The architecture at the end may be written as a variable, and the end as a suite.
    end = rf"({last}|\$\(ARCH\))([/[:space:]]|$)"
    return "^[^#]*[/:]" + "".join(f"{part}[/[:space:]]+" for part in parts) + end


def apt_errors(said: str) -> str:
    """Return apt's errors, each once, on one line of bounded length.

    Args:
        said: what apt prints on stderr.
    """
    errors = [line.removeprefix("E: ") for line in said.splitlines() if line.startswith("E: ")]
    return " ".join(dict.fromkeys(errors))[:600] or said.strip()[:600]


def installed_packages(listing: str) -> dict[str, str]:
    """Return the packages that are installed, with their versions.

    Args:
        listing: lines of status, name and version (or another field without blanks), as dpkg-query
            prints them; other lines are skipped.
    """
    words = (line.split() for line in listing.splitlines())
    return {
        line[1]: line[2]
        for line in words
        if len(line) == 3 and line[0] == "installed"  # noqa: PLR2004
    }


def apt_common_version(
    madison: str, packages: Sequence[str], candidates: Sequence[str]
) -> dict[str, str]:
    """Find a version that several packages have in what apt knows.

    Args:
        madison: what `apt-cache madison` prints, each package's newest version first.
        packages: their names.
        candidates: versions without epoch and revision, the best first; an empty one stands for
            the newest that all packages have.

    Returns:
        Each package's whole version by its name, of the first candidate that all have. Where none
        is, the versions that there are instead, behind an exclamation mark.
    """
    known: dict[str, dict[str, str]] = {name: {} for name in packages}
    for line in madison.splitlines():
        name, _, rest = line.partition("|")
        if name.strip() in known:
            full = rest.partition("|")[0].strip()
            upstream = re.sub(r"^\d+:|[-~+].*$", "", full)
            known[name.strip()].setdefault(upstream, full)
    shared = [
        version
        for version in known[packages[0]]
        if all(version in versions for versions in known.values())
    ]
    for candidate in candidates:
        version = candidate or (shared[0] if shared else "")
        if version in shared:
            return {name: known[name][version] for name in packages}
    return {name: f"!{', '.join(known[name].values()) or 'none'}" for name in packages}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "apt_repository": apt_repository,
            "apt_conflict": apt_conflict,
            "apt_errors": apt_errors,
            "installed_packages": installed_packages,
            "apt_common_version": apt_common_version,
        }
