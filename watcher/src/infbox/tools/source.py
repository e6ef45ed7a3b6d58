"""The files of a workspace as tools may show them.

Tools read nothing of the tree itself. The text index holds each file that may be shown, as the
watcher read and judged it, and the watcher's own index says whether it may be shown still. So no
name that a client sends ever becomes a path on the disk, and whoever answers clients needs no
right to read trees.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from infbox.kinds import RETRIEVAL_WEIGHTS
from infbox.retrieval.kept import KeptTexts
from infbox.watching import index

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from infbox.kinds import KindWeights
    from infbox.retrieval.texts import Texts
    from infbox.watching.index import File

SECONDS = 5.0
"""That a tool may look through files; what was found until then is returned."""

MAX_PATH_CHARS = 1000
"""Of a path that a client names."""


class ToolError(Exception):
    """A tool cannot do what was asked; the message tells the model why, and what to do."""


class Source:
    """A workspace's files, for one call of a tool. For one thread.

    Args:
        state_dir: of the watcher.
        name: of the workspace.
        seconds: after which ``is_late`` holds.
        weights: what a match is worth, by the kind of its file.
    """

    def __init__(
        self,
        state_dir: Path,
        name: str,
        seconds: float = SECONDS,
        weights: KindWeights = RETRIEVAL_WEIGHTS,
    ) -> None:
        self.weights = weights
        self._kept = KeptTexts(state_dir, name)
        self._index = index.Reader(index.place(state_dir, name))
        self._ends = time.monotonic() + seconds

    def close(self) -> None:
        """Close what is open."""
        self._kept.close()
        self._index.close()

    @property
    def is_late(self) -> bool:
        """Whether the call has taken as long as it may."""
        return time.monotonic() >= self._ends

    @property
    def texts(self) -> Texts:
        """The text index. What is found in it is shown only if ``shown`` names its file.

        Raises:
            sqlite3.Error, OSError: it cannot be read at present.
        """
        return self._kept.texts()

    def shown(self, paths: Iterable[str]) -> set[str]:
        """Return which of these files may be shown, and stand in the text index as they are now.

        Raises:
            sqlite3.Error, OSError: it cannot be known at present.
        """
        return set(self._kept.current(path for path in paths if is_plain(path)))

    def files(self) -> dict[str, int]:
        """Return all files that may be shown, with their sizes in bytes, in order of their paths.

        Raises:
            sqlite3.Error: it cannot be known at present.
        """
        return {file.path: file.size for file in self._index.kept() if is_plain(file.path)}

    def edited_since(self, edit: int) -> list[File]:
        """Return the files that may be shown and were edited after an edit, in order.

        Raises:
            sqlite3.Error: it cannot be known at present.
        """
        return [file for file in self._index.edited_since(edit) if is_plain(file.path)]

    def last_edit(self) -> int:
        """Return the number of the last edit.

        Raises:
            sqlite3.Error: it cannot be known at present.
        """
        return self._index.last_edit()

    def text(self, path: str) -> str:
        """Return a file's text.

        Raises:
            ToolError: there is no such file that may be shown.
            sqlite3.Error, OSError: it cannot be read at present.
        """
        text = self.texts.whole(path) if is_plain(path) else ""
        if path not in self.shown([path]):
            raise ToolError(
                f"There is no file {shortened(path)} that may be shown. Ignored files, secrets, "
                "generated and binary files are left out; outline without a path lists the rest. "
                "One that was saved a moment ago is there soon."
            )
        return text


def is_plain(path: str) -> bool:
    """Say whether a path is text that stands on one line: any other cannot be named to a model."""
    return path.isprintable() and len(path) <= MAX_PATH_CHARS


def shortened(text: str, most: int = 200) -> str:
    """Return a text that a client sent, as it may stand in a message."""
    plain = "".join(char if char.isprintable() else "?" for char in text[:most])
    return plain if len(text) <= most else f"{plain}…"
