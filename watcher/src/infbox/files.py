"""The files of a source tree that may enter a prompt."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xxhash import xxh3_128_hexdigest

from infbox.git import Git
from infbox.rules import IGNORE_FILE, MAX_FILE_BYTES, Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

IGNORE_FILES = frozenset({".gitignore", IGNORE_FILE})


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells, without reading, that a file is as it was: bytes and nanoseconds."""

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Take the stamp from what the system says of a file."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Content:
    """A file as it was read once.

    ``refused`` names the rule that keeps it out, or is None; ``stamp`` is None when the file
    changed while it was read.
    """

    data: bytes
    digest: str
    stamp: Stamp | None
    refused: str | None

    @property
    def text(self) -> str:
        """The bytes as text; what is not UTF-8 becomes the replacement character."""
        return self.data.decode(errors="replace")


class Tree:
    """A source tree. Paths are relative to its root, with ``/``; names that are not UTF-8 are
    carried as Python carries file names (surrogates).

    Args:
        root: an absolute folder.
        max_bytes: larger files are left out.

    Raises:
        GitError: the folder is in a repository that git cannot read.
        InputError: git is not installed.
    """

    def __init__(self, root: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        self.root = root.resolve()
        self._max_bytes = max_bytes
        self.refresh()

    def refresh(self) -> None:
        """Look again at what decides about the whole tree: the repository and the ignore file.

        Raises:
            FileNotFoundError: the root is gone.
            GitError: git cannot read the repository.
        """
        self._git = Git(self.root)
        self._rules = Rules(self._own_ignores(), self._max_bytes)

    def scan(self, below: str = "", entering: Callable[[str], None] | None = None) -> set[str]:
        """Return the files that may enter a prompt, judged by everything but their content.

        Args:
            below: when given, only this folder.
            entering: called with each folder before it is read, so that a watch set there misses
                nothing that comes later. The root is the empty string.

        Raises:
            FileNotFoundError: the root is gone.
            GitError: git could not answer.
        """
        ignored = self._git.ignored_folders(below)
        found = set(self._walk(below, ignored, entering or _nothing))
        listed = self._git.files([below] if below else [])
        return {path for path in found & listed if self._rules.by_name(path) is None}

    def belonging(self, paths: Iterable[str]) -> set[str]:
        """Return which of these paths, known to be regular files, may enter a prompt.

        Raises:
            GitError: git could not answer.
        """
        candidates = [path for path in paths if self._rules.by_name(path) is None]
        return self._git.files(candidates).intersection(candidates) if candidates else set()

    def is_ignored(self, path: str) -> bool:
        """Say whether git ignores a path; of a folder, with all that will ever be in it.

        Raises:
            GitError: git could not answer.
        """
        return self._git.ignored_by(path) is not None

    def read(self, path: str) -> Content | None:
        """Read a file, or return None when it is gone, unreadable, not regular or leads outside."""
        try:
            descriptor = os.open(self.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode) or not self._is_inside(descriptor, path):
                return None
            refused = self._rules.by_size(before.st_size)
            data = b"" if refused else file.read(self._max_bytes + 1)
            unchanged = Stamp.of(os.fstat(descriptor)) == Stamp.of(before)
        refused = refused or self._rules.by_size(len(data)) or self._rules.by_content(data)
        return Content(
            data=b"" if refused else data,
            digest=xxh3_128_hexdigest(data),
            stamp=Stamp.of(before) if unchanged else None,
            refused=refused,
        )

    def readable(self, path: str) -> Content | None:
        """Read a file that may be shown, or return None."""
        content = self.read(path)
        return content if content and not content.refused else None

    def why(self, path: str) -> tuple[bool, str]:
        """Say whether a file is kept, and which rule decides.

        Raises:
            GitError: git could not answer.
        """
        refused = self._refusal(path)
        if refused:
            return False, refused
        if not self._git.is_repository:
            return True, "no rule leaves it out"
        return True, "tracked by git" if self._git.is_tracked(path) else "not ignored by git"

    def _refusal(self, path: str) -> str | None:
        try:
            status = (self.root / path).lstat()
        except OSError:
            return "no such file"
        if stat.S_ISLNK(status.st_mode):
            return "symbolic link: its target counts where it lies"
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if path not in self._git.files([path]):
            rule = self._git.ignored_by(path)
            return f"ignored by git: {rule}" if rule else "not part of this repository"
        content = self.read(path)
        if content is None:
            return "unreadable, or reached through a symbolic link"
        return self._rules.by_name(path) or content.refused

    def _own_ignores(self) -> list[str]:
        content = (self.root / IGNORE_FILE).read_bytes() if self._has_own_ignores() else b""
        return content.decode(errors="replace").splitlines()

    def _has_own_ignores(self) -> bool:
        own = self.root / IGNORE_FILE
        return own.is_file() and not own.is_symlink()

    def _is_inside(self, descriptor: int, path: str) -> bool:
        """Say whether the open file really lies where its path says, no folder being a link."""
        return Path(f"/proc/self/fd/{descriptor}").readlink() == self.root / path

    def _walk(
        self, below: str, ignored: set[str], entering: Callable[[str], None]
    ) -> Iterable[str]:
        pending = [below]
        while pending:
            folder = pending.pop()
            entering(folder)
            try:
                with os.scandir(self.root / folder) as entries:
                    children = list(entries)
            except OSError:
                if not folder:
                    raise
                continue  # gone again, or not for us to read
            if folder and self._git.is_repository and any(c.name == ".git" for c in children):
                continue  # a repository inside a repository is git's own border
            prefix = f"{folder}/" if folder else ""
            for child in children:
                path = prefix + child.name
                if child.is_file(follow_symlinks=False):
                    yield path
                elif path not in ignored and _is_own_folder(child):
                    pending.append(path)


def _is_own_folder(entry: os.DirEntry[str]) -> bool:
    return entry.name != ".git" and entry.is_dir(follow_symlinks=False)


def _nothing(_folder: str) -> None:
    pass
