"""The command that says what would be put in front of a question."""

from __future__ import annotations

from pathlib import Path

import pytest

from infbox.cli import watch
from trees import fill, git

LINES = "".join(f"value_{n} = {n}\n" for n in range(80))


@pytest.fixture
def shop(repo: Path) -> Path:
    fill(repo, {f"part{n}.py": LINES for n in range(9)})
    fill(
        repo,
        {
            "price.py": f"def reduced(price):\n    # the discount\n    return 1\n\n\n{LINES}",
            ".env": "DISCOUNT_KEY=1\n",
            "ignored.py": "discount = 1\n",
            ".gitignore": "ignored.py\n",
        },
    )
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "begin")
    return repo


def test_it_prints_the_files_of_the_pack_and_what_was_found_with_the_reason(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(9):
        fill(shop, {f"part{n}.py": LINES + "more = 1\n"})
    git(shop, "commit", "--quiet", "--all", "--message", "edit all others")
    asked = ["ask", str(shop), "why is the discount wrong in `reduced`?", "--show"]
    assert watch([*asked, "--budget", "2000", "--retrieve", "600"]) == 0
    told = capsys.readouterr().out
    assert "files in full" in told
    assert "price.py:1-" in told
    assert "reduced is named and defined here" in told
    assert "    # the discount\n" in told
    assert "ignored.py" not in told
    assert "DISCOUNT_KEY" not in told


def test_where_the_pack_shows_all_nothing_is_found_besides(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch(["ask", str(shop), "the discount in price.py", "--show"]) == 0
    told = capsys.readouterr().out
    assert "11 of 11 files in full" in told
    assert "found for the question: 0 chunks" in told


def test_bad_input_is_refused_with_what_to_give(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["ask", str(shop), "x", "--show", "--budget", "500", "--retrieve", "500"]
    assert watch(asked) == 2
    assert "give fewer tokens than --budget" in capsys.readouterr().err
    assert watch(["ask", str(tmp_path / "none"), "x", "--show"]) == 2
    assert "give an existing one" in capsys.readouterr().err
