"""Which files of a source tree may enter a prompt."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_128_hexdigest

from infbox.config import MAX_FILE_BYTES
from infbox.errors import InputError
from infbox.runtime import clock
from infbox.runtime.clock import EVER, Moment
from infbox.tree import spelling
from infbox.tree.git import Git
from infbox.tree.records import Directory, Stamp
from infbox.tree.rules import IGNORE_FILE, Rules, as_utf8

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from infbox.tree.git import Facts
    from infbox.tree.records import Row

MAX_IGNORE_BYTES = 64 * 1024
"""Of the tree's own ignore file."""

_IGNORE_FILE = ".gitignore"
# A pipe is opened without waiting for somebody at its other end, and a link is not followed. Python
# adds that no process that is started gets it.
if sys.platform == "win32":
    _OPEN_FLAGS = os.O_RDONLY | os.O_BINARY
else:
    _OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
_ASKED_AT_ONCE = 250  # directories about which git is asked in one go
_ATTEMPTS = 3  # to read a file that changes meanwhile


class Content(NamedTuple):
    """A file as it was read once.

    Attributes:
        data: the bytes; empty when the file is refused, or ``digest`` is the one expected.
        digest: xxh3_128 of the bytes, hex.
        stamp: as the file had it; None when the file changed each time it was read.
        refused: the rule that keeps it out, or None.
    """

    data: bytes
    digest: str
    stamp: Stamp | None
    refused: str | None

    @property
    def text(self) -> str:
        """The bytes as text; what is neither UTF-8 nor UTF-16 becomes the replacement character."""
        return as_utf8(self.data).decode(errors="replace")


