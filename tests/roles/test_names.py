"""Names that people meet have none of the words that the project has replaced.

They are settings, roles' variables, files of tasks and modules, options, metrics, alerts, targets
of make, the fields of the status, and the names of Python code. `test_task_names.py` asks the same
of the names of tasks.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.plugins.plugin_files import ROOT

REPLACED = {
    "card": "gpu",
    "doubt": "read_failure",
    "errand": "background_task",
    "folder": "directory",
    "gate": "health_checks",
    "heat": "edit_frequency",
    "held": "queued",
    "homes": "placement",
    "ill": "unhealthy",
    "least": "min",
    "licence": "license",
    "mend": "hint",
    "outlook": "context",
    "part": "service, shard",
    "peers": "peer_hosts",
    "room": "space",
    "tuple": "versions",
    "well": "healthy",
}
# A hold of a package is dpkg's own word.
ALLOWED = re.compile(r"_?(common|docker|nvidia_driver)_(was_)?held(_packages)?")
# Refused with the new name, for one release.
EARLIER = {"_infbox_renamed_settings"}
EARLIER_OPTIONS = {"--folder"}
# Of presets, refused with the new name; and the states of a gateway that was deployed before.
EARLIER_FIELDS = {"least_driver", "least_model_len", "licence", "tuple", "ill", "well"}
VARIABLES = ("roles/*/defaults/main.yml", "roles/*/meta/argument_specs.yml",
             "roles/*/vars/main.yml", "group_vars/all/*.yml",
             "group_vars/all/wiring/*.yml")  # fmt: skip
# Code whose modules, functions, classes, arguments, attributes and variables are read too.
CODE = ("plugins/**/*.py", "watcher/src/infbox/**/*.py", "lab/**/*.py", "bench/**/*.py",
        "demo/**/*.py", "tools/*.py")  # fmt: skip
# Words that code still has. `part`: a piece of a text, a path or a version. `heat`: a column of the
# index on disk. `lab_kept_modules.py` is in the lab's host image, which a change would build anew.
STILL_IN_CODE = {"heat", "part"}
EARLIER_CODE = {"lab/images/host/lab_kept_modules.py"}
TEXTS = ("bench", "demo", "lab", "molecule", "playbooks", "plugins", "roles", "tools",
         "watcher/src")  # fmt: skip
FILES = ("roles/*/tasks/*.yml", "playbooks/*.yml", "playbooks/tasks/*.yml",
         "watcher/src/infbox/**/*.py", "plugins/filter/*.py", "plugins/action/*.py")  # fmt: skip


def keys(node: yaml.Node | None) -> Iterator[str]:
    """Yield the keys of mappings on all levels, but for those of earlier names."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value
            if key.value not in EARLIER:
                yield from keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from keys(entry)


def matches(pattern: str, *files: str) -> Iterator[tuple[Path, str]]:
    """Yield what a pattern finds in files, each with its file."""
    for path in found(*files):
        for name in re.findall(pattern, path.read_text(), re.MULTILINE):
            yield path, name


def found(*patterns: str) -> Iterator[Path]:
    """Yield the files of patterns."""
    for pattern in patterns:
        yield from sorted(ROOT.glob(pattern))


def names() -> Iterator[tuple[Path, str]]:
    """Yield all names, each with the file in which it stands."""
    for path in found(*VARIABLES):
        for key in keys(yaml.compose(path.read_text(), Loader=yaml.CSafeLoader)):
            yield path, key
    for path in found(*FILES):
        yield path, path.stem
    yield from matches(r"(?:alert|record): (\S+)", "files/alerts/*.yml")
    yield from matches(r"^([a-z-]+):", "Makefile")
    yield from matches(r'"(infbox_[a-z_]+)', "watcher/src/infbox/**/*.py")
    yield from matches(r'"(--[a-z-]+)"', "watcher/src/infbox/**/*.py")
    # What modules and filters return, and what the status has.
    for path, name in matches(
        r'[{ ]"([a-z_]+)":', "watcher/src/infbox/status/*.py", "plugins/**/*.py"
    ):
        if name not in EARLIER_FIELDS:
            yield path, name


def identifiers(code: str) -> Iterator[str]:
    """Yield the names that code gives to functions, classes, arguments, attributes and variables.

    What it imports has the name that another module gave it.
    """
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name


def replaced(name: str) -> list[str]:
    """Return what is to be said in place of words of a name."""
    if ALLOWED.fullmatch(name) or name in EARLIER_OPTIONS:
        return []
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
    return [
        f"{better} in place of {word}"
        for word, better in REPLACED.items()
        if {word, f"{word}s"} & words
    ]


def test_names_use_the_words_of_the_field() -> None:
    every = list(names())
    assert len(every) > 2000
    wrong = {
        f"{path.relative_to(ROOT)}: {name}: say {each}"
        for path, name in every
        for each in replaced(name)
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_code_uses_the_words_of_the_field() -> None:
    every = {
        (str(path.relative_to(ROOT)), name)
        for path in found(*CODE)
        for name in (path.stem, *identifiers(path.read_text()))
    }
    assert len(every) > 10_000
    wrong = {
        f"{path}: {name}: say {each}"
        for path, name in every
        if path not in EARLIER_CODE
        for each in replaced(name)
        if each.rpartition(" ")[2] not in STILL_IN_CODE
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_texts_say_gpu() -> None:
    """A model card is a page about a model, and a network card no GPU."""
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in found(*(f"{place}/**/*" for place in TEXTS))
        if path.is_file() and path.suffix not in {".pyc", ".png", ".gz"}
        for line in path.read_text(errors="replace").splitlines()
        if re.search(r"(?i)(?<!model )(?<!network )(?<![a-z])cards?(?![a-z])", line)
    ]
    assert not wrong, "\n".join(wrong)


def test_each_kind_of_name_in_code_is_read() -> None:
    code = (
        "class Card:\n  x: int\n  def card(self, gpu_card, *, peers):\n    self.room = held = 1\n"
    )
    code += "import a as outlook\nfor homes in a: pass\n"
    seen = {name for name in identifiers(code) if replaced(name)}
    assert seen == {"Card", "card", "gpu_card", "peers", "room", "held", "outlook", "homes"}


@pytest.mark.parametrize(
    "name",
    ["dcgm_cards", "folder", "--folders", "KvRoomShort", "stack_gate", "docker_held_requests"],
)
def test_a_replaced_word_is_found(name: str) -> None:
    assert bool(replaced(name)) == (name not in EARLIER_OPTIONS)
