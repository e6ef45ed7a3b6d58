"""What is kept of conversations, and what is forgotten."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from infbox.gateway.conversations import records
from infbox.gateway.conversations.deciding import is_erased
from infbox.gateway.conversations.notes import Note
from infbox.gateway.conversations.records import Node, Records
from infbox.gateway.conversations.service import Conversations
from infbox.packing.published import About, Pack

NOTE = Note("what_changed = 1\n" * 50, 20, (("a.py", "d1", "d1"),), (("b.py", "d2"),))
FOUND = Note("what_was_found = 1\n" * 50, 20, found=(("c.py", "d3", 1, 9),))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "conversations" / "conversations.db"


@pytest.fixture
def store(file: Path) -> Iterator[Records]:
    opened = records.opened(file)
    yield opened
    opened.close()


def pack(version: int, *paths: str, epoch: str = "e", size: int = 2000) -> Pack:
    text = f"shown_by_{version}_".encode() * (size // 11)
    about = tuple(About("base", path, f"{path}-{version}") for path in paths or ("a.py",))
    ends = tuple((len(text), 100) for _ in about)
    return Pack(1, version, 100, f"sha-{version}", b"", text, ends, about, epoch)


def begin(store: Records, shown: Pack, now: float = 1.0, key: bytes = b"k") -> records.Record:
    with store.transaction():
        record = store.begin(shown, "shop", now)
        store.keep({key: Node(record.number, now, continued=False)})
    store.keep_pack(shown, "shop")
    return record


def on_disk(file: Path) -> bytes:
    return b"".join(part.read_bytes() for part in file.parent.iterdir())


def test_a_pack_comes_back_as_it_was_but_for_its_plain_text(store: Records) -> None:
    shown = pack(1, "a.py", "ünï.py")
    begin(store, shown)
    assert store.pack("sha-1") == shown
    assert store.pack("sha-2") is None
    assert store.has_pack("sha-1")


@pytest.mark.parametrize("count", [1, 5, 6, 7, 205, 206, 207, 500])
def test_the_longest_known_beginning_is_found_wherever_it_ends(store: Records, count: int) -> None:
    keys = [n.to_bytes(2, "big") for n in range(count)]
    record = store.begin(pack(1), "shop", 1.0)
    assert store.longest(keys) == (0, None)
    for known in sorted({1, count // 2, count - 6, count - 1, count} & set(range(1, count + 1))):
        node = Node(record.number, float(known), continued=False)
        store.keep({keys[known - 1]: node})
        assert store.longest(keys) == (known, node)
    assert store.longest([]) == (0, None)


def test_a_record_is_what_it_was_for_a_beginning(store: Records) -> None:
    root = begin(store, pack(1))
    one = store.tell(root, 3, 7, NOTE)
    two = store.tell(one, 9, 8, NOTE)
    assert store.record(two.number, 99) == two
    assert store.record(two.number, 10) == two
    assert store.record(two.number, 9) == one
    assert store.record(two.number, 3) == root
    assert store.record(12345, 9) is None
    store.set_front(two, 50)
    found = store.record(one.number, 99)
    assert found is not None
    assert found.front == 50


def test_what_was_not_used_for_long_is_forgotten_with_all_that_it_alone_needs(
    store: Records, file: Path
) -> None:
    begin(store, pack(1), now=10.0, key=b"old")
    record = begin(store, pack(2), now=20.0, key=b"new")
    told = store.tell(record, 3, 7, NOTE)
    store.keep({b"newer": Node(told.number, 30.0, continued=False)})
    store.evict(15.0, 10**9)
    assert store.longest([b"old"]) == (0, None)
    assert not store.has_pack("sha-1")
    assert store.has_pack("sha-2")
    store.evict(25.0, 10**9)
    assert store.record(told.number, 99) == told, "the record that it was made from stays"
    assert b"shown_by_1_" not in on_disk(file)


def test_no_more_is_kept_than_there_is_space_for_the_oldest_going_first(store: Records) -> None:
    for number in range(40):
        shown = pack(number)
        shown = Pack(**{**vars(shown), "encoded": os.urandom(40_000)})  # which cannot be packed
        begin(store, shown, now=float(number), key=f"k{number}".encode())
    assert store.size > 400_000
    store.evict(0.0, 300_000)
    assert store.size <= 300_000
    assert store.longest([b"k0"]) == (0, None)
    assert store.longest([b"k39"])[0] == 1
    assert store.has_pack("sha-39")


def test_what_must_not_be_shown_leaves_nothing_on_the_disk(
    store: Records, file: Path, tmp_path: Path
) -> None:
    begin(store, pack(1, "secret.py"), key=b"one")
    fine = begin(store, pack(2, "a.py"), key=b"two")
    told = store.tell(fine, 3, 3, Note("a_secret = 'told'\n" * 9, 9, (("secret.py", "d", ""),)))
    store.keep({b"three": Node(told.number, 1.0, continued=False)})
    assert b"a_secret" in on_disk(file)
    conversations = Conversations(file, 10**9, file.parent, lambda: 2.0)
    present = pack(9, "a.py")
    conversations._tidy({"shop": present})
    assert store.has_pack("sha-1")
    present = Pack(**{**vars(present), "withdrawn": {"secret.py": 4}})
    conversations._tidy({"shop": present})
    assert not store.has_pack("sha-1")
    assert store.longest([b"one"]) == store.longest([b"three"]) == (0, None)
    assert store.longest([b"two"])[0] == 1
    assert store.has_pack("sha-2")
    assert b"a_secret" not in on_disk(file)
    assert b"shown_by_1_" not in on_disk(file)


@pytest.mark.parametrize(
    ("present", "erased"),
    [
        (pack(5, "a.py"), False),
        (pack(5, "a.py", epoch="other"), True),
        (pack(3, "a.py"), True),  # it was set back
        (Pack(**{**vars(pack(5)), "withdrawn": {"a.py": 5}}), True),
        (Pack(**{**vars(pack(5)), "withdrawn": {"a.py": 4}}), False),  # which it knew already
        (Pack(**{**vars(pack(5)), "withdrawn": {"b.py": 5}}), False),
    ],
)
def test_an_earlier_pack_may_be_used_only_where_it_is_known_to_show_nothing_amiss(
    present: Pack, erased: bool
) -> None:
    assert is_erased(pack(4, "a.py"), present) is erased


def test_the_old_path_of_a_renamed_file_counts_too() -> None:
    shown = Pack(**{**vars(pack(4)), "about": (About("renamed", "new.py", "d", "old.py"),)})
    assert is_erased(shown, Pack(**{**vars(pack(5)), "withdrawn": {"old.py": 5}}))


def test_a_file_of_another_version_is_begun_anew(file: Path) -> None:
    records.opened(file).close()
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 99")
    opened = records.opened(file)
    assert opened.longest([b"x"]) == (0, None)
    opened.close()


def test_a_file_of_the_version_before_goes_on(file: Path) -> None:
    store = records.opened(file)
    begin(store, pack(1))
    store.close()
    with sqlite3.connect(file) as database:
        database.executescript("DROP TABLE found; PRAGMA user_version = 1;")
    opened = records.opened(file)
    length, node = opened.longest([b"k"])
    assert length == 1
    assert node is not None
    record = opened.record(node.record, 1)
    assert record is not None
    assert opened.tell(record, 1, 1, FOUND).notes == ((1, 1, FOUND),)
    opened.close()


def test_what_was_found_is_left_out_and_what_changed_stays(store: Records) -> None:
    record = begin(store, pack(1))
    for place, note in enumerate((NOTE, FOUND, NOTE), start=1):
        record = store.tell(record, place, 1, note)
    store.keep({b"last": Node(record.number, 1.0, continued=False)})
    without = store.without_found(record)
    _, node = store.longest([b"last"])
    assert node is not None
    assert node.record == without.number
    assert store.record(without.number, 9) == without
    assert [note for _, _, note in without.notes] == [NOTE, NOTE]
    assert store.record(record.number, 9) == record, "of which others may have gone on"


def test_what_was_found_in_a_file_that_must_not_be_shown_is_forgotten(
    store: Records, file: Path
) -> None:
    record = begin(store, pack(1))
    told = store.tell(record, 1, 1, FOUND)
    store.keep({b"found": Node(told.number, 1.0, continued=False)})
    assert store.forget_found(lambda _, paths: paths) == 0
    assert store.forget_found(lambda _, __: ["other.py"]) == 1
    assert store.longest([b"found"]) == (0, None)
    assert store.longest([b"k"])[0] == 1
    assert b"what_was_found" not in on_disk(file)
    assert store.forget_found(lambda _, __: []) == 0, "it is not looked for again"
