"""The generator of the roles' pages."""

from pathlib import Path
from typing import Any

import pytest
import role_docs
from role_specs import Role


def role(**options: dict[str, Any]) -> Role:
    return Role(Path("roles/web"), "A C(web) service", ["Starts nothing."], options, {})


def test_a_new_page_has_title_purpose_and_variables() -> None:
    port = {"type": "int", "default": 80, "description": "Port of V(web_name)."}
    lines = role_docs.page(role(web_port=port), "").splitlines()
    assert lines[0] == "# web"
    assert "A `web` service." in lines
    assert "Starts nothing." in lines
    assert "| `web_port` | int | `80` | Port of `web_name`. |" in lines


def test_what_stands_above_the_marker_is_kept() -> None:
    before = f"# Web\n\nBy hand.\n\n{role_docs.MARKER}\n\nOld.\n"
    page = role_docs.page(role(), before)
    assert page.startswith(f"# Web\n\nBy hand.\n\n{role_docs.MARKER}\n")
    assert "Old." not in page
    assert role_docs.page(role(), page) == page


def test_required_variables_come_first_and_say_so() -> None:
    options = {
        "web_port": {"type": "int", "default": 80, "description": "Port."},
        "web_name": {"type": "str", "required": True, "description": "Name."},
    }
    rows = [line for line in role_docs.page(role(**options), "").splitlines() if "`web_" in line]
    assert rows[0] == "| `web_name` | str | **required** | Name. |"


@pytest.mark.parametrize(
    ("default", "shown"),
    [("", '`""`'), ("a`b", "``a`b``"), ([], "`[]`"), ({"a": 1}, '`{"a": 1}`'), (None, "none"),
     (False, "`false`"), ("two\nlines", "`two lines`")],
)  # fmt: skip
def test_a_default_shows_as_one_would_write_it(default: object, shown: str) -> None:
    assert role_docs.default({"default": default}) == shown


def test_a_bar_does_not_end_a_cell() -> None:
    option = {"type": "str", "default": "a|b", "description": "One | two."}
    (row,) = role_docs.rows("web_x", option)
    assert row == r"| `web_x` | str | `a\|b` | One \| two. |"


def test_choices_elements_and_inner_options_are_told() -> None:
    option = {
        "type": "list",
        "elements": "dict",
        "default": [],
        "description": ["Ports.", "All of them."],
        "options": {"kind": {"type": "str", "choices": ["tcp", "udp"], "description": "Kind."}},
    }
    assert list(role_docs.rows("web_ports", option)) == [
        "| `web_ports` | list of dict | `[]` | Ports. All of them. |",
        "| `web_ports[].kind` | str | none | Kind. One of `tcp`, `udp`. |",
    ]


def test_a_page_is_stale_until_it_is_written(tmp_path: Path) -> None:
    specs = tmp_path / "roles/web/meta/argument_specs.yml"
    specs.parent.mkdir(parents=True)
    specs.write_text("argument_specs: {main: {short_description: A service}}\n")
    page = tmp_path / "roles/web/README.md"
    assert list(role_docs.stale(tmp_path)) == [page]
    page.write_text(role_docs.stale(tmp_path)[page])
    assert role_docs.stale(tmp_path) == {}
    specs.write_text("argument_specs: {main: {short_description: Another}}\n")
    assert list(role_docs.stale(tmp_path)) == [page]
