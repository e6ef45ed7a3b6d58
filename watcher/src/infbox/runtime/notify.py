"""Telling systemd how the service fares, and having it keep a socket (sd_notify)."""

from __future__ import annotations

import logging
import os
import socket

from infbox.log import line

_FIRST_DESCRIPTOR = 3  # of those that systemd passes, sd_listen_fds(3)
_STORED_AS = "FDNAME=listener"

_logger = logging.getLogger(__name__)


def notify(state: str, *descriptors: int) -> None:
    """Send a state such as ``READY=1`` to systemd; without systemd this does nothing.

    Args:
        state: as sd_notify(3) describes it.
        descriptors: of files that systemd gets with it.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # the abstract name space
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(address)
            socket.send_fds(channel, [state.encode()], descriptors)
    except OSError as error:  # what is done is none the worse for nobody hearing of it
        _logger.warning(line("not-notified", state=state, reason=error.strerror))


def store(listener: socket.socket) -> None:
    """Have systemd keep a listening socket while the service is restarted, not when it is stopped.

    Who connects meanwhile waits for the next process in place of being refused. The unit must say
    ``FileDescriptorStoreMax=1``.
    """
    notify(f"FDSTORE=1\n{_STORED_AS}", listener.fileno())


def forget() -> None:
    """Have systemd close what it keeps."""
    notify(f"FDSTOREREMOVE=1\n{_STORED_AS}")


def stored() -> socket.socket | None:
    """Return the listening socket that systemd kept from before a restart, once; else None."""
    count = os.environ.pop("LISTEN_FDS", "")
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()) or count != "1":
        return None
    os.set_inheritable(_FIRST_DESCRIPTOR, False)
    return socket.socket(fileno=_FIRST_DESCRIPTOR)


def watchdog_seconds() -> float | None:
    """Return how often systemd wants to hear ``WATCHDOG=1`` at the least, or None."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else None
