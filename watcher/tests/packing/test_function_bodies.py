"""Functions of Python are told without their bodies as a parser tells them of the whole text."""

from __future__ import annotations

import time
from dataclasses import replace
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.packing import symbols
from infbox.packing.symbols import Definition, definitions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tree_sitter import Node

PYTHON = symbols.LANGUAGES["py"]


def whole(text: str) -> Sequence[Definition]:
    """Tell where functions are with all that is in them parsed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symbols, "LANGUAGES", {"py": replace(PYTHON, bodies=None)})
        return definitions("a.py", text)


@pytest.mark.parametrize(
    "text",
    [
        'class A:\n    """What it is."""\n\n    def f(self):\n        return 1\n\n    x = 2\n',
        "async def f(\n    a: int,\n) -> int:\n    return a\n\n\ndef g(): return 1\n",
        'def f():\n    """A text\nat the margin.\n    """\n    return 1\n\n\ndef g():\n    pass\n',
        'X = """\ndef f():\n    pass\n    """\n\n\ndef g():\n    pass\n',
        "def f():\n    return 1\n    # the last word\n# of another\n\n\ndef g():\n    pass\n",
        "def f():\n    return [\n]\n\n\ndef g():\n    pass\n",
        "if X:\n    def f():\n        def inner(): ...\n        return inner\nelse:\n    f = 1\n",
        "def f():\r\n    return 1\r\n\r\ndef g():\r\n    pass\r\n",
        "class A:\n    def f(self):\n        x = 1 \\\n+ 1\n\n    def g(self):\n        pass\n",
        'class A:\n    def f(self):\n        x = "a" \\\n"b"\n\n    def g(self):\n        pass\n',
    ],
)
def test_definitions_are_those_of_the_whole_text(text: str) -> None:
    assert definitions("a.py", text) == whole(text)


_LINES = st.sampled_from(
    [*dedent(
        '''\
        class A:
            def f(self):
                return 1
                """
            """
        def g(
            a, b=":",  # why
        ):
            pass
                x = 1 + \\
        2
        def h(): return 1
        @wraps
        """
            # a comment
        x = (
        )
        '''
    ).split("\n"), "    '''"]
)  # fmt: skip


@given(lines=st.lists(_LINES, max_size=40))
def test_a_text_of_any_lines_that_is_python_has_the_same_definitions(lines: list[str]) -> None:
    text = "\n".join(lines)
    root = symbols._parsed(PYTHON, text.encode())
    if root is not None and not root.has_error:
        assert definitions("a.py", text) == whole(text)


def test_what_is_in_functions_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    parse = symbols._parsed

    def noted(language: symbols.Language, data: bytes) -> Node | None:
        parsed.append(data)
        return parse(language, data)

    monkeypatch.setattr(symbols, "_parsed", noted)
    text = (
        "def f(a):\n    b = a\n\n    return b\n\n\nclass A:\n    def g(self):\n        return 2\n"
    )
    assert [each.end for each in definitions("a.py", text)] == [4, 9]
    assert parsed == [b"def f(a):\n\n\n pass\n\n\nclass A:\n    def g(self):\n     pass\n"]


def test_a_function_that_is_broken_within_hides_no_other() -> None:
    text = "def f():\n    return ((1\n\n\ndef g():\n    return 2\n"
    assert [each.name for each in definitions("a.py", text)] == ["f", "g"]


@pytest.mark.parametrize(
    "text",
    [
        "def " + ":#" * 30_000 + "\n",
        "".join(" " * depth + "def f(\n" for depth in range(360)),
        "def f(\n" + " )\n" * 20_000,
        "def f():\n" + " " * 30_000 + "\n" + " " * 30_000,
    ],
    ids=["colons and comments", "nested", "one that is never closed", "spaces"],
)
def test_no_text_takes_long_to_look_through(text: str) -> None:
    assert PYTHON.bodies
    began = time.thread_time()
    PYTHON.bodies.sub(symbols._without_body, text.encode())
    assert time.thread_time() - began < 2.0
