"""The keys and what is made of them: files of root's, to be handed out, and what serves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import stat
from typing import TYPE_CHECKING, NamedTuple

from infbox.auth import labels, record
from infbox.auth.keys import NO_KEY, Limits, known_users
from infbox.auth.labels import DEFAULT, Key, Labelled, digest
from infbox.errors import InputError, UnreadyError

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Iterator, Mapping
    from pathlib import Path

    from infbox.auth.keys import Known
    from infbox.auth.record import Record

KEY = re.compile(r"[A-Za-z0-9_-]{32,200}")
"""What a key may be that was put there by hand."""

_OWNER_ONLY = 0o600
_GROUP_READS = 0o640


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


class _State(NamedTuple):
    """All that a keyring writes.

    Attributes:
        users: what each may use.
        keys: the default key of each that has one.
        unfiled: the digests of those that serve and whose file went elsewhere.
        recorded: what is recorded of the others, and of keys that ended.
        fresh: new keys of those with a label, by user and label.
    """

    users: dict[str, Limits]
    keys: dict[str, str]
    unfiled: dict[str, str]
    recorded: Record
    fresh: dict[tuple[str, str], str]

    @property
    def labelled(self) -> Labelled:
        """The keys with labels."""
        return self.recorded.labelled

    @property
    def valid(self) -> set[str]:
        """The digests of all keys that let anybody in."""
        keys = [key for own_keys in self.labelled.values() for key in own_keys.values()]
        labelled = {key.sha256 for key in keys if not key.disabled}
        return labelled | {*map(digest, self.keys.values()), *self.unfiled.values()}

    def serves(self) -> str:
        """Return what the file that serves is to hold. A user whose default key is disabled has no
        digest where releases that know no labels look for one, so that they refuse it too."""
        known = self.unfiled | {user: digest(key) for user, key in self.keys.items()}
        entries = {
            user: {
                "sha256": known.get(user, f"{NO_KEY}{user}"),
                **limits._asdict(),
                **(
                    {"keys": labels.as_content(own_keys)}
                    if (own_keys := self.labelled.get(user))
                    else {}
                ),
            }
            for user, limits in sorted(self.users.items())
            if user in known or self.labelled.get(user)
        }
        return json.dumps({"users": entries}, indent=1) + "\n"


class Keyring:
    """The keys and what is made of them. For root.

    Args:
        directory: of the keys, a file a user.
        digests: the file that serves; made with mode 0640, of its directory's group.
    """

    def __init__(self, directory: Path, digests: Path) -> None:
        self._directory = directory
        self._labelled = directory / labels.DIRECTORY
        self._digests = digests

    def users(self) -> dict[str, Limits]:
        """Return who has a key, with what each may use.

        Raises:
            InputError: the file that serves is damaged.
        """
        return {user: known.limits for user, known in known_users(self._digests).items()}

    def apply(self, wanted: Mapping[str, Limits], *, is_dry: bool = False) -> Change:
        """Give these users a key, and end the keys of all others.

        A default key that is disabled stays so, whatever is in its file: a release that knows no
        labels makes one anew. A key that ended and was written back into its file by hand is valid
        again, as far as no other replica says that it ended.

        Args:
            wanted: users, with what each may use.
            is_dry: change nothing.

        Raises:
            InputError: a key cannot be used; its file is named, and never what is in it.
            UnreadyError: a file cannot be written.
        """
        with self._alone():
            saved = record.read(self._labelled)
            labelled = {user: saved.labelled[user] for user in wanted if user in saved.labelled}
            having = [user for user in wanted if DEFAULT not in labelled.get(user, {})]
            keys = self._keys(having)
            added = [user for user in having if user not in keys]
            removed = [name for name in self._files() if name not in having]
            keys |= {user: _new_key() for user in added}
            state = _State(dict(wanted), keys, {}, saved._replace(labelled=labelled), {})
            is_other = self._settle(state, removed, is_dry=is_dry)
        return Change(added, removed, is_other)

    def copy(self, wanted: Mapping[str, Limits], known: Mapping[str, Known]) -> Change:
        """Have the keys of another host, whose record and files of keys were copied here.

        Args:
            wanted: users, with what each may use.
            known: users and their keys, as the other host knows them; nobody else has one.

        Raises:
            InputError: a key cannot be used; its file is named, and never what is in it.
            UnreadyError: a file cannot be written.
        """
        users = {user: limits for user, limits in wanted.items() if user in known}
        with self._alone():
            recorded = record.read(self._labelled)
            labelled = {user: recorded.labelled.get(user, {}) for user in users}
            default = {user: known[user].digest for user in users if DEFAULT not in labelled[user]}
            filed = self._keys(default)
            keys = {user: key for user, key in filed.items() if digest(key) == default[user]}
            unfiled = {
                user: each
                for user, each in default.items()
                if user not in keys and each not in recorded.ended and not each.startswith(NO_KEY)
            }
            removed = [name for name in self._files() if name not in keys]
            state = _State(users, keys, unfiled, recorded._replace(labelled=labelled), {})
            is_other = self._settle(state, removed, is_copy=True, is_dry=False)
        return Change([], removed, is_other)

    def merge(self, records: Iterable[Record], *, is_dry: bool = False) -> bool:
        """End the keys that ended on other replicas. Return whether this changes anything.

        Args:
            records: of the other replicas.
            is_dry: change nothing.

        Raises:
            InputError: a key cannot be used; its file is named, and never what is in it.
            UnreadyError: a file cannot be written.
        """
        ended = {key for each in records for key in each.ended}
        with self._alone():
            try:
                before = self._state()
            except InputError:  # `apply` writes a damaged file anew, by what is left here
                return self._record(ended, is_dry=is_dry)
            state = self._state(ended)
            gone = [user for user in before.keys if user not in state.keys]
            return self._settle(state, gone, is_dry=is_dry)

    def add(self, user: str, label: str, expires: str = "", *, is_dry: bool = False) -> Path:
        """Give a user one more key, or one in place of a disabled one. Return its file.

        Args:
            user: who has a key.
            label: of the new key.
            expires: its last day; empty for none.
            is_dry: change nothing.

        Raises:
            InputError: there is no such user, such a key is there, or the user has too many.
            UnreadyError: a file cannot be written.
        """
        with self._alone():
            state = self._state_with(user)
            own_keys = {DEFAULT: Key(""), **state.labelled[user]}
            if label in own_keys and not own_keys[label].disabled:
                raise InputError(
                    f"{user}/{label}: already exists: rotate it, or choose another label"
                )
            if len(own_keys.keys() | {label}) > labels.MOST:
                raise InputError(
                    f"{user}: has {labels.MOST} keys, and no user may have more: remove one of "
                    f"{', '.join(sorted(state.labelled[user]))}"
                )
            return self._renew(state, user, label, expires, is_dry=is_dry)

    def rotate(
        self, user: str, label: str = DEFAULT, expires: str = "", *, is_dry: bool = False
    ) -> Path:
        """Give a user another key; the one before ends. Return the file that holds it.

        Args:
            user: whose it is.
            label: of the key.
            expires: its last day from now on; empty to leave it.
            is_dry: change nothing.

        Raises:
            InputError: there is no such user or key, or it is disabled or past its last day.
            UnreadyError: a file cannot be written.
        """
        with self._alone():
            state = self._state_with(user)
            # What has no default key at all gets one, as from site.yml.
            is_new = label == DEFAULT and DEFAULT not in state.labelled[user]
            key = Key("") if is_new else _found(state, user, label)
            if key.disabled:
                raise InputError(f"{user}/{label}: is disabled: add it again to get a new key")
            return self._renew(state, user, label, expires or key.expires, is_dry=is_dry)

    def rotate_all(self, user: str, *, is_dry: bool = False) -> list[Path]:
        """Rotate all keys of a user that can be used. Return their files.

        Raises:
            InputError: there is no such user.
            UnreadyError: a file cannot be written.
        """
        own_keys = {DEFAULT: Key(""), **self._state_with(user).labelled[user]}
        usable = [
            label
            for label, key in own_keys.items()
            if not key.disabled and not labels.is_past(key.expires)
        ]
        return [self.rotate(user, label, is_dry=is_dry) for label in usable]

    def disable(self, user: str, label: str, *, is_dry: bool = False) -> None:
        """End a key. Its label stays, until it is removed or added again.

        Raises:
            InputError: there is no such user or key.
            UnreadyError: a file cannot be written.
        """
        with self._alone():
            state = self._state_with(user)
            key = _found(state, user, label)
            state.labelled[user][label] = key._replace(disabled=True)
            is_default = label == DEFAULT
            if is_default:
                state.keys.pop(user, None)
                state.unfiled.pop(user, None)
            self._settle(state, [user] if is_default else [], is_dry=is_dry)

    def remove(self, user: str, label: str, *, is_dry: bool = False) -> None:
        """End a key with a label, and forget it.

        Raises:
            InputError: there is no such user or key, or it is the default one.
            UnreadyError: a file cannot be written.
        """
        if label == DEFAULT:
            raise InputError(
                f"{user}/{label}: cannot be removed: disable it, or take {user} off infbox_users"
            )
        with self._alone():
            state = self._state_with(user)
            _found(state, user, label)
            del state.labelled[user][label]
            self._settle(state, is_dry=is_dry)

    def revoke(self, user: str, *, is_dry: bool = False) -> None:
        """End all keys of a user.

        Raises:
            InputError: there is no such user.
            UnreadyError: a file cannot be written.
        """
        with self._alone():
            state = self._state_with(user)
            state.users.pop(user)
            state.keys.pop(user, None)
            state.unfiled.pop(user, None)
            state.labelled.pop(user, None)
            self._settle(state, [user], is_dry=is_dry)

    def _renew(self, state: _State, user: str, label: str, expires: str, *, is_dry: bool) -> Path:
        """Make a key, and have it serve."""
        labels.checked_day(expires, f"{user}/{label}")
        if label == DEFAULT:
            if expires:
                raise InputError(
                    f"{user}/{label}: has no last day of its own: "
                    f"set `expires` of {user} in infbox_users"
                )
            state.labelled[user].pop(DEFAULT, None)
            state.keys[user] = _new_key()
            file = self._directory / user
        else:
            new = _new_key()
            key = Key(digest(new), labels.today().isoformat(), expires)
            if labels.is_past(key.expires):
                raise InputError(
                    f"{user}/{label}: expires: {expires} is in the past: give today or a later day"
                )
            state.labelled[user][label], state.fresh[user, label] = key, new
            file = labels.file_of(self._labelled, user, label)
        self._settle(state, is_dry=is_dry)
        return file

    def _settle(
        self, state: _State, gone: Iterable[str] = (), *, is_copy: bool = False, is_dry: bool
    ) -> bool:
        """Write what differs; return whether anything does.

        A new key is written before it serves, and what ends no longer serves before it is removed.

        Args:
            state: what there is to be.
            gone: files of default keys to remove.
            is_copy: the record is that of another host, and stays as it is.
            is_dry: change nothing.
        """
        self._refuse_known(state)
        if not is_copy:
            state = self._revised(state)
        texts = self._texts(state)
        leaving = [self._directory / name for name in gone if (self._directory / name).exists()]
        strays = labels.strays(self._labelled, state.labelled)
        if not is_dry:
            for path, (text, mode) in texts.items():
                _write(path, text, mode)
            for path in leaving + labels.strays(self._labelled, state.labelled):
                path.unlink()
        return bool(texts or leaving or strays)

    def _revised(self, state: _State) -> _State:
        """Return a state whose record says which keys end by it, and that it is a later one."""
        try:
            known = known_users(self._digests)
        except InputError:  # which `apply` may replace
            known = {}
        keys = [key for each in known.values() for key in each.keys.values()]
        valid = {key.sha256 for key in keys if not key.disabled}
        ended = {key.sha256 for key in keys} - state.valid
        recorded = state.recorded.with_ended(ended).without(state.valid)
        is_first = not valid and recorded.is_empty
        if valid != state.valid and not is_first:
            recorded = recorded._replace(revision=recorded.revision + 1)
        return state._replace(recorded=recorded)

    def _refuse_known(self, state: _State) -> None:
        """Raise where a default key is one that is recorded with a label, be it disabled."""
        known = {
            key.sha256: f"{user}/{label}"
            for user, own_keys in state.labelled.items()
            for label, key in own_keys.items()
        }
        for user, key in state.keys.items():
            if same := known.get(digest(key)):
                raise InputError(
                    f"{self._directory / user}: holds the key of {same}: "
                    "remove the file to generate a new key"
                )

    def _texts(self, state: _State) -> dict[Path, tuple[str, int]]:
        """Return what files are to hold that hold something else, in the order to write them."""
        texts = {
            self._directory / user: (f"{key}\n", _OWNER_ONLY)
            for user, key in state.keys.items()
            if not self._has_key(user, key)
        }
        for (user, label), key in state.fresh.items():
            texts[labels.file_of(self._labelled, user, label)] = (f"{key}\n", _OWNER_ONLY)
        texts |= self._record_text(state.recorded)
        if not _holds(self._digests, state.serves(), _GROUP_READS):
            texts[self._digests] = (state.serves(), _GROUP_READS)
        return texts

    def _record_text(self, recorded: Record) -> dict[Path, tuple[str, int]]:
        """Return what the record is to hold, if it holds something else."""
        file, text = record.file_in(self._labelled), record.as_json(recorded)
        is_needed = file.exists() or not recorded.is_empty
        is_there = _holds(file, text, _OWNER_ONLY)
        return {file: (text, _OWNER_ONLY)} if is_needed and not is_there else {}

    def _record(self, ended: Collection[str], *, is_dry: bool) -> bool:
        """Record that keys ended, and remove their files; return whether this changes anything."""
        texts = self._record_text(record.read(self._labelled).with_ended(ended))
        filed = self._keys(self._files())
        gone = [self._directory / user for user, key in filed.items() if digest(key) in ended]
        if not is_dry:
            for path, (text, mode) in texts.items():
                _write(path, text, mode)
            for path in gone:
                path.unlink()
        return bool(texts or gone)

    def _has_key(self, user: str, key: str) -> bool:
        path = self._directory / user
        return self._keys([user]).get(user) == key and _has_mode(path, _OWNER_ONLY)

    def _state_with(self, user: str) -> _State:
        """Return what there is, this user among it; raise where it is none."""
        state = self._state()
        if user not in state.users:
            there = ", ".join(state.users) or "none"
            raise InputError(f"{user}: no such user: there are {there}")
        return state

    def _state(self, ended: Iterable[str] = ()) -> _State:
        """Return what there is, without these keys."""
        ended = set(ended)
        known = known_users(self._digests)
        users = {name: each.limits for name, each in known.items()}
        recorded = record.read(self._labelled).with_ended(ended)
        labelled: Labelled = {name: {} for name in users} | recorded.labelled
        having = [name for name in users if DEFAULT not in labelled[name]]
        keys = self._keys(having, ended)
        unfiled = {
            name: digest
            for name in having
            if name not in keys and (digest := known[name].digest) not in ended
            if not digest.startswith(NO_KEY)
        }
        return _State(users, keys, unfiled, recorded._replace(labelled=labelled), {})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other command change keys meanwhile."""
        if not self._directory.is_dir():
            yield
            return
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _unready(self._directory, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _files(self) -> list[str]:
        if not self._directory.is_dir():
            return []
        return sorted(path.name for path in self._directory.iterdir() if path.is_file())

    def _keys(self, users: Iterable[str], ended: Container[str] = ()) -> dict[str, str]:
        """Return the default key of each of these users that has one, without those that ended."""
        keys: dict[str, str] = {}
        for user in users:
            path = self._directory / user
            if not path.is_file():
                continue
            key = path.read_text(encoding="utf-8", errors="replace").strip()
            if not KEY.fullmatch(key):
                raise InputError(
                    f"{path}: does not hold a key of 32 to 200 letters, digits, hyphens and "
                    "underscores: remove the file to generate a new key"
                )
            if key in keys.values():
                other = next(name for name, known in keys.items() if known == key)
                raise InputError(
                    f"{path}: holds the same key as {self._directory / other}: "
                    "remove one of the two to generate a new key"
                )
            if digest(key) not in ended:
                keys[user] = key
        return keys


def _new_key() -> str:
    """Return a key of 256 random bits; its prefix lets scanners for leaked secrets find it."""
    return f"sk-infbox-{secrets.token_hex(32)}"


def _found(state: _State, user: str, label: str) -> Key:
    """Return a key of a user; raise where there is none with this label."""
    own_keys = state.labelled[user]
    if label == DEFAULT and user in state.keys:
        return Key(digest(state.keys[user]))
    if label == DEFAULT and user in state.unfiled:
        return Key(state.unfiled[user])
    if label not in own_keys:
        there = ", ".join([DEFAULT, *sorted(own_keys)])
        raise InputError(f"{user}/{label}: no such key: {user} has {there}")
    return own_keys[label]


def _holds(file: Path, content: str, mode: int) -> bool:
    try:
        return file.read_text(encoding="utf-8") == content and _has_mode(file, mode)
    except (OSError, ValueError):
        return False


def _has_mode(path: Path, mode: int) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == mode


def _write(path: Path, content: str, mode: int) -> None:
    """Replace a file as a whole, of its directory's group, never readable to others on the way."""
    beside = path.with_name(f".{path.name}.new")
    try:
        if path.parent.name == labels.DIRECTORY:
            path.parent.mkdir(mode=0o700, exist_ok=True)
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
        raise _unready(path, error) from error


def _unready(path: Path, error: OSError) -> UnreadyError:
    return UnreadyError(f"{path}: {error.strerror}: run it as root, on the host")