class Tree:
    """A source tree. Paths are relative to its root, with ``/``; names that are not UTF-8 are
    carried as Python carries file names (surrogates).

    Args:
        root: an absolute directory.
        max_bytes: larger files are left out.
        facts: what git said of the tree before; asked anew when None.
        control_tokens: files that hold one of these texts are left out.

    Nothing of it is looked at before it is needed: its file system may be away.
    """

    def __init__(
        self,
        root: Path,
        max_bytes: int = MAX_FILE_BYTES,
        facts: Facts | None = None,
        control_tokens: tuple[str, ...] = (),
    ) -> None:
        self._given = root
        self.max_bytes = max_bytes
        self._control_tokens = control_tokens
        self._facts = facts
        self._root: Path | None = None
        self._root_and_slash = ""
        self._rules: Rules | None = None
        self._ignores: list[str] = []
        self._git: Git | None = None
        self.is_from_facts = facts is not None
        """Whether git was taken at its earlier word."""

    # Not ``cached_property``: until Python 3.12 one lock is behind each, which a tree that hangs
    # would hold for all the others.

    @property
    def root(self) -> Path:
        """The directory, without links in its path."""
        if self._root is None:
            self._root = self._given.resolve()
        return self._root

    @property
    def rules(self) -> Rules:
        """Our own filters.

        Raises:
            InputError: the ignore file cannot be used.
        """
        if self._rules is None:
            self._ignores = self._own_ignores()
            self._rules = Rules(self._ignores, self.max_bytes, self._control_tokens)
        return self._rules

    @property
    def _start(self) -> str:
        """What each absolute path begins with. A start asks for the place of every directory."""
        if not self._root_and_slash:
            self._root_and_slash = self.root.as_posix().rstrip("/") + "/"
        return self._root_and_slash

    def refresh(self) -> None:
        """Look again at what decides about the whole tree: the repository and the ignore file.

        Raises:
            FileNotFoundError: the root is gone.
            GitError: git cannot read the repository.
            InputError: the ignore file cannot be used.
        """
        self.close()
        self._facts = None
        self._git = Git(self.root)
        self.is_from_facts = False
        self._rules = None
        _ = self.rules

    def close(self) -> None:
        """End the processes that were kept."""
        if self._git:
            self._git.close()
            self._git = None

    @property
    def git(self) -> Git:
        """What git says; asked for the first time when it is first needed.

        Raises:
            GitError: the directory is in a repository that git cannot read.
            InputError: git is not installed.
        """
        if self._git is None:
            self._git = Git(self.root, self._facts)
            self._facts = None
        return self._git

    @property
    def policy(self) -> str:
        """What our verdicts on content follow from; with another, files are to be read anew."""
        return self.rules.version

    @property
    def names_policy(self) -> str:
        """What our verdicts on names follow from."""
        version = self.rules.version
        ignores = xxh3_128_hexdigest("\n".join(self._ignores).encode())
        return f"{version} {ignores}"

    def place(self, path: str) -> str:
        """Return the absolute path of a relative one, with ``/`` on every system; the root is the
        empty string."""
        return self._start + path if path else self.root.as_posix()

    def spelled(self, path: str) -> str:
        """Return the name that a path has in this tree, of what a directory lists or an event
        tells.

        Raises:
            GitError: git could not answer.
        """
        return self.git.spelled(path) if spelling.MAY_FOLD else path

    def scan(self, below: str = "", entering: Callable[[str], None] | None = None) -> set[str]:
        """Return the files that may enter a prompt, judged by everything but their content.

        Args:
            below: when given, only this directory.
            entering: called with each directory before it is read, so that a watch set there misses
                nothing that comes later. The root is the empty string.

        Raises:
            FileNotFoundError: the root is gone.
            GitError: git could not answer.
        """
        since = Moment.now()
        listed = self.git.files([below] if below else [])
        walk = Walk(self, entering or _nothing, since)
        for _ in walk.run(below, listed):
            pass
        return {path for path in walk.files if self.rules.by_name(path) is None}

    def belonging(self, paths: Iterable[str]) -> set[str]:
        """Return which of these paths, known to be regular files, may enter a prompt.

        Raises:
            GitError: git could not answer.
        """
        candidates = [path for path in paths if self.rules.by_name(path) is None]
        return self.git.files(candidates).intersection(candidates) if candidates else set()

    def read(self, path: str) -> Content | None:
        """Read a file, or return None when it is gone, unreadable, not regular or leads outside."""
        try:
            return self.fetch(path)
        except OSError:
            return None

    def readable(self, path: str, digest: str = "") -> Content | None:
        """Read a file that may be shown, or return None.

        Args:
            path: of the file.
            digest: of bytes that were judged already and may be shown; those are not judged again,
                which takes longer than reading them.
        """
        with contextlib.suppress(OSError):
            content = self._read_once(path, None, digest)
            return None if content.refused else content
        return None

    def fetch(self, path: str, known: Row | None = None) -> Content:
        """Read a file; one that changes meanwhile is read again.

        Args:
            path: of the file.
            known: as it was read before, by these same rules: with the same bytes, the verdict is
                the same too.

        Raises:
            FileNotFoundError: it is gone, not regular, or reached through a link.
            OSError: it cannot be read.
        """
        content = self._read_once(path, known)
        for _ in range(_ATTEMPTS - 1):
            if content.stamp:
                break
            content = self._read_once(path, known)
        return content

    def why(self, path: str) -> tuple[bool, str]:
        """Say whether a file is kept, and which rule decides.

        Raises:
            GitError: git could not answer.
        """
        refused = self._refusal(path)
        if refused:
            return False, refused
        git, own = self.git.owner(path)
        if not git.is_repository:
            return True, "no rule leaves it out"
        return True, "tracked by git" if git.is_tracked(own) else "not ignored by git"

    def _read_once(self, path: str, known: Row | None, judged: str = "") -> Content:
        place = self._start + path
        descriptor = os.open(place, _OPEN_FLAGS)
        try:
            before = os.fstat(descriptor)
            # The file really lies where its path says, no directory being a link.
            if not stat.S_ISREG(before.st_mode) or not _lies_at(descriptor, place):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            refused = self.rules.by_size(before.st_size)
            data = b"" if refused else _read_up_to(descriptor, self.max_bytes + 1, before.st_size)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        stamp = Stamp.of(before)
        unchanged = stamp == Stamp.of(after) and (refused or len(data) == before.st_size)
        digest = xxh3_128_hexdigest(data)
        refused = refused or self.rules.by_size(len(data))
        if not refused and known and known.digest == digest:
            return Content(b"", digest, stamp if unchanged else None, known.refused)
        if not refused and digest != judged:
            refused = self.rules.by_content(data, path)
        return Content(b"" if refused else data, digest, stamp if unchanged else None, refused)

    def _refusal(self, path: str) -> str | None:
        try:
            mode = os.lstat(self.place(path)).st_mode
        except OSError:
            return "no such file"
        if stat.S_ISLNK(mode):
            return "symbolic link: its target counts where it lies"
        if not stat.S_ISREG(mode):
            return "not a regular file"
        if path not in self.git.files([path]):
            return self._outside_git(path)
        return self.rules.by_name(path) or self._unfit(path)

    def _unfit(self, path: str) -> str | None:
        """Say why a file's content may not be shown."""
        try:
            return self.fetch(path).refused
        except FileNotFoundError:
            return "reached through a symbolic link"
        except OSError as error:
            return f"unreadable: {error.strerror}"

    def _outside_git(self, path: str) -> str:
        """Say why git does not name a file that is there."""
        directories = path.split("/")[:-1]
        if ".git" in directories:
            return "not part of this repository: git's own"
        for depth in range(1, len(directories) + 1):
            directory = "/".join(directories[:depth])
            if stat.S_ISLNK(os.lstat(self.place(directory)).st_mode):
                return f"not part of this repository: {directory} is a symbolic link"
            if self.git.is_repository and self.git.is_border(directory):
                return f"not part of this repository: {directory} is one of its own"
        rule = self.git.ignored_by(path)
        return f"ignored by git: {rule}" if rule else "not part of this repository"

    def _own_ignores(self) -> list[str]:
        """Read the tree's own ignore file; what is there in its place, as a pipe or a link, is
        none.

        Raises:
            InputError: it is too large.
        """
        try:
            data = _read_regular(self.place(IGNORE_FILE), MAX_IGNORE_BYTES)
        except OSError as error:
            if error.errno in _NO_FILE:
                return []
            raise
        if len(data) > MAX_IGNORE_BYTES:
            raise InputError(f"{IGNORE_FILE}: it may have {MAX_IGNORE_BYTES} bytes: shorten it")
        return data.decode(errors="replace").splitlines()


