"""What must not be shown any more leaves the pack, its store, and LMCache."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_overlay_packer import Pair
from test_packer import BUDGET, Shop, lines, now

from infbox.packing import store
from infbox.packing.erasure.cached_chunks import CachedChunks, hashes
from infbox.packing.packer import Packer
from infbox.packing.published import PackFile
from infbox.tree import rules
from infbox.tree.records import Row
from reading import sections
from trees import fill

if TYPE_CHECKING:
    from infbox.packing.tokens import Tokenizer

MARK = "only-in-this-file"


@pytest.fixture
def shop(repo: Path) -> Iterator[Shop]:
    shop = Shop(repo)
    yield shop
    shop.close()


@pytest.fixture
def pair(repo: Path, tmp_path: Path) -> Iterator[Pair]:
    root = tmp_path / "anna" / "tree"
    root.mkdir(parents=True)
    pair = Pair(Shop(repo), Shop(root))
    yield pair
    for shop in (pair.base, pair.mine):
        shop.close()


def on_disk(shop: Shop, text: str) -> list[str]:
    """Return the files of the state that hold a text, in the bytes that they have."""
    found = [file for file in shop.state.rglob("*") if file.is_file()]
    return sorted(file.name for file in found if text.encode() in file.read_bytes())


def ignore(shop: Shop, path: str, where: str = ".gitignore") -> None:
    fill(shop.root, {where: f"{path}\n"})
    shop.tree.refresh()
    shop.look()


def refuse(shop: Shop, path: str) -> None:
    """Have a rule about content refuse a file, as the follower writes it down."""
    edit = shop.index.next_edit()
    with shop.index.transaction():
        shop.index.write({path: Row(1, -1, -1, "d", "secret by content: x, line 1", edit, 0.0)})


@pytest.mark.parametrize("where", [".gitignore", ".infboxignore", ".git/info/exclude", "refused"])
def test_a_file_that_must_not_be_shown_leaves_no_text(shop: Shop, where: str) -> None:
    shop.save(a_py=lines("a"), b_py=lines(MARK), c_py=lines("c"))
    with shop.packer() as packer:
        packer.update()
        shop.save(c_py=lines("c") + "more\n")
        packer.update()
        before = now(packer)
        assert MARK in before.text
        assert "pack.db" in on_disk(shop, MARK) or "pack.db-wal" in on_disk(shop, MARK)
        if where == "refused":
            fill(shop.root, {"b.py": "x\n"})
            refuse(shop, "b.py")
        else:
            ignore(shop, "b.py", where)
        assert packer.update(), "it is published at once"
        assert packer.candidate is None
        after = now(packer)
        assert (after.generation, after.version) == (before.generation + 1, before.version + 1)
        assert "## b.py" not in after.text
        assert on_disk(shop, MARK) == []
        kept = before.text[: before.text.index("## b.py")]
        assert after.text.startswith(kept), "what stood before it is as it was"
        assert {path for path, _, _ in sections(after.text)} >= {"a.py", "c.py"}
        assert shop.published["withdrawn"] == [["b.py", after.version]]
        assert not packer.update(), "once is enough"
    with shop.packer() as packer:
        packer.update()
        assert now(packer).text == after.text


def test_what_a_person_deleted_is_told_and_stays_above(shop: Shop) -> None:
    shop.save(a_py=lines("a"), b_py=lines(MARK))
    with shop.packer() as packer:
        packer.update()
        generation = now(packer).generation
        shop.save(b_py=None)
        packer.update()
        assert now(packer).generation == generation
        assert now(packer).text.endswith("## b.py (removed)\n")
        assert MARK in now(packer).text
        assert shop.published["withdrawn"] == []


def test_a_file_that_is_missing_from_the_index_for_a_moment_is_not_erased(shop: Shop) -> None:
    shop.save(a_py=lines("a"), b_py=lines("b"))
    with shop.packer() as packer:
        packer.update()
        generation = now(packer).generation
        with shop.index.transaction():
            shop.index.write({}, ["b.py"])
        packer.update()
        assert now(packer).generation == generation
        shop.look()
        packer.update()
        assert now(packer).generation == generation


def test_a_map_does_not_name_what_must_not_be_shown(shop: Shop) -> None:
    many = {f"m{n}.py": f"class Named{n}:\n" + lines(f"m{n}", 150) for n in range(20)}
    fill(shop.root, many)
    shop.look()
    with shop.packer() as packer:
        packer.update()
        on_map = re.findall(r"^(m\d+\.py): ", now(packer).text, re.MULTILINE)
        assert on_map
        ignore(shop, on_map[0], ".git/info/exclude")
        assert packer.update()
        assert on_map[0] not in now(packer).text


class TestStricterRules:
    """What was allowed by the rules of before."""

    def _upgrade(self, shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        changed = tmp_path / "rules.py"
        changed.write_text(Path(rules.__file__).read_text() + "\n# another version\n")
        monkeypatch.setattr(rules, "__file__", str(changed))
        ours = rules.Rules._secret

        def stricter(self: rules.Rules, data: bytes, path: str) -> str | None:
            return (
                "secret by content: x, line 1" if MARK.encode() in data else ours(self, data, path)
            )

        monkeypatch.setattr(rules.Rules, "_secret", stricter)
        shop.tree.refresh()

    def test_it_is_erased_though_the_index_is_of_before(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        shop.save(a_py=lines("a"), b_py=lines(MARK), c_py=lines("c"))
        with shop.packer() as packer:
            packer.update()
            epoch = shop.published["epoch"]
        self._upgrade(shop, monkeypatch, tmp_path)
        with shop.packer() as packer:
            assert packer.update()
            assert MARK not in now(packer).text
            assert on_disk(shop, MARK) == []
            assert shop.published["epoch"] != epoch, "no earlier pack is used any more"
            assert not packer.update()

    def test_a_text_of_before_is_erased_though_its_file_is_harmless_by_now(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        shop.save(a_py=lines("a"), b_py=f"{MARK}\n" + lines("b"))
        with shop.packer() as packer:
            packer.update()
            shop.save(b_py=lines("b"))
            packer.update()
            assert MARK in now(packer).text, "as it was, and as a line that went"
        self._upgrade(shop, monkeypatch, tmp_path)
        with shop.packer() as packer:
            assert packer.update()
            assert "## b.py\n" in now(packer).text
            assert on_disk(shop, MARK) == []

    def test_rules_that_refuse_nothing_more_change_nothing(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        shop.save(a_py=lines("a"))
        with shop.packer() as packer:
            packer.update()
            before = now(packer)
        self._upgrade(shop, monkeypatch, tmp_path)
        with shop.packer() as packer:
            packer.update()
            assert (now(packer).text, now(packer).version) == (before.text, before.version)


def test_what_is_cut_off_is_done_by_the_next_start(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.save(a_py=lines("a"), b_py=lines(MARK))
    with shop.packer() as packer:
        packer.update()
        ignore(shop, "b.py")
        with monkeypatch.context() as patched:
            patched.setattr(store.Store, "forget_deleted", _cut_off)
            with pytest.raises(KeyboardInterrupt):
                packer.update()
    with shop.packer() as packer:
        packer.update()
    assert on_disk(shop, MARK) == []


def _cut_off(_store: store.Store) -> None:
    raise KeyboardInterrupt


def test_the_gateway_reads_the_erased_pack_at_once(shop: Shop) -> None:
    shop.save(a_py=lines("a"), b_py=lines(MARK))
    with shop.packer() as packer:
        packer.update()
        file = PackFile(shop.file)
        before = file.current()
        ignore(shop, "b.py")
        packer.update()
        after = file.current()
    assert before
    assert after
    assert MARK.encode() in before.text
    assert MARK.encode() not in after.text
    assert after.withdrawn == {"b.py": after.version}


@contextlib.contextmanager
def no_file_can_be_opened() -> Iterator[None]:
    """Have this process at the limit of its open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open("rb") as highest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno(), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_was_erased_is_gone_though_its_pack_could_not_be_read_at_first(shop: Shop) -> None:
    shop.save(a_py=lines("a"), b_py=lines(MARK))
    with shop.packer() as packer:
        packer.update()
        file = PackFile(shop.file)
        before = file.current()
        ignore(shop, "b.py")
        packer.update()
    with no_file_can_be_opened():
        assert file.current() is before
    after = file.current()
    assert after
    assert MARK.encode() not in after.text


