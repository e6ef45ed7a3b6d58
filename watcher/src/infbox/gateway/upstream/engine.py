"""The engine: what it is asked with, and whether it takes requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from typing import TYPE_CHECKING, Any

import aiohttp

from infbox.gateway import apis
from infbox.gateway.apis import APIS
from infbox.gateway.connection import BadRequestError
from infbox.gateway.conversations import forms
from infbox.gateway.refusals import BAD_GATEWAY, BAD_REQUEST, UNAVAILABLE, RefusalError
from infbox.gateway.upstream import client, responses
from infbox.log import line
from infbox.metrics import user_label

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from infbox.gateway.connection import Incoming
    from infbox.gateway.exchange import Exchange
    from infbox.gateway.requests import Question
    from infbox.gateway.upstream.queue import RequestQueue
    from infbox.metrics import GatewayMetrics, Usage

SHORT = aiohttp.ClientTimeout(total=5)
"""For what is answered at once."""

_OK = 200
_SERVER_ERROR = 500

# What vLLM says of a prompt that is longer than its window, on one API or another.
_TOO_LONG = re.compile("maximum context length|exceeds the max_model_len|maximum model length")

_logger = logging.getLogger(__name__)


class Engine:
    """The engine of this host.

    Args:
        url: where it answers.
        model: that it serves.
    """

    def __init__(self, url: str, model: str) -> None:
        self.url = url
        self.model = model
        self.session: aiohttp.ClientSession
        """To ask with, while it runs."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep connections open until this ends."""
        async with client.session() as self.session:
            yield

    async def takes_requests(self) -> bool:
        """Say whether a question would be taken now.

        Both have to say so: while vLLM finishes what is under way, it calls itself healthy, and
        without its core it still tokenizes.
        """
        said = await asyncio.gather(self._tokenizes(), self.is_healthy())
        return all(said)

    async def _tokenizes(self) -> bool:
        asked = {"model": self.model, "prompt": "."}
        try:
            url = f"{self.url}/tokenize"
            async with self.session.post(url, json=asked, timeout=SHORT) as answer:
                return answer.status < _SERVER_ERROR
        except client.AWAY:
            return False

    async def is_healthy(self) -> bool:
        """Say whether it calls itself healthy."""
        try:
            async with self.session.get(f"{self.url}/health", timeout=SHORT) as answer:
                return answer.status == _OK
        except client.AWAY:
            return False


class EngineForwarder:
    """Has the engine of this host answer questions.

    Args:
        engine: to ask.
        queue: where requests wait while it is away.
        metrics: to count in.
        window: of the model, in tokens.
        is_replica: whether other hosts may answer a question that this one cannot.
        on_cut: called with a question when less of its pack goes out than before.
    """

    def __init__(
        self,
        engine: Engine,
        queue: RequestQueue,
        metrics: GatewayMetrics,
        *,
        window: int,
        is_replica: bool,
        on_cut: Callable[[Question], None],
        on_drop: Callable[[Question], None],
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._metrics = metrics
        self._window = window
        self._is_replica = is_replica
        self._on_cut = on_cut
        self._on_drop = on_drop

    async def answer(self, exchange: Exchange, question: Question) -> Usage | None:
        """Send a question to vLLM and hand its answer on; return what it cost.

        Raises:
            RefusalError: vLLM does not answer, or the request does not fit or cannot be handed on.
            ClientGoneError, TooLargeError: the body did not come whole.
        """
        incoming, outgoing, began = exchange.incoming, exchange.outgoing, exchange.began
        try:
            while True:
                async with await self._ask(incoming, question, began) as answer:
                    too_long = await _too_long(answer, question, incoming.path)
                    if too_long is None:
                        waited = time.monotonic() - began
                        labels = question.workspace, user_label(exchange.user)
                        self._metrics.first_byte.labels(*labels).observe(waited)
                        question.forget()
                        exchange.lease.resize(0)
                        api = APIS.get(incoming.path, apis.OTHER)
                        return await responses.hand_on(
                            answer,
                            question.marks,
                            api,
                            outgoing,
                            drops_usage=question.drops_usage,
                        )
                if question.drop_found():
                    self._on_drop(question)
                    continue
                if not question.cut():
                    raise self._does_not_fit(question, apis.too_long(incoming.path, too_long))
                self._on_cut(question)
        except BadRequestError as error:
            raise RefusalError(BAD_REQUEST, str(error)) from error
        except client.AWAY as error:
            if incoming.failure:  # what the engine saw as a broken request has its reason here
                raise incoming.failure from error
            _logger.warning(line("engine-failed", reason=error or type(error).__name__))
            if not outgoing.status:
                raise RefusalError(BAD_GATEWAY, "The engine does not respond.") from error
            return None

    async def _ask(
        self, incoming: Incoming, question: Question, began: float
    ) -> aiohttp.ClientResponse:
        """Send a question to vLLM; it is queued while vLLM is away or about to end.

        Only a request that is here as a whole, and that vLLM has not begun. One that is
        lost with the engine's core is sent once more and no more: it may be what ends the core.
        While others are queued, it is not tried before them. One that came from a replica is queued
        there.

        Raises:
            RefusalError: the request cannot be queued any longer.
        """
        can_wait, was_lost = question.parts is not None, False
        is_queued = can_wait and self._queue.count > 0
        while True:
            if is_queued:
                await self._queue.wait(question.size, began + self._queue.seconds)
            try:
                headers = client.engine_headers(incoming.headers)
                answer = await client.ask(
                    self._engine.session, self._engine.url, incoming, question.pieces, headers
                )
                is_refused = can_wait and await client.is_ending(answer)
                is_lost = can_wait and not was_lost and await client.is_dead(answer)
                if not (is_refused or is_lost):
                    return answer
                was_lost |= is_lost
            except client.NOT_SENT:
                if not can_wait:
                    raise
            if self._is_replica:  # another one may take it, and who asked us queues it
                raise RefusalError(UNAVAILABLE, "The engine does not respond.")
            is_queued = True

    def _does_not_fit(self, question: Question, message: str) -> RefusalError:
        """Return the refusal of a prompt that is too long, with what the pack has to do with it."""
        if question.front is None:
            return RefusalError(BAD_REQUEST, message)
        tokens = question.front.tokens
        ours: dict[str, Any] = {
            "workspace": question.workspace,
            "pack_tokens": tokens,
            "window": self._window,
            "left": max(self._window - tokens, 0),
        }
        if question.bare is None:
            ours["hint"] = "With the header X-Infbox-Pack: fit the pack is cut to fit."
        return RefusalError(BAD_REQUEST, message, ours=ours)


async def _too_long(answer: aiohttp.ClientResponse, question: Question, path: str) -> str | None:
    """Return vLLM's own words if it refuses a prompt as too long and we have more to say of it.

    vLLM alone counts tokens, so that nothing is refused that would have fitted.
    """
    is_plain = question.front is None and not path.startswith(forms.MESSAGES)
    if answer.status != BAD_REQUEST or is_plain:
        return None
    error = (responses.parsed(await answer.read()) or {}).get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) and _TOO_LONG.search(message) else None