class Walk:
    """A walk over the directories of a tree, or a part of it, and what was found on it.

    What git listed decides. A directory that changed since git began to list may hold what git has
    not seen: there each file is asked about. Without a listing every file is.

    Args:
        tree: to walk over.
        entering: called with each directory before it is read.
        since: when git began.
    """

    def __init__(self, tree: Tree, entering: Callable[[str], None], since: Moment = EVER) -> None:
        self._tree = tree
        self._entering = entering
        self._since = since
        self._listed: set[str] | None = None
        self._leading: set[str] = set()
        self._met: list[str] = []
        self._left: list[str] = []
        self._unled: list[str] = []
        self._doubtful: list[tuple[str, bool]] = []
        self.files: set[str] = set()
        """Regular files that belong to the tree, as git has it."""
        self.directories: dict[str, Directory] = {}
        """Directories that were listed, with the stamp that they had before. A border's contents
        were left out, and so were those of a ``.git``, which is named for its stamp."""
        self.unreadable: dict[str, str] = {}
        """Directories that could not be read, with the reason."""
        self.ignores: set[str] = set()
        """Ignore files of git's, whether or not they belong to the tree."""

    def ahead(self, tracked: Collection[str], is_listed: Callable[[], bool]) -> Iterator[None]:
        """Walk while git still lists what there is beside tracked files: over the directories on
        the way to those, then over others that are not ignored; in one that is, git lists nothing
        else. What more must be known of is left to ``run``: a directory that changed meanwhile, or
        that may be a border.

        Args:
            tracked: the files; what git lists beside them is given to ``run``.
            is_listed: says whether git is done.

        Yields:
            After each directory, and after each question to git.

        Raises:
            GitError: git could not answer.
        """
        self._listed, self._leading = set(tracked), _directories_of(tracked)
        directories = [""]
        while directories or (self._unled and not is_listed()):
            if directories:
                directories += self._enter_ahead(directories.pop())
            else:
                asked, self._unled = self._unled[:_ASKED_AT_ONCE], self._unled[_ASKED_AT_ONCE:]
                ignored = self._tree.git.ignored(asked)
                directories += [directory for directory in asked if directory not in ignored]
            yield

    def run(self, top: str = "", listed: set[str] | None = None) -> Iterator[None]:
        """Walk; what follows each directory is a good place to do something else.

        Args:
            top: where to begin.
            listed: what git listed of the tree, or None. After ``ahead``, what it listed besides.

        Raises:
            OSError: the root cannot be read.
            GitError: git could not answer.
        """
        if self._listed is None:
            self._listed, pending = listed, [(top, listed is None)]
        else:
            self._listed |= listed or set()
            pending = [(directory, False) for directory in self._left]
        self._leading |= _directories_of(listed or ())
        pending += self._to_enter(self._unled, is_new=False, changed=False)
        while pending or self._doubtful:
            pending = pending or self._not_ignored()
            if pending:
                pending += self._enter(*pending.pop())
            yield
        self.files |= (self._listed or set()).intersection(self._met)

    def _enter_ahead(self, directory: str) -> list[str]:
        """List a directory if no more must be known of it; return those in it on the way."""
        self._entering(directory)
        try:
            listing = _listing(self._tree, directory)
        except OSError:  # it is read once more, and then told
            self._left.append(directory)
            return []
        is_doubtful = (directory and listing.mark) or directory in (self._listed or ())
        if listing.changed_ns >= self._since.min_stamp or is_doubtful:
            self._left.append(directory)
            return []
        self._take(directory, listing)
        self._unled += [each for each in listing.directories if each not in self._leading]
        return [each for each in listing.directories if each in self._leading]

    def _enter(self, directory: str, is_new: bool) -> list[tuple[str, bool]]:
        """List a directory; return those in it to enter, each with whether git has not seen it.

        ``is_new`` says that of this directory.
        """
        self._entering(directory)
        try:
            listing = _listing(self._tree, directory)
        except OSError as error:
            self._not_listed(directory, error)
            return []
        changed = is_new or listing.changed_ns >= self._since.min_stamp
        is_border = bool(directory) and self._is_border(directory, listing.mark, changed)
        if is_border:
            self.directories[directory] = listing.row._replace(is_border=True)
            return []
        self._take(directory, listing)
        if changed:
            self._ask_about(listing.files)
        return self._to_enter(listing.directories, is_new, changed)

    def _not_listed(self, directory: str, error: OSError) -> None:
        if not directory:
            raise error
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            self.unreadable[directory] = error.strerror or str(error)

    def _take(self, directory: str, listing: _Listing) -> None:
        self.directories[directory] = listing.row
        self._met += listing.files
        if listing.has_ignores:
            self.ignores.add(_below(directory, _IGNORE_FILE))

    def _ask_about(self, files: list[str]) -> None:
        """Take those of a directory's files that git has not listed, and that belong."""
        listed = self._listed or set()
        self.files |= belonging(self._tree.git, [path for path in files if path not in listed])

    def _to_enter(
        self, directories: list[str], is_new: bool, changed: bool
    ) -> list[tuple[str, bool]]:
        chosen: list[tuple[str, bool]] = []
        for directory in directories:
            new = is_new or (changed and self._changed(directory))
            if directory in self._leading and not new:
                chosen.append((directory, False))
            else:
                self._doubtful.append((directory, new))
        return chosen

    def _changed(self, directory: str) -> bool:
        try:
            return os.lstat(self._tree.place(directory)).st_ctime_ns >= self._since.min_stamp
        except OSError:
            return False

    def _not_ignored(self) -> list[tuple[str, bool]]:
        """Return the doubtful directories in which git may have something, or come to have."""
        doubtful, self._doubtful = self._doubtful, []
        ignored = self._tree.git.ignored(directory for directory, _ in doubtful)
        return [
            (directory, new)
            for directory, new in doubtful
            # What git listed below one that it has seen would have led here.
            if directory not in ignored or (new and has_tracked(self._tree.git, directory))
        ]

    def _is_border(self, directory: str, mark: os.DirEntry[str] | None, changed: bool) -> bool:
        git = self._tree.git
        listed = self._listed or ()
        if f"{directory}/" in listed or (directory in listed and _is_link(git, directory)):
            return True
        if mark is None:
            return changed and _is_link(git, directory)
        if directory not in git.inner and mark.is_dir(follow_symlinks=False):
            self._note_mark(f"{directory}/.git")
        return changed and git.is_border(directory)

    def _note_mark(self, path: str) -> None:
        """Watch a ``.git`` below: when it is whole, its directory is a repository of its own."""
        self._entering(path)
        try:
            status = os.lstat(self._tree.place(path))
        except OSError:
            return
        self.directories[path] = directory_row(status)._replace(is_border=True)


