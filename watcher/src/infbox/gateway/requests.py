"""What a request asks for, and what vLLM is asked in its place."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from infbox.gateway.bodies import ANSWER_LIMITS, LARGE_BYTES
from infbox.gateway.refusals import BAD_REQUEST, RefusalError
from infbox.packing.prompt import PromptError

if TYPE_CHECKING:
    from infbox.gateway.apis import Api
    from infbox.gateway.bodies import Body
    from infbox.gateway.connection import Headers
    from infbox.gateway.conversations.deciding import Turn
    from infbox.gateway.stored.following import Recording
    from infbox.packing.published import Front, Pack

_ANSWER_TOKENS = 1024  # space for an answer whose length is not said
_BYTES_PER_TOKEN = 3  # few, so that a pack is cut too short rather than not short enough

# Stands for the pack while a request is encoded. Nobody outside can know it.
_PLACEHOLDER = f"infbox-{secrets.token_hex(16)}"


@dataclass(frozen=True)
class Named:
    """A request that names a workspace.

    Attributes:
        workspace: its name.
        body: of the request.
        model: the name that vLLM is to be asked for; None to leave it as it is.
    """

    workspace: str
    body: Body
    model: str | None


@dataclass
class Question:
    """A request as it goes to vLLM.

    Attributes:
        parts: of the body; the pack goes between each two. None to hand on the client's own as it
            comes.
        workspace: the one it names; empty where it names none.
        pack: what the workspace has; None where it has none yet.
        front: as much of it as is put in front; None where there is none.
        bare: the body without any pack; None where the client takes no less than the whole.
        turn: of its conversation; None where it names no workspace.
        limit: tokens that the answer may have, where the client asked for more than there can be.
        space: tokens of the pack that are left if the whole turns out to be too long; None where
            the client was asked already.
        recording: notes the answer, where it is to be stored.
        spare: the parts without what was found for questions, should they be too long with it; None
            where there is nothing of that.
        drops_usage: whether the client did not ask what its stream costs, and is not told.
    """

    parts: list[bytes] | None = None
    workspace: str = ""
    pack: Pack | None = None
    front: Front | None = None
    bare: bytes | None = None
    turn: Turn | None = None
    limit: int | None = None
    space: int | None = None
    recording: Recording | None = None
    spare: list[bytes] | None = None
    drops_usage: bool = False

    @property
    def pieces(self) -> list[bytes | memoryview] | None:
        """The body, piece by piece; the pack is not copied."""
        if self.parts is None or self.front is None:
            return None if self.parts is None else list(self.parts)
        if self.bare is not None and not self.front.tokens:
            return [self.bare]
        pieces: list[bytes | memoryview] = []
        for part in self.parts:
            pieces += [part, self.front.encoded]
        return pieces[:-1]

    @property
    def size(self) -> int:
        """Bytes of the body that are this request's alone, the pack being shared."""
        return sum(map(len, [*(self.parts or []), *(self.spare or []), self.bare or b""]))

    @property
    def marks(self) -> Headers:
        """Headers for the answer that say which pack was used, 0 where there is none yet, and what
        was changed."""
        limits = [] if self.limit is None else [(b"x-infbox-max-tokens", b"%d" % self.limit)]
        if not self.workspace:
            return limits
        pack = self.pack
        marks = {
            b"x-infbox-generation": pack.generation if pack else 0,
            b"x-infbox-version": pack.version if pack else 0,
            b"x-infbox-pack-tokens": self.front.tokens if self.front else 0,
        }
        numbers = [(name, str(number).encode()) for name, number in marks.items()]
        return [*numbers, *limits, *(self.turn.marks if self.turn else [])]

    def drop_found(self) -> bool:
        """Leave out what was found for questions; say whether there was any."""
        if self.spare is None:
            return False
        self.parts, self.spare = self.spare, None
        return True

    def cut(self) -> bool:
        """Put less of the pack in front, if the client takes that; say whether there was any."""
        if self.bare is None or not self.pack or not self.front or not self.front.tokens:
            return False
        space, self.space = self.space, None
        before = self.front.tokens
        self.front = self.pack.within(
            space if space is not None and space < before else before // 2
        )
        return True

    def forget(self) -> None:
        """Give up the body, so that an answer which is read slowly holds no memory."""
        self.parts, self.spare, self.bare = None, None, None


