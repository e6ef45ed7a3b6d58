"""Rules of single values: the collection's filters have those of the package, and nobody a copy."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.plugin_files import ROOT, load

inputs = load("filter", "inputs")
RULES = ROOT / "watcher/src/infbox/inputs.py"
# What a copy of a rule would have in it, however it is written.
MARKS = {
    "URL that secrets may be sent to": r"localhost\|127",
    "git URL": r"\((\?:)?ssh:",
    "user": r"\[a-z0-9\._-\]\{0,31\}",
    "grant": r"\[A-Za-z0-9\*\]\[A-Za-z0-9\._\*-\]",
}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("name", ["shop", "Shop_2.x"], ["", "../x", "a b", "-x", 1]),
        ("user", ["ann", "a.b-c_1", "a" * 32], ["", "Ann", "a" * 33, "a@page", "a/b", 7]),
        ("day", ["2027-01-31"], ["2027-1-31", "31.01.2027", "", None]),
        ("grant", ["shop", "shop-*", "*"], ["", "a b", "*a*b*c*d*", "-x", "a" * 129]),
        (
            "safe_url",
            ["https://id.example.org/realms/a", "http://localhost:8080", "http://127.0.0.1/x"],
            ["http://id.example.org", "https://id.example.org?x", "id.example.org", "", None],
        ),
        ("service_url", ["http://a:1", "https://[::1]:2"], ["http://a:1/x", "a:1", "ftp://a", ""]),
    ],
)
def test_values_that_are_none_of_a_kind_are_returned(
    kind: str, good: list[object], bad: list[object]
) -> None:
    assert inputs.invalid([*good, *bad], kind) == bad


def test_filters_for_git_say_what_to_do() -> None:
    filters = inputs.FilterModule().filters()
    assert filters["git_url_hint"]("https://forge.example/shop.git") == ""
    assert filters["git_url_hint"]("git@forge.example:shop.git").startswith("write it as ssh://")
    assert "pa55" not in filters["git_url_hint"]("https://me:pa55@forge.example/shop.git")
    assert filters["git_ref_hint"]("main") == ""
    assert filters["git_ref_hint"]("a" * 40).startswith("give a branch or a tag")


def sources() -> Iterator[Path]:
    for folder, endings in (("plugins", "*.py"), ("watcher/src", "*.py"), ("roles", "*.yml")):
        yield from (ROOT / folder).rglob(endings)


@pytest.mark.parametrize("rule", MARKS)
def test_a_rule_stands_in_one_place(rule: str) -> None:
    mark = re.compile(MARKS[rule])
    assert [file for file in sources() if mark.search(file.read_text())] == [RULES]
