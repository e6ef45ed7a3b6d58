"""Loads what every task needs once, in the process that a run's workers are forked from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, test_loader

if TYPE_CHECKING:
    from ansible.playbook.task import Task

DOCUMENTATION = """
name: infbox_preload
type: aggregate
short_description: Loads filters and tests once a run
description:
  - Ansible forks a worker for each task and host, and each worker that meets a filter reads and
    compiles the files of all filters, which takes it 50 ms. Loaded before the fork, they are there
    in all.
requirements:
  - enable in configuration
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Loads filters and tests before a task's workers are forked."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "infbox_preload"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_task_start(self, task: Task, is_conditional: bool) -> None:  # noqa: ARG002
        """Load them where they are not.

        At each task, since a role that is included may bring filters, and all are forgotten then.
        """
        filter_loader.get("mandatory")
        test_loader.get("defined")
