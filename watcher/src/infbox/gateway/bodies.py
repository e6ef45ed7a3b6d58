"""The bodies of requests: read within bounds, and looked at no further than their top.

A body is a client's, up to 32 MB of it. What it takes to hold and to read it is bounded here: bytes
in memory, by all and by each user; values of JSON; and time, large ones being read in one thread,
so that the event loop goes on. The top of a body is found by skipping over its values, which are
neither parsed nor copied.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from infbox.gateway import fields
from infbox.gateway.refusals import BAD_REQUEST, TOO_LARGE, UNSUPPORTED, BusyError, RefusalError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

_T = TypeVar("_T")

LARGE_BYTES = 1_000_000
"""What is larger is rare: pictures, or more text than any window holds."""

STREAMED = ("/v1/chat/completions", "/v1/completions")
"""Paths whose streams say what they cost only where they are asked to."""

EMBEDDINGS = "/v1/embeddings"

ANSWER_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""Fields by which the APIs bound an answer; with several the first one counts."""

# Parsed, a body takes up to four times as much while it is written anew, but one at a time.
_MOST_BYTES = 256 * 1024 * 1024
_MOST_LARGE_BYTES = 192 * 1024 * 1024  # so that ordinary questions find room beside them
_MOST_LARGE_OF_ONE = _MOST_LARGE_BYTES // 2

_MOST_REPAIRED_BYTES = 8_000_000
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # as zlib tells one form from the other
# What zstd may take of memory beside the body: 8 MB, which is the most over HTTP (RFC 9659).
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
_SHORT_BYTES = 1000  # of a value that is decoded to decide
_FALSE = {"0", "off", "f", "false", "n", "no"}

_TOP = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder()
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Memory:
    """Counts the bytes of bodies that are in memory.

    Args:
        most: of all.
        most_large: of those that are large.
        most_of_one: of the large ones of one user.
    """

    def __init__(
        self,
        most: int = _MOST_BYTES,
        most_large: int = _MOST_LARGE_BYTES,
        most_of_one: int = _MOST_LARGE_OF_ONE,
    ) -> None:
        self._most = most
        self._most_large = most_large
        self._most_of_one = most_of_one
        self.used = 0
        self._large: Counter[str] = Counter()

    def move(self, user: str, before: int, after: int) -> None:
        """Count another size of a body.

        Raises:
            RefusalError: it is larger than before, and there is no memory for it.
        """
        large = (after if after > LARGE_BYTES else 0) - (before if before > LARGE_BYTES else 0)
        is_too_much = self.used + after - before > self._most or (
            large > 0
            and (
                self._large.total() + large > self._most_large
                or self._large[user] + large > self._most_of_one
            )
        )
        if after > before and is_too_much:
            raise BusyError("The requests in progress use all memory. Send this again in a second.")
        self.used += after - before
        self._large[user] += large
        if not self._large[user]:
            del self._large[user]


class Lease:
    """What one request has of the memory, until the block is left.

    Args:
        memory: of all.
        user: whose request it is.
    """

    def __init__(self, memory: Memory, user: str) -> None:
        self._memory = memory
        self._user = user
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.resize(0)

    def resize(self, size: int) -> None:
        """Have room for so many bytes.

        Raises:
            RefusalError: there is none.
        """
        self._memory.move(self._user, self.size, size)
        self.size = size


