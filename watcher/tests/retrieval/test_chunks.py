"""Cutting files into what can be shown by itself."""

from __future__ import annotations

from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.retrieval import chunks as cutting
from infbox.retrieval.chunks import LARGEST, MAX_CHUNKS, Chunk, chunks, lines_of, windows

BODY = "".join(f"    step_{n} = compute(step_{n})\n" for n in range(30))


def shown(text: str, chunk: Chunk) -> str:
    return "\n".join(lines_of(text)[chunk.start - 1 : chunk.end])


def chunk_of(path: str, text: str, name: str) -> str:
    return next(shown(text, chunk) for chunk in chunks(path, text) if name in chunk.names)


def test_a_definition_is_whole_with_its_comments_and_decorators() -> None:
    text = (
        f"import os\n\n{'LIMIT = 1' * 80}\n\n\n# Why it is there.\n@cached\n"
        f"def load():\n{BODY}\n\ndef store():\n{BODY}"
    )
    assert chunk_of("a.py", text, "load").strip() == (
        f"# Why it is there.\n@cached\ndef load():\n{BODY}".strip()
    )
    assert chunk_of("a.py", text, "store").strip() == f"def store():\n{BODY}".strip()


def test_a_large_type_is_cut_into_its_members_and_a_small_one_is_not() -> None:
    methods = "".join(
        f"    def turn{n}(self):\n{BODY.replace('    ', ' ' * 8)}\n" for n in range(4)
    )
    text = f'class Wheel:\n    """Turns."""\n\n{methods}\n\nclass Small:\n    def one(self): ...\n'
    found = chunks("a.py", text)
    assert ("Wheel", "turn2") in [chunk.names for chunk in found]
    assert any(set(chunk.names) >= {"Small", "one"} for chunk in found)
    assert chunk_of("a.py", text, "turn3").lstrip().startswith("def turn3")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.go", "package a\n\n// Run runs.\nfunc Run() {\n%s}\n\nfunc (s *Set) Add() {\n%s}\n"),
        ("a.rs", "use x;\n\n/// Runs.\npub fn Run() {\n%s}\n\nimpl Set {\nfn Add() {\n%s}\n}\n"),
        ("a.js", "'use strict';\n\n/** Runs. */\nfunction Run() {\n%s}\n\napp.Add = function () {\n%s}\n"),  # noqa: E501
        ("a.java", "class A {\n  void Run() {\n%s}\n\n  int Add() {\n%s}\n}\n"),
    ],
)  # fmt: skip
def test_other_languages_are_cut_at_definitions_too(path: str, text: str) -> None:
    body = "".join(f"  call{n}(here);\n" for n in range(80))
    whole = text % (body, body)
    run = chunk_of(path, whole, "Run")
    assert "call0(" in run
    assert "call79(" in run
    assert "Add" not in run


def test_markdown_is_cut_at_headings_but_not_in_code() -> None:
    prose = "Some words of prose.\n" * 40
    text = f"Before.\n{prose}# One\n{prose}```\n# no heading\n```\n## Two\n{prose}"
    assert [chunk.names for chunk in chunks("a.md", text)] == [(), ("One",), ("Two",)]


def test_underlined_headings_are_headings() -> None:
    prose = "Some words of prose.\n" * 40
    text = f"One\n===\n\n{prose}\nTwo\n---\n\n{prose}"
    assert [chunk.names for chunk in chunks("a.rst", text)] == [("One",), ("Two",)]


def test_what_has_no_grammar_is_cut_at_empty_lines() -> None:
    text = "".join("word of this\n" * 20 + "\n" for _ in range(40))
    found = chunks("a.unknown", text)
    assert len(found) > 2
    assert all(shown(text, chunk).endswith("this\n") for chunk in found)
    assert all(len(shown(text, chunk)) <= LARGEST + 20 for chunk in found)


def test_a_file_has_no_more_chunks_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "MAX_CHUNKS", 5)
    text = "".join(f"def f{n}():\n{BODY}\n" for n in range(9))
    found = chunks("a.py", text)
    assert len(found) == 5
    assert found[-1].end == len(lines_of(text))
    assert MAX_CHUNKS > 5


def test_windows_are_of_so_many_lines() -> None:
    assert windows("x\n" * 7, 3) == [
        Chunk(1, 3, size=6),
        Chunk(4, 6, size=6),
        Chunk(7, 7, size=2),
    ]


_LINES = st.sampled_from(
    [*dedent(
        """\
        class A:
            def f(self):
                return 1
        def g():
            pass
        # heading
        ## two
        ```
        text
        ====
        if x:
        @wraps
        """
    ).split("\n"), "x" * 900, "\r", "\x0c"]
)  # fmt: skip


@given(
    path=st.sampled_from(["a.py", "a.md", "a.rst", "a.go", "a", "b.ts", "c.c"]),
    lines=st.lists(_LINES, max_size=80),
)
def test_the_chunks_of_any_text_have_each_of_its_lines_once(path: str, lines: list[str]) -> None:
    text = "\n".join(lines)
    found = chunks(path, text)
    numbers = [n for chunk in found for n in range(chunk.start, chunk.end + 1)]
    assert numbers == list(range(1, len(lines_of(text)) + 1))
