"""Who is signed in: sessions are kept here, so that one that was ended is good for nothing."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from infbox import grants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TOKEN_BYTES = 32
_MOST = 10_000


class Person(NamedTuple):
    """Who is signed in.

    Attributes:
        name: of the person.
        workspaces: patterns of the workspaces that the person may see, as ``grants`` has them.
        account: what nobody else is called: questions are counted by it.
        limits: of the person, by name.
    """

    name: str
    workspaces: tuple[str, ...] = grants.ALL
    account: str = ""
    limits: Mapping[str, int] = MappingProxyType({})


@dataclass
class _Session:
    person: Person
    began: float
    seen: float


class Sessions:
    """The sessions of one process; they end with it.

    Args:
        longest_seconds: a session lasts at most, however much it is used.
        idle_seconds: after which one that is not used has ended.
        most: sessions that are kept; the one that was unused longest makes room for another.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        longest_seconds: float,
        idle_seconds: float,
        *,
        most: int = _MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._longest = longest_seconds
        self._idle = idle_seconds
        self._most = most
        self._clock = clock
        # By digest, the one unused longest first.
        self._sessions: dict[bytes, _Session] = {}

    def __len__(self) -> int:
        self._forget()
        return len(self._sessions)

    def begin(self, person: Person) -> str:
        """Begin a session. Return the token that stands for it, 256 random bits."""
        self._forget()
        while len(self._sessions) >= self._most:
            del self._sessions[next(iter(self._sessions))]
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        now = self._clock()
        self._sessions[_digest(token)] = _Session(person, now, now)
        return token

    def person(self, token: str) -> Person | None:
        """Return whose session this is, and note that it is used; None where it is none."""
        session = self._sessions.pop(_digest(token), None)
        if session is None or self._is_over(session):
            return None
        session.seen = self._clock()
        self._sessions[_digest(token)] = session
        return session.person

    def end(self, token: str) -> Person | None:
        """End a session. Return whose it was; None where it was none."""
        session = self._sessions.pop(_digest(token), None)
        return None if session is None or self._is_over(session) else session.person

    def _is_over(self, session: _Session) -> bool:
        now = self._clock()
        return now - session.began >= self._longest or now - session.seen >= self._idle

    def _forget(self) -> None:
        over = [digest for digest, session in self._sessions.items() if self._is_over(session)]
        for digest in over:
            del self._sessions[digest]


def _digest(token: str) -> bytes:
    return sha256(token.encode(errors="replace")).digest()
