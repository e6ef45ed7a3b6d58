"""Telling LMCache that an engine is there, from when its KV is registered.

LMCache (0.5.6) forgets an engine from which it hears nothing, so that the KV of one that was
killed does not stay allocated on the GPU. An engine says something from its first prompt on only,
and never registers anew when it was forgotten before: each later load would hang
(https://github.com/LMCache/LMCache/issues/4715). LMCache's own heartbeat cannot start earlier,
since it may register the KV anew while vLLM captures CUDA graphs, which must not be disturbed. What
is here sends pings and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Presence(threading.Thread):
    """Pings until LMCache's own heartbeat does.

    Args:
        ping: sends a ping; whether it was answered.
        is_taken_over: whether LMCache's own heartbeat has started.
        lose: what to do when a ping was not answered: the server was started anew, say.
        interval: seconds between pings.
    """

    def __init__(
        self,
        ping: Callable[[], bool],
        is_taken_over: Callable[[], bool],
        lose: Callable[[], None],
        interval: float,
    ) -> None:
        super().__init__(name="infbox-presence", daemon=True)
        self._ping = ping
        self._is_taken_over = is_taken_over
        self._lose = lose
        self._interval = interval
        self._ended = threading.Event()

    def run(self) -> None:
        """Ping; called by the thread."""
        while not self._ended.wait(self._interval) and not self._is_taken_over():
            if not self._ping():
                if not self._ended.is_set():
                    self._lose()
                return

    def end(self) -> None:
        """Ping no more."""
        self._ended.set()
