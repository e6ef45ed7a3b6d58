"""What apt knows of repositories."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


def known_elsewhere(targets: str, uri: str, own: str) -> bool:
    """Say whether a repository is known to apt by another file than one's own.

    Args:
        targets: what `apt-get indextargets --format '$(SOURCESENTRY) $(REPO_URI)'` prints.
        uri: the repository's.
        own: the file in which we would name it.
    """
    for line in targets.splitlines():
        entry, _, named = line.partition(" ")
        if plain(named) == plain(uri) and entry.rpartition(":")[0] != own:
            return True
    return False


def plain(uri: str) -> str:
    """Return an address as one of several ways to write it: apt puts a slash behind it."""
    return re.sub(r"^(file|copy):/+", r"\1:/", uri.strip()).rstrip("/")


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"known_elsewhere": known_elsewhere}
