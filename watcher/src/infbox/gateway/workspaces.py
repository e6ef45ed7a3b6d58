"""The workspaces that there are, and those of them that the user of a request may use."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from infbox import grants
from infbox.gateway.refusals import NOT_FOUND, UNAUTHORIZED, RefusalError
from infbox.packing.published import PackFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from infbox.gateway.connection import Incoming
    from infbox.packing.published import Pack

_HEADER = grants.HEADER.encode()
_MOST_GRANTS = 1000  # that are kept worked out


class SeenWorkspaces:
    """The workspaces that one user may use. The others do not exist for the user.

    Args:
        files: of their packs, by name.
        is_all: whether these are all that there are, and will be.
    """

    def __init__(self, files: Mapping[str, PackFile], *, is_all: bool) -> None:
        self._files = files
        self.is_all = is_all

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def pack(self, name: str) -> Pack | None:
        """Return a workspace's pack; None where it has none yet.

        Raises:
            RefusalError: there is no such workspace.
        """
        self.check(name)
        return self._files[name].current()

    def packs(self) -> dict[str, Pack | None]:
        """Return the packs, by workspace."""
        return {name: file.current() for name, file in self._files.items()}

    def check(self, name: str) -> None:
        """Verify that there is a workspace of this name.

        Raises:
            RefusalError: there is none, or none for this user, in the same words.
        """
        if name not in self._files:
            known = ", ".join(self._files) or "none"
            raise RefusalError(
                NOT_FOUND, f"The workspace `{name}` does not exist. There are: {known}."
            )


class Workspaces:
    """All workspaces, of which a request is shown those of its user.

    Args:
        state_dir: of the watcher.
        names: of the workspaces; their packs need not be there yet.
        bases: of the overlays, by name: whoever may use an overlay may use its base, whose text
            stands in the overlay's pack.
        is_restricted: whether a request must say which workspaces its user may use.
    """

    def __init__(
        self,
        state_dir: Path,
        names: Iterable[str],
        bases: Mapping[str, str] | None = None,
        *,
        is_restricted: bool = False,
    ) -> None:
        self.unrestricted = {
            name: PackFile(state_dir / "packs" / name / "pack.json") for name in names
        }
        """The files of all packs: for what no user is shown as it is."""
        self._bases = bases or {}
        self._is_restricted = is_restricted
        self._granted = functools.lru_cache(_MOST_GRANTS)(self._worked_out)

    def all_packs(self) -> dict[str, Pack | None]:
        """Return all packs, by workspace: for what no user is shown as it is."""
        return {name: file.current() for name, file in self.unrestricted.items()}

    def seen_by(self, incoming: Incoming) -> SeenWorkspaces:
        """Return the workspaces that the user of a request may use, as Caddy says.

        Args:
            incoming: the request.

        Raises:
            RefusalError: it does not say, and must, or cannot be understood.
        """
        given = incoming.header(_HEADER)
        if given in ([], [""]) and not self._is_restricted:
            return self._granted(grants.to_header(grants.ALL))
        try:
            return self._granted(*given)
        except (TypeError, ValueError):  # several, none, or what the key service never says
            raise RefusalError(
                UNAUTHORIZED,
                "The request does not say which workspaces its user may use. Send it to the "
                "server's address, with a key; on the host itself with the header "
                "X-Infbox-Workspaces, * for all.",
            ) from None

    def _worked_out(self, grant: str) -> SeenWorkspaces:
        """Return the workspaces of a grant.

        Raises:
            ValueError: it is none.
        """
        patterns = grants.from_header(grant)
        names = {name for name in self.unrestricted if grants.covers(patterns, name)}
        names |= {self._bases[name] for name in names & self._bases.keys()}
        files = {name: file for name, file in self.unrestricted.items() if name in names}
        return SeenWorkspaces(files, is_all=grants.ALL[0] in patterns)
