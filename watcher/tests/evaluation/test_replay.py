"""Replaying a git history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infbox.cli import watch
from infbox.errors import InputError
from infbox.evaluation.replay import replay
from infbox.packing.tokens import Estimate, estimate
from trees import fill, git

ESTIMATE = Estimate()
LINES = "x = 1\n" * 40


def commit(repo: Path, **files: str | None) -> None:
    for name, text in files.items():
        path = name.replace("_py", ".py")
        if text is None:
            (repo / path).unlink()
        else:
            fill(repo, {path: text})
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "one more")


@pytest.fixture
def history(repo: Path) -> Path:
    """Five files, then one of them saved four times, and another."""
    commit(repo, **{f"{name}_py": LINES for name in "abcde"})
    for turn in range(4):
        commit(repo, b_py=LINES + f"y = {turn}\n")
    commit(repo, c_py=LINES + "z = 1\n")
    return repo


def test_a_change_costs_the_log_its_own_entry_and_the_others_what_follows(history: Path) -> None:
    result = replay(history, commits=5, budget=10_000, tokenizer=ESTIMATE)
    one = estimate(LINES)
    assert result["saves"] == 5
    assert one <= result["edited_mean"] <= one + 5
    log, path, recency = (result["policies"][name] for name in ("log", "path", "recency"))
    assert log["recomputed_mean"] < one + 20
    assert path["recomputed_p50"] > 4 * one, "b.py and all that come after it"
    assert path["recomputed_p99"] == path["recomputed_p50"]
    # b.py moves from its place to the end once, then is there; c.py moves over two others.
    assert log["recomputed_mean"] < recency["recomputed_mean"] < path["recomputed_mean"]
    assert log["rebases"] == 0
    assert result["recall"] == {"pack": 1.0, "path": 1.0, "recent": 1.0}


def test_rebases_are_counted_in(history: Path) -> None:
    for turn in range(4):
        commit(history, a_py=LINES + f"a = {turn}\n", d_py=LINES + f"d = {turn}\n")
    result = replay(history, commits=9, budget=500, tokenizer=ESTIMATE)
    log = result["policies"]["log"]
    assert log["rebases"] > 0
    assert log["recomputed_p99"] > 2 * estimate(LINES)
    assert log["pack_mean"] <= 500


def test_a_file_outside_the_pack_is_not_recalled(history: Path) -> None:
    commit(history, e_py=LINES + "e = 1\n")
    result = replay(history, commits=1, budget=300, tokenizer=ESTIMATE)
    assert result["recall"]["path"] == 0.0
    commit(history, e_py=LINES + "e = 2\n")
    result = replay(history, commits=1, budget=300, tokenizer=ESTIMATE)
    assert result["recall"]["recent"] == 1.0


def test_a_large_file_outside_the_pack_costs_what_changed_in_it(history: Path) -> None:
    commit(history, zz_py=LINES * 40)
    commit(history, zz_py=LINES * 40 + "z = 1\n")
    result = replay(history, commits=1, budget=2000, tokenizer=ESTIMATE)
    assert result["recall"]["pack"] == 0.0
    assert result["policies"]["log"]["recomputed_mean"] < estimate(LINES)


def test_a_history_shorter_than_asked_begins_with_nothing(history: Path) -> None:
    result = replay(history, commits=100, budget=10_000, tokenizer=ESTIMATE)
    assert result["saves"] == 5 + 5


def test_removals_and_what_may_not_be_shown_are_no_trouble(history: Path) -> None:
    (history / "blob").write_bytes(b"\0")
    commit(history, a_py=None)
    commit(history, **{".env": "KEY=1"})
    result = replay(history, commits=2, budget=10_000, tokenizer=ESTIMATE)
    assert result["saves"] == 1
    assert result["edited_mean"] == 0


def test_the_work_tree_is_not_looked_at(history: Path) -> None:
    before = replay(history, commits=5, budget=10_000, tokenizer=ESTIMATE)
    fill(history, {"a.py": "changed\n", "new.py": "new\n"})
    assert replay(history, commits=5, budget=10_000, tokenizer=ESTIMATE) == before


def test_the_command_prints_the_contract(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["replay", str(history), "--commits", "5", "--budget", "9000"]
    assert watch([*asked, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"saves", "edited_mean", "policies", "recall"}
    numbers = {"recomputed_mean", "recomputed_p50", "recomputed_p99", "pack_mean", "rebases"}
    assert {name: set(found) for name, found in result["policies"].items()} == {
        "path": numbers,
        "recency": numbers,
        "log": numbers,
    }
    assert set(result["recall"]) == {"pack", "path", "recent"}
    assert watch(asked) == 0
    assert "log" in capsys.readouterr().out


def test_what_has_no_history_is_refused(tmp_path: Path, repo: Path) -> None:
    with pytest.raises(InputError, match="give a git repository"):
        replay(tmp_path, commits=1, budget=100, tokenizer=ESTIMATE)
    with pytest.raises(InputError, match="commit something first"):
        replay(repo, commits=1, budget=100, tokenizer=ESTIMATE)
