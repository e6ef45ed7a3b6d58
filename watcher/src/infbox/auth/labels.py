"""A user's further keys: each has a label, and may have a last day or be disabled.

They are recorded by their digests (``record``), in a file of root's that outlives what serves. A
key itself is written once, to a file to be handed out; that file may be removed, and the key stays
valid.
"""

from __future__ import annotations

from datetime import date, datetime, timezone
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from infbox.errors import InputError
from infbox.inputs import is_day, is_user

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEFAULT = "default"
"""The label of the key that each user has from the start."""

DIRECTORY = "_labelled"
"""Where all this lies, beside the users' first keys: no user can have this name, and releases that
know no labels leave a directory alone."""

RECORD = "_keys.json"

MOST = 20
"""Keys that a user may have, those that are disabled included."""


class Key(NamedTuple):
    """A key as it is recorded.

    Attributes:
        sha256: its digest, hex; empty where it is not known.
        made: the day on which it was made, in UTC, as YYYY-MM-DD; empty where that is not known.
        expires: the last day, in UTC, on which it is valid; empty for no last one.
        disabled: whether it is refused.
    """

    sha256: str
    made: str = ""
    expires: str = ""
    disabled: bool = False


Labelled = dict[str, dict[str, Key]]
"""Users, with their labels, with the keys. A disabled first key is among them."""


def digest(key: str) -> str:
    """Return the digest by which a key is known: SHA-256, hex."""
    return sha256(key.encode()).hexdigest()


def parsed(name: str) -> tuple[str, str]:
    """Return the user and the label of USER/LABEL; the label of USER alone is the first key's.

    Raises:
        InputError: the label is none.
    """
    user, slash, label = name.partition("/")
    if slash and not is_user(label):
        raise InputError(
            f"{name}: {label!r} is not a label: use up to 32 lower-case letters, digits, '.', '_' "
            "and '-', such as laptop"
        )
    return user, label or DEFAULT


def today() -> date:
    """Return the day in UTC, by which keys end."""
    return datetime.now(timezone.utc).date()


def is_past(day: str) -> bool:
    """Return whether a last day is over; an empty one never is."""
    return bool(day) and today() > date.fromisoformat(day)


def checked_day(day: Any, where: str) -> str:
    """Return a day as YYYY-MM-DD, or the empty string for none.

    Raises:
        InputError: it is something else; where it stands is named.
    """
    if not isinstance(day, str) or (day and not is_day(day)):
        raise InputError(f"{where}: expires: must be a day as 2027-01-31, not {day!r}")
    try:
        date.fromisoformat(day or "2000-01-01")
    except ValueError:
        raise InputError(f"{where}: expires: {day} is not a date: fix it") from None
    return day


def keys_from(content: Any, user: str) -> dict[str, Key]:
    """Return a user's keys by label, from what ``as_content`` made.

    Raises:
        KeyError, TypeError, AttributeError: it is something else.
        InputError: a day is none.
    """
    keys = {label: Key(*(entry[name] for name in Key._fields)) for label, entry in content.items()}
    for label, key in keys.items():
        checked_day(key.expires, f"{user}/{label}")
    return keys


def as_content(keys: Mapping[str, Key]) -> dict[str, dict[str, Any]]:
    """Return a user's keys as what JSON can hold."""
    return {label: key._asdict() for label, key in sorted(keys.items())}


def file_of(directory: Path, user: str, label: str) -> Path:
    """Return where a key is written to be handed out."""
    return directory / f"{user}@{label}"


def strays(directory: Path, labelled: Labelled) -> list[Path]:
    """Return the files that hold no key that is recorded and may be used."""
    if not directory.is_dir():
        return []
    known = {
        file_of(directory, user, label): key.sha256
        for user, keys in labelled.items()
        for label, key in keys.items()
        if not key.disabled
    }
    files = [path for path in directory.iterdir() if path.is_file() and path.name != RECORD]
    return sorted(path for path in files if known.get(path) != _digest_of(path))


def _digest_of(path: Path) -> str:
    return digest(path.read_text(encoding="utf-8", errors="replace").strip())