def belonging(git: Git, files: list[str]) -> set[str]:
    """Return which of these files belong, none of them being behind a border.

    Raises:
        GitError: git could not answer.
    """
    if not files:
        return set()
    tracked = {path for path in files if is_tracked(git, path)}
    rest = [path for path in files if path not in tracked]
    return tracked.union(rest) - git.ignored(rest)


def is_tracked(git: Git, path: str) -> bool:
    """Say whether the repository that decides about a path has it in its index, as last read."""
    owner, own = git.owner(path)
    return own in owner.tracked


def has_tracked(git: Git, directory: str) -> bool:
    """Say whether the repository that decides about a directory has files in it in its index."""
    owner, own = git.owner(directory)
    return owner.tracked.has_below(own)


def _is_link(git: Git, directory: str) -> bool:
    """Say whether the repository that decides about a directory takes it for a submodule."""
    owner, own = git.owner(directory)
    return own in owner.tracked.links


def directory_row(status: os.stat_result, known: Directory | None = None) -> Directory:
    """Return a directory's row; one that changed just now may do so again and keep its stamp.

    Args:
        status: of the directory.
        known: its row before. A time in the future is not trusted once, and is from then on: it
            would never come to be trusted otherwise.
    """
    newest = max(status.st_ctime_ns, status.st_mtime_ns)
    was_doubted = known is not None and known.mtime_ns < 0
    if clock.may_keep_stamp(newest) and not (was_doubted and clock.is_future(newest)):
        return Directory(-1, -1)
    return Directory(status.st_mtime_ns, status.st_ctime_ns)


