"""Answering whatever has no route of its own, by what vLLM or a replica says."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from infbox.gateway import apis, fields
from infbox.gateway.bodies import Lease, Memory
from infbox.gateway.connection import (
    ClientGoneError,
    Incoming,
    LateOutgoing,
    Outgoing,
    TooLargeError,
)
from infbox.gateway.exchange import Exchange, check_user, most_at_once, user_of
from infbox.gateway.limit import ConcurrencyLimit, TokenLimits
from infbox.gateway.refusals import BAD_GATEWAY, TOO_LARGE, UNAVAILABLE, RefusalError
from infbox.gateway.upstream import replicas
from infbox.gateway.upstream.replicas import Handover
from infbox.status.history import FirstEvent

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from infbox.auth.usage import Daily
    from infbox.config import Gateway as Settings
    from infbox.gateway.conversations.summary import Summary
    from infbox.gateway.questions import Questions
    from infbox.gateway.requests import Question
    from infbox.gateway.upstream.engine import Engine, EngineForwarder
    from infbox.gateway.upstream.queue import RequestQueue
    from infbox.gateway.upstream.replicas import Balanced
    from infbox.gateway.workspaces import Workspaces
    from infbox.metrics import GatewayMetrics
    from infbox.status.history import FirstTokens

_OK = 200
_NOT_ANSWERED = (BAD_GATEWAY, UNAVAILABLE)


@dataclass(frozen=True)
class Upstream:
    """Who answers requests.

    Attributes:
        engine: of this host.
        forwarder: to it.
        queue: of requests while nobody answers.
        balanced: the hosts behind a balancer, this one among them; None where this is the only one.
    """

    engine: Engine
    forwarder: EngineForwarder
    queue: RequestQueue
    balanced: Balanced | None


class Forwarder:
    """An ASGI application that answers a request by what vLLM says.

    Args:
        settings: of the gateway.
        questions: makes of a request what goes to vLLM.
        upstream: who answers.
        workspaces: of which a request is shown those of its user.
        metrics: to count in.
        daily: counts what each user had of the day.
        summary: notes how conversations fare.
        tokens: holds users to their limits.
        first_tokens: notes how long answers take to begin.
    """

    def __init__(
        self,
        settings: Settings,
        questions: Questions,
        upstream: Upstream,
        workspaces: Workspaces,
        *,
        metrics: GatewayMetrics,
        daily: Daily,
        summary: Summary,
        tokens: TokenLimits,
        first_tokens: FirstTokens,
    ) -> None:
        self._limit_bytes = settings.max_body_bytes
        self._requires_user = settings.requires_user
        self._questions = questions
        self._upstream = upstream
        self._workspaces = workspaces
        self._metrics = metrics
        self._daily = daily
        self._summary = summary
        self._first_tokens = first_tokens
        self._limit = ConcurrencyLimit()
        self._tokens = tokens
        self.memory = Memory()
        """For the bodies of all requests."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        exchange = self._exchange(scope, receive, send)
        with exchange.lease:
            await self._answer_it(exchange)
        if not exchange.is_elsewhere:
            self._count(exchange)
        exchange.incoming.note(is_elsewhere=exchange.is_elsewhere)

    def _count(self, exchange: Exchange) -> None:
        workspace, user = exchange.workspace, exchange.user
        status, usage = exchange.outgoing.status, exchange.outgoing.usage
        exchange.incoming.note(usage=usage)
        # Of a client that left before its answer began the prompt may have been computed.
        is_computed = exchange.incoming.path in fields.SALTED and status in (0, _OK)
        self._metrics.count(workspace, user, status, usage, is_computed=is_computed)
        if usage is not None or is_computed:
            self._daily.count(user, workspace, usage)

    async def _answer_it(self, exchange: Exchange) -> None:
        """Answer a request, or leave it with the client."""
        # Until its answer has ended. The server says that a client is gone after any answer, so
        # that alone tells nothing.
        has_left = True
        async with anyio.create_task_group() as group:

            async def leave_with_client() -> None:
                await exchange.incoming.client_gone()
                group.cancel_scope.cancel()

            group.start_soon(leave_with_client)
            with contextlib.suppress(ClientGoneError):
                await self._serve_or_refuse(exchange)
                has_left = False
            group.cancel_scope.cancel()
        # What an answer cost is in its last event: with that it was whole.
        is_cancelled = has_left and exchange.outgoing.usage is None
        if not exchange.is_elsewhere:
            # Counted from 0 on, since a rate does not see the step to a first sample.
            self._metrics.cancelled.labels(exchange.workspace).inc(int(is_cancelled))

    async def _serve_or_refuse(self, exchange: Exchange) -> None:
        """Answer a request, or say why it is not answered.

        Raises:
            ClientGoneError: the body did not come whole.
        """
        try:
            await self._serve(exchange)
        except RefusalError as refused:
            await _respond(exchange, refused)
        except TooLargeError:
            message = f"The request is larger than {self._limit_bytes} bytes."
            await _respond(exchange, RefusalError(TOO_LARGE, message))

    def _exchange(self, scope: Scope, receive: Receive, send: Send) -> Exchange:
        began = time.monotonic()
        events = FirstEvent(send, began)
        incoming = Incoming(scope, receive, self._limit_bytes)
        user = user_of(incoming)
        lease = Lease(self.memory, user)
        balanced = self._upstream.balanced
        if balanced is None:
            return Exchange(incoming, Outgoing(events), events, began, user, lease)
        if replicas.is_routed(incoming):
            outgoing = LateOutgoing(events, balanced.marks)
            return Exchange(incoming, outgoing, events, began, user, lease, is_counted=True)
        if not replicas.can_go(incoming):
            return Exchange(incoming, Outgoing(events), events, began, user, lease)
        handover = Handover(incoming, LateOutgoing(events))
        return Exchange(incoming, handover.outgoing, events, began, user, lease, handover=handover)

    async def _serve(self, exchange: Exchange) -> None:
        """Answer a request here, or have a replica do so.

        Raises:
            RefusalError: it is not answered.
            ClientGoneError, TooLargeError: the body did not come whole.
        """
        check_user(exchange.user, is_required=self._requires_user)
        exchange.workspaces = self._workspaces.seen_by(exchange.incoming)
        under_way = self._limit.one_more(exchange.user, most_at_once(exchange.incoming))
        with contextlib.nullcontext() if exchange.is_counted else under_way:
            if self._upstream.balanced is not None and exchange.handover is not None:
                await self._questions.read_whole(exchange, exchange.handover)
                session, queue = self._upstream.engine.session, self._upstream.queue
                await self._upstream.balanced.answer(session, exchange.handover, queue)
                return
            question = await self._questions.question(exchange)
            exchange.own_workspace = question.workspace
            if question.recording is not None:
                exchange.outgoing.tap = question.recording.take
            is_whole = False
            try:
                async with self._tokens.counted(exchange, question):
                    await self._upstream.forwarder.answer(exchange, question)
                is_whole = True
            finally:
                # OpenAI's client closes its connection with the last event, before the stream ends.
                if is_whole or exchange.outgoing.usage is not None:
                    self._note_answer(exchange, question)

    def _note_answer(self, exchange: Exchange, question: Question) -> None:
        """Note for the status page what an answer was like."""
        usage = exchange.outgoing.usage
        if question.turn is not None:
            self._summary.note(exchange.workspace, question.turn, usage)
        self._first_tokens.note(time.monotonic(), exchange.events.seconds, usage)


async def _respond(exchange: Exchange, refused: RefusalError) -> None:
    if refused.status in _NOT_ANSWERED:
        exchange.outgoing.marks = []
    if refused.is_busy:
        await exchange.incoming.drain()
    await exchange.outgoing.respond(apis.refusal(exchange.incoming.path, refused))
