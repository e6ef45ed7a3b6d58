"""A git history as it is replayed: its commits, and the files in them that may enter a prompt.

The work tree is never looked at.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from infbox.errors import GitError, InputError
from infbox.tree import git
from infbox.tree.rules import Rules, as_utf8
from infbox.watching import edit_frequency

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PLAIN_MODES = frozenset({b"100644", b"100755"})
_SKIP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    """A file's content; ``digest`` is git's name for it."""

    digest: str
    text: str
    size: int


@dataclass(frozen=True, slots=True)
class Save:
    """What a commit did to a file: None stands for no file, or one that may not be shown."""

    path: str
    old: Blob | None
    new: Blob | None


class History:
    """The commits of a repository, and the files in them that may enter a prompt.

    Args:
        repository: a folder in it.

    Raises:
        InputError: the folder is in no repository.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._rules = Rules()
        self._blobs: dict[bytes, Blob | None] = {}
        try:
            git.run(repository, "rev-parse", "--git-dir")
        except GitError as error:
            raise InputError(f"{repository}: {error}: give a git repository") from error
        self._reader = subprocess.Popen(
            git.command(repository, "cat-file", "--batch"),
            env=git.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.communicate()

    def steps(self, commits: int) -> list[tuple[str, str]]:
        """Return the last commits along first parents, oldest first, each after its parent.

        The first commit of all comes after the empty tree.

        Raises:
            InputError: there are no commits.
        """
        arguments = ["rev-list", "--first-parent", f"--max-count={commits + 1}", "HEAD"]
        try:
            found = git.run(self._repository, *arguments).decode().split()[::-1]
        except GitError as error:
            raise InputError(f"{self._repository}: {error}: commit something first") from error
        if len(found) <= commits:
            empty = git.run(self._repository, "hash-object", "-t", "tree", "--stdin").decode()
            found.insert(0, empty.strip())
        return list(itertools.pairwise(found))

    def files(self, commit: str) -> Iterator[tuple[str, Blob]]:
        """Yield the files of a commit."""
        for entry in _entries(git.run(self._repository, "ls-tree", "-r", "-z", commit)):
            about, _, path = entry.partition(b"\t")
            mode, _, name = about.split(b" ")
            blob = self._blob(mode, name, path)
            if blob:
                yield os.fsdecode(path), blob

    def saves(self, parent: str, commit: str) -> Iterator[Save]:
        """Yield what a commit changes, file by file."""
        changes = git.run(self._repository, "diff-tree", "-r", "-z", "--no-renames", parent, commit)
        entries = iter(_entries(changes))
        for about, path in zip(entries, entries, strict=True):
            old_mode, new_mode, old, new, _ = about.removeprefix(b":").split(b" ")
            save = Save(
                os.fsdecode(path),
                self._blob(old_mode, old, path),
                self._blob(new_mode, new, path),
            )
            if save.old or save.new:
                yield save

    def last_touched(self, commit: str) -> list[str]:
        """Return paths in the order in which commits up to this one touched them last."""
        log = git.run(
            self._repository, "log", "-z", "--name-only", "--no-renames", "--format=", commit
        )
        seen = dict.fromkeys(os.fsdecode(path).lstrip("\n") for path in _entries(log))
        return list(seen)[::-1]

    def message(self, commit: str) -> str:
        """Return what a commit says of itself."""
        said = git.run(self._repository, "show", "--no-patch", "--format=%B", commit)
        return said.decode(errors="replace")

    def heats(self, commit: str) -> dict[str, float]:
        """Return the heats of files at a commit."""
        return edit_frequency.heats_from_git(self._repository, commit)

    def _blob(self, mode: bytes, name: bytes, path: bytes) -> Blob | None:
        if mode not in _PLAIN_MODES or self._rules.by_name(os.fsdecode(path)):
            return None
        if name not in self._blobs:
            self._blobs[name] = self._read(name, os.fsdecode(path))
        return self._blobs[name]

    def _read(self, name: bytes, path: str) -> Blob | None:
        stdin, stdout = self._reader.stdin, self._reader.stdout
        if stdin is None or stdout is None:  # never so with pipes; the types cannot say it
            return None
        stdin.write(name + b"\n")
        stdin.flush()
        answer = stdout.readline().split()
        if answer[-1] == b"missing":  # as in a partial clone
            return None
        size = int(answer[2])
        if self._rules.by_size(size):
            _skip(stdout, size + 1)
            return None
        data = stdout.read(size + 1)[:-1]
        if self._rules.by_content(data, path):
            return None
        return Blob(name.decode(), as_utf8(data).decode(errors="replace"), size)


def _entries(answer: bytes) -> list[bytes]:
    return answer.split(b"\0")[:-1]


def _skip(stream: IO[bytes], size: int) -> None:
    """Read so many bytes and keep none."""
    while size > 0 and (part := stream.read(min(size, _SKIP_BYTES))):
        size -= len(part)
