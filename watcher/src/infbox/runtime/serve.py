"""Serving an application on an address of the configuration."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from infbox.errors import InputError
from infbox.runtime import notify

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

    from infbox.config import Listen

_BACKLOG = 2048


def listening(listen: Listen, field: str) -> socket.socket:
    """Return a socket that listens.

    Args:
        listen: where.
        field: of the configuration, for the message.

    Raises:
        InputError: the address cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        return socket.create_server((listen.host, listen.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise InputError(
            f"{field}: {listen}: {error.strerror}: free the port, or give another"
        ) from error


def lasting(listen: Listen, field: str) -> socket.socket:
    """Return a socket that listens and goes on to do so while the service is restarted.

    Nobody who asks in that second is refused: a proxy that was could have sent half a question.

    Args:
        listen: where.
        field: of the configuration, for the message.

    Raises:
        InputError: the address cannot be had.
    """
    kept = notify.stored()
    if kept and kept.getsockname()[:2] == (listen.host, listen.port):
        return kept
    if kept:
        kept.close()
        notify.forget()
    listener = listening(listen, field)
    notify.store(listener)
    return listener


def server(
    app: Starlette, *, idle_seconds: int, grace_seconds: int, loop: str = "auto"
) -> uvicorn.Server:
    """Return what serves an application, until SIGTERM or SIGINT, on the sockets it is run with.

    It feeds systemd's watchdog, where the unit has one, from the event loop that answers requests:
    a process that is frozen, or a loop that is blocked, feeds nothing and is restarted.

    Args:
        app: the application; its lifespan is run.
        idle_seconds: after which an idle connection is closed.
        grace_seconds: for requests under way when the process is asked to end.
        loop: ``auto`` for the fastest event loop there is, ``asyncio`` for the one that takes the
            least memory.
    """
    import uvicorn  # noqa: PLC0415  # the watcher is ready before it is needed

    settings = uvicorn.Config(
        app,
        loop=loop,
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=idle_seconds,
        timeout_graceful_shutdown=grace_seconds,
    )
    feed = _Feeder().feed

    class Server(uvicorn.Server):
        async def on_tick(self, counter: int) -> bool:
            feed()
            return await super().on_tick(counter)

    return Server(settings)


class _Feeder:
    """Tells systemd's watchdog that the process works, three times as often as it wants to hear."""

    def __init__(self) -> None:
        self._period = (notify.watchdog_seconds() or 0.0) / 3
        self._fed_at = float("-inf")

    def feed(self) -> None:
        now = time.monotonic()
        if self._period and now - self._fed_at >= self._period:
            self._fed_at = now
            notify.notify("WATCHDOG=1")
