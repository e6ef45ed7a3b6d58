"""Workspaces that are git remotes: what of them goes where, and what stops a run at its start."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Ansible loads filters by path, outside of any package.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins.inputs import rules

KEYS = ("url", "ref", "every", "depth")
SECRETS = ("key", "token", "user", "webhook")
MIN_WEBHOOK = 16


def git_remotes(workspaces: Any) -> list[dict[str, Any]]:
    """Return what is followed, as the watcher's role takes it: each with its workspace's name.

    Args:
        workspaces: what the user wrote; what has another form is left to the refusals.
    """
    return [{"name": item["name"], **item["git"]} for item in with_git(workspaces)]


def placed_workspaces(
    workspaces: Sequence[Mapping[str, Any]], directory: str
) -> list[dict[str, Any]]:
    """Return all workspaces with the path at which each lies on a host.

    Args:
        workspaces: what the user wrote.
        directory: in which remotes are checked out, by name.
    """
    placed = []
    for item in workspaces:
        rest = {key: value for key, value in item.items() if key != "git"}
        placed.append({**rest, "path": f"{directory}/{item['name']}"} if "git" in item else rest)
    return placed


def hooked_remotes(remotes: Sequence[Mapping[str, Any]], secrets: Any) -> list[str]:
    """Return the names of the remotes that a forge may call for.

    Args:
        remotes: as `git_remotes` has them.
        secrets: of remotes, by name.
    """
    known = secrets if isinstance(secrets, dict) else {}
    names = [str(remote["name"]) for remote in remotes]
    return [
        name for name in names if isinstance(known.get(name), dict) and known[name].get("webhook")
    ]


def remote_refusals(workspaces: Any, secrets: Any, known_hosts: Any) -> list[str]:
    """Refuse remotes that cannot be followed. No secret is in what is said.

    Args:
        workspaces: what the user wrote.
        secrets: of remotes, by name: key, token, user, webhook.
        known_hosts: lines of a file `known_hosts`.
    """
    if not isinstance(secrets, dict) or not all(isinstance(own, dict) for own in secrets.values()):
        return [
            "infbox_git_secrets is not {WORKSPACE: {key | token, webhook}}. Write it in this form."
        ]
    if not isinstance(known_hosts, list) or not all(isinstance(row, str) for row in known_hosts):
        return ["infbox_git_known_hosts is not a list of lines. Write it in this form."]
    items = workspaces if isinstance(workspaces, list) else []
    refusals = [
        f"The git remote of workspace {item.get('name')} is not {{url, ref}}. Write it in this"
        " form."
        for item in items
        if isinstance(item, dict) and "git" in item and not isinstance(item["git"], dict)
    ]
    named = with_git(items)
    for item in named:
        name = str(item["name"])
        found = git_refusals(name, item)
        if not found:
            found = secret_refusals(name, item["git"], secrets.get(name, {}), known_hosts)
        refusals += found
    for name in sorted(set(map(str, secrets)) - {str(item["name"]) for item in named}):
        refusals.append(
            f"infbox_git_secrets names {name}, which is no workspace with a git remote. Fix the"
            " name, or remove it."
        )
    return refusals


def with_git(workspaces: Any) -> list[dict[str, Any]]:
    """Return the workspaces that are git remotes, as far as they have the form of one."""
    items = workspaces if isinstance(workspaces, list) else []
    return [
        item
        for item in items
        if isinstance(item, dict) and item.get("name") and isinstance(item.get("git"), dict)
    ]


def git_refusals(name: str, workspace: Mapping[str, Any]) -> list[str]:
    """Refuse what is said about a remote.

    Args:
        name: of the workspace.
        workspace: with `git`.
    """
    git = workspace["git"]
    if "path" in workspace:
        return [f"Workspace {name} has a path and a git remote. Keep one of the two."]
    unknown = sorted(set(map(str, git)) - set(KEYS))
    if unknown:
        return [
            (
                f"The git remote of workspace {name} has {', '.join(unknown)}, which is unknown."
                f" Use {', '.join(KEYS)}; secrets go into infbox_git_secrets."
            )
        ]
    refusals = []
    url = str(git.get("url") or "")
    if hint := rules.git_url_hint(url):
        where = " (in infbox_git_secrets, through Ansible Vault)" if rules.has_secret(url) else ""
        refusals.append(
            f"The url of the git remote of workspace {name} cannot be used: {hint}{where}."
        )
    ref = git.get("ref", "")
    if ref != "" and (hint := rules.git_ref_hint(ref)):
        refusals.append(f"The ref of workspace {name} is {ref!r}: {hint}.")
    for key, minimum in (("every", rules.MIN_EVERY), ("depth", 1)):
        value = git.get(key, minimum)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            refusals.append(f"The {key} of workspace {name} is {value!r}. Give at least {minimum}.")
    return refusals


def secret_refusals(
    name: str, git: Mapping[str, Any], own: Mapping[str, Any], known_hosts: Sequence[str]
) -> list[str]:
    """Refuse secrets that a remote cannot be asked with.

    Args:
        name: of the workspace.
        git: of it, which will do.
        own: its secrets.
        known_hosts: lines of a file `known_hosts`.
    """
    where = f"infbox_git_secrets.{name}"
    unknown = sorted(set(map(str, own)) - set(SECRETS))
    if unknown:
        return [f"{where} has {', '.join(unknown)}. There are {', '.join(SECRETS)}."]
    refusals = []
    if git["url"].startswith("ssh:"):
        refusals += ssh_refusals(name, git["url"], own, known_hosts)
    elif own.get("key"):
        refusals.append(
            f"{where}.key is set, and {git['url']} is not an SSH address. Set a token, or an"
            " address that begins with ssh://."
        )
    for key in ("token", "user"):
        value = own.get(key)
        if value is not None and (not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value)):
            refusals.append(f"{where}.{key} is empty, or not one line of text. Set it again.")
    if own.get("user") and not own.get("token"):
        refusals.append(f"{where}.user is set, and .token is not. Set that too, or remove it.")
    hooks = own.get("webhook")
    for hook in [] if hooks is None else hooks if isinstance(hooks, list) else [hooks]:
        if not isinstance(hook, str) or not re.fullmatch(rf"[!-~]{{{MIN_WEBHOOK},}}", hook):
            refusals.append(
                f"{where}.webhook is not {MIN_WEBHOOK} or more letters, digits and signs without"
                " a space. Generate one with `openssl rand -hex 32`."
            )
    return refusals


def ssh_refusals(
    name: str, url: str, own: Mapping[str, Any], known_hosts: Sequence[str]
) -> list[str]:
    """Refuse a remote that SSH would not get to; arguments as for `secret_refusals`."""
    refusals = []
    key, where = own.get("key"), f"infbox_git_secrets.{name}"
    if not isinstance(key, str) or "PRIVATE KEY-----" not in key:
        refusals.append(
            f"Workspace {name} uses SSH, and {where}.key is not a private key. Set it to a"
            " read-only deploy key, through Ansible Vault."
        )
    elif has_passphrase(key):
        refusals.append(
            f"{where}.key has a passphrase, which nobody can enter. Use a separate key without"
            " one: `ssh-keygen -t ed25519 -N '' -f FILE`."
        )
    if own.get("token"):
        refusals.append(
            f"{where}.token is set, and {url} is an SSH address. Set a key, or an address that"
            " begins with https://."
        )
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port
    if not is_known(host, port, known_hosts):
        scan = f"ssh-keyscan{f' -p {port}' if port else ''} {host}"
        refusals.append(
            f"No key of {host} is in infbox_git_known_hosts, which workspace {name} needs. Compare"
            f" what `{scan} 2>/dev/null | ssh-keygen -lf -` prints with what the host's owner"
            f" publishes, then list the lines of `{scan}`."
        )
    return refusals


def has_passphrase(key: str) -> bool:
    """Say whether a private key is encrypted, as far as its form tells."""
    if "ENCRYPTED" in key:
        return True
    body = re.search(r"BEGIN OPENSSH PRIVATE KEY-----(.*?)-----END", key, re.DOTALL)
    try:
        content = base64.b64decode(body[1]) if body else b""
    except binascii.Error:
        return False
    return content.startswith(b"openssh-key-v1\0") and content[15:23] != b"\0\0\0\4none"


def is_known(host: str, port: int | None, known_hosts: Sequence[str]) -> bool:
    """Say whether a line of known_hosts is about a host.

    Args:
        host: its name.
        port: that it is asked at; None for SSH's own.
        known_hosts: the lines.
    """
    name = f"[{host}]:{port}" if port and port != 22 else host  # noqa: PLR2004  # SSH's own
    for text in known_hosts:
        words = text.split()
        if words and words[0] == "@cert-authority":
            words = words[1:]
        if len(words) < 3 or words[0].startswith(("#", "@")):  # noqa: PLR2004  # hosts, kind, key
            continue
        if words[0].startswith("|1|"):
            if is_hash_of(name, words[0]):
                return True
            continue
        patterns = [pattern.replace("[", "[[]") for pattern in words[0].split(",")]
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return True
    return False


def is_hash_of(name: str, hashed: str) -> bool:
    """Say whether the first field of a line of known_hosts is the hash of a name."""
    try:
        _, _, salt, digest = hashed.split("|")
        made = hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1).digest()
        return hmac.compare_digest(made, base64.b64decode(digest))
    except ValueError:
        return False


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "git_remotes": git_remotes,
            "placed_workspaces": placed_workspaces,
            "hooked_remotes": hooked_remotes,
            "remote_refusals": remote_refusals,
        }
