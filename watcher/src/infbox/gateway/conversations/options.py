"""What a client says to the gateway itself, in the field ``infbox`` of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from infbox.gateway.conversations.retrieving import MAX_TOKENS, TOKENS
from infbox.gateway.fields import OPTIONS
from infbox.gateway.refusals import BAD_REQUEST, RefusalError
from infbox.retrieval.questions import MAX_CHARS, MAX_PLACES

if TYPE_CHECKING:
    from infbox.gateway.conversations.forms import Request

_PACK, _RETRIEVE, _FILES, _QUERY = "pack", "retrieve", "files", "query"
_PACKS = {"fit": True, "whole": False}
_MAX_PATH_CHARS = 1000


class Options(NamedTuple):
    """What a client says.

    Attributes:
        fits: whether it takes a part of the pack; None where it does not say.
        retrieve: tokens for what is found for the question; 0 for none.
        files: paths that the question is about besides.
        query: what to look for in place of the question; empty for the question.
    """

    fits: bool | None = None
    retrieve: int = 0
    files: tuple[str, ...] = ()
    query: str = ""


def taken(request: Request, retrieve: int | None, wanted: int | None = None) -> Options:
    """Take the field out of a request, and return what it says.

    Args:
        request: the body.
        retrieve: tokens for what is found where the client does not say; None where nothing is
            looked for, whatever it says.
        wanted: what the request's headers say in place of that; None where they do not.

    Raises:
        RefusalError: it cannot be understood.
    """
    value = request.pop(OPTIONS, {})
    if not isinstance(value, dict):
        raise _refusal("this is none")
    unknown = value.keys() - {_PACK, _RETRIEVE, _FILES, _QUERY}
    if unknown:
        raise _refusal(f"`{min(unknown)[:40]}` is unknown")
    return Options(
        _fits(value.get(_PACK)),
        _tokens(value.get(_RETRIEVE), retrieve or 0, wanted) if retrieve is not None else 0,
        _files(value.get(_FILES)),
        _query(value.get(_QUERY)),
    )


def _fits(value: object) -> bool | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in _PACKS:
        raise _refusal('`pack` must be "fit" or "whole"')
    return _PACKS[value]


def _tokens(value: object, default: int, wanted: int | None) -> int:
    if value is None:
        return default if wanted is None else min(wanted, MAX_TOKENS)
    if value is True:
        return default or TOKENS
    if not isinstance(value, int) or value < 0:  # false is 0
        raise _refusal("`retrieve` must be true, false, or a number of tokens")
    return min(int(value), MAX_TOKENS)


def _files(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    paths = value if isinstance(value, list) else [None]
    if len(paths) > MAX_PLACES or not all(
        isinstance(path, str) and len(path) <= _MAX_PATH_CHARS for path in paths
    ):
        raise _refusal(f"`files` must be a list of up to {MAX_PLACES} paths")
    return tuple(paths)


def _query(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_CHARS:
        raise _refusal(f"`query` must be a text of up to {MAX_CHARS:,} characters")
    return value


def _refusal(what: str) -> RefusalError:
    return RefusalError(
        BAD_REQUEST,
        f"`{OPTIONS}` must be an object with `pack`, `retrieve`, `files` and `query`, or some of "
        f"them: {what}.",
        OPTIONS,
    )
