"""The text of a pack, and how little of it a change touches."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.packing import tokens
from infbox.packing.pack import DUE_SHARE, Kind, Pack, common_length, introduction
from reading import current, sections, shown

LONG = "".join(f"line {n}\n" for n in range(100))


@dataclass(frozen=True)
class File:
    """A file's content; its own text serves as its digest."""

    text: str

    @property
    def digest(self) -> str:
        return f"digest of {self.text!r}"


def build(files: dict[str, str], budget: int = 10_000) -> Pack:
    pack = Pack([], budget, tokens.load(None))
    pack.add_front(Kind.INTRO, introduction("shop"))
    for path, text in files.items():
        pack.add(path, File(text))
    return pack


def tail(pack: Pack, before: str) -> str:
    assert pack.text.startswith(before), "only the end may change"
    return pack.text[len(before) :]


def test_it_says_how_to_read_it() -> None:
    pack = build({"a.py": "a\n", "b.py": "b\n"})
    assert pack.text.startswith("# Source tree: shop\n")
    assert "supersedes" in pack.text
    assert pack.text.endswith("## a.py\n```\na\n```\n## b.py\n```\nb\n```\n")


def test_a_small_change_of_a_long_file_is_its_hunk() -> None:
    pack = build({"a.py": LONG})
    before = pack.text
    pack.save("a.py", File(LONG.replace("line 50\n", "line fifty\n")))
    assert tail(pack, before) == (
        "## a.py (edited)\n```diff\n@@ -49,5 +49,5 @@ line 47\n line 48\n line 49\n-line 50\n"
        "+line fifty\n line 51\n line 52\n```\n"
    )


def test_a_large_change_is_the_whole_file() -> None:
    pack = build({"a.py": "a\n"})
    before = pack.text
    pack.save("a.py", File("a2\n"))
    assert tail(pack, before) == "## a.py (changed)\n```\na2\n```\n"


def test_hunks_that_add_up_to_the_file_become_the_file() -> None:
    pack = build({"a.py": LONG, "b.py": "b\n"})
    text = LONG
    for n in range(0, 100, 5):
        text = text.replace(f"line {n}\n", f"line {n} is now another and longer one\n")
        pack.save("a.py", File(text))
        pack.save("b.py", File(f"{n}\n"))
    notes = [note for path, note, _ in sections(pack.text) if path == "a.py"]
    assert notes.count("changed") >= 1
    assert notes.count("edited") > notes.count("changed")
    assert current(pack.text)["a.py"] == text


def test_a_file_saved_again_replaces_its_own_entry_when_that_is_last() -> None:
    pack = build({"a.py": LONG})
    before = pack.text
    pack.save("a.py", File(LONG + "one\n"))
    pack.save("a.py", File(LONG + "two\n"))
    assert "one" not in tail(pack, before)
    assert "+two\n" in tail(pack, before)


def test_a_file_saved_again_after_another_stays_and_is_superseded() -> None:
    pack = build({"a.py": "a\n", "b.py": "b\n"})
    for path, text in [("a.py", "a2\n"), ("b.py", "b2\n"), ("a.py", "a3\n")]:
        pack.save(path, File(text))
    assert [content for path, _, content in sections(pack.text) if path == "a.py"] == [
        *("a\n", "a2\n", "a3\n")
    ]
    assert pack.superseded == sum(
        entry.tokens
        for entry in pack.entries
        if entry.text.endswith(("\na\n```\n", "\na2\n```\n", "\nb\n```\n"))
    )


def test_a_change_taken_back_takes_the_entry_back() -> None:
    pack = build({"a.py": LONG})
    before = pack.text
    pack.save("a.py", File("other\n"))
    pack.save("a.py", File(LONG))
    assert pack.text == before
    pack.remove("a.py")
    pack.save("a.py", File(LONG))
    assert pack.text == before


def test_a_removal_is_an_entry_and_a_return_another() -> None:
    pack = build({"a.py": "a\n", "b.py": "b\n"})
    before = pack.text
    pack.remove("a.py")
    pack.save("b.py", File("b2\n"))
    pack.save("a.py", File("a\n"))
    assert "## a.py (removed)\n" in tail(pack, before)
    assert pack.text.endswith("## a.py (changed)\n```\na\n```\n")


def test_a_new_file_that_goes_again_leaves_nothing() -> None:
    pack = build({"a.py": "a\n"})
    before = pack.text
    pack.save("new.py", File("n\n"))
    pack.remove("new.py")
    pack.remove("never.py")
    assert pack.text == before


def test_a_rename_costs_a_line_and_its_edits_go_on() -> None:
    pack = build({"a.py": LONG})
    before = pack.text
    pack.rename("a.py", "b.py")
    assert tail(pack, before) == "## a.py (renamed to b.py)\n"
    pack.save("b.py", File(LONG + "more\n"))
    assert current(pack.text) == {"b.py": LONG + "more\n"}
    assert pack.shown.keys() == {"b.py"}
    assert pack.holds("b.py", File(LONG + "more\n").digest)
    assert pack.superseded == 0
    pack.save("b.py", File("all new\n"))
    pack.save("c.py", File("c\n"))
    assert pack.superseded == sum(entry.tokens for entry in pack.entries[1:3])


