"""Spares the workers of a run what another of its processes has done already."""

from __future__ import annotations

import contextlib
import gc
import inspect
import marshal
import os
import socket
from typing import TYPE_CHECKING, Any

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, test_loader
from jinja2 import Environment

if TYPE_CHECKING:
    from types import CodeType

    from ansible.playbook.task import Task

DOCUMENTATION = """
name: infbox_workers
type: aggregate
short_description: Spares the workers of a run what another of its processes has done already
description:
  - Ansible forks a worker for each task and host. What is there before the fork is there in all of
    them; what a worker makes is gone with it.
  - Each worker that meets a filter would read and compile the files of all filters, which takes it
    50 ms. They are loaded before the fork.
  - Each worker would compile a template, which takes it 1 ms, each time that it meets it. Who
    compiled one remembers it, and tells the process that forks.
  - Workers live for one task and collect no garbage.
  - Only public names of Ansible and Jinja are used. If one of them is not what it was, the run
    warns and goes on without that part, slower.
requirements:
  - enable in configuration
"""


LARGEST_MESSAGE = 1 << 20  # bytes, and more than a socket takes as one

compile_anew = Environment.compile


class SharedTemplates:
    """What templates compile to, by the kind of environment and their text.

    It is known to a process and to all forked from it since. Those tell it what they compiled. What
    its socket has no room for is compiled once more.
    """

    def __init__(self) -> None:
        self.codes: dict[tuple[str, str], CodeType] = {}
        self.owner = os.getpid()
        self.incoming, self.outgoing = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.incoming.setblocking(False)
        self.outgoing.setblocking(False)

    def share(self) -> None:
        """Have Jinja compile each template once.

        Raises:
            TypeError: its method does not take what it took.
        """
        if [*inspect.signature(compile_anew).parameters][:2] != ["self", "source"]:
            raise TypeError("jinja2.Environment.compile takes other arguments")

        def compile_once(environment: Any, source: Any, *rest: Any, **options: Any) -> Any:
            if rest or options or not compiles_alike(environment, source):
                return compile_anew(environment, source, *rest, **options)
            text = (kind(environment), str(source))
            if text not in self.codes:
                self.codes[text] = compile_anew(environment, source)
                self.tell(text)
            return self.codes[text]

        Environment.compile = compile_once  # type: ignore[method-assign, assignment]

    def tell(self, text: tuple[str, str]) -> None:
        """Tell the owner what a template compiles to."""
        if os.getpid() != self.owner:
            with contextlib.suppress(OSError):
                self.outgoing.send(marshal.dumps({text: self.codes[text]}))

    def learn(self) -> None:
        """Take in what others told."""
        with contextlib.suppress(BlockingIOError):
            while message := self.incoming.recv(LARGEST_MESSAGE):
                self.codes.update(marshal.loads(message))  # noqa: S302 - of own workers


def kind(environment: Environment) -> str:
    """Return the class of an environment by its full name: all of a class have its settings."""
    return f"{type(environment).__module__}.{type(environment).__qualname__}"


def compiles_alike(environment: Any, source: Any) -> bool:
    """Return whether a template's text alone decides what it compiles to.

    Of Ansible's own environments, all of a class have the same settings; an overlay and a plugin's
    own environment have others. What a backslash means depends on who asks.
    """
    return (
        isinstance(source, str)
        and "\\" not in source
        and type(environment).__module__.startswith("ansible.")
        and not environment.overlayed
    )


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Readies the process that forks, before each task's workers are."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "infbox_workers"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: object) -> None:  # noqa: ARG002
        """Share templates from here on, and spare what is forked the collecting."""
        self.loads = True
        self.templates = SharedTemplates()
        try:
            self.templates.share()
        except (AttributeError, TypeError, ValueError) as error:
            self.tell_slower("compiles templates in each worker", error)
        os.register_at_fork(after_in_child=gc.disable)

    def v2_playbook_on_task_start(self, task: Task, is_conditional: bool) -> None:  # noqa: ARG002
        """Load filters and tests where they are not, and take in what was compiled.

        At each task, since a role that is included may bring filters, and all are forgotten then.
        """
        if self.loads:
            try:
                load_plugins()
            except (AttributeError, TypeError) as error:
                self.loads = False
                self.tell_slower("loads filters in each worker", error)
        self.templates.learn()

    def tell_slower(self, what: str, why: Exception) -> None:
        """Warn that a part of this callback does not fit the installed Ansible."""
        self._display.warning(
            f"infbox_workers does not fit this ansible-core, which {what} ({why}). Runs are slower"
            " and otherwise the same; requirements/ansible.txt has a version that fits."
        )


def load_plugins() -> None:
    """Load the files of all filters and tests."""
    filter_loader.get("mandatory")
    with contextlib.suppress(KeyError):  # where the collection is not found
        filter_loader.get("infbox.infbox.apt_repository")
    test_loader.get("defined")
