"""A unit that is active, enabled and as new as its files: one question, then what is missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible.plugins.action import ActionBase

# When a service's program was started. A timer has none, and is as old as its state.
PROGRAM_START, UNIT_START = "ExecMainStartTimestamp", "ActiveEnterTimestamp"
PROPERTIES = ("ActiveState", "SubState", "UnitFileState", "NeedDaemonReload",
              PROGRAM_START, UNIT_START)  # fmt: skip
TIME = re.compile(r"\w+ (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC")
# A static unit has nothing to enable: others start it.
ENABLED = ("UnitFileState=enabled", "UnitFileState=static")
STALE = "its unit file is newer than what systemd has loaded"
# What `find` prints of each: time of change in seconds, path.
FILE_FORMAT = r"file %T@ %p\n"
FILE = re.compile(r"file (\d+\.\d+) (.*)")

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "files": {"type": "list", "elements": "str", "default": []},
    "started": {"type": "bool", "default": True},
}


@dataclass(frozen=True)
class State:
    """What a unit lacks.

    Attributes:
        reasons: why it is to be restarted; none where it need not be.
        is_enabled: whether it starts at boot.
        is_stale: whether systemd has an older text of it, or of what it starts, than the disk.
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
        reasons = list(self.reasons or ([STALE] if self.is_stale else []))
        if not self.is_enabled:
            reasons.append("it does not start at boot")
        return "".join(f"{name}: {reason}\n" for reason in reasons)


def state_command(name: str, files: Iterable[str]) -> str:
    """Return the command, for a shell, that prints a unit's state and the times of its files.

    Args:
        name: of the unit.
        files: paths; of a directory, all that is below it. Of a link its own time counts.
    """
    wanted = f"--property={','.join(PROPERTIES)}"
    show = ["systemctl", "--no-pager", "show", "--timestamp=us+utc", wanted, name]
    paths = list(files)
    # Without a path it would be told of the directory that it is run in.
    find = ["find", *paths, "-printf", FILE_FORMAT] if paths else ["true"]
    # Ansible's SSH gives commands a terminal: on it `systemctl` begins a pager, and complaints
    # about what is missing come in the middle of lines.
    return f"{{ {shlex.join(show)}; {shlex.join(find)}; }} 2>/dev/null | cat"


def state(lines: Sequence[str], *, started: bool = True) -> State:
    """Return what a unit lacks. What is not understood counts as lacking.

    Args:
        lines: what the command printed. A file that is not there is not newer.
        started: whether it is to be active and as new as its files, too.
    """
    is_stale = "NeedDaemonReload=no" not in lines
    reasons = _reasons(lines) if started else []
    if started and is_stale and not reasons:
        reasons = [STALE]
    return State(
        reasons=reasons,
        is_enabled=any(text in lines for text in ENABLED),
        # The files of a timer are also those of its service, of which systemd was not asked.
        is_stale=is_stale or (bool(reasons) and not _has_program(lines)),
    )


def _reasons(lines: Sequence[str]) -> list[str]:
    """Return why a unit is to be restarted, by its state and its files."""
    if not _is_active(lines):
        return ["it is not active"]
    if (since := _start(lines)) is None:
        return ["systemd does not say since when it runs"]
    files = [match for line in lines if (match := FILE.fullmatch(line))]
    return [f"{match[2]} is newer than its start" for match in files if float(match[1]) > since]


def _is_active(lines: Sequence[str]) -> bool:
    """Say whether a unit runs, or is being started: that is not to be broken off."""
    is_starting = "ActiveState=activating" in lines and "SubState=auto-restart" not in lines
    return "ActiveState=active" in lines or is_starting


def _has_program(lines: Sequence[str]) -> bool:
    return any(line.startswith(f"{PROGRAM_START}=") for line in lines)


def _start(lines: Sequence[str]) -> float | None:
    """Return when the unit was started, in seconds; None where it was not."""
    wanted = PROGRAM_START if _has_program(lines) else UNIT_START
    for line in lines:
        name, _, value = line.partition("=")
        if name == wanted and (match := TIME.fullmatch(value)):
            return datetime.strptime(f"{match[1]} +0000", "%Y-%m-%d %H:%M:%S.%f %z").timestamp()
    return None


class ActionModule(ActionBase):  # type: ignore[misc]
    """Ask the host once; what is to be done is done by Ansible's own `systemd_service`."""

    _supports_async = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Enable a unit, and restart it where it is not active or older than its files.

        Args:
            tmp: of no use any more.
            task_vars: the host's variables.
        """
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        name, started = arguments["name"], arguments["started"]
        # It changes nothing, so check mode runs it too.
        asked = self._low_level_execute_command(state_command(name, arguments["files"]))
        found = state(asked["stdout_lines"], started=started)
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
        # The module does not count a reload.
        changed = done.get("changed", False) or found.is_stale
        return {**result, **done, "changed": changed, "diff": diff}
