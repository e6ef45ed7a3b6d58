"""Which files come first."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.packing.rank import Candidate, ranked
from infbox.watching.edit_frequency import HALF_LIFE, bumped, cooled, heats_from_git, heats_of
from trees import fill, git


def test_an_edit_counts_half_after_its_half_life() -> None:
    assert cooled(bumped(0.0, 0), HALF_LIFE) == pytest.approx(0.5)
    assert bumped(1.0, HALF_LIFE) == pytest.approx(1.5)


@given(edits=st.lists(st.sampled_from("abc"), max_size=50))
def test_heats_are_the_sum_of_the_edits_as_they_cool(edits: list[str]) -> None:
    heats = heats_of(edits)
    assert heats.keys() == set(edits)
    for path, heat in heats.items():
        ages = [len(edits) - place for place, name in enumerate(edits, start=1) if name == path]
        assert heat == pytest.approx(sum(cooled(1.0, age) for age in ages))


def test_what_is_edited_often_and_lately_and_is_small_comes_first() -> None:
    candidates = [
        Candidate("cold.py", "", 1000),
        Candidate("central.py", "", 1000, centrality=1.0),
        Candidate("warm.py", "", 1000, heat=0.5),
        Candidate("hot.py", "", 1000, heat=2.0),
        Candidate("hot_and_large.py", "", 50_000, heat=2.0),
    ]
    order = [candidate.path for candidate in ranked(reversed(candidates))]
    assert order == ["hot.py", "warm.py", "hot_and_large.py", "central.py", "cold.py"]


def test_equals_are_in_the_order_of_their_names() -> None:
    names = [c.path for c in ranked(Candidate(name, "", 10) for name in "cab")]
    assert names == ["a", "b", "c"]


def test_a_git_history_gives_heats_below_the_folder(repo: Path) -> None:
    fill(repo, {"old.py": "1\n", "sub/in side.py": "1\n"})
    commit(repo)
    fill(repo, {"sub/in side.py": "2\n"})
    commit(repo)
    heats = heats_from_git(repo)
    assert heats == heats_of(["old.py", "sub/in side.py", "sub/in side.py"])
    assert set(heats_from_git(repo / "sub")) == {"in side.py"}


def test_where_a_shallow_history_was_cut_off_no_file_was_edited(tmp_path: Path, repo: Path) -> None:
    for number in range(4):
        fill(repo, {f"{number}.py": "1\n"})
        commit(repo)
    for depth, hot in {1: set(), 3: {"2.py", "3.py"}}.items():
        clone = tmp_path / f"clone-{depth}"
        git(tmp_path, "clone", "--quiet", f"--depth={depth}", f"file://{repo}", str(clone))
        assert set(heats_from_git(clone)) == hot


def test_without_a_history_nothing_is_hot(tmp_path: Path, repo: Path) -> None:
    assert heats_from_git(repo) == {}
    assert heats_from_git(tmp_path) == {}


def commit(repo: Path) -> None:
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "one more")
