"""Keeps responses of OpenAI's Responses API in memory, by user.

vLLM has a store of its own, which never forgets anything and knows no users, so it stays off. This
one is bounded in bytes and in time, and a restart empties it: what users wrote is not on the disk.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from infbox.gateway.refusals import NOT_FOUND, RefusalError

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_SECONDS = 8 * 3600.0
"""Since a response was last used; its KV is not in the cache any longer either."""

_SHARE_OF_ONE = 4  # a user has a quarter of the memory at most
_ENTRY_BYTES = 1000  # that Python takes for one, besides its texts
_MOST_SHOWN = 80  # characters of an id

_TOP = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True)
class Stored:
    """A response.

    Attributes:
        items: of its own input, each as JSON.
        body: the response as JSON, as the client got it.
        previous: id of the one that it goes on from; empty where there is none.
    """

    items: list[bytes]
    body: bytes
    previous: str

    @property
    def size(self) -> int:
        """Bytes of memory that it takes."""
        return sum(map(len, self.items)) + len(self.body) + _ENTRY_BYTES

    @property
    def output(self) -> list[bytes]:
        """The items that the model answered, each as JSON."""
        return [bytes(item) for item in _LIST.decode(_TOP.decode(self.body)["output"])]


@dataclass
class _Kept:
    """What is kept for one user: the least lately used first."""

    responses: OrderedDict[str, tuple[float, Stored]] = field(default_factory=OrderedDict)
    size: int = 0

    def pop(self, name: str) -> None:
        _, gone = self.responses.pop(name)
        self.size -= gone.size


class ResponseStore:
    """The responses of all users.

    Args:
        most_bytes: of all; 0 keeps none.
        clock: returns seconds that only grow.
    """

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most_bytes = most_bytes
        self._most_of_one = most_bytes // _SHARE_OF_ONE
        self._clock = clock
        self._users: dict[str, _Kept] = {}

    @property
    def size(self) -> int:
        """Bytes that all take."""
        return sum(kept.size for kept in self._users.values())

    def keep(self, user: str, name: str, response: Stored) -> None:
        """Keep a response; one that is too large is not kept.

        Args:
            user: whose it is.
            name: its id.
            response: itself.
        """
        if response.size > self._most_of_one:
            return
        self._forget_old()
        kept = self._users.setdefault(user, _Kept())
        if name in kept.responses:
            kept.pop(name)
        kept.responses[name] = self._clock(), response
        kept.size += response.size
        while kept.size > self._most_of_one:
            kept.pop(next(iter(kept.responses)))
        while self.size > self.most_bytes:
            largest = max(self._users.values(), key=lambda each: each.size)
            largest.pop(next(iter(largest.responses)))

    def find(self, user: str, name: str) -> Stored:
        """Return a response.

        Raises:
            RefusalError: this user has none of this id, whoever else may.
        """
        self._forget_old()
        kept = self._users.get(user)
        if kept is None or name not in kept.responses:
            raise _unknown(name)
        return kept.responses[name][1]

    def history(self, user: str, name: str) -> list[bytes]:
        """Return all items up to a response and of it, and note that they are in use.

        Raises:
            RefusalError: one of them is not there.
        """
        chain = self._chain(user, name)
        kept = self._users[user]
        for each, response in chain:  # what others go on from is forgotten last
            kept.responses[each] = self._clock(), response
            kept.responses.move_to_end(each)
        return [
            item for _, response in reversed(chain) for item in (*response.items, *response.output)
        ]

    def forget(self, user: str, name: str) -> None:
        """Forget a response; what goes on from it can then not be gone on from either.

        Raises:
            RefusalError: this user has none of this id.
        """
        self.find(user, name)
        self._users[user].pop(name)

    def _chain(self, user: str, name: str) -> list[tuple[str, Stored]]:
        """Return a response and those before it, the last one first."""
        found: dict[str, Stored] = {}
        while name and name not in found:
            found[name] = self.find(user, name)
            name = found[name].previous
        return list(found.items())

    def _forget_old(self) -> None:
        ends = self._clock() - MOST_SECONDS
        for user, kept in list(self._users.items()):
            while kept.responses and next(iter(kept.responses.values()))[0] < ends:
                kept.pop(next(iter(kept.responses)))
            if not kept.responses:
                del self._users[user]


def _unknown(name: str) -> RefusalError:
    return RefusalError(
        NOT_FOUND,
        f"Response with id '{name[:_MOST_SHOWN]}' not found: it was not stored, belongs to "
        "another user, or was removed. Send the whole conversation in `input`.",
        "response_id",
    )
