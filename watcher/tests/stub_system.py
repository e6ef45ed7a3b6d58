"""Runs infbox-watch as on macOS or Windows, as far as that goes on Linux.

What those systems do not have cannot be imported or called, and watchdog's inotify (for macOS) or
its polling (for Windows) stands in for what it has there. Paths and files are Linux's. Run as a
program: the system, then the arguments of infbox-watch.
"""

from __future__ import annotations

import os
import select
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec

import watchdog.observers
from watchdog.observers.inotify import InotifyObserver
from watchdog.observers.polling import PollingObserver

SYSTEMS = ("darwin", "win32")

# Python's own modules that were just imported took what they need of Linux.
_TAKEN = (sqlite3, subprocess, tempfile, threading)

_NO_MODULES = {
    "darwin": {"infbox.watching.inotify", "spwd", "systemd"},
    "win32": {"infbox.watching.inotify", "fcntl", "grp", "pwd", "resource", "spwd", "systemd",
              "syslog", "termios"},
}  # fmt: skip
_NOT_OF_OS = {
    "darwin": {"eventfd", "eventfd_read", "eventfd_write", "EFD_CLOEXEC", "EFD_NONBLOCK",
               "memfd_create", "posix_fallocate", "sched_getaffinity"},
    "win32": {"O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "fchmod",
              "fchown", "getpgid", "getuid", "geteuid", "killpg", "lchown", "mkfifo", "pread",
              "setsid", "statvfs", "sync"},
}  # fmt: skip


class _Refusing:
    """Finds nothing of what the system does not have."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def find_spec(self, name: str, _path: object, _target: object = None) -> ModuleSpec | None:
        if name in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}, as on this system", name=name)
        return None


def become(system: str) -> None:
    """Have this process take itself for one on another system."""
    for name in _NO_MODULES[system]:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Refusing(_NO_MODULES[system]))  # type: ignore[arg-type]
    for name in _NOT_OF_OS["darwin"] | _NOT_OF_OS[system]:
        if hasattr(os, name):
            delattr(os, name)
    if system == "win32":
        del select.poll
        os.O_BINARY = 0  # type: ignore[attr-defined]
        watchdog.observers.Observer = lambda: PollingObserver(timeout=0.2)
    else:
        watchdog.observers.Observer = InotifyObserver
    sys.platform = system


def main(arguments: Sequence[str]) -> int:
    system, *rest = arguments
    become(system)
    from infbox.cli import watch  # noqa: PLC0415  # as on that system

    status = watch(rest)
    assert "infbox.watching.inotify" not in sys.modules
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
