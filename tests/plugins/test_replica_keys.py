"""Which replica has the newest keys, by what was read of each."""

import base64
import json
from typing import Any

import pytest

from plugins.filter.replica_keys import key_records, newest_keys


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


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"users": []}', "\ud800", "{}"])
def test_a_damaged_record_is_left_out(content: str) -> None:
    found = {"item": "one", "content": base64.b64encode(content.encode(errors="replace")).decode()}
    assert key_records([found, {"item": "two", "unreachable": True}, {"item": "three"}]) == {}
    assert newest_keys({"one": {"users": {}, "revision": "9"}}, ["two", "one"]) == "two"