# Overlays


def both(pair: Pair, **files: str | None) -> None:
    pair.base.save(**files)
    pair.mine.save(**files)


def test_an_overlay_follows_its_base(pair: Pair) -> None:
    both(pair, a_py=lines("a"), b_py=lines(MARK), c_py=lines("c"))
    pair.mine.save(b_py=lines("mine"))
    with pair.packers() as (base, over):
        base.update()
        over.update()
        assert MARK in now(over).text, "it begins with the base's pack"
        ignore(pair.base, "b.py")
        base.update()
        assert over.update()
        assert MARK not in now(over).text
        assert on_disk(pair.mine, MARK) == []
        assert "mine 1\n" in now(over).text, "its own is not ignored"
        assert not over.update()


def test_an_overlay_shares_nothing_that_its_own_tree_must_not_show(pair: Pair) -> None:
    both(pair, a_py=lines("a"), b_py=lines(MARK), c_py=lines("c"))
    with pair.packers() as (base, over):
        base.update()
        over.update()
        ignore(pair.mine, "b.py", ".infboxignore")
        assert over.update()
        assert MARK not in now(over).text
        assert on_disk(pair.mine, MARK) == []
        pair.base.save(a_py=lines("a2"))
        base.update()
        over.update()
        assert MARK not in now(over).text
        assert MARK in now(base).text


# What LMCache keeps


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def chunks(tmp_path: Path) -> Iterator[CachedChunks]:
    chunks = CachedChunks(tmp_path / "kv" / "chunks.db", Clock())
    yield chunks
    chunks.close()


