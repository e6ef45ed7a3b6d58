"""Files, directories and links of a role: one question to the host, then work for what differs."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ansible.plugins.action import ActionBase

# What `find` prints of each: type, permissions, user and group by number and by name, path, and
# where a link leads.
FORMAT = r"%y %#m %U %u %G %g %p\t%l\n"
FOUND = re.compile(r"([a-z]) (0[0-7]*) (\d+) (\S+) (\d+) (\S+) (.*)\t([^\t]*)")
CHECKSUM = re.compile(r"([0-9a-f]{64})  (.*)")
MODE = re.compile("0[0-7]{3,4}")
NOTES = ("warnings", "deprecations")

OWNERS = {
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}
RIGHTS = {"mode": {"type": "str", "required": True}, **OWNERS}
ARGUMENTS = {
    "directories": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "str"},
            "paths": {"type": "list", "elements": "str"},
            **RIGHTS,
        },
        "required_one_of": [("path", "paths")],
        "mutually_exclusive": [("path", "paths")],
    },
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "str"},
            "content": {"type": "raw"},
            "contents": {"type": "dict"},
            "validate": {"type": "str"},
            **RIGHTS,
        },
        "required_one_of": [("content", "contents")],
        "mutually_exclusive": [("content", "contents"), ("path", "contents")],
        "required_together": [("path", "content")],
    },
    "links": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "str", "required": True},
            "target": {"type": "str", "required": True},
            **OWNERS,
        },
    },
}

Run = Callable[["Wanted"], dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """A file, a directory or a link as it is to be.

    Attributes:
        path: on the host, absolute.
        mode: permissions, octal, as text; empty for a link, which has none of its own.
        owner: name or number, as text.
        group: name or number, as text.
        content: of a file; None for others.
        validate: command that says whether a file's content is valid, `%s` for its path; may be
            None.
        target: where a link leads; None for others.
    """

    path: str
    mode: str
    owner: str = "root"
    group: str = "root"
    content: str | None = None
    validate: str | None = None
    target: str | None = None

    @property
    def kind(self) -> str:
        """Its type, in the letter that `find` prints."""
        if self.target is not None:
            return "l"
        return "d" if self.content is None else "f"


def wanted(arguments: Mapping[str, Any]) -> list[Wanted]:
    """Return what a task wants, in its order, directories first and links last.

    Args:
        arguments: those of the task, as ARGUMENTS has them.

    Raises:
        ValueError: a content is no text, or a mode is not octal.
    """
    found = []
    for item in [*arguments["directories"], *arguments["files"]]:
        if not MODE.fullmatch(item["mode"]):
            # YAML reads 0644 as 420.
            raise ValueError(f"The mode {item['mode']} is not octal. Give it as text: '0644'.")
    for item in arguments["directories"]:
        paths = [item["path"]] if item["paths"] is None else item["paths"]
        found += [Wanted(path, **_rights(item)) for path in paths]
    for item in arguments["files"]:
        contents = item["contents"]
        if contents is None:
            contents = {item["path"]: item["content"]}
        for path, content in contents.items():
            if not isinstance(content, str):
                kind = type(content).__name__
                raise ValueError(f"The content of {path} is of type {kind}. Give text.")  # noqa: TRY004
            found.append(Wanted(path, **_rights(item), content=content, validate=item["validate"]))
    found += [Wanted(mode="", **item) for item in arguments["links"]]
    return found


def _rights(item: Mapping[str, Any]) -> dict[str, str]:
    return {name: item[name] for name in RIGHTS}


def state_command(paths: Iterable[str]) -> str:
    """Return the command, for a shell, that prints what of all this is on a host.

    Args:
        paths: of files, directories and links.
    """
    each = ["-maxdepth", "0", "-printf", FORMAT, "-type", "f", "-exec", "sha256sum", "{}", "+"]
    # Ansible's SSH gives commands a terminal: on it `find` writes letters beyond ASCII as `?`, and
    # complaints about what is missing in the middle of lines.
    return f"{shlex.join(['find', *paths, *each])} 2>/dev/null | cat"


def creation_command(directories: Iterable[Wanted]) -> str:
    """Return the command, for a shell, that makes directories in ones that are there.

    Nobody else can open one before it has its owner and permissions.

    Args:
        directories: none of which is there.
    """
    commands = []
    for (mode, owner, group), alike in groupby(
        directories, lambda item: (item.mode, item.owner, item.group)
    ):
        paths = ["--", *(item.path for item in alike)]
        commands += [["mkdir", *paths], ["chown", f"{owner}:{group}", *paths],
                     ["chmod", mode, *paths]]  # fmt: skip
    return " && ".join(["umask 077", *map(shlex.join, commands)])


def existing(lines: Sequence[str]) -> list[str]:
    """Return the paths that are on the host, of whatever type.

    Args:
        lines: what the command printed.
    """
    return [match[7] for line in lines if (match := FOUND.fullmatch(line))]


def differing(items: Iterable[Wanted], lines: Sequence[str]) -> list[Wanted]:
    """Return what is not on the host as it should be, in order.

    Only what is the very same is left out, so that a line that is misread costs time and no more.

    Args:
        items: what is wanted.
        lines: what the command printed.
    """
    states: dict[str, re.Match[str]] = {}
    checksums: dict[str, str] = {}
    for line in lines:
        if match := CHECKSUM.fullmatch(line):
            checksums[match[2]] = match[1]
        elif match := FOUND.fullmatch(line):
            states[match[7]] = match
    return [item for item in items if not _is_like(item, states, checksums)]


def _is_like(
    item: Wanted, states: Mapping[str, re.Match[str]], checksums: Mapping[str, str]
) -> bool:
    if (state := states.get(item.path)) is None:
        return False
    same = (
        state[1] == item.kind
        and item.owner in (state[3], state[4])
        and item.group in (state[5], state[6])
    )
    if item.target is not None:
        return same and state[8] == item.target
    same = same and int(state[2], 8) == int(item.mode, 8)
    if item.content is not None:
        digest = hashlib.sha256(item.content.encode()).hexdigest()
        same = same and checksums.get(item.path) == digest
    return same


def apply(items: Iterable[Wanted], run: Run) -> dict[str, Any]:
    """Make each of them as it should be, and return the result of all; the first failure ends it.

    Args:
        items: what differs.
        run: makes one of them so, or says what it would do, and returns Ansible's result.
    """
    changed: list[str] = []
    diffs: list[Any] = []
    notes: dict[str, list[Any]] = {}
    for item in items:
        result = run(item)
        for kind in NOTES:
            if result.get(kind):
                notes.setdefault(kind, []).extend(result[kind])
        if result.get("failed"):
            reason = result.get("msg") or "Ansible gave no reason."
            return {
                **{name: value for name, value in result.items() if name != "diff"},
                "changed": bool(changed),
                "msg": f"{item.path}: {reason}",
            }
        if result.get("changed"):
            changed.append(item.path)
            diff = result.get("diff") or []
            diffs += diff if isinstance(diff, list) else [diff]
    return {**notes, "changed": bool(changed), "changed_paths": changed, "diff": diffs}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Ask the host once; what differs is done by Ansible's own `file` and `copy`."""

    _supports_async = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Make files, directories and links as the task wants them.

        Args:
            tmp: of no use any more.
            task_vars: the host's variables.
        """
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        try:
            items = wanted(arguments)
        except ValueError as error:
            return {**result, "failed": True, "msg": str(error)}
        lines = self._lines([item.path for item in items])
        differ, there = differing(items, lines), existing(lines)
        made = self._make([item for item in differ if item.kind == "d" and item.path not in there])
        if any(item.content is not None for item in differ):
            self._ensure_tmp_path()

        def run(item: Wanted) -> dict[str, Any]:
            if item in made:
                return {"changed": True}
            if item.kind == "l":
                return self._link(item, task_vars)
            if item.kind == "d":
                done = self._directory(item, task_vars)
                # The command may have failed at a later one.
                return {**done, "changed": done.get("changed") or item.path not in there}
            return self._file(item, task_vars)

        return {**result, "existing": there, **apply(differ, run)}

    def _lines(self, paths: list[str]) -> list[str]:
        """Return what the command prints. It changes nothing, so check mode runs it too."""
        if not paths:
            return []
        asked = self._low_level_execute_command(state_command(paths))
        return list(asked["stdout_lines"])

    def _make(self, directories: list[Wanted]) -> list[Wanted]:
        """Make directories by one command and return them; none if it fails, or in check mode.

        Ansible's `file` then makes what is missing, tells differences, and says what is wrong.
        """
        if not directories or self._task.check_mode or self._task.diff:
            return []
        done = self._low_level_execute_command(creation_command(directories))
        return directories if done["rc"] == 0 else []

    def _ensure_tmp_path(self) -> None:
        """Have the directory on the host from which `copy` moves files; Ansible removes it."""
        if self._connection._shell.tmpdir is None:
            self._make_tmp_path()

    def _directory(self, item: Wanted, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        done: dict[str, Any] = self._execute_module(
            module_name="ansible.builtin.file",
            module_args={**_rights(vars(item)), "path": item.path, "state": "directory"},
            task_vars=task_vars,
        )
        return done

    def _link(self, item: Wanted, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        done: dict[str, Any] = self._execute_module(
            module_name="ansible.builtin.file",
            module_args={
                **{name: getattr(item, name) for name in OWNERS},
                "path": item.path,
                "src": item.target,
                "state": "link",
                # In check mode what it leads to may not be there yet.
                "force": self._task.check_mode,
            },
            task_vars=task_vars,
        )
        return done

    def _file(self, item: Wanted, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        arguments = {**_rights(vars(item)), "dest": item.path}
        if item.validate:
            arguments["validate"] = item.validate
        if self._task.check_mode or self._task.diff:
            return self._compared({**arguments, "content": item.content}, task_vars)
        # The action `copy` asks the host for the file first, by a module; here it was asked.
        shell = self._connection._shell
        source = shell.join_path(shell.tmpdir, "content")
        self._transfer_data(source, item.content)
        self._fixup_perms2((shell.tmpdir, source))
        done: dict[str, Any] = self._execute_module(
            module_name="ansible.builtin.copy",
            module_args={**arguments, "src": source, "remote_src": True},
            task_vars=task_vars,
        )
        return done

    def _compared(
        self, arguments: dict[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Copy a file by the action `copy`, which knows check mode and tells the difference."""
        task = self._task.copy()
        task.args = arguments
        copy = self._shared_loader_obj.action_loader.get(
            "ansible.builtin.copy",
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        done: dict[str, Any] = copy.run(task_vars=task_vars)
        return done
