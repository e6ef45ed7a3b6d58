"""Which replica has the newest keys, by what was read of each."""

import base64
import json
from typing import Any

import pytest

from plugins.filter.replica_keys import damaged_key_records, key_records, newest_keys


def read(host: str, content: object) -> dict[str, Any]:
    text = content if isinstance(content, str) else json.dumps(content)
    return {"item": host, "content": base64.b64encode(text.encode()).decode()}


def test_the_replica_that_was_changed_last_is_the_source() -> None:
    records = key_records(
        [read("one", {"users": {}, "revision": 3}), read("two", {"users": {}, "revision": 10})]
    )
    assert newest_keys(records, ["one", "two"]) == "two"
    assert newest_keys(records, ["one"]) == "one", "who has no certificate is none"


def test_of_several_that_are_alike_the_first_is_the_source() -> None:
    assert newest_keys({}, ["one", "two"]) == "one"
    records = key_records([read("two", {"users": {}, "revision": 3})])
    assert newest_keys({**records, "three": records["two"]}, ["one", "two", "three"]) == "two"


DAMAGED = (
    "",
    "{",
    "[]",
    "null",
    '{"users": []}',
    "\ud800",
    "{}",
    '{"users": {}, "revision": "9"}',
    '{"users": {}, "revision": -1}',
    '{"users": {}, "ended": []}',
    '{"users": {}, "ended": {"x": "2026-11-30"}}',
)
ABSENT = {"item": "three", "msg": "file not found: /etc/x"}
AWAY = {"item": "two", "unreachable": True, "msg": "no route"}


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_is_named_and_stands_for_none(content: str) -> None:
    found = {"item": "one", "content": base64.b64encode(content.encode(errors="replace")).decode()}
    assert key_records([found, AWAY, ABSENT]) == {}
    assert damaged_key_records([found, AWAY, ABSENT]) == ["one"]


def test_a_record_that_cannot_be_read_is_no_record_that_is_not_there() -> None:
    good = read("one", {"users": {}, "revision": 1, "ended": {"a" * 64: "2026-11-30"}})
    refused = {"item": "four", "msg": "file is not readable: /etc/x"}
    assert damaged_key_records([good, AWAY, ABSENT]) == []
    assert damaged_key_records([good, refused]) == ["four"]
