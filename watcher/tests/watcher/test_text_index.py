"""The text index of a workspace follows the watcher's index, and never shows what that does not."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from infbox.retrieval import texts
from infbox.retrieval.kept import KeptTexts
from infbox.retrieval.texts import Texts, Weights
from infbox.tree.files import Tree
from infbox.watcher import text_index
from infbox.watcher.text_index import TextIndex, TextThread
from infbox.watching import index
from infbox.watching.index import Index, Row
from serving import until


class Shop:
    """A tree whose index is written by hand, as a follower would."""

    def __init__(self, folder: Path) -> None:
        self.root, self.state = folder / "shop", folder / "state"
        self.root.mkdir()
        self.index = Index(index.place(self.state, "shop"))
        self.tree = Tree(self.root)
        with self.index.transaction():
            self.index.keep(policy=self.tree.policy)
        self.keeper = self.opened()

    def opened(self) -> TextIndex:
        files = texts.place(self.state, "shop"), index.place(self.state, "shop")
        return TextIndex(*files, Tree(self.root))

    def save(self, path: str, text: str, refused: str | None = None) -> None:
        (self.root / path).write_text(text)
        content = self.tree.fetch(path)
        row = Row(len(text), 1, 1, content.digest, refused, self.index.next_edit(), 0.0)
        self.index.write_one(path, row)

    def forget(self, path: str) -> None:
        with self.index.transaction():
            self.index.write({}, [path])

    def keep(self) -> None:
        while self.keeper.step():
            pass

    def found(self, word: str) -> list[str]:
        with contextlib.closing(KeptTexts(self.state, "shop")) as kept:
            found = kept.texts()
            ids = [id_ for id_, _ in found.matching([word], 10, Weights())]
            paths = [place.path for place in found.places(ids).values()]
            return [path for path in paths if path in kept.current(paths)]

    def on_disk(self, text: bytes) -> bool:
        file = texts.place(self.state, "shop")
        return any(text in part.read_bytes() for part in file.parent.glob(f"{file.name}*"))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(text_index, "AT_ONCE", 50)
    return Shop(tmp_path)


def test_a_save_is_found_and_what_it_replaced_is_not(shop: Shop) -> None:
    shop.save("a.py", "def backlog(): return 1\n")
    shop.keep()
    assert shop.found("backlog") == ["a.py"]
    shop.save("a.py", "def queue(): return 1\n")
    shop.keep()
    assert (shop.found("backlog"), shop.found("queue")) == ([], ["a.py"])


def test_many_files_are_taken_in_over_several_steps(shop: Shop) -> None:
    for number in range(120):
        shop.save(f"f{number}.py", f"def common_{number}(): return backlog\n")
    assert shop.keeper.step(), "there is more to do"
    shop.keep()
    with contextlib.closing(Texts(texts.place(shop.state, "shop"), is_read_only=True)) as found:
        assert len(found.digests()) == 120


def test_no_more_is_read_at_once_than_memory_is_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "BYTES_AT_ONCE", 1000)
    for number in range(6):
        shop.save(f"f{number}.py", f"def common_{number}(): return 1\n" + "#\n" * 300)
    for there in (2, 4, 6):
        shop.keeper.step()
        with contextlib.closing(Texts(texts.place(shop.state, "shop"), is_read_only=True)) as found:
            assert len(found.digests()) == there
    assert not shop.keeper.step()


def test_a_first_index_compares_once_and_notices_what_goes_meanwhile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(170):
        shop.save(f"f{number:03}.py", f"def common_{number}(): return backlog\n")
    compared: list[int] = []
    differences = Texts.differences

    def counted(texts: Texts, file: Path) -> tuple[list[str], dict[str, str]]:
        found = differences(texts, file)
        compared.append(len(found[1]))
        return found

    monkeypatch.setattr(Texts, "differences", counted)
    assert shop.keeper.step()
    assert shop.keeper.step()
    assert compared == [170]
    shop.forget("f000.py")
    assert shop.keeper.step()
    assert compared == [170, 70]
    with contextlib.closing(Texts(texts.place(shop.state, "shop"), is_read_only=True)) as found:
        assert sorted(found.digests()) == [f"f{number:03}.py" for number in range(1, 150)]


def test_a_first_index_is_merged_at_its_end_also_after_it_was_broken_off(shop: Shop) -> None:
    for number in range(170):
        shop.save(f"f{number:03}.py", f"def common_{number}(): return backlog\n")

    def asked(statement: str) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(texts.place(shop.state, "shop"))) as database:
            return database.execute(statement).fetchall()

    segments = "SELECT count(DISTINCT segid) FROM words_idx"
    settings = "SELECT k, v FROM words_config WHERE k IN ('automerge', 'crisismerge') ORDER BY k"
    assert shop.keeper.step()
    assert shop.keeper.step()
    assert asked(segments) != [(1,)]
    shop.keeper.close()
    shop.keeper = shop.opened()
    shop.keep()
    assert asked(segments) == [(1,)]
    assert asked(settings) == [("automerge", 4), ("crisismerge", 16)]


def test_what_could_not_be_read_is_tried_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        shop.save(f"f{number:02}.py", f"def common_{number}(): return backlog\n")
    assert shop.keeper.step()

    def away(*_: object) -> None:
        raise OSError("away")

    with monkeypatch.context() as patched:
        patched.setattr(Tree, "readable", away)
        with pytest.raises(OSError, match="away"):
            shop.keeper.step()
    shop.keep()
    assert shop.found("common_59") == ["f59.py"]


def test_a_file_that_was_another_for_a_moment_is_found_again(shop: Shop) -> None:
    shop.save("a.py", "def backlog(): return 1\n")
    (shop.root / "a.py").write_text("")  # as an editor does before it writes
    shop.keep()
    assert shop.found("backlog") == []
    (shop.root / "a.py").write_text("def backlog(): return 1\n")
    shop.keep()
    assert shop.found("backlog") == ["a.py"]


def test_what_was_skipped_is_tried_again_without_another_save(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "SKIPPED_SECONDS", 0.05)
    shop.save("a.py", "def backlog(): return 1\n")
    (shop.root / "a.py").write_text("")
    thread = TextThread("shop", shop.keeper)
    thread.start()
    try:
        thread.mark()
        until(lambda: texts.place(shop.state, "shop").exists() and not thread._marked.is_set())
        time.sleep(0.2)
        (shop.root / "a.py").write_text("def backlog(): return 1\n")
        until(lambda: shop.found("backlog") == ["a.py"])
    finally:
        thread.close(time.monotonic() + 5)


def test_what_becomes_secret_between_two_steps_leaves_with_the_next(shop: Shop) -> None:
    for number in range(120):
        shop.save(f"f{number:03}.py", f"def common_{number}(): return backlog\n")
    assert shop.keeper.step()
    shop.save("f000.py", "def wanderlust(): return 1\n", refused="secret")
    assert shop.keeper.step(), "there is more to do"
    with contextlib.closing(Texts(texts.place(shop.state, "shop"), is_read_only=True)) as found:
        assert "f000.py" not in found.digests()
    shop.keep()


@pytest.mark.parametrize("is_refused", [True, False])
def test_what_must_not_be_shown_leaves_at_once_and_the_disk_too(
    shop: Shop, is_refused: bool
) -> None:
    shop.save("a.py", "def wanderlust(): return 1\n")
    shop.save("b.py", "def other(): return 1\n")
    shop.keep()
    if is_refused:
        shop.save("a.py", "def wanderlust(): return 2\n", refused="secret")
    else:
        shop.forget("a.py")
    assert shop.found("wanderlust") == [], "before the text index followed"
    shop.keep()
    assert shop.found("other") == ["b.py"]
    assert not shop.on_disk(b"wanderlust")


def test_what_other_rules_let_in_is_judged_anew(shop: Shop) -> None:
    shop.save("a.py", "def backlog(): return 1\n")
    shop.keep()
    shop.keeper.close()
    with contextlib.closing(Texts(texts.place(shop.state, "shop"))) as kept:
        kept.begin("older rules")
        content = shop.tree.readable("a.py")
        assert content
        kept.put("gone.py", content)
    shop.keeper = shop.opened()
    shop.keep()
    assert shop.found("backlog") == ["a.py"]


def test_a_damaged_one_is_begun_anew(shop: Shop) -> None:
    shop.save("a.py", "def backlog(): return 1\n")
    shop.keep()
    shop.keeper.close()
    texts.place(shop.state, "shop").write_bytes(b"no database" * 1000)
    shop.keeper = shop.opened()
    shop.keep()
    assert shop.found("backlog") == ["a.py"]


def test_readers_cannot_write(shop: Shop) -> None:
    shop.keep()
    found = Texts(texts.place(shop.state, "shop"), is_read_only=True)
    with contextlib.closing(found), pytest.raises(sqlite3.OperationalError):
        found.begin("other rules")
