"""What the scheduler's side and LMCache's side of Cake say to each other.

Each is the payload of a call to a method of LMCache's server module, as msgpack.
"""

from __future__ import annotations

import msgspec

LOOK, STAGE, STATUS, RELEASE = "cake.look", "cake.stage", "cake.status", "cake.release"

ALL = 1 << 30
"""More chunks than any prompt has."""


class Look(msgspec.Struct):
    """Asks which chunks of a prompt are stored.

    Attributes:
        request: its name, for the calls that follow.
        model: the model's name in LMCache's keys.
        world_size: ranks among which KV is divided.
        readers: times that each chunk is going to be read.
        tokens: of the prompt.
        salt: what keeps users' caches apart.
    """

    request: str
    model: str
    world_size: int
    readers: int
    tokens: list[int]
    salt: str


class Seen(msgspec.Struct):
    """Answers ``Look``.

    Attributes:
        tiers: a byte for each chunk: 0 for not stored, 1 on disk, 2 in RAM.
        rate: chunks staged from disk a second, as measured lately; None while unknown.
    """

    tiers: bytes
    rate: float | None


class Stage(msgspec.Struct):
    """Asks to bring chunks to RAM, the last first and so many at a time, and to keep them there."""

    request: str
    start: int
    end: int
    at_once: int


class Status(msgspec.Struct):
    """Asks how far staging is."""

    request: str


class Staged(msgspec.Struct):
    """Answers ``Status``.

    Attributes:
        staged_from: the first of the chunks that are in RAM without a gap until the end.
        is_over: whether no more will come.
        rate: as in ``Seen``.
    """

    staged_from: int
    is_over: bool
    rate: float | None


class Release(msgspec.Struct):
    """Asks to stage no more, and to keep the chunks before ``until`` no longer."""

    request: str
    until: int
