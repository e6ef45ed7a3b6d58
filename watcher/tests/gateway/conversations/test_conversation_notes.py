"""What a conversation is told: with its pack it reads as the files are now."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversing import Workspace
from infbox.gateway.conversations.notes import MOST_NAMES, MOST_TOKENS, Note, Own, known, note
from infbox.packing.published import Pack, PackFile
from reading import current, gone

ALL = 1_000_000


def published(shop: Workspace) -> Pack:
    pack = PackFile(shop.folder / "state" / "packs" / "shop" / "pack.json").current()
    assert pack is not None
    return pack


class Reader:
    """A conversation that was begun with a workspace's pack."""

    def __init__(self, shop: Workspace) -> None:
        self.shop = shop
        self.kept = published(shop)
        self.told: list[Note] = []
        self.items: list[dict[str, Any]] = []

    def tell(self, most: int = ALL) -> Note | None:
        shows = known(self.kept.about, self.told)
        own = Own(self.items, self.kept, self.told)
        told = note(shows, self.told, published(self.shop), own, most)
        self.told += [told] if told else []
        return told

    @property
    def text(self) -> str:
        """All that it can read, in order."""
        notes = (told.text for told in self.told)
        sections = (text[text.index("\n## ") + 1 :] for text in notes if "\n## " in text)
        bare = (
            text.partition("Changed too,")[0].partition("</source-tree")[0] for text in sections
        )
        return self.kept.text.decode() + "".join(bare)


@pytest.fixture
def shop(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_nothing_is_told_where_nothing_changed(shop: Workspace) -> None:
    assert Reader(shop).tell() is None


def test_a_file_that_was_saved_again_and_again_is_told_by_what_changed(shop: Workspace) -> None:
    shop.add_line("file_1.py", "first = 1")
    reader = Reader(shop)
    for number in range(3):  # each takes the place of the one before it in the pack
        shop.add_line("file_1.py", f"again = {number}")
        told = reader.tell()
        assert told is not None
        assert told.tokens < 250, "not the whole file"
        assert current(reader.text)["file_1.py"] == shop.files["file_1.py"]


def test_a_renamed_and_a_removed_file_are_told_in_a_line(shop: Workspace) -> None:
    reader = Reader(shop)
    shop.rename("file_1.py", "new.py")
    shop.remove("file_2.py")
    told = reader.tell()
    assert told is not None
    assert "## file_1.py (renamed to new.py)\n" in told.text
    assert "## file_2.py (removed)\n" in told.text
    assert len(told.text) < 400
    assert {"file_1.py", "file_2.py"} <= gone(reader.text)
    assert reader.tell() is None


def test_what_the_next_generation_shows_no_more_is_told_by_name(shop: Workspace) -> None:
    reader = Reader(shop)
    shop.add_line("file_1.py", "x = 1")
    shop.begin("file_0.py", "file_2.py")
    told = reader.tell()
    assert told is not None
    assert "Changed too, without being shown here: file_1.py.\n" in told.text
    assert reader.tell() is None, "once"
    shop.add_line("file_1.py", "y = 2")
    again = reader.tell()
    assert again is not None
    assert "file_1.py" in again.text
    assert "file_3.py" not in again.text, "it is not shown any more, and is what it was"


def test_what_a_new_generation_shows_anew_is_told_by_what_differs(shop: Workspace) -> None:
    shop.add_line("file_1.py", "first = 1")
    reader = Reader(shop)
    shop.add_line("file_1.py", "second = 2")
    reader.tell()
    shop.add_line("file_1.py", "third = 3")
    shop.begin()
    told = reader.tell()
    assert told is not None
    assert told.tokens < 250, "not the whole file"
    assert current(reader.text)["file_1.py"] == shop.files["file_1.py"]


def test_a_note_has_a_budget_and_the_newest_come_first(shop: Workspace) -> None:
    reader = Reader(shop)
    for number in range(6):
        shop.save(f"file_{number}.py", f"another = {number}\n" * 100)
    told = reader.tell(1000)
    assert told is not None
    assert told.tokens <= 1000 + 3 * 12, "names come on top"
    shown = [path for path, *_ in told.shown]
    assert shown == ["file_5.py", "file_4.py", "file_3.py"]
    assert "being shown here: file_2.py, file_1.py, file_0.py.\n" in told.text
    assert reader.tell(20) is None


def test_many_files_are_not_all_named(shop: Workspace) -> None:
    for number in range(MOST_NAMES + 10):
        shop.files[f"small_{number}.py"] = "x\n"
    shop.begin()
    reader = Reader(shop)
    for number in range(MOST_NAMES + 10):
        shop.save(f"small_{number}.py", f"y = {number}\n" * 30)
    told = reader.tell(300)
    assert told is not None
    assert " and " in told.text
    assert told.text.count("small_") <= MOST_NAMES + 4


EDIT = {
    "role": "assistant",
    "tool_calls": [
        {
            "function": {
                "name": "edit",
                "arguments": '{"path": "x/file_1.py", "new": "def mine():\\n    return 42\\n"}',
            }
        }
    ],
}
USE = {
    "role": "assistant",
    "content": [
        {
            "type": "tool_use",
            "name": "Edit",
            "input": {
                "file_path": "/home/ann/file_1.py",
                "new_string": "def mine():\n    return 42",
            },
        }
    ],
}
RESULT = {"role": "tool", "content": "wrote file_1.py:\n   151→def mine():\n   152→    return 42"}


@pytest.mark.parametrize("item", [EDIT, USE, RESULT])
def test_what_the_conversation_wrote_itself_is_not_told(
    shop: Workspace, item: dict[str, Any]
) -> None:
    reader = Reader(shop)
    reader.items = [item]
    shop.add_line("file_1.py", "def mine():\n    return 42")
    assert reader.tell() is None
    shop.add_line("file_2.py", "theirs = 1")
    told = reader.tell()
    assert told is not None
    assert "theirs" in told.text
    assert "mine" not in told.text
    shop.add_line("file_1.py", "theirs_too = 2")
    told = reader.tell()
    assert told is not None
    assert "+theirs_too = 2" in told.text


@pytest.mark.parametrize(
    "item",
    [
        {"role": "assistant", "content": "def mine():\n    return 42"},  # of which file?
        {"role": "assistant", "content": "file_1.py:\ndef mine():"},
        {"role": "assistant", "content": "file_1.py:\ndef mine(): return 42"},
    ],
)
def test_what_only_looks_like_it_is_told(shop: Workspace, item: dict[str, Any]) -> None:
    reader = Reader(shop)
    reader.items = [item]
    shop.add_line("file_1.py", "def mine():\n    return 42")
    assert reader.tell() is not None


def test_another_one_s_change_in_the_same_save_is_told(shop: Workspace) -> None:
    reader = Reader(shop)
    reader.items = [EDIT]
    shop.add_line("file_1.py", "def mine():\n    return 42\ntheirs = 1")
    told = reader.tell()
    assert told is not None
    assert "+theirs = 1" in told.text


def test_its_own_change_of_a_file_that_the_pack_shows_edited_is_not_told(shop: Workspace) -> None:
    shop.add_line("file_1.py", "before_it_began = 1")
    reader = Reader(shop)
    reader.items = [EDIT]
    shop.add_line("file_1.py", "def mine():\n    return 42")
    assert reader.tell() is None


_NAMES = st.sampled_from([f"file_{n}.py" for n in range(8)] + ["a.py", "b.py"])
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _NAMES, st.integers(0, 3)),
        st.tuples(st.just("add"), _NAMES, st.integers(0, 3)),
        st.tuples(st.just("rewrite"), _NAMES, st.integers(0, 40)),
        st.tuples(st.just("remove"), _NAMES, st.just(0)),
        st.tuples(st.just("rename"), _NAMES, _NAMES),
        st.tuples(st.just("generation"), st.integers(1, 8), st.just(0)),
        st.tuples(st.just("tell"), st.sampled_from([200, MOST_TOKENS, ALL]), st.just(0)),
        st.tuples(st.just("tell"), st.sampled_from([200, MOST_TOKENS, ALL]), st.just(0)),
    ),
    min_size=8,
    max_size=25,
)


