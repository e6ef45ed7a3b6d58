"""One workspace: from touched paths to a published pack. Blocking, one call at a time."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from infbox.errors import InputError
from infbox.files import IGNORE_FILES, Content, Stamp, Tree
from infbox.index import Index, NewerIndexError, Row, State
from infbox.log import line
from infbox.pack import Candidate, Pack, common_length, ranked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from infbox.tokens import Counter
    from infbox.watch import Batch, Watch

_MANY_UNKNOWN = 200
"""Paths that git is asked about by name; with more, listing the whole tree is cheaper."""

_CLOCK_TICK_NS = 20_000_000
"""The kernel moves a file's times in ticks. A file read within one of its last change may change
again and keep its stamp."""

_UNKNOWN_STAMP = Stamp(-1, -1, -1)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publication:
    """A pack as the gateway reads it; ``tokens`` are counted, ``sha256`` is that of the text."""

    workspace: str
    model: str
    generation: int
    version: int
    sha256: str
    tokens: int
    text: str


class Workspace:
    """A source tree, its index and its pack.

    Args:
        name: of the workspace.
        model: the name the engine serves.
        tree: the files.
        budget: of the pack, in tokens.
        count: counts tokens.
        counted_by: names what counts tokens; a pack counted otherwise is made anew.
        state_dir: of the watcher; the index and the pack lie below it.

    Raises:
        InputError: the index was written by a newer version.
        OSError: the state directory cannot be used.
        sqlite3.Error: the index cannot be used.
    """

    def __init__(
        self,
        *,
        name: str,
        model: str,
        tree: Tree,
        budget: int,
        count: Counter,
        counted_by: str,
        state_dir: Path,
    ) -> None:
        self.name = name
        self.tree = tree
        self.watch: Watch | None = None
        """Where folders are watched from, once there is something to tell."""
        self.publication: Publication | None = None
        """What was published last, by this process or one before it."""
        self._model = model
        self._budget = budget
        self._count = count
        self._policy = f"{budget} tokens counted by {counted_by}"
        self._published = state_dir / "packs" / name / "pack.json"
        index = state_dir / "index" / f"{name}.db"
        for file in (self._published, index):
            file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._index = _open_index(index)
        self._pack = self._stored_pack()

    @property
    def files(self) -> int:
        """How many files may enter the pack."""
        return sum(row.refused is None for row in self._index.files.values())

    @property
    def superseded(self) -> int:
        """Tokens of the pack that a later entry supersedes."""
        return self._pack.superseded

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def look(self, batch: Batch) -> bool:
        """Look at what was touched, and publish the pack anew if its text changed.

        Returns:
            Whether it did; ``publication`` then holds it.

        Raises:
            OSError, sqlite3.Error: the root, or the state directory, cannot be used at present.
            GitError: git could not answer.
            InputError: the workspace's ignore file cannot be used.
        """
        ignores_changed = any(path.rpartition("/")[2] in IGNORE_FILES for path in batch.paths)
        if batch.everything or ignores_changed:
            self._look_at_all()
        else:
            self._look_at(batch.paths)
        published = self._repack()
        if not published and (batch.everything or self.publication is None):
            published = self._republish()
        return published

    def _look_at_all(self) -> None:
        self.tree.refresh()
        if self.watch:
            self.watch.restart()
        present = self.tree.scan(entering=self._enter)
        self._take(present, gone=self._index.files.keys() - present)

    def _look_at(self, paths: Iterable[str]) -> None:
        known = self._index.files
        present: set[str] = set()
        unknown: set[str] = set()
        suspects: set[str] = set()
        for path in paths:
            target = self.tree.root / path
            suspects |= self._known_below(path)
            if target.is_symlink() or not target.exists():
                self._leave(path)
            elif target.is_dir():
                present |= self._scan_folder(path)
            else:
                (present if path in known else unknown).add(path)
        if len(unknown) > _MANY_UNKNOWN:
            self._look_at_all()
            return
        present |= self.tree.belonging(unknown)
        self._take(present, gone=suspects - present, surely_touched=present)

    def _scan_folder(self, folder: str) -> set[str]:
        if ".git" in folder.split("/") or self.tree.is_ignored(folder):
            return set()
        return self.tree.scan(folder, self._enter)

    def _known_below(self, path: str) -> set[str]:
        if path in self._index.files:
            return {path}
        return {known for known in self._index.files if known.startswith(f"{path}/")}

    def _enter(self, folder: str) -> None:
        if self.watch:
            self.watch.add(folder)

    def _leave(self, path: str) -> None:
        if self.watch:
            self.watch.drop(path)

    def _take(
        self, present: Iterable[str], gone: Iterable[str], surely_touched: Collection[str] = ()
    ) -> None:
        """Bring the index up to date.

        Args:
            present: files to look at.
            gone: files that are no longer there, or belong no longer.
            surely_touched: files to read even if their stamp is as it was.
        """
        known = self._index.files
        is_first_scan = not known
        rows: dict[str, Row] = {}
        lost = set(gone)
        for path in present:
            row = known.get(path)
            if row and path not in surely_touched and self._is_unchanged(path, row):
                continue
            content = self.tree.read(path)
            if content is None:
                lost.add(path)
            elif row and row.digest == content.digest and row.refused == content.refused:
                rows[path] = replace(row, stamp=_trusted(content))
            else:
                edit = 0 if is_first_scan else self._index.next_edit()
                rows[path] = Row(_trusted(content), content.digest, content.refused, edit)
        self._index.update(rows, lost)

    def _is_unchanged(self, path: str, row: Row) -> bool:
        try:
            return Stamp.of((self.tree.root / path).lstat()) == row.stamp
        except OSError:
            return False

    def _repack(self) -> bool:
        """Bring the pack up to where the index is; say whether its text changed.

        What is missing follows from the two alone, so that nothing is lost between them.
        """
        state = self._index.state()
        if state.policy != self._policy:
            self._rebuild(state)
            return True
        before = tuple(self._pack.entries)
        kept = {path: row for path, row in self._index.files.items() if row.refused is None}
        for path in sorted(self._pack.shown() - kept.keys()):
            self._pack.remove(path)
        edits = [(row.edit, path) for path, row in kept.items() if row.edit > state.edit]
        for _, path in sorted(edits):
            if content := self.tree.readable(path):
                self._pack.save(path, content)
            if self._pack.is_worn:
                break
        if self._pack.is_worn:
            self._rebuild(state)
            return True
        same = common_length(before, self._pack.entries)
        if same == len(before) == len(self._pack.entries):
            return False
        version = state.version + 1
        self._store(replace(state, version=version, edit=self._index.last_edit), same)
        return True

    def _rebuild(self, state: State) -> None:
        """Make and publish the next generation: files edited last come first into it."""
        candidates = ranked(
            Candidate(path, row.stamp.size, row.edit)
            for path, row in self._index.files.items()
            if row.refused is None
        )
        self._pack = Pack.build(
            self.name, candidates, self.tree.readable, self._budget, self._count
        )
        edit = self._index.last_edit
        self._store(State(state.generation + 1, state.version + 1, edit, self._policy), same=0)

    def _stored_pack(self) -> Pack:
        return Pack(self._index.entries(), self._budget, self._count)

    def _store(self, state: State, same: int) -> None:
        try:
            self._index.store(state, self._pack.entries, same)
        except sqlite3.Error:
            self._pack = self._stored_pack()  # so that the next look tries again
            raise
        publication = self._describe(state)
        _write_atomically(self._published, _as_json(publication))
        self.publication = publication

    def _republish(self) -> bool:
        """Write the published file again if it is not what the index says, as after a crash."""
        told, publication = self.publication, self._describe(self._index.state())
        wanted = _as_json(publication)
        is_other = _read_or_empty(self._published) != wanted
        if is_other:
            _write_atomically(self._published, wanted)
        self.publication = publication
        return is_other or told is None

    def _describe(self, state: State) -> Publication:
        text = self._pack.text
        return Publication(
            workspace=self.name,
            model=self._model,
            generation=state.generation,
            version=state.version,
            sha256=sha256(text.encode()).hexdigest(),
            tokens=self._pack.tokens,
            text=text,
        )


def _open_index(file: Path) -> Index:
    """Open the index; a damaged one is set aside and begun anew, which the log says."""
    try:
        return Index(file)
    except NewerIndexError as error:
        raise InputError(
            f"{file}: a newer version of infbox-watcher wrote it: install that, or remove the file"
        ) from error
    except sqlite3.DatabaseError as error:
        _logger.warning(line("index-damaged", file=file, error=error, mend="it is built anew"))
        for part in (file, *file.parent.glob(f"{file.name}-*")):
            part.unlink(missing_ok=True)
        return Index(file)


def _trusted(content: Content) -> Stamp:
    """Return the stamp by which a later look knows the file unchanged, or one that never does."""
    stamp = content.stamp
    if stamp is None or time.time_ns() - stamp.ctime_ns < _CLOCK_TICK_NS:
        return replace(_UNKNOWN_STAMP, size=len(content.data))
    return stamp


def _as_json(publication: Publication) -> str:
    return json.dumps(asdict(publication), ensure_ascii=False)


def _read_or_empty(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _write_atomically(file: Path, text: str) -> None:
    """Replace a file in one step, mode 0640.

    It is not flushed to the disk: after a power cut the index, which is, writes it again.
    """
    beside = file.with_suffix(".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    beside.replace(file)