class Reader:
    """Has what takes long done in a thread, one body after the other."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, "bodies")

    async def run(self, size: int, function: Callable[..., _T], *arguments: Any) -> _T:
        """Return what a function returns, which reads or writes a body of so many bytes."""
        if size <= LARGE_BYTES:
            return function(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, function, *arguments)

    def close(self) -> None:
        """End the thread, once it has done what it is at."""
        self._worker.shutdown()


@dataclass
class Body:
    """The body of a request, with what is for clients.

    Attributes:
        values: at its top, as they are written, by their names.
        lowered: names of the limits of the answer that are more than the window.
        window: of the model, in tokens.
        whole: as it came, where nothing of it has to be changed.
        adds_usage: whether it asks what its stream costs, and the client does not.
        embeds: whether it asks for embeddings, for which no tokens are generated.
    """

    values: dict[str, msgspec.Raw]
    lowered: tuple[str, ...]
    window: int
    whole: bytes | None
    adds_usage: bool = False
    embeds: bool = False

    @property
    def model(self) -> object:
        """The model that it names; None where it names none."""
        return _short(self.values.get("model"))

    @property
    def input_bytes(self) -> int:
        """Bytes of the input, which is more than came where it goes on from a stored response."""
        own = self.values.get("input")
        return 0 if own is None else len(memoryview(own))

    @property
    def data(self) -> bytes:
        """As it goes to vLLM where nothing is put in."""
        if self.whole is not None:
            return self.whole
        limits = {name: _raw(self.window) for name in self.lowered}
        values = {**self.values, **limits}
        values.pop(fields.OPTIONS, None)
        return msgspec.json.encode(values)

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have; None where no more was asked for than there can be."""
        return self.window if self.lowered else None

    @property
    def answers(self) -> int:
        """How many answers it asks for: so many times its prompts as it says."""
        if self.embeds:
            return _prompts(self.values.get("input"))
        asked = _short(self.values.get("n"))
        times = ceil(asked) if isinstance(asked, int | float) and asked > 1 else 1
        return _prompts(self.values.get("prompt")) * times

    @property
    def answer_tokens(self) -> int:
        """Tokens that all its answers may have together, whichever of several limits counts."""
        if self.embeds:
            return 0
        limits = [_short(self.values.get(name)) for name in ANSWER_LIMITS]
        most = [self._tokens(limit) for limit in limits if limit is not None]
        return max(most, default=self.window) * self.answers

    @property
    def event_tokens(self) -> int:
        """Tokens that an event of its stream may have."""
        asked = _short(self.values.get("stream_interval"))
        return 1 if asked is None else self._tokens(asked)

    def _tokens(self, asked: object) -> int:
        """Return a number of tokens as vLLM may understand it: it takes texts for numbers too."""
        number = asked if isinstance(asked, int | float) else self.window
        return max(ceil(min(number, self.window)), 1)

    def taken(self) -> dict[str, Any]:
        """Return it parsed, and forget it otherwise.

        Raises:
            RefusalError: it is malformed.
        """
        values, self.values, self.whole = self.values, {}, None
        try:
            return {name: _ANY.decode(value) for name, value in values.items()}
        except _MALFORMED as error:
            raise _malformed(error) from error


def inflated(chunks: list[bytes], encoding: str, limit: int) -> list[bytes]:
    """Return the pieces of a body that came compressed as they were before.

    Args:
        chunks: of the body, in order; they are taken.
        encoding: the value of ``Content-Encoding``.
        limit: of what comes out, in bytes.

    Raises:
        RefusalError: it is compressed otherwise, not at all, or to more than the limit.
    """
    inflater = _inflater(encoding)
    data = b"".join(chunks)
    chunks.clear()
    try:
        whole = inflater.decompress(data, limit + 1)
    except (zlib.error, zstd.ZstdError) as error:
        raise RefusalError(BAD_REQUEST, f"The body is not valid {encoding}: {error}.") from error
    if len(whole) > limit:
        raise RefusalError(TOO_LARGE, f"The request is larger than {limit} bytes.")
    if not inflater.eof:
        raise RefusalError(BAD_REQUEST, f"The body is not valid {encoding}: it is truncated.")
    return [whole]


def _inflater(encoding: str) -> Any:
    """Return what inflates a body, as zlib and zstd both do."""
    name = encoding.lower()
    if name == "zstd":
        return zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
    if name in _WINDOW_BITS:
        return zlib.decompressobj(_WINDOW_BITS[name])
    message = f"Content-Encoding `{encoding[:40]}` is not understood: send gzip, zstd, or none."
    raise RefusalError(UNSUPPORTED, message)


def opened(path: str, chunks: list[bytes], user: str, window: int) -> Body:
    """Return a body without what is not for clients. Blocking, for some 0.1 s of a large one.

    Args:
        path: one of ``fields.FIELDS``.
        chunks: of the body, in order; they are taken.
        user: whose key it came with; empty where that is not known.
        window: of the model, in tokens.

    Raises:
        RefusalError: it is no JSON object, has too many values, or says what a client must not.
    """
    data = b"".join(chunks)  # of large ones without Python's lock
    chunks.clear()
    if fields.has_too_many_values(data):
        raise RefusalError(TOO_LARGE, fields.TOO_MANY_VALUES)
    data, values = _top(data)
    _check(values)
    kept = {
        name: value
        for name, value in values.items()
        if name == fields.OPTIONS or fields.is_kept(path, name, _short(value))
    }
    is_same = len(kept) == len(values) and not kept.keys() & {fields.OPTIONS, fields.SALT}
    if fields.SALT in kept:
        kept[fields.SALT] = _raw(fields.salt_of(user, _short(kept[fields.SALT])))
    lowered = tuple(name for name in ANSWER_LIMITS if _is_over(kept.get(name), window))
    options = _with_usage(path, kept)
    if options is not None:
        kept["stream_options"] = _raw(options)
    is_same = is_same and not lowered and options is None
    whole = data if is_same else None
    return Body(kept, lowered, window, whole, options is not None, path == EMBEDDINGS)


