"""The workspaces that a question can name, and the packs that they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infbox.gateway.refusals import NOT_FOUND, RefusalError
from infbox.packing.published import PackFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from infbox.packing.published import Pack


class Workspaces:
    """The packs of workspaces, as published last.

    Args:
        state_dir: of the watcher.
        names: of the workspaces; their packs need not be there yet.
    """

    def __init__(self, state_dir: Path, names: Iterable[str]) -> None:
        self.files = {name: PackFile(state_dir / "packs" / name / "pack.json") for name in names}

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def pack(self, name: str) -> Pack | None:
        """Return a workspace's pack; None where it has none yet.

        Raises:
            RefusalError: there is no such workspace.
        """
        self.check(name)
        return self.files[name].current()

    def packs(self) -> dict[str, Pack | None]:
        """Return all packs, by workspace."""
        return {name: file.current() for name, file in self.files.items()}

    def check(self, name: str) -> None:
        """Verify that there is a workspace of this name.

        Raises:
            RefusalError: there is none.
        """
        if name not in self.files:
            known = ", ".join(self.files) or "none"
            raise RefusalError(
                NOT_FOUND, f"The workspace `{name}` does not exist. There are: {known}."
            )
