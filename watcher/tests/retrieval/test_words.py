"""The words of code and of questions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.retrieval.words import MAX_LENGTH, MAX_PARTS, joined, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("readTimeout", ["readtimeout", "read", "timeout"]),
        ("read_timeout", ["read_timeout", "read", "timeout"]),
        ("HTTPServer", ["httpserver", "http", "server"]),
        ("__init__", ["init"]),
        ("sha256", ["sha256", "sha", "256"]),
        ("Größe straße_x", ["größe", "straße", "x"]),
        ("a.b(c)", ["a", "b", "c"]),
        ("x" * (MAX_LENGTH + 1), []),
        ("", []),
    ],
)
def test_an_identifier_counts_as_itself_and_as_its_parts(text: str, found: list[str]) -> None:
    assert list(words(text)) == found


@given(text=st.text(max_size=300))
def test_any_text_gives_words_of_bounded_length_without_what_the_index_would_split(
    text: str,
) -> None:
    found = list(words(text))
    assert len(found) <= (MAX_PARTS + 1) * (len(text) + 1)
    assert joined(text, 1000).split() == found
    assert all(word and not word.isspace() and '"' not in word for word in found)
