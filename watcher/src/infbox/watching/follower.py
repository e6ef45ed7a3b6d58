"""Following a workspace: a thread that takes events as they come and keeps the index.

It waits for nothing else: what takes long is done in small steps between events, or beside it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from infbox.errors import GitError, InputError
from infbox.log import line
from infbox.runtime.background import LOST_SECONDS, Turns
from infbox.tree import mounts
from infbox.tree.files import Tree
from infbox.tree.git import Facts
from infbox.watching import edit_frequency, events, index, system
from infbox.watching.changes import Changes
from infbox.watching.reconciler import Reconciler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infbox.watching.events import Watch

RECONCILE_SECONDS = 300.0
"""Between whole looks at each tree: the net under what events do not tell."""

RETRY_SECONDS = 5.0
"""Between looks at a tree that cannot be used."""

_IDLE_SECONDS = 1.0  # before the index's log is moved into the database
_POLL_SHARE = 20
"""The pause after a pass over what is polled, in lengths of the pass: less than 5 % of a core."""

_MANY_WAITING = 64  # files
_UNTOLD_SECONDS = 2.0
"""Longest time that the one who packs is told nothing while that many files wait."""

HUNG_SECONDS = 15.0
"""A tree that has not answered for so long is shown as unhealthy. It is less than from one sign of
life to the next: by the next one it is known that this tree cannot hear."""

_GIT_SECONDS = 60.0  # the same of a git that is not waited for by anything but a scan
_LONGEST_RETRY_SECONDS = 300.0
_REST_SECONDS = 2.0  # after which a git that is not asked anything is ended
_REMEMBERED_TIMES = 10_000
_FAILURES = (OSError, GitError, InputError, sqlite3.Error)

_logger = logging.getLogger(__name__)


class Follower(threading.Thread):
    """Follows one workspace's tree until it is stopped.

    Args:
        name: of the workspace.
        root: of its tree.
        state_dir: of the watcher.
        max_file_bytes: larger files stay out.
        poll_seconds: between passes over what inotify does not tell about.
        control_tokens: files that hold one of these texts stay out.
        turns: at long work, with other followers; None for none.

    Nothing of the tree is looked at but in the thread itself: its file system may be away.

    Raises:
        InputError: a newer version wrote the index.
        OSError, sqlite3.Error: the state directory cannot be used.
    """

    def __init__(
        self,
        *,
        name: str,
        root: Path,
        state_dir: Path,
        max_file_bytes: int,
        poll_seconds: float,
        control_tokens: tuple[str, ...] = (),
        turns: Turns | None = None,
    ) -> None:
        super().__init__(name=f"follow-{name}", daemon=True)
        self.workspace = name
        self.changes = Changes()
        self.scanned = threading.Event()
        """Set once the tree was looked at for the first time, or could not be."""
        self.failure = ""
        """Why the tree cannot be followed at present; empty while it is."""
        self.failing_since: float | None = None
        """Since when, of the monotonic clock."""
        self.crashed: BaseException | None = None
        """What should never have been raised, and was last."""
        self.save_to_indexed: float | None = None
        """Seconds from its event until it was committed."""
        self.times: deque[float] = deque(maxlen=_REMEMBERED_TIMES)
        """The same of the latest saves, for whoever takes them out."""
        self.events = 0
        self.overflows = 0
        self.scans = 0
        self.unwatched_directories = self.polled_directories = self.unreadable_paths = 0
        self.sentinel_seen = 0.0
        """When a write to the sentinel directory was heard of last, of the monotonic clock."""
        self._given, self._root = root, root.as_posix()
        self._max_file_bytes = max_file_bytes
        self._control_tokens = control_tokens
        self._poll_seconds = poll_seconds
        self.index_file = index.place(state_dir, name)
        self._sentinel = sentinel(state_dir, name)
        self._sentinel_place = self._sentinel.as_posix()
        self._sentinel.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._index = index.opened(self.index_file)
        self._tree = self._open_tree(stored=True)
        self._is_stopping = self._must_check_index = False
        self._is_watchless = False
        self._sentinel_was = 0
        self._watch = self._new_watch()
        self._reconciler: Reconciler | None = None
        self._work: Iterator[bool] | None = None
        self._has_more = False
        self._turns = turns or Turns(1)
        self._is_denied = False
        self._work_began = self._worked_before = 0.0
        self._is_poll = False
        self._mounts: list[mounts.Mount] = []
        self._saved_at: float | None = None
        self._dirty_since: float | None = None
        self._untold = 0.0
        self._reconcile_at = self._retry_at = self._poll_at = 0.0
        self._failures = 0
        self._turned_at: float | None = None

    def hangs_since(self) -> float | None:
        """Return since when the tree gives no answer, of the monotonic clock; None where it does.
        For any thread."""
        now, turned, reconciler = time.monotonic(), self._turned_at, self._reconciler
        if turned is not None and now - turned > HUNG_SECONDS:
            return turned
        waits = reconciler.waits_since if reconciler else None
        return waits if waits is not None and now - waits > _GIT_SECONDS else None

    def check_index(self) -> None:
        """Have the index checked soon, since another could not read it."""
        self._must_check_index = True
        self._wake()

    def stop(self) -> None:
        """Have the thread end soon."""
        self._is_stopping = True
        self._wake()

    def run(self) -> None:
        """Follow the tree."""
        try:
            self._follow()
        except BaseException as error:
            self.crashed = error
            _logger.critical(line("stopped-following", workspace=self.workspace), exc_info=True)
        finally:
            self.scanned.set()
            self.changes.close()
            self._turns.give(self._wake)
            self._tree.close()
            self._index.close()
            self._watch.close()

    def _follow(self) -> None:
        self._turned_at = time.monotonic()
        self._begin()
        while not self._is_stopping:
            patience = self._patience()
            self._turned_at = None
            is_remounted = self._watch.wait(patience)
            self._turned_at = time.monotonic()
            try:
                if is_remounted and self._mounts_changed():
                    self._restart()
                self._turn()
            except Exception as error:  # one tree's slip takes nothing from the others
                self._fail(error)

    def _patience(self) -> float:
        """Return how long to wait for an event, in milliseconds."""
        reconciler, now = self._reconciler, time.monotonic()
        if reconciler is None:
            return max(self._retry_at - now, 0) * 1000
        if reconciler.queues.has_news or (not self._is_denied and self._has_long_work(reconciler)):
            return 0
        moments = [now + LOST_SECONDS] if self._is_denied else []
        moments += [self._reconcile_at] if self._work is None else []
        if self._work is None and reconciler.needs_polling:
            moments.append(self._poll_at)
        if self._dirty_since is not None and not reconciler.queues.is_busy:
            moments.append(self._dirty_since + _IDLE_SECONDS)
        if (moment := reconciler.due(self._work is not None)) is not None:
            moments.append(moment)
        if self._work is None and (asked := self._tree.git.asked_at) is not None:
            moments.append(asked + _REST_SECONDS)
        left = min(moments, default=now + RETRY_SECONDS) - now
        return max(left * 1000 + 0.5, 0)  # poll cuts to whole milliseconds

    def _turn(self) -> None:
        now = time.monotonic()
        self._take_events(now)
        reconciler = self._reconciler
        if reconciler is None:
            if now >= self._retry_at:
                self._begin()
            return
        if self._must_check_index:
            self._must_check_index = False
            self._index.check()
        edits = reconciler.reader.edits
        was_known = self.scanned.is_set() and not reconciler.reader.is_founding
        is_working = self._work is not None or reconciler.queues.is_busy
        self._is_denied = is_working and not self._turns.take(self._wake)
        work = reconciler.step(now, self._work is not None, self._is_denied)
        if work:
            self._begin_work(work)
        if not self._is_denied:
            self._advance()
        is_done = not (reconciler.queues.is_busy or self._work)
        if is_working and (is_done or not (self._is_denied or self._has_long_work(reconciler))):
            self._is_denied = False
            self._turns.give(self._wake)
        self._time_for_more(now)
        self._tell(reconciler, edits, now, was_known)

    def _take_events(self, now: float) -> None:
        lost = reset = False
        for event in self._watch.events():
            if event.directory == self._sentinel_place:
                self.sentinel_seen = now
                continue
            self.events += 1
            if event.mask & events.OVERFLOW:
                lost = True
            elif self._reconciler:
                reset |= self._reconciler.take(event, now)
                if self._saved_at is None:
                    self._saved_at = time.monotonic()
        if self._is_watchless and self._sentinel_stamp() != self._sentinel_was:
            self._sentinel_was, self.sentinel_seen = self._sentinel_stamp(), now
        if lost:
            self.overflows += 1
            _logger.warning(
                line("events-lost", workspace=self.workspace, hint="the whole tree is compared")
            )
        if reset or (lost and self._reconciler is None):
            self._restart()
        elif lost and self._reconciler:
            self._begin_work(self._reconciler.scan(with_stamps=True))

    def _has_long_work(self, reconciler: Reconciler) -> bool:
        """Say whether there is something to do at once that is not news."""
        return reconciler.queues.is_busy or (self._work is not None and self._has_more)

    def _advance(self) -> None:
        """Do a step of longer work."""
        if self._work is None:
            return
        try:
            self._has_more = next(self._work)
        except StopIteration:
            self._end_work()

    def _begin_work(self, work: Iterator[bool], is_poll: bool = False) -> None:
        self._work, self._has_more, self._is_poll = work, True, is_poll
        self._work_began, self._worked_before = time.monotonic(), time.thread_time()

    def _end_work(self) -> None:
        now = time.monotonic()
        self._work = None
        worked = time.thread_time() - self._worked_before if self._is_poll else 0.0
        self._poll_at = now + max(self._poll_seconds, _POLL_SHARE * worked)
        if not self._is_poll:
            self._reconcile_at = now + min(RECONCILE_SECONDS, self._watch.net_seconds)
        if self.failure:
            _logger.info(line("readable-again", workspace=self.workspace))
            self.failure, self.failing_since = "", None
        if not self._is_poll:
            self._failures = 0
        if not self.scanned.is_set():
            self._is_ready(now - self._work_began)

    def _is_ready(self, took: float) -> None:
        self.scanned.set()
        self.changes.mark(None)
        _logger.info(
            line("scanned", workspace=self.workspace, seconds=took, watches=len(self._watch))
        )
        if self._reconciler:
            self._reconciler.load_tracked()

    def _time_for_more(self, now: float) -> None:
        """Begin what is to be done from time to time."""
        reconciler = self._reconciler
        if reconciler is None or reconciler.queues.is_busy:
            return
        if self._dirty_since is not None and now >= self._dirty_since + _IDLE_SECONDS:
            self._dirty_since = None
            self._index.checkpoint()
        if self._work is not None:
            return
        self._tree.git.rest(now - _REST_SECONDS)
        if now >= self._reconcile_at:
            self._index.check()
            reconciler.check_sources()
            self._begin_work(reconciler.scan(with_stamps=True))
        elif reconciler.needs_polling and now >= self._poll_at:
            self._begin_work(reconciler.poll(), is_poll=True)

    def _tell(self, reconciler: Reconciler, edits: int, now: float, was_known: bool) -> None:
        """Tell what came of this turn, before which the tree was known already or not."""
        self.scans += reconciler.scans
        reconciler.scans = 0
        self.unwatched_directories = len(reconciler.reader.unwatched)
        self.polled_directories = len(
            reconciler.reader.unwatched | reconciler.reader.blind_directories
        )
        self.unreadable_paths = len(reconciler.reader.unreadable)
        if reconciler.reader.edits != edits:
            self._dirty_since = now
            self._untold = self._untold or now
            if self._saved_at is not None:
                self.save_to_indexed = time.monotonic() - self._saved_at
                self.times.append(self.save_to_indexed)
            elif was_known:
                # A scan or a pass over what is polled came before its event, or there is none, or
                # it was still being written then: it counts from when it was found.
                self._saved_at = now
        if self._untold and self._is_worth_telling(reconciler, now):
            self._untold = 0.0
            self.changes.mark(self._saved_at)
        if not reconciler.queues.is_busy:
            self._saved_at = None

    def _is_worth_telling(self, reconciler: Reconciler, now: float) -> bool:
        """Say whether a pack may be made of what is in the index by now. In the midst of a
        checkout it may not: it would be another a moment later, and making it takes long."""
        if not self.scanned.is_set():
            return False
        return reconciler.queues.backlog <= _MANY_WAITING or now - self._untold >= _UNTOLD_SECONDS

    # Beginning, failing, beginning again

    def _begin(self) -> None:
        """Begin to follow, or try to."""
        try:
            self._root = self._tree.place("")
            self._mounts = self._read_mounts()
            spots = mounts.blind_spots(self._root, self._watch.mounts())
            self._watch.begin(self._root)
            self._reconciler = Reconciler(
                name=self.workspace,
                tree=self._tree,
                index=self._index,
                watching=self._watch,
                wake=self._wake,
                blind=spots.keys(),
                seed=_heats,
            )
            self._watch_sentinel()
            self._begin_work(self._reconciler.start())
            for place, reason in spots.items():
                _logger.info(
                    line("polled", workspace=self.workspace, directory=place, file_system=reason)
                )
        except Exception as error:  # as in ``_follow``
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Note that the tree cannot be followed: what is known of it stays, and it is retried."""
        reason = str(error) or type(error).__name__
        if not isinstance(error, _FAILURES):
            reason = f"{type(error).__name__}: see the journal of infbox-watcher"
            self.crashed = error
        if reason != self.failure:
            trace = None if isinstance(error, _FAILURES) else error
            _logger.error(
                line("not-readable", workspace=self.workspace, reason=reason), exc_info=trace
            )
        if self.failing_since is None:
            self.failing_since = time.monotonic()
        self.failure = reason
        self._work = self._reconciler = None
        self._turns.give(self._wake)
        self._retry_at = time.monotonic() + self._pause(error)
        try:
            self._watch.drop(self._root)
            if isinstance(error, sqlite3.Error):
                self._repair_index(error)
            else:
                self._tree.close()
                self._tree = self._open_tree(stored=False)
        except Exception:
            _logger.debug(line("not-repaired", workspace=self.workspace), exc_info=True)
        if self.failure and not self.scanned.is_set():
            self.scanned.set()

    def _pause(self, error: Exception) -> float:
        """Return the seconds until the next try. What is not there may come at any moment, and to
        see that takes nothing; a git that hangs, or a slip of ours, costs as much each time."""
        if isinstance(error, OSError | sqlite3.Error | InputError):
            return RETRY_SECONDS
        self._failures += 1
        return min(RETRY_SECONDS * 2.0 ** min(self._failures - 1, 10), _LONGEST_RETRY_SECONDS)

    def _repair_index(self, error: sqlite3.Error) -> None:
        """Open the index anew; a damaged one is set aside, and made again at once."""
        self._index.close()
        last = self._index.last_edit
        if index.is_damage(error):
            index.set_aside(self.index_file, error)
        if index.is_damage(error) or not self.index_file.exists():
            self._index = index.begun_again(self.index_file, last)
            self._retry_at = 0.0
        else:
            self._index = index.opened(self.index_file)

    def _restart(self) -> None:
        """Look at everything anew, since the root or what is mounted in it is another."""
        self._watch.drop(self._root)
        self._work = self._reconciler = None
        self._tree.close()
        self._tree = self._open_tree(stored=True)
        self._begin()

    def _open_tree(self, *, stored: bool) -> Tree:
        facts = None
        if stored:
            try:
                facts = Facts.of(self._index.meta_json("facts"))
            except (TypeError, ValueError):
                facts = None
        return Tree(self._given, self._max_file_bytes, facts, self._control_tokens)

    def _new_watch(self) -> Watch:
        return system.watch()

    def _watch_sentinel(self) -> None:
        self._sentinel_was = self._sentinel_stamp()
        try:
            self._watch.add(self._sentinel_place)
        except OSError:
            self._is_watchless = True

    def _sentinel_stamp(self) -> int:
        try:
            return (self._sentinel / "beat").stat().st_mtime_ns
        except OSError:
            return 0

    def _read_mounts(self) -> list[mounts.Mount]:
        return mounts.inner(self._root, self._watch.mounts())

    def _mounts_changed(self) -> bool:
        return self._read_mounts() != self._mounts

    def _wake(self) -> None:
        self._watch.wake()


def sentinel(state_dir: Path, name: str) -> Path:
    """Return the directory whose writes a workspace's follower must hear of."""
    return state_dir / "sentinel" / name


def _heats(root: Path) -> dict[str, float]:
    """Return how often and lately files were edited, by the history of their repository."""
    try:
        return edit_frequency.heats_from_git(root)
    except GitError as error:
        _logger.info(line("no-history", root=root, reason=error))
        return {}
