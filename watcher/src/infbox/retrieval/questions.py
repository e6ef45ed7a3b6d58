"""What a question names: files, symbols, and the places of a stack trace."""

from __future__ import annotations

import re
from dataclasses import dataclass

from infbox.retrieval.words import STOP_WORDS, words

MAX_CHARS = 20_000
"""Of a question are looked at; its end, where people ask."""

MAX_WORDS = 64
"""Different words of a question that are looked for."""

MAX_PLACES = 40
"""Files, places and symbols each that a question may name."""

_PATH = re.compile(r"[\w.@+-]{0,100}(?:[/\\][\w.@+-]{1,100}){0,30}\.\w{1,10}(?![\w/])")
# Python's, then what compilers and most other languages write.
_PYTHON_PLACE = re.compile(r'File "([^"\n]{1,500})", line (\d{1,7})')
_PLACE = re.compile(r"([\w.@+/\\-]{1,300}\.\w{1,10})(?::|\()(\d{1,7})\b")
_QUOTED = re.compile(r"`([^`\n]{1,120})`")
_SYMBOL = re.compile(r"[A-Za-z_$][\w$]{1,79}")
_CODE_LIKE = re.compile(r"\w_\w|^_\w|[a-z0-9][A-Z]|^[A-Z]{2,}[a-z]")


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for.

    Attributes:
        words: in the order of the question.
        symbols: names that are written as code is.
        paths: files that are named.
        places: files with a line, as stack traces have them.
    """

    words: tuple[str, ...]
    symbols: tuple[str, ...]
    paths: tuple[str, ...]
    places: tuple[tuple[str, int], ...]


def read(text: str) -> Question:
    """Read a question.

    Args:
        text: as it was asked; what is before the last ``MAX_CHARS`` is not looked at.
    """
    text = text[-MAX_CHARS:]
    places = [
        (path.replace("\\", "/"), int(line))
        for path, line in (*_PYTHON_PLACE.findall(text), *_PLACE.findall(text))
    ]
    paths = [path.replace("\\", "/") for path in _PATH.findall(text)]
    wanted = dict.fromkeys(word for word in words(text) if _says_something(word))
    return Question(
        words=tuple(wanted)[:MAX_WORDS],
        symbols=tuple(_symbols(text))[:MAX_PLACES],
        paths=tuple(dict.fromkeys(paths))[:MAX_PLACES],
        places=tuple(dict.fromkeys(places))[:MAX_PLACES],
    )


def _says_something(word: str) -> bool:
    return word not in STOP_WORDS and (len(word) > 1 or not word.isascii())


def _symbols(text: str) -> dict[str, None]:
    """Return names that stand in backquotes, or are written as no word of a sentence is."""
    quoted = [name for part in _QUOTED.findall(text) for name in _SYMBOL.findall(part)]
    called = re.findall(r"([A-Za-z_$][\w$]{1,79})\(", text)
    others = [name for name in _SYMBOL.findall(text) if _CODE_LIKE.search(name)]
    return dict.fromkeys((*quoted, *called, *others))
