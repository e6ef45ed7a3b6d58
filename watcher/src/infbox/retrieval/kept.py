"""The text index of a workspace as the watcher keeps it, for other processes to read.

What is found in it is shown only if the watcher's own index still lets it be shown: that is written
a moment before the text index follows.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from infbox.retrieval import texts
from infbox.retrieval.texts import Texts
from infbox.watching import index

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class KeptTexts:
    """One workspace's text index, read only. For any thread, one call at a time.

    One that was begun anew is noticed.

    Args:
        state_dir: of the watcher.
        name: of the workspace.
    """

    def __init__(self, state_dir: Path, name: str) -> None:
        self._file = texts.place(state_dir, name)
        self._index = index.Reader(index.place(state_dir, name))
        self._texts: Texts | None = None
        self._inode = 0

    def close(self) -> None:
        """Close what is open."""
        self._index.close()
        self._close_texts()

    def texts(self) -> Texts:
        """Return the text index. Before anything of it is shown, ask ``current``.

        Raises:
            sqlite3.Error, OSError: there is none yet, or it cannot be read at present.
        """
        inode = self._file.stat().st_ino
        if self._texts is None or inode != self._inode:
            self._close_texts()
            self._texts, self._inode = Texts(self._file, is_read_only=True), inode
        return self._texts

    def current(self, paths: Iterable[str]) -> dict[str, str]:
        """Return the digests of files that may be shown, and that the text index has as they are.

        Args:
            paths: of the files that are asked about.

        Raises:
            sqlite3.Error, OSError: it cannot be known at present.
        """
        found = self.texts()
        shown = self.allowed(paths)
        return {path: digest for path, digest in shown.items() if found.digest(path) == digest}

    def allowed(self, paths: Iterable[str]) -> dict[str, str]:
        """Return the digests of files that are there and may be shown, by the watcher's index.

        Raises:
            sqlite3.Error: it cannot be known at present.
        """
        return self._index.digests(set(paths))

    def _close_texts(self) -> None:
        if self._texts is not None:
            self._texts.close()
            self._texts = None


FAILURES = (OSError, sqlite3.Error)
"""What is raised where a text index, or the watcher's, cannot be read at present."""
