"""Hunks against the program that everybody applies them with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infbox.packing.hunks import MAX_COMPARED_PAIRS, unified
from reading import applied, shown

_LINES = st.sampled_from(["a", "b", "def f():", "  b", "", "é", "x\r", "y\x0c", "\u2028"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    end = draw(st.sampled_from(["\n", ""]))
    lines = draw(st.lists(_LINES, max_size=30))
    return "\n".join(lines) + end if lines else ""


@given(old=texts(), new=texts())
def test_patch_makes_the_new_of_the_old(
    tmp_path_factory: pytest.TempPathFactory, old: str, new: str
) -> None:
    hunks = unified(old, new)
    assert hunks is not None
    assert (hunks == "") is (old == new)
    assert patched(tmp_path_factory.mktemp("patch") / "file", old, hunks) == new


def patched(file: Path, old: str, hunks: str) -> str:
    file.write_bytes(old.encode())
    if hunks:
        subprocess.run(
            ["patch", "--silent", "--binary", file],
            input=f"--- file\n+++ file\n{hunks}".encode(),
            check=True,
        )
    return file.read_bytes().decode() if file.exists() else ""  # patch removes an empty file


@settings(max_examples=200)
@given(old=texts(), new=texts())
def test_line_numbers_alone_say_where_a_hunk_belongs(old: str, new: str) -> None:
    assert shown(applied(unified(old, new), old)) == shown(new)


def test_two_lines_around_a_change_are_shown() -> None:
    old = "".join(f"{n}\n" for n in range(9))
    assert unified(old, old.replace("4\n", "four\n")).splitlines()[1:] == [
        *(" 2", " 3", "-4", "+four", " 5", " 6"),
    ]


def test_a_hunk_names_the_definition_that_it_lies_in() -> None:
    old = "def first():\n    pass\ndef second():\n" + "    pass\n" * 9
    assert unified(old, old + "    more\n").startswith("@@ -11,2 +11,3 @@ def second():\n")


def test_a_change_far_from_another_is_a_hunk_of_its_own() -> None:
    lines = [f"{n}\n" for n in range(1000)]
    changed = ["first\n", *lines[1:-1], "last\n"]
    hunks = unified("".join(lines), "".join(changed))
    assert hunks.count("@@ -") == 2
    assert len(hunks.splitlines()) == 2 * (1 + 2 + 2), "a header, two lines around, one for one"


def test_a_large_file_of_lines_that_are_alike_is_compared(tmp_path: Path) -> None:
    """As an ordinary JSON file: difflib's time grows with the cube of such lines, to minutes here,
    in which every save of every workspace waited."""
    before = [{"name": f"old-{n}", "value": [n, n + 1]} for n in range(1500)]
    after = [{"name": f"new-{n}", "value": [n] * (n % 2)} for n in range(1500)]
    old, new = json.dumps(before, indent=1), json.dumps(after, indent=1)
    hunks = unified(old, new)
    assert hunks is not None
    assert patched(tmp_path / "file", old, hunks) == new


def test_texts_that_differ_in_too_many_lines_are_not_compared() -> None:
    lines = round(MAX_COMPARED_PAIRS**0.5) + 1
    old, new = "old\n" * lines, "new\n" * lines
    assert unified(old, new) is None
    assert unified("same\n" + old, "same\n" + old + "new\n") is not None
