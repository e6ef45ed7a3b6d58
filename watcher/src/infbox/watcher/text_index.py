"""Keeps a workspace's text index up to the index of its tree, beside the pack."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from itertools import islice
from typing import TYPE_CHECKING

from infbox.errors import GitError, InputError
from infbox.log import line
from infbox.retrieval import texts as module
from infbox.retrieval import words
from infbox.runtime import memory
from infbox.watching.index import Reader, is_damage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from infbox.packing.pack import Source
    from infbox.retrieval.texts import Texts
    from infbox.tree.files import Tree

AT_ONCE = 200
"""Files that are put in one transaction, at most: then it is looked for what must be taken out."""

BYTES_AT_ONCE = 2_000_000
"""Of files that are put in one transaction, but for the last one: they are in memory together."""

RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 300.0
SKIPPED_SECONDS = 30.0
"""Until a file that was not on the disk as the index has it is looked at again."""

_FAILURES = (OSError, GitError, InputError, sqlite3.Error)

_logger = logging.getLogger(__name__)


class TextIndex:
    """A workspace's text index, for the thread that writes it. Blocking.

    What must not be shown goes first, and what changed follows. What is missing comes from
    comparing the two indexes alone, so that nothing is lost between them; they are compared again
    before each step if the watcher's was written to.

    Args:
        file: of the text index.
        index_file: of the watcher's index.
        tree: the files; of this thread alone.
    """

    def __init__(self, file: Path, index_file: Path, tree: Tree) -> None:
        self._file = file
        self._index_file = index_file
        self._index = Reader(index_file)
        self._tree = tree
        self._texts: Texts | None = None
        self._must_forget = True  # what another process removed, and was ended before it forgot
        self._behind: dict[str, str] = {}
        self._compared: tuple[int, int] | None = None
        """The version of the watcher's index that ``_behind`` comes from; None to compare anew."""
        self._skipped: dict[str, str] = {}
        self.has_skipped = False
        """Whether the last step left out files that were not on the disk as the index has them."""

    def close(self) -> None:
        """Close what is open."""
        self._index.close()
        if self._texts is not None:
            self._texts.close()
            self._texts = None

    def step(self) -> bool:
        """Bring it nearer to the index: take out all that has to go, and put some files.

        Returns:
            Whether there is more to do.

        Raises:
            OSError, sqlite3.Error: one of the two cannot be used at present.
        """
        try:
            return self._step()
        except sqlite3.DatabaseError as error:
            if not is_damage(error) or not self._is_damaged():
                raise
            return True

    def _step(self) -> bool:
        texts = self._opened()
        version = self._index.version()
        # To compare takes as long as to put some files: in a first index of many, nearly all of it.
        if version != self._compared:
            self._compare(texts)
            self._compared = version
        some = dict(islice(self._behind.items(), AT_ONCE))
        for path in self._put(texts, some):  # what cannot be put now is tried again
            del self._behind[path]
        if self._behind:
            return True
        if self._must_forget:
            texts.forget_removed()
            self._must_forget = False
        self.has_skipped = bool(self._skipped)
        if self._skipped:
            # The next step tries them again: one that was written anew with the same bytes, or
            # could not be read for a moment, keeps its digest, so that nothing tells of it.
            self._skipped.clear()
            self._compared = None
        return False

    def _compare(self, texts: Texts) -> None:
        """Take out what has to go, and note what is to be put."""
        gone, behind = texts.differences(self._index_file)
        if gone:
            self._must_forget = True
            texts.remove(*gone)
        self._skipped = {p: d for p, d in self._skipped.items() if behind.get(p) == d}
        self._behind = {p: d for p, d in behind.items() if p not in self._skipped}

    def _put(self, texts: Texts, wanted: Mapping[str, str]) -> Iterable[str]:
        """Put the first of the files with these digests; one that is no longer so is taken out.

        Returns:
            The paths of those that were put or taken out.
        """
        # After an upgrade it takes a while until the index was judged by the rules as they are now.
        is_judged = self._index.policy() == self._tree.policy
        found: dict[str, Source | None] = {}
        left = BYTES_AT_ONCE
        for path, digest in wanted.items():
            content = self._tree.readable(path, digest if is_judged else "")
            is_same = content is not None and content.digest == digest
            found[path] = content if is_same else None
            left -= len(content.data) if content else 0
            if left <= 0:
                break
        lost = {path for path, content in found.items() if content is None}
        self._skipped |= {path: wanted[path] for path in lost}  # until all others are put
        self._must_forget |= any(texts.digest(path) for path in lost)
        texts.put_all(found)
        return found

    def _opened(self) -> Texts:
        """Return the text index, begun anew where other rules let its files in."""
        if self._texts is None:
            self._texts = module.opened(self._file)
            self._compared = None
        if self._texts.judged_by != self._tree.policy:
            self._texts.begin(self._tree.policy)
            self._must_forget = True
            self._compared = None
        return self._texts

    def _is_damaged(self) -> bool:
        """Have the text index begun anew if it is that one which is damaged; say whether."""
        if self._texts is None:
            return False
        self._texts.close()
        self._texts = None
        return module.removed_if_damaged(self._file)


class TextThread(threading.Thread):
    """Keeps one workspace's text index as long as it runs.

    Args:
        workspace: its name.
        text_index: every call to it is made here.
    """

    def __init__(self, workspace: str, text_index: TextIndex) -> None:
        super().__init__(name=f"texts-{workspace}", daemon=True)
        self.workspace = workspace
        self.failure = ""
        """Why it is not kept at present; empty where it is."""
        self._text_index = text_index
        self._marked = threading.Event()
        self._is_closed = False
        self._failures = 0

    def mark(self) -> None:
        """Have the index looked at. For any thread."""
        self._marked.set()

    def close(self, ends: float) -> None:
        """Keep it no more.

        Args:
            ends: until when to wait for the thread, of the monotonic clock.
        """
        self._is_closed = True
        self._marked.set()
        if self.is_alive():
            self.join(max(ends - time.monotonic(), 0))

    def run(self) -> None:
        """Keep it until closed."""
        pause: float | None = None
        try:
            while not self._is_closed:
                self._marked.wait(pause)
                self._marked.clear()
                pause = self._keep()
        finally:
            self._text_index.close()

    def _keep(self) -> float | None:
        """Bring it up to the index; return in how many seconds to look again, None for done."""
        try:
            steps = 0
            while not self._is_closed and self._text_index.step():
                steps += 1
            if steps:  # many files: it took much more memory than a save does
                words.forget()
                memory.give_back()
        except Exception as error:  # without it there are still packs
            return self._complain(error)
        if self.failure:
            _logger.info(line("texts-kept-again", workspace=self.workspace))
        self.failure, self._failures = "", 0
        return SKIPPED_SECONDS if self._text_index.has_skipped else None

    def _complain(self, error: Exception) -> float:
        reason = str(error) or type(error).__name__
        trace = None if isinstance(error, _FAILURES) else error
        if reason != self.failure:
            _logger.error(
                line("texts-not-kept", workspace=self.workspace, reason=reason), exc_info=trace
            )
        self.failure = reason
        self._failures += 1
        return min(RETRY_SECONDS * 2.0 ** min(self._failures - 1, 10), LONGEST_RETRY_SECONDS)
