"""What git says about the files below a directory.

In a repository git is the authority on which files belong to it. Outside one git still is the
authority on what ``.gitignore`` means: it is asked with an empty repository of ours and the
directory as its work tree. Nothing in the directory is ever written.

A repository's configuration is input. ``command`` and ``environment`` are the only way in which git
is run here: together they take away every setting that names a program or a transport and that the
commands used here would read. So no pager, file system monitor, signature check, external diff or
text conversion runs, and a missing object of a partial clone is missing instead of fetched.
"""

from __future__ import annotations

import bisect
import errno
import itertools
import os
import re
import sys
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from infbox.errors import GitError, InputError
from infbox.tree import processes, spelling

if TYPE_CHECKING:
    import tempfile
    from collections.abc import Iterable, Mapping, Sequence

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
        "GIT_EXTERNAL_DIFF",
        "GIT_INDEX_FILE",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_WORK_TREE",
    }
)
# Before every file of configuration, the repository's among them. What names a driver by a name of
# its own (filter.X.clean, diff.X.textconv) cannot be overridden: no command here asks for one.
_SETTINGS = {
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.pager": "cat",
    "credential.helper": "",
    "gpg.program": "false",
    "gpg.openpgp.program": "false",
    "gpg.ssh.program": "false",
    "gpg.x509.program": "false",
    "log.showSignature": "false",
}
_OPTIONS = ("--no-pager", *(word for item in _SETTINGS.items() for word in ("-c", "=".join(item))))
# Commands that would compare contents by programs of a repository's choosing.
_PLAIN_DIFF = ("--no-ext-diff", "--no-textconv", "--no-show-signature")
_PLAIN = {"log": _PLAIN_DIFF, "diff-tree": _PLAIN_DIFF[:2]}
# What moves the files in which git looks for a person's own rules.
_TELLING = ("HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL")
_LIST = ("--literal-pathspecs", "ls-files", "-z")
_OTHERS = (*_LIST, "--others", "--exclude-standard")
_FILES = (*_OTHERS, "--cached")
_CHECK = ("check-ignore", "-z", "--stdin", "--verbose", "--non-matching", "--no-index")
_GIT_FILES = ("index", "info/exclude", "config", "config.worktree")
_LINK_MODE = rb"160000 [^\t]*\t([^\0]*)\0"
_ANSWER_FIELDS = 4
_LIMIT_SECONDS = 300.0
"""For one answer. Listing a million files on a slow disk takes less; an ignore file that is a pipe,
or a file system that went away, takes for ever."""

_CHECK_SECONDS = 60.0
"""For what a kept process answers about a few hundred paths at most."""

_NOT_THERE = "fatal: cannot change to "

_MOST_AT_ONCE = 16 * 1024  # bytes: less than a pipe holds, so that neither side waits for the other


class Facts(NamedTuple):
    """What was found out about a directory, to be kept over a restart.

    Attributes:
        is_repository: whether the directory is in one.
        index_file: the file whose change may make ignored files tracked, or the other way; empty
            outside a repository.
        sources: all other files, absolute, that decide which files belong, whether or not they
            are there; those in the tree that any directory may have, as ``.gitignore``, are not
            named.
        surroundings: values of the environment that the sources follow from.
        inner: the same of repositories in a directory that is in none, by relative path.
    """

    is_repository: bool
    index_file: str
    sources: tuple[str, ...]
    surroundings: tuple[str, ...]
    inner: dict[str, Facts]

    @classmethod
    def of(cls, stored: Sequence[Any]) -> Facts:
        """Return what was stored as JSON; a name tuple is a list there."""
        found, index, sources, surroundings, inner = stored
        below = {path: cls.of(facts) for path, facts in inner.items()}
        return cls(found, index, tuple(sources), tuple(surroundings), below)

    @property
    def is_current(self) -> bool:
        """Whether the environment still is the one that these follow from."""
        return self.surroundings == _surroundings()

    def all_sources(self) -> set[str]:
        """Return the sources, those of inner repositories too."""
        return set(self.sources).union(*(facts.all_sources() for facts in self.inner.values()))

    def indexes(self) -> set[str]:
        """Return the index files, those of inner repositories too."""
        own = {self.index_file} if self.index_file else set()
        return own.union(*(facts.indexes() for facts in self.inner.values()))