def _with_usage(path: str, values: dict[str, msgspec.Raw]) -> dict[str, object] | None:
    """Return options of a stream that has it say what it costs; None where it does so anyway, or is
    none."""
    if path not in STREAMED or not _is_true(_short(values.get("stream"))):
        return None
    options = values.get("stream_options")
    given = {} if _short(options) is None or options is None else _members(options)
    if given is None or _is_true(_short(given.get("include_usage"))):
        return None  # what is no object is for vLLM to refuse
    # Where the usage was not asked for, vLLM heeds no wish to have it in each event.
    return {**given, "include_usage": True, "continuous_usage_stats": False}


def _is_true(value: object) -> bool:
    """Say whether vLLM takes a value for true, or refuses it: pydantic takes texts and numbers for
    booleans too."""
    if isinstance(value, str):
        return value.lower() not in _FALSE
    return value is not None and value != 0


def _top(data: bytes) -> tuple[bytes, dict[str, msgspec.Raw]]:
    try:
        _check_text(data)
        return data, _TOP.decode(data)
    except _MALFORMED as error:
        repaired = _repaired(data)
        if repaired is None:
            raise _malformed(error) from error
    try:
        return repaired, _TOP.decode(repaired)
    except _MALFORMED as error:
        raise _malformed(error) from error


def _check_text(data: bytes) -> None:
    """Check that all of a body is UTF-8: of values that are skipped over, the parser does not.

    Raises:
        UnicodeDecodeError: it is not.
    """
    if data.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), LARGE_BYTES):  # as text it takes up to four times as much
        decoder.decode(data[start : start + LARGE_BYTES])
    decoder.decode(b"", True)


def _repaired(data: bytes) -> bytes | None:
    """Return as JSON what Python's parser, which vLLM uses, takes for it and others do not: UTF-16,
    a byte order mark, half a character as programs leave that cut a text anywhere. None for what
    is none."""
    if len(data) > _MOST_REPAIRED_BYTES:
        return None
    try:
        text = json.dumps(json.loads(data), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _malformed(error: Exception) -> RefusalError:
    if isinstance(error, RecursionError):
        return RefusalError(BAD_REQUEST, "The body is nested too deeply.")
    return RefusalError(BAD_REQUEST, f"{fields.NO_OBJECT} {error}.")


def _check(values: dict[str, msgspec.Raw]) -> None:
    for name in fields.LOOKED_AT & values.keys():
        is_deep = name == "chat_template_kwargs"
        value = _members(values[name]) if is_deep else _short(values[name])
        found = fields.problem(name, value)
        if found:
            raise RefusalError(BAD_REQUEST, found, name)


def _members(value: msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    try:
        return _TOP.decode(value)
    except _MALFORMED:
        return None  # no object


_LONG = object()


def _short(value: msgspec.Raw | None) -> object:
    """Return a short value; an object that is like nothing for a long one, or one that is none."""
    if value is None:
        return None
    if len(memoryview(value)) > _SHORT_BYTES:
        return _LONG
    try:
        return _ANY.decode(value)
    except _MALFORMED:
        return _LONG


def _prompts(value: msgspec.Raw | None) -> int:
    """Return how many prompts the field of that name has: a text, tokens, or a list of these."""
    if value is None or bytes(memoryview(value)[:1]) != b"[":
        return 1
    try:
        each = _LIST.decode(value)
    except _MALFORMED:
        return 1  # which vLLM refuses
    return len(each) if each and bytes(memoryview(each[0])[:1]) in (b"[", b'"') else 1


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _is_over(limit: msgspec.Raw | None, window: int) -> bool:
    """Say whether more is asked for than the window has: vLLM refuses that, and ends an answer
    where the window ends."""
    asked = _short(limit)
    return isinstance(asked, int) and asked > window
