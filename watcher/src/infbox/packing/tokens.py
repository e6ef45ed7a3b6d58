"""Counting tokens, and naming them as the model does."""

from __future__ import annotations

import json
import math
import re
import sys
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from xxhash import xxh3_128_hexdigest

from infbox.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

BYTES_PER_TOKEN = 4.3
"""Of source code in UTF-8, measured with Qwen's tokenizer: the estimate where none is given."""

PIECES_PER_TOKEN = 0.92
"""Pieces of source code, as ``pieces`` counts them, that make a token: the estimate where a tree's
own is not known."""

MOST_CHARS = 7.0
"""Of a token, on average over some lines of source: none was seen to have more."""

_SAMPLE = 128 * 1024  # characters of a text, by whose pieces those of a longer one are estimated
# Letters of a word, digits, signs, and beginnings of lines: about where tokenizers cut.
_PIECE = re.compile(r"[A-Z]?[a-z]{1,8}|[A-Z]{1,3}|\d|[^\w\s]{1,2}|\n[ \t]*|[^\x00-\x7f]")

Ids = array
"""Token ids, four bytes each."""


class Tokenizer(Protocol):
    """What counts the tokens of a text."""

    name: str
    """Names what counts; a pack counted otherwise is made anew."""

    control: tuple[str, ...]
    """Texts that the model reads as control tokens, such as the end of a message."""

    most_chars: float
    """Of a token, on average over some lines: what is longer need not be read to be too much."""

    def count(self, text: str) -> int:
        """Return how many tokens the text has."""

    def ids(self, text: str) -> Ids[int] | None:
        """Return the text's token ids, or None where they are not known."""


class Estimate:
    """Estimates tokens from bytes.

    Args:
        bytes_per_token: of what is counted.
    """

    name = "bytes"
    control: tuple[str, ...] = ()

    def __init__(self, bytes_per_token: float = BYTES_PER_TOKEN) -> None:
        self.most_chars = self._bytes_per_token = bytes_per_token

    def count(self, text: str) -> int:
        """Estimate the tokens of a text."""
        return estimate(text, self._bytes_per_token)

    def ids(self, text: str) -> Ids[int] | None:
        """Return None: an estimate names no tokens."""


class Pieces:
    """Estimates tokens from where tokenizers cut texts, within some 5 %; from bytes it would be
    within some 20 %. It takes 30 microseconds for each 1,000 characters.

    Args:
        pieces_per_token: of what is counted.
    """

    name = "pieces"
    control: tuple[str, ...] = ()
    most_chars = MOST_CHARS

    def __init__(self, pieces_per_token: float = PIECES_PER_TOKEN) -> None:
        self._pieces_per_token = pieces_per_token

    def count(self, text: str) -> int:
        """Estimate the tokens of a text."""
        return math.ceil(pieces(text) / self._pieces_per_token)

    def ids(self, text: str) -> Ids[int] | None:
        """Return None: an estimate names no tokens."""


class Model:
    """A model's own tokenizer. It is read from its file when it is first needed.

    Args:
        file: a tokenizer.json.

    Raises:
        InputError: the file is missing or is no tokenizer.
    """

    most_chars = MOST_CHARS

    def __init__(self, file: Path) -> None:
        self._file = file
        self._library: Library | None = None
        try:
            content = file.read_bytes()
            parts = json.loads(content)
            added = [token for token in parts.get("added_tokens", []) if token["special"]]
            self.control = tuple(token["content"] for token in added)
            parts["model"]["vocab"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(file, error) from error
        self.name = xxh3_128_hexdigest(content)

    def count(self, text: str) -> int:
        """Return how many tokens the text has."""
        return len(self._encode(text))

    def ids(self, text: str) -> Ids[int]:
        """Return the text's token ids."""
        return array("I", self._encode(text))

    def load(self) -> None:
        """Read the tokenizer now.

        Raises:
            InputError: the library cannot use the file.
        """
        if self._library is None:
            self._library = _library(self._file)

    def _encode(self, text: str) -> list[int]:
        self.load()
        assert self._library is not None  # noqa: S101  # load() has seen to it
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids


def estimate(text: str, bytes_per_token: float = BYTES_PER_TOKEN) -> int:
    """Estimate the tokens of a text from its bytes."""
    return math.ceil(len(text.encode()) / bytes_per_token)


def pieces(text: str) -> float:
    """Return how many pieces a text has; of a long one about, by parts of it from all over."""
    if len(text) <= _SAMPLE:
        return len(_PIECE.findall(text))
    parts = 16
    starts = range(
        0, len(text) - _SAMPLE // parts + 1, (len(text) - _SAMPLE // parts) // (parts - 1)
    )
    found = sum(len(_PIECE.findall(text, at, at + _SAMPLE // parts)) for at in starts)
    return found / (len(starts) * (_SAMPLE // parts)) * len(text)


def load(file: Path | None) -> Tokenizer:
    """Return what counts tokens.

    Args:
        file: a tokenizer.json; None to estimate.

    Raises:
        InputError: the file is missing or is no tokenizer.
    """
    return Model(file) if file else Estimate()


def _library(file: Path) -> Library:
    from tokenizers import Tokenizer as Library  # noqa: PLC0415  # 40 ms, for those who count

    try:
        library = Library.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise _unreadable(file, error) from error
    library.no_truncation()
    library.no_padding()
    return library


def _unreadable(file: Path, error: Exception) -> InputError:
    reason = (
        getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
    )
    return InputError(
        f"{file}: no tokenizer can be read from it ({reason}): give a model's tokenizer.json"
    )


def main() -> None:
    """Print a tokenizer's control tokens as JSON. Its file is the one argument."""
    try:
        model = Model(Path(sys.argv[1]))
        model.load()
    except InputError as error:
        sys.exit(str(error))
    print(json.dumps(model.control))


if __name__ == "__main__":
    main()
