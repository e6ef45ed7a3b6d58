"""What tells of a tree on this system."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from infbox.errors import InputError

if TYPE_CHECKING:
    from infbox.watching.events import Watch


def watch() -> Watch:
    """Return what tells of directories here: inotify on Linux, watchdog elsewhere.

    Raises:
        OSError: the system gives no further inotify instance.
        InputError: watchdog is not installed.
    """
    # Each imports what the other's system does not have.
    if sys.platform == "linux":
        from infbox.watching import inotify  # noqa: PLC0415

        return inotify.Watch()
    try:
        from infbox.watching import observers  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed: install infbox-watcher with Python 3.11 or later"
        ) from error
    return observers.Watch()
