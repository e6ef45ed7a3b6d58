"""A work tree that is kept where a ref of a git remote is.

Files that are the same are not touched, so that whoever watches the tree sees what changed and
nothing else. What was begun can end at any moment, by a signal or a full disk, and is made good by
the next poll.
"""

from __future__ import annotations

import logging
import re
import shutil
from typing import TYPE_CHECKING, NamedTuple

from infbox.log import line
from infbox.tree.safegit import FollowError, LocalError, SafeGit, StoppedError

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from infbox.config import Remote

_FETCHED = "refs/infbox/fetched"  # there is no other ref, so nothing to prune
_ASK_SECONDS = 60.0
_FETCH_TRIES = 3

# What a git that was killed leaves behind. Ours is the only one here, and it has ended.
_LEFTOVERS = (
    "*.lock",
    "refs/**/*.lock",
    "gc.pid",
    "objects/tmp_*",
    "objects/incoming-*",
    "objects/??/tmp_obj_*",
    "objects/pack/tmp_*",
    "objects/pack/*.keep",
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded|write error|write failed")

_logger = logging.getLogger(__name__)


class _Target(NamedTuple):
    """What a remote has.

    Attributes:
        ref: the full name, or HEAD.
        commit: that it names.
    """

    ref: str
    commit: str


class Checkout:
    """The work tree of one remote.

    Until the first one is whole it grows beside its place, so that nobody sees a part of a tree.

    Args:
        remote: what is followed.
        directory: in which the tree lies, by the remote's name. Nobody else works in it.
        secrets: as ``SafeGit`` has them.
        keep_free: bytes of the disk that are left to others.
        stop: set when the service is to end.
    """

    def __init__(
        self,
        remote: Remote,
        directory: Path,
        secrets: Path,
        *,
        keep_free: int = 0,
        stop: threading.Event | None = None,
    ) -> None:
        self.place = directory / remote.name
        self._remote = remote
        self._beginnings = directory / f".{remote.name}.new"
        self._keep_free = keep_free
        self._safe_git = SafeGit(remote, secrets, stop)
        self._is_settled = False
        self._failed_fetches = 0

    @property
    def step(self) -> str:
        """What git is at; empty where it does not tell."""
        return self._safe_git.step

    @property
    def commit(self) -> str | None:
        """The commit whose tree lies at the place; None while there is none."""
        try:
            head = (self.place / ".git/HEAD").read_text().strip()
        except (OSError, ValueError):
            return None
        return head if re.fullmatch(r"[0-9a-f]{40,64}", head) else None

    def poll(self) -> bool:
        """Bring the tree to where the remote's ref is now.

        Returns:
            Whether it was anywhere else.

        Raises:
            FollowError: it cannot be done now; what lies there stays.
            StoppedError: the service is to end.
        """
        before = self.commit
        try:
            self._settle()
            target = self._ask()
            if target.commit != self._fetched():
                self._fetch(target)
                self._is_settled = False
            if not self._is_settled:
                self._bring()
        except OSError as error:
            self._give_up()
            raise FollowError(f"{error.filename}: {error.strerror}") from error
        except (FollowError, StoppedError):
            self._give_up()
            raise
        if self.commit == before:
            return False
        self._tidy()
        return True

    # How it is

    @property
    def _tree(self) -> Path:
        return self.place if self.place.exists() else self._beginnings

    @property
    def _git_directory(self) -> Path:
        return self._tree / ".git"

    def _is_repository(self) -> bool:
        return self._git_directory.is_dir() and self._can("rev-parse", "--git-dir")

    def _is_whole(self) -> bool:
        return bool(self._fetched()) and self._can("fsck", "--no-dangling", "--progress")

    def _fetched(self) -> str:
        """Return the commit that was fetched last; empty where there is none, or none any more."""
        try:
            return self._git("rev-parse", "--quiet", "--verify", f"{_FETCHED}^{{commit}}").strip()
        except LocalError:
            return ""

    # What is done

    def _settle(self) -> None:
        """Make good what an end in the middle of something left."""
        if self._is_settled:
            return
        self._remove_leftovers()
        if not self._is_repository():
            self._begin()
        elif self._fetched():
            self._bring()

    def _give_up(self) -> None:
        """Look at all of it again next time, and hold no space until then."""
        self._is_settled = False
        self._remove_leftovers()

    def _begin(self) -> None:
        """Make a repository around whatever lies there; files that will do are left as they are."""
        shutil.rmtree(self._git_directory, ignore_errors=True)
        self._tree.mkdir(exist_ok=True)
        self._git("init", "--quiet", "--template=", "--initial-branch=infbox")

    def _remove_leftovers(self) -> None:
        for pattern in _LEFTOVERS:
            for path in self._git_directory.glob(pattern):
                _logger.info(line("left-over", workspace=self._remote.name, file=path.name))
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _ask(self) -> _Target:
        """Ask the remote where its ref is; this is all that happens while nobody pushes."""
        self._safe_git.check_key()
        ref = self._remote.ref
        wanted = ["HEAD"] if not ref else [ref]
        if ref and not ref.startswith("refs/"):
            wanted = [f"refs/heads/{ref}", f"refs/tags/{ref}"]
        patterns = [*wanted, *(f"{name}^{{}}" for name in wanted)]
        answer = self._git("ls-remote", "--", self._remote.url, *patterns, stall=_ASK_SECONDS)
        rows = (row.partition("\t") for row in answer.splitlines())
        found = {name: commit for commit, _, name in rows}
        for name in wanted:
            if name in found:
                return _Target(name, found.get(f"{name}^{{}}", found[name]))
        if not ref:
            raise FollowError("the remote has no commit yet: push one")
        raise FollowError(f"the remote has no branch or tag {ref}: push it, or fix `ref`")

    def _fetch(self, target: _Target) -> None:
        self._check_space()
        options = ("--progress", "--no-tags", "--no-write-fetch-head", "--force")
        depth, ref = f"--depth={self._remote.depth}", f"{target.ref}:{_FETCHED}"
        try:
            self._safe_git.run(
                self._tree, "fetch", *options, depth, "--", self._remote.url, ref,
                check=self._check_space,
            )  # fmt: skip
        except FollowError as error:
            self._failed_fetches += 1
            # The remote has just answered. Time and again it is our side that is damaged.
            if self._failed_fetches >= _FETCH_TRIES and not self._is_whole():
                self._begin_anew(error)
            raise
        self._failed_fetches = 0
        if not self._fetched():
            raise FollowError(f"{target.ref} names no commit: give a branch, or a tag of a commit")

    def _bring(self) -> None:
        """Bring the tree to what was fetched. A file that a kill left over goes as well."""
        try:
            if not (self._git_directory / "index").exists():
                # Without this every file would be written, those too that are right already.
                self._git("read-tree", _FETCHED)
                self._git("update-index", "-q", "--really-refresh", also=(1,))
            self._git("checkout", "--progress", "--force", "--detach", _FETCHED)
            self._git("clean", "-ffdxq")
        except LocalError as error:
            (self._git_directory / "index").unlink(missing_ok=True)
            if not _FULL.search(str(error)) and not self._is_whole():
                self._begin_anew(error)
            raise
        if self._tree != self.place:
            self._beginnings.rename(self.place)
        self._is_settled = True

    def _begin_anew(self, error: FollowError) -> None:
        """Throw away what git has, all of which can be had again; the files themselves stay."""
        _logger.warning(line("begun-anew", workspace=self._remote.name, reason=error))
        self._begin()

    def _tidy(self) -> None:
        try:
            self._git("gc", "--auto", "--quiet")
        except FollowError as error:  # it is no worse than before
            _logger.warning(line("not-tidied", workspace=self._remote.name, reason=error))
            self._remove_leftovers()

    def _has_no_space(self) -> bool:
        return shutil.disk_usage(self._tree).free < self._keep_free

    def _check_space(self) -> None:
        """Refuse to take the space that others on the disk need."""
        if self._has_no_space():
            raise FollowError(
                f"less than {self._keep_free // 1_000_000} MB are free at {self.place.parent}: "
                "free some, or lower `keep_free_mb`"
            )

    def _can(self, *arguments: str) -> bool:
        try:
            self._git(*arguments)
        except LocalError:
            return False
        return True

    def _git(self, *arguments: str, stall: float | None = None, also: tuple[int, ...] = ()) -> str:
        if stall is None:
            return self._safe_git.run(self._tree, *arguments, also=also)
        return self._safe_git.run(self._tree, *arguments, also=also, stall=stall)
