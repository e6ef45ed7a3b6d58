"""Bringing a workspace's index up to its tree: by what inotify tells, and by looking.

For one thread. Long work is a generator, ``work``: each step of it is short, so that a save is
taken in between two steps.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from infbox import watch
from infbox.files import CLOCK_TICK_NS, Tree, Walk, belonging, has_tracked
from infbox.git import Facts
from infbox.index import Folder, Row, Stamp
from infbox.log import line
from infbox.rules import IGNORE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from infbox.files import Content
    from infbox.git import Git, Tracked
    from infbox.index import Index
    from infbox.watch import Event, Watch

QUIET_SECONDS = 0.03
LONGEST_SECONDS = 0.25
"""Before the whole tree is listed after an ignore file changed: after the last such event, and
after the first at most."""

_SOON_SECONDS = 0.05
"""Until a file is looked at again that is being written, or of which no close was told."""

_SETTLE_SECONDS = 0.1
"""Until the stamp of a file just written can be trusted."""

_AT_ONCE = 32  # files to a transaction
_STATS_AT_ONCE = 250
_MANY = 200
"""Files changed in one go by a machine rather than a person: they keep their heats."""

_BURST_SECONDS = 0.5
_REMEMBERED = 4096
_UNTRUSTED = -1

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Errand(threading.Thread):
    """Something that waits, done beside the thread that wants its result.

    Args:
        task: what is to be done.
        done: called when it ended.
    """

    def __init__(self, task: Callable[[], T], done: Callable[[], None]) -> None:
        super().__init__(name="errand", daemon=True)
        self._task = task
        self._done = done
        self._result: Any = None
        self._error: Exception | None = None
        self.is_done = False
        self.start()

    def run(self) -> None:
        """Do it."""
        try:
            self._result = self._task()
        except Exception as error:  # it is raised where the result is taken
            self._error = error
        self.is_done = True
        self._done()

    def result(self) -> Any:
        """Return what the task returned, or raise what it raised."""
        self.join()
        if self._error:
            raise self._error
        return self._result


class Soon:
    """A moment that is put off while there is more to wait for, but not for ever."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._last = 0.0

    def ask(self, now: float) -> None:
        """Take note of an event, at a time of the monotonic clock."""
        self._first = now if self._first is None else self._first
        self._last = now

    def due(self) -> float | None:
        """Return the moment, or None when nothing is waited for."""
        if self._first is None:
            return None
        return min(self._last + QUIET_SECONDS, self._first + LONGEST_SECONDS)

    def take(self, now: float) -> bool:
        """Say whether the moment has come; if so it is over."""
        due = self.due()
        if due is None or due > now:
            return False
        self._first = None
        return True


