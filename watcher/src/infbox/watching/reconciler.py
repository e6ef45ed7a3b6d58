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
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from infbox.errors import GitError
from infbox.log import line
from infbox.runtime import clock
from infbox.runtime.background import QUIET_SECONDS, Errand, Soon
from infbox.runtime.clock import EVER, Moment
from infbox.tree.files import Walk, belonging, folder_row
from infbox.tree.git import Facts, tracked_paths
from infbox.tree.records import Stamp
from infbox.tree.rules import IGNORE_FILE
from infbox.watching import inotify
from infbox.watching.reader import SOON_SECONDS, STATS_AT_ONCE, Looker, take_due

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from infbox.tree.files import Tree
    from infbox.tree.git import Git, Tracked
    from infbox.watching.index import Index
    from infbox.watching.inotify import Event, Watch

_AT_ONCE = 32  # files to a transaction
_UNTRUSTED = -1

_logger = logging.getLogger(__name__)


class Keeper(Looker):
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
        super().__init__(name, tree, index, watching, blind)
        self._wake = wake
        self._seed = seed
        self._facts: Facts | None = None
        self._sources: frozenset[str] = frozenset()
        self._ignores: frozenset[str] = frozenset()
        self._indexes: frozenset[str] = frozenset()
        self._stamps: dict[str, list[int]] = {}
        self._doubted: dict[str, int] = {}
        """What decides and was taken for changed lately, with the time that it had."""
        self._has_blind_sources = False
        self._borders: dict[str, float] = {}
        self._scan_soon = Soon()
        self._index_soon = Soon()
        self._git_is_stale = False
        self._rules_are_stale = False
        self._index_errand: Errand | None = None
        self._errands: list[Errand] = []
        self._touched: set[str] | None = None
        self._is_halfway = False
        """Whether the index holds a part of what a scan is finding."""
        self.scans = 0
        """How many times the whole tree was listed."""

    # What is told

    def take(self, event: Event, now: float) -> bool:
        """Take an event; say whether it means that everything must be looked at anew.

        Args:
            event: of any watched folder.
            now: of the monotonic clock.
        """
        folder, name, mask = event
        root = self._tree.place("")
        if mask & (inotify.MOVE_SELF | inotify.UNMOUNT | inotify.IGNORED) and not name:
            return folder == root
        place = f"{folder}/{name}" if folder != "/" else f"/{name}"
        if place in self._indexes:
            self._index_soon.ask(now)
        elif place in self._sources and not (mask & inotify.ATTRIB and mask & inotify.IS_FOLDER):
            self._git_is_stale = True
            self._scan_soon.ask(now)
        if folder == root:
            self._take_below(name, name, "", mask, now)
        elif folder.startswith(f"{root}/") or root == "/":
            inside = folder[len(root.rstrip("/")) + 1 :]
            self._take_below(f"{inside}/{name}", name, inside, mask, now)
        return False

    def _take_below(self, path: str, name: str, folder: str, mask: int, now: float) -> None:
        if name == ".git" or ".git" in folder.split("/"):
            self._take_git(name, folder, now)
            return
        if name == ".gitignore" or path == IGNORE_FILE:
            self._git_is_stale |= name == ".gitignore"
            self._rules_are_stale |= path == IGNORE_FILE
            self._tree.git.forget()
            self._scan_soon.ask(now)
        if mask & inotify.IS_FOLDER and mask & inotify.MOVED_FROM:
            # At once: what comes from below it after this no longer bears this path.
            self._watch.drop(self._tree.place(path))
        if self._is_for_later(path, mask):
            self._again.setdefault(path, now + SOON_SECONDS)
        else:
            self._again.pop(path, None)
            self._put(path, mask)
        if self._touched is not None:
            self._touched.add(path)

    def _put(self, path: str, mask: int) -> None:
        """Have a path looked at, now or, where it went, soon."""
        if mask & (inotify.DELETE | inotify.MOVED_FROM) and path not in self._fresh:
            self._leaving.setdefault(path)
        else:
            self._leaving.pop(path, None)
            self._fresh.setdefault(path)

    def _take_git(self, name: str, folder: str, now: float) -> None:
        """Take what happened to a ``.git``: with one a folder below is a repository of its own."""
        if name == ".git" and folder:
            self._borders[folder] = now + QUIET_SECONDS
        elif folder.endswith("/.git") and name in ("HEAD", "objects", "refs"):
            self._borders[folder[:-5]] = now + QUIET_SECONDS

    def _is_for_later(self, path: str, mask: int) -> bool:
        """Say whether a file was only made, or its permissions changed. The close of a new file
        will be told; but not if it was written before it had a name."""
        if mask & inotify.IS_FOLDER:
            return False
        return bool(mask & inotify.ATTRIB) or (
            bool(mask & inotify.CREATE) and not self._is_linked(path)
        )

    def _is_linked(self, path: str) -> bool:
        """Say whether a file just created is whole: a hard link is, and no later event tells."""
        try:
            status = os.lstat(self._tree.place(path))
        except OSError:
            return False
        return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1

    # What is due

    @property
    def backlog(self) -> int:
        """How many files are to be looked at now."""
        return len(self._fresh) + len(self._leaving) + len(self._bulk)

    @property
    def is_founding(self) -> bool:
        """Whether the tree is indexed for the first time, so that what is found is no save."""
        return self._founding

    @property
    def is_busy(self) -> bool:
        """Whether there are files to look at now."""
        return bool(self._fresh or self._leaving or self._bulk)

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

    @property
    def has_news(self) -> bool:
        """Whether there is something to look at that was told just now, and is soon done."""
        return bool(self._fresh) or 0 < len(self._leaving) <= _AT_ONCE

    def step(self, now: float, is_working: bool, is_denied: bool = False) -> Iterator[bool] | None:
        """Do a small part of what is to be done, and return longer work that became due.

        Args:
            now: of the monotonic clock.
            is_working: as in ``due``.
            is_denied: what takes long is left for later.

        Raises:
            OSError, sqlite3.Error, GitError, InputError: the tree or the index cannot be used.
        """
        if self._fresh:
            self._look(_take_first(self._fresh, _AT_ONCE))
        elif self._again and next(iter(self._again.values())) <= now:
            self._look([path for path, due in take_due(self._again, now) if self._is_quiet(path)])
        elif self._leaving and (not is_denied or self.has_news):
            self._look(_take_first(self._leaving, _AT_ONCE))
        elif self._bulk and not is_denied:
            self._look([self._bulk.popleft() for _ in range(min(_AT_ONCE, len(self._bulk)))], True)
        elif self._settling:
            self._settle(now)
        self._judge_borders(now)
        if self._index_errand is None and self._index_soon.take(now):
            self._index_errand = self._begun(self._read_tracked)
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

    @property
    def waits_since(self) -> float | None:
        """Since when an answer of git is waited for, of the monotonic clock; None when none is. For
        any thread."""
        return min((each.began for each in self._errands if not each.is_done), default=None)

    def _begun(self, task: Callable[[], Any]) -> Errand:
        """Begin an errand."""
        errand = Errand(task, self._wake)
        self._errands = [*(each for each in self._errands if not each.is_done), errand]
        return errand

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
        return {"": self._tree.git, **self._tree.git.inner}

    def _read_tracked(self) -> tuple[Moment, list[tuple[str, Git, Tracked, set[str], set[str]]]]:
        """Read what the repositories track; return since when, and with it what is new in it and
        what is not in it any more."""
        since = Moment.now()
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
        while self.is_busy:
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
        since = Moment.now()
        tracked = self._begun(partial(tracked_paths, self._tree.root))
        if self._git_is_stale or self._rules_are_stale:
            self._tree.refresh()
            self._git_is_stale = self._rules_are_stale = False
        git = self._tree.git
        git.make_ready()
        others = self._begun(git.other_files)
        walk = Walk(self._tree, self._watch_folder, since)
        yield from _until_done(tracked)
        paths = self._paths_from(tracked) if git.is_repository else []
        for _ in walk.ahead(paths, lambda: others.is_done):
            yield True
        yield from _until_done(others)
        for _ in walk.run(listed=others.result()):
            yield True
        self._forget_facts()
        self._take_walk(walk)
        all_tracked = self._begun(self._all_tracked)
        facts = self._begun(git.facts)
        yield from _until_done(all_tracked, facts)
        heats = self._begun(self._first_heats) if self._founding else None
        for each, names in all_tracked.result():
            each.tracked = names
        self._facts = facts.result()
        self._ignores = frozenset(map(self._tree.place, walk.ignores))
        known = self._sources
        self._watch_sources()
        if any(path.endswith("/.git/HEAD") for path in self._sources - known):
            since = EVER  # a repository is being made, and no event told of it until now
        if with_stamps:
            yield from self.compare()
        self._touched = None
        while self.is_busy:
            yield True
        if heats:
            yield from _until_done(heats)
        self._complete(heats, since)

    def _paths_from(self, tracked: Errand) -> list[str]:
        """Return the paths that git tracks; it was asked before it was known to be a repository."""
        try:
            paths: list[str] = tracked.result()
        except GitError:  # it may have become one just then
            return tracked_paths(self._tree.root)
        return paths

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
            if count % STATS_AT_ONCE == STATS_AT_ONCE - 1:
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
        while stamps := self._index.stamps_after(last, STATS_AT_ONCE):
            last = stamps[-1][0]
            if only is not None:
                stamps = [s for s in stamps if os.fsdecode(s[0].rpartition(b"/")[0]) in only]
            for path, size, mtime, ctime in stamps:
                if not _has_stamp(root + path, size, mtime, ctime):
                    self._fresh.setdefault(os.fsdecode(path))
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
        # Even where it is not to be trusted yet: the old one must not be met again, as it would be
        # when what was mounted over the folder goes.
        with self._index.transaction():
            self._index.write_folders({folder: folder_row(status, known)})

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

    def _complete(self, heats: Errand | None, since: Moment) -> None:
        """Note that every file was looked at, by these rules; ask for another scan if what decides
        changed while git listed by it, which was since ``since``. An index counts too: what it
        tracks is read after the list was made, and is then no news when its change is told."""
        self._anew = self._is_halfway = False
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

    def _first_heats(self) -> dict[str, float]:
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

    def _forget_facts(self) -> None:
        """Have the next start scan the tree, until this scan has come to its end.

        It may fail, or be cut off, with a part of what it found in the index; and what decides may
        then be again as it was before.
        """
        self._is_halfway = True
        self._index.keep(sources="")

    def _keep_facts(self, since: Moment) -> bool:
        """Keep what decides, for the next start; not while a scan is halfway.

        Args:
            since: what changed after this was perhaps not seen.

        Returns:
            Whether anything did.
        """
        if self._facts is None or self._is_halfway:
            return False
        self._stamps = stamps = _stamps(self._deciding() | self._facts.indexes())
        late = self._late(since)
        with self._index.transaction():
            self._index.keep(
                facts=json.dumps(self._facts),
                ignores=json.dumps(sorted(self._ignores)),
                sources=json.dumps({**stamps, **{path: [_UNTRUSTED] for path in late}}),
            )
        return bool(late)

    def _late(self, since: Moment) -> set[str]:
        """Return those of what decides that may have changed after a moment. A time in the future
        is doubted once: with the same time still, the file did not change since."""
        least = since.least_stamp
        times = {path: ctime for path, (*_, ctime) in self._stamps.items() if ctime >= least}
        known, self._doubted = self._doubted, times
        return {
            path
            for path, ctime in times.items()
            if not (clock.is_future(ctime) and known.get(path) == ctime)
        }

    def _watch_sources(self) -> None:
        """Watch the folders of what decides outside the tree, and of git's own files."""
        if self._facts is None:
            return
        self._sources = frozenset(self._facts.all_sources())
        self._indexes = frozenset(self._facts.indexes())
        folders = {os.path.dirname(path) for path in self._sources | self._indexes}  # noqa: PTH120
        watched = [self._watch_source(folder) for folder in folders]
        self._has_blind_sources = not all(watched)

    def _watch_source(self, folder: str) -> bool:
        """Watch a folder outside the tree; say whether that can be done. One that is not there
        cannot have anything in it either."""
        try:
            self._watch.add(folder)
        except OSError as error:
            _logger.warning(
                line(
                    "rules-not-watched",
                    workspace=self._name,
                    folder=folder,
                    reason=error.strerror,
                    mend="raise fs.inotify.max_user_watches; until then it is polled",
                )
            )
            return False
        return True


