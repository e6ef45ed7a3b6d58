"""README.md names the commands, their options and the modules that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infbox import cli

README = (Path(__file__).parents[1] / "README.md").read_text()
SOURCE = Path(cli.__file__).parent
ROWS = re.findall(r"^\| `infbox-(\w+) ([a-z]+)([^`]*)`", README, re.MULTILINE)
PROGRAMS = {"watch": cli.watch, "gateway": cli.gateway, "remotes": cli.remotes,
            "signin": cli.signin, "keys": cli.keys}  # fmt: skip
PACKAGES = {each.name for each in SOURCE.iterdir() if each.is_dir()}


def printed(program: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit):
        PROGRAMS[program]([*arguments, "--help"])
    return capsys.readouterr().out


def options(text: str) -> set[str]:
    return {*re.findall(r"--[a-z][a-z-]*", text)} - {"--help"}


@pytest.mark.parametrize(("program", "command", "rest"), ROWS)
def test_a_command_has_the_options_that_are_named(
    program: str, command: str, rest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = printed(program, capsys, command).partition("\n\n")[0]
    assert options(rest) == options(usage)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_is_named(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = set(re.findall(r"^    ([a-z]+)", printed(program, capsys), re.MULTILINE))
    assert shown == {command for name, command, _ in ROWS if name == program}


def test_every_module_that_is_named_is_there() -> None:
    named = {each for each in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", README)
             if each.partition(".")[0] in PACKAGES}  # fmt: skip
    places = {each: SOURCE / each.replace(".", "/") for each in named}
    away = [name for name, place in places.items()
            if not (place.is_dir() or place.with_suffix(".py").is_file())]  # fmt: skip
    assert not [name for name in away if name not in SETTINGS]


SETTINGS = set(re.findall(r"^\| `([a-z_.]+)` \|", README, re.MULTILINE))
"""Keys of the configuration look the same."""
