"""Check that each role is what it says: specs equal to defaults, a page, a scenario.

    python tools/check_specs.py

Prints what differs, one a line, and exits with 1 where anything does.
"""

import sys
from pathlib import Path
from typing import Any

from role_specs import ROOT, Role, read_roles

UNSET = object()


def differences(role: Role) -> list[str]:
    """Return where a role's specs and its defaults differ, one a line."""
    found = []
    for name in sorted(role.options.keys() | role.defaults.keys()):
        problem = difference(
            role.options.get(name), role.defaults.get(name, UNSET), f"{role.name}_", name
        )
        if problem:
            found.append(f"roles/{role.name}: {name} {problem}")
    return found


def difference(option: dict[str, Any] | None, default: object, prefix: str, name: str) -> str:
    """Return what is wrong with one variable, or nothing.

    Args:
        option: its entry in the specs; None where it has none.
        default: its value in the defaults; `UNSET` where it has none.
        prefix: what its name must start with.
        name: its name.
    """
    if option is None:
        return "is in defaults/main.yml and not in meta/argument_specs.yml. Describe it there."
    if not name.startswith(prefix):
        return f"does not start with {prefix}. Rename it."
    if missing := [key for key in ("type", "description") if not option.get(key)]:
        return f"has no {' and no '.join(missing)} in meta/argument_specs.yml. Add it."
    if option.get("required", False):
        if default is not UNSET or "default" in option:
            return "is required and has a default. Remove one of the two."
        return ""
    if default is UNSET:
        return "is not in defaults/main.yml. Set it there, or make it required."
    if "default" not in option:
        return "has no default in meta/argument_specs.yml. Repeat it there."
    if not same(option["default"], default):
        return (
            f"defaults to {option['default']!r} in meta/argument_specs.yml"
            f" and to {default!r} in defaults/main.yml. Make them equal."
        )
    return ""


def same(one: object, other: object) -> bool:
    """Return whether two values are equal in YAML's eyes: 1 is 1.0, and not true."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def unexplained(role: Role) -> list[str]:
    """Return the blocks of the defaults that no comment opens."""
    path = role.path / "defaults" / "main.yml"
    if not path.is_file():
        return []
    blocks = path.read_text(encoding="utf-8").removeprefix("---\n").strip().split("\n\n")
    return [
        f"roles/{role.name}: defaults/main.yml does not say why to change"
        f" {block.partition(':')[0]}. Write a comment above it."
        for block in blocks
        if block and not block.lstrip().startswith("#")
    ]


def lacking(role: Role, root: Path) -> list[str]:
    """Return the files that every role has and this one lacks; a library has no scenario."""
    fixes = {
        role.path / "README.md": "Run `make docs`",
        role.path / "meta" / "main.yml": "Write it",
    }
    if not role.is_library:
        fixes[root / "molecule" / role.name / "molecule.yml"] = "Write the scenario"
    return [
        f"roles/{role.name}: {path.relative_to(root)} is not there. {fix}."
        for path, fix in fixes.items()
        if not path.is_file()
    ]


def check(root: Path) -> list[str]:
    """Return all that is wrong with the roles of a checkout, one a line."""
    return [
        problem
        for role in read_roles(root)
        for problem in differences(role) + unexplained(role) + lacking(role, root)
    ]


def main() -> int:
    """Run the check on this repository."""
    problems = check(ROOT)
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
