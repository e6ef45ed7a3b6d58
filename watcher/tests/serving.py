"""Running an application in a thread, on a real port."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from infbox import config
from infbox.runtime.serve import listening, server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.applications import Starlette

# With port 0 the system chooses one.
ANY = config.Listen("127.0.0.1", 0)


@contextlib.contextmanager
def serving(app: Starlette, listen: config.Listen = ANY) -> Iterator[str]:
    """Serve an application until the block is left; give its address."""
    listener = listening(listen, "test")
    running = server(app, idle_seconds=5, grace_seconds=1)
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    until(lambda: running.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()
        listener.close()


def free_port() -> int:
    """Return a port that nothing uses, and that no outgoing connection is given meanwhile: the
    system takes theirs from those above."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until a condition holds; fail the test when it does not in time."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come to pass in time"
        time.sleep(0.005)


def get_text(url: str) -> str:
    """Fetch a page."""
    with urlopen(url, timeout=10) as answer:  # noqa: S310  # ours
        text: str = answer.read().decode()
        return text


def get_json(url: str) -> Any:
    """Fetch a page of JSON."""
    return json.loads(get_text(url))


def settings_for(tmp_path: Path, engine: str, **workspaces: tuple[Path, int]) -> config.Config:
    """A configuration with these workspaces: name, folder, budget in tokens."""
    return config.Config(
        state_dir=tmp_path / "state",
        engine=config.Engine(engine, "coder", None, 100_000),
        watcher=config.Watcher(ANY, 256 * 1024),
        gateway=config.Gateway(ANY, 100_000, request_queue_timeout_seconds=0, retrieve_tokens=4000),
        workspaces=tuple(
            config.Workspace(name, folder, budget) for name, (folder, budget) in workspaces.items()
        ),
    )
