"""Rounds of examples for as long as there is time, each with a budget."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

CPU_SECONDS = 3.0
"""For one example; the slowest seen took 0.4. What breaks it takes minutes, or for ever."""

MEMORY_MIB = 400
"""By which the process may grow beyond what it had when the test began."""

_STOP_SECONDS = 10.0
"""After so much CPU an example is cut off. What asks nobody while it computes, as a parser in C, is
not, and has to be ended from outside."""


EXAMPLES = 25  # of a round
_MOST_SHOWN = 3000


class OverBudgetError(Exception):
    """An example took too much."""


def fuzz(
    check: Callable[..., None],
    share: float,
    examples: int = EXAMPLES,
    **strategies: st.SearchStrategy[Any],
) -> int:
    """Check examples until the time is over; return how many there were.

    Args:
        check: takes what the strategies make; called in this thread, in which its CPU time counts.
        share: of FUZZ_SECONDS.
        examples: of a round; one round is checked in any case.
        strategies: by the argument of ``check``.
    """
    seconds, first = float(os.environ["FUZZ_SECONDS"]), int(os.environ["FUZZ_SEED"])
    ends, number = time.monotonic() + seconds * share, first
    chosen = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        report_multiple_bugs=False,
        # Of few examples each takes long, and to make one smaller takes hundreds.
        phases=[Phase.generate, *([Phase.shrink] if examples >= EXAMPLES else [])],
        suppress_health_check=list(HealthCheck),
    )
    bounded = _Bounded(check)
    while number == first or time.monotonic() < ends:

        def run(**example: Any) -> None:
            bounded.check(example)

        try:
            seed(number)(chosen(given(**strategies)(run)))()
        except BaseException:
            print("the example:", ascii(bounded.failed)[:_MOST_SHOWN])
            again = f"FUZZ_SEED={number} FUZZ_SECONDS=1"
            print(f"round {number} failed; to see it again: {again} pytest with this test's name")
            raise
        number += 1
    return bounded.count


class _Bounded:
    """Checks examples within the budgets."""

    def __init__(self, check: Callable[..., None]) -> None:
        self.count = 0
        self.failed: dict[str, Any] | None = None
        self._check = check
        self._began = _memory()
        self._over: OverBudgetError | None = None

    def check(self, example: dict[str, Any]) -> None:
        if self._over:  # to look for a smaller one would take as long each time
            if example == self.failed:
                raise self._over
            return
        self.count += 1
        try:
            self._within_budget(example)
        except OverBudgetError as error:
            self.failed, self._over = example, error
            raise
        except BaseException:
            self.failed = example
            raise

    def _within_budget(self, example: dict[str, Any]) -> None:
        before = time.thread_time()
        with _cut_off():
            self._check(**example)
        took, grown = time.thread_time() - before, _memory() - self._began
        if took > CPU_SECONDS:
            raise OverBudgetError(f"it took {took:.1f} s of CPU")
        if grown > MEMORY_MIB:
            raise OverBudgetError(f"the process grew by {grown} MiB")


@contextlib.contextmanager
def _cut_off() -> Iterator[None]:
    def cut(*_: object) -> None:
        raise OverBudgetError(f"it took {_STOP_SECONDS:.0f} s of CPU and was cut off")

    before = signal.signal(signal.SIGPROF, cut)
    signal.setitimer(signal.ITIMER_PROF, _STOP_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _memory() -> int:
    """The most that this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
