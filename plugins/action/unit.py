"""A unit that is active, enabled and as new as its files: one question, then what is missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible.plugins.action import ActionBase

PROPERTIES = ("ActiveState", "UnitFileState", "NeedDaemonReload", "ExecMainStartTimestamp")
START = re.compile(r"ExecMainStartTimestamp=\w+ (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC")
# What `find` prints of each: time of change in seconds, path.
FILE_FORMAT = r"file %T@ %p\n"
FILE = re.compile(r"file (\d+\.\d+) (.*)")

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "files": {"type": "list", "elements": "str", "required": True},
}


@dataclass(frozen=True)
class State:
    """What a unit lacks.

    Attributes:
        reasons: why it is to be restarted; none where it need not be.
        is_enabled: whether it starts at boot.
        is_stale: whether systemd has an older text of it than the disk.
    """

    reasons: Sequence[str]
    is_enabled: bool
    is_stale: bool

    @property
    def is_right(self) -> bool:
        """Whether there is nothing to do."""
        return not self.reasons and self.is_enabled and not self.is_stale

    def lines(self, name: str) -> str:
        """Return for people what a unit lacks, a line each."""
        reasons = [*self.reasons, *([] if self.is_enabled else ["it does not start at boot"])]
        return "".join(f"{name}: {reason}\n" for reason in reasons)


def state_command(name: str, files: Iterable[str]) -> str:
    """Return the command, for a shell, that prints a unit's state and the times of its files.

    Args:
        name: of the unit.
        files: paths; of a directory, all that is below it. Of a link its own time counts.
    """
    wanted = f"--property={','.join(PROPERTIES)}"
    show = ["systemctl", "--no-pager", "show", "--timestamp=us+utc", wanted, name]
    find = ["find", *files, "-printf", FILE_FORMAT]
    # Ansible's SSH gives commands a terminal: on it `systemctl` begins a pager, and complaints
    # about what is missing come in the middle of lines.
    return f"{{ {shlex.join(show)}; {shlex.join(find)}; }} 2>/dev/null | cat"


def state(lines: Sequence[str]) -> State:
    """Return what a unit lacks. What is not understood counts as lacking.

    Args:
        lines: what the command printed. A file that is not there is not newer.
    """
    since = _start(lines)
    reasons = [] if "ActiveState=active" in lines else ["it is not active"]
    if since is None and not reasons:
        reasons = ["systemd does not say since when it runs"]
    if since is not None and not reasons:
        files = [match for line in lines if (match := FILE.fullmatch(line))]
        newer = [match[2] for match in files if float(match[1]) > since]
        reasons = [f"{path} is newer than its start" for path in newer]
    is_stale = "NeedDaemonReload=no" not in lines
    if is_stale and not reasons:
        reasons = ["its unit file is newer than what systemd has loaded"]
    return State(
        reasons=reasons,
        is_enabled="UnitFileState=enabled" in lines,
        is_stale=is_stale,
    )


def _start(lines: Sequence[str]) -> float | None:
    """Return when the unit's program was started, in seconds; None where it was not."""
    for line in lines:
        if match := START.fullmatch(line):
            return datetime.strptime(f"{match[1]} +0000", "%Y-%m-%d %H:%M:%S.%f %z").timestamp()
    return None


class ActionModule(ActionBase):  # type: ignore[misc]
    """Ask the host once; what is to be done is done by Ansible's own `systemd_service`."""

    _supports_async = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Restart and enable a unit where it is not active, not enabled, or older than its files.

        Args:
            tmp: of no use any more.
            task_vars: the host's variables.
        """
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        name = arguments["name"]
        # It changes nothing, so check mode runs it too.
        asked = self._low_level_execute_command(state_command(name, arguments["files"]))
        found = state(asked["stdout_lines"])
        if found.is_right:
            return {**result, "changed": False}
        diff = {"prepared": found.lines(name)}
        # The unit may be of a file that this run would make.
        if self._task.check_mode:
            return {**result, "changed": True, "diff": diff}
        wanted = {"name": name, "enabled": True, "daemon_reload": found.is_stale}
        done = self._execute_module(
            module_name="ansible.builtin.systemd_service",
            module_args={**wanted, **({"state": "restarted"} if found.reasons else {})},
            task_vars=task_vars,
        )
        # Of the unit's hundred properties nobody reads any.
        done.pop("status", None)
        return {**result, **done, "diff": diff}
