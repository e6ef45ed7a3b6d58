"""What reaches the engine, and what comes back."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from fake_apis import CHAT
from fake_engine import FakeEngine, Seen
from gateway_stack import TEXT, USER, Stack, publish
from infbox.gateway.app import Gateway
from infbox.gateway.connection import BadRequestError, Incoming
from serving import get_json, serving, settings_for, until


def test_a_question_to_a_workspace_carries_its_pack(stack: Stack) -> None:
    system = {"role": "system", "content": "Be brief."}
    status, headers, answer = stack.chat(
        model="coder@shop", messages=[system, USER], temperature=0.5, n=2
    )
    seen = stack.engine.chats[0].chat
    assert status == 200
    assert seen == {
        "model": "coder",
        "messages": [{"role": "system", "content": f"{TEXT}\n\nBe brief."}, USER],
        "temperature": 0.5,
        "n": 2,
    }
    assert headers["X-Infbox-Generation"] == "3"
    assert headers["X-Infbox-Version"] == "1"
    assert headers["X-Infbox-Cached-Tokens"] == "0"
    assert answer["usage"]["prompt_tokens"] > 0


def test_the_second_question_finds_the_pack_in_the_cache(stack: Stack) -> None:
    stack.chat(model="coder@shop", messages=[USER])
    _, headers, answer = stack.chat(
        model="coder@shop", messages=[{"role": "user", "content": "How?"}]
    )
    assert int(headers["X-Infbox-Cached-Tokens"]) > 0.9 * len(TEXT)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == int(
        headers["X-Infbox-Cached-Tokens"]
    )


def test_a_streamed_question_carries_the_pack_too(stack: Stack) -> None:
    body = json.dumps({"model": "coder@shop", "stream": True, "messages": [USER]}).encode()
    status, headers, answer = stack.ask("POST", "/v1/chat/completions", body)
    assert status == 200
    assert stack.engine.chats[0].chat["messages"][0]["content"] == TEXT
    assert headers["X-Infbox-Version"] == "1"
    assert headers["Content-Type"].startswith("text/event-stream")
    assert answer.endswith(b"data: [DONE]\n\n")


def test_a_stream_comes_as_it_is_made(stack: Stack) -> None:
    stack.engine.delay = 0.3
    with contextlib.closing(stack.connect()) as connection:
        body = json.dumps({"model": "coder@shop", "stream": True, "messages": [USER]})
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        assert answer.readline() == b'data: {"n": 0}\n'
        began = time.monotonic()
        answer.read()
        assert time.monotonic() - began > 0.3  # it is held back for three times as long


def test_a_new_pack_is_used_at_once_and_a_damaged_one_never(stack: Stack, tmp_path: Path) -> None:
    publish(tmp_path, "the second text", version=2)
    assert stack.chat(model="coder@shop", messages=[USER])[1]["X-Infbox-Version"] == "2"
    file = tmp_path / "state/packs/shop/pack.json"
    for damage in ["{", "[]", '{"text": 1}', json.dumps({"text": "x", "sha256": "wrong"})]:
        file.write_text(damage)
        assert stack.chat(model="coder@shop", messages=[USER])[1]["X-Infbox-Version"] == "2"
    publish(tmp_path, "not what the checksum says", version=9, sha256="wrong")
    assert stack.chat(model="coder@shop", messages=[USER])[1]["X-Infbox-Version"] == "2"
    file.unlink()
    assert stack.chat(model="coder@shop", messages=[USER])[1]["X-Infbox-Version"] == "2"
    publish(tmp_path, "the third text", version=3)
    assert stack.chat(model="coder@shop", messages=[USER])[1]["X-Infbox-Version"] == "3"


def test_a_workspace_without_a_pack_is_answered_without_context_and_says_so(stack: Stack) -> None:
    status, headers, _ = stack.chat(model="coder@bare", messages=[USER])
    assert status == 200
    assert headers["X-Infbox-Version"] == "0"
    assert stack.engine.chats[0].chat == {"model": "coder", "messages": [USER]}


def test_an_unknown_workspace_is_refused_naming_those_there_are(stack: Stack) -> None:
    status, _, answer = stack.chat(model="coder@nowhere", messages=[USER])
    assert status == 404
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert "nowhere" in answer["error"]["message"]
    assert "shop, bare" in answer["error"]["message"]
    assert stack.engine.chats == []


def own_headers(seen: Seen) -> dict[bytes, bytes]:
    """The headers less those that belong to one connection."""
    return {name: value for name, value in seen.headers if name not in {b"host", b"connection"}}


UNTOUCHED = [
    ("POST", "/v1/chat/completions", b'{"model": "coder",  "messages": [ ] }'),
    ("POST", "/v1/chat/completions", b'{"model": 7}'),
    ("POST", "/v1/chat/completions", b'{"model": "@"}'),
    ("POST", "/v1/chat/completions", b'{"messages": "\\u0040shop", "seed": 1e999}'),
    ("POST", "/v1/completions", b'{"model": "coder", "prompt": "me@shop"}'),
    ("POST", "/v1/messages", b'{"model": "other@shop", "messages": []}'),
    ("POST", "/v1/embeddings", b'{"model": "coder@shop",  "input": "x"}'),
    ("GET", "/v1/some/path?a=1&b=%20c", b""),
    ("DELETE", "/v1/x%2Fy", b""),
    ("PUT", "/anything", os.urandom(50_000)),
]


@pytest.mark.parametrize(("method", "target", "body"), UNTOUCHED)
def test_what_names_no_workspace_passes_byte_for_byte(
    stack: Stack, method: str, target: str, body: bytes
) -> None:
    sent = {"Authorization": "Bearer x", "X-Custom": "a, b", "Content-Type": "application/json"}
    stack.ask(method, target, body, sent)
    (seen,) = stack.engine.seen
    assert (seen.method, seen.target, seen.body) == (method, target, body)
    expected = {name.lower().encode(): value.encode() for name, value in sent.items()}
    del expected[b"x-custom"]  # the engine knows it not
    expected[b"accept-encoding"] = b"identity"  # added by the client of this test
    if body or method == "DELETE":  # aiohttp says of a DELETE that it has no body
        expected[b"content-length"] = str(len(body)).encode()
    assert own_headers(seen) == expected


def test_an_answer_passes_with_its_headers(stack: Stack) -> None:
    status, headers, body = stack.ask("POST", "/v1/echo", b"\x00\xff" * 100)
    assert status == 200
    assert body == b"\x00\xff" * 100
    assert headers.get_all("X-Seen") == ["a", "b"]
    assert len(headers.get_all("Content-Length") or []) == 1
    assert "X-Infbox-Version" not in headers


def test_a_compressed_answer_is_not_touched(stack: Stack) -> None:
    stack.engine.encoding = "gzip"
    body = b"\x1f\x8bnot really gzip"
    status, headers, answer = stack.ask("POST", "/v1/echo", body)
    assert (status, headers["Content-Encoding"], answer) == (200, "gzip", body)


def test_a_chunked_request_passes(stack: Stack) -> None:
    with contextlib.closing(stack.connect()) as connection:
        connection.request("POST", "/v1/audio", iter([b"one", b"two"]), encode_chunked=True)
        assert connection.getresponse().read() == b"onetwo"


def test_headers_of_one_connection_are_not_handed_on(stack: Stack) -> None:
    sent = {"Connection": "X-Hop", "X-Hop": "1", "TE": "trailers", "Keep-Alive": "5"}
    stack.ask("GET", "/v1/x", headers=sent)
    (seen,) = stack.engine.seen
    assert not {b"x-hop", b"te", b"keep-alive"} & set(own_headers(seen))


@pytest.mark.parametrize("target", [b"@example.org/v1", b"*", b"v1/models"])
def test_a_target_that_is_no_path_goes_nowhere(stack: Stack, target: bytes) -> None:
    answer = stack.raw(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert answer.split()[1] in (b"400", b"404")
    assert stack.engine.seen == []


def test_a_target_cannot_change_whom_we_ask() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"method": "GET", "path": "", "raw_path": b"@example.org/", "query_string": b""}
    with pytest.raises(BadRequestError):
        _ = Incoming(scope, receive, limit=1).target


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/other"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(stack: Stack, target: str, chunked: bool) -> None:
    body: Any = iter([b"x" * 60_000] * 2) if chunked else b"x" * 120_000
    with contextlib.closing(stack.connect()) as connection:
        connection.request("POST", target, body, encode_chunked=chunked)
        answer = connection.getresponse()
        assert answer.status == 413
        assert "100000 bytes" in json.load(answer)["error"]["message"]


def test_an_engine_that_is_away_is_said_so(tmp_path: Path) -> None:
    publish(tmp_path)
    config = settings_for(tmp_path, "http://127.0.0.1:1", shop=(tmp_path, 1000))
    with serving(Gateway(config).app) as url:
        away = Stack(FakeEngine(), url)
        status, headers, answer = away.chat(model="coder@shop", messages=[USER])
        assert (status, headers["retry-after"]) == (503, "10")
        assert answer["error"]["type"] == "EngineAwayError"
        assert away.ask("GET", "/health")[0] == 503
        assert away.ask("GET", "/v1/models")[0] == 503


def test_health_is_that_of_the_engine(stack: Stack) -> None:
    assert stack.ask("GET", "/health")[0] == 200
    stack.engine.healthy = False
    assert stack.ask("GET", "/health")[0] == 503


def test_models_lists_each_name_once(stack: Stack) -> None:
    def names() -> list[str]:
        return [model["id"] for model in get_json(f"{stack.url}/v1/models")["data"]]

    assert names() == ["coder", "coder@shop", "coder@bare"]
    stack.engine.served = ("coder", "coder@shop")
    assert sorted(names()) == ["coder", "coder@bare", "coder@shop"]
    models = get_json(f"{stack.url}/v1/models")["data"]
    lengths = {model["id"]: model["max_model_len"] for model in models}
    assert lengths == {"coder": 4096, "coder@shop": 4096 - 100, "coder@bare": 4096}


def test_a_model_can_be_asked_for_by_its_name(stack: Stack) -> None:
    """As Visual Studio does before it takes a server; vLLM has no such path."""
    for name in ("coder", "coder@shop", "coder%40shop", "coder@bare"):
        model = get_json(f"{stack.url}/v1/models/{name}")
        assert model["id"] == name.replace("%40", "@")
        left = 4096 - (100 if model["id"] == "coder@shop" else 0)
        assert (model["object"], model["max_model_len"]) == ("model", left)
    for name in ("other", "coder@none", "coder/shop"):
        status, _, answer = stack.ask("GET", f"/v1/models/{name}")
        assert status == 404
        error = json.loads(answer)["error"]
        assert f"The model {name} does not exist." in error["message"]
        assert error["type"]


def test_workspaces_are_listed_with_their_packs(stack: Stack) -> None:
    shop, bare = get_json(f"{stack.url}/v1/workspaces")["data"]
    assert shop["model"] == "coder@shop"
    assert (shop["generation"], shop["version"], shop["tokens"]) == (3, 1, 100)
    assert (bare["name"], bare["version"]) == ("bare", 0)
    status = get_json(f"{stack.url}/v1/workspaces/shop/status")
    assert status["version"] == 1
    assert status["watcher"] is None, "no watcher runs here"
    assert stack.ask("GET", "/v1/workspaces/none/status")[0] == 404


def test_metrics_count_requests_by_workspace_and_hold_no_text(stack: Stack) -> None:
    stack.post(CHAT, {"X-Infbox-User": "ann"}, model="coder@shop", messages=[USER])
    labels = '{status="200",user="ann",workspace="shop"}'
    until(lambda: f"infbox_gateway_requests_total{labels} 1.0" in stack.metrics)
    assert "Why?" not in stack.metrics
