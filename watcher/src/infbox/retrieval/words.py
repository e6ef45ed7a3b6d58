"""The words of source code and of questions about it.

An identifier counts as itself and as its parts: someone who asks about "the read timeout" means
``readTimeout`` and ``read_timeout`` too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LENGTH = 64
"""Characters of an identifier; what is longer is encoded data and no name."""

MAX_PARTS = 12
"""Parts of one identifier."""

_REMEMBERED = 200_000  # identifiers whose parts are kept: some 30 MB at most

# What is no part of an identifier in ASCII, which most sources are, becomes a space.
_SPACED = re.sub(r"\W", " ", "".join(map(chr, range(128)))).encode().ljust(256)
_RUN = re.compile(r"\w+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


STOP_WORDS = _set(
    """
    a about after all also an and any are as at be been before but by can could do does
    doesn don done each else even for from get had has have how i if in instead into is isn
    it its just let like make makes making may me more most my need new no not now of on one
    only or other our out over own please should since so some such than that the their them
    then there these they this those to too up use used uses using very via was way we were
    what when where which while who why will with without would you your
    """
)
"""Words of English that say nothing about code. A name of one of them is found by its symbol."""


def words(text: str) -> Iterator[str]:
    """Yield the words of a text in lower case: each identifier, then its parts if it has several.

    Args:
        text: any; encoded data, by its length, gives no words.
    """
    for run in _RUN.findall(text):
        yield from _split(run)


def joined(text: str, most: int) -> str:
    """Return the words of the first so many identifiers of a text, with spaces between.

    It is what ``words`` gives, in a fifth of the time: nearly all of an index's text goes through.
    """
    if text.isascii():  # translating bytes takes a quarter of the time of translating text
        runs = text.encode().translate(_SPACED).decode().split()
    else:
        runs = _RUN.findall(text)
    return " ".join(map(_known.__getitem__, runs[:most]))


class _Known(dict[str, str]):
    """Identifiers with what they are joined to; forgets all once there are too many."""

    def __missing__(self, identifier: str) -> str:
        if len(self) >= _REMEMBERED:
            self.clear()
        found = self[identifier] = " ".join(_split(identifier))
        return found


_known = _Known()


def forget() -> None:
    """Forget the identifiers that were met: after a first index of many files they are many."""
    _known.clear()


def _split(identifier: str) -> tuple[str, ...]:
    """Return an identifier in lower case, and its parts where there are several.

    Args:
        identifier: of letters, digits and underscores; nothing comes of one that is too long.
    """
    if len(identifier) > MAX_LENGTH:
        return ()
    lowered = identifier.lower()
    if not identifier.isascii():
        return tuple(filter(None, lowered.split("_")))[:MAX_PARTS]
    parts = [part.lower() for part in _PART.findall(identifier)[:MAX_PARTS]]
    if len(parts) < 2:  # noqa: PLR2004  # one part is the identifier itself
        return (parts[0],) if parts else ()
    return (lowered.strip("_"), *parts)