class Keeper:
    """Keeps an index equal to what a fresh look at the tree would say.

    Args:
        name: of the workspace, for the log.
        tree: the files.
        index: what is known of them.
        watching: where folders are watched; this keeper alone adds to it and drops from it.
        wake: called, from any thread, when an errand is done.
        blind: folders, absolute, whose changes inotify may not tell.
        seed: returns the heats of a tree that is indexed for the first time.
    """

    def __init__(
        self,
        *,
        name: str,
        tree: Tree,
        index: Index,
        watching: Watch,
        wake: Callable[[], None],
        blind: Collection[str] = (),
        seed: Callable[[Path], dict[str, float]] | None = None,
    ) -> None:
        self._name = name
        self._tree = tree
        self._index = index
        self._watch = watching
        self._wake = wake
        self._blind = tuple(blind)
        self._seed = seed
        self._facts: Facts | None = None
        self._sources: frozenset[str] = frozenset()
        self._ignores: frozenset[str] = frozenset()
        self._stamps: dict[str, list[int]] = {}
        self._has_blind_sources = False
        self._indexes: frozenset[str] = frozenset()
        self._fresh: dict[str, None] = {}
        self._bulk: deque[str] = deque()
        self._again: dict[str, float] = {}
        self._settling: dict[str, tuple[Stamp, float]] = {}
        self._borders: dict[str, float] = {}
        self._scan_soon = Soon()
        self._index_soon = Soon()
        self._git_is_stale = False
        self._rules_are_stale = False
        self._index_errand: Errand | None = None
        self._touched: set[str] | None = None
        self._founding = index.meta("complete") != "1"
        self._first_edit = index.last_edit
        self._anew = False
        self._burst: dict[str, float] = {}
        self._burst_ended = 0.0
        self._taken_back: dict[str, float] = {}
        self._tombs: dict[str, Row] = {}
        self.edits = 0
        """How many times a file's content changed, came or went."""
        self.scans = 0
        """How many times the whole tree was listed."""
        self.blind_folders: set[str] = set()
        """Entered folders whose changes inotify may not tell."""
        self.unwatched: set[str] = set()
        """Entered folders that could not be watched."""
        self.unreadable: dict[str, str] = {}
        """Files and folders that could not be read, with the reason."""

    # What is told

    def take(self, event: Event, now: float) -> bool:
        """Take an event; say whether it means that everything must be looked at anew.

        Args:
            event: of any watched folder.
            now: of the monotonic clock.
        """
        folder, name, mask = event
        root = self._tree.place("")
        if mask & (watch.MOVE_SELF | watch.UNMOUNT | watch.IGNORED) and not name:
            return folder == root
        place = f"{folder}/{name}" if folder != "/" else f"/{name}"
        if place in self._indexes:
            self._index_soon.ask(now)
        elif place in self._sources and not (mask & watch.ATTRIB and mask & watch.IS_FOLDER):
            self._git_is_stale = True
            self._scan_soon.ask(now)
        if folder == root:
            self._take_below(name, name, "", mask, now)
        elif folder.startswith(f"{root}/") or root == "/":
            inside = folder[len(root.rstrip("/")) + 1 :]
            self._take_below(f"{inside}/{name}", name, inside, mask, now)
        return False

    def _take_below(self, path: str, name: str, folder: str, mask: int, now: float) -> None:
        if name == ".git":
            if folder:
                self._borders[folder] = now + QUIET_SECONDS
            return
        if ".git" in folder.split("/"):
            if name in ("HEAD", "objects", "refs") and folder.endswith("/.git"):
                self._borders[folder[:-5]] = now + QUIET_SECONDS
            return
        if name == ".gitignore" or path == IGNORE_FILE:
            self._git_is_stale |= name == ".gitignore"
            self._rules_are_stale |= path == IGNORE_FILE
            self._tree.git.forget()
            self._scan_soon.ask(now)
        if mask & watch.IS_FOLDER and mask & watch.MOVED_FROM:
            # At once: what comes from below it after this no longer bears this path.
            self._watch.drop(self._tree.place(path))
        if mask & watch.CREATE and not mask & watch.IS_FOLDER and not self._is_linked(path):
            # Its close will be told; but not if it was written before it had a name.
            self._again.setdefault(path, now + _SOON_SECONDS)
        elif mask & watch.ATTRIB and not mask & watch.IS_FOLDER:
            if path in self.unreadable or path not in self._settling:
                self._again.setdefault(path, now + _SOON_SECONDS)
        elif path not in self._fresh:
            self._fresh[path] = None
        if self._touched is not None:
            self._touched.add(path)

    def _is_linked(self, path: str) -> bool:
        """Say whether a file just created is whole: a hard link is, and no later event tells."""
        try:
            status = os.lstat(self._tree.place(path))
        except OSError:
            return False
        return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1

    # What is due

    @property
    def is_busy(self) -> bool:
        """Whether there are files to look at now."""
        return bool(self._fresh or self._bulk)

    def due(self, is_working: bool) -> float | None:
        """Return when ``step`` is to be called, of the monotonic clock, if nothing is told before;
        None when there is nothing to wait for.

        Args:
            is_working: longer work is under way, so that no other is begun.
        """
        scan = None if is_working else self._scan_soon.due()
        index = None if self._index_errand else self._index_soon.due()
        times = [
            *(moment for moment in (scan, index) if moment is not None),
            *list(self._again.values())[:1],
            *(due for _, due in list(self._settling.values())[:1]),
            *self._borders.values(),
        ]
        return min(times, default=None)

    def step(self, now: float, is_working: bool) -> Iterator[bool] | None:
        """Do a small part of what is to be done, and return longer work that became due.

        Args:
            now: of the monotonic clock.
            is_working: as in ``due``.

        Raises:
            OSError, sqlite3.Error, GitError, InputError: the tree or the index cannot be used.
        """
        if self._fresh:
            self._look(_take_first(self._fresh, _AT_ONCE))
        elif self._again and next(iter(self._again.values())) <= now:
            self._look([path for path, due in _take_due(self._again, now) if self._is_quiet(path)])
        elif self._bulk:
            self._look([self._bulk.popleft() for _ in range(min(_AT_ONCE, len(self._bulk)))], True)
        elif self._settling:
            self._settle(now)
        self._judge_borders(now)
        if self._index_errand is None and self._index_soon.take(now):
            self._index_errand = Errand(self._read_tracked, self._wake)
        elif self._index_errand and self._index_errand.is_done:
            self._take_tracked()
        if not is_working and self._scan_soon.take(now):
            return self.scan()
        return None

    def poll(self) -> Iterator[bool]:
        """Compare the folders that are not told about, or could not be read, and what decides.

        Yields, raises: as ``start`` does.
        """
        self.check_sources()
        folders = self.blind_folders | self.unwatched
        folders |= {path for path in self.unreadable if self._index.folder(path)}
        return self.compare(folders)

    @property
    def needs_polling(self) -> bool:
        """Whether there is anything that events do not tell about."""
        blind = self.blind_folders or self.unwatched or self.unreadable
        return bool(blind) or self._has_blind_sources

    def check_sources(self) -> None:
        """Ask for a scan if what decides changed without an event."""
        if self._facts is None:
            return
        found = _stamps(self._deciding() | self._facts.indexes())
        if found != self._stamps:
            self._git_is_stale = True
            self._scan_soon.ask(time.monotonic())

    def load_tracked(self) -> None:
        """Have the repository's index read, so that a later change of it can be told."""
        self._index_soon.ask(0.0)

    # Looking at files

    def _look(self, paths: Iterable[str], is_judged: bool = False) -> None:
        """Look at files and folders, and write what is new about them.

        ``is_judged`` says that the rules and git were asked about their names.
        """
        rows: dict[str, Row] = {}
        gone: list[str] = []
        unknown: list[str] = []
        for path in paths:
            known = self._index.row(path)
            if known and self._read(path, known, rows):
                continue
            kind = self._kind(path)
            if kind == stat.S_IFREG and not known:
                unknown += [] if self._is_behind_border(path) else [path]
            elif kind == stat.S_IFDIR:
                gone += [path] if known else []
                self._enter(path)
            elif known or kind != stat.S_IFREG:
                gone += self._leave(path, known)
        for path in self._belonging(unknown, is_judged):
            self._read(path, None, rows)
        self._write(rows, gone)

    def _kind(self, path: str) -> int:
        """Return what a path is, 0 when it is not there; raise when the root is not there."""
        try:
            return stat.S_IFMT(os.lstat(self._tree.place(path)).st_mode)
        except OSError:
            os.lstat(self._tree.place(""))
            return 0

    def _is_quiet(self, path: str) -> bool:
        """Say whether nobody wrote to a file lately; else it is to be looked at again."""
        try:
            status = os.lstat(self._tree.place(path))
        except OSError:
            return True
        if time.time() - status.st_mtime >= _SOON_SECONDS or not stat.S_ISREG(status.st_mode):
            return True
        self._again[path] = time.monotonic() + _SOON_SECONDS
        return False

    def _belonging(self, paths: list[str], is_judged: bool) -> Iterable[str]:
        if is_judged:
            return paths
        named = [path for path in paths if self._tree.rules.by_name(path) is None]
        if not named:
            return named
        found = belonging(self._tree.git, named)
        return [path for path in named if path in found]

    def _read(self, path: str, known: Row | None, rows: dict[str, Row]) -> bool:
        """Read a file; say whether there is one. Its row is added where it is new."""
        try:
            content = self._tree.fetch(path, None if self._anew else known)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                self._cannot_read(path, error)
            return False
        self.unreadable.pop(path, None)
        if content.stamp is None:  # it is being written
            self._again[path] = time.monotonic() + _SOON_SECONDS
            return True
        row = self._row(path, content, content.stamp, known)
        if row != known:
            rows[path] = row
        return True

    def _row(self, path: str, content: Content, stamp: Stamp, known: Row | None) -> Row:
        trusted = stamp
        newest = max(stamp.ctime_ns, stamp.mtime_ns)
        if time.time_ns() - newest < CLOCK_TICK_NS:
            trusted = stamp._replace(mtime_ns=_UNTRUSTED)
            self._settling[path] = (stamp, time.monotonic() + _SETTLE_SECONDS)
        else:
            self._settling.pop(path, None)
        if known and (known.digest, known.refused) == (content.digest, content.refused):
            return known._replace(
                size=trusted.size, mtime_ns=trusted.mtime_ns, ctime_ns=trusted.ctime_ns
            )
        self.edits += 1
        if self._founding and not known:
            return Row(*trusted, content.digest, content.refused, self._first_edit)
        edit = self._index.next_edit()
        heat = self._heat(path, content.digest, known, edit)
        return Row(*trusted, content.digest, content.refused, edit, heat)

    def _heat(self, path: str, digest: str, known: Row | None, edit: int) -> float:
        """Return what an edit makes of a file's heat."""
        old = known or self._tombs.get(path)
        if old is None:  # as after a move
            old = self._tombs.get(digest, Row(0, 0, 0, "", None, edit))
        now = time.monotonic()
        if now > self._burst_ended:
            self._burst.clear()
        self._burst_ended = now + _BURST_SECONDS
        if len(self._burst) == _MANY:  # it was a machine: what was added is taken back
            self._taken_back = dict(self._burst)
        self._burst[path] = old.heat
        if len(self._burst) > _MANY or old.digest == digest:
            return old.heat
        from infbox import rank  # noqa: PLC0415  # a restart with nothing changed needs it not

        return rank.bumped(old.heat, edit - old.edit)

    def _leave(self, path: str, known: Row | None) -> list[str]:
        """Return the files that are no longer there with a path, a file's or a folder's."""
        if known:
            return [path]
        self.unreadable.pop(path, None)
        if not self._index.folder(path):
            return []
        folders = {path, *self._index.folder_paths(path)}
        self._forget_folders(folders)
        return sorted(self._index.paths(path))

    def _forget_folders(self, folders: Collection[str]) -> None:
        """Watch these folders no more; what is below them is dropped with them."""
        dropped = ""
        for folder in sorted(folders):
            if not dropped or not folder.startswith(dropped):
                dropped = f"{folder}/"
                self._watch.drop(self._tree.place(folder))
        self.unwatched.difference_update(folders)
        self.blind_folders.difference_update(folders)
        for folder in folders:
            self.unreadable.pop(folder, None)
        with self._index.transaction():
            self._index.write_folders({}, folders)

    def _write(self, rows: dict[str, Row], gone: list[str]) -> None:
        """Write what was found in one transaction."""
        if not rows and not gone:
            return
        for path in gone:
            self._bury(path)
        with self._index.transaction():
            self._index.write(rows, gone)
            self._index.warm_up(self._taken_back)
        self._taken_back = {}
        self.edits += len(gone)

    def _bury(self, path: str) -> None:
        """Remember a file that went: its heat is that of the one which takes its place."""
        row = self._index.row(path)
        if row and row.heat:
            if len(self._tombs) > _REMEMBERED:
                self._tombs.clear()
            self._tombs[path] = self._tombs[row.digest] = row

    def _settle(self, now: float) -> None:
        """Trust the stamps of files that are as they were when they were read a while ago."""
        due = _take_due(self._settling, now, key=lambda entry: entry[1])
        rows: dict[str, Row] = {}
        for path, (stamp, _) in due[:_STATS_AT_ONCE]:
            known = self._index.row(path)
            if known is None:
                continue
            try:
                found = Stamp.of(os.lstat(self._tree.place(path)))
            except OSError:
                continue
            if found == stamp:
                rows[path] = known._replace(mtime_ns=stamp.mtime_ns, ctime_ns=stamp.ctime_ns)
            else:
                self._fresh[path] = None
        for path, entry in due[_STATS_AT_ONCE:]:
            self._settling[path] = entry
        if rows:
            with self._index.transaction():
                self._index.write(rows)

    def _cannot_read(self, path: str, error: OSError) -> None:
        if path not in self.unreadable:
            _logger.warning(
                line(
                    "path-not-readable",
                    workspace=self._name,
                    path=path,
                    reason=error.strerror,
                    mend="let the service's user read it; it is tried again",
                )
            )
        self.unreadable[path] = error.strerror or str(error)

    # Entering folders

    def _enter(self, folder: str) -> None:
        """Take in a folder that came, or whose border did, with all that is in it."""
        if folder.rpartition("/")[2] == ".git" or self._is_behind_border(folder):
            return
        if folder and self._is_closed(folder):
            return
        walk = Walk(self._tree, self._watch_folder)
        for _ in walk.run(folder):
            pass
        self._note(walk)
        stored = self._index.paths(folder)
        present = {path for path in walk.files if self._tree.rules.by_name(path) is None}
        self._forget_folders(self._index.folder_paths(folder) - walk.folders.keys())
        self._write({}, sorted(stored - present))
        self._bulk.extend(sorted(present))

    def _is_behind_border(self, path: str) -> bool:
        """Say whether a path lies right in a folder that is a repository of its own."""
        parent = self._index.folder(path.rpartition("/")[0])
        return parent is not None and parent.is_border

    def _is_closed(self, folder: str) -> bool:
        """Say whether git has no files in a folder and never will, as its rules are now."""
        git = self._tree.git
        return folder in git.ignored([folder]) and not has_tracked(git, folder)

    def _note(self, walk: Walk) -> None:
        """Write the folders of a walk, and keep an eye on those that could not be read."""
        folders = {**walk.folders, **dict.fromkeys(walk.unreadable, Folder(-1, -1))}
        with self._index.transaction():
            self._index.write_folders(folders)
        for folder, reason in walk.unreadable.items():
            self._cannot_read(folder, OSError(errno.EACCES, reason))
        for folder in walk.folders.keys() & self.unreadable.keys():
            del self.unreadable[folder]

    def _watch_folder(self, folder: str) -> None:
        place = self._tree.place(folder)
        if any(place == spot or place.startswith(f"{spot}/") for spot in self._blind):
            self.blind_folders.add(folder)
        try:
            self._watch.add(place)
        except OSError as error:
            if error.errno != errno.EACCES:  # that one is told of when it is read
                self._cannot_watch(folder, error)
            return
        self.unwatched.discard(folder)

    def _cannot_watch(self, folder: str, error: OSError) -> None:
        is_first = not self.unwatched
        self.unwatched.add(folder)
        if is_first:
            _logger.error(
                line(
                    "not-watched",
                    workspace=self._name,
                    folder=folder or ".",
                    reason="the limit of inotify watches is reached"
                    if error.errno == errno.ENOSPC
                    else error.strerror,
                    mend="raise fs.inotify.max_user_watches; until then such folders are polled",
                )
            )

    def _judge_borders(self, now: float) -> None:
        """Look again at folders in which a ``.git`` came, changed or went."""
        for folder in [folder for folder, due in self._borders.items() if due <= now]:
            del self._borders[folder]
            if not self._tree.git.is_repository:
                self._git_is_stale = True
                self._scan_soon.ask(now)
            elif self._kind(folder) == stat.S_IFDIR:
                self._enter(folder)

    # The repository's index

    def _gits(self) -> dict[str, Git]:
        """Return all that decide, by the folder below which they do."""
        found = {"": self._tree.git}
        for folder, git in self._tree.git.inner.items():
            found[folder] = git
        return found

    def _read_tracked(self) -> tuple[int, list[tuple[str, Git, Tracked, set[str], set[str]]]]:
        """Read what the repositories track; return since when, and with it what is new in it and
        what is not in it any more."""
        since = time.time_ns()
        found = []
        for folder, git in self._gits().items():
            new = git.read_tracked()
            before, after = git.tracked.all(), new.all()
            found.append((folder, git, new, after - before, before - after))
        return since, found

    def _take_tracked(self) -> None:
        errand, self._index_errand = self._index_errand, None
        if errand is None:
            return
        now = time.monotonic()
        since, found = errand.result()
        for folder, git, tracked, came, went in found:
            links = git.tracked.links ^ tracked.links
            git.tracked = tracked
            prefix = f"{folder}/" if folder else ""
            for path in sorted(came):
                self._come(prefix + path)
            for path in sorted(went):
                self._judge_again(prefix + path)
            if came or went:
                marks = {p[:-5] for p in self._index.folder_paths(folder) if p.endswith("/.git")}
                for border in {prefix + link for link in links} | marks:
                    self._borders[border] = now
        self._keep_facts(since)

    def _come(self, path: str) -> None:
        """Look at a file that is tracked now; it may lie in a folder that was left alone."""
        if self._index.row(path):
            return
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if not self._index.folder(folder) and self._kind(folder) == stat.S_IFDIR:
                self._enter(folder)
                return
        self._fresh[path] = None

    def _judge_again(self, path: str) -> None:
        """Forget a file that is tracked no more and is ignored."""
        if self._index.row(path) and path not in belonging(self._tree.git, [path]):
            self._write({}, [path])

    # Looking at everything

    def start(self) -> Iterator[bool]:
        """Bring the index up to the tree, of which nothing was told so far.

        Where nothing that decides has changed since, each file and folder is asked for its stamp,
        and nothing is read; else the tree is scanned.

        Yields:
            Whether there is more to do at once; False where something is waited for.

        Raises:
            OSError: the root cannot be read, or is no longer what was mounted there.
            GitError, InputError: the tree cannot be judged.
        """
        self._check_root()
        if self._founding or not self._is_as_stored():
            self._git_is_stale |= self._tree.is_from_facts
            yield from self.scan(with_stamps=True)
            return
        self._watch_sources()
        yield from self.compare()
        while self._fresh or self._bulk:
            yield True

    def scan(self, with_stamps: bool = False) -> Iterator[bool]:
        """List the whole tree anew, and take in what came and went.

        Args:
            with_stamps: look at the stamps of known files too, since events may have been missed.

        Yields, raises: as ``start`` does.
        """
        self.scans += 1
        self._check_root()
        self._touched = set()
        if self._git_is_stale or self._rules_are_stale:
            self._tree.refresh()
            self._git_is_stale = self._rules_are_stale = False
        since = time.time_ns()
        heats = Errand(self._heats, self._wake) if self._founding else None
        facts = Errand(self._tree.git.facts, self._wake)
        listing = Errand(self._tree.git.files, self._wake)
        tracked = Errand(self._all_tracked, self._wake)
        yield from _until_done(listing, tracked)
        for git, names in tracked.result():
            git.tracked = names
        walk = Walk(self._tree, self._watch_folder, listing.result(), since)
        for _ in walk.run():
            yield True
        yield from _until_done(facts)
        self._facts = facts.result()
        self._ignores = frozenset(map(self._tree.place, walk.ignores))
        self._watch_sources()
        self._take_walk(walk)
        if with_stamps:
            yield from self.compare()
        self._touched = None
        while self._fresh or self._bulk:
            yield True
        if heats:
            yield from _until_done(heats)
        self._complete(heats, since)

    def compare(self, only: Collection[str] | None = None) -> Iterator[bool]:
        """Compare the stamps of known folders and files with those that they have.

        Args:
            only: folders; all when None.

        Yields, raises: as ``start`` does.
        """
        os.lstat(self._tree.place(""))
        changed: list[str] = []
        root = os.fsencode(self._tree.place("")).rstrip(b"/") + b"/"
        for count, (path, mtime, ctime, _) in enumerate(self._index.folders()):
            if count % _STATS_AT_ONCE == _STATS_AT_ONCE - 1:
                yield True
            folder = os.fsdecode(path)
            if only is not None and folder not in only:
                continue
            self._watch_folder(folder)
            try:
                status = os.lstat(root + path)
            except OSError:
                changed.append(folder)
                continue
            if (status.st_mtime_ns, status.st_ctime_ns) != (mtime, ctime):
                changed.append(folder)
        yield from self._compare_files(root, only)
        for folder in changed:
            self._list_again(folder)
            yield True

    def _compare_files(self, root: bytes, only: Collection[str] | None) -> Iterator[bool]:
        last = b""
        while stamps := self._index.stamps_after(last, _STATS_AT_ONCE):
            for path, size, mtime, ctime in stamps:
                if only is not None and os.fsdecode(path.rpartition(b"/")[0]) not in only:
                    continue
                try:
                    status = os.lstat(root + path)
                except OSError:
                    self._fresh[os.fsdecode(path)] = None
                    continue
                if (
                    status.st_mtime_ns != mtime
                    or status.st_size != size
                    or status.st_ctime_ns != ctime
                ):
                    self._fresh[os.fsdecode(path)] = None
            last = stamps[-1][0]
            yield True
        self._fresh.update(
            dict.fromkeys(path for path in self.unreadable if not self._index.folder(path))
        )

    def _list_again(self, folder: str) -> None:
        """Look at a folder whose stamp is another: at what came into it. What went is known."""
        if folder.endswith("/.git"):
            self._borders[folder[:-5]] = 0.0
            return
        place = self._tree.place(folder)
        known = self._index.folder(folder)
        try:
            status = os.lstat(place)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), place)
            with os.scandir(place) as entries:
                children = list(entries)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                self._fresh[folder] = None
            else:
                self._cannot_read(folder, error)
            return
        has_mark = any(child.name == ".git" for child in children)
        if folder and (has_mark or (known and known.is_border) or folder in self.unreadable):
            self._enter(folder)
            return
        prefix = f"{folder}/" if folder else ""
        for child in children:
            path = prefix + child.name
            if child.name != ".git" and not self._is_known(path, child):
                self._fresh[path] = None
                if child.name == ".gitignore":  # known ones are among what decides
                    self._scan_soon.ask(time.monotonic())
        newest = max(status.st_mtime_ns, status.st_ctime_ns)
        if time.time_ns() - newest >= CLOCK_TICK_NS:
            with self._index.transaction():
                stamp = Folder(status.st_mtime_ns, status.st_ctime_ns)
                self._index.write_folders({folder: stamp})

    def _is_known(self, path: str, entry: os.DirEntry[str]) -> bool:
        if entry.is_dir(follow_symlinks=False):
            return self._index.folder(path) is not None
        return not entry.is_file(follow_symlinks=False) or self._index.row(path) is not None

    def _take_walk(self, walk: Walk) -> None:
        """Take in what a walk over the whole tree found."""
        touched = self._touched or set()
        stored = self._index.paths()
        names_changed = self._index.meta("names") != self._tree.names_policy
        self._anew = not self._founding and self._index.meta("policy") != self._tree.policy
        present = walk.files
        if names_changed:
            present = {path for path in present if self._tree.rules.by_name(path) is None}
        gone = stored - present - touched
        new = present if self._anew else present - stored
        if not names_changed:
            new = {path for path in new if self._tree.rules.by_name(path) is None}
        left = self._index.folder_paths() - walk.folders.keys() - walk.unreadable.keys()
        left = {f for f in left if f not in touched and not _is_below_any(f, touched)}
        gone = {path for path in gone if not _is_below_any(path, touched)}
        self._forget_folders(left)
        self._note(walk)
        self._write({}, sorted(gone))
        self._bulk.extend(sorted(new))

    def _complete(self, heats: Errand | None, since: int) -> None:
        """Note that every file was looked at, by these rules; ask for another scan if what decides
        changed while git listed by it, which was since ``since``."""
        self._anew = False
        with self._index.transaction():
            if heats:
                self._index.warm_up(heats.result())
            self._index.keep(
                complete="1",
                policy=self._tree.policy,
                names=self._tree.names_policy,
                device=str(os.lstat(self._tree.place("")).st_dev),
            )
        self._founding = False
        if self._keep_facts(since):
            self._git_is_stale = True
            self._scan_soon.ask(time.monotonic())

    def _heats(self) -> dict[str, float]:
        return self._seed(self._tree.root) if self._seed and self._tree.git.is_repository else {}

    def _all_tracked(self) -> list[tuple[Git, Tracked]]:
        return [(git, git.read_tracked()) for git in self._gits().values()]

    # What decides

    def _check_root(self) -> None:
        """Refuse a root that is empty because nothing is mounted there any more.

        Raises:
            OSError: so it is, or it is gone.
        """
        place = self._tree.place("")
        device = os.lstat(place).st_dev
        with os.scandir(place) as entries:
            is_empty = next(entries, None) is None
        before = self._index.meta("device")
        if is_empty and before and before != str(device) and self._index.counts()[1]:
            raise OSError(errno.ENODEV, "it is empty, and what was mounted there is not", place)

    def _is_as_stored(self) -> bool:
        """Say whether all that decides is as it was when the index was complete."""
        try:
            stored = Facts.of(self._index.meta_json("facts"))
            stamps = dict(self._index.meta_json("sources"))
            self._ignores = frozenset(self._index.meta_json("ignores"))
        except (TypeError, ValueError):
            return False
        policies = (self._index.meta("policy"), self._index.meta("names"))
        if policies != (self._tree.policy, self._tree.names_policy) or not stored.is_current:
            return False
        if stamps != _stamps(stored.all_sources() | stored.indexes() | self._ignores):
            return False
        self._facts, self._stamps = stored, stamps
        return True

    def _deciding(self) -> set[str]:
        """Return the files that decide, without the repositories' indexes."""
        return (self._facts.all_sources() if self._facts else set()) | self._ignores

    def _keep_facts(self, since: int) -> bool:
        """Keep what decides, for the next start.

        Args:
            since: what changed after this was perhaps not seen; of the wall clock, in nanoseconds.

        Returns:
            Whether anything but the repository's index did.
        """
        if self._facts is None:
            return False
        deciding = self._deciding()
        self._stamps = stamps = _stamps(deciding | self._facts.indexes())
        late = {path for path, (*_, ctime) in stamps.items() if ctime >= since - CLOCK_TICK_NS}
        with self._index.transaction():
            self._index.keep(
                facts=json.dumps(self._facts),
                ignores=json.dumps(sorted(self._ignores)),
                sources=json.dumps({**stamps, **{path: [_UNTRUSTED] for path in late}}),
            )
        return not late.isdisjoint(deciding)

    def _watch_sources(self) -> None:
        """Watch the folders of what decides outside the tree, and of git's own files."""
        if self._facts is None:
            return
        self._has_blind_sources = False
        self._sources = frozenset(self._facts.all_sources())
        self._indexes = frozenset(self._facts.indexes())
        for folder in {os.path.dirname(path) for path in self._sources | self._indexes}:  # noqa: PTH120
            try:
                self._watch.add(folder)
            except OSError as error:
                self._has_blind_sources = True
                _logger.warning(
                    line(
                        "rules-not-watched",
                        workspace=self._name,
                        folder=folder,
                        reason=error.strerror,
                        mend="raise fs.inotify.max_user_watches; until then it is polled",
                    )
                )


