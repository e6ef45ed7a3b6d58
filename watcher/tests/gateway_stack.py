"""A gateway in front of a fake engine."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fake_apis
from fake_engine import FakeEngine
from infbox.gateway.app import Gateway
from serving import get_text, serving, settings_for

SECTION = 'the "pack" of ünïcode \\ and\nlines\n'
SECTION_TOKENS = 5
SECTIONS = 20
TEXT = SECTION * SECTIONS
USER = {"role": "user", "content": "Why?"}

BODIES: dict[str, dict[str, Any]] = {
    fake_apis.CHAT: {"messages": [USER]},
    fake_apis.COMPLETIONS: {"prompt": "def f():"},
    fake_apis.RESPONSES: {"input": "Why?"},
    fake_apis.MESSAGES: {"messages": [USER], "max_tokens": 5},
}
"""A question to each API, without its model."""


def publish(
    tmp_path: Path, text: str = TEXT, version: int = 1, workspace: str = "shop", **changes: Any
) -> None:
    """Publish a pack as the watcher does."""
    file = tmp_path / "state" / "packs" / workspace / "pack.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    count = len(text) // len(SECTION)
    pack = {
        "workspace": workspace,
        "model": "coder",
        "generation": 3,
        "version": version,
        "sha256": sha256(text.encode()).hexdigest(),
        "tokens": 100,
        "text": text,
        "sections": [[n * len(SECTION), n * SECTION_TOKENS] for n in range(1, count + 1)],
    }
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(pack | changes))
    beside.replace(file)


@dataclass
class Answer:
    """An answer of the gateway."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[bytes]:
        """The events of a stream."""
        return self.body.removesuffix(b"\n\n").split(b"\n\n")


@dataclass
class Stack:
    """The two."""

    engine: FakeEngine
    url: str

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=10)

    def ask(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, target, body or None, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def post(self, path: str, headers: dict[str, str] | None = None, **body: Any) -> Answer:
        return Answer(*self.ask("POST", path, json.dumps(body).encode(), headers))

    def chat(self, **body: Any) -> tuple[int, http.client.HTTPMessage, Any]:
        answer = self.post(fake_apis.CHAT, **body)
        return answer.status, answer.headers, answer.json

    def raw(self, request: bytes) -> bytes:
        """Send bytes, and return the answer up to when the gateway closes or says no more."""
        parts = urlsplit(self.url)
        with socket.create_connection((str(parts.hostname), parts.port or 0), timeout=1) as client:
            client.sendall(request)
            answer = b""
            with contextlib.suppress(OSError):
                while chunk := client.recv(65536):
                    answer += chunk
            return answer

    @property
    def metrics(self) -> str:
        return get_text(f"{self.url}/metrics")


@contextlib.contextmanager
def running(tmp_path: Path, **engine: Any) -> Iterator[Stack]:
    """Run both with a workspace `shop`, and `bare`, which has no pack yet."""
    publish(tmp_path)
    with FakeEngine(**engine).running() as upstream:
        config = settings_for(tmp_path, upstream.url, shop=(tmp_path, 1000), bare=(tmp_path, 1000))
        with serving(Gateway(config).app) as url:
            yield Stack(upstream, url)
