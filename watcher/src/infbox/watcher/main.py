"""The start and the end of the watcher."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from infbox.config import check_paths
from infbox.runtime import memory
from infbox.runtime.notify import notify
from infbox.runtime.serve import listening
from infbox.watcher.service import Service

if TYPE_CHECKING:
    from infbox.config import Config

_PATIENCE_SECONDS = 2.0
"""A start that takes longer is worked on before it is ready, so that one can see how it fares."""

_PRIVATE_UMASK = 0o027


def run(config: Config) -> int:
    """Run the watcher until SIGTERM or SIGINT.

    Returns:
        The exit status.

    Raises:
        InputError: the configuration cannot be used on this machine.
        UnreadyError: the state directory or a tree cannot be used at present.
    """
    memory.share_one_arena()
    check_paths(config)
    os.umask(_PRIVATE_UMASK)
    listener = listening(config.watcher.listen, "watcher.listen")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    service = Service(config)
    try:
        service.start(_PATIENCE_SECONDS)
        from infbox.watcher.monitor import monitor  # noqa: PLC0415  # ready comes first

        return monitor(service, listener)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        notify("STOPPING=1")
        service.stop()


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(0)
