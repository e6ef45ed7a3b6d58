"""Workspaces that are git remotes: what goes where, and what is refused, with the fix."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.plugin_files import load

remotes: Any = load("filter", "remotes")
refusals: Any = load("filter", "refusals")

SSH = "ssh://git@forge.example/team/shop.git"
HTTPS = "https://forge.example/team/shop.git"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
KNOWN = ["forge.example ssh-ed25519 AAAA"]
HOOK = "0123456789abcdef"


def workspace(url: str = HTTPS, **git: Any) -> dict[str, Any]:
    return {"name": "shop", "git": {"url": url, **git}}


def refuse(item: dict[str, Any], *known: str, **own: Any) -> list[str]:
    secrets = {"shop": own} if own else {}
    found: list[str] = remotes.remote_refusals([item], secrets, list(known))
    return found


class TestWhatGoesWhere:
    def test_a_remote_gets_a_path_and_the_role_what_is_followed(self) -> None:
        given = [workspace(ref="main"), {"name": "tools", "path": "/srv/tools", "budget": 1}]
        assert remotes.placed_workspaces(given, "/var/lib/infbox/workspaces") == [
            {"name": "shop", "path": "/var/lib/infbox/workspaces/shop"},
            {"name": "tools", "path": "/srv/tools", "budget": 1},
        ]
        assert remotes.git_remotes(given) == [{"name": "shop", "url": HTTPS, "ref": "main"}]

    @pytest.mark.parametrize(
        "given", [None, "x", ["x"], [{"git": {}}], [{"name": "a", "git": "x"}]]
    )
    def test_what_has_another_form_is_left_to_the_refusals(self, given: Any) -> None:
        assert remotes.git_remotes(given) == []

    def test_hooks_are_those_with_a_secret(self) -> None:
        both = [{"name": "shop"}, {"name": "tools"}]
        secrets = {"shop": {"webhook": HOOK}, "tools": {"token": "x"}, "gone": {"webhook": HOOK}}
        assert remotes.hooked_remotes(both, secrets) == ["shop"]
        assert remotes.hooked_remotes(both, {}) == remotes.hooked_remotes(both, None) == []


class TestWhatPasses:
    @pytest.mark.parametrize(
        "url", [HTTPS, "https://forge.example:8443/x", "http://localhost:3000/x"]
    )
    def test_https_without_a_token_and_with_one(self, url: str) -> None:
        assert refuse(workspace(url)) == []
        own: dict[str, Any] = {"token": "t", "user": "me", "webhook": [HOOK, HOOK * 2]}
        assert refuse(workspace(url), **own) == []

    @pytest.mark.parametrize(
        ("url", "known"),
        [
            (SSH, "forge.example ssh-ed25519 AAAA"),
            (SSH, "other,forge.example,192.0.2.1 ssh-ed25519 AAAA"),
            (SSH, "*.example ssh-ed25519 AAAA"),
            (SSH, "@cert-authority *.example ssh-ed25519 AAAA"),
            ("ssh://git@forge.example:22/shop.git", "forge.example ssh-ed25519 AAAA"),
            ("ssh://git@forge.example:2222/shop.git", "[forge.example]:2222 ssh-ed25519 AAAA"),
        ],
    )
    def test_ssh_to_a_host_that_is_known(self, url: str, known: str) -> None:
        assert refuse(workspace(url), "# a comment", known, key=KEY) == []

    def test_a_host_whose_name_is_hashed(self, tmp_path: Path) -> None:
        known = tmp_path / "known_hosts"
        known.write_text("forge.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43 + "\n")
        subprocess.run(["ssh-keygen", "-H", "-f", known], check=True, capture_output=True)
        (line,) = known.read_text().splitlines()
        assert line.startswith("|1|")
        assert refuse(workspace(SSH), line, key=KEY) == []
        assert len(refuse(workspace(SSH.replace("forge", "other")), line, key=KEY)) == 1

    def test_a_key_without_a_passphrase_and_not_one_with(self, tmp_path: Path) -> None:
        for kind in ("ed25519", "rsa"):
            for phrase, bad in (("", False), ("a phrase", True)):
                file = tmp_path / f"{kind}-{bad}"
                command = ["ssh-keygen", "-q", "-t", kind, "-N", phrase, "-f", str(file)]
                subprocess.run(command, check=True)
                found = refuse(workspace(SSH), *KNOWN, key=file.read_text())
                assert bool(found) is bad
                assert not bad or "shop.key has a passphrase, which nobody can enter" in found[0]

    def test_workspaces_that_are_remotes_need_no_path(self) -> None:
        assert refusals.workspace_refusals([workspace()], {}) == []
        (refusal,) = refusals.workspace_refusals([workspace(), workspace()], {})
        assert refusal.startswith("Two workspaces are named shop: its git remote and its git")


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"path": "/srv/shop", **workspace()}, {}, "Workspace shop has a path and a git remote. Keep"),
    ({"name": "shop", "git": SSH}, {}, "The git remote of workspace shop is not {url, ref}."),
    (workspace(branch="x"), {}, "has branch, which is unknown. Use url, ref, every, depth"),
    ({"name": "shop", "git": {"url": HTTPS, "token": "pa55"}}, {}, "has token, which is unknown."),
    (workspace(""), {}, "cannot be used: write ssh://USER@HOST/PATH or https://HOST/PATH."),
    (workspace("http://forge.example/x"), {}, "cannot be used: write ssh://USER@HOST/PATH or https://HOST/PATH."),
    (workspace("ssh://-oProxyCommand=x/y"), {}, "cannot be used: write ssh://USER@HOST/PATH or https://HOST/PATH."),
    (workspace("git@forge.example:shop.git"), {}, "cannot be used: write it as ssh://git@forge.example/shop.git."),
    (workspace("https://me:pa55@forge.example/x"), {}, "(in infbox_git_secrets, through"),
    (workspace("git:pa55@forge.example:x"), {}, "cannot be used: write ssh://USER@HOST/PATH or https://HOST/PATH."),
    (workspace(ref="a b"), {}, "The ref of workspace shop is 'a b': give a branch or a tag."),
    (workspace(ref=1), {}, "The ref of workspace shop is 1: give a branch or a tag."),
    (workspace(ref="a" * 40), {}, "in place of a commit, which never changes."),
    (workspace(every=1), {}, "The every of workspace shop is 1. Give at least 5."),
    (workspace(every="60"), {}, "The every of workspace shop is '60'. Give at least 5."),
    (workspace(depth=0), {}, "The depth of workspace shop is 0. Give at least 1."),
    (workspace(SSH), {}, "shop.key is not a private key. Set it to a read-only deploy key"),
    (workspace(SSH), {"key": "ssh-ed25519 AAAA"}, "secrets.shop.key is not a private key"),
    (workspace(SSH), {"key": KEY, "token": "pa55"}, "shop.token is set, and ssh://git@forge.example"),
    (workspace(), {"key": KEY}, "shop.key is set, and https://forge.example/team/shop.git is not"),
    (workspace(), {"token": "pa55\npath=x"}, "shop.token is empty, or not one line of text."),
    (workspace(), {"token": ""}, "shop.token is empty, or not one line of text."),
    (workspace(), {"user": "me"}, "infbox_git_secrets.shop.user is set, and .token is not."),
    (workspace(), {"webhook": "pa55"}, "webhook is not 16 or more letters, digits"),
    (workspace(), {"webhook": ""}, "webhook is not 16 or more letters, digits"),
    (workspace(), {"pass": "pa55"}, "infbox_git_secrets.shop has pass. There are key, token, user"),
]  # fmt: skip


@pytest.mark.parametrize(("item", "own", "message"), WRONG)
def test_it_refuses(item: dict[str, Any], own: dict[str, Any], message: str) -> None:
    (refusal,) = refuse(item, *KNOWN, **own)
    assert message in refusal
    assert "pa55" not in refusal


@pytest.mark.parametrize(
    ("url", "known", "scan"),
    [
        (SSH, "other ssh-ed25519 AAAA", "`ssh-keyscan forge.example`"),
        (SSH, "forge.example", "`ssh-keyscan forge.example`"),
        (SSH, "@revoked forge.example ssh-ed25519 AAAA", "`ssh-keyscan forge.example`"),
        ("ssh://forge.example:2222/x", KNOWN[0], "`ssh-keyscan -p 2222 forge.example`"),
    ],
)
def test_a_host_that_is_not_known_is_refused_with_what_shows_its_keys(
    url: str, known: str, scan: str
) -> None:
    (refusal,) = refuse(workspace(url), known, key=KEY)
    assert refusal.startswith(
        "No key of forge.example is in infbox_git_known_hosts, which workspace"
    )
    assert scan in refusal


@pytest.mark.parametrize(
    ("secrets", "known", "message"),
    [
        ({"shop": "x"}, [], "infbox_git_secrets is not {WORKSPACE: {key | token, webhook}}."),
        ({"shpo": {"token": "x"}}, [], "infbox_git_secrets names shpo, which is no workspace"),
        ({}, "forge.example ssh-ed25519 AAAA", "infbox_git_known_hosts is not a list of lines."),
    ],
)
def test_secrets_that_nothing_can_be_done_with_are_refused(
    secrets: Any, known: Any, message: str
) -> None:
    (refusal,) = remotes.remote_refusals([workspace()], secrets, known)
    assert message in refusal
