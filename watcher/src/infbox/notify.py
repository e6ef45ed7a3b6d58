"""Telling systemd how the service fares (sd_notify)."""

from __future__ import annotations

import logging
import os
import socket

from infbox.log import line

_logger = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send a state such as ``READY=1`` to systemd; without systemd this does nothing.

    Args:
        state: as sd_notify(3) describes it.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # the abstract name space
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(address)
            channel.sendall(state.encode())
    except OSError as error:  # what is done is none the worse for nobody hearing of it
        _logger.warning(line("not-notified", state=state, reason=error.strerror))


def watchdog_seconds() -> float | None:
    """Return how often systemd wants to hear ``WATCHDOG=1`` at the least, or None."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else None
