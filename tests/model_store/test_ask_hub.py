"""Which commit the hub's default branch has, asked by Python alone before there is any image."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.model_store.conftest import REPOSITORY, TOKEN, stub_hub
from tests.plugins.plugin_files import ROOT, load_file

PROGRAM = ROOT / "roles/model_store/files/ask_hub.py"
ask_hub = load_file(PROGRAM)
MOVED = "b" * 40


def asked(hub: Any, **other: str) -> dict[str, str]:
    return {"endpoint": hub.address, "repository": REPOSITORY, "token": TOKEN, "ca": "", **other}


def test_the_commit_is_that_of_the_default_branch_at_this_moment(hub: Any, model: Path) -> None:
    assert ask_hub.commit_of(asked(hub)) == stub_hub.LATEST
    (model.parents[1] / "latest").write_text(MOVED)
    assert ask_hub.commit_of(asked(hub)) == MOVED
    assert len(hub.requests) == 2


def test_the_token_is_read_from_its_file_where_none_is_given(hub: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert ask_hub.commit_of(asked(hub, token="", token_file=str(file))) == stub_hub.LATEST


def test_a_run_shows_the_token_to_nobody(hub: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.read_text()],
        input=json.dumps(asked(hub)), env={**os.environ, "NO_PROXY": "127.0.0.1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == {"commit": stub_hub.LATEST}
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"token": "another"}, "give a valid token of that account by infbox_hub_token"),
        ({"repository": "stub/unknown"}, "knows no model stub/unknown"),
        ({"repository": "../../etc"}, "is no name of a model"),
        ({"endpoint": "file:///etc/passwd?"}, "is no address of a hub"),
        ({"endpoint": "http://127.0.0.1:9"}, "Run again, set infbox_hub_endpoint to a mirror"),
        ({"ca": "no certificate"}, "infbox_ca_certificates cannot be read"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_fix(
    hub: Any, other: dict[str, str], message: str
) -> None:
    with pytest.raises(ask_hub.RefusedError, match=message):
        ask_hub.commit_of(asked(hub, **other), 0)


def test_a_bad_minute_of_the_hub_is_sat_out(hub: Any) -> None:
    hub.troubles.answers = [(503, {}), (429, {})]
    assert ask_hub.commit_of(asked(hub), 0) == stub_hub.LATEST


class Mirror(BaseHTTPRequestHandler):
    """Answers as it is told to."""

    body: bytes | None = b""
    seen: tuple[str, ...] = ()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer, without an end where there is no body."""
        type(self).seen += (self.headers.get("Authorization", ""),)
        self.send_response(200)
        self.end_headers()
        piece = b"x" * 2**20 if self.body is None else self.body
        try:
            self.wfile.write(piece)
            while self.body is None:
                self.wfile.write(piece)
        except OSError:
            pass


@pytest.fixture
def mirror() -> Generator[Callable[[bytes | None], str]]:
    """Starts a mirror that answers what it is given, and returns its address."""
    server = HTTPServer(("127.0.0.1", 0), Mirror)
    Mirror.seen = ()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def answering(body: bytes | None) -> str:
        Mirror.body = body
        return f"http://127.0.0.1:{server.server_port}"

    yield answering
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"sha": "main"}', b'{"sha": ["a"]}', b"[" * 100_000, b"\xff"],
)
def test_an_answer_without_a_commit_is_refused(
    mirror: Callable[[bytes | None], str], body: bytes
) -> None:
    with pytest.raises(ask_hub.RefusedError, match="answers no commit of 40 digits"):
        ask_hub.commit_of({"endpoint": mirror(body), "repository": REPOSITORY}, 0)


def test_an_answer_without_an_end_is_refused(mirror: Callable[[bytes | None], str]) -> None:
    with pytest.raises(ask_hub.RefusedError, match="its answer does not end"):
        ask_hub.commit_of({"endpoint": mirror(None), "repository": REPOSITORY}, 0)


def test_the_token_stays_at_the_hub_where_that_leads_elsewhere(
    hub: Any, mirror: Callable[[bytes | None], str]
) -> None:
    place = mirror(json.dumps({"sha": MOVED}).encode())
    hub.troubles.answers = [(307, {"Location": f"{place}/elsewhere"})]
    assert ask_hub.commit_of(asked(hub)) == MOVED
    assert Mirror.seen == ("",)
