"""What git says about the files below a folder.

In a repository git is the authority on which files belong to it. Outside one git still is the
authority on what ``.gitignore`` means: it is asked with an empty repository of ours and the folder
as its work tree. Nothing in the folder is ever written, and nothing that a repository configures
is run.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from infbox.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SYSTEM_CONFIG = Path(__file__).with_name("gitconfig")

# Variables that point git at a repository of somebody else's choosing (as inside a git hook), or
# that would hide the configuration above.
_DROPPED = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_CONFIG",
        "GIT_CONFIG_COUNT",
        "GIT_CONFIG_NOSYSTEM",
        "GIT_CONFIG_PARAMETERS",
        "GIT_DIR",
        "GIT_INDEX_FILE",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_WORK_TREE",
    }
)
_LIST = ("--literal-pathspecs", "ls-files", "-z")
_FILES = (*_LIST, "--cached", "--others", "--exclude-standard")
_IGNORED = (*_LIST, "--others", "--ignored", "--exclude-standard", "--directory")


class GitError(Exception):
    """git could not answer; the message is its own first line."""


def run(folder: Path, *arguments: str, given: bytes = b"", also: Sequence[int] = ()) -> bytes:
    """Run git and return what it prints.

    Args:
        folder: where git is run.
        arguments: the command and its arguments.
        given: its standard input.
        also: exit statuses other than 0 that are an answer too.

    Raises:
        GitError: git ended with another status.
        InputError: git is not installed.
    """
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment(), input=given, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        if error.filename != "git":
            raise
        raise InputError("git is not installed: install the package git") from error
    if done.returncode != 0 and done.returncode not in also:
        complaint = done.stderr.decode(errors="replace").strip().splitlines()
        raise GitError(complaint[0] if complaint else f"git {arguments[0]}: {done.returncode}")
    return done.stdout


class Git:
    """Answers for the files below one folder; paths are relative to it, with ``/``.

    A repository inside a repository is left out, as git does. Where the folder is in no repository,
    those below it are asked about their own files.

    Args:
        root: the folder. It may be a repository, a part of one, or neither.

    Raises:
        GitError: the folder is in a repository that git cannot read.
        InputError: git is not installed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._options: tuple[str, ...] = ()
        self._inner: dict[str, Git] = {}
        self.is_repository = _in_repository(root)
        if not self.is_repository:
            self._empty = tempfile.TemporaryDirectory(prefix="infbox-git-")
            run(root, "init", "--quiet", "--bare", "--template=", self._empty.name)
            self._options = (f"--git-dir={self._empty.name}", "--work-tree=.")
            self._list([])

    def files(self, among: Iterable[str] = ()) -> set[str]:
        """Return the files that git tracks or would offer to add.

        Tracked files that are deleted or replaced by something else are named too.

        Args:
            among: when given, only these paths and what is below them.

        Raises:
            GitError: git could not answer.
        """
        asked = list(among)
        found = self._list(asked)
        for folder, git in self._inner.items():
            if not asked or _is_below(folder, asked):
                found |= {f"{folder}/{path}" for path in git.files()}
            elif below := [path for path in asked if _is_below(path, [folder])]:
                rest = [os.path.relpath(path, folder) for path in below]
                found |= {f"{folder}/{path}" for path in git.files(rest)}
        return found

    def ignored_folders(self, below: str = "") -> set[str]:
        """Return the topmost folders in which git ignores everything, now and later.

        Args:
            below: when given, only folders below this one.

        Raises:
            GitError: git could not answer.
        """
        scope = ["--", below] if below else []
        found = _split(self._run(*_IGNORED, *scope))
        candidates = [entry.rstrip("/") for entry in found if entry.endswith("/")]
        # git also names folders that merely hold nothing but ignored files today.
        ignored = {entry[2:] for entry in _split(self._check_ignore(candidates))}
        for folder, git in self._inner.items():
            ignored |= {f"{folder}/{path}" for path in git.ignored_folders()}
        return ignored

    def ignored_by(self, path: str) -> str | None:
        """Return the file, line and pattern that make git ignore a path, or None.

        Raises:
            GitError: git could not answer.
        """
        for folder, git in self._inner.items():
            if path != folder and _is_below(path, [folder]):
                return git.ignored_by(os.path.relpath(path, folder))
        answer = self._check_ignore([path], "--verbose")
        if not answer:
            return None
        source, number, pattern, _ = _split(answer)
        return None if pattern.startswith("!") else f"{source}:{number}: {pattern}"

    def is_tracked(self, path: str) -> bool:
        """Say whether the path is in the index of the repository that the folder is in.

        Raises:
            GitError: git could not answer.
        """
        return bool(self._run(*_LIST, "--cached", "--", path))

    def _list(self, asked: Sequence[str]) -> set[str]:
        """List files, and take note of the repositories that are found among them."""
        found = _split(self._run(*_FILES, "--", *asked))
        inner = {entry.rstrip("/") for entry in found if entry.endswith("/")}
        if not self.is_repository:
            self._inner |= {folder: Git(self._root / folder) for folder in inner - {*self._inner}}
        return {entry for entry in found if not entry.endswith("/")}

    def _check_ignore(self, paths: Iterable[str], *options: str) -> bytes:
        # Taken literally but for a colon in front, which "./" hides.
        given = os.fsencode("".join(f"./{path}\0" for path in paths))
        return self._run("check-ignore", "-z", "--stdin", *options, given=given, also=(1,))

    def _run(self, *arguments: str, given: bytes = b"", also: Sequence[int] = ()) -> bytes:
        return run(self._root, *self._options, *arguments, given=given, also=also)


def _in_repository(root: Path) -> bool:
    """Say whether root is in a repository that does not ignore it."""
    try:
        inside = run(root, "rev-parse", "--is-inside-work-tree").strip() == b"true"
    except GitError as error:
        if "not a git repository" in str(error):
            return False
        raise
    return inside and not run(root, "check-ignore", "--", ".", also=(1,))


def environment() -> dict[str, str]:
    """Return the environment in which git reads a repository and leaves it as it is."""
    kept = {key: value for key, value in os.environ.items() if key not in _DROPPED}
    return {
        **kept,
        "GIT_CONFIG_SYSTEM": str(_SYSTEM_CONFIG),
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


def _split(answer: bytes) -> list[str]:
    return [os.fsdecode(entry) for entry in answer.split(b"\0")[:-1]]


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)
