"""Imports run one way between the packages of ``infbox``, none runs in a circle, and a directory of
modules can be read at a glance."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import infbox

ROOT = Path(infbox.__file__).parent
MOST_FILES = 15

ORDER = (
    {"errors", "inputs", "log"},
    {"grants", "kinds"},
    {"config"},
    {"metrics"},
    {"runtime"},
    {"tree"},
    {"watching"},
    {"packing"},
    {"retrieval"},
    {"auth", "client", "evaluation", "mirror", "remotes", "replicas", "status", "tools", "warming"},
    {"gateway", "watcher"},
    {"cli"},
)
"""The packages and modules at the top, lowest first: each imports from sets before its own. To add
one, say here where it stands."""

LEVELS = {name: level for level, names in enumerate(ORDER) for name in names}


def modules(root: Path) -> dict[str, Path]:
    """Return the modules below a directory by the names that they are imported by."""
    found = {}
    for file in root.rglob("*.py"):
        parts = [root.name, *file.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules that one imports, wherever in it: for types alone and late ones too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: imports by a relative name: say infbox.… instead"
            for each in node.names:
                whole = f"{node.module}.{each.name}"
                if found := whole if whole in known else node.module:
                    yield from {found} & known.keys()


def arrows(root: Path) -> dict[str, set[str]]:
    """Return what each module imports of the same package."""
    known = modules(root)
    return {name: {*imported(name, file, known)} - {name} for name, file in known.items()}


def above(name: str) -> str:
    """Return the package or module at the top that a module belongs to; empty for infbox itself."""
    return name.split(".")[1] if "." in name else ""


def test_imports_follow_the_declared_order() -> None:
    unknown = {above(name) for name in modules(ROOT)} - {"", *LEVELS}
    assert not unknown, f"say in ORDER where these stand: {unknown}"
    wrong = [
        f"{name} imports {other}: {above(other)} does not stand below {above(name)}"
        for name, others in sorted(arrows(ROOT).items())
        for other in sorted(others)
        if above(other)
        and above(other) != above(name)
        and (not above(name) or LEVELS[above(other)] >= LEVELS[above(name)])
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_runs_in_a_circle() -> None:
    try:
        [*graphlib.TopologicalSorter(arrows(ROOT)).static_order()]
    except graphlib.CycleError as error:
        raise AssertionError("in a circle: " + " <- ".join(error.args[1])) from None


def test_no_directory_of_modules_is_too_large_to_read() -> None:
    folders = {file.parent for file in modules(ROOT).values()}
    large = {
        str(folder.relative_to(ROOT.parent)): count
        for folder in folders
        if (count := len([*folder.glob("*.py")])) > MOST_FILES
    }
    assert not large, f"more than {MOST_FILES} modules: {large}"
