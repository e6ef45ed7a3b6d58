"""Large bodies: what they take of memory, of time and of others' room."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import sys
import threading
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from fake_apis import CHAT, MESSAGES
from fake_engine import FakeEngine
from gateway_stack import BODIES, USER, Stack, publish
from infbox.gateway import bodies, fields
from infbox.gateway.app import Gateway
from infbox.gateway.bodies import LARGE_BYTES, Lease, Memory, Reader
from infbox.gateway.refusals import BusyError
from serving import serving, settings_for, until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MEGABYTE = 1_000_000


def wide(content: bytes) -> bytes:
    """Return content compressed so that 128 MB are needed to read it again."""
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    return packer.compress(content, packer.FLUSH_BLOCK) + packer.flush()


def test_there_is_room_for_so_many_bytes_and_no_more() -> None:
    memory = Memory(most=100)
    with Lease(memory, "ann") as one, Lease(memory, "bob") as other:
        one.resize(60)
        other.resize(40)
        with pytest.raises(BusyError):
            one.resize(61)
        other.resize(0)
        one.resize(61)
    assert memory.used == 0


def test_large_ones_leave_room_for_others_and_so_does_each_user() -> None:
    large = 2 * LARGE_BYTES
    memory = Memory(most=10 * large, most_large=4 * large, most_of_one=2 * large)
    with contextlib.ExitStack() as stack:

        def one(user: str, size: int) -> None:
            stack.enter_context(Lease(memory, user)).resize(size)

        one("ann", large)
        one("ann", large)
        with pytest.raises(BusyError):
            one("ann", large)
        one("bob", large)
        one("bob", large)
        with pytest.raises(BusyError):
            one("eve", large)
        for user in ("ann", "bob", "eve"):
            one(user, LARGE_BYTES)
    assert memory.used == 0
    with Lease(memory, "ann") as lease:
        lease.resize(4 * large // 2)


def test_a_body_that_grows_is_counted_whole_once_it_is_large() -> None:
    memory = Memory(most_large=2 * LARGE_BYTES, most_of_one=2 * LARGE_BYTES)
    with Lease(memory, "ann") as one, Lease(memory, "ann") as other:
        for lease in (one, other):
            lease.resize(LARGE_BYTES)
        one.resize(LARGE_BYTES + 1)
        with pytest.raises(BusyError):
            other.resize(LARGE_BYTES + 1)


def test_the_loop_goes_on_while_a_large_body_is_read() -> None:
    """Told by order, not by time: the reading waits for what the loop does meanwhile."""

    async def main() -> None:
        reader, is_going_on = Reader(), threading.Event()
        reading = asyncio.ensure_future(reader.run(LARGE_BYTES + 1, is_going_on.wait, 20))
        await asyncio.sleep(0)
        is_going_on.set()
        assert await reading
        assert await reader.run(LARGE_BYTES, threading.get_ident) == threading.get_ident()
        reader.close()

    asyncio.run(main())


TOO_MANY = [
    b"[" + b"[]," * 600_000 + b"0]",
    b"[" + b"1," * 1_100_000 + b"1]",
    b"{" + b'"a":1,' * 600_000 + b'"a":1}',
    b"[" * 1_100_000,
]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("many", TOO_MANY, ids=range(len(TOO_MANY)))
def test_too_many_values_are_refused_before_they_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, many: bytes
) -> None:
    def parse(_data: bytes) -> None:
        raise AssertionError("it is parsed")

    monkeypatch.setattr(bodies, "_top", parse)
    with roomy(tmp_path) as stack:
        status, _, answer = stack.ask("POST", path, b'{"model":"coder","messages":' + many + b"}")
    assert status == 413
    assert "more than 1,000,000 values" in json.loads(answer)["error"]["message"]
    assert not stack.engine.seen


def test_a_window_full_of_token_ids_is_not_too_many() -> None:
    assert not fields.has_too_many_values(json.dumps({"prompt": [123456] * 990_000}).encode())


@contextlib.contextmanager
def roomy(tmp_path: Path, memory: Memory | None = None) -> Any:
    """A gateway that takes 32 MB."""
    publish(tmp_path)
    with FakeEngine().running() as upstream:
        config = settings_for(tmp_path, upstream.url, shop=(tmp_path, 1000))
        gateway = Gateway(
            config._replace(gateway=config.gateway._replace(max_body_bytes=32 * MEGABYTE))
        )
        if memory:
            gateway.forwarder.memory = memory
        with serving(gateway.app) as url:
            yield Stack(upstream, url)


@pytest.mark.parametrize("model", ["coder", "coder@shop"])
def test_a_large_body_is_answered_as_a_small_one(tmp_path: Path, model: str) -> None:
    text = 'ä \\ " \N{GRINNING FACE}' * 800_000
    with roomy(tmp_path) as stack:
        answer = stack.post(CHAT, model=model, messages=[{"role": "user", "content": text}])
        assert answer.status == 200
        assert stack.engine.seen[0].chat["messages"][-1]["content"] == text


@pytest.mark.parametrize(
    ("path", "kind"), [(CHAT, "OverloadedError"), (MESSAGES, "overloaded_error")]
)
def test_what_there_is_no_memory_for_is_refused_until_there_is(
    tmp_path: Path, path: str, kind: str
) -> None:
    memory = Memory(most_of_one=6 * MEGABYTE)
    large = json.dumps(
        {"model": "coder", **BODIES[path], "metadata": "x" * (4 * MEGABYTE)}
    ).encode()
    with roomy(tmp_path, memory) as stack:
        with sending(stack, path, large):
            until(lambda: memory.used > 3 * MEGABYTE)
            status, headers, answer = stack.ask("POST", path, large)
            assert (status, headers["retry-after"]) == (503, "1")
            assert json.loads(answer)["error"]["type"] == kind
            assert stack.post(path, model="coder", **BODIES[path]).status == 200
        until(lambda: memory.used == 0)
        assert stack.ask("POST", path, large)[0] == 200
        assert memory.used == 0


def test_room_is_taken_for_all_of_a_body_as_it_begins(tmp_path: Path) -> None:
    """Of several that come together some are then answered, where else none would be."""
    memory = Memory()
    with roomy(tmp_path, memory) as stack:
        with sending(stack, CHAT, b"{" * (20 * MEGABYTE), sent=100):
            until(lambda: memory.used == 20 * MEGABYTE)
        until(lambda: memory.used == 0)


def test_who_is_refused_may_send_all_first(tmp_path: Path) -> None:
    body = b"{" * (30 * MEGABYTE)  # more than the sockets between hold
    with roomy(tmp_path, Memory(most=MEGABYTE)) as stack:
        for _ in range(3):
            assert stack.ask("POST", CHAT, body, {"Connection": "close"})[0] == 503


@contextlib.contextmanager
def sending(stack: Stack, path: str, body: bytes, sent: int = -1) -> Any:
    """Have sent all of a body but its end, or so many bytes of it."""
    parts = urlsplit(stack.url)
    with socket.create_connection((str(parts.hostname), parts.port or 0)) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body[:sent])
        yield


def test_memory_is_free_again_once_the_answer_begins(tmp_path: Path) -> None:
    memory = Memory()
    with roomy(tmp_path, memory) as stack:
        stack.engine.delay = 30.0
        with contextlib.closing(stack.connect()) as client:
            long = {"stream": True, "model": "coder@shop", "messages": [USER], "user": "x" * 9000}
            client.request("POST", CHAT, json.dumps(long))
            client.getresponse().read(10)
            assert memory.used == 0


def test_a_body_that_does_not_come_whole_in_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.gateway.connection._BODY_SECONDS", 0.2)
    with roomy(tmp_path) as stack:
        parts = urlsplit(stack.url)
        with socket.create_connection((str(parts.hostname), parts.port or 0), timeout=10) as client:
            client.sendall(
                f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode()
            )
            assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert not stack.engine.seen


@pytest.fixture
def guarded() -> Any:
    """An engine with the guard in front, as vLLM starts it."""
    engine = FakeEngine()
    app = engine.app()
    app.add_middleware(fields.Guard)
    with serving(app) as url:
        yield Stack(engine, url)


ALICE = {"X-Infbox-User": "alice"}
EVIL = {"X-Vllm-Priority": "-5", "X-Data-Parallel-Rank": "1"}


@pytest.mark.parametrize("path", BODIES)
def test_round_the_gateway_the_same_is_refused(guarded: Stack, path: str) -> None:
    for name in fields.REFUSED:
        answer = guarded.post(path, ALICE, model="coder", **BODIES[path], **{name: -5})
        assert answer.status == 400
        assert answer.json["error"]["message"].startswith(f"`{name}` is not for clients: ")
        assert answer.json.get("type") == ("error" if path == MESSAGES else None)
    for many in TOO_MANY:
        body = b'{"model":"coder","messages":' + many + b"}"
        assert guarded.ask("POST", path, body, ALICE)[0] == 413
    assert guarded.ask("POST", path, b"[" * 900, ALICE)[0] == 400
    assert not guarded.engine.seen


@pytest.mark.parametrize("path", BODIES)
def test_round_the_gateway_the_same_is_left_out(guarded: Stack, path: str) -> None:
    asked = {"model": "coder", **BODIES[path], "priority": 0, "infbox": {}, "cache_salt": "x"}
    assert guarded.post(path, {**ALICE, **EVIL}, **asked, other=1).status == 200
    seen = guarded.engine.seen.pop()
    kept = {"model": "coder", **BODIES[path], "cache_salt": fields.salt_of("alice", "x")}
    assert seen.chat == kept
    assert not {name.decode() for name, _ in seen.headers} & {name.lower() for name in EVIL}
    body = json.dumps({"model": "coder", **BODIES[path]}, indent=3).encode()
    guarded.ask("POST", path, body, ALICE)
    assert guarded.engine.seen.pop().body == body


def test_who_is_no_client_may_say_what_is_not_for_clients(guarded: Stack) -> None:
    answer = guarded.post(CHAT, EVIL, model="coder", messages=[USER], priority=1000)
    assert answer.status == 200
    assert guarded.engine.seen[0].chat["priority"] == 1000
    assert guarded.ask("GET", "/health", headers=ALICE)[0] == 200


@pytest.fixture
def behind_keys(tmp_path: Path) -> Any:
    """A gateway that stands behind who knows the users."""
    publish(tmp_path)
    with FakeEngine().running() as upstream:
        config = settings_for(tmp_path, upstream.url, shop=(tmp_path, 1000))
        config = config._replace(gateway=config.gateway._replace(requires_user=True))
        with serving(Gateway(config).app) as url:
            yield Stack(upstream, url)


ASKED = [
    *(("POST", path) for path in (*BODIES, "/v1/embeddings", "/v1/x")),
    *(("GET", f"/v1/{path}") for path in ("models", "models/coder", "workspaces")),
    *(("GET", f"/v1/workspaces/shop/{path}") for path in ("status", "pack")),
]


@pytest.mark.parametrize(("method", "path"), ASKED)
def test_who_comes_without_a_user_is_refused(behind_keys: Stack, method: str, path: str) -> None:
    body = (
        json.dumps({"model": "coder", **BODIES.get(path, {})}).encode() if method == "POST" else b""
    )
    named: list[dict[str, str]] = [{}, {"X-Infbox-User": ""}, {"X-Infbox-User": "a b"}]
    named.append({"Connection": "X-Infbox-User"})
    for headers in named:
        status, _, answer = behind_keys.ask(method, path, body, headers)
        assert status == 401
        error = json.loads(answer)["error"]
        kind = "authentication_error" if path == MESSAGES else "AuthenticationError"
        assert (error["type"], error["message"][:35]) == (
            kind,
            "The request has no user. Send it to",
        )
    assert not behind_keys.engine.seen
    assert behind_keys.ask(method, path, body, ALICE)[0] == 200


def test_pages_and_probes_need_no_user(behind_keys: Stack) -> None:
    for path in ("/health", "/ready", "/metrics", "/", "/status"):
        assert behind_keys.ask("GET", path)[0] == 200


@pytest.mark.parametrize("model", ["coder", "coder@shop"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "identity"])
def test_a_compressed_body_is_a_body(stack: Stack, model: str, encoding: str) -> None:
    data = json.dumps({"model": model, "messages": [USER]}).encode()
    packing = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}
    packed = packing.get(encoding, bytes)(data)
    assert stack.ask("POST", CHAT, packed, {"Content-Encoding": encoding})[0] == 200
    (seen,) = stack.engine.seen
    assert seen.chat["messages"][-1] == USER
    assert b"content-encoding" not in dict(seen.headers)


@pytest.mark.parametrize(
    ("encoding", "packed", "status"),
    [
        # A time in it would give each worker of pytest other names of tests.
        ("gzip", gzip.compress(b"[" * 200_000, mtime=0), 413),  # the limit here is 100,000
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4], 400),
        ("gzip", b"{}", 400),
        ("zstd", zstd.compress(b"[" * 200_000), 413),
        ("zstd", zstd.compress(b"{}")[:-4], 400),
        ("zstd", b"{}", 400),
        ("zstd", wide(b"{}"), 400),
        ("br", b"{}", 415),
        ("gzip, gzip", b"{}", 415),
    ],
)
def test_what_is_compressed_wrongly_is_refused(
    stack: Stack, encoding: str, packed: bytes, status: int
) -> None:
    refused, _, answer = stack.ask("POST", MESSAGES, packed, {"Content-Encoding": encoding})
    assert refused == status
    assert json.loads(answer)["type"] == "error"
    assert not stack.engine.seen


@pytest.mark.parametrize("value", [b'"\x80"', b'{"\x80":1}', b'"\xf0\x9f"'])
@pytest.mark.parametrize("model", [b"coder", b"coder@shop"])
def test_what_is_no_text_is_refused(stack: Stack, model: bytes, value: bytes) -> None:
    body = b'{"model":"%s","messages":%s}' % (model, value)
    assert stack.ask("POST", CHAT, body)[0] == 400
    assert not stack.engine.seen
