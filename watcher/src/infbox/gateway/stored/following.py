"""Puts a stored response's conversation into a request that names it, and notes the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from infbox.gateway.conversations.forms import RESPONSES
from infbox.gateway.refusals import BAD_REQUEST, TOO_LARGE, RefusalError
from infbox.gateway.stored.store import Stored

if TYPE_CHECKING:
    from infbox.gateway.bodies import Body
    from infbox.gateway.stored.store import ResponseStore

_PREVIOUS = "previous_response_id"
_MESSAGES = "previous_input_messages"
_MOST_BYTES = 4 * 1024 * 1024  # of an answer; a longer one is not stored
_ENDS = (b'"response.completed"', b'"response.incomplete"')
_HEAD_BYTES = 200  # of an event, where its type stands

_TOP = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw] | str)


def follow(store: ResponseStore, path: str, body: Body, user: str, limit: int) -> Recording | None:
    """Put the conversation that a request goes on from into it.

    Args:
        store: of responses.
        path: of the API.
        body: of the request; it is changed.
        user: whose it is.
        limit: of the body, in bytes.

    Returns:
        What notes the answer; None where it is not to be stored.

    Raises:
        RefusalError: the response that is gone on from is not there.
    """
    if path != RESPONSES:
        return None
    values = body.values
    previous = _previous(values)
    items = _items(values.get("input"))
    if previous and items is not None:
        if _is_set(values.get(_MESSAGES)):
            raise RefusalError(
                BAD_REQUEST, f"Send `{_PREVIOUS}` or `{_MESSAGES}`, not both.", _MESSAGES
            )
        if not store.most_bytes:
            raise RefusalError(
                BAD_REQUEST,
                "This server stores no responses. Send the whole conversation in `input`.",
                _PREVIOUS,
            )
        history = [*store.history(user, previous), *items]
        if sum(map(len, history)) > limit:
            raise RefusalError(TOO_LARGE, f"The conversation is larger than {limit} bytes.")
        values["input"] = msgspec.Raw(b"[" + b",".join(history) + b"]")
        del values[_PREVIOUS]
        body.whole = None
    if items is None or not store.most_bytes or _is(values.get("store"), b"false"):
        return None
    return Recording(store, user, items, previous, is_stream=_is(values.get("stream"), b"true"))


class Recording:
    """Notes an answer as it goes to the client, and has it stored before its end gets there.

    Args:
        store: of responses.
        user: whose it is.
        items: of the request's own input, each as JSON.
        previous: id of the response that it goes on from; empty where there is none.
        is_stream: whether it comes as events.
    """

    def __init__(
        self, store: ResponseStore, user: str, items: list[bytes], previous: str, *, is_stream: bool
    ) -> None:
        self._store = store
        self._user = user
        self._items = items
        self._previous = previous
        self._is_stream = is_stream
        self._data = bytearray()
        self._is_done = False

    def take(self, chunk: bytes) -> None:
        """Note a piece of the answer, before it goes to the client."""
        if self._is_done:
            return
        self._data += chunk
        if self._is_stream:
            self._take_events()
        elif chunk.rstrip().endswith(b"}"):
            self._keep(bytes(self._data))
        if len(self._data) > _MOST_BYTES:
            self._end()

    def _take_events(self) -> None:
        end = self._data.rfind(b"\n\n")
        if end < 0:
            return
        for event in bytes(self._data[:end]).split(b"\n\n"):
            if any(name in event[:_HEAD_BYTES] for name in _ENDS):
                data = b"".join(
                    line[5:] for line in event.split(b"\n") if line.startswith(b"data:")
                )
                try:
                    self._keep(bytes(_TOP.decode(data)["response"]))
                except (msgspec.DecodeError, KeyError):
                    self._end()
        del self._data[: end + 2]

    def _keep(self, answer: bytes) -> None:
        """Store an answer, if this is the whole of one."""
        try:
            values = _TOP.decode(answer)
            name = _TEXT.decode(values["id"])
            if self._previous:
                told = msgspec.json.encode(self._previous)
                values[_PREVIOUS] = msgspec.Raw(told)
                answer = msgspec.json.encode(values)
            response = Stored(self._items, answer, self._previous)
            _ = response.output
        except (msgspec.DecodeError, KeyError):
            return  # it goes on, or is an error
        self._store.keep(self._user, name, response)
        self._end()

    def _end(self) -> None:
        self._is_done = True
        self._data.clear()


def _previous(values: dict[str, msgspec.Raw]) -> str:
    try:
        return _TEXT.decode(values[_PREVIOUS])
    except (KeyError, msgspec.DecodeError):
        return ""  # null, or what vLLM refuses


def _items(value: msgspec.Raw | None) -> list[bytes] | None:
    """Return the items of an input, each as JSON; None for what vLLM refuses."""
    if value is None:
        return None
    try:
        found = _ITEMS.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return None
    if isinstance(found, str):
        return [msgspec.json.encode({"role": "user", "content": found})]
    return [bytes(item) for item in found]


def _is_set(value: msgspec.Raw | None) -> bool:
    return value is not None and bytes(value) not in (b"null", b"[]")


def _is(value: msgspec.Raw | None, word: bytes) -> bool:
    return value is not None and bytes(value) == word
