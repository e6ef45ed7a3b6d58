"""Making of a client's request the one that goes to vLLM: with its pack, by its conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infbox.gateway import bodies, fields, requests
from infbox.gateway.apis import APIS
from infbox.gateway.conversations import clients, options, system_messages, volatile
from infbox.gateway.conversations.deciding import Asked
from infbox.gateway.exchange import retrieve_of, wants_fit, workspace_of
from infbox.gateway.refusals import NOT_FOUND, RefusalError
from infbox.gateway.requests import Question
from infbox.gateway.stored import following

if TYPE_CHECKING:
    from infbox.config import Config
    from infbox.gateway.bodies import Body
    from infbox.gateway.conversations.deciding import Turn
    from infbox.gateway.conversations.options import Options
    from infbox.gateway.conversations.service import Conversations
    from infbox.gateway.exchange import Exchange
    from infbox.gateway.requests import Named
    from infbox.gateway.stored.store import ResponseStore
    from infbox.gateway.upstream.engine import Engine
    from infbox.gateway.upstream.queue import RequestQueue
    from infbox.gateway.upstream.replicas import Handover
    from infbox.metrics import GatewayMetrics
    from infbox.packing.published import Pack


class Questions:
    """Reads requests, and puts packs in front of those that ask for one.

    Args:
        config: of the gateway.
        engine: whose model is asked for.
        conversations: that requests may be of.
        metrics: to count in.
        responses: that requests may go on from.
        queue: where requests wait while the engine is away; None where another host then gets them.
    """

    def __init__(  # each is a thing of its own
        self,
        config: Config,
        engine: Engine,
        conversations: Conversations,
        metrics: GatewayMetrics,
        responses: ResponseStore,
        *,
        queue: RequestQueue | None,
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._window = config.engine.max_model_len
        self._salts = {each.name: config.cache_salts(each)[0] for each in config.workspaces}
        self._limit = config.gateway.max_body_bytes
        self._strips = config.gateway.strip_volatile
        self._retrieve = config.gateway.retrieve_tokens if config.gateway.retrieve else None
        self._conversations = conversations
        self._metrics = metrics
        self._responses = responses
        self._reader = bodies.Reader()
        self._later_system = system_messages.LaterSystem(engine.url, engine.model)

    def close(self) -> None:
        """End what reads large bodies."""
        self._reader.close()

    async def read_whole(self, exchange: Exchange, handover: Handover) -> None:
        """Read what a request asks for, so that it is known where it goes.

        Raises:
            RefusalError: it names a workspace that there is not, or cannot be understood.
            ClientGoneError: the client left.
            TooLargeError: the body is over the limit.
        """
        handover.incoming.check_announced_size()
        chunks = await handover.incoming.body(exchange.lease)
        handover.body = await self._reader.run(exchange.lease.size, b"".join, chunks)
        body = await self._opened(exchange, [handover.body])
        asked = requests.named(body, workspace_of(handover.incoming), self._engine.model)
        if asked is not None:
            handover.incoming.note(workspace=asked.workspace)
            exchange.workspaces.check(asked.workspace)
            handover.workspace = asked.workspace

    async def question(self, exchange: Exchange) -> Question:
        """Return the request as it goes to vLLM, with the pack where one is asked for.

        Raises:
            RefusalError: it says what must not be said, or no pack can be put in.
            ClientGoneError: the client left.
            TooLargeError: the body is over the limit.
        """
        incoming = exchange.incoming
        incoming.check_announced_size()
        if incoming.path not in fields.FIELDS or incoming.method != "POST":
            if not exchange.workspaces.is_all:
                raise RefusalError(NOT_FOUND, "There is nothing at this path.")
            return Question()
        body = await self._opened(exchange, await incoming.body(exchange.lease))
        if incoming.path in fields.SALTED:
            exchange.answers, exchange.answer_tokens = body.answers, body.answer_tokens
            exchange.event_tokens = body.event_tokens
        api, model = APIS.get(incoming.path), self._engine.model
        recording = following.follow(
            self._responses, incoming.path, body, exchange.user, self._limit
        )
        exchange.lease.resize(max(exchange.lease.size, body.input_bytes))
        asked = requests.named(body, workspace_of(incoming), model)
        if asked is not None:  # on paths that take no pack vLLM would say which there are
            incoming.note(workspace=asked.workspace)
            exchange.workspaces.check(asked.workspace)
        if api is None or asked is None or asked.model not in (None, model):
            # vLLM says best which models there are.
            return Question(
                [body.data], limit=body.limit, recording=recording, drops_usage=body.adds_usage
            )
        pack = exchange.workspaces.pack(asked.workspace)
        if pack is None:
            self._metrics.without_pack.labels(asked.workspace).inc()
        size = exchange.lease.size
        fits, retrieve = wants_fit(incoming), retrieve_of(incoming)
        turn, said = await self._turn(exchange, asked, pack, retrieve)
        self._add_salt(incoming.path, asked.workspace, turn)
        told = api, asked, turn, self._window, fits if said.fits is None else said.fits
        question = await self._reader.run(size, requests.question, *told)
        question.recording, question.drops_usage = recording, body.adds_usage
        exchange.lease.resize(question.size)
        self.note_front(question)
        return question

    def note_front(self, question: Question) -> None:
        """Note how much of the pack goes out, where that may be less than all of it."""
        is_less = question.bare is not None and question.space is None
        if question.turn and question.front and is_less:
            self._conversations.note_front(question.turn, question.front.tokens)

    def drop_found(self, question: Question) -> None:
        """Note that a request goes out without what was found for its conversation's questions."""
        if question.turn:
            self._conversations.drop_found(question.turn)
            self._metrics.retrievals.labels(question.workspace, "dropped").inc()

    async def _opened(self, exchange: Exchange, chunks: list[bytes]) -> Body:
        """Return a body with what is for clients.

        Raises:
            RefusalError: it says what must not be said, or cannot be understood.
        """
        lease, incoming = exchange.lease, exchange.incoming
        for encoding in incoming.header(b"content-encoding"):
            if encoding.lower() != "identity":
                chunks = await self._reader.run(
                    self._limit, bodies.inflated, chunks, encoding, self._limit
                )
                lease.resize(max(lease.size, sum(map(len, chunks))))
        told = incoming.path, chunks, exchange.user, self._window
        return await self._reader.run(exchange.lease.size, bodies.opened, *told)

    async def _turn(
        self, exchange: Exchange, named: Named, pack: Pack | None, retrieve: int | None
    ) -> tuple[Turn, Options]:
        """Return how a request goes out, by the conversation that it is of, and what the client
        says to us.

        Raises:
            RefusalError: that cannot be understood.
        """
        incoming, size = exchange.incoming, exchange.lease.size
        client = clients.family("".join(incoming.header(b"user-agent")))
        request = await self._reader.run(size, named.body.taken)
        said = options.taken(request, self._retrieve, retrieve)
        if self._strips:
            request = volatile.without(incoming.path, request)
        request = system_messages.of_developers(incoming.path, request)
        asked = Asked(
            incoming.path,
            request,
            size,
            named.workspace,
            exchange.user,
            named.model or self._engine.model,
            client,
            self._window,
            said,
            requests.answer_tokens(request, self._window),
        )
        turn = await self._conversations.turn(asked, pack)
        self._count(named.workspace, client, turn)
        turn.request = await self._taken(exchange, turn.request)
        if turn.spare is not None:
            turn.spare = await self._taken(exchange, turn.spare)
        return turn, said

    def _add_salt(self, path: str, workspace: str, turn: Turn) -> None:
        """Salt a request as the warm pack of its workspace is, unless the client does."""
        salt = self._salts[workspace]
        if not salt or path not in fields.SALTED:
            return
        for request in (turn.request, turn.spare):
            if request is not None:
                request.setdefault(fields.SALT, salt)

    def _count(self, workspace: str, client: str, turn: Turn) -> None:
        if turn.record is not None:
            told = turn.state, turn.beginning, turn.note_tokens
            self._metrics.count_turn(workspace, client, *told)
        if turn.retrieval is not None:
            tokens = turn.retrieved.tokens if turn.retrieved else 0
            came = turn.retrieval.result, turn.retrieval.seconds, tokens
            self._metrics.count_retrieval(workspace, *came)

    async def _taken(self, exchange: Exchange, request: dict[str, Any]) -> dict[str, Any]:
        """Return a request with its system messages where the engine's template takes them.

        Raises:
            RefusalError: the engine is away, and cannot be waited for any longer.
        """
        path = exchange.incoming.path
        if not system_messages.are_there(path, request) or await self._takes_later(exchange):
            return request
        return system_messages.in_questions(path, request)

    async def _takes_later(self, exchange: Exchange) -> bool:
        """Say whether the engine's template takes system messages behind the first place.

        A gateway that has not asked it yet waits for it: the request waits for it in any case, and
        in the wrong form would be refused once the engine is there.
        """
        taken = await self._later_system.is_taken(self._engine.session)
        if taken is None and self._queue is not None and self._queue.seconds:
            await self._queue.wait(exchange.lease.size, exchange.began + self._queue.seconds)
            taken = await self._later_system.is_taken(self._engine.session)
        return taken is not False
