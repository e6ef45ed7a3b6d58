"""Who may ask: a key for each user, or several, and what each user may use.

What serves knows the digests of keys alone, and reads them anew when the file is another: a key
that is rotated or revoked ends at once. Further keys of a user have labels (``labels``); the one in
the user's file is the default one. ``keyring`` makes them.

A key has 256 random bits, so that a digest without salt and stretching tells nothing about it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from infbox import grants
from infbox.auth import labels
from infbox.auth.labels import DEFAULT, Key
from infbox.errors import InputError
from infbox.inputs import is_user

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NO_KEY = "none of "
"""What no digest begins with."""

_NO_NUMBERS = ("workspaces", "expires")
_LATER = ("tokens_per_minute", "tokens_per_day")  # which files of earlier releases do not have


class Limits(NamedTuple):
    """What a user may use.

    Attributes:
        requests_per_minute: that begin; 0 for any number.
        concurrent_requests: under way at once; 0 for any number.
        tokens_per_minute: that are computed for the user; 0 for any number.
        tokens_per_day: the same, of a day in UTC.
        workspaces: patterns of their names, as ``grants`` has them.
        expires: the last day, in UTC, on which the user's keys are good, as YYYY-MM-DD; empty for
            no last one.
    """

    requests_per_minute: int = 0
    concurrent_requests: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    workspaces: tuple[str, ...] = grants.ALL
    expires: str = ""

    @property
    def numbers(self) -> dict[str, int]:
        """Those that are numbers, by name."""
        return {name: value for name, value in self._asdict().items() if name not in _NO_NUMBERS}


NO_LIMITS = Limits()


class User(NamedTuple):
    """A user as what serves knows him, by one of his keys.

    Attributes:
        name: of the user.
        limits: what he may use.
        label: of the key.
        expires: the last day of the key itself, as that of the limits.
        is_disabled: whether the key is refused.
    """

    name: str
    limits: Limits = NO_LIMITS
    label: str = DEFAULT
    expires: str = ""
    is_disabled: bool = False

    @property
    def key(self) -> str:
        """What to call the key."""
        return self.name if self.label == DEFAULT else f"{self.name}/{self.label}"

    @property
    def last_day(self) -> str:
        """The last day of the user or of the key, whichever is earlier; empty for none."""
        return min(filter(None, (self.expires, self.limits.expires)), default="")

    @property
    def is_over(self) -> bool:
        """Whether the last day is past."""
        return labels.is_past(self.last_day)


class Known(NamedTuple):
    """A user and his keys, as the file that serves has them.

    Attributes:
        limits: what the user may use.
        digest: of the default key; no digest at all where that key is none.
        labelled: the other keys by label, and the default one if it is disabled.
    """

    limits: Limits
    digest: str
    labelled: dict[str, Key]

    @property
    def keys(self) -> dict[str, Key]:
        """All keys, by label, the default one first."""
        is_there = not self.digest.startswith(NO_KEY)
        return {**({DEFAULT: Key(self.digest)} if is_there else {}), **self.labelled}


def read(file: Path) -> dict[str, User]:
    """Return who has a key, by its digest.

    Args:
        file: as a ``Keyring`` writes it; nobody has a key where it is not there.

    Raises:
        InputError: it cannot be read, or is damaged.
    """
    return {
        key.sha256: User(name, known.limits, label, key.expires, key.disabled)
        for name, known in known_users(file).items()
        for label, key in known.keys.items()
    }


def known_users(file: Path) -> dict[str, Known]:
    """Return who has keys, and which.

    Args:
        file: as for ``read``.

    Raises:
        InputError: it cannot be read, or is damaged.
    """
    try:
        return known_from(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: cannot be read ({type(error).__name__}): run infbox-keys apply, which "
            "rewrites it"
        ) from error


def known_from(content: Any) -> dict[str, Known]:
    """Return who has keys, and which.

    Args:
        content: of a file as ``known_users`` reads it.

    Raises:
        InputError, ValueError, KeyError, TypeError, AttributeError: it is something else.
    """
    return {
        name: Known(
            _limits(name, {key: entry[key] for key in _fields(entry)}),
            entry["sha256"],
            labels.keys_from(entry.get("keys", {}), name),
        )
        for name, entry in content["users"].items()
    }


def _fields(entry: Mapping[str, Any]) -> list[str]:
    return [name for name in Limits._fields if name not in _LATER or name in entry]


def limits_from(content: object) -> dict[str, Limits]:
    """Return users and what each may use.

    Args:
        content: a mapping of users to mappings of what is limited; what is left out is not.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(content, dict):
        raise InputError("the users must be a mapping of names to their limits")
    return {str(name): _limits(str(name), given) for name, given in content.items()}


def _limits(user: str, given: Any) -> Limits:
    if not is_user(user):
        raise InputError(
            f"{user!r}: not a user name: use lower-case letters, digits, '.', '_' and '-'"
        )
    if not isinstance(given, dict) or not given.keys() <= set(Limits._fields):
        raise InputError(f"{user}: limits are {', '.join(Limits._fields)}, not {given!r}")
    numbers = {name: value for name, value in given.items() if name not in _NO_NUMBERS}
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InputError(f"{user}: {name}: must be a whole number, not {value!r}")
    expires = labels.checked_day(given.get("expires", ""), user)
    workspaces = grants.checked(given.get("workspaces", grants.ALL), user)
    return Limits(**numbers, workspaces=workspaces, expires=expires)