def test_the_chunks_that_hold_a_path_are_dropped_twice(tmp_path: Path) -> None:
    clock = Clock()
    with contextlib.closing(CachedChunks(tmp_path / "chunks.db", clock)) as chunks:
        texts = [(40, frozenset({"a"})), (60, frozenset({"b"})), (100, frozenset({"c"}))]
        chunks.note("chat", range(100), texts, 16)
        assert chunks.due() == []
        chunks.drop(["b"])
        due = chunks.due()
        assert len(due) == 3, "two, and the one whose border is within the slack"
        chunks.dropped(due)
        assert chunks.due() == []
        clock.now += 1000
        assert sorted(chunks.due()) == sorted(due), "once more"
        chunks.dropped(due)
        clock.now += 1000
        assert chunks.due() == []
        chunks.drop(["b"])
        assert chunks.due() == []


def test_a_chunk_of_the_present_pack_is_not_dropped_again(tmp_path: Path) -> None:
    clock = Clock()
    with contextlib.closing(CachedChunks(tmp_path / "chunks.db", clock)) as chunks:
        texts = [(36, frozenset({"a"})), (60, frozenset({"b"})), (100, frozenset({"c"}))]
        chunks.note("chat", range(100), texts, 16)
        chunks.drop(["b"])
        due = chunks.due()
        assert hashes(range(100), 16)[1] in due, "it ends before b, and within the slack"
        chunks.dropped(due)
        chunks.note("chat", [*range(36), *range(200, 264)], [(100, frozenset({"a"}))], 16)
        clock.now += 1000
        assert sorted(chunks.due()) == sorted(set(due) - {hashes(range(100), 16)[1]})


@given(
    first=st.lists(st.integers(0, 9), max_size=60),
    more=st.lists(st.integers(0, 9), max_size=60),
    keep=st.integers(0, 60),
)
def test_what_is_known_of_the_last_prompt_gives_the_same_names(
    first: list[int], more: list[int], keep: int, tmp_path: Path
) -> None:
    with contextlib.closing(CachedChunks(tmp_path / "chunks.db")) as chunks:
        for ids in (first, [*first[:keep], *more]):
            chunks.note("chat", ids, [(len(ids), frozenset({"a"}))], 4)
            assert chunks._known["chat"][1] == hashes(ids, 4)
        chunks.drop(["a"])
        assert set(chunks.due()) == {*hashes(first, 4), *hashes([*first[:keep], *more], 4)}
        chunks.dropped(chunks.due())
        (tmp_path / "chunks.db").unlink()


def test_what_is_to_be_dropped_survives_a_restart(tmp_path: Path) -> None:
    with contextlib.closing(CachedChunks(tmp_path / "chunks.db")) as chunks:
        chunks.note("chat", range(100), [(100, frozenset({"a"}))], 16)
        chunks.drop(["a"])
    with contextlib.closing(CachedChunks(tmp_path / "chunks.db")) as chunks:
        assert len(chunks.due()) == 6


def test_a_packer_has_the_chunks_of_what_it_erases_dropped(
    shop: Shop, chunks: CachedChunks, tokenizer: Tokenizer
) -> None:
    shop.save(a_py=lines("a"), b_py=lines(MARK))
    packer = Packer(
        name="shop",
        model="coder",
        tree=shop.tree,
        index=shop.reader,
        budget=BUDGET,
        tokenizer=tokenizer,
        state_dir=shop.state,
        chunks=chunks,
    )
    with contextlib.closing(packer):
        packer.update()
        publication = now(packer)
        assert publication.ids
        ends = [tokens for _, tokens in publication.sections]
        paths = [frozenset({path} - {""}) for _, path, _, _ in publication.entries]
        chunks.note("chat", publication.ids, list(zip(ends, paths, strict=True)), 16)
        ignore(shop, "b.py")
        packer.update()
    assert len(chunks.due()) * 16 >= ends[-1] - ends[-2] - 16


def test_the_published_file_is_whole(shop: Shop) -> None:
    shop.save(a_py=lines("a"), b_py=lines(MARK))
    with shop.packer() as packer:
        packer.update()
        ignore(shop, "b.py")
        packer.update()
        assert json.loads(shop.file.read_text())["text"] == now(packer).text


def test_chunks_that_a_full_disk_kept_from_being_noted_are_noted_again(tmp_path: Path) -> None:
    chunks = CachedChunks(tmp_path / "chunks.db")
    ids, sections = range(2000), [(2000, frozenset({"a.py"}))]
    chunks._db.execute("PRAGMA max_page_count = 1")
    (pages,) = chunks._db.execute("PRAGMA page_count").fetchone()
    chunks._db.execute(f"PRAGMA max_page_count = {pages}")
    many = [(2_000_000, frozenset(f"{number:0200}.py" for number in range(200)) | {"a.py"})]
    with pytest.raises(sqlite3.OperationalError, match="full"):
        chunks.note("chat", ids, many, 256)
    chunks._db.execute("PRAGMA max_page_count = 100000")
    chunks.note("chat", ids, sections, 256)
    chunks.drop(["a.py"])
    assert set(chunks.due()) == set(hashes(ids, 256))
    chunks.close()
