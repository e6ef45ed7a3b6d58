"""What README and docs tell people to type, as far as no host is needed."""

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible import context
from ansible.cli.playbook import PlaybookCLI

from tests.docs.commands import HERE, PAGES, Block, Command, blocks, commands, lines
from tests.stages import ROOT

BIN = Path(sys.executable).parent
COMMANDS = list(commands())
BLOCKS = list(blocks())
ALL = "".join(
    path.read_text()
    for folder in ("group_vars", "playbooks", "roles")
    for path in sorted((ROOT / folder).rglob("*.yml"))
    if path.is_file()
)
SETTINGS = set(re.findall(r"\binfbox_[a-z0-9_]+", ALL))


def of(beginning: str) -> list[Command]:
    found = [each for each in COMMANDS if each.where == HERE and re.match(beginning, each.text)]
    assert found
    return found


def run(*command: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_every_command_is_known_to_a_rule() -> None:
    unknown = [str(command) for command in COMMANDS if not command.where]
    assert not unknown, "write a rule in tests/docs/commands.py, or <!-- not run: why --> before it"


def test_commands_over_several_lines_are_one() -> None:
    text = "curl \\\n  -d '{\n \"a\": 1}'   # says\n\nmake demo    # shows\n"
    assert list(lines(text)) == ["curl -d '{\n \"a\": 1}'", "make demo"]


@pytest.mark.parametrize("command", of("make "), ids=str)
def test_make_has_the_target(command: Command) -> None:
    done = run("make", "--dry-run", *shlex.split(command.text)[1:])
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inventory")
    host = {"ansible_connection": "local", "infbox_workspaces": [{"name": "shop", "path": "/srv"}]}
    (folder / "hosts.yml").write_text(json.dumps({"inference": {"hosts": {"gpu1": host}}}))
    return folder


def test_playbooks_are_there(inventory: Path) -> None:
    words = [shlex.split(command.text) for command in of("ansible-playbook ")]
    # All in one run, which takes as long as one.
    playbooks = sorted({word for line in words for word in line if word.endswith(".yml")})
    done = run(BIN / "ansible-playbook", *playbooks, "-i", inventory, "--syntax-check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", of("ansible-playbook "), ids=str)
def test_options_and_variables_are_there(command: Command) -> None:
    words = shlex.split(command.text)
    cli = PlaybookCLI(words)
    cli.parse()
    for given in context.CLIARGS["extra_vars"]:
        names = json.loads(given) if given.startswith("{") else [given.partition("=")[0]]
        for name in names:
            assert re.search(rf"\b{name}\b", ALL), name


@pytest.mark.parametrize("command", of(r"(\S*/)?infbox-watch "), ids=str)
def test_infbox_watch_takes_the_command(command: Command, tmp_path: Path) -> None:
    shop = tmp_path / "src" / "shop"
    (shop / "src").mkdir(parents=True)
    (shop / "src" / "orders.py").write_text("def price():\n    return 1\n")
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    for step in (("init",), ("add", "."), (*who, "commit", "-m", "begin")):
        assert run("git", *step, folder=shop).returncode == 0
    # Where it would go on for ever, or carry to a host that there is not, it copies once.
    text = re.sub(r" --follow| --carry \S+| --host \S+", "", command.text)
    text = text.replace("~", str(tmp_path)).replace("/srv/shop", str(shop))
    words = shlex.split(text)
    done = run(sys.executable, "-m", "infbox.cli", *words[1:], folder=shop)
    assert done.returncode == 0, done.stderr
    for option in re.findall(r" (--\w+)", command.text):
        assert option in run(sys.executable, "-m", "infbox.cli", words[1], "--help").stdout


def test_commands_in_tables_are_there() -> None:
    """What stands in backquotes in README's table of commands."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z][a-z-]+)", page.read_text()):
            assert target in targets, f"{page.name} names make {target}"
    watch = run(sys.executable, "-m", "infbox.cli", "--help").stdout
    for name in re.findall(r"`infbox-watch ([a-z]+)", (ROOT / "README.md").read_text()):
        assert name in watch


@pytest.mark.parametrize(
    "block", [each for each in BLOCKS if each.language == "yaml"],
    ids=lambda each: f"{each.page}:{each.line}",
)  # fmt: skip
def test_yaml_is_yaml_and_names_settings_that_there_are(block: Block) -> None:
    content = yaml.safe_load(block.text.replace("…", "x"))
    assert content is not None
    for name in settings_in(content):
        assert name in SETTINGS, name


def settings_in(content: Any) -> set[str]:
    if isinstance(content, Mapping):
        own = {key for key in content if isinstance(key, str) and key.startswith("infbox_")}
        return own.union(*(settings_in(value) for value in content.values()))
    if isinstance(content, list):
        return set().union(*map(settings_in, content))
    return set()


@pytest.mark.parametrize(
    "block", [each for each in BLOCKS if each.language == "python"],
    ids=lambda each: f"{each.page}:{each.line}",
)  # fmt: skip
def test_python_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize(
    "command", [each for each in COMMANDS if each.text.startswith("curl ")], ids=str
)
def test_a_body_is_json_and_says_so(command: Command) -> None:
    words = shlex.split(command.text)
    bodies = [words[at + 1] for at, word in enumerate(words) if word in ("-d", "--data", "--json")]
    for body in bodies:
        json.loads(body)
        assert "--json" in words or "Content-Type: application/json" in words
