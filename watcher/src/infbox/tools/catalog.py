"""The tools: what each is called, what it takes, and calling it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infbox.kinds import RETRIEVAL_WEIGHTS
from infbox.tools import reading, searching
from infbox.tools.source import Source, ToolError, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from infbox.kinds import KindWeights

    Arguments = Mapping[str, Any]

DEFAULT_RESULTS = 30
DEFAULT_LINES = 400
_LAST_NUMBER = 2**62  # SQLite takes no more
_KINDS = {"string": str, "integer": int, "boolean": bool}


@dataclass(frozen=True)
class Parameter:
    """What a tool takes.

    Attributes:
        kind: `string`, `integer` or `boolean`.
        description: for the model.
        default: None where there is none.
        is_required: whether it must be given.
        most: the longest text in characters, or the largest number.
        minimum: the smallest number.
        choices: all texts that it may be; empty for any.
    """

    kind: str
    description: str
    default: Any = None
    is_required: bool = False
    most: int = 0
    minimum: int = 0
    choices: tuple[str, ...] = ()

    @property
    def schema(self) -> dict[str, Any]:
        """The parameter as JSON Schema."""
        schema: dict[str, Any] = {"type": self.kind, "description": self.description}
        if self.default not in (None, ""):
            schema["default"] = self.default
        if self.choices:
            schema["enum"] = list(self.choices)
        elif self.kind == "string":
            schema["maxLength"] = self.most
        elif self.kind == "integer":
            schema |= {"minimum": self.minimum, "maximum": self.most}
        return schema

    def checked(self, name: str, value: object) -> Any:
        """Return a value that was given.

        Raises:
            ToolError: it cannot be used.
        """
        if value is None:
            if self.is_required:
                raise ToolError(f"{name} is missing. Give it: {self.description}")
            return self.default
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if not isinstance(value, _KINDS[self.kind]) or (self.kind == "integer" and not is_number):
            raise ToolError(f"{name} must be of type {self.kind}.")
        if isinstance(value, str):
            self._check_text(name, value)
        elif is_number and not self.minimum <= value <= self.most:  # type: ignore[operator]
            raise ToolError(f"{name} must be {self.minimum} to {self.most}.")
        return value

    def _check_text(self, name: str, value: str) -> None:
        if self.choices and value not in self.choices:
            raise ToolError(f"{name} must be one of: {', '.join(self.choices)}.")
        if not self.choices and len(value) > self.most:
            raise ToolError(f"{name} may have {self.most} characters. Shorten it.")
        if self.is_required and not value.strip():
            raise ToolError(f"{name} is empty. Give it: {self.description}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ToolError(f"{name} is no valid text. Send it as UTF-8.") from None


@dataclass(frozen=True)
class Tool:
    """A tool.

    Attributes:
        name: by which it is called.
        description: for the model.
        parameters: by name.
        run: does it, with checked arguments.
    """

    name: str
    description: str
    run: Callable[[Source, Arguments], str]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    @property
    def schema(self) -> dict[str, Any]:
        """What it takes as JSON Schema."""
        return {
            "type": "object",
            "properties": {name: each.schema for name, each in self.parameters.items()},
            "required": [name for name, each in self.parameters.items() if each.is_required],
            "additionalProperties": False,
        }

    def checked(self, given: Arguments) -> Arguments:
        """Return arguments that were given, with defaults for the others.

        Raises:
            ToolError: one cannot be used.
        """
        unknown = [shortened(str(name), 40) for name in given if name not in self.parameters]
        if unknown:
            raise ToolError(
                f"{self.name} does not take {', '.join(unknown[:5])}. "
                f"It takes: {', '.join(self.parameters)}."
            )
        return {name: each.checked(name, given.get(name)) for name, each in self.parameters.items()}


def call(
    state_dir: Path,
    workspace: str,
    tool: Tool,
    given: Arguments,
    weights: KindWeights = RETRIEVAL_WEIGHTS,
) -> str:
    """Call a tool. Blocking, for some seconds at most.

    Args:
        state_dir: of the watcher.
        workspace: whose files are looked at.
        tool: to call.
        given: its arguments.
        weights: what a match is worth, by the kind of its file.

    Returns:
        Text for a model.

    Raises:
        ToolError: it cannot be done.
    """
    arguments = tool.checked(given)
    try:
        with closing(Source(state_dir, workspace, weights=weights)) as source:
            return tool.run(source, arguments)
    except (OSError, sqlite3.Error):
        raise ToolError(
            f"The index of the workspace {workspace} cannot be read at present: its first index is "
            "not complete, or the watcher is down. Try again later."
        ) from None


def _search(source: Source, given: Arguments) -> str:
    query, below, results = given["query"], given["path"] or "", given["max_results"]
    if given["kind"] == "symbol":
        return searching.by_symbol(source, query[: searching.MAX_PATTERN_CHARS], below, results)
    if given["kind"] == "regex":
        ignore_case = bool(given["ignore_case"])
        return searching.by_pattern(source, query, below, results, ignore_case=ignore_case)
    return searching.by_words(source, query, below, results)


_PATH = Parameter(
    "string", "A file or directory to look in, relative to the tree's root.", "", most=1000
)
_RESULTS = Parameter(
    "integer", "How many results at most.", DEFAULT_RESULTS, most=searching.MAX_RESULTS, minimum=1
)

TOOLS = (
    Tool(
        "search",
        "Search the source tree. kind=text finds the passages that match words best, by relevance; "
        "kind=symbol finds definitions of a name; kind=regex finds lines by a regular expression "
        "(RE2 syntax).",
        _search,
        {
            "query": Parameter(
                "string",
                "Words, a name, or a regular expression, by kind.",
                is_required=True,
                most=searching.MAX_QUERY_CHARS,
            ),
            "kind": Parameter(
                "string", "How to search.", "text", choices=("text", "symbol", "regex")
            ),
            "path": _PATH,
            "ignore_case": Parameter("boolean", "For kind=regex: ignore case.", default=False),
            "max_results": _RESULTS,
        },
    ),
    Tool(
        "read",
        "Read lines of a file of the source tree.",
        lambda source, given: reading.read(source, given["path"], given["start"], given["lines"]),
        {
            "path": Parameter(
                "string",
                "The file, relative to the tree's root.",
                is_required=True,
                most=_PATH.most,
            ),
            "start": Parameter("integer", "The first line.", 1, most=_LAST_NUMBER, minimum=1),
            "lines": Parameter(
                "integer", "How many lines.", DEFAULT_LINES, most=reading.MAX_LINES, minimum=1
            ),
        },
    ),
    Tool(
        "outline",
        "Show what a file defines, with line numbers, or which files a directory has.",
        lambda source, given: reading.outline(source, given["path"] or ""),
        {"path": _PATH},
    ),
    Tool(
        "references",
        "Find the lines in which a name is used.",
        lambda source, given: searching.references(
            source, given["name"], given["path"] or "", given["max_results"]
        ),
        {
            "name": Parameter(
                "string", "A name as the source writes it.", is_required=True, most=200
            ),
            "path": _PATH,
            "max_results": _RESULTS,
        },
    ),
    Tool(
        "changed_since",
        "Show which files were edited, newest first. Each answer tells a number; give it as since "
        "to see only what was edited after it.",
        lambda source, given: reading.changed(source, given["since"], given["max_results"]),
        {
            "since": Parameter(
                "integer", "The number that an earlier call told.", most=_LAST_NUMBER, minimum=0
            ),
            "max_results": _RESULTS,
        },
    ),
)
"""All that there are."""

BY_NAME: Mapping[str, Tool] = {tool.name: tool for tool in TOOLS}
