"""The measure of use."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from infbox.cli import watch
from infbox.errors import InputError
from infbox.evaluation import evaluate as module
from infbox.evaluation.evaluate import KINDS, VIEWS, evaluate, without_names
from infbox.packing.tokens import Estimate
from trees import fill, git

ESTIMATE = Estimate()


def lines(name: str, count: int = 60) -> str:
    return "".join(f"{name}_{n} = {n}\n" for n in range(count))


def commit(repo: Path, message: str, **files: str) -> None:
    fill(
        repo, {name.replace("__", "/").replace("_py", ".py"): text for name, text in files.items()}
    )
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", message)


@pytest.fixture
def history(repo: Path) -> Path:
    """Twenty files of about 250 tokens, of which two are changed later: one that nobody touched
    before, and a test."""
    names = [f"part{n}" for n in range(20)]
    commit(repo, "begin", **{f"{name}_py": lines(name) for name in names})
    commit(repo, "tests", tests__test_it_py=lines("checks"))
    commit(
        repo,
        "Round what part7_30 holds, in part7.py",
        part7_py=lines("part7").replace("= 30", "= 3"),
    )
    commit(
        repo, "Expect more of checks_5", tests__test_it_py=lines("checks").replace("= 5\n", "= 6\n")
    )
    return repo


def test_each_view_is_judged_by_the_lines_that_were_changed(history: Path) -> None:
    result = evaluate(history, 2, 1500, 600, ESTIMATE)
    assert result["questions"] == 2
    assert result["hunks"]["retrieved"] == {
        "source": 1.0, "tests": 1.0, "docs": None, "other": None, "all": 1.0,
    }  # fmt: skip
    assert result["files"]["both"]["all"] == 1.0
    assert result["hunks"]["bm25"]["source"] == 1.0
    assert result["hunks"]["recent"] == {
        "source": 0.0, "tests": 1.0, "docs": None, "other": None, "all": 0.5,
    }  # fmt: skip
    assert 0 < result["computed_per_question"] <= 600 + 20
    assert result["computed_per_save"] > 0


def test_what_the_pack_shows_is_not_found_once_more(history: Path) -> None:
    result = evaluate(history, 2, 20_000, 600, ESTIMATE)
    assert result["hunks"]["pack"]["all"] == 1.0
    assert result["computed_per_question"] < 20, "the question alone"


def test_a_hunk_counts_only_with_all_of_its_lines() -> None:
    within = module._is_within
    assert within((3, 6), [(1, 6)])
    assert within((3, 6), [(5, 9), (1, 4)])
    assert not within((3, 6), [(1, 4), (6, 9)])
    assert not within((3, 6), [(4, 9)])
    assert not within((3, 6), [])


def test_where_lines_are_put_between_two_both_must_be_seen(repo: Path) -> None:
    commit(repo, "begin", a_py=lines("a", 6))
    commit(repo, "more", a_py=lines("a", 3) + "new = 1\n" + lines("a", 6).partition("a_2 = 2\n")[2])
    with module.History(repo) as replayed:
        ((parent, now),) = replayed.steps(1)
        (wanted,) = module.wanted_of(replayed.saves(parent, now))
    assert wanted.hunks == ((3, 4),)


def test_file_names_are_taken_out_of_a_question() -> None:
    tree = ["shop/cart.py", "docs/guide.md"]
    message = (
        "Fix cart.py and (shop/cart.py), see docs/guide.md:\n\nround() is wrong. "
        "e.g. 1.5 in other.py"
        "\nCo-authored-by: Somebody\n"
    )
    question = without_names(message, ["shop/cart.py"], tree)
    assert "cart" not in question
    assert "guide" not in question
    assert "Somebody" not in question
    assert "round() is wrong. e.g. 1.5 in other.py" in question


def test_sweeps_over_the_tree_and_empty_messages_are_no_questions(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(history, "the part7.py", part7_py=lines("part7", 20))
    assert evaluate(history, 1, 1500, 600, ESTIMATE)["questions"] == 0
    commit(history, "Rename everything", part1_py=lines("x"), part2_py=lines("y"))
    assert evaluate(history, 1, 1500, 600, ESTIMATE)["questions"] == 1
    monkeypatch.setattr(module, "MAX_FILES", 1)
    result = evaluate(history, 1, 1500, 600, ESTIMATE)
    assert result["questions"] == 0
    assert result["computed_per_save"] > 0


def test_a_bare_repository_gives_the_same(history: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run(["git", "clone", "--quiet", "--bare", history, bare], check=True)
    assert evaluate(bare, 2, 1500, 600, ESTIMATE) == evaluate(history, 2, 1500, 600, ESTIMATE)


def test_a_tree_that_is_too_large_is_refused(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TREE_FILES", 5)
    with pytest.raises(InputError, match="evaluate a smaller history"):
        evaluate(history, 1, 1500, 600, ESTIMATE)


def test_the_command_prints_the_contract(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["evaluate", str(history), "--commits", "2", "--budget", "1500", "--retrieve", "600"]
    assert watch([*asked, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {
        "questions", "hunks", "files", "computed_per_question", "computed_per_save",
    }  # fmt: skip
    for measure in ("hunks", "files"):
        assert tuple(result[measure]) == VIEWS
        assert all(tuple(shares) == KINDS for shares in result[measure].values())
    assert watch(asked) == 0
    assert "both" in capsys.readouterr().out


def test_it_is_measured_with_the_weights_that_are_given(
    history: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", str(history), "--commits", "2", "--budget", "1500", "--retrieve", "600"]
    assert watch([*asked, "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    tests_first = ["--pack-weight", "tests=1000", "--pack-weight", "source=0.001"]
    assert watch([*asked, "--json", *tests_first]) == 0
    assert json.loads(capsys.readouterr().out)["hunks"] != before["hunks"]
    assert watch([*asked, "--pack-weight", "test=1"]) == 2
    assert "--pack-weight test is not a kind of file: use source," in capsys.readouterr().err
    assert watch([*asked, "--retrieval-weight", "tests"]) == 2
    assert "--retrieval-weight tests: must be a number from 0.001" in capsys.readouterr().err


def test_bad_input_is_refused_with_what_to_give(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    too_much = ["evaluate", str(history), "--budget", "1000", "--retrieve", "1000"]
    assert watch(too_much) == 2
    assert "give fewer tokens than --budget" in capsys.readouterr().err
    assert watch(["evaluate", str(tmp_path / "none"), "--budget", "1000"]) == 2
    assert "give a git repository" in capsys.readouterr().err
