"""What decides which files belong to a tree: git's rules, its configuration and its indexes."""

from __future__ import annotations

import json
import logging
import os
import stat
from typing import TYPE_CHECKING

from infbox.log import line
from infbox.runtime import clock
from infbox.tree.git import Facts
from infbox.tree.records import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from infbox.runtime.clock import Moment
    from infbox.tree.files import Tree
    from infbox.watching.events import Watch
    from infbox.watching.index import Index

_UNTRUSTED = -1

_logger = logging.getLogger(__name__)


class Sources:
    """Knows what decides about a tree, and whether it changed. For one thread.

    Args:
        name: of the workspace, for the log.
        tree: the files.
        index: where it is kept for the next start.
        watching: where the directories of what decides are watched.
    """

    def __init__(self, name: str, tree: Tree, index: Index, watching: Watch) -> None:
        self._name = name
        self._tree = tree
        self._index = index
        self._watch = watching
        self._facts: Facts | None = None
        self._ignores: frozenset[str] = frozenset()
        self._stamps: dict[str, list[int]] = {}
        self._doubted: dict[str, int] = {}
        """What decides and was taken for changed lately, with the time that it had."""
        self._is_halfway = False
        """Whether the index holds a part of what a scan is finding."""
        self.files: frozenset[str] = frozenset()
        """All that decide, without the repositories' indexes; as watched."""
        self.indexes: frozenset[str] = frozenset()
        """The repositories' indexes; as watched."""
        self.are_blind = False
        """Whether a change of one may not be told."""

    def are_as_stored(self) -> bool:
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

    def have_changed(self) -> bool:
        """Say whether any changed since it was kept last."""
        if self._facts is None:
            return False
        return _stamps(self._deciding() | self._facts.indexes()) != self._stamps

    def learn(self, facts: Facts, ignores: Iterable[str]) -> None:
        """Take what a scan found to decide.

        Args:
            facts: of the repositories.
            ignores: ignore files of git's within the tree.
        """
        self._facts, self._ignores = facts, frozenset(map(self._tree.place, ignores))

    def forget(self) -> None:
        """Have the next start scan the tree, until this scan has come to its end.

        It may fail, or be cut off, with a part of what it found in the index; and what decides may
        then be again as it was before.
        """
        self._is_halfway = True
        self._index.keep(sources="")

    def complete(self) -> None:
        """Take note that a scan came to its end."""
        self._is_halfway = False

    def keep(self, since: Moment) -> bool:
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

    def watch(self) -> frozenset[str]:
        """Watch the directories of what decides outside the tree, and of git's own files; return
        what was not known to decide before."""
        known = self.files
        if self._facts is None:
            return frozenset()
        self.files = frozenset(self._facts.all_sources())
        self.indexes = frozenset(self._facts.indexes())
        directories = {os.path.dirname(path) for path in self.files | self.indexes}  # noqa: PTH120
        watched = [self._watch_one(directory) for directory in directories]
        self.are_blind = not all(watched)
        return self.files - known

    def _deciding(self) -> set[str]:
        """Return the files that decide, without the repositories' indexes."""
        return (self._facts.all_sources() if self._facts else set()) | self._ignores

    def _late(self, since: Moment) -> set[str]:
        """Return those of what decides that may have changed after a moment. A time in the future
        is doubted once: with the same time still, the file did not change since."""
        minimum = since.min_stamp
        times = {path: ctime for path, (*_, ctime) in self._stamps.items() if ctime >= minimum}
        known, self._doubted = self._doubted, times
        return {
            path
            for path, ctime in times.items()
            if not (clock.is_future(ctime) and known.get(path) == ctime)
        }

    def _watch_one(self, directory: str) -> bool:
        """Watch a directory outside the tree; say whether that can be done. One that is not there
        cannot have anything in it either."""
        if not self._watch.reaches(directory):
            return False
        try:
            self._watch.add(directory)
        except OSError as error:
            _logger.warning(
                line(
                    "rules-not-watched",
                    workspace=self._name,
                    directory=directory,
                    reason=error.strerror,
                    hint="raise fs.inotify.max_user_watches; until then it is polled",
                )
            )
            return False
        return True


def _stamps(paths: Iterable[str]) -> dict[str, list[int]]:
    """Return what tells that files are as they were; of a directory only that it is there."""
    found = {path: _stamp(path) for path in sorted(paths)}
    return {path: stamp for path, stamp in found.items() if stamp}


def _stamp(path: str) -> list[int]:
    try:
        status = os.lstat(path)
    except OSError:
        return []
    return [0] if stat.S_ISDIR(status.st_mode) else list(Stamp.of(status))
