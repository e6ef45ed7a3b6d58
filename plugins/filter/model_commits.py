"""Which commit a model is held to whose revision nobody gave, by what hosts recorded."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

COMMIT = re.compile(r"[0-9a-f]{40}")
MARKER = "infbox-model.json"
NOTE = ".cache/huggingface/download/config.json.metadata"


def commit(text: Any) -> str:
    """Return a text where it is a commit, else nothing."""
    return text if isinstance(text, str) and COMMIT.fullmatch(text) else ""


def read_record(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a host recorded, by what `slurp` gave of it; None where it cannot be read."""
    if "content" not in result:
        return {}
    try:
        record = json.loads(base64.b64decode(result["content"]).decode())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def recorded_commits(results: Iterable[Mapping[str, Any]], repository: str) -> dict[str, str]:
    """Return the commit that each host recorded of a model; empty where it recorded none.

    Args:
        results: of a loop of `slurp` over hosts.
        repository: the model's name.
    """
    commits = {}
    for result in results:
        entry = (read_record(result) or {}).get(repository)
        commits[result["item"]] = commit(entry.get("commit") if isinstance(entry, dict) else "")
    return commits


def broken_records(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the hosts whose record cannot be read."""
    return [result["item"] for result in results if read_record(result) is None]


def with_commit(result: Mapping[str, Any], repository: str, commit: str, time: str) -> str:
    """Return a host's record, as text, with one more commit.

    Args:
        result: what `slurp` gave of the record as it is.
        repository: the model's name.
        commit: of it.
        time: now.
    """
    record = {**(read_record(result) or {}), repository: {"commit": commit, "recorded": time}}
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


def uploaded_commit(directory: str, repository: str) -> str:
    """Return the commit that a directory on the controller says its model is of; empty for none.

    Args:
        directory: of another store, with its marker, or made by the hub's own program.
        repository: the model's name, which a marker has to have as well.
    """
    try:
        marker = Path(directory, MARKER)
        if marker.is_file():
            told = json.loads(marker.read_text(encoding="utf-8"))
            return commit(told["revision"]) if told["repository"] == repository else ""
        return commit(Path(directory, NOTE).read_text(encoding="utf-8").split("\n", 1)[0].strip())
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def differing_commits(commits: Mapping[str, str], hosts: Iterable[str], wanted: str) -> list[str]:
    """Return which of some hosts recorded another commit, each with it.

    Args:
        commits: by host, empty where there is none.
        hosts: that have to hold the same one.
        wanted: that one.
    """
    return [
        f"{host} holds {there}"
        for host in hosts
        if (there := commits.get(host, "")) and there != wanted
    ]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "broken_records": broken_records,
            "differing_commits": differing_commits,
            "recorded_commits": recorded_commits,
            "uploaded_commit": uploaded_commit,
            "with_commit": with_commit,
        }
