"""Limits the requests of a user that are in progress, and the tokens computed for a user."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from infbox.auth import counts, told_limits
from infbox.auth.counts import Limit, Refused
from infbox.gateway import fields
from infbox.gateway.exchange import limits_of
from infbox.gateway.refusals import TOO_MANY, RefusalError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from infbox.auth.limiter import Limiter
    from infbox.auth.usage import Counts
    from infbox.gateway.exchange import Exchange
    from infbox.gateway.requests import Question
    from infbox.metrics import Usage

_LIMIT = told_limits.AT_ONCE
_PERIODS = {counts.TOKENS: "minute", counts.TOKENS_A_DAY: "day"}
_OK = 200
_BYTES_PER_TOKEN = 4


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
        person = told_limits.person(user)
        if most and self._under_way[person] >= most:
            raise RefusalError(
                TOO_MANY,
                f"{user} may have at most {most} requests in progress. Wait until one has ended. "
                f"Limit: {_LIMIT}.",
                ours={"limit": _LIMIT},
            )
        self._under_way[person] += 1
        try:
            yield
        finally:
            self._under_way[person] -= 1
            if not self._under_way[person]:
                del self._under_way[person]


class TokenLimits:
    """Holds users to the tokens that they may have computed.

    Args:
        limiter: counts them.
        window: of the model, in tokens: no prompt and its answer are more together.
    """

    def __init__(self, limiter: Limiter, window: int) -> None:
        self._limiter = limiter
        self._window = window

    @contextlib.asynccontextmanager
    async def counted(self, exchange: Exchange, question: Question) -> AsyncIterator[None]:
        """Count the tokens of a request: the most that it may cost while it is under way, then what
        it did.

        Args:
            exchange: the request.
            question: as it goes to vLLM.

        Raises:
            RefusalError: the user has had as many tokens as there may be.
        """
        person, told = told_limits.person(exchange.user), limits_of(exchange.incoming)
        limits = [Limit(name, told[name]) for name in _PERIODS if told.get(name)]
        if exchange.incoming.path not in fields.SALTED:
            yield
            return
        own = sum(map(len, question.parts or []))
        pack = question.front.tokens if question.front else 0
        # No token is shorter than a byte.
        most = min(own + pack + exchange.answer_tokens, self._window * exchange.answers)
        taken = await self._limiter.reserve(person, limits, most)
        if isinstance(taken, Refused):
            raise _refusal(exchange.user, taken)
        cost = 0
        try:
            yield
            # Who hides what a whole answer did cost pays the most that it may have cost.
            hides = exchange.outgoing.usage is None and not exchange.outgoing.is_cut
            is_hidden = hides and exchange.outgoing.status == _OK
            cost = taken.cost if is_hidden else _cost(exchange, own, pack)
        except RefusalError:
            raise
        except BaseException:  # the client left
            cost = _cost(exchange, own, pack)
            raise
        finally:
            self._limiter.settle(taken, cost)
            if counts.TOKENS_A_DAY not in taken.places:
                self._limiter.note(person, cost)


def computed(usage: Usage | Counts) -> int:
    """Return the tokens that a limit counts: those from the cache are none."""
    return usage.prompt - (usage.cached or 0) + usage.completion


def _cost(exchange: Exchange, own: int, pack: int) -> int:
    """Return what a request did cost, or an estimate where its answer did not come to its end.

    Args:
        exchange: the request.
        own: bytes of its body without the pack.
        pack: tokens of the pack, which is in the cache.
    """
    outgoing = exchange.outgoing
    if outgoing.usage is not None:
        return computed(outgoing.usage)
    if outgoing.status not in (0, _OK):
        return 0
    answered = min(outgoing.events * exchange.event_tokens, exchange.answer_tokens)
    if outgoing.stated_prompt is None:
        return own // _BYTES_PER_TOKEN + answered
    return max(outgoing.stated_prompt - pack, 0) + answered


def _refusal(user: str, refused: Refused) -> RefusalError:
    name, most = refused.limit
    return RefusalError(
        TOO_MANY,
        f"{user} may use at most {most} computed tokens per {_PERIODS[name]}. "
        f"Try again in {refused.seconds} s. Limit: {name}.",
        ours={"limit": name},
        seconds=refused.seconds,
    )
