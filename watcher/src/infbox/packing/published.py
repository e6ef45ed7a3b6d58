"""Reading the packs that the watcher publishes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from infbox.log import line
from infbox.packing.tokens import pieces

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_logger = logging.getLogger(__name__)


class About(NamedTuple):
    """What a section of a pack is about.

    Attributes:
        kind: what it says, as ``pack.Kind`` has it.
        path: of the file; empty for what is about no single file.
        digest: of the file's bytes after it; empty where there is no file.
        old_path: of a renamed file.
    """

    kind: str
    path: str
    digest: str
    old_path: str = ""


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
        about: what each section is about; empty where the watcher does not tell.
        epoch: names the time since which the watcher knows all of what it published; only packs of
            the same one may stand in for each other. Empty where it does not tell.
        withdrawn: paths that must not be shown: an earlier text than this number that shows one
            must not be used.
        others: digests of files that earlier packs show and this one does not; empty for one that
            is gone.
    """

    generation: int
    version: int
    tokens: int
    sha256: str
    text: bytes
    encoded: bytes
    ends: tuple[tuple[int, int], ...] = ()
    about: tuple[About, ...] = ()
    epoch: str = ""
    withdrawn: Mapping[str, int] = field(default_factory=dict, repr=False)
    others: Mapping[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def pieces(self) -> float:
        """How many pieces the text has, as ``tokens.pieces`` counts them."""
        return pieces(self.text.decode(errors="replace"))

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
                data = self._file.read_bytes()
                self._seen = seen  # a damaged one is no better when it is read again
                self._pack = _parsed(data)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if self._pack is None or not isinstance(error, FileNotFoundError):
                _logger.warning(line("pack-not-read", file=self._file, reason=error))
        return self._pack


def _parsed(data: bytes) -> Pack:
    """Return the pack that a file holds.

    Raises:
        ValueError, KeyError, TypeError: it is damaged.
    """
    published = json.loads(data)
    text = published["text"]
    if not isinstance(text, str):
        raise TypeError("the text is none")
    data = text.encode()
    if sha256(data).hexdigest() != published["sha256"]:
        raise ValueError("the text is not the one that its checksum was made of")
    encoded, ends = _encoded(text, published.get("sections", ()))
    about = tuple(About(*entry) for entry in published.get("entries", ()))
    is_told = len(about) == len(ends)
    return Pack(
        generation=int(published["generation"]),
        version=int(published["version"]),
        tokens=int(published["tokens"]),
        sha256=published["sha256"],
        text=data,
        encoded=encoded,
        ends=ends,
        about=about if is_told else (),
        epoch=str(published.get("epoch", "")) if is_told else "",
        withdrawn={path: int(version) for path, version in published.get("withdrawn", ())},
        others=dict(published.get("others", ())),
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
