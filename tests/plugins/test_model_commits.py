"""Which commit a model is held to whose revision nobody gave."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.plugin_files import load

filters = load("filter", "model_commits")
MODEL = "someone/model"
COMMIT, OTHER = "a" * 40, "b" * 40


def slurped(host: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {"item": host, "msg": "file not found"}
    return {"item": host, "content": base64.b64encode(text.encode()).decode()}


def test_what_hosts_recorded_is_read_by_host() -> None:
    record = filters.with_commit({}, MODEL, COMMIT, "2026-01-01T00:00:00Z")
    results = [slurped("one", record), slurped("two", None), {"item": "lost", "unreachable": True}]
    assert filters.recorded_commits(results, MODEL) == {"one": COMMIT, "two": "", "lost": ""}
    assert filters.recorded_commits(results, "someone/else")["one"] == ""
    assert filters.broken_records(results) == []


def test_a_record_keeps_what_it_holds_of_other_models() -> None:
    first = filters.with_commit({}, MODEL, COMMIT, "then")
    second = json.loads(filters.with_commit(slurped("", first), "someone/else", OTHER, "now"))
    assert second[MODEL] == {"commit": COMMIT, "recorded": "then"}
    assert second["someone/else"]["commit"] == OTHER


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\x00"])
def test_a_record_that_is_none_is_told_and_counts_for_nothing(text: str) -> None:
    results = [slurped("one", text)]
    assert filters.broken_records(results) == ["one"]
    assert filters.recorded_commits(results, MODEL) == {"one": ""}


@pytest.mark.parametrize("entry", [None, [], "x", {}, {"commit": "main"}, {"commit": 7}])
def test_an_entry_without_a_commit_counts_for_nothing(entry: Any) -> None:
    assert filters.recorded_commits([slurped("one", json.dumps({MODEL: entry}))], MODEL) == {
        "one": ""
    }


def test_a_folder_of_a_store_tells_its_commit_of_that_model_alone(tmp_path: Path) -> None:
    marker = {"repository": MODEL, "revision": COMMIT}
    (tmp_path / "infbox-model.json").write_text(json.dumps(marker))
    assert filters.uploaded_commit(str(tmp_path), MODEL) == COMMIT
    assert filters.uploaded_commit(str(tmp_path), "someone/else") == ""


def test_a_folder_of_the_hubs_own_program_tells_its_commit(tmp_path: Path) -> None:
    note = tmp_path / ".cache/huggingface/download/config.json.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{COMMIT}\netag\n1.0\n")
    assert filters.uploaded_commit(str(tmp_path), MODEL) == COMMIT


@pytest.mark.parametrize("text", [b"[]", b"{", b"\xff", b'{"repository": "someone/model"}'])
def test_a_marker_that_is_none_tells_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "infbox-model.json").write_bytes(text)
    assert filters.uploaded_commit(str(tmp_path), MODEL) == ""


def test_hosts_that_hold_another_commit_are_named_and_those_without_one_are_not() -> None:
    commits = {"one": COMMIT, "two": OTHER, "three": ""}
    assert filters.differing_commits(commits, ["two", "three", "four"], COMMIT) == [
        f"two holds {OTHER}"
    ]
    assert filters.differing_commits(commits, ["one"], COMMIT) == []
