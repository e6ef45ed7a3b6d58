"""Who may ask: a key for each user, and what each may use.

The keys themselves are root's, a file a user, to be handed out. What serves knows their digests
alone, and reads them anew when the file is another: a key that is rotated or revoked ends at once.
A key has 256 random bits, so that a digest without salt and stretching tells nothing about it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from datetime import date
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from infbox import grants
from infbox.errors import InputError, UnreadyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

KEY = re.compile(r"[A-Za-z0-9_-]{32,200}")
"""What a key may be that was put there by hand."""

USER = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")

_NO_NUMBERS = ("workspaces", "expires")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_OWNER_ONLY = 0o600
_GROUP_READS = 0o640


class Limits(NamedTuple):
    """What a user may use.

    Attributes:
        requests_per_minute: that begin; 0 for any number.
        concurrent_requests: under way at once; 0 for any number.
        workspaces: patterns of their names, as ``grants`` has them.
        expires: the last day, in UTC, on which the key is good, as YYYY-MM-DD; empty for no last
            one.
    """

    requests_per_minute: int = 0
    concurrent_requests: int = 0
    workspaces: tuple[str, ...] = grants.ALL
    expires: str = ""

    def is_over(self, today: date) -> bool:
        """Return whether the last day is past.

        Args:
            today: in UTC.
        """
        return bool(self.expires) and today > date.fromisoformat(self.expires)


NO_LIMITS = Limits()


class User(NamedTuple):
    """A user as what serves knows him.

    Attributes:
        name: of the user.
        limits: what he may use.
    """

    name: str
    limits: Limits = NO_LIMITS


class Change(NamedTuple):
    """What was changed, or would be.

    Attributes:
        added: users that got a key.
        removed: those whose key is gone.
        changed: whether anything was, be it a mode or a limit.
    """

    added: list[str]
    removed: list[str]
    changed: bool


class Keyring:
    """The keys and what is made of them. For root.

    Args:
        directory: of the keys, a file a user.
        digests: the file that serves; made with mode 0640, of its directory's group.
    """

    def __init__(self, directory: Path, digests: Path) -> None:
        self._directory = directory
        self._digests = digests

    def users(self) -> dict[str, Limits]:
        """Return who has a key, with what each may use.

        Raises:
            InputError: the file that serves is damaged.
        """
        return {user.name: user.limits for user in read(self._digests).values()}

    def apply(self, wanted: Mapping[str, Limits], *, is_dry: bool = False) -> Change:
        """See to it that these users have a key, and nobody else.

        Args:
            wanted: users, with what each may use.
            is_dry: change nothing.

        Raises:
            InputError: a key cannot be used; its file is named, and never what is in it.
            UnreadyError: a file cannot be written.
        """
        keys = self._keys(wanted)
        added = [user for user in wanted if user not in keys]
        removed = [name for name in self._files() if name not in wanted]
        is_open = [user for user in keys if not _has_mode(self._directory / user, _OWNER_ONLY)]
        keys |= {user: _new_key() for user in added}
        served = _as_json(keys, wanted)
        is_stale = not _holds(self._digests, served)
        if not is_dry:
            for user in added + is_open:
                _write(self._directory / user, f"{keys[user]}\n", _OWNER_ONLY)
            if is_stale:
                self._serve(served)
            for name in removed:
                (self._directory / name).unlink()
        return Change(added, removed, bool(added or removed or is_open or is_stale))

    def rotate(self, user: str) -> Path:
        """Give a user another key; the one before ends. Return the file that holds it.

        Raises:
            InputError: there is no such user.
            UnreadyError: a file cannot be written.
        """
        users = self._users_with(user)
        keys = {**self._keys(users), user: _new_key()}
        _write(self._directory / user, f"{keys[user]}\n", _OWNER_ONLY)
        self._serve(_as_json(keys, users))
        return self._directory / user

    def revoke(self, user: str) -> None:
        """End a user's key.

        Raises:
            InputError: there is no such user.
            UnreadyError: a file cannot be written.
        """
        users = self._users_with(user)
        del users[user]
        self._serve(_as_json(self._keys(users), users))
        (self._directory / user).unlink(missing_ok=True)

    def _serve(self, served: str) -> None:
        _write(self._digests, served, _GROUP_READS)

    def _users_with(self, user: str) -> dict[str, Limits]:
        """Return all users, this one among them; raise where it is none."""
        users = self.users()
        if user not in users:
            raise InputError(f"{user}: no such user: there are {', '.join(users) or 'none'}")
        return users

    def _files(self) -> list[str]:
        if not self._directory.is_dir():
            return []
        return sorted(path.name for path in self._directory.iterdir() if path.is_file())

    def _keys(self, users: Iterable[str]) -> dict[str, str]:
        """Return the key of each of these users that has one."""
        keys: dict[str, str] = {}
        for user in users:
            path = self._directory / user
            if not path.is_file():
                continue
            key = path.read_text(encoding="utf-8", errors="replace").strip()
            if not KEY.fullmatch(key):
                raise InputError(
                    f"{path}: does not hold a key of 32 to 200 letters, digits, hyphens and "
                    "underscores: remove the file to have a new key made"
                )
            if key in keys.values():
                other = next(name for name, known in keys.items() if known == key)
                raise InputError(
                    f"{path}: holds the same key as {self._directory / other}: "
                    "remove one of the two to have a new key made"
                )
            keys[user] = key
        return keys


def read(file: Path) -> dict[str, User]:
    """Return who has a key, by its digest.

    Args:
        file: as a ``Keyring`` writes it; nobody has a key where it is not there.

    Raises:
        InputError: it cannot be read, or is damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            entry["sha256"]: User(name, _limits(name, {key: entry[key] for key in Limits._fields}))
            for name, entry in content["users"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: cannot be read ({type(error).__name__}): have it made by infbox-keys apply"
        ) from error


