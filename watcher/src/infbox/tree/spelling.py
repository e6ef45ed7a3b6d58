"""One name for each file, where the file system has several for it.

macOS and Windows take ``Readme`` and ``README`` for the same file, macOS also an accented letter as
one character and as two. What a directory lists is then not always what git calls the file, and
git's name is the one that the tree, its copy and the host must agree on.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAY_FOLD = sys.platform != "linux"
"""Whether this system's file systems may have several names for a file."""


def folded(path: str) -> str:
    """Return what all spellings of a path have in common."""
    return composed(composed(path).casefold())


def composed(path: str) -> str:
    """Return a path with its characters put together, as git and most systems have them."""
    return unicodedata.normalize("NFC", path)


class Spelling:
    """How git spells what a directory lists.

    Args:
        tracked: paths in the index of the repository.
        folds_case: git takes names that differ in case for the same (``core.ignorecase``).
        composes: git takes characters apart for those put together (``core.precomposeunicode``).
    """

    def __init__(self, tracked: Iterable[str], *, folds_case: bool, composes: bool) -> None:
        self._composes = composes
        self._folds_case = folds_case
        self._known: dict[str, str] = {}
        for path in tracked if folds_case or composes else ():
            above = path
            while above and (key := self._key(above)) not in self._known:
                self._known[key] = above
                above = above.rpartition("/")[0]

    def of(self, path: str) -> str:
        """Return git's spelling of a path: as in its index, and else as the directory has it below
        what is there.

        Args:
            path: relative, of a file or a directory.
        """
        if not self._composes and not self._folds_case:
            return path
        if self._composes:
            path = composed(path)
        above, below = path, ""
        while above:
            if known := self._known.get(self._key(above)):
                return known + below
            above, slash, name = above.rpartition("/")
            below = slash + name + below
        return path

    def _key(self, path: str) -> str:
        return folded(path) if self._folds_case else composed(path)
