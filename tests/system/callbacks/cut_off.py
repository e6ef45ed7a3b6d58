"""Ends a run as a closed laptop would, at once, after so many changes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import TYPE_CHECKING

from ansible.plugins.callback import CallbackBase

if TYPE_CHECKING:
    from ansible.executor.task_result import CallbackTaskResult

DOCUMENTATION = """
name: cut_off
type: aggregate
short_description: Ends a run after so many changes
description:
  - Kills Ansible right after a change, one of a loop's items included. CUT_OFF_AFTER says after
    how many.
requirements:
  - enable in configuration
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Counts changes, and kills its workers and its own process."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "cut_off"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._left = int(os.environ["CUT_OFF_AFTER"])

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        """Count a task that is no loop; the items of those that are were counted."""
        if "results" not in result.result:
            self._count(result)

    def v2_runner_item_on_ok(self, result: CallbackTaskResult) -> None:
        """Count an item of a loop."""
        self._count(result)

    def _count(self, result: CallbackTaskResult) -> None:
        self._left -= bool(result.result.get("changed"))
        if not self._left:
            # Nobody reads what they have to tell any more; they would wait for ever.
            for worker in multiprocessing.active_children():
                worker.kill()
            os.kill(os.getpid(), signal.SIGKILL)
