"""How many requests a user may have under way."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from infbox.gateway.refusals import TOO_MANY, RefusalError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIMIT = "concurrent_requests"
"""As settings name it."""


class ConcurrencyLimit:
    """Counts the requests that are under way, by user."""

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()

    @contextlib.contextmanager
    def one_more(self, user: str, most: int) -> Iterator[None]:
        """Count a request of a user's while it is under way.

        Args:
            user: whose it is.
            most: that the user may have; 0 is any number.

        Raises:
            RefusalError: as many are under way as there may be.
        """
        if most and self._under_way[user] >= most:
            raise RefusalError(
                TOO_MANY,
                f"{user} may have {most} requests under way. Wait until one has ended. "
                f"Limit: {_LIMIT}.",
                ours={"limit": _LIMIT},
            )
        self._under_way[user] += 1
        try:
            yield
        finally:
            self._under_way[user] -= 1
            if not self._under_way[user]:
                del self._under_way[user]
