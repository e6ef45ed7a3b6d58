"""The records of API keys that replicas have, and which of them is the newest."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Record = dict[str, Any]


def key_records(found: Iterable[Mapping[str, Any]]) -> dict[str, Record]:
    """Return the record of each replica that has one, by the replica's name.

    One that is damaged is left out: on its own host `infbox-keys` refuses it by name.

    Args:
        found: what came of reading each: item (the replica's name) and content, in Base64.
    """
    records = {each["item"]: _record(each.get("content", "")) for each in found}
    return {host: record for host, record in records.items() if record}


def newest_keys(records: Mapping[str, Record], hosts: Sequence[str]) -> str:
    """Return the replica whose keys were changed last; the first of several that are alike.

    Args:
        records: as ``key_records`` returns them; who has none was never changed.
        hosts: the replicas to choose from, one at least.
    """
    return max(hosts, key=lambda host: _revision(records.get(host, {})))


def _record(content: str) -> Record:
    try:
        record = json.loads(base64.b64decode(content))
    except ValueError:
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("users"), dict) else {}


def _revision(record: Record) -> int:
    revision = record.get("revision", 0)
    return revision if isinstance(revision, int) else 0


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"key_records": key_records, "newest_keys": newest_keys}
