"""How a pack enters a prompt, and what is checked of it."""

from __future__ import annotations

import datetime

import pytest

from infbox.packing import prompt
from infbox.warming.template import Template, common_length, has_date

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Why?"}


@pytest.mark.parametrize(
    ("messages", "first"),
    [
        ([], "PACK"),
        ([USER], "PACK"),
        ([SYSTEM, USER], "PACK\n\nBe brief."),
        ([{"role": "system", "content": ""}, USER], "PACK"),
        ([{"role": "system"}, USER], "PACK"),
        ([USER, SYSTEM], "PACK"),
        ([{"role": "system", "content": 7}], 7),
    ],
)
def test_the_pack_is_the_first_thing_in_the_first_system_message(
    messages: list[prompt.Message], first: object
) -> None:
    before = [dict(message) for message in messages]
    result = prompt.with_pack("PACK", messages)
    assert result[0]["role"] == "system"
    assert result[0]["content"] == first
    own = messages[1:] if messages[:1] and messages[0]["role"] == "system" else messages
    assert result[1:] == own
    assert messages == before


def test_a_list_of_parts_gets_one_more_in_front() -> None:
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    result = prompt.with_pack("PACK", [{"role": "system", "content": parts, "name": "x"}])
    assert result[0]["name"] == "x"
    joined = "\n".join(part["text"] for part in result[0]["content"])
    assert joined == "PACK\n\nBe brief.\nBe kind."


@pytest.mark.parametrize(("block", "length"), [(1, 14), (4, 13), (13, 14), (16, 1)], ids=str)
def test_a_warm_up_is_the_sure_whole_blocks_and_one_token(block: int, length: int) -> None:
    template = Template(head=(1, 2, 3), skip=1, lost=2, follows=9, own_ids=True)
    ids = template.warm_up(range(100, 113), block)  # 13, less the first and the last two
    whole = [1, 2, 3, *range(101, 111), 9]
    assert list(ids) == whole[:length]


@pytest.mark.parametrize(
    "text",
    [
        "Today Date: 24 Nov 2026",
        "It is November 24th, 2026.",
        "2026-11-24",
        "Current date: 11/24/2026 09:13",
        "<20261124>",
        "2026-11-23",  # where the engine's clock is in another zone
    ],
)
def test_a_date_of_today_is_seen_in_any_usual_form(text: str) -> None:
    assert has_date(text, datetime.date(2026, 11, 24))


@pytest.mark.parametrize(
    "text",
    ["", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024", "<|im_start|>system\n"],
)
def test_a_date_that_stays_is_none(text: str) -> None:
    assert not has_date(text, datetime.date(2026, 11, 24))


def test_the_common_length_of_token_ids() -> None:
    assert common_length([1, 2, 3], [1, 2, 4]) == 2
    assert common_length([1, 2], [1, 2, 4]) == 2
    assert common_length([], [1]) == 0