def _stamps(paths: Iterable[str]) -> dict[str, list[int]]:
    """Return what tells that files are as they were; of a folder only that it is there."""
    found: dict[str, list[int]] = {}
    for path in sorted(paths):
        try:
            status = os.lstat(path)
        except OSError:
            continue
        is_folder = stat.S_ISDIR(status.st_mode)
        found[path] = [0] if is_folder else list(Stamp.of(status))
    return found


def _until_done(*errands: Errand) -> Iterator[bool]:
    while not all(errand.is_done for errand in errands):
        yield False


def _take_first(queue: dict[str, None], most: int) -> list[str]:
    taken = [path for path, _ in zip(queue, range(most), strict=False)]
    for path in taken:
        del queue[path]
    return taken


def _take_due(
    queue: dict[str, T], now: float, key: Callable[[T], float] | None = None
) -> list[tuple[str, T]]:
    """Take from the front of a queue what is due."""
    due: list[tuple[str, T]] = []
    for path, entry in queue.items():
        moment: float = key(entry) if key else entry  # type: ignore[assignment]
        if moment > now:
            break
        due.append((path, entry))
    for path, _ in due:
        del queue[path]
    return due


def _is_below_any(path: str, folders: Collection[str]) -> bool:
    """Say whether any folder above a path is one of these."""
    while path:
        path = path.rpartition("/")[0]
        if path in folders:
            return True
    return False
