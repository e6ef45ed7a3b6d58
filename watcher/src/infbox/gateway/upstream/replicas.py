"""Handing a question to whichever of several hosts is to answer it.

A balancer, Caddy on this host, chooses: by workspace, so that its pack is warm there, or else the
host with the least load; and it knows which hosts are well. It cannot read which workspace a body
names, nor send a body twice. Both is done here, before a pack is put in, since each host has its
own.

The host that answers says its name in a header. An error of a proxy has none: a host was away, or
was lost before the first of its answer, and the next one is asked.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from infbox.gateway.apis import APIS
from infbox.gateway.connection import BadRequestError
from infbox.gateway.refusals import BAD_GATEWAY, BAD_REQUEST, UNAVAILABLE, RefusalError
from infbox.gateway.upstream import client as http
from infbox.gateway.upstream import responses
from infbox.log import line
from infbox.replicas import placement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infbox.config import Replicas
    from infbox.gateway.connection import Headers, Incoming, LateOutgoing
    from infbox.gateway.upstream.queue import RequestQueue
    from infbox.metrics import GatewayMetrics

ROUTED = b"x-infbox-routed"
"""Header of a request that is where it is to be answered; Caddy takes it from clients."""

_HOST = placement.HOST.lower().encode()
_ROUTE = placement.ROUTE.lower().encode()
_LIMIT = b"x-infbox-concurrent"
_SHORT = aiohttp.ClientTimeout(total=8)  # longer than a gateway waits for its engine
_OK = 200

# A request that ends the engine must not end all of them.
_MOST_BROKEN = 3
_TRIES = 3
_OF_PROXIES = (BAD_GATEWAY, UNAVAILABLE, 504)

_logger = logging.getLogger(__name__)


def is_routed(incoming: Incoming) -> bool:
    """Return whether a request is to be answered here, whatever it asks for."""
    return bool(incoming.header(ROUTED))


def can_go(incoming: Incoming) -> bool:
    """Return whether a request may be answered by any host: it is a question of one of the APIs."""
    return incoming.method == "POST" and incoming.path in APIS


@dataclass
class Handover:
    """A question that goes to a host, which may be this one.

    Attributes:
        incoming: the request.
        outgoing: the answer.
        body: of the request, whole.
        workspace: that it names; empty for none.
        is_out: whether a host has it, as far as is known here.
    """

    incoming: Incoming
    outgoing: LateOutgoing
    body: bytes = b""
    workspace: str = ""
    is_out: bool = False


class Balanced:
    """The hosts behind the balancer.

    Args:
        settings: where it is.
        metrics: to count in.
        bases: of the overlays, by name: questions about one go where its base is warm.
    """

    def __init__(
        self, settings: Replicas, metrics: GatewayMetrics, bases: Mapping[str, str] | None = None
    ) -> None:
        self._bases = bases or {}
        self.marks = [(_HOST, settings.host.encode())]
        """Headers of this host's own answers."""
        self._balancer = settings.balancer
        self._metrics = metrics

    async def takes_requests(self, client: aiohttp.ClientSession) -> bool:
        """Say whether any host takes requests now."""
        try:
            async with client.get(f"{self._balancer}/ready", timeout=_SHORT) as answer:
                return answer.status == _OK
        except http.AWAY:
            return False

    async def answer(
        self, client: aiohttp.ClientSession, handover: Handover, queue: RequestQueue
    ) -> None:
        """Have a question answered by the host that it goes to, or by the next one.

        Args:
            client: to ask with.
            handover: the question.
            queue: where it waits while no host takes requests.

        Raises:
            RefusalError: no host was there in time, or several broke off.
        """
        deadline = time.monotonic() + queue.seconds
        away = broken = 0
        is_queued = queue.count > 0
        while True:
            if is_queued:
                await queue.wait(len(handover.body), deadline)
            # By workspace, twice, since the balancer learns from the first time; then to whoever is
            # there: where all are busy it says that there are none.
            is_by_workspace = away % _TRIES < _TRIES - 1
            status = await self._ask(client, handover, is_by_workspace=is_by_workspace)
            if status is None:
                return
            if status == UNAVAILABLE:
                away += 1
            else:
                broken += 1
            if broken == _MOST_BROKEN:
                raise RefusalError(BAD_GATEWAY, "The engine does not respond.")
            is_queued = status == UNAVAILABLE and away % _TRIES == 0
            self._metrics.retried.labels("away" if status == UNAVAILABLE else "broken").inc()

    async def _ask(
        self, client: aiohttp.ClientSession, handover: Handover, *, is_by_workspace: bool
    ) -> int | None:
        """Ask once; return None if there was an answer, else a status: 503 where nobody began one.

        Raises:
            RefusalError: the request cannot be handed on.
        """
        incoming, outgoing = handover.incoming, handover.outgoing
        home = self._bases.get(handover.workspace, handover.workspace)
        headers = _headers(incoming.headers, home if is_by_workspace else "")
        pieces = [handover.body]
        handover.is_out = True
        try:
            async with await http.ask(client, self._balancer, incoming, pieces, headers) as answer:
                host = answer.headers.get(placement.HOST, "")
                if host or answer.status not in _OF_PROXIES:
                    self._metrics.forwarded.labels(handover.workspace, host).inc()
                    await responses.hand_on(answer, [], APIS[incoming.path], outgoing)
                    return None
                failed = answer.status
        except BadRequestError as error:
            handover.is_out = False
            raise RefusalError(BAD_REQUEST, str(error)) from error
        except http.NOT_SENT:
            failed = UNAVAILABLE
        except http.AWAY as error:
            _logger.warning(line("replica-failed", reason=error or type(error).__name__))
            if outgoing.status:
                return None
            failed = BAD_GATEWAY
        handover.is_out = False
        return failed


def _headers(headers: Headers, workspace: str) -> Headers:
    """Return a request's headers as they go to the balancer.

    How many requests a user has under way was looked at here, and is not counted twice.
    """
    kept = [(name, value) for name, value in headers if name not in (_ROUTE, _LIMIT)]
    return [*kept, (_ROUTE, placement.route(workspace).encode())] if workspace else kept
