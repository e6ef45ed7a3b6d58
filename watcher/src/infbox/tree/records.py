"""What is remembered of files and directories that were looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import os


class Stamp(NamedTuple):
    """What tells, without reading, that a file is as it was: bytes and nanoseconds."""

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Take the stamp from what the system says of a file."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Row(NamedTuple):
    """A file as it was last read.

    Attributes:
        size: in bytes; with the two times, in nanoseconds, the stamp.
        mtime_ns: of the content; -1 where a later look must not trust the stamp.
        ctime_ns: of the content or what the file system keeps about it.
        digest: xxh3_128 of the bytes, hex.
        refused: the rule about content that keeps it out, or None.
        edit: a number that grows with each edit seen; 0 for a file as it was first found.
        heat: how often and how lately it was edited.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    digest: str
    refused: str | None
    edit: int = 0
    heat: float = 0.0


class Directory(NamedTuple):
    """A directory as last listed; a border is a repository of its own, and is not entered."""

    mtime_ns: int
    ctime_ns: int
    is_border: bool = False
