"""Any body that a client can send: what reaches the engine of it, and what it costs to look at.

For FUZZ_SECONDS in all, 20 unless said. The first rounds are the same in each run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from infbox.gateway import bodies, fields
from infbox.gateway.apis import APIS
from infbox.gateway.bodies import Body, opened
from infbox.gateway.conversations import forms, options, records, volatile
from infbox.gateway.conversations.deciding import Asked, Sending, Turn
from infbox.gateway.conversations.notes import Note
from infbox.gateway.conversations.retrieving import Found
from infbox.gateway.refusals import RefusalError
from infbox.gateway.requests import named, question
from infbox.packing.published import About, Pack

SECONDS = float(os.environ.get("FUZZ_SECONDS", "20"))
TESTS = 4
WINDOW = 1000
USER = "ann"

Strategy = st.SearchStrategy[Any]


def fuzz(check: Callable[..., None], **strategies: Strategy) -> None:
    """Check examples for as long as one of the tests has."""
    ends, number = time.monotonic() + SECONDS / TESTS, 0
    limits = settings(max_examples=25, derandomize=False, database=None, deadline=None)
    while number == 0 or time.monotonic() < ends:
        seed(number)(limits(given(**strategies)(check)))()
        number += 1


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
_KNOWN = sorted({name for names in fields.FIELDS.values() for name in names})
_NAMES = (
    st.sampled_from(sorted(fields.DROPPED | {fields.SALT, fields.OPTIONS, "priority"}))
    | st.sampled_from(_KNOWN)
    | st.sampled_from(["n", "max_tokens", "max_completion_tokens", "chat_template_kwargs"])
    | st.text(max_size=9)
)
_VALUES = _JSON | st.sampled_from(
    [0, 0.0, -0.0, None, False, {}, [], "", "a salt", -(2**31), 2**70, 1e300]
)
_ALONE = [
    *((name, None) for name in fields.REFUSED),
    *((fields.SALT, salt) for salt in ("a salt", "another", 7)),
    *(("n", count) for count in (2, 128, 129, 1e6)),
    *((name, WINDOW + more) for name in ("max_tokens", "max_output_tokens") for more in (0, 1)),
    *(("request_id", "mine"), ("extra_body", {"priority": -1})),
    ("chat_template_kwargs", {"chat_template": "{{ x }}", "enable_thinking": False}),
    ("chat_template_kwargs", {"enable_thinking": False}),
]
_DECISIVE = st.sampled_from(_ALONE) | st.sampled_from([*_ALONE, ("priority", -1)])
_MEMBERS = st.lists(st.tuples(_NAMES, _VALUES) | _DECISIVE, max_size=6)
_PATHS = st.sampled_from(sorted(fields.FIELDS))


@st.composite
def _written(draw: st.DrawFn) -> bytes:
    """An object in one of the ways in which JSON can be written, with any name more than once."""
    members = draw(_MEMBERS)
    space = draw(st.sampled_from(["", " ", "\n\t "]))
    texts = []
    for name, value in members:
        key = json.dumps(name, ensure_ascii=draw(st.booleans()))
        if draw(st.booleans()):
            key = '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 65536 else c for c in name) + '"'
        inner = json.dumps(value, ensure_ascii=draw(st.booleans()))
        texts.append(f"{key}{space}:{space}{inner}")
    text = space + "{" + f",{space}".join(texts) + "}" + space
    encoding = draw(
        st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig", "utf-32-le"])
    )
    return text.encode(encoding, "surrogatepass")


@st.composite
def _spoiled(draw: st.DrawFn) -> bytes:
    """An object in which something is another byte, is missing, or is there twice."""
    whole = draw(_written())
    place, length = draw(st.integers(0, len(whole))), draw(st.integers(0, 4))
    return whole[:place] + draw(st.binary(max_size=3)) + whole[place + length :]


_BODIES = _written() | _spoiled() | st.binary(max_size=99)


def test_nothing_but_what_is_for_clients_reaches_the_engine() -> None:
    def check(path: str, data: bytes) -> None:
        try:
            body = opened(path, [data], USER, WINDOW)
        except RefusalError:
            return
        values = json.loads(body.data)  # as vLLM does
        meant = json.loads(data)
        assert_for_clients(path, values, meant)
        written = given_by_gateway(body, meant)
        for name, value in values.items():
            if name not in (*body.lowered, fields.SALT):
                assert same(value, written.get(name, meant.get(name))), name
        kept = {name for name in meant if fields.is_kept(path, name, meant[name])}
        assert values.keys() == kept | written.keys()

    fuzz(check, path=_PATHS, data=_BODIES)


def test_nothing_else_reaches_it_round_the_gateway() -> None:
    def check(path: str, data: bytes) -> None:
        status, reached = through_guard(path, data)
        if status is None:
            assert reached is not None
            assert_for_clients(path, json.loads(reached), json.loads(data))
        else:
            assert reached is None
            assert status in (400, 413)

    fuzz(check, path=_PATHS, data=_BODIES)


def assert_for_clients(path: str, values: dict[str, Any], meant: dict[str, Any]) -> None:
    """What holds of any request that reaches the engine."""
    assert values.keys() <= fields.FIELDS[path] | {fields.SALT}
    if fields.SALT in values:
        assert values[fields.SALT] == fields.salt_of(USER, meant[fields.SALT])
    count = values.get("n")
    assert not isinstance(count, int | float) or not count > fields.MOST_ANSWERS
    told = values.get("chat_template_kwargs")
    assert not isinstance(told, dict) or "chat_template" not in told


def given_by_gateway(body: Body, meant: dict[str, Any]) -> dict[str, Any]:
    """What the gateway writes itself, by name: a stream is told to say what it costs."""
    if not body.adds_usage:
        return {}
    options = meant.get("stream_options") or {}
    told = {**options, "include_usage": True, "continuous_usage_stats": False}
    return {"stream_options": told}


def same(one: object, other: object) -> bool:
    """Whether two values are the same, NaN being the same as itself, and half a character as what
    stands for it."""
    return _told(one) == _told(other)


def _told(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def through_guard(path: str, data: bytes) -> tuple[int | None, bytes | None]:
    """The status with which the guard refuses, or else the body that it hands on."""
    reached: list[bytes] = []
    sent: list[dict[str, Any]] = []

    async def engine(scope: dict[str, Any], receive: Any, _send: Any) -> None:
        message = await receive()
        assert dict(scope["headers"])[b"content-length"] == str(len(message["body"])).encode()
        reached.append(message["body"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"x-infbox-user", USER.encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(fields.Guard(engine)(scope, receive, send))
    return (sent[0]["status"] if sent else None), (reached[0] if reached else None)


@st.composite
def _costly(draw: st.DrawFn) -> bytes:
    """A body of up to 3 MB that is made to cost much."""
    piece = draw(
        st.sampled_from(
            [b"[],", b'{"a":1},', b"1,", b'"",', b"1.5e300,", b'"\\u00e4",', b"[[[[[],1],2],3],4],"]
        )
    )
    size = draw(st.integers(1, 3_000_000))
    many = b"[" + piece * (size // len(piece)) + b"0]"
    text = draw(
        st.sampled_from([b"x", b"\\u00e4", "ä".encode(), "\N{GRINNING FACE}".encode(), b"\\n"])
    )
    value = draw(
        st.sampled_from(
            [
                many,
                b'"' + text * (size // len(text)) + b'"',
                b"[" * size + b"]" * size,
                b'{"a":' * (size // 6) + b"0" + b"}" * (size // 6),
                b"1" * size,
                b"1e" + b"9" * min(size, 100_000),
                b'[{"role": "user", "content": ' + many + b"}]",
            ]
        )
    )
    name = draw(
        st.sampled_from([b"messages", b"model", b"priority", b"n", b"max_tokens", b"other"])
    )
    copies = draw(st.sampled_from([1, 1, 2]))
    head = b'{"model": "coder@shop"'
    if draw(st.booleans()):
        return head + b"".join(b', "%s": %s' % (name, value) for _ in range(copies)) + b"}"
    keys = b"".join(b', "k%d": 1' % number for number in range(min(size, 300_000) // 12))
    return head + keys + b"}"


def test_what_a_body_costs_is_bounded() -> None:
    def check(path: str, data: bytes) -> None:
        tracemalloc.reset_peak()
        before, began = tracemalloc.get_traced_memory()[0], time.process_time()
        with contextlib.suppress(RefusalError):
            body = opened(path, [data], USER, WINDOW)
            taken = body.taken()
            question(APIS[CHAT], named_again(body), Turn(PACK, taken), WINDOW)
        assert time.process_time() - began < 20, "for ever, that is: it takes a part of a second"
        most = 80 * fields.MOST_VALUES + 8 * len(data)  # a text takes up to four bytes a character
        assert tracemalloc.get_traced_memory()[1] - before < most

    tracemalloc.start()
    try:
        fuzz(check, path=st.sampled_from(sorted(APIS)), data=_costly())
    finally:
        tracemalloc.stop()


CHAT = forms.CHAT
ABOUT = (About("base", "a.py", "1"), About("changed", "b.py", "2"))
PACK = Pack(1, 1, 100, "1", b"PACK", b"PACK", ((2, 50), (4, 100)), ABOUT, "e")
LATER = replace(PACK, version=2, sha256="2", about=(ABOUT[0], About("changed", "b.py", "3")))
_TEXTS = st.text(max_size=9)
_ROLES = st.sampled_from(["system", "user", "assistant", "developer", 7])
_LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(st.fixed_dictionaries({"role": _ROLES, "content": _JSON})) | _JSON,
        "input": st.lists(st.fixed_dictionaries({"role": _ROLES, "content": _JSON})) | _JSON,
        "instructions": _TEXTS | _JSON,
        "system": st.lists(st.fixed_dictionaries({"text": _TEXTS})) | _JSON,
        "prompt": _TEXTS | st.lists(_TEXTS) | _JSON,
        "previous_response_id": _JSON,
        "infbox": st.just({"pack": "fit"})
        | st.dictionaries(st.sampled_from(["retrieve", "files", "query"]), _JSON)
        | _JSON,
        "max_tokens": _JSON | st.integers(0, 10**9),
        "stream": _JSON,
        "tools": _JSON,
        "metadata": _JSON,
    },
)
NOTE = Note("found = 1\n", 3, found=(("a.py", "d1", 1, 1),))
_CHANGED = {"model", "messages", "input", "instructions", "system", "prompt"}


def named_again(body: Body) -> Any:
    """The request to a workspace that a body is, whatever it names."""
    body.values = {"model": bodies._raw("coder@shop")}
    return named(body, "", "coder")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> records.Records:
    return records.opened(tmp_path_factory.mktemp("store") / "conversations.db")


def turn(store: records.Records, path: str, request: dict[str, Any], present: Pack) -> Turn:
    """How a request goes out."""
    said = options.taken(request, 4000)
    request = volatile.without(path, request)
    found = forms.dialogue(path, request)
    if found is None:
        return Turn(present, request)
    asked = Asked(path, request, 1, "shop", "ann", "coder", options=said)
    packs = {each.sha256: each for each in (PACK, LATER)}

    def sending() -> Sending:
        return Sending(
            store,
            asked,
            found,
            present=present,
            pack_of=packs.get,
            may_show=lambda _: True,
            now=1.0,
        )

    wanted = sending().wanted()
    retrieval = wanted and Found(NOTE, wanted.place, "found", 0.0)
    return sending().decide(retrieval)


def test_any_request_becomes_another_or_is_refused(store: records.Records) -> None:
    def check(path: str, likely: dict[str, Any], others: dict[str, Any]) -> None:
        data = json.dumps({**others, **likely, "model": "coder@shop"}).encode()
        try:
            body = opened(path, [data], USER, WINDOW)
            asked = named(body, "", "coder")
            assert asked is not None
            assert (asked.workspace, asked.model) == ("shop", "coder")
            lowered, request = body.lowered, body.taken()
            written = given_by_gateway(body, json.loads(data))
            turn(store, path, dict(request), PACK)
            asks = question(APIS[path], asked, turn(store, path, request, LATER), WINDOW)
        except RefusalError:
            return
        assert asks.pieces is not None
        result = json.loads(b"".join(asks.pieces))
        assert result["model"] == "coder"
        meant = json.loads(data)
        assert_for_clients(path, result, meant)
        kept = {k: meant[k] for k in meant if k in fields.FIELDS[path] and k not in _CHANGED}
        left = {k: v for k, v in result.items() if k not in _CHANGED}
        expected = {**kept, **written, **dict.fromkeys(lowered)}
        assert same({**left, **dict.fromkeys(lowered)}, expected)

    fuzz(check, path=st.sampled_from(sorted(APIS)), likely=_LIKELY, others=_others())


def _others() -> Strategy:
    return st.dictionaries(_TEXTS, _JSON, max_size=3)
