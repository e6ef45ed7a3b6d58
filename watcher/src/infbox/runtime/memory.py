"""What a process gives back of its memory."""

from __future__ import annotations

import contextlib
import ctypes

_M_ARENA_MAX = -8  # of glibc's malloc.h


def share_one_arena() -> None:
    """Have all threads of this process allocate from one heap. To be called before the first.

    glibc gives each thread a heap of its own, up to eight a core, and what a thread freed in its
    own no other one uses. Threads of Python hardly ever allocate at the same time, so that they do
    not wait for each other. Without glibc this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give memory that was freed back to the system, after much of it was. Without glibc this
    does nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