def change(shop: Workspace, number: int, kind: str, path: str, how: Any) -> None:
    is_shown = path in shop.files and shop.pack.holds(path, shop.pack.stands(path))
    if kind == "add" and path in shop.files:
        shop.add_line(path, f"added_{number} = {how}")
    elif kind == "rewrite":
        shop.save(path, f"rewritten_{number} = 0\n" * how)
    elif kind == "remove" and is_shown:
        shop.remove(path)
    elif kind == "rename" and is_shown and how not in shop.files and not shop.pack.stands(how):
        shop.rename(path, how)


@given(before=_STEPS, after=_STEPS)
def test_a_pack_and_what_was_told_read_as_the_files_are_now(
    tmp_path_factory: pytest.TempPathFactory, before: list[Any], after: list[Any]
) -> None:
    shop = Workspace(tmp_path_factory.mktemp("world"))
    numbers = itertools.count()
    for kind, one, other in before:
        if kind not in ("generation", "tell"):
            change(shop, next(numbers), kind, one, other)
    reader = Reader(shop)
    for kind, one, other in [*after, ("tell", ALL, 0)]:
        if kind == "generation":
            shop.begin(*sorted(shop.files)[:one])
        elif kind == "tell":
            reader.tell(one)
            check(shop, reader)
        else:
            change(shop, next(numbers), kind, one, other)


def check(shop: Workspace, reader: Reader) -> None:
    named = {path for told in reader.told for path, _ in told.named}
    read, absent = current(reader.text), gone(reader.text)
    for path, text in read.items():
        if path not in named:
            assert text == shop.files.get(path), path
    for path in absent - named:
        assert path not in shop.files
