"""What edits make of the heats of files."""

from __future__ import annotations

from infbox.tree.records import Row
from infbox.watching.edit_frequency import BURST_SECONDS, MANY, EditFrequency


def row(heat: float, edit: int = 1, digest: str = "old") -> Row:
    return Row(1, 2, 3, digest, None, edit, heat)


def test_an_edit_adds_to_what_is_left_of_the_heat() -> None:
    assert 1.9 < EditFrequency().edited("a", "new", row(1.0), 2, now=0.0) < 2.0


def test_many_edits_in_one_go_are_taken_back() -> None:
    heats = EditFrequency()
    for number in range(MANY):
        assert heats.edited(f"{number}", "new", row(0.5), 2, now=0.001 * number) > 0.5
    assert heats.taken_back() == {}
    assert heats.edited("more", "new", row(0.5), 2, now=0.3) == 0.5
    assert heats.taken_back() == {f"{number}": 0.5 for number in range(MANY)}
    assert heats.taken_back() == {}, "once"


def test_a_file_seen_twice_in_one_go_is_taken_back_to_what_it_was_before() -> None:
    heats = EditFrequency()
    first = heats.edited("a", "half", row(0.5), 2, now=0.0)
    heats.edited("a", "whole", row(first), 3, now=0.0)
    for number in range(MANY):
        heats.edited(f"{number}", "new", None, 4, now=0.0)
    assert heats.taken_back()["a"] == 0.5


def test_as_many_edits_one_by_one_are_kept() -> None:
    heats = EditFrequency()
    for number in range(2 * MANY):
        heats.edited(f"{number}", "new", None, 2, now=number * (BURST_SECONDS + 0.1))
    assert heats.taken_back() == {}


def test_a_file_that_takes_another_s_place_has_its_heat() -> None:
    heats = EditFrequency()
    heats.bury("a", row(3.0))
    assert heats.edited("a", "new", None, 2, now=0.0) > 3.5
    assert heats.edited("moved", "old", None, 2, now=0.0) == 3.0, "the same bytes are no edit"