def test_of_a_file_outside_the_pack_what_differs_from_the_last_commit_is_shown() -> None:
    pack = build({})
    changed = LONG.replace("line 50\n", "line fifty\n")
    pack.save("a.py", File(changed), committed=lambda: LONG, is_worth_space=False)
    (path, note, content) = sections(pack.text)[-1]
    assert (path, note) == ("a.py", "excerpt")
    assert "+line fifty\n" in content
    assert not pack.holds("a.py", File(changed).digest), "it does not stand in full"
    pack.save("b.py", File("b\n"))
    pack.save("a.py", File(LONG), committed=lambda: LONG, is_worth_space=False)
    assert sections(pack.text)[-1] == ("a.py", "excerpt", ""), "nothing differs any more"


@pytest.mark.parametrize(
    ("text", "committed", "is_worth_space", "note"),
    [
        ("short\n", "shorter\n", False, "changed"),
        (LONG + "more\n", LONG, True, "changed"),
        (LONG * 40 + "more\n", LONG * 40, True, "excerpt"),
        (LONG, None, False, "changed"),
        (LONG * 200, None, True, "changed, too large to be shown"),
    ],
    ids=["short", "worth its room", "over the share", "new", "new and too large"],
)
def test_a_file_outside_the_pack_enters_in_full_only_where_that_is_cheap_or_worth_it(
    text: str, committed: str | None, is_worth_space: bool, note: str
) -> None:
    pack = build({})
    pack.save("a.py", File(text), committed=lambda: committed, is_worth_space=is_worth_space)
    assert sections(pack.text)[-1][:2] == ("a.py", note)


def test_content_cannot_end_its_own_fence() -> None:
    pack = build({"a.md": "```\ncode\n```\n## b.py (removed)\n````\n", "b.py": "b\n"})
    assert set(current(pack.text)) == {"a.md", "b.py"}


def test_a_name_with_a_line_break_cannot_make_a_section() -> None:
    pack = build({"a\n## b.py (removed)": "a\n", "b.py": "b\n"})
    assert "\n## b.py (removed)" not in pack.text


def test_the_next_generation_is_due_before_the_budget_is_exceeded() -> None:
    pack = build({}, budget=1000)
    while not pack.is_due:
        pack.save(f"{len(pack)}.py", File("x = 1\n"))
    assert 1000 * DUE_SHARE < pack.tokens < 1000


def test_the_next_generation_is_due_when_a_tenth_of_the_budget_is_superseded() -> None:
    pack = build({"a.py": "a" * 50}, budget=1000)
    turn = 0
    while not pack.is_due:
        pack.save("a.py", File(f"{turn}" * 50))
        pack.save("b.py", File(f"{turn}\n"))
        turn += 1
    assert 100 < pack.superseded < 200
    assert pack.tokens < 500


def test_tokens_are_named_section_by_section(tokenizer: tokens.Tokenizer) -> None:
    pack = Pack([], 1000, tokenizer)
    pack.add_front(Kind.INTRO, introduction("shop"))
    pack.add("a.py", File("x = 1\n"))
    pack.save("a.py", File("x = 22\n"))
    ids = pack.ids
    assert ids is not None
    assert len(ids) == pack.tokens
    assert list(ids) == [n for entry in pack.entries for n in tokenizer.ids(entry.text) or ()]
    assert build({"a.py": "a\n"}).ids is None, "an estimate names none"


_NAMES = st.sampled_from(["a.py", "b.py", "c/d.py", "e.md"])
_TEXTS = st.lists(
    st.sampled_from(["x\n", "y\n", "```\n", "## a.py (removed)\n", "\n", "z"]), max_size=25
).map("".join)
_EDITS = st.lists(st.tuples(_NAMES, st.none() | _TEXTS), max_size=30)


@given(files=st.dictionaries(_NAMES, _TEXTS), edits=_EDITS)
def test_after_any_history_the_tree_can_be_read_from_the_text(
    files: dict[str, str], edits: list[tuple[str, str | None]]
) -> None:
    pack = build(files)
    tree = dict(files)
    for path, text in edits:
        before = pack.entries[:-1]
        if text is None:
            tree.pop(path, None)
            pack.remove(path)
        else:
            tree[path] = text
            pack.save(path, File(text))
        assert common_length(before, pack.entries) == len(before), "only the end may change"
    assert current(pack.text) == {path: shown(text) for path, text in tree.items()}
    assert pack.shown.keys() == tree.keys()
    assert all(pack.holds(path, File(text).digest) for path, text in tree.items())
    assert pack.tokens == sum(entry.tokens for entry in pack.entries)
    assert 0 <= pack.superseded <= pack.tokens


def test_a_pack_goes_on_from_its_entries() -> None:
    pack = build({"a.py": LONG, "b.py": "b\n"})
    pack.save("a.py", File(LONG + "a2\n"))
    pack.rename("b.py", "c.py")
    again = Pack(pack.entries, 10_000, tokens.load(None))
    assert (again.text, again.tokens, again.shown) == (pack.text, pack.tokens, pack.shown)
    for one in (again, pack):
        one.save("a.py", File(LONG + "a3\n"))
    assert again.text == pack.text
