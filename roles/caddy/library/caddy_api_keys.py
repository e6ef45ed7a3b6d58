#!/usr/bin/python
"""Keep an API key for each user, and the file from which Caddy learns them."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: caddy_api_keys
short_description: Keeps an API key for each user of Caddy
description:
  - Makes a random key for each user that has none, and removes the keys of all others.
  - Writes the keys into one file of C(KEY USER) lines, for a C(map) in a Caddyfile.
  - Keys never leave the host. Neither result nor diff holds one.
author: infbox
options:
  users:
    description: Users that have a key.
    type: list
    elements: str
    required: true
  dir:
    description: Existing folder of the keys, one file a user. A key put there by hand is kept.
    type: path
    required: true
  file:
    description: File that Caddy reads; its folder exists.
    type: path
    required: true
  owner:
    description: Numeric user that owns C(file) and alone may read it.
    type: int
    required: true
  group:
    description: Numeric group of C(file).
    type: int
    required: true
"""

EXAMPLES = """
- name: Ensure alice and bob have a key
  caddy_api_keys:
    users: [alice, bob]
    dir: /etc/infbox/secrets/api-keys
    file: /etc/infbox/secrets/caddy/keys.caddy
    owner: 64431
    group: 64431
"""

RETURN = """
checksum:
  description: SHA-256 over what C(file) holds; in check mode, without keys still to be made.
  returned: always
  type: str
added:
  description: Users that were given a key.
  returned: always
  type: list
removed:
  description: Users whose key was removed.
  returned: always
  type: list
"""

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{32,200}")


class BadKeyError(Exception):
    """A key that cannot be used; the message says which one, and never what it is."""


def new_key() -> str:
    """Return a key of 256 random bits; its prefix lets scanners for leaked secrets find it."""
    return f"sk-infbox-{secrets.token_hex(32)}"


def read_keys(folder: Path, users: list[str]) -> dict[str, str]:
    """Return the key of each of `users` that has one.

    Args:
        folder: the folder of the keys; it need not exist.
        users: whose keys to read.

    Raises:
        BadKeyError: a key is short, holds what a Caddyfile cannot, or is another user's too.
    """
    keys: dict[str, str] = {}
    for user in users:
        path = folder / user
        if not path.is_file():
            continue
        key = path.read_text(encoding="utf-8", errors="replace").strip()
        if not KEY_PATTERN.fullmatch(key):
            raise BadKeyError(
                f"{path} does not hold a key of 32 to 200 letters, digits, hyphens and "
                "underscores. Remove the file to have a new key made."
            )
        if key in keys.values():
            other = next(name for name, known in keys.items() if known == key)
            raise BadKeyError(
                f"{path} holds the same key as {folder / other}. "
                "Remove one of the two to have a new key made."
            )
        keys[user] = key
    return keys


def caddy_lines(keys: dict[str, str]) -> bytes:
    """Return what Caddy reads."""
    return "".join(f"{key} {user}\n" for user, key in sorted(keys.items())).encode()


def others(folder: Path, users: list[str]) -> list[str]:
    """Return the files in `folder` that are no key of `users`, leftovers of a crash among them."""
    return sorted(
        path.name for path in folder.glob("*") if path.is_file() and path.name not in users
    )


def write(path: Path, content: bytes, mode: int, owner: int, group: int) -> None:
    """Replace a file as a whole, never readable to anybody else on the way."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
        os.fchown(stream.fileno(), owner, group)
        os.fchmod(stream.fileno(), mode)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def has_mode(path: Path, mode: int, owner: int, group: int) -> bool:
    """Return whether a file has this mode and these owners."""
    status = path.stat()
    return (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, owner, group)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "list", "elements": "str", "required": True},
            "dir": {"type": "path", "required": True, "no_log": False},
            "file": {"type": "path", "required": True},
            "owner": {"type": "int", "required": True},
            "group": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    users, owner, group = (module.params[name] for name in ("users", "owner", "group"))
    folder, file = Path(module.params["dir"]), Path(module.params["file"])
    try:
        keys = read_keys(folder, users)
    except BadKeyError as error:
        module.fail_json(msg=str(error))

    added = [user for user in users if user not in keys]
    removed = others(folder, users)
    open_keys = [user for user in keys if not has_mode(folder / user, 0o600, 0, 0)]
    before = file.read_bytes() if file.is_file() else b""
    if not module.check_mode:
        for user in added:
            keys[user] = new_key()
        for user in added + open_keys:
            write(folder / user, f"{keys[user]}\n".encode(), 0o600, 0, 0)
        for name in removed:
            (folder / name).unlink()
    after = caddy_lines(keys)
    stale = before != after or not file.is_file() or not has_mode(file, 0o400, owner, group)
    if stale and not module.check_mode:
        write(file, after, 0o400, owner, group)
    module.exit_json(
        changed=bool(added or removed or open_keys or stale),
        added=added,
        removed=removed,
        checksum=hashlib.sha256(after).hexdigest(),
        diff={
            "before": "".join(f"{user}\n" for user in sorted({*users, *removed} - {*added})),
            "after": "".join(f"{user}\n" for user in sorted(users)),
        },
    )


if __name__ == "__main__":
    main()
