"""A repository's own configuration is input: nothing that it names runs, and nothing hangs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from shlex import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.cli import watch
from infbox.config import MAX_FILE_BYTES
from infbox.errors import GitError
from infbox.tree import git
from infbox.tree.files import Tree
from infbox.watching import edit_frequency
from trees import fill
from trees import git as as_developer

COMMANDS = (
    "alias.cat-file",
    "alias.check-ignore",
    "alias.log",
    "alias.ls-files",
    "core.alternateRefsCommand",
    "core.askPass",
    "core.editor",
    "core.fsmonitor",
    "core.gitProxy",
    "core.pager",
    "core.sshCommand",
    "credential.helper",
    "diff.canary.command",
    "diff.canary.textconv",
    "diff.external",
    "filter.canary.clean",
    "filter.canary.process",
    "filter.canary.smudge",
    "gpg.openpgp.program",
    "gpg.program",
    "gpg.ssh.program",
    "gpg.x509.program",
    "interactive.diffFilter",
    "merge.canary.driver",
    "pager.config",
    "pager.diff-tree",
    "pager.log",
    "pager.ls-files",
    "receive.procReceiveRefs",
    "remote.origin.receivepack",
    "remote.origin.uploadpack",
    "sequence.editor",
    "submodule.inner.update",
    "trailer.canary.command",
    "uploadpack.packObjectsHook",
)
HOOKS = (
    "fsmonitor-watchman",
    "post-checkout",
    "post-index-change",
    "pre-auto-gc",
    "reference-transaction",
)
SIGNATURE = """\
gpgsig -----BEGIN PGP SIGNATURE-----

 canary
 -----END PGP SIGNATURE-----
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Return the file that is there once the program that all settings name was run."""
    program = tmp_path / "canary"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >>{quote(str(tmp_path / "sang"))}\n')
    program.chmod(0o755)
    return tmp_path / "sang"


@pytest.fixture
def hostile(tmp_path: Path, canary: Path) -> Path:
    """Return a repository in which all that can name a program names the canary."""
    root = fill(tmp_path / "hostile", {"a.py": "a = 1\n", "b.py": "b = 1\n", ".gitattributes": ""})
    (root / ".gitattributes").write_text("*.py filter=canary diff=canary merge=canary\n")
    as_developer(root, "init", "--quiet")
    as_developer(root, "add", ".")
    as_developer(root, "commit", "--quiet", "--message", "first")
    sign_the_last_commit(root)
    (root / "a.py").write_text("a = 2\n")
    as_developer(root, "commit", "--quiet", "--all", "--message", "second")
    lose(root, "HEAD:b.py")
    sign_the_last_commit(root)
    program = str(canary.with_name("canary"))
    for name in COMMANDS:
        value = f"!{program}" if name.startswith(("alias.", "submodule.")) else program
        as_developer(root, "config", name, value)
    as_developer(root, "config", "log.showSignature", "true")
    as_developer(root, "config", "gpg.format", "openpgp")
    as_developer(root, "config", "core.repositoryFormatVersion", "1")
    as_developer(root, "config", "extensions.partialClone", "origin")
    as_developer(root, "config", "remote.origin.promisor", "true")
    as_developer(root, "config", "remote.origin.url", f"ext::{program} %S")
    as_developer(root, "config", "protocol.ext.allow", "always")
    for name in HOOKS:
        (root / ".git/hooks" / name).symlink_to(program)
    return root


def sign_the_last_commit(root: Path) -> None:
    """Put a signature into HEAD, which git would have a program verify."""
    head, _, message = as_developer(root, "cat-file", "commit", "HEAD").partition(b"\n\n")
    signed = head + b"\n" + SIGNATURE.rstrip("\n").encode() + b"\n\n" + message
    name = subprocess.run(
        ["git", "hash-object", "-t", "commit", "-w", "--stdin"],
        cwd=root, input=signed, check=True, capture_output=True,
    ).stdout.decode().strip()  # fmt: skip
    as_developer(root, "update-ref", "HEAD", name)


def lose(root: Path, name: str) -> None:
    """Remove a blob, as in a partial clone that has not fetched it."""
    blob = as_developer(root, "rev-parse", name).decode().strip()
    (root / ".git/objects" / blob[:2] / blob[2:]).unlink()


def test_the_canary_sings_where_git_is_run_as_a_person_does(hostile: Path, canary: Path) -> None:
    for command in (["log"], ["ls-files"], ["cat-file", "blob", "HEAD:b.py"]):
        canary.unlink(missing_ok=True)
        subprocess.run(["git", *command], cwd=hostile, check=False, capture_output=True)
        assert canary.exists(), command


def test_nothing_that_a_repository_names_is_run(
    hostile: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = ("--budget", "2000")
    for arguments in (
        ("scan", str(hostile)),
        ("scan", str(hostile), "--why", "a.py"),
        ("pack", str(hostile), *budget),
        ("replay", str(hostile), "--commits", "1", *budget, "--json"),
        ("mirror", str(hostile), str(hostile.parent / "copy")),
    ):
        watch(list(arguments))
        assert not canary.exists(), (arguments, canary.read_text())
    assert "a.py" in capsys.readouterr().out


def test_each_question_to_git_leaves_the_canary_silent(hostile: Path, canary: Path) -> None:
    tree = Tree(hostile)
    try:
        assert set(tree.scan()) >= {"a.py", "b.py"}
        assert tree.git.ignored(["a.py"]) == set()
        assert not tree.git.is_border("a.py")
        tree.git.facts()
    finally:
        tree.close()
    assert git.committed(hostile, "a.py", MAX_FILE_BYTES) == b"a = 2\n"
    assert git.committed(hostile, "b.py", MAX_FILE_BYTES) is None, "missing, and not fetched"
    assert edit_frequency.heats_from_git(hostile).keys() >= {"a.py"}
    assert not canary.exists(), canary.read_text()


def test_a_blob_over_the_limit_is_not_read(tmp_path: Path) -> None:
    root = fill(tmp_path / "tree", {"large": "x" * 1000})
    as_developer(root, "init", "--quiet")
    as_developer(root, "add", ".")
    as_developer(root, "commit", "--quiet", "--message", "large")
    assert git.committed(root, "large", 999) is None
    assert git.committed(root, "large", 1000) == b"x" * 1000


def test_git_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    root = fill(tmp_path / "tree", {"a.py": ""})
    as_developer(root, "init", "--quiet")
    os.mkfifo(root / ".git/rules")
    as_developer(root, "config", "core.excludesFile", str(root / ".git/rules"))
    with pytest.raises(GitError, match=r"gave no answer about .+ within 0\.2 s and was ended"):
        git.run(root, "ls-files", "--others", "--exclude-standard", limit_seconds=0.2)


def test_a_question_to_the_process_that_is_kept_has_a_limit_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "tree", {"a.py": ""})
    as_developer(root, "init", "--quiet")
    asked = git.Git(root)
    os.mkfifo(root / ".gitignore")
    monkeypatch.setattr(git, "_CHECK_SECONDS", 0.2)
    try:
        with pytest.raises(GitError, match="gave no answer"):
            asked.ignored(["a.py"])
    finally:
        asked.close()


PATHS = st.sets(
    st.text(st.sampled_from("ab/-.é\n\udc80"), min_size=1, max_size=5).filter(
        lambda path: "//" not in path and path.strip("/") == path
    )
)


@given(PATHS, st.data())
def test_what_is_tracked_is_found_as_in_a_set(paths: set[str], data: st.DataObject) -> None:
    names = [os.fsencode(path) for path in sorted(paths)]
    listing = b"".join(b"100644 %040d 0\t%b\0" % (0, name) for name in names)
    tracked = git.Tracked(listing)
    assert tracked.all() == paths
    asked = data.draw(st.sampled_from([*paths, "a", "b/a", "é", "-"]))
    assert (asked in tracked) is (asked in paths)
    assert tracked.has_below(asked) is any(path.startswith(f"{asked}/") for path in paths)
