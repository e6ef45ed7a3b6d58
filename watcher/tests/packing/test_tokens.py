"""Estimates of tokens."""

from __future__ import annotations

import pytest

from infbox.packing import tokens
from infbox.packing.tokens import Pieces, pieces

PROSE = "# How orders are kept\n\nEach order is written before it is answered.\n" * 40
CODE = "def price_of(order):\n    return sum(item.price * item.count for item in order)\n\n" * 40
SIGNS = "[[0, 1], [2, 3]], {('a', 'b'): (4, 5)}, (x[i][j] << 3) & 0xff,\n" * 40


def test_pieces_are_about_where_tokenizers_cut() -> None:
    assert pieces("") == 0
    assert pieces("def price_of(order):\n    return 42") == 10
    assert Pieces(0.5).count("price of") == 4
    assert Pieces(0.5).ids("price of") is None


def test_a_long_text_is_estimated_by_parts_from_all_over() -> None:
    text = PROSE * 60 + CODE * 60 + SIGNS * 60
    assert len(text) > 3 * tokens._SAMPLE
    whole = len(tokens._PIECE.findall(text))
    assert pieces(text) == pytest.approx(whole, rel=0.05)