class Tracked:
    """The paths in a repository's index.

    Args:
        listing: what ``ls-files --stage -z`` prints.
    """

    def __init__(self, listing: bytes = b"") -> None:
        paths = re.findall(rb"\t([^\0]*\0)", listing)
        paths.sort()  # as git has them already
        # One piece of memory and where each path in it starts: a set of paths takes ten times as
        # much.
        self._paths = b"".join(paths)
        self._starts = array("Q", itertools.accumulate(map(len, paths), initial=0))
        links = re.findall(_LINK_MODE, listing)
        self.links = frozenset(_split(b"".join(path + b"\0" for path in links)))

    def __contains__(self, path: str) -> bool:
        return self._first_from(name := os.fsencode(path) + b"\0") == name

    def has_below(self, directory: str) -> bool:
        """Say whether any path lies below a directory."""
        return self._first_from(name := os.fsencode(directory) + b"/").startswith(name)

    def all(self) -> set[str]:
        """Return all paths."""
        return set(_split(self._paths))

    def _first_from(self, name: bytes) -> bytes:
        """Return the first path that is not before a name, with what ends it; else nothing."""
        places = range(len(self._starts) - 1)
        place = bisect.bisect_left(places, name, key=self._at)
        return self._at(place) if place < len(places) else b""

    def _at(self, place: int) -> bytes:
        return self._paths[self._starts[place] : self._starts[place + 1]]


def command(directory: Path, *arguments: str) -> list[str]:
    """Return the command line of git, which takes no program from a repository's configuration.

    git itself changes to the directory. Were the new process told to, a file system that is away
    would have it wait before it becomes git, and with it whoever started it, whom no limit reaches:
    the thread, or with vfork, during which Python keeps its lock, the whole process.

    Args:
        directory: where git is run.
        arguments: options that come before git's command, the command, and its arguments.
    """
    place = next((n for n, word in enumerate(arguments) if not word.startswith("-")), 0)
    plain = _PLAIN.get(arguments[place], ())
    before, after = arguments[: place + 1], arguments[place + 1 :]
    return ["git", "-C", str(directory), *_OPTIONS, *before, *plain, *after]


