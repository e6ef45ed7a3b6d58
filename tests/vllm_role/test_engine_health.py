"""The engine's health check, against an API whose engine core is a stub.

With the real engine, frozen: tests/system/test_chaos.py.
"""

import contextlib
import math
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import infbox_engine_health as health
import pytest

LONG = 60.0  # seconds; longer than any test
SHORT = 0.5


@dataclass
class Stub:
    """An API with a stub of an engine core.

    Attributes:
        url: of the API.
        state: file of the check.
        status: of a completion.
        completes: set while completions come.
        answers: set while the API does anything.
        moves_after: looks at its counters after which one of the core's is another with each.
        looks: so far.
        asked: completions so far.
    """

    state: Path
    url: str = ""
    status: int = 200
    completes: threading.Event = field(default_factory=threading.Event)
    answers: threading.Event = field(default_factory=threading.Event)
    moves_after: float = math.inf
    looks: int = 0
    asked: int = 0

    def check(self, patience: float = LONG) -> int:
        words = ["--url", self.url, "--model", "coder", "--patience", str(patience)]
        return health.main([*words, "--state", str(self.state)])

    def metrics(self) -> str:
        self.looks += 1
        tokens = max(0, self.looks - self.moves_after)
        # The API counts the latter by itself.
        return (
            f'vllm:kv_cache_usage_perc{{engine="0",model_name="coder"}} {tokens}\n'
            f'vllm:request_success_total{{engine="0"}} {self.looks}\n'
        )


@contextlib.contextmanager
def serving(stub: Stub) -> Iterator[None]:
    """Have a stub answer until the block is left."""

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stub.answers.wait(LONG)
            self.say(200, stub.metrics())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            stub.asked += 1
            stub.answers.wait(LONG)
            stub.completes.wait(LONG)
            self.say(stub.status, "{}")

        def say(self, status: int, text: str) -> None:
            with contextlib.suppress(OSError):  # who asked is gone
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    try:
        yield
    finally:
        stub.answers.set()
        stub.completes.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(health, "METRICS_SECONDS", LONG)
    monkeypatch.setattr(health, "PROVEN_SECONDS", 0.0)
    stub = Stub(tmp_path / "state")
    stub.answers.set()
    stub.completes.set()
    with serving(stub):
        yield stub


def test_an_engine_that_completes_is_healthy(stub: Stub) -> None:
    assert [stub.check(), stub.check()] == [0, 0]
    assert stub.asked == 2


def test_one_that_moved_since_the_last_check_is_not_asked(stub: Stub) -> None:
    assert stub.check() == 0
    stub.moves_after = stub.looks
    stub.completes.clear()
    assert stub.check() == 0
    assert stub.asked == 1


def test_a_completion_proves_it_for_a_while(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PROVEN_SECONDS", LONG)
    assert stub.check() == 0
    stub.completes.clear()
    assert stub.check() == 0
    assert stub.asked == 1


@pytest.mark.parametrize("is_proven", [True, False])
def test_one_that_works_at_something_long_is_healthy(stub: Stub, is_proven: bool) -> None:
    if is_proven:
        assert stub.check() == 0
    stub.completes.clear()
    stub.moves_after = stub.looks + 5
    assert stub.check() == 0
    assert stub.looks > stub.moves_after


@pytest.mark.parametrize("is_proven", [True, False])
def test_one_that_completes_nothing_and_does_not_move_hangs(
    stub: Stub, capsys: pytest.CaptureFixture[str], is_proven: bool
) -> None:
    if is_proven:
        assert stub.check() == 0
    stub.completes.clear()
    assert stub.check(SHORT) == 1
    said = capsys.readouterr().out
    assert re.fullmatch(r"nothing was completed and nothing moved for \d+ s\n", said)


def test_one_whose_api_answers_nothing_hangs(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stub.check() == 0
    stub.answers.clear()
    monkeypatch.setattr(health, "METRICS_SECONDS", 0.2)
    assert stub.check(SHORT) == 1


def test_after_a_hang_it_is_not_waited_for_as_long_again(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "AFTER_A_HANG_SECONDS", SHORT)
    assert stub.check() == 0
    stub.completes.clear()
    assert stub.check(SHORT) == 1
    assert stub.check(math.inf) == 1
    stub.completes.set()
    assert stub.check() == 0


def test_one_that_does_not_listen_yet_does_not_hang(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = Stub(tmp_path / "state", "http://127.0.0.1:9")
    assert away.check() == 1
    assert capsys.readouterr().out == "nothing listens\n"
    assert health.remembered(stub.state) == health.Seen()


@pytest.mark.parametrize(("status", "verdict"), [(500, 1), (503, 1), (404, 0)])
def test_errors_of_the_engine_count_and_refusals_do_not(
    stub: Stub, status: int, verdict: int
) -> None:
    stub.status = status
    assert stub.check() == verdict


@pytest.mark.parametrize("text", ["", "[]", '{"of": "another version"}'])
def test_a_state_that_cannot_be_read_is_none(stub: Stub, text: str) -> None:
    stub.state.write_text(text)
    assert stub.check() == 0
