"""Bringing a workspace's index up to its tree: by what events tell, and by looking.

For one thread. Long work is a generator, ``work``: each step of it is short, so that a save is
taken in between two steps.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from infbox.errors import GitError
from infbox.runtime import memory
from infbox.runtime.background import QUIET_SECONDS, BackgroundTask, Debounce
from infbox.runtime.clock import EVER, Moment
from infbox.tree.files import Walk, belonging
from infbox.tree.git import tracked_paths
from infbox.tree.rules import IGNORE_FILE
from infbox.watching import events
from infbox.watching.comparison import Comparison
from infbox.watching.queues import Queues
from infbox.watching.reader import TreeReader
from infbox.watching.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator
    from pathlib import Path

    from infbox.tree.files import Tree
    from infbox.tree.git import Git, Tracked
    from infbox.watching.events import Event, Watch
    from infbox.watching.index import Index


class Reconciler:
    """Keeps an index equal to what a fresh look at the tree would say.

    Args:
        name: of the workspace, for the log.
        tree: the files.
        index: what is known of them.
        watching: where directories are watched; this reconciler alone adds to it and drops from it.
        wake: called, from any thread, when a background task is done.
        blind: directories, absolute, whose changes events may not tell.
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
        self._seed = seed
        self.queues = Queues()
        """What is to be looked at."""
        self.reader = TreeReader(
            name=name, tree=tree, index=index, watching=watching, queues=self.queues, blind=blind
        )
        """Takes files and directories in."""
        self._sources = Sources(name, tree, index, watching)
        self._comparison = Comparison(
            tree,
            index,
            self.reader,
            self.queues,
            on_border=lambda directory: self._borders.update({directory: 0.0}),
            on_ignores=lambda: self._scan_debounce.ask(time.monotonic()),
        )
        self._borders: dict[str, float] = {}
        self._scan_debounce = Debounce()
        self._index_debounce = Debounce()
        self._git_is_stale = False
        self._rules_are_stale = False
        self._index_task: BackgroundTask | None = None
        self._tasks: list[BackgroundTask] = []
        self._touched: set[str] | None = None
        self.scans = 0
        """How many times the whole tree was listed."""

    # What is told

    def take(self, event: Event, now: float) -> bool:
        """Take an event; say whether it means that everything must be looked at anew.

        Args:
            event: of any watched directory.
            now: of the monotonic clock.
        """
        directory, name, mask = event
        root = self._tree.place("")
        if mask & (events.MOVE_SELF | events.UNMOUNT | events.IGNORED) and not name:
            return directory == root
        place = f"{directory.rstrip('/')}/{name}"
        if place in self._sources.indexes:
            self._index_debounce.ask(now)
        elif place in self._sources.files and not (
            mask & events.ATTRIB and mask & events.IS_DIRECTORY
        ):
            self._git_is_stale = True
            self._scan_debounce.ask(now)
        if directory == root:
            self._take_below(self._tree.spelled(name), name, "", mask, now)
        elif directory.startswith(above := root.rstrip("/") + "/"):
            inside = directory[len(above) :]
            path = self._tree.spelled(f"{inside}/{name}")
            self._take_below(path, name, inside, mask, now)
        return False

    def _take_below(self, path: str, name: str, directory: str, mask: int, now: float) -> None:
        if name == ".git" or ".git" in directory.split("/"):
            self._take_git(name, directory, now)
            return
        if name == ".gitignore" or path == IGNORE_FILE:
            self._git_is_stale |= name == ".gitignore"
            self._rules_are_stale |= path == IGNORE_FILE
            self._tree.git.forget()
            self._scan_debounce.ask(now)
        if mask & events.IS_DIRECTORY and mask & events.MOVED_FROM:
            # At once: what comes from below it after this no longer bears this path.
            self._watch.drop(self._tree.place(path))
        if self._may_be_unfinished(path, mask):
            self.queues.postpone(path, now, is_new=True)
        else:
            self.queues.put(path, is_gone=bool(mask & (events.DELETE | events.MOVED_FROM)))
        if self._touched is not None:
            self._touched.add(path)

    def _take_git(self, name: str, directory: str, now: float) -> None:
        """Take what happened to a ``.git``: with one a directory is a repository of its own."""
        if name == ".git" and directory:
            self._borders[directory] = now + QUIET_SECONDS
        elif directory.endswith("/.git") and name in ("HEAD", "objects", "refs"):
            self._borders[directory[:-5]] = now + QUIET_SECONDS

    def _may_be_unfinished(self, path: str, mask: int) -> bool:
        """Say whether a file was only made, or its permissions changed. The close of a new file
        will be told; but not if it was written before it had a name."""
        if mask & events.IS_DIRECTORY:
            return False
        return bool(mask & events.ATTRIB) or (
            bool(mask & events.CREATE) and not self._is_linked(path)
        )

    def _is_linked(self, path: str) -> bool:
        """Say whether a file just created is whole: a hard link is, and no later event tells."""
        try:
            status = os.lstat(self._tree.place(path))
        except OSError:
            return False
        return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1

    # What is due

    def due(self, is_working: bool) -> float | None:
        """Return when ``step`` is to be called, of the monotonic clock, if nothing is told before;
        None when there is nothing to wait for.

        Args:
            is_working: longer work is under way, so that no other is begun.
        """
        scan = None if is_working else self._scan_debounce.due()
        index = None if self._index_task else self._index_debounce.due()
        times = [
            *(moment for moment in (scan, index) if moment is not None),
            *self.queues.moments(),
            *self._borders.values(),
        ]
        return min(times, default=None)

    def step(self, now: float, is_working: bool, is_denied: bool = False) -> Iterator[bool] | None:
        """Do a small part of what is to be done, and return longer work that became due.

        Args:
            now: of the monotonic clock.
            is_working: as in ``due``.
            is_denied: what takes long is left for later.

        Raises:
            OSError, sqlite3.Error, GitError, InputError: the tree or the index cannot be used.
        """
        self._read_some(now, is_denied)
        self._judge_borders(now)
        if self._index_task is None and self._index_debounce.take(now):
            self._index_task = self._begun(self._read_tracked)
        elif self._index_task and self._index_task.is_done:
            self._take_tracked()
        if not is_working and self._scan_debounce.take(now):
            return self.scan()
        return None

    def _read_some(self, now: float, is_denied: bool) -> None:
        """Read some of what is to be looked at, the most urgent first."""
        queues, reader = self.queues, self.reader
        if queues.fresh:
            reader.read(queues.take_fresh())
        elif queues.has_due(now):
            reader.read([path for path in queues.take_due(now) if reader.is_quiet(path)])
        elif queues.leaving and (not is_denied or queues.has_news):
            reader.read(queues.take_leaving())
        elif queues.bulk and not is_denied:
            reader.read(queues.take_bulk(), is_judged=True)
        elif queues.has_unsettled:
            reader.settle(now)

    def poll(self) -> Iterator[bool]:
        """Compare the directories that are not told about, or could not be read, and what decides.

        Yields, raises: as ``start`` does.
        """
        self.check_sources()
        reader = self.reader
        directories = reader.blind_directories | reader.unwatched
        directories |= {path for path in reader.unreadable if self._index.directory(path)}
        if not directories and not reader.unreadable:
            return iter(())  # only what decides is not told of
        return self._comparison.run(directories)

    @property
    def needs_polling(self) -> bool:
        """Whether there is anything that events do not tell about."""
        reader = self.reader
        blind = reader.blind_directories or reader.unwatched or reader.unreadable
        return bool(blind) or self._sources.are_blind

    def check_sources(self) -> None:
        """Ask for a scan if what decides changed without an event."""
        if self._sources.have_changed():
            self._git_is_stale = True
            self._scan_debounce.ask(time.monotonic())

    def load_tracked(self) -> None:
        """Have the repository's index read, so that a later change of it can be told."""
        self._index_debounce.ask(0.0)

    @property
    def waits_since(self) -> float | None:
        """Since when an answer of git is waited for, of the monotonic clock; None when none is. For
        any thread."""
        return min((each.began for each in self._tasks if not each.is_done), default=None)

    def _begun(self, work: Callable[[], Any]) -> BackgroundTask:
        """Begin what waits, beside this thread."""
        task = BackgroundTask(work, self._wake)
        self._tasks = [*(each for each in self._tasks if not each.is_done), task]
        return task

    def _judge_borders(self, now: float) -> None:
        """Look again at directories in which a ``.git`` came, changed or went."""
        for directory in [directory for directory, due in self._borders.items() if due <= now]:
            del self._borders[directory]
            if not self._tree.git.is_repository:
                self._git_is_stale = True
                self._scan_debounce.ask(now)
            elif self.reader.kind(directory) == stat.S_IFDIR:
                self.reader.enter(directory)

    # The repository's index

    def _gits(self) -> dict[str, Git]:
        """Return all that decide, by the directory below which they do."""
        return {"": self._tree.git, **self._tree.git.inner}

    def _read_tracked(self) -> tuple[Moment, list[tuple[str, Git, Tracked, set[str], set[str]]]]:
        """Read what the repositories track; return since when, and with it what is new in it and
        what is not in it any more."""
        since = Moment.now()
        found = []
        for directory, git in self._gits().items():
            new = git.read_tracked()
            before, after = git.tracked.all(), new.all()
            found.append((directory, git, new, after - before, before - after))
        return since, found

    def _take_tracked(self) -> None:
        task, self._index_task = self._index_task, None
        if task is None:
            return
        self._take_new_tracked(*task.result())
        memory.give_back()  # each tracked name was in it more than once

    def _take_new_tracked(
        self, since: Moment, found: list[tuple[str, Git, Tracked, set[str], set[str]]]
    ) -> None:
        now = time.monotonic()
        for directory, git, tracked, came, went in found:
            links = git.tracked.links ^ tracked.links
            git.tracked = tracked
            prefix = f"{directory}/" if directory else ""
            for path in sorted(came):
                self._come(prefix + path)
            for path in sorted(went):
                self._judge_again(prefix + path)
            if came or went:
                marks = {
                    p[:-5] for p in self._index.directory_paths(directory) if p.endswith("/.git")
                }
                for border in {prefix + link for link in links} | marks:
                    self._borders[border] = now
        self._sources.keep(since)

    def _come(self, path: str) -> None:
        """Look at a file that is tracked now; it may lie in a directory that was left alone."""
        if self._index.row(path):
            return
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            directory = "/".join(parts[:depth])
            if not self._index.directory(directory) and self.reader.kind(directory) == stat.S_IFDIR:
                self.reader.enter(directory)
                return
        self.queues.fresh[path] = None

    def _judge_again(self, path: str) -> None:
        """Forget a file that is tracked no more and is ignored."""
        if self._index.row(path) and path not in belonging(self._tree.git, [path]):
            self.reader.write({}, [path])

    # Looking at everything

    def start(self) -> Iterator[bool]:
        """Bring the index up to the tree, of which nothing was told so far.

        Where nothing that decides has changed since, each file and directory is asked for its
        stamp, and nothing is read; else the tree is scanned.

        Yields:
            Whether there is more to do at once; False where something is waited for.

        Raises:
            OSError: the root cannot be read, or is no longer what was mounted there.
            GitError, InputError: the tree cannot be judged.
        """
        self._check_root()
        if self.reader.is_founding or not self._sources.are_as_stored():
            self._git_is_stale |= self._tree.is_from_facts
            yield from self.scan(with_stamps=True)
            return
        self._sources.watch()
        yield from self._comparison.run()
        while self.queues.is_busy:
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
        ignores = yield from self._walked(since)
        all_tracked = self._begun(self._all_tracked)
        facts = self._begun(self._tree.git.facts)
        yield from _until_done(all_tracked, facts)
        heats = self._begun(self._first_heats) if self.reader.is_founding else None
        for each, names in all_tracked.result():
            each.tracked = names
        self._sources.learn(facts.result(), ignores)
        if any(path.endswith("/.git/HEAD") for path in self._sources.watch()):
            since = EVER  # a repository is being made, and no event told of it until now
        if with_stamps:
            yield from self._comparison.run()
        self._touched = None
        while self.queues.is_busy:
            yield True
        if heats:
            yield from _until_done(heats)
        self._complete(heats, since)

    def _walked(self, since: Moment) -> Generator[bool, None, set[str]]:
        """List the whole tree, and take in what came and went; return git's ignore files in it.

        What git and the walk found is let go here: it is every name several times over, and to
        read all files takes long.
        """
        tracked = self._begun(partial(tracked_paths, self._tree.root))
        if self._git_is_stale or self._rules_are_stale:
            self._tree.refresh()
            self._git_is_stale = self._rules_are_stale = False
        git = self._tree.git
        git.make_ready()
        others = self._begun(git.other_files)
        walk = Walk(self._tree, self.reader.watch_directory, since)
        yield from _until_done(tracked)
        paths = self._paths_from(tracked) if git.is_repository else []
        for _ in walk.ahead(paths, lambda: others.is_done):
            yield True
        yield from _until_done(others)
        for _ in walk.run(listed=others.result()):
            yield True
        self._sources.forget()
        self._take_walk(walk)
        return walk.ignores

    def _paths_from(self, tracked: BackgroundTask) -> list[str]:
        """Return the paths that git tracks; it was asked before it was known to be a repository."""
        try:
            paths: list[str] = tracked.result()
        except GitError:  # it may have become one just then
            return tracked_paths(self._tree.root)
        return paths

    def _take_walk(self, walk: Walk) -> None:
        """Take in what a walk over the whole tree found."""
        touched = self._touched or set()
        stored = self._index.paths()
        names_changed = self._index.meta("names") != self._tree.names_policy
        rules_changed = self._index.meta("policy") != self._tree.policy
        self.reader.judges_anew = rules_changed and not self.reader.is_founding
        present = walk.files
        if names_changed:
            present = {path for path in present if self._tree.rules.by_name(path) is None}
        gone = stored - present - touched
        new = present if self.reader.judges_anew else present - stored
        if not names_changed:
            new = {path for path in new if self._tree.rules.by_name(path) is None}
        left = self._index.directory_paths() - walk.directories.keys() - walk.unreadable.keys()
        left = {f for f in left if f not in touched and not _is_below_any(f, touched)}
        gone = {path for path in gone if not _is_below_any(path, touched)}
        self.reader.forget_directories(left)
        self.reader.note(walk)
        self.reader.write({}, sorted(gone))
        self.queues.bulk.extend(sorted(new))

    def _complete(self, heats: BackgroundTask | None, since: Moment) -> None:
        """Note that every file was looked at, by these rules; ask for another scan if what decides
        changed while git listed by it, which was since ``since``. An index counts too: what it
        tracks is read after the list was made, and is then no news when its change is told."""
        self.reader.judges_anew = False
        self._sources.complete()
        with self._index.transaction():
            if heats:
                self._index.warm_up(heats.result())
            self._index.keep(
                complete="1",
                policy=self._tree.policy,
                names=self._tree.names_policy,
                device=str(os.lstat(self._tree.place("")).st_dev),
            )
        self.reader.is_founding = False
        self._index.forget_pages()
        self._tasks = [each for each in self._tasks if not each.is_done]  # and not what they found
        if self._sources.keep(since):
            self._git_is_stale = True
            self._scan_debounce.ask(time.monotonic())

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


def _until_done(*tasks: BackgroundTask) -> Iterator[bool]:
    while not all(task.is_done for task in tasks):
        yield False


def _is_below_any(path: str, directories: Collection[str]) -> bool:
    """Say whether any directory above a path is one of these."""
    while path:
        path = path.rpartition("/")[0]
        if path in directories:
            return True
    return False