def digest(key: str) -> str:
    """Return the digest by which a key is known: SHA-256, hex."""
    return sha256(key.encode()).hexdigest()


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
    if not USER.fullmatch(user):
        raise InputError(
            f"{user!r}: no name of a user: use lower-case letters, digits, '.', '_' and '-'"
        )
    if not isinstance(given, dict) or not given.keys() <= set(Limits._fields):
        raise InputError(f"{user}: limits are {', '.join(Limits._fields)}, not {given!r}")
    numbers = {name: value for name, value in given.items() if name not in _NO_NUMBERS}
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InputError(f"{user}: {name}: must be a whole number, not {value!r}")
    expires = given.get("expires", "")
    if not isinstance(expires, str) or (expires and not _DAY.fullmatch(expires)):
        raise InputError(f"{user}: expires: must be a day as 2027-01-31, not {expires!r}")
    try:
        date.fromisoformat(expires or "2000-01-01")
    except ValueError:
        raise InputError(f"{user}: expires: {expires} is no day: fix it") from None
    workspaces = grants.checked(given.get("workspaces", grants.ALL), user)
    return Limits(**numbers, workspaces=workspaces, expires=expires)


def _new_key() -> str:
    """Return a key of 256 random bits; its prefix lets scanners for leaked secrets find it."""
    return f"sk-infbox-{secrets.token_hex(32)}"


def _as_json(keys: Mapping[str, str], users: Mapping[str, Limits]) -> str:
    entries = {
        user: {"sha256": digest(keys[user]), **limits._asdict()}
        for user, limits in sorted(users.items())
        if user in keys
    }
    return json.dumps({"users": entries}, indent=1) + "\n"


def _holds(file: Path, content: str) -> bool:
    try:
        return file.read_text(encoding="utf-8") == content and _has_mode(file, _GROUP_READS)
    except (OSError, ValueError):
        return False


def _has_mode(path: Path, mode: int) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == mode


def _write(path: Path, content: str, mode: int) -> None:
    """Replace a file as a whole, of its directory's group, never readable to others on the way."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123  # a descriptor
            stream.write(content)
            os.fchown(stream.fileno(), -1, path.parent.stat().st_gid)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        raise UnreadyError(f"{path}: {error.strerror}: run it as root, on the host") from error
