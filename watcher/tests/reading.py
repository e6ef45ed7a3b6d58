"""Reading a pack as its own words say, from its text alone."""

from __future__ import annotations

import re

_HEADING = re.compile(r"## (?P<path>.+?)(?: \((?P<note>[^()]*)\))?\n")
_FENCE = re.compile(r"(?P<fence>`{3,})(?:diff)?\n")
_HUNK = re.compile(r"@@ -(\d+),(\d+) \+(\d+),(\d+) @@")


def sections(text: str) -> list[tuple[str, str, str]]:
    """Return the sections that are about files: path, note and content."""
    found: list[tuple[str, str, str]] = []
    place = text.index("\n## ") + 1 if "\n## " in text else len(text)
    while place < len(text):
        heading = _HEADING.match(text, place)
        assert heading, text[place : place + 80]
        place = heading.end()
        content = ""
        if opening := _FENCE.match(text, place):
            end = re.compile(f"^{opening['fence']}$", re.MULTILINE).search(text, opening.end())
            assert end, "a fence that is not closed"
            content = text[opening.end() : end.start()]
            place = end.end() + 1
        found.append((heading["path"], heading["note"] or "", content))
    return found


def current(text: str) -> dict[str, str]:
    """Return what the files are now that can be read from a pack in full."""
    files: dict[str, str] = {}
    whole: dict[str, str] = {}
    for path, note, content in sections(text):
        if note in ("", "changed"):
            files[path] = whole[path] = content
        elif note == "taken back to its last whole text above":
            files[path] = whole[path]
        elif note == "edited":
            files[path] = applied(content, files[path])
        elif note.startswith("renamed to "):
            new = note.removeprefix("renamed to ")
            files[new], whole[new] = files.pop(path), whole[path]
        else:
            files.pop(path, None)
    return files


def applied(diff: str, old: str) -> str:
    """Apply a unified diff; every line that it takes away or keeps must be there."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", old)
    result: list[str] = []
    place = 0
    for line in re.findall(r"[^\n]*\n", diff):
        if hunk := _HUNK.match(line):
            start = int(hunk[1]) - (1 if int(hunk[2]) else 0)
            result += lines[place:start]
            place = start
        elif line.startswith("\\"):
            continue  # a file's text is shown with an end of its last line
        elif line.startswith("+"):
            result.append(line[1:])
        else:
            assert lines[place].rstrip("\n") == line[1:].rstrip("\n")
            result += [lines[place]] if line.startswith(" ") else []
            place += 1
    return "".join([*result, *lines[place:]])


def shown(text: str) -> str:
    """Return a file's text as a section shows it: its last line ends."""
    return text if text.endswith("\n") or not text else f"{text}\n"


def gone(text: str) -> set[str]:
    """Return the files of which a pack says that they are not there."""
    files: set[str] = set()
    for path, note, _ in sections(text):
        files.discard(path)
        if note.startswith("renamed to "):
            files.discard(note.removeprefix("renamed to "))
            files.add(path)
        elif note == "removed":
            files.add(path)
    return files
