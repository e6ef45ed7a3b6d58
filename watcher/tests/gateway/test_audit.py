"""What is recorded of requests: who asked which workspace, when and at what cost, and no word."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.middleware import Middleware
from starlette.routing import Mount, Route

from fake_apis import CHAT, COUNT, RESPONSES
from fake_engine import FakeEngine
from gateway_stack import USER, Stack, publish
from infbox.auth.audit import Audit
from infbox.gateway.app import Gateway
from serving import free_port, get_text, serving, settings_for, until

ANN = {"X-Infbox-User": "ann", "X-Infbox-Workspaces": "shop"}
FIELDS = [
    *("audit", "time", "user", "workspace", "method", "path", "status", "seconds"),
    *("prompt_tokens", "cached_tokens", "completion_tokens"),
]


class Recorded:
    """A gateway, and the records of it."""

    def __init__(self, stack: Stack, gateway: Gateway, records: list[str]) -> None:
        self.stack = stack
        self.gateway = gateway
        self._records = records

    def last(
        self, method: str, target: str, headers: dict[str, str] | None = None, **body: Any
    ) -> dict[str, Any]:
        """Ask as ann; return the record of that, the only one."""
        self._records.clear()
        content = json.dumps(body).encode() if body else b""
        self.stack.ask(method, target, content, {**ANN, **(headers or {})})
        until(lambda: self._records)
        (record,) = self._records
        assert "\n" not in record
        told: dict[str, Any] = json.loads(record)
        assert list(told) == FIELDS
        return told


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    records: list[str] = []
    for name in ("shop", "mango"):
        publish(tmp_path, workspace=name)
    with FakeEngine().running() as engine:
        config = settings_for(tmp_path, engine.url, shop=(tmp_path, 1000), mango=(tmp_path, 1000))
        settings = config.gateway._replace(audit=True, restricts_workspaces=True)
        gateway = Gateway(config._replace(gateway=settings))
        (made,) = gateway.app.user_middleware
        assert made.cls is Audit
        gateway.app.user_middleware[:] = [Middleware(Audit, *made.args, write=records.append)]
        with serving(gateway.app) as url:
            yield Recorded(Stack(engine, url), gateway, records)


def test_a_question_is_recorded_with_its_tokens(recorded: Recorded) -> None:
    told = recorded.last("POST", CHAT, model="coder@shop", messages=[USER])
    assert (told["audit"], told["user"], told["workspace"]) == (1, "ann", "shop")
    assert (told["method"], told["path"], told["status"]) == ("POST", CHAT, 200)
    assert told["prompt_tokens"] > 0
    assert told["cached_tokens"] >= 0
    assert told["completion_tokens"] > 0
    assert told["seconds"] >= 0
    assert datetime.fromisoformat(told["time"].replace("Z", "+00:00")).tzinfo
    again = recorded.last("POST", CHAT, model="coder", messages=[USER], stream=True)
    assert (again["workspace"], again["status"]) == (None, 200)
    assert again["completion_tokens"] > 0  # though the client did not ask for it


@pytest.mark.parametrize(
    ("method", "target", "body", "told"),
    [
        ("GET", "/v1/workspaces/shop/pack", {}, ("shop", "/v1/workspaces/{name}/pack", 200)),
        ("GET", "/v1/workspaces/mango/pack", {}, ("mango", "/v1/workspaces/{name}/pack", 404)),
        ("GET", "/v1/workspaces/my-word/pack", {}, (None, "/v1/workspaces/{name}/pack", 404)),
        ("GET", "/v1/workspaces/pack/pack", {}, (None, "other", 404)),
        ("GET", "/v1/models/coder@shop", {}, ("shop", "/v1/models/{name}", 200)),
        ("GET", "/v1/models/my-word", {}, (None, "/v1/models/{name}", 404)),
        ("GET", "/v1/responses/my-word", {}, (None, "/v1/responses/{name}", 404)),
        ("GET", "/v1/models", {}, (None, "/v1/models", 200)),
        ("GET", "/status", {}, (None, "/status", 200)),
        ("POST", CHAT, {"model": "coder@mango", "messages": [USER]}, ("mango", CHAT, 404)),
        ("POST", CHAT, {"model": "coder@my-word", "messages": [USER]}, (None, CHAT, 404)),
        ("POST", RESPONSES, {"model": "my-word", "input": "my-word"}, (None, RESPONSES, 404)),
        ("POST", COUNT, {"model": "coder@shop", "messages": [USER]}, ("shop", COUNT, 200)),
        ("POST", "/mcp/mango", {"a": "my-word"}, ("mango", "/mcp/{workspace}", 404)),
        ("POST", "/my-word", {"a": 1}, (None, "other", 404)),
    ],
)
def test_what_was_asked_for_is_recorded_and_no_word_of_the_client(
    recorded: Recorded,
    method: str,
    target: str,
    body: dict[str, Any],
    told: tuple[str | None, str, int],
) -> None:
    record = recorded.last(method, target, **body)
    assert (record["workspace"], record["path"], record["status"]) == told
    assert "my-word" not in json.dumps(record)


@pytest.mark.parametrize(("name", "told"), [("mango", "mango"), ("my-word", None)])
def test_a_workspace_that_a_header_names_is_recorded(
    recorded: Recorded, name: str, told: str | None
) -> None:
    for target, body in (("/mcp", {"a": 1}), (CHAT, {"model": "coder", "messages": [USER]})):
        record = recorded.last("POST", target, {"X-Infbox-Workspace": name}, **body)
        assert (record["workspace"], record["path"], record["status"]) == (told, target, 404)


def test_what_needs_no_key_is_not_recorded(recorded: Recorded) -> None:
    for path in ("/health", "/ready", "/metrics", "/", "/status/page.js"):
        get_text(recorded.stack.url + path)
    recorded.last("GET", "/v1/models")  # and nothing else by then


def test_every_route_is_recorded_under_its_path_or_left_out(recorded: Recorded) -> None:
    _, paths, left_out = recorded.gateway.app.user_middleware[0].args
    for route in recorded.gateway.app.routes:
        assert isinstance(route, Route | Mount)
        path = route.path.replace(":path", "") or CHAT
        assert (path in paths) != (path in left_out), path


def test_records_are_lines_of_json_on_standard_output(tmp_path: Path) -> None:
    port = free_port()
    settings = {
        "state_dir": str(tmp_path / "state"),
        "engine": {"url": "http://127.0.0.1:9", "model": "coder", "max_model_len": 1000},
        "gateway": {
            "listen": f"127.0.0.1:{port}",
            "audit": True,
            "request_queue_timeout_seconds": 0,
        },
    }
    (tmp_path / "watcher.yml").write_text(yaml.safe_dump(settings))
    command = [
        sys.executable,
        "-c",
        "import sys; from infbox.cli import gateway; sys.exit(gateway())",
    ]
    with subprocess.Popen(
        [*command, "run", "--config", tmp_path / "watcher.yml"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}/v1/workspaces"
            until(lambda: answers(url), 30)
            assert process.stdout
            told = json.loads(process.stdout.readline())
        finally:
            process.terminate()
    assert (told["path"], told["status"]) == ("/v1/workspaces", 200)


def answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(get_text(url))
    return False
