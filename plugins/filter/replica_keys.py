"""The records of API keys that replicas have, and which of them is the newest."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Record = dict[str, Any]
_DIGEST = re.compile(r"[0-9a-f]{64}")


def key_records(found: Iterable[Mapping[str, Any]]) -> dict[str, Record]:
    """Return the record of each replica that has one, by the replica's name.

    One that is damaged is left out: ``damaged_key_records`` names its host.

    Args:
        found: what came of reading each: item (the replica's name) and content, in Base64.
    """
    records = {each["item"]: _record(each.get("content", "")) for each in found}
    return {host: record for host, record in records.items() if record}


def damaged_key_records(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the replicas that have a record which cannot be read, or is none.

    Args:
        found: as ``key_records`` takes it; also msg where there is no content, and unreachable.
    """
    return [
        each["item"]
        for each in found
        if not each.get("unreachable")
        and not _record(each.get("content", ""))
        and ("content" in each or "not found" not in each.get("msg", ""))
    ]


def newest_keys(records: Mapping[str, Record], hosts: Sequence[str]) -> str:
    """Return the replica whose keys were changed last; the first of several that are alike.

    Args:
        records: as ``key_records`` returns them; who has none was never changed.
        hosts: the replicas to choose from, one at least.
    """
    return max(hosts, key=lambda host: records.get(host, {}).get("revision", 0))


def _record(content: str) -> Record:
    try:
        record = json.loads(base64.b64decode(content))
    except ValueError:
        return {}
    return record if isinstance(record, dict) and _is_record(record) else {}


def _is_record(content: Record) -> bool:
    revision, ended = content.get("revision", 0), content.get("ended", {})
    return (
        isinstance(content.get("users"), dict)
        and isinstance(revision, int)
        and revision >= 0
        and isinstance(ended, dict)
        and all(isinstance(day, str) and _DIGEST.fullmatch(key) for key, day in ended.items())
    )


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "damaged_key_records": damaged_key_records,
            "key_records": key_records,
            "newest_keys": newest_keys,
        }
