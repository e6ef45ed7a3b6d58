"""Which clock says what.

Durations, and moments that only this host compares, are of the monotonic clock: it is one for all
processes and never goes back. The wall clock may be set to any time at any moment. It is asked for
two things only: to show a moment to people, and to judge the times that a file system gives.
"""

from __future__ import annotations

import time
from typing import NamedTuple

TICK_NS = 20_000_000
"""The kernel moves a file's times in ticks. What is looked at within one of its last change may
change again and keep its stamp."""


class Moment(NamedTuple):
    """A moment by both clocks, in nanoseconds."""

    wall_ns: int
    monotonic_ns: int

    @classmethod
    def now(cls) -> Moment:
        """Return the present moment."""
        return cls(wall_ns(), time.monotonic_ns())

    @property
    def min_stamp(self) -> int:
        """The least time that a file which changed after this moment may have: by the wall clock as
        it was then, and by that clock as it is now, where it was set back meanwhile."""
        passed = time.monotonic_ns() - self.monotonic_ns
        return min(self.wall_ns, wall_ns() - passed) - TICK_NS


EVER = Moment(0, 0)
"""Before any change."""


def wall_ns() -> int:
    """Return the time of the wall clock, in nanoseconds of Unix time."""
    return time.time_ns()


def is_future(stamp_ns: int) -> bool:
    """Say whether a file's time is later than now: the clock was set back, somebody chose the time,
    or another host's clock gave it."""
    return stamp_ns > wall_ns()


def may_keep_stamp(stamp_ns: int) -> bool:
    """Say whether a file that has this time may change and have it still: it changed within a tick,
    or by a clock of which that cannot be told."""
    return wall_ns() - stamp_ns < TICK_NS


def unix(moment: float) -> float:
    """Return the Unix time, in seconds, of a moment of the monotonic clock, as the wall clock is
    now."""
    return wall_ns() / 1e9 - (time.monotonic() - moment)
