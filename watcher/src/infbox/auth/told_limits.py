"""The limits of a user, as the key service and sign-in tell the gateway.

A header without one of them, or no header, says that there is none, as with
``X-Infbox-Concurrent``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from infbox.auth.counts import PERIODS

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = "x-infbox-limits"

ACCOUNT = "x-infbox-account"
"""Header with whose usage is shown on the page: the name of a user who has a key, or what somebody
who signed in alone is called."""

AT_ONCE = "concurrent_requests"
NAMES = (*PERIODS, AT_ONCE)
"""Of all limits, as settings have them."""

_MOST = 10**15 - 1
_LIMIT = re.compile(rf"({'|'.join(NAMES)})=([0-9]{{1,15}})")
_CHOSEN = re.compile("^.*-(?=[0-9a-f]{12}@page$)")
_SEPARATOR = ";"


def to_header(limits: Mapping[str, int]) -> str:
    """Return the header's value: the limits that there are, by name; ``-`` for none."""
    there = {name: min(most, _MOST) for name, most in limits.items() if most}
    return _SEPARATOR.join(f"{name}={most}" for name, most in there.items()) or "-"


def from_header(value: str) -> dict[str, int]:
    """Return the limits that a header's value tells.

    Raises:
        ValueError: it is not one that ``to_header`` returns.
    """
    if value == "-":
        return {}
    found = [_LIMIT.fullmatch(each) for each in value.split(_SEPARATOR)]
    limits = {each[1]: int(each[2]) for each in found if each}
    if len(limits) != len(found):
        raise ValueError("no limits")
    return limits


def person(account: str) -> str:
    """Return what an account is counted by. Of somebody who signed in it has no name, since a
    provider may let people choose theirs."""
    return _CHOSEN.sub("", account)


def same_end(account: str) -> str:
    """Return how all accounts of somebody who signed in end, whatever the name; the empty string
    for a user who has a key, whose whole name is the account."""
    own = person(account)
    return f"-{own}" if own != account else ""
