"""Pages whose tables are made of figures: what stands between their marks is made anew."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def write(file: Path, tables: Mapping[str, Sequence[str]]) -> str:
    """Return a page's text with its tables between their marks made anew.

    Args:
        file: the page.
        tables: lines by name; the page has a comment `table NAME` before each, and `end` after it.

    Raises:
        ValueError: the page has no such comments.
    """
    text = file.read_text()
    for name, lines in tables.items():
        marks = re.search(rf"<!-- table {name}\b[^\n]*-->\n(.*?)<!-- end -->", text, re.DOTALL)
        if not marks:
            raise ValueError(f"{file} has no comments «table {name}» and «end».")
        text = text[: marks.start(1)] + "\n".join([*lines, ""]) + text[marks.end(1) :]
    return text
