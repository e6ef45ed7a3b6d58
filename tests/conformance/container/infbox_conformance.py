"""A plugin of pytest's for vLLM's own tests: they ask a server that already runs.

It runs in the engine image, beside vLLM and its tests, and says what came of each test in a file.
Settings come as ``CONFORMANCE_*``: ``URL``, ``KEY`` and ``AUTHORITY`` of the server, ``MODEL`` to
name, the most ``TOKENS`` of an answer, the ``REPORT`` to write, and ``ONLY``, a file of test ids.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import ssl
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import requests

_URL = os.environ["CONFORMANCE_URL"].rstrip("/")
_KEY = os.environ["CONFORMANCE_KEY"]
_MODEL = os.environ["CONFORMANCE_MODEL"]
_REPORT = Path(os.environ["CONFORMANCE_REPORT"])
_TOKENS = int(os.environ["CONFORMANCE_TOKENS"])
_ONLY = os.environ.get("CONFORMANCE_ONLY", "")
_AUTHORITY = os.environ.get("CONFORMANCE_AUTHORITY", "")
_TIMEOUT = 300.0  # seconds
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_MOST_WORDS = 1500  # characters of a failure
# Options that another engine would have to be started with.
_OTHER_ENGINES = frozenset({
    "--enable-force-include-usage", "--enable-prompt-embeds", "--load-format",
    "--return-tokens-as-token-ids", "--root-path", "--runner-pooling", "--speculative-config",
    "--tool-server", "--uds", "--watermark-config",
})  # fmt: skip


class _Brief:
    """Bounds answers: the tests would have a small model write until its window is full."""

    def build_request(self, method: str, url: Any, **options: Any) -> Any:
        """Build a request, as clients do."""
        if options.get("content"):
            options["content"] = _brief(str(url), options["content"])
        return super().build_request(method, url, **options)  # type: ignore[misc]


def _brief(url: str, content: bytes) -> bytes:
    body = json.loads(content)
    if not isinstance(body, dict) or not {"messages", "prompt", "input"} & set(body):
        return content
    names = [name for name in _LIMITS if isinstance(body.get(name), int)]
    for name in names or [_LIMITS[-1] if url.endswith("/responses") else _LIMITS[0]]:
        body[name] = min(body.get(name, _TOKENS), _TOKENS)
    return json.dumps(body).encode()


class _OpenAi(_Brief, openai.DefaultHttpxClient):
    pass


class _AsyncOpenAi(_Brief, openai.DefaultAsyncHttpxClient):
    pass


class _Anthropic(_Brief, anthropic.DefaultHttpxClient):
    pass


class _AsyncAnthropic(_Brief, anthropic.DefaultAsyncHttpxClient):
    pass


class RunningServer:
    """Stands for the servers that the tests would start.

    Args:
        model: that it serves.
        arguments: of the engine that the test wants.
    """

    DUMMY_API_KEY = _KEY

    def __init__(self, model: str, arguments: list[str], **_others: object) -> None:
        if missing := sorted(_OTHER_ENGINES & set(arguments)):
            pytest.skip(f"needs an engine started with {', '.join(missing)}")
        self.model = model
        self.host, self.port, self.uds = "127.0.0.1", None, None
        self.show_hidden_metrics = False
        self.url_root = _URL

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def url_for(self, *parts: str) -> str:
        """Return an address of the server's."""
        return "/".join([_URL, *(part.strip("/") for part in parts if part)])

    def get_client(self, **options: Any) -> openai.OpenAI:
        """Return a client of OpenAI's APIs."""
        http = _OpenAi(verify=_context())
        return openai.OpenAI(base_url=self.url_for("v1"), http_client=http, **_options(options))

    def get_async_client(self, **options: Any) -> openai.AsyncOpenAI:
        """Return an asynchronous one."""
        http = _AsyncOpenAi(verify=_context())
        url = self.url_for("v1")
        return openai.AsyncOpenAI(base_url=url, http_client=http, **_options(options))

    def get_client_anthropic(self, **options: Any) -> anthropic.Anthropic:
        """Return a client of Anthropic's API."""
        http = _Anthropic(verify=_context())
        return anthropic.Anthropic(base_url=_URL, http_client=http, **_options(options))

    def get_async_client_anthropic(self, **options: Any) -> anthropic.AsyncAnthropic:
        """Return an asynchronous one."""
        http = _AsyncAnthropic(verify=_context())
        return anthropic.AsyncAnthropic(base_url=_URL, http_client=http, **_options(options))


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {"api_key": _KEY, "max_retries": 0, "timeout": _TIMEOUT, **given}


def _context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=_AUTHORITY or None)


def pytest_configure() -> None:
    """Have tests that ask without a client of the server's send the key too."""
    patch = pytest.MonkeyPatch()  # until pytest ends
    told = {"Authorization": f"Bearer {_KEY}"}
    request = requests.Session.request

    def with_key(self: requests.Session, method: str, url: str, **options: Any) -> Any:
        options["headers"] = told | dict(options.get("headers") or {})
        return request(self, method, url, **options)

    patch.setattr(requests.Session, "request", with_key)
    for kind in (httpx.Client, httpx.AsyncClient):
        own = kind.__init__

        def init(self: Any, *args: Any, _own: Any = own, **options: Any) -> None:
            options["headers"] = told | dict(options.get("headers") or {})
            _own(self, *args, **options)

        patch.setattr(kind, "__init__", init)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> object:
    """Give adapters that some servers would be started with: a name, and nothing downloaded."""
    if not fixturedef.argname.endswith("lora_files"):
        return None
    fixturedef.cached_result = ("adapter", fixturedef.cache_key(request), None)
    return "adapter"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what asks no server, what needs an adapter, and what is not to be run."""
    wanted = set(Path(_ONLY).read_text().splitlines()) if _ONLY else None
    kept = [item for item in items
            if _asks_a_server(item) and "lora" not in item.name.lower()
            and (wanted is None or _id(item.nodeid) in wanted)]  # fmt: skip
    if gone := [item for item in items if item not in kept]:
        config.hook.pytest_deselected(items=gone)
        items[:] = kept


def _asks_a_server(item: Any) -> bool:
    """Say whether a test asks a server, and is no unit test of what is in vLLM's own process."""
    if any("server" in name or "client" in name for name in item.fixturenames):
        return True
    return "RemoteOpenAIServer(" in inspect.getsource(item.function)


def _id(node: str) -> str:
    """Return a test's id, which is the same whichever name the model has."""
    return re.sub(rf"(?<=[\[-]){re.escape(_MODEL)}(?=[\]-])", "MODEL", node)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down what came of a test."""
    if report.when != "call" and report.outcome == "passed":
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    why = crash.message if crash else str(report.longrepr or "")
    line = {"id": _id(report.nodeid), "outcome": report.outcome, "why": why[:_MOST_WORDS],
            "seconds": round(report.duration, 2)}  # fmt: skip
    with _REPORT.open("a") as file:
        file.write(json.dumps(line) + "\n")
