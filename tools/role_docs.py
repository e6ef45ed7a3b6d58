"""Write each role's page, README.md, from its argument specs.

    python tools/role_docs.py            write the pages
    python tools/role_docs.py --check    write nothing, name the stale pages, exit with 1

What stands above the marker is written by hand and kept.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from role_specs import ROOT, Role, paragraphs, read_roles

MARKER = "<!-- Made from meta/argument_specs.yml by `make docs`. Write above this line only. -->"

# Ansible's markup in descriptions, as Markdown.
MARKUP = (
    (re.compile(r"\b[CEORV]\(([^)]*)\)"), r"`\1`"),
    (re.compile(r"\bB\(([^)]*)\)"), r"**\1**"),
    (re.compile(r"\bI\(([^)]*)\)"), r"*\1*"),
    (re.compile(r"\bL\(([^,)]*), *([^)]*)\)"), r"[\1](\2)"),
    (re.compile(r"\bU\(([^)]*)\)"), r"<\1>"),
)


def page(role: Role, before: str) -> str:
    """Return a role's page.

    Args:
        role: the role.
        before: the page as it was; empty for none.
    """
    by_hand = before.partition(MARKER)[0].strip() if MARKER in before else f"# {role.name}"
    parts = [by_hand, MARKER, f"{markdown(role.short_description).rstrip('.')}."]
    parts += [markdown(paragraph) for paragraph in role.description]
    if role.options:
        parts += ["## Variables", "\n".join(table(role.options))]
    parts += [
        "Tests: those of the roles that include it."
        if role.is_library
        else f"Tests: `make molecule SCENARIO={role.name}`."
    ]
    return "\n\n".join(parts) + "\n"


def table(options: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table of variables, the required ones first."""
    yield "| variable | type | default | description |"
    yield "| --- | --- | --- | --- |"
    for name, option in sorted(options.items(), key=lambda item: not item[1].get("required")):
        yield from rows(name, option)


def rows(name: str, option: dict[str, Any]) -> Iterator[str]:
    """Yield the row of an option, then those of the options inside it."""
    cells = [f"`{name}`", kind(option), default(option), described(option)]
    yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    inner = f"{name}[]." if option.get("type") == "list" else f"{name}."
    for key, value in option.get("options", {}).items():
        yield from rows(inner + key, value)


def kind(option: dict[str, Any]) -> str:
    """Return an option's type, in words."""
    name = str(option.get("type", "str"))
    return f"{name} of {option['elements']}" if "elements" in option else name


def default(option: dict[str, Any]) -> str:
    """Return an option's default, as one would write it."""
    if option.get("required"):
        return "**required**"
    if option.get("default") is None:
        return "none"
    value = option["default"]
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return code(text)


def described(option: dict[str, Any]) -> str:
    """Return an option's description, with its choices where it has any."""
    text = " ".join(markdown(part) for part in paragraphs(option.get("description", [])))
    if choices := option.get("choices"):
        text += f" One of {', '.join(code(str(choice)) for choice in choices)}."
    return text


def code(text: str) -> str:
    """Return a text as Markdown code on one line, whatever it holds."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text.strip().replace(chr(10), ' ')}{fence}"


def markdown(text: str) -> str:
    """Return a description with Ansible's markup turned into Markdown, on one line."""
    text = " ".join(text.split())
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    return text


def stale(root: Path) -> dict[Path, str]:
    """Return what the pages that are not up to date should hold."""
    pages = {}
    for role in read_roles(root):
        path = role.path / "README.md"
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        wanted = page(role, before)
        if wanted != before:
            pages[path] = wanted
    return pages


def main() -> int:
    """Write or check the pages of this repository."""
    parser = argparse.ArgumentParser(description="Write each role's page from its specs.")
    parser.add_argument("--check", action="store_true", help="write nothing, name stale pages")
    check = parser.parse_args().check
    pages = stale(ROOT)
    for path, content in pages.items():
        name = path.relative_to(ROOT)
        if check:
            print(f"{name} is stale. Run `make docs`.", file=sys.stderr)
        else:
            path.write_text(content, encoding="utf-8")
            print(f"{name} is written.")
    return 1 if check and pages else 0


if __name__ == "__main__":
    sys.exit(main())
