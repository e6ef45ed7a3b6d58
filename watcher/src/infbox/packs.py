"""Reading the packs that the watcher publishes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING

from infbox.log import line

if TYPE_CHECKING:
    from pathlib import Path

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pack:
    """A published pack.

    Attributes:
        generation: number of its base.
        version: number of its text.
        tokens: of the text, as the watcher counted.
        sha256: of the text, hex.
        text: what goes in front of a question, in UTF-8.
        encoded: the text as the inside of a JSON string, so that a request need not encode it.
        ends: of each section: bytes of ``encoded``, and tokens, until its end.
    """

    generation: int
    version: int
    tokens: int
    sha256: str
    text: bytes
    encoded: bytes
    ends: tuple[tuple[int, int], ...] = ()

    @property
    def whole(self) -> Front:
        """All of it."""
        return Front(memoryview(self.encoded), self.tokens)

    def within(self, tokens: int) -> Front:
        """Return as many whole sections as have no more than so many tokens; none at the least."""
        if self.tokens <= tokens:
            return self.whole
        end, count = max(((e, n) for e, n in self.ends if n <= tokens), default=(0, 0))
        return Front(memoryview(self.encoded)[:end], count)


@dataclass(frozen=True)
class Front:
    """As much of a pack as goes in front of a question.

    Attributes:
        encoded: the text as the inside of a JSON string; not a copy.
        tokens: of the text.
    """

    encoded: memoryview
    tokens: int


class PackFile:
    """One workspace's pack file, read again only when it was replaced.

    A damaged or missing file leaves the last good pack in place.

    Args:
        file: the watcher's ``pack.json``.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._pack: Pack | None = None

    def current(self) -> Pack | None:
        """Return the pack to use now, or None as long as there was none."""
        try:
            status = self._file.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                self._seen = seen
                self._pack = _read(self._file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if self._pack is None or not isinstance(error, FileNotFoundError):
                _logger.warning(line("pack-not-read", file=self._file, reason=error))
        return self._pack


def _read(file: Path) -> Pack:
    """Read a pack file.

    Raises:
        OSError, ValueError, KeyError, TypeError: it is missing or damaged.
    """
    published = json.loads(file.read_bytes())
    text = published["text"]
    if not isinstance(text, str):
        raise TypeError("the text is none")
    data = text.encode()
    if sha256(data).hexdigest() != published["sha256"]:
        raise ValueError("the text is not the one that its checksum was made of")
    encoded, ends = _encoded(text, published.get("sections", ()))
    return Pack(
        generation=int(published["generation"]),
        version=int(published["version"]),
        tokens=int(published["tokens"]),
        sha256=published["sha256"],
        text=data,
        encoded=encoded,
        ends=ends,
    )


def _encoded(
    text: str, sections: list[tuple[int, int]]
) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """Return the text as the inside of a JSON string, and where its sections end in that."""
    encoded = bytearray()
    ends = []
    starts = [0, *(characters for characters, _ in sections)]
    for (start, end), (_, tokens) in zip(pairwise(starts), sections, strict=True):
        encoded += _inside(text[start:end])
        ends.append((len(encoded), tokens))
    encoded += _inside(text[starts[-1] :])
    return bytes(encoded), tuple(ends)


def _inside(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()[1:-1]
