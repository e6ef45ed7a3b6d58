"""The check that each role is what it says finds what it looks for."""

from pathlib import Path
from textwrap import dedent

import check_specs
import pytest
from role_specs import ROOT, read_roles

SPECS = """
    argument_specs:
      main:
        short_description: A service
        options:
          web_port: {type: int, default: 80, description: Port.}
          web_name: {type: str, required: true, description: Name.}
"""
DEFAULTS = """
    # Another service may hold it.
    web_port: 80
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one role that is all right."""
    write(tmp_path / "roles/web/meta/argument_specs.yml", SPECS)
    write(tmp_path / "roles/web/defaults/main.yml", DEFAULTS)
    for name in ("roles/web/meta/main.yml", "roles/web/README.md", "molecule/web/molecule.yml"):
        write(tmp_path / name, "")
    return tmp_path


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(content))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_role_in_order_passes(checkout: Path) -> None:
    assert check_specs.check(checkout) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("defaults", "80", "81", "web_port defaults to 80 in meta/argument_specs.yml and to 81"),
        ("defaults", "80", "true", "web_port defaults to 80"),
        ("defaults", "web_port: 80", "", "web_port is not in defaults/main.yml"),
        ("defaults", "web_port: 80", "web_port: 80\nweb_more: 1", "web_more is in defaults"),
        ("defaults", "web_port: 80", "web_port: 80\nweb_name: x", "web_name is required and has"),
        ("defaults", "# Another service may hold it.", "", "does not say why to change web_port"),
        ("specs", "default: 80, ", "", "web_port has no default in meta/argument_specs.yml"),
        ("specs", ", description: Port.", "", "web_port has no description"),
        ("specs", "type: int, ", "", "web_port has no type"),
        ("specs", "required: true", "required: true, default: x", "web_name is required and has"),
    ],
)
def test_a_difference_is_named(checkout: Path, file: str, old: str, new: str, message: str) -> None:
    names = {"defaults": "defaults/main.yml", "specs": "meta/argument_specs.yml"}
    replace(checkout / "roles/web" / names[file], old, new)
    problems = check_specs.check(checkout)
    assert len(problems) == 1
    assert message in problems[0]


def test_a_variable_of_another_prefix_is_named(checkout: Path) -> None:
    for name in ("defaults/main.yml", "meta/argument_specs.yml"):
        replace(checkout / "roles/web" / name, "web_port", "port")
    assert check_specs.check(checkout) == [
        "roles/web: port does not start with web_. Rename it.",
    ]


@pytest.mark.parametrize("name", ["roles/web/README.md", "molecule/web/molecule.yml"])
def test_a_missing_file_is_named(checkout: Path, name: str) -> None:
    (checkout / name).unlink()
    (problem,) = check_specs.check(checkout)
    assert name in problem


def test_a_library_of_tasks_has_no_scenario_of_its_own(checkout: Path) -> None:
    (checkout / "molecule/web/molecule.yml").unlink()
    write(checkout / "roles/web/tasks/some.yml", "")
    assert check_specs.check(checkout) == []
    write(checkout / "roles/web/tasks/main.yml", "")
    assert len(check_specs.check(checkout)) == 1


def test_specs_without_an_entry_point_are_refused(checkout: Path) -> None:
    write(checkout / "roles/web/meta/argument_specs.yml", "argument_specs: {}\n")
    with pytest.raises(ValueError, match="no entry point main"):
        check_specs.check(checkout)


def test_nested_defaults_are_compared_by_what_they_mean() -> None:
    assert check_specs.same({"a": [1, 2.0]}, {"a": [1.0, 2]})
    assert not check_specs.same({"a": [1]}, {"a": [True]})
    assert not check_specs.same([1], [1, 2])


def test_the_roles_of_this_repository_agree_with_their_specs() -> None:
    roles = read_roles(ROOT)
    assert len(roles) > 5
    assert [line for role in roles for line in check_specs.differences(role)] == []
