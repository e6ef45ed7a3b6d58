"""The text of a pack, and how little of it a change touches."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.pack import BASE_SHARE, Candidate, Kind, Pack
from infbox.tokens import estimate


@dataclass(frozen=True)
class File:
    """A file's content; its own text serves as its hash."""

    text: str

    @property
    def digest(self) -> str:
        return f"hash of {self.text!r}"


def build(files: dict[str, str], budget: int = 10_000) -> Pack:
    sources = {path: File(text) for path, text in files.items()}
    candidates = [Candidate(path, 0) for path in files]
    return Pack.build("shop", candidates, sources.get, budget, estimate)


def current(text: str) -> dict[str, str]:
    """Read a pack as its own words say: the last section of a path counts."""
    found: dict[str, str] = {}
    pattern = r"^## (\S+)(?: \(changed\))?\n(`{3,})\n(.*?)^\2\n|^## (\S+) \(removed\)\n"
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        path, _, content, removed = match.groups()
        if removed:
            found.pop(removed, None)
        else:
            found[path] = content
    return found


def test_the_base_is_in_path_order_and_says_how_to_read_it() -> None:
    pack = build({"b.py": "b\n", "a.py": "a\n"})
    assert pack.text.startswith("# Source tree: shop\n")
    assert "supersedes" in pack.text
    assert pack.text.endswith("## a.py\n```\na\n```\n## b.py\n```\nb\n```\n")


def test_a_change_comes_last_and_touches_nothing_before_it() -> None:
    pack = build({"a.py": "a\n", "b.py": "b\n"})
    before = pack.text
    pack.save("a.py", File("a2\n"))
    assert pack.text == before + "## a.py (changed)\n```\na2\n```\n"


def test_a_file_saved_again_replaces_its_own_entry_when_that_is_last() -> None:
    pack = build({"a.py": "a\n", "b.py": "b\n"})
    before = pack.text
    pack.save("a.py", File("a2\n"))
    pack.save("a.py", File("a3\n"))
    assert pack.text == before + "## a.py (changed)\n```\na3\n```\n"


def test_a_file_saved_again_after_another_stays_and_is_superseded() -> None:
    pack = build({"a.py": "a\n", "b.py": "b\n"})
    pack.save("a.py", File("a2\n"))
    middle = pack.text
    pack.save("b.py", File("b2\n"))
    pack.save("a.py", File("a3\n"))
    assert pack.text.startswith(middle)
    assert current(pack.text) == {"a.py": "a3\n", "b.py": "b2\n"}


def test_a_change_taken_back_takes_the_entry_back() -> None:
    pack = build({"a.py": "a\n"})
    before = pack.text
    pack.save("a.py", File("a2\n"))
    pack.save("a.py", File("a\n"))
    assert pack.text == before


def test_a_removal_is_an_entry_and_a_return_another() -> None:
    pack = build({"a.py": "a\n", "b.py": "b\n"})
    pack.remove("a.py")
    assert pack.text.endswith("## a.py (removed)\n")
    assert pack.shown() == {"b.py"}
    pack.save("b.py", File("b2\n"))
    pack.save("a.py", File("a\n"))
    assert current(pack.text) == {"a.py": "a\n", "b.py": "b2\n"}


def test_a_new_file_that_goes_again_leaves_nothing() -> None:
    pack = build({"a.py": "a\n"})
    before = pack.text
    pack.save("new.py", File("x\n"))
    pack.remove("new.py")
    pack.remove("never-shown.py")
    assert pack.text == before


def test_content_cannot_end_its_own_fence() -> None:
    hostile = "```\n## other.py\n```\nno\n````\n"
    assert current(build({"a.md": hostile}).text) == {"a.md": hostile}


def test_a_name_with_a_line_break_cannot_make_a_section() -> None:
    assert '## "a\\n## b"\n' in build({"a\n## b": "x"}).text


def test_the_base_leaves_room_and_skips_what_does_not_fit() -> None:
    files = {f"f{n:02}.py": "x" * 430 for n in range(50)} | {"f00.py": "x" * 43_000}
    pack = build(files, budget=2000)
    assert pack.tokens <= 2000 * BASE_SHARE
    assert pack.tokens > 2000 * BASE_SHARE - 110
    assert "f00.py" not in pack.shown()
    assert "f01.py" in pack.shown()


def test_the_best_come_in_first_however_they_are_named() -> None:
    files = {"z.py": "x" * 430} | {f"f{n:02}.py": "x" * 430 for n in range(50)}
    assert "z.py" in build(files, budget=1000).shown()


def test_a_pack_is_worn_when_a_tenth_of_the_budget_is_superseded() -> None:
    pack = build({f"f{n}.py": "x" * 200 for n in range(10)}, budget=1000)
    pack.save("f0.py", File("y" * 200))
    assert not pack.is_worn
    pack.save("f1.py", File("y" * 200))
    assert pack.superseded > 100
    assert pack.is_worn


def test_a_pack_is_worn_when_it_exceeds_its_budget() -> None:
    pack = build({"a.py": "x" * 430}, budget=300)
    pack.save("new.py", File("x" * 860))
    assert pack.is_worn


def test_a_pack_goes_on_from_its_entries() -> None:
    pack = build({"a.py": "a\n", "b.py": "b\n"})
    pack.save("a.py", File("a2\n"))
    again = Pack(pack.entries, 10_000, estimate)
    assert (again.text, again.tokens, again.superseded) == (
        pack.text,
        pack.tokens,
        pack.superseded,
    )
    again.save("a.py", File("a3\n"))
    pack.save("a.py", File("a3\n"))
    assert again.text == pack.text


_NAMES = st.sampled_from(["a.py", "b.py", "c/d.py", "e.md"])
_TEXTS = st.text(alphabet="xy`# \n", max_size=40)
_EDITS = st.lists(st.tuples(_NAMES, st.none() | _TEXTS), max_size=30)


@given(files=st.dictionaries(_NAMES, _TEXTS), edits=_EDITS)
def test_after_any_history_the_last_sections_are_the_tree(
    files: dict[str, str], edits: list[tuple[str, str | None]]
) -> None:
    pack = build(files)
    tree = dict(files)
    for path, text in edits:
        before = pack.entries[:-1], pack.text
        if text is None:
            tree.pop(path, None)
            pack.remove(path)
        else:
            tree[path] = text
            pack.save(path, File(text))
        assert list(pack.entries[: len(before[0])]) == list(before[0]), "only the end may change"
    assert pack.shown() == set(tree)
    assert all(pack.holds(path, File(text).digest) for path, text in tree.items())
    whole = {
        path: text if text.endswith("\n") or not text else f"{text}\n"
        for path, text in tree.items()
    }
    assert current(pack.text) == whole
    assert pack.tokens == sum(entry.tokens for entry in pack.entries)
    assert 0 <= pack.superseded <= pack.tokens


@pytest.mark.parametrize("kind", list(Kind))
def test_kinds_are_kept_by_their_words(kind: Kind) -> None:
    assert Kind(kind.value) is kind
