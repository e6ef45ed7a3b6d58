"""Which workspaces somebody may use, as the key service and sign-in tell the gateway.

A grant is a list of patterns: names of workspaces, in which ``*`` stands for any characters. It is
told in a header that always says something, so that a lost one is never taken for a wide one.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from infbox.errors import InputError
from infbox.inputs import MOST_PATTERNS, is_grant

if TYPE_CHECKING:
    from collections.abc import Iterable

HEADER = "x-infbox-workspaces"

ALL = ("*",)
NONE: tuple[str, ...] = ()

_NOTHING = "-"
_SEPARATOR = ","


def checked(patterns: object, whose: str) -> tuple[str, ...]:
    """Return patterns that can be told in a header.

    Args:
        patterns: a list of them.
        whose: they are, for the message.

    Raises:
        InputError: they are something else.
    """
    if not isinstance(patterns, list | tuple) or not all(map(is_grant, patterns)):
        raise InputError(
            f"{whose}: workspaces must be a list of names, in which * stands for any characters, "
            f"not {patterns!r}"
        )
    if len(patterns) > MOST_PATTERNS:
        raise InputError(
            f"{whose}: has {len(patterns)} patterns of workspaces and may have {MOST_PATTERNS}: "
            "use * to name several at once"
        )
    return tuple(patterns)


def to_header(patterns: Iterable[str]) -> str:
    """Return the header's value, which is never empty, and ``*`` for all."""
    given = list(patterns)
    return ALL[0] if ALL[0] in given else _SEPARATOR.join(given) or _NOTHING


def from_header(value: str) -> tuple[str, ...]:
    """Return the patterns that a header's value tells.

    Raises:
        ValueError: it is not one that ``to_header`` returns.
    """
    if value == _NOTHING:
        return NONE
    patterns = tuple(value.split(_SEPARATOR))
    if len(patterns) > MOST_PATTERNS or not all(map(is_grant, patterns)):
        raise ValueError("no patterns of workspaces")
    return patterns


def covers(patterns: Iterable[str], name: str) -> bool:
    """Return whether a workspace of this name may be used. Upper and lower case differ."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
