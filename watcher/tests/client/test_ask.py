"""The command `infbox ask`, as a person uses it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from infbox.client import ask
from serving import serving

if TYPE_CHECKING:
    from gateway_stack import Stack

KEY = "sk-infbox-0123456789"


def chunk(text: str = "", **more: Any) -> str:
    choice = {"delta": {"content": text}, "finish_reason": None}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n"


ENDING = 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
USAGE = {
    "prompt_tokens": 5715,
    "prompt_tokens_details": {"cached_tokens": 5632},
}
LAST = f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n\n"


class Server:
    """A server that lists these models, and streams these events."""

    def __init__(self, events: str, *models: str) -> None:
        self.models, self.events = models, events
        self.window: int | None = None
        self.seen: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []

    async def list(self, request: Request) -> Response:
        self.seen.append(dict(request.headers))
        more = {} if self.window is None else {"max_model_len": self.window}
        return JSONResponse({"data": [{"id": name, **more} for name in self.models]})

    async def chat(self, request: Request) -> Response:
        self.seen.append(dict(request.headers))
        self.bodies.append(await request.json())
        return StreamingResponse(iter([self.events]), media_type="text/event-stream")

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self.list),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )


def test_the_answer_is_printed_with_what_it_cost(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ask, "GATEWAY", stack.url)
    stack.engine.event, stack.engine.events = chunk("In prices.py").encode(), 1
    assert ask.main(["ask", "Where", "are", "orders?", "--workspace", "shop"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "In prices.py\n"
    assert "coder@shop at http://127.0.0.1" in printed.err
    assert re.search(r"time to first token \d+\.\d\d s, .* tokens of prompt, ", printed.err)
    sent = stack.engine.chats[-1].chat
    # The pack stands before the question.
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert sent["messages"][-1]["content"] == "Where are orders?"


def test_figures_are_those_of_the_stream(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(chunk("In ") + chunk("prices.py") + ENDING + LAST, "coder", "coder@shop")
    with serving(server.app()) as url:
        monkeypatch.setattr(ask, "GATEWAY", url)
        assert ask.main(["ask", "Where?", "--cold"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "In prices.py\n"
    assert "5,715 tokens of prompt, 5,632 of them cached (99%)" in printed.err
    assert server.bodies[0]["model"] == "coder@shop"
    assert server.bodies[0]["cache_salt"]


def test_what_a_terminal_would_obey_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(chunk("a\x1b[2J\x07\tb\u009b31m\n") + ENDING + LAST, "coder")
    with serving(server.app()) as url:
        monkeypatch.setattr(ask, "GATEWAY", url)
        assert ask.main(["ask", "Why?"]) == 0
    assert capsys.readouterr().out == "a[2J\tb31m\n"


def test_a_key_goes_to_the_server_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(chunk("Yes.") + ENDING + LAST, "coder")
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    with serving(server.app()) as url:
        assert ask.main(["ask", "Why?", "--server", f"{url}/v1/", "--key-file", str(file)]) == 0
        monkeypatch.setenv(ask.KEY_VARIABLE, KEY)
        assert ask.main(["ask", "Why?", "--server", url]) == 0
    assert {seen["authorization"] for seen in server.seen} == {f"Bearer {KEY}"}
    assert not [seen for seen in server.seen if "x-infbox-user" in seen]
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err
    assert KEY not in repr(ask.Server("https://x", KEY, "me"))


def test_a_gateway_of_this_host_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ask.KEY_VARIABLE, raising=False)
    monkeypatch.setenv("SUDO_USER", "alice; rm")
    server = Server(chunk("Yes.") + ENDING + LAST, "coder")
    with serving(server.app()) as url:
        assert ask.main(["ask", "Why?", "--server", url]) == 0
    assert {seen["x-infbox-user"] for seen in server.seen} == {"alicerm"}
    assert not [seen for seen in server.seen if "authorization" in seen]


def test_a_redirect_is_not_followed_with_the_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Server(chunk("Yes.") + ENDING + LAST, "coder")
    monkeypatch.setenv(ask.KEY_VARIABLE, KEY)
    with serving(other.app()) as elsewhere:

        async def away(request: Request) -> Response:
            return RedirectResponse(elsewhere + request.url.path)

        with serving(Starlette(routes=[Route("/v1/models", away)])) as url:
            assert ask.main(["ask", "Why?", "--server", url]) == 1
    assert other.seen == []
    assert "answers 307: is this the address of infbox?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workspace", "shap"], "there is no workspace shap: give --workspace one of bare, shop"),
        ([], "there are several workspaces: give --workspace one of bare, shop"),
        (["--model", "gpt"], "the server answers 404: "),
        (["--server", "http://gpu1"], "would send the key unencrypted: give https://"),
        (["--server", "ftp://gpu1"], "give an address such as https://SERVER"),
        (["--server", "https://gpu1"], "set INFBOX_API_KEY, or give a file to --key-file"),
        (["--server", "https://gpu1", "--key-file", "/none"], "give a file with the API key to"),
    ],
)
def test_what_is_wrong_is_named(
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(ask, "GATEWAY", stack.url)
    monkeypatch.delenv(ask.KEY_VARIABLE, raising=False)
    assert ask.main(["ask", "Why?", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_no_question_is_refused_and_one_may_be_piped_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(chunk("Yes.") + ENDING + LAST, "coder")
    with serving(server.app()) as url:
        monkeypatch.setattr(ask, "GATEWAY", url)
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        assert ask.main(["ask"]) == 2
        assert "there is no question" in capsys.readouterr().err
        monkeypatch.setattr("sys.stdin", io.StringIO("Why\nso?\n"))
        assert ask.main(["ask"]) == 0
    assert server.bodies[0]["messages"][0]["content"] == "Why\nso?"


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (chunk("In "), "the answer was interrupted: send the question again"),
        (chunk("In ") + 'data: {"choices": [', "interrupted within an event"),
        (chunk("In ") + 'data: {"error": {"message": "engine is gone"}}\n\n', "engine is gone"),
    ],
)
def test_an_answer_that_broke_off_is_no_success(
    events: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Server(events, "coder").app()) as url:
        monkeypatch.setattr(ask, "GATEWAY", url)
        assert ask.main(["ask", "Why?"]) == 1
    assert said in capsys.readouterr().err


def test_a_server_that_is_away_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ask, "GATEWAY", "http://127.0.0.1:9")
    assert ask.main(["ask", "Why?"]) == 1
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err
