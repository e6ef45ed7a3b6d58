"""What a role says of itself: its argument specs and its defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Role:
    """A role's surface.

    Attributes:
        path: its directory.
        short_description: what it is, in a line.
        description: what it does, a paragraph each.
        options: its variables as the specs tell them, of all its entry points.
        defaults: its variables as `defaults/main.yml` sets them.
    """

    path: Path
    short_description: str
    description: list[str]
    options: dict[str, dict[str, Any]]
    defaults: dict[str, Any]

    @property
    def name(self) -> str:
        """The role's name, which its variables start with."""
        return self.path.name

    @property
    def is_library(self) -> bool:
        """Whether other roles include its tasks by name, and nothing runs it whole."""
        tasks = self.path / "tasks"
        return tasks.is_dir() and not (tasks / "main.yml").exists()


def read_roles(root: Path) -> list[Role]:
    """Return the roles of a checkout, by name.

    Raises:
        ValueError: a role has no argument specs, or they name no entry point `main`.
    """
    return [read_role(path) for path in sorted((root / "roles").iterdir()) if path.is_dir()]


def read_role(path: Path) -> Role:
    """Return the role in a directory; see `read_roles` for what is raised."""
    entry_points = read_yaml(path / "meta" / "argument_specs.yml").get("argument_specs", {})
    if "main" not in entry_points:
        raise ValueError(f"{path}: meta/argument_specs.yml has no entry point main. Write one.")
    options: dict[str, dict[str, Any]] = {}
    for entry_point in entry_points.values():
        options |= entry_point.get("options", {})
    main = entry_points["main"]
    return Role(
        path=path,
        short_description=main.get("short_description", ""),
        description=paragraphs(main.get("description", [])),
        options=options,
        defaults=read_yaml(path / "defaults" / "main.yml"),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what a YAML file holds; nothing where it is not there or empty."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.is_file() else {}


def paragraphs(text: str | list[str]) -> list[str]:
    """Return a description, which may be one string or a list, as a list."""
    return [text] if isinstance(text, str) else text