def run(
    directory: Path,
    *arguments: str,
    given: bytes = b"",
    also: Sequence[int] = (),
    limit_seconds: float = _LIMIT_SECONDS,
) -> bytes:
    """Run git and return what it prints.

    Args:
        directory: where git is run.
        arguments: the command and its arguments.
        given: its standard input.
        also: exit statuses other than 0 that are an answer too.
        limit_seconds: after which git, and all that it started, is ended.

    Raises:
        OSError: the directory is not there, or closed.
        GitError: git ended with another status, or gave no answer in time.
        InputError: git is not installed.
    """
    import subprocess  # noqa: PLC0415  # a restart with nothing changed asks git nothing

    try:
        process = processes.started(command(directory, *arguments), environment())
    except FileNotFoundError as error:
        raise InputError("git is not installed: install the package git") from error
    try:
        answer, said = process.communicate(given, timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        raise _no_answer(directory, limit_seconds) from None
    finally:
        processes.end(process)
    if process.returncode != 0 and process.returncode not in also:
        complaint = [*said.decode(errors="replace").strip().splitlines(), ""][0]
        if complaint.startswith(_NOT_THERE):
            raise _not_there(directory, complaint)
        raise GitError(complaint or f"git {arguments[0]}: {process.returncode}")
    return answer


def _not_there(directory: Path, complaint: str) -> OSError:
    """Return the error of a directory that git could not change to."""
    numbers = {os.strerror(number): number for number in (errno.EACCES, errno.ENOTDIR, errno.ELOOP)}
    number = numbers.get(complaint.rpartition(": ")[2], errno.ENOENT)
    return OSError(number, os.strerror(number), str(directory))


def _no_answer(directory: Path, limit_seconds: float) -> GitError:
    return GitError(
        f"git gave no answer about {directory} within {limit_seconds:g} s and was ended"
    )


class Git:
    """Answers for the files below one directory; paths are relative to it, with ``/``.

    A repository inside a repository is left out, as git does. Where the directory is in no
    repository, those below it are asked about their own files.

    Args:
        root: the directory. It may be a repository, a part of one, or neither.
        facts: what is known of it from before; found out when None.

    Raises:
        GitError: the directory is in a repository that git cannot read.
        InputError: git is not installed.
    """

    def __init__(self, root: Path, facts: Facts | None = None) -> None:
        self._root = root
        self._empty: tempfile.TemporaryDirectory[str] | None = None
        self._checker: _Checker | None = None
        self._tracked: Tracked | None = None
        self._spelling: spelling.Spelling | None = None
        self._inner: dict[str, Git] = {}
        self.is_repository = facts.is_repository if facts else _in_repository(root)
        if facts:
            self._inner = {path: Git(root / path, known) for path, known in facts.inner.items()}
        elif not self.is_repository:
            self._list([])

    def close(self) -> None:
        """End the processes that were kept."""
        self.forget()
        for git in self._inner.values():
            git.close()
        if self._empty:
            self._empty.cleanup()
            self._empty = None

    def forget(self) -> None:
        """Take note that an ignore file changed: what was read of them is read anew."""
        if self._checker:
            self._checker.close()
            self._checker = None
        for git in self._inner.values():
            git.forget()

    def make_ready(self) -> _Checker:
        """Start the process that ``ignored`` asks, so that it need not be waited for then."""
        if self._checker is None:
            self._checker = _Checker(self._command(*_CHECK), self._root)
        return self._checker

    def rest(self, before: float) -> None:
        """End the processes that were not asked since a time of the monotonic clock: as long as
        one is there, the file system that holds the directory cannot be unmounted."""
        if self._checker and self._checker.asked_at < before:
            self._checker.close()
            self._checker = None
        for git in self._inner.values():
            git.rest(before)

    @property
    def asked_at(self) -> float | None:
        """When the process that waits the longest was asked last; None when there is none."""
        own = [self._checker.asked_at] if self._checker else []
        below = [asked for git in self._inner.values() if (asked := git.asked_at) is not None]
        return min((*own, *below), default=None)

    def facts(self) -> Facts:
        """Find out what decides here.

        Raises:
            GitError: git could not answer.
        """
        index, *sources = self._git_files() if self.is_repository else [""]
        sources += self._configuration()
        for directory in (self._root, *self._root.parents):
            mark = directory / ".git"
            sources.append(mark.as_posix())
            if directory != self._root:
                sources.append((directory / ".gitignore").as_posix())
            if not self.is_repository and mark.is_dir():  # being made
                sources += [(mark / part).as_posix() for part in ("HEAD", "objects", "refs")]
            if self.is_repository and mark.exists():
                break
        inner = {path: git.facts() for path, git in self._inner.items()}
        return Facts(self.is_repository, index, tuple(sources), _surroundings(), inner)

    @property
    def inner(self) -> Mapping[str, Git]:
        """The repositories in a directory that is in none, by their paths."""
        return self._inner

    @property
    def tracked(self) -> Tracked:
        """What the index of the repository names; of this one alone, not of inner ones.

        Raises:
            GitError: git could not answer.
        """
        if self._tracked is None:
            self._tracked = self.read_tracked()
        return self._tracked

    @tracked.setter
    def tracked(self, tracked: Tracked) -> None:
        self._tracked, self._spelling = tracked, None

    def spelled(self, path: str) -> str:
        """Return git's name of what a directory lists, where the file system has several for it.

        Raises:
            GitError: git could not answer.
        """
        if not spelling.MAY_FOLD:
            return path
        git, own = self.owner(path)
        if git._spelling is None:
            git._spelling = git._own_spelling()
        return path[: len(path) - len(own)] + git._spelling.of(own)

    def _own_spelling(self) -> spelling.Spelling:
        folds_case, composes = (
            self._run("config", "--type=bool", "--get", name, also=(1,)) == b"true\n"
            for name in ("core.ignorecase", "core.precomposeunicode")
        )
        return spelling.Spelling(self.tracked.all(), folds_case=folds_case, composes=composes)

    def _all_spelled(self, paths: set[str]) -> set[str]:
        return {self.spelled(path) for path in paths} if spelling.MAY_FOLD else paths

    def read_tracked(self) -> Tracked:
        """Read the index of the repository.

        Raises:
            GitError: git could not answer.
        """
        return Tracked(self._run(*_LIST, "--stage") if self.is_repository else b"")

    def other_files(self) -> set[str]:
        """Return what ``files`` names beside the paths in the index of the repository.

        Raises:
            GitError: git could not answer.
        """
        if not self.is_repository:
            return self.files()
        return self._all_spelled(set(_split(self._run(*_OTHERS))))

    def owner(self, path: str) -> tuple[Git, str]:
        """Return who decides about a path, and the path as that one names it."""
        for directory, git in self._inner.items():
            if path.startswith(f"{directory}/"):
                return git.owner(path[len(directory) + 1 :])
        return self, path

    def files(self, among: Iterable[str] = ()) -> set[str]:
        """Return the files that git tracks or would offer to add.

        Tracked files that are deleted or replaced by something else are named too; so are, with a
        slash at the end, repositories below that are a border.

        Args:
            among: when given, only these paths and what is below them.

        Raises:
            GitError: git could not answer.
        """
        asked = list(among)
        found = self._list(asked)
        for directory, git in self._inner.items():
            if not asked or _is_below(directory, asked):
                found |= {f"{directory}/{path}" for path in git.files()}
            elif below := [path for path in asked if _is_below(path, [directory])]:
                rest = [os.path.relpath(path, directory) for path in below]
                found |= {f"{directory}/{path}" for path in git.files(rest)}
        return self._all_spelled(found)

    def ignored(self, paths: Iterable[str]) -> set[str]:
        """Return which of these paths an ignore rule hits; whether they are tracked plays no part.

        A process is kept for it. Of a directory the answer holds for all that will ever be in it.

        Args:
            paths: of files and directories that are there and lie in no link.

        Raises:
            GitError: git could not answer.
        """
        shares: dict[Git, dict[str, str]] = {}
        for path in paths:
            git, own = self.owner(path)
            shares.setdefault(git, {})[own] = path
        return {
            share[own] for git, share in shares.items() for own in git._ignored_here(list(share))
        }

    def ignored_by(self, path: str) -> str | None:
        """Return the file, line and pattern that make git ignore a path, or None.

        Raises:
            GitError: git could not answer.
        """
        git, own = self.owner(path)
        answer = git._run(*_CHECK[:4], given=os.fsencode(f"./{own}\0"), also=(1,))
        if not answer:
            return None
        source, number, pattern, _ = _split(answer)
        return None if pattern.startswith("!") else f"{source}:{number}: {pattern}"

    def is_tracked(self, path: str) -> bool:
        """Say whether the path is in the index of the repository that the directory is in.

        Raises:
            GitError: git could not answer.
        """
        return bool(self._run(*_LIST, "--cached", "--", path))

    def is_border(self, directory: str) -> bool:
        """Say whether a directory below is a repository of its own, so its files do not belong.

        Outside a repository there is no border: what is found is asked about its own files.

        Raises:
            GitError: git could not answer.
        """
        git, own = self.owner(directory)
        if own in git.tracked.links:
            return True
        if git.tracked.has_below(own) or f"{own}/" not in git.files([own]):
            return False
        return git.is_repository

    def _ignored_here(self, paths: list[str]) -> list[str]:
        for _ in range(2):
            checker = self.make_ready()
            try:
                return checker.ask(paths)
            except OSError:  # it ended, as git does at a path that it will not speak about
                checker.close()
                self._checker = None
        return [path for path in paths if self._is_refused(path)]

    def _is_refused(self, path: str) -> bool:
        """Ask about one path that may be of those that git will not speak about."""
        try:
            answer = self._run(*_CHECK, given=os.fsencode(f"./{path}\0"), also=(1,))
        except GitError:
            return True
        return _is_hit(answer.split(b"\0"))

    def _list(self, asked: Sequence[str]) -> set[str]:
        """List files, and take note of the repositories that are found among them."""
        found = set(_split(self._run(*_FILES, "--", *asked)))
        if self.is_repository:
            return found
        inner = {entry.rstrip("/") for entry in found if entry.endswith("/")}
        new = {directory: Git(self._root / directory) for directory in inner - {*self._inner}}
        self._inner = {**self._inner, **new}
        return {entry for entry in found if not entry.endswith("/")}

    def _git_files(self) -> list[str]:
        """Return the absolute paths of what git keeps for itself; a linked work tree's and a
        submodule's lie elsewhere."""
        asked = [argument for name in _GIT_FILES for argument in ("--git-path", name)]
        found = self._run("rev-parse", *asked).split(b"\n")[:-1]
        if len(found) != len(_GIT_FILES):  # a name on the way has a line break in it
            found = [self._run("rev-parse", "--git-path", name)[:-1] for name in _GIT_FILES]
        return [(self._root / os.fsdecode(path)).as_posix() for path in found]

    def _configuration(self) -> list[str]:
        """Return the files that git reads its configuration from, and the one of a person's own
        ignore rules, those too that are not there yet."""
        listed = _split(self._run("config", "-z", "--list", "--show-origin", also=(1,)))[::2]
        read = {origin[5:] for origin in listed if origin.startswith("file:")}
        own = os.fsdecode(
            self._run("config", "-z", "--type=path", "--get", "core.excludesFile", also=(1,))
        ).rstrip("\0")
        home = Path(os.environ.get("HOME") or os.environ.get("USERPROFILE", "/"))
        base = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "git"
        chosen = os.environ.get("GIT_CONFIG_GLOBAL")
        read |= {chosen} if chosen else {str(home / ".gitconfig"), str(base / "config")}
        read |= {own or str(base / "ignore"), "/etc/gitconfig"}
        paths = {_normal(self._root / path) for path in read} - {_normal(_SYSTEM_CONFIG)}
        # The empty repository of ours goes with us; who took that for a change would never rest.
        ours = f"{_normal(Path(self._empty.name))}/" if self._empty else "/dev/"
        return sorted(path for path in paths if not path.startswith(("/dev/", ours)))

    def _run(self, *arguments: str, given: bytes = b"", also: Sequence[int] = ()) -> bytes:
        return run(self._root, *self._options(), *arguments, given=given, also=also)

    def _command(self, *arguments: str) -> list[str]:
        return command(self._root, *self._options(), *arguments)

    def _options(self) -> tuple[str, ...]:
        if self.is_repository:
            return ()
        if self._empty is None:
            import tempfile  # noqa: PLC0415  # not needed in a repository

            self._empty = tempfile.TemporaryDirectory(prefix="infbox-git-")
            run(self._root, "init", "--quiet", "--bare", "--template=", self._empty.name)
        return (f"--git-dir={self._empty.name}", "--work-tree=.")


class _Checker:
    """A ``git check-ignore`` that is kept open. It answers a path as soon as it is asked.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self.asked_at = time.monotonic()
        self._directory = directory
        self._process = processes.started(command, environment(), is_heard=False, buffer_bytes=0)

    def ask(self, paths: Sequence[str]) -> list[str]:
        """Return which of the paths are ignored.

        Raises:
            OSError: it ended without an answer.
            GitError: it gave none in time.
        """
        self.asked_at = time.monotonic()
        ignored: list[str] = []
        given: list[bytes] = []
        first = size = 0
        for place, path in enumerate(paths):
            # Taken literally but for a colon in front, which "./" hides.
            given.append(b"./" + os.fsencode(path) + b"\0")
            size += len(given[-1])
            if size >= _MOST_AT_ONCE or place == len(paths) - 1:
                ignored += self._ask(paths[first : place + 1], b"".join(given))
                given, first, size = [], place + 1, 0
        return ignored

    def close(self) -> None:
        """End it."""
        processes.end(self._process)

    def _ask(self, paths: Sequence[str], given: bytes) -> Iterable[str]:
        if self._process.stdin is None or self._process.stdout is None:
            raise OSError
        self._process.stdin.write(given)
        answer, wanted = bytearray(), len(paths) * _ANSWER_FIELDS
        while answer.count(b"\0") < wanted:
            part = self._read()
            if not part:
                raise OSError
            answer += part
        fields = bytes(answer).split(b"\0")
        for place, path in enumerate(paths):
            if _is_hit(fields[place * _ANSWER_FIELDS :]):
                yield path

    def _read(self) -> bytes:
        """Return what comes next; nothing where the process has ended.

        Raises:
            GitError: nothing comes in time.
        """
        answer = processes.read(self._process, 1 << 16, _CHECK_SECONDS)
        if answer is None:
            raise _no_answer(self._directory, _CHECK_SECONDS)
        return answer


def tracked_paths(directory: Path) -> list[str]:
    """Return the paths below a directory in the index of its repository, in half the time that
    reading all of it takes.

    Raises:
        GitError: the directory is in no repository, or git could not answer.
    """
    return _split(run(directory, *_LIST, "--cached"))


def committed(directory: Path, path: str, max_bytes: int) -> bytes | None:
    """Return a file's bytes in the last commit, or None where there are none, or too many.

    Args:
        directory: in the repository.
        path: of the file, below the directory.
        max_bytes: larger ones are not read.
    """
    name = f"HEAD:./{path}"
    try:
        if int(run(directory, "cat-file", "-s", name)) > max_bytes:
            return None
        return run(directory, "cat-file", "blob", name)
    except GitError:
        return None


def _is_hit(fields: Sequence[bytes]) -> bool:
    """Say whether a line of check-ignore's long form names a pattern that ignores."""
    return len(fields) >= _ANSWER_FIELDS and fields[2] != b"" and not fields[2].startswith(b"!")


def _in_repository(root: Path) -> bool:
    """Say whether root is in a repository that does not ignore it."""
    try:
        answer = run(root, "rev-parse", "--is-inside-work-tree", "--show-prefix")
    except GitError as error:
        if "not a git repository" in str(error):
            return False
        raise
    inside, _, below = answer.partition(b"\n")
    is_top = below == b"\n"  # which no rule can ignore
    return inside == b"true" and (is_top or not run(root, "check-ignore", "--", ".", also=(1,)))


def environment() -> dict[str, str]:
    """Return the environment in which git reads a repository and leaves it as it is."""
    kept = {key: value for key, value in os.environ.items() if key not in _DROPPED}
    return {
        **kept,
        "GIT_ALLOW_PROTOCOL": "",  # none, whatever the configuration allows
        "GIT_CONFIG_SYSTEM": str(_SYSTEM_CONFIG),
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


def _surroundings() -> tuple[str, ...]:
    return tuple(os.environ.get(name, "") for name in _TELLING)


def _normal(path: Path) -> str:
    return Path(os.path.normpath(path)).as_posix()


def _split(answer: bytes) -> list[str]:
    # All at once: to decode each by itself takes twice as long. A name that is not UTF-8 cannot lie
    # on a disk of Windows, where Python would refuse all of them for it.
    text = answer.decode(errors="replace") if sys.platform == "win32" else os.fsdecode(answer)
    return text.split("\0")[:-1]


def _is_below(path: str, directories: Iterable[str]) -> bool:
    return any(path == directory or path.startswith(f"{directory}/") for directory in directories)