def named(body: Body, header: str, model: str) -> Named | None:
    """Return what a request asks for if it names a workspace, else None.

    Args:
        body: of the request.
        header: the workspace that its headers name; empty where they name none.
        model: the name that vLLM serves.

    Raises:
        RefusalError: the two name different ones.
    """
    asked = body.model
    own, _, workspace = asked.rpartition("@") if isinstance(asked, str) else ("", "", "")
    if not own or asked == model:
        return Named(header, body, None) if header else None
    if header and header != workspace:
        raise RefusalError(
            BAD_REQUEST,
            f"The model name selects the workspace `{workspace}`, and the header "
            f"X-Infbox-Workspace selects `{header}`: leave one out.",
        )
    return Named(workspace, body, own)


def question(api: Api, asked: Named, turn: Turn, window: int, fits: bool | None = None) -> Question:
    """Return what vLLM is asked.

    Args:
        api: the API that the request was sent to.
        asked: what it asks for.
        turn: how it goes out; its request is taken from it.
        window: of the model, in tokens.
        fits: whether the client takes a part of the pack; None where it does not say: it gets the
            whole, and a part where vLLM refuses that.

    Raises:
        RefusalError: no pack can be put into it.
    """
    request, plain, pack = turn.request, turn.spare, turn.pack
    turn.request, turn.spare = {}, None
    changed: dict[str, Any] = {} if asked.model is None else {"model": asked.model}
    limit = _limit(asked.body.lowered, window, None if fits else pack)
    if limit is not None:
        changed |= dict.fromkeys(asked.body.lowered, limit)
    request |= changed
    try:
        if pack is None:
            parts = [msgspec.json.encode(request)]
            return Question(parts, asked.workspace, turn=turn, limit=limit)
        parts = _parts(api, request)
        is_large = sum(map(len, parts)) > LARGE_BYTES  # and would be in memory twice
        spare = None if plain is None or is_large else _parts(api, plain | changed)
    except PromptError as error:
        raise RefusalError(BAD_REQUEST, str(error)) from error
    except RecursionError as error:
        raise RefusalError(BAD_REQUEST, "The body is nested too deeply.") from error
    question = Question(
        parts, asked.workspace, pack, pack.whole, turn=turn, limit=limit, spare=spare
    )
    without_found = request if plain is None else plain | changed
    if fits is None and is_large and turn.front is not None:
        return _as_cut_before(question, pack.within(turn.front), without_found)
    if fits is False or (fits is None and is_large):
        return question
    own = sum(map(len, parts)) // _BYTES_PER_TOKEN
    space = window - own - answer_tokens(request, window)
    question.bare = msgspec.json.encode(without_found)
    if fits:
        question.front = _front(pack, turn.front, space)
    elif turn.front is not None:  # the whole was too long before
        question.front = pack.within(turn.front)
    else:
        question.space = max(space, 0)
    return question


def _as_cut_before(question: Question, front: Front, bare: dict[str, Any]) -> Question:
    """Return a large question with as much of the pack as its conversation had before it was large.

    It is not cut further, for which its body would be in memory twice.
    """
    if front.tokens:
        question.front = front
    else:  # what goes out where nothing of the pack does, and not a pack without a text
        question.parts, question.front = [msgspec.json.encode(bare)], None
    return question


def _parts(api: Api, request: dict[str, Any]) -> list[bytes]:
    """Return a request as JSON, cut where the pack goes."""
    return msgspec.json.encode(api.with_pack(_PLACEHOLDER, request)).split(_PLACEHOLDER.encode())


def _limit(names: tuple[str, ...], window: int, pack: Pack | None) -> int | None:
    """Return the limit of an answer that there can be beside a pack; None where none was asked for
    that is more than the window."""
    return max(window - (pack.tokens if pack else 0), 1) if names else None


def _front(pack: Pack, before: int | None, space: int) -> Front:
    """Return as much of a pack as there is space for.

    A conversation that has some of the pack already gets the same as long as that fits, and then
    half, so that the pack need not be cut again with each turn.
    """
    if before is None:
        return pack.within(space)
    return pack.within(before if before <= space else min(before // 2, space))


def answer_tokens(request: dict[str, Any], window: int) -> int:
    """Return how many tokens to leave for the answer.

    Args:
        request: that it answers.
        window: of the model, in tokens.
    """
    limits = (request.get(name) for name in ANSWER_LIMITS)
    asked = next((limit for limit in limits if isinstance(limit, int)), _ANSWER_TOKENS)
    return asked if asked < window else _ANSWER_TOKENS