class _Listing(NamedTuple):
    """A directory as it was read.

    Attributes:
        row: its stamp from before.
        changed_ns: when it changed last, of the wall clock.
        files: regular ones.
        directories: in it, but ``.git``.
        mark: its ``.git``, or None.
        has_ignores: whether it has an ignore file of git's.
    """

    row: Directory
    changed_ns: int
    files: list[str]
    directories: list[str]
    mark: os.DirEntry[str] | None
    has_ignores: bool


def _listing(tree: Tree, directory: str) -> _Listing:
    """Read a directory.

    Raises:
        OSError: it cannot be read, or is none.
    """
    place, prefix = tree.place(directory), _below(directory, "")
    status = os.lstat(place)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), place)
    files: list[str] = []
    directories: list[str] = []
    mark, has_ignores = None, False
    with os.scandir(place) as entries:
        for entry in entries:
            name = entry.name
            if name == ".git":
                mark = entry
            elif entry.is_file(follow_symlinks=False):
                files.append(tree.spelled(prefix + name))
                has_ignores |= name == _IGNORE_FILE
            elif entry.is_dir(follow_symlinks=False):
                directories.append(tree.spelled(prefix + name))
    row, changed_ns = directory_row(status), max(status.st_ctime_ns, status.st_mtime_ns)
    return _Listing(row, changed_ns, files, directories, mark, has_ignores)


def _below(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _directories_of(paths: Iterable[str]) -> set[str]:
    """Return all directories on the way to these paths."""
    found: set[str] = set()
    above = {path.rpartition("/")[0] for path in paths}
    while above:
        found |= above
        above = {directory.rpartition("/")[0] for directory in above} - found
    return found - {""}


def _read_regular(place: str, most: int) -> bytes:
    """Read a regular file, and of what is larger a byte more than ``most``.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    descriptor = os.open(place, _OPEN_FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
        return _read_up_to(descriptor, most + 1, status.st_size)
    finally:
        os.close(descriptor)


def _read_up_to(descriptor: int, most: int, expected: int) -> bytes:
    data = os.read(descriptor, most)
    while len(data) < expected and (part := os.read(descriptor, most - len(data))):
        data += part
    return data


def _lies_at(descriptor: int, place: str) -> bool:
    """Say whether an open file lies where this path says, without a link on the way."""
    if sys.platform == "linux":
        return os.readlink(f"/proc/self/fd/{descriptor}") == place  # noqa: PTH115  # on each save's way
    return _leads_to(descriptor, place)


def _leads_to(descriptor: int, place: str) -> bool:
    """Say the same on any system: the path leads through no link, and what lies there is the file
    that is open, however the two were swapped meanwhile."""
    real = os.path.realpath(place)
    if spelling.folded(Path(real).as_posix()) != spelling.folded(place):
        return False
    again = os.open(real, _OPEN_FLAGS)
    try:
        return os.path.sameopenfile(descriptor, again)
    finally:
        os.close(again)


def _nothing(_directory: str) -> None:
    pass
