"""What is known of a tree beside its files' bytes."""

from __future__ import annotations

from dataclasses import dataclass

from infbox.packing import tokens
from infbox.packing.context import Centre, KnownImports, drawn_map
from infbox.packing.rank import Candidate, ranked


@dataclass(frozen=True)
class File:
    """A file's content; its own text serves as its digest."""

    text: str

    @property
    def digest(self) -> str:
        return self.text


class Reading:
    """A tree in memory that notes what is read."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files
        self.read: list[str] = []

    def __call__(self, path: str) -> File | None:
        self.read.append(path)
        return File(self.files[path]) if path in self.files else None

    def candidates(self) -> list[Candidate]:
        return ranked(Candidate(path, text, len(text)) for path, text in self.files.items())


FILES = {
    "app/core.py": "class Core:\n    def run(self): ...\n",
    "app/a.py": "from app import core\n",
    "app/b.py": "from app import core\n\n\ndef use():\n    secret = 'hunter2hunter2'\n",
    "docs/readme.md": "# words\n",
}


def test_what_is_imported_most_is_central_and_each_content_is_read_once() -> None:
    tree, centre = Reading(dict(FILES)), Centre(KnownImports())
    first = centre.centralities(tree.files, tree)
    assert max(first, key=lambda path: first[path]) == "app/core.py"
    assert sorted(tree.read) == sorted(FILES)
    assert centre.centralities(tree.files, tree) == first
    changed = {**FILES, "app/core.py": "import app.a\n"}
    tree.files = changed
    assert centre.centralities(changed, tree)["app/a.py"] > 0
    assert tree.read[len(FILES) :] == ["app/core.py"]


def test_a_map_names_what_is_defined_and_shows_no_content() -> None:
    tree = Reading(FILES)
    text = drawn_map(tree.candidates(), tree, 1000, tokens.load(None))
    assert "app/ 3 files\n" in text
    assert "docs/ 1 files\n" in text
    assert "app/core.py: class Core: run\n" in text
    assert "app/b.py: def use\n" in text
    assert "hunter2" not in text
    assert "words" not in text


def test_a_name_that_is_no_text_takes_one_line_of_a_map() -> None:
    names = ["caf\udce9/a.py", "x\n## forged.py/b.py"]
    reading = Reading(dict.fromkeys(names, "def run(): ...\n"))
    drawn = drawn_map(reading.candidates(), reading, 1000, tokens.load(None))
    assert drawn.encode()
    assert '"caf\\udce9/a.py": def run' in drawn
    assert "\n## forged" not in drawn


def test_a_map_keeps_to_its_room() -> None:
    files = {f"pkg{n}/mod{n}.py": f"def function_{n}(): ...\n" for n in range(300)}
    tree = Reading(files)
    for room in (0, 30, 100, 500):
        text = drawn_map(tree.candidates(), tree, room, tokens.load(None))
        assert tokens.estimate(text) <= max(room, 1) or not text
