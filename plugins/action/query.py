"""A command that only reads: run over the connection, without a module, in check mode too."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.plugins.action import ActionBase

# What is parsed reads the same whatever language the host speaks.
LOCALE = {"LC_ALL": "C.UTF-8", "LANGUAGE": ""}

ARGUMENTS = {
    "argv": {"type": "list", "elements": "str", "required": True},
    "chdir": {"type": "str"},
}


def script(argv: Sequence[str], environment: Mapping[str, Any], chdir: str | None = None) -> str:
    """Return what a shell reads from its standard input to run a command, which has none.

    Args:
        argv: the program and its arguments.
        environment: variables for it; a playbook may give numbers.
        chdir: the directory to run it in.
    """
    lines = [f"export {name}={shlex.quote(str(value))}" for name, value in environment.items()]
    if chdir:
        lines.append(f"cd -- {shlex.quote(chdir)} || exit")
    return "\n".join([*lines, f"exec {shlex.join(argv)} </dev/null", ""])


class ActionModule(ActionBase):  # type: ignore[misc]
    """Run a command that changes nothing, and return what it prints and how it ends."""

    _supports_async = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the command of the task.

        Args:
            tmp: of no use any more.
            task_vars: the host's variables.
        """
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        argv = arguments["argv"]
        if not argv:
            return {**result, "failed": True, "msg": "argv is empty. Give a program."}
        done = self._done(script(argv, self._environment(), arguments["chdir"]), task_vars)
        if done.get("rc") != 0:
            done = {"failed": True, "msg": "non-zero return code", **done}
        return {**result, **done, "cmd": argv, "changed": False}

    def _environment(self) -> dict[str, Any]:
        environment: dict[str, Any] = {}
        self._compute_environment_string(environment)
        return {**LOCALE, **environment}

    def _done(self, text: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Return what a shell script did.

        It is sent on the shell's standard input: given one, Ansible's SSH asks for no terminal, on
        which output and complaints would come as one. Where that is not allowed, as by sudo's
        `requiretty`, a module runs it.
        """
        if self._connection.transport != "local" and not self._is_pipelining_enabled("new"):
            self._task.check_mode = False  # of this task's copy: the module would do nothing
            done: dict[str, Any] = self._execute_module(
                module_name="ansible.builtin.command",
                module_args={"argv": ["/bin/sh", "-c", text], "expand_argument_vars": False},
                task_vars=task_vars,
            )
            return done
        said = self._low_level_execute_command("/bin/sh", in_data=text.encode())
        stdout, stderr = (said[name].rstrip("\r\n") for name in ("stdout", "stderr"))
        return {
            "rc": said["rc"],
            "stdout": stdout,
            "stdout_lines": stdout.splitlines(),
            "stderr": stderr,
            "stderr_lines": stderr.splitlines(),
        }