def _has_stamp(place: bytes, size: int, mtime_ns: int, ctime_ns: int) -> bool:
    try:
        status = os.lstat(place)
    except OSError:
        return False
    return (
        status.st_mtime_ns == mtime_ns and status.st_size == size and status.st_ctime_ns == ctime_ns
    )


def _stamps(paths: Iterable[str]) -> dict[str, list[int]]:
    """Return what tells that files are as they were; of a folder only that it is there."""
    found = {path: _stamp(path) for path in sorted(paths)}
    return {path: stamp for path, stamp in found.items() if stamp}


def _stamp(path: str) -> list[int]:
    try:
        status = os.lstat(path)
    except OSError:
        return []
    return [0] if stat.S_ISDIR(status.st_mode) else list(Stamp.of(status))


def _until_done(*errands: Errand) -> Iterator[bool]:
    while not all(errand.is_done for errand in errands):
        yield False


def _take_first(queue: dict[str, None], most: int) -> list[str]:
    taken = [path for path, _ in zip(queue, range(most), strict=False)]
    for path in taken:
        del queue[path]
    return taken


def _is_below_any(path: str, folders: Collection[str]) -> bool:
    """Say whether any folder above a path is one of these."""
    while path:
        path = path.rpartition("/")[0]
        if path in folders:
            return True
    return False
