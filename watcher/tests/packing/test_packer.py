"""From the index to a published pack."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest

from infbox.errors import InputError
from infbox.kinds import PACK_WEIGHTS, KindWeights, changed
from infbox.packing import tokens
from infbox.packing.packer import MANY_EDITS, Packer, Publication
from infbox.tree.files import Tree
from infbox.tree.records import Row
from infbox.watching.index import Index, Reader
from reading import current, sections
from trees import fill, git

BUDGET = 5000


def lines(name: str, count: int = 60) -> str:
    return "".join(f"{name} {n}\n" for n in range(count))


class Shop:
    """A workspace whose index is brought up by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root.parent / "state"
        self.tree = Tree(root)
        self.index = Index(self.state / "index" / "shop.db")
        self.reader = Reader(self.index.file)

    def save(self, **files: str | None) -> None:
        """Write files (``a_py`` is a.py) and index them; None removes one."""
        for name, text in files.items():
            path = name.replace("_", ".")
            if text is None:
                (self.root / path).unlink()
            else:
                fill(self.root, {path: text})
        self.look()

    def look(self) -> None:
        """Do as the follower does, for the whole tree."""
        first = self.index.counts()[1] == 0
        rows: dict[str, Row] = {}
        present = {path for path in self.tree.scan() if self.tree.readable(path)}
        for path in sorted(present):
            content = self.tree.readable(path)
            known = self.index.row(path)
            if content and (known is None or known.digest != content.digest):
                edit = 0 if first else self.index.next_edit()
                heat = 0.0 if first else 1.0
                rows[path] = Row(len(content.data), -1, -1, content.digest, None, edit, heat)
        with self.index.transaction():
            self.index.write(rows, self.index.paths() - present)

    @contextlib.contextmanager
    def packer(
        self,
        budget: int = BUDGET,
        tokenizer: tokens.Tokenizer | None = None,
        weights: KindWeights = PACK_WEIGHTS,
    ) -> Iterator[Packer]:
        packer = Packer(
            name="shop",
            model="coder",
            tree=self.tree,
            index=self.reader,
            budget=budget,
            tokenizer=tokenizer or tokens.load(None),
            state_dir=self.state,
            weights=weights,
        )
        try:
            yield packer
        finally:
            packer.close()

    @property
    def file(self) -> Path:
        return self.state / "packs" / "shop" / "pack.json"

    def close(self) -> None:
        self.reader.close()
        self.index.close()
        self.tree.close()

    @property
    def published(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.file.read_text())
        return value


@pytest.fixture
def shop(repo: Path) -> Iterator[Shop]:
    shop = Shop(repo)
    yield shop
    shop.close()


def now(packer: Packer) -> Publication:
    assert packer.publication is not None
    return packer.publication


def test_what_is_published_says_where_its_sections_end(shop: Shop) -> None:
    shop.save(a_py="ünïcode\n", b_py="b\n")
    with shop.packer() as packer:
        packer.update()
        shop.save(b_py="b2\n")
        packer.update()
    pack = shop.published
    starts = [0, *(characters for characters, _ in pack["sections"])]
    texts = [pack["text"][start:end] for start, end in pairwise(starts)]
    assert "".join(texts) == pack["text"]
    headings = [text.split("\n")[0] for text in texts[-3:]]
    assert headings == ["## a.py", "## b.py", "## b.py (changed)"]
    counts = [tokens.estimate(text) for text in texts]
    assert [count for _, count in pack["sections"]] == list(accumulate(counts))
    assert pack["sections"][-1][1] == pack["tokens"]


def test_the_first_pack_is_published_at_once(shop: Shop) -> None:
    shop.save(a_py="a\n", b_py="b\n")
    with shop.packer() as packer:
        assert packer.update()
        assert packer.candidate is None
    pack = shop.published
    assert set(pack) == {
        *("workspace", "model", "generation", "version", "sha256", "tokens", "text", "sections"),
        *("entries", "epoch", "withdrawn", "others"),
    }
    assert (pack["workspace"], pack["model"]) == ("shop", "coder")
    assert (pack["generation"], pack["version"]) == (1, 1)
    assert current(pack["text"]) == {"a.py": "a\n", "b.py": "b\n"}
    assert stat.S_IMODE(shop.file.stat().st_mode) == 0o640


def test_a_save_becomes_the_tail_of_the_same_generation(shop: Shop) -> None:
    shop.save(a_py=lines("a"), b_py="b\n")
    with shop.packer() as packer:
        packer.update()
        before = now(packer)
        shop.save(a_py=lines("a") + "more\n")
        assert packer.update()
        after = now(packer)
        assert not packer.update(), "nothing is new"
    assert (after.generation, after.version) == (1, 2)
    assert after.text.startswith(before.text)
    assert "+more\n" in after.text
    assert shop.published["sha256"] == after.sha256


def test_removals_and_renames_are_told(shop: Shop) -> None:
    shop.save(a_py=lines("a"), b_py=lines("b"))
    with shop.packer() as packer:
        packer.update()
        (shop.root / "a.py").rename(shop.root / "c.py")
        shop.save(b_py=None)
        packer.update()
        notes = [(path, note) for path, note, _ in sections(now(packer).text)]
        assert ("a.py", "renamed to c.py") in notes
        assert ("b.py", "removed") in notes
        assert current(now(packer).text) == {"c.py": lines("a")}


def test_a_restart_gives_the_same_bytes(shop: Shop, tokenizer: tokens.Tokenizer) -> None:
    shop.save(a_py=lines("a"), b_py="b\n")
    with shop.packer(tokenizer=tokenizer) as packer:
        packer.update()
        shop.save(a_py=lines("a") + "more\n")
        packer.update()
        before = now(packer)
    with shop.packer(tokenizer=tokenizer) as packer:
        assert packer.update(), "what stands is told once, so that it is warmed"
        assert not packer.update()
        after = now(packer)
    assert after == before
    assert after.ids == before.ids
    assert before.ids is not None
    assert len(before.ids) == before.tokens


def test_what_happened_while_away_becomes_the_tail(shop: Shop) -> None:
    shop.save(a_py="a\n", b_py=lines("b"), c_py="c\n")
    with shop.packer() as packer:
        packer.update()
        before = now(packer)
    shop.save(b_py=lines("b") + "b2\n", new_py="n\n", c_py=None)
    with shop.packer() as packer:
        packer.update()
        after = now(packer)
    assert after.text.startswith(before.text)
    assert current(after.text) == {"a.py": "a\n", "b.py": lines("b") + "b2\n", "new.py": "n\n"}


def test_the_next_generation_is_a_candidate_until_it_is_adopted(shop: Shop) -> None:
    fill(shop.root, {f"f{n:02}.py": lines(f"f{n}") for n in range(60)})
    shop.look()
    with shop.packer() as packer:
        packer.update()
        turn = 0
        while packer.candidate is None:
            turn += 1
            shop.save(hot_py=lines(f"turn {turn}"), warm_py=lines(f"{turn}", 20))
            packer.update()
            assert now(packer).generation == 1
            assert shop.published["generation"] == 1
        candidate = packer.candidate
        assert candidate.generation == 2
        shop.save(late_py="late\n")
        assert packer.update(), "both take in what comes"
        assert "## late.py" in now(packer).text
        newer = packer.candidate
        assert newer is not None
        assert newer.text.startswith(candidate.text)
        assert "## late.py" in newer.text
        version = now(packer).version
        assert packer.adopt()
        assert packer.candidate is None
        assert (now(packer).generation, now(packer).version) == (2, version + 1)
        assert now(packer).text == newer.text
        assert shop.published["generation"] == 2
        assert not packer.adopt(), "there is none any more"


def test_a_pack_that_exceeds_its_budget_does_not_wait_for_the_next_to_be_warm(shop: Shop) -> None:
    fill(shop.root, {f"f{n:02}.py": lines(f"f{n}") for n in range(60)})
    shop.look()
    with shop.packer() as packer:
        packer.update()
        for turn in range(30):
            shop.save(a_py=lines(f"a {turn}"), b_py=lines(f"b {turn}"))
            packer.update()
            assert now(packer).tokens <= BUDGET
        assert now(packer).generation > 1
        read = current(now(packer).text)
    assert read["a.py"] == lines("a 29")
    assert read["b.py"] == lines("b 29")


def test_a_checkout_makes_a_new_generation_that_is_right_at_once(shop: Shop) -> None:
    files = {f"f{n:03}.py": lines(f"f{n}", 5) for n in range(MANY_EDITS + 40)}
    fill(shop.root, files)
    shop.look()
    with shop.packer(budget=20_000) as packer:
        packer.update()
        changed = {path: f"{text}other\n" for path, text in files.items()}
        fill(shop.root, changed)
        shop.look()
        assert packer.update()
        assert now(packer).generation == 2
        assert current(now(packer).text).items() <= changed.items()


def test_an_excerpt_shows_what_differs_from_the_last_commit(shop: Shop) -> None:
    large = lines("large", 3000)
    shop.save(large_py=large, a_py="a\n")
    git(shop.root, "add", "--all")
    git(shop.root, "commit", "--quiet", "--message", "one")
    with shop.packer() as packer:
        packer.update()
        assert "large.py" not in current(now(packer).text)
        shop.save(large_py=large.replace("large 7\n", "large seven\n"))
        packer.update()
        path, note, content = sections(now(packer).text)[-1]
    assert (path, note) == ("large.py", "excerpt")
    assert "-large 7\n+large seven\n" in content


def test_a_secret_that_was_taken_out_is_in_no_excerpt(shop: Shop) -> None:
    secret = 'key = "AKIA' + 'Q3EGRXWTJ5LXZJ4A"\n'
    large = lines("large", 3000)
    shop.save(large_py=large, a_py="a\n")
    fill(shop.root, {"large.py": large + secret})
    git(shop.root, "add", "--all")
    git(shop.root, "commit", "--quiet", "--message", "one")
    with shop.packer() as packer:
        packer.update()
        shop.save(large_py=large + "key = read()\n")
        packer.update()
        assert sections(now(packer).text)[-1][0] == "large.py"
        assert "AKIA" not in now(packer).text


def test_a_file_that_went_on_since_it_was_indexed_waits_for_the_index(shop: Shop) -> None:
    shop.save(a_py="a\n")
    with shop.packer() as packer:
        packer.update()
        shop.save(a_py="half\n")
        fill(shop.root, {"a.py": "half and half\n"})
        packer.update()
        assert current(now(packer).text) == {"a.py": "a\n"}
        shop.look()
        packer.update()
        assert current(now(packer).text) == {"a.py": "half and half\n"}


def test_a_damaged_pack_file_is_written_again(shop: Shop) -> None:
    shop.save(a_py="a\n")
    with shop.packer() as packer:
        packer.update()
    before = shop.file.read_bytes()
    shop.file.write_text("{")
    with shop.packer() as packer:
        packer.update()
    assert shop.file.read_bytes() == before


def test_a_damaged_store_is_made_anew_and_said_so(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.save(a_py="a\n")
    with shop.packer() as packer:
        packer.update()
    store = shop.file.with_name("pack.db")
    store.with_name("pack.db-wal").unlink(missing_ok=True)
    store.write_bytes(b"no database at all, but long enough to look at" * 100)
    with shop.packer() as packer:
        packer.update()
    assert "pack-damaged" in caplog.text
    assert current(shop.published["text"]) == {"a.py": "a\n"}


def damage_a_page(shop: Shop) -> None:
    """Overwrite the pages of the table of entries, as a disk does, and leave the rest."""
    file = shop.file.with_name("pack.db")
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        found = "SELECT rootpage FROM sqlite_master WHERE name = 'entries'"
        root = database.execute(found).fetchone()[0]
        size = database.execute("PRAGMA page_size").fetchone()[0]
    with file.open("r+b") as stream:
        stream.seek((root - 1) * size)
        stream.write(b"\xff" * size)


def test_a_damaged_page_is_found_at_the_start_and_the_pack_is_made_anew(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.save(a_py="a\n")
    with shop.packer() as packer:
        packer.update()
    damage_a_page(shop)
    with shop.packer() as packer:
        packer.update()
        shop.save(a_py="aa\n")
        packer.update()
    assert caplog.text.count("pack-damaged") == 1
    assert current(shop.published["text"]) == {"a.py": "aa\n"}


def test_a_page_that_is_damaged_meanwhile_is_found_and_the_pack_is_made_anew(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.save(a_py="a\n", b_py="b\n")
    with shop.packer() as packer:
        packer.update()
        damage_a_page(shop)
        versions = [now(packer).version]
        for number in range(3):
            shop.save(a_py=f"{number}\n" * 50)
            packer.update()
            versions.append(now(packer).version)
    assert versions == sorted(set(versions)), "no number names two texts"
    assert caplog.text.count("pack-damaged") == 1
    assert current(shop.published["text"]) == {"a.py": "2\n" * 50, "b.py": "b\n"}


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM state",
        "UPDATE entries SET kind = 'none such'",
        "UPDATE entries SET ids = x'00'",
        "UPDATE entries SET text = CAST(x'ff80' AS TEXT)",
    ],
)
def test_rows_that_cannot_be_read_are_damage_too(
    shop: Shop, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    shop.save(a_py="a\n")
    with shop.packer() as packer:
        packer.update()
    with contextlib.closing(sqlite3.connect(shop.file.with_name("pack.db"))) as database:
        database.execute(damage)
        database.commit()
    with shop.packer() as packer:
        packer.update()
    assert "pack-damaged" in caplog.text
    assert current(shop.published["text"]) == {"a.py": "a\n"}


def test_a_store_of_a_newer_version_is_refused(shop: Shop) -> None:
    with shop.packer():
        pass
    with contextlib.closing(sqlite3.connect(shop.file.with_name("pack.db"))) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match=r"pack\.db: a newer version"), shop.packer():
        pass


def test_an_index_that_was_built_anew_leaves_no_stale_file(shop: Shop) -> None:
    shop.save(a_py="a\n", b_py="b\n")
    with shop.packer() as packer:
        packer.update()
        shop.save(a_py="a2\n")
        packer.update()
        with shop.index.transaction():
            shop.index.write({}, shop.index.paths())
        shop.index.last_edit = 0
        shop.save(a_py="a3\n")  # indexed as if it had always been so
        packer.update()
        assert current(now(packer).text)["a.py"] == "a3\n"


def test_an_index_that_counts_from_less_is_followed_too(shop: Shop) -> None:
    """As one that was begun anew while the clock was behind: it begins to count at the time."""
    shop.save(a_py="a\n", b_py="b\n")
    with shop.packer() as packer:
        packer.update()
        for number in range(9):
            shop.save(a_py=f"a{number}\n")
        packer.update()
        with shop.index.transaction():
            shop.index.write({}, shop.index.paths())
            shop.index.keep(edit="0")
        shop.index.last_edit = 0
        shop.look()
        for name in ("c", "d"):
            shop.save(**{f"{name}_py": "new\n"})
            packer.update()
            assert current(now(packer).text)[f"{name}.py"] == "new\n"


@pytest.mark.parametrize("what", ["budget", "tokenizer", "weights"])
def test_another_policy_makes_a_new_pack(
    shop: Shop, what: str, tokenizer: tokens.Tokenizer
) -> None:
    shop.save(a_py="a\n")
    with shop.packer() as packer:
        packer.update()
    budget = 4000 if what == "budget" else BUDGET
    other = tokenizer if what == "tokenizer" else None
    weights = changed(PACK_WEIGHTS, {"docs": 0.2} if what == "weights" else {}, "")
    with shop.packer(budget, other, weights) as packer:
        packer.update()
        assert (now(packer).generation, now(packer).version) == (2, 2)


@pytest.mark.parametrize(("docs", "shown"), [(None, "a.py"), (100.0, "a.md")])
def test_the_weights_decide_which_kind_of_file_is_shown(
    shop: Shop, docs: float | None, shown: str
) -> None:
    fill(shop.root, {"a.md": "docs\n" * 300})
    shop.save(a_py="code\n" * 300)
    weights = changed(PACK_WEIGHTS, {"docs": docs} if docs else {}, "")
    with shop.packer(budget=900, weights=weights) as packer:
        packer.update()
        assert [path for _, path, *_ in now(packer).entries if path] == [shown]


def test_a_crash_between_store_and_pack_file_loses_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.save(a_py="a\n")
    with shop.packer() as packer:
        packer.update()
        shop.save(a_py="a2\n")
        with monkeypatch.context() as patch:
            patch.setattr("infbox.packing.packer._write_atomically", interrupted)
            with pytest.raises(KeyboardInterrupt):
                packer.update()
    with shop.packer() as packer:
        packer.update()
    assert current(shop.published["text"]) == {"a.py": "a2\n"}


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_store_that_cannot_be_written_is_tried_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.save(a_py="a\n")
    with shop.packer() as packer:
        packer.update()
        shop.save(a_py="a2\n")
        with monkeypatch.context() as patch:
            patch.setattr("infbox.packing.store.Store.write", full)
            with pytest.raises(sqlite3.OperationalError, match="full"):
                packer.update()
        packer.update()
        assert current(now(packer).text) == {"a.py": "a2\n"}


def test_a_generation_that_cannot_be_written_leaves_the_present_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(shop.root, {f"f{n:02}.py": lines(f"f{n}") for n in range(60)})
    shop.look()
    with shop.packer() as packer:
        packer.update()
        while packer.candidate is None:
            turn = now(packer).version
            shop.save(hot_py=lines(f"turn {turn}"), warm_py=lines(f"{turn}", 20))
            packer.update()
        before = now(packer)
        with monkeypatch.context() as patch:
            patch.setattr("infbox.packing.store.Store.write", full)
            with pytest.raises(sqlite3.OperationalError, match="full"):
                packer.adopt()
        shop.save(late_py="late\n")
        packer.update()
        assert now(packer).generation == before.generation
        assert now(packer).text.startswith(before.text)
        assert packer.candidate is not None, "it is made again"


def full(*_: object, **__: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


def test_a_reader_never_sees_half_a_pack(shop: Shop) -> None:
    shop.save(a_py=lines("a", 300))
    with shop.packer() as packer:
        packer.update()
        held = os.open(shop.file, os.O_RDONLY)
        before = shop.file.read_bytes()
        shop.save(a_py=lines("b", 300))
        packer.update()
        assert os.read(held, len(before) + 1) == before, "replaced, not written over"
        os.close(held)


def test_sections_add_up(shop: Shop) -> None:
    shop.save(a_py=lines("a"), b_py="b\n")
    with shop.packer() as packer:
        packer.update()
        shop.save(a_py="a\n")
        packer.update()
        found = packer.sections()
        assert found.pop("superseded") == now(packer).tokens - sum(live(now(packer).text))
        assert found["tail"] > 0
        assert sum(found.values()) == now(packer).tokens


def live(text: str) -> list[int]:
    """Return the tokens of all that is not superseded, where only a.py was saved, and in full."""
    first = text.index("## a.py")
    end = text.index("## b.py")
    again = text.index("## a.py", end)
    return [tokens.estimate(part) for part in (text[:first], text[end:again], text[again:])]


def test_what_is_published_says_what_each_section_is_about(shop: Shop) -> None:
    shop.save(a_py="a\n", b_py="b\n")
    with shop.packer() as packer:
        packer.update()
        shop.save(b_py="b2\n")
        packer.update()
        digests = {path: shop.reader.digests([path])[path] for path in ("a.py", "b.py")}
    pack = shop.published
    assert len(pack["entries"]) == len(pack["sections"])
    assert [entry[:2] for entry in pack["entries"]] == [
        ["intro", ""], ["base", "a.py"], ["base", "b.py"], ["changed", "b.py"],
    ]  # fmt: skip
    assert pack["entries"][1][2] == digests["a.py"]
    assert pack["entries"][-1][2] == digests["b.py"] != pack["entries"][2][2]


def test_a_file_that_is_ignored_now_is_withdrawn_from_all_texts_before(shop: Shop) -> None:
    shop.save(a_py="a\n", b_py="b\n", c_py="c\n")
    with shop.packer() as packer:
        packer.update()
        assert shop.published["withdrawn"] == []
        epoch = shop.published["epoch"]
        assert epoch
        shop.save(c_py=None)  # which only removes it
        packer.update()
        assert shop.published["withdrawn"] == []
        fill(shop.root, {".gitignore": "b.py\n"})
        shop.look()
        packer.update()
        version = now(packer).version
        assert shop.published["withdrawn"] == [["b.py", version]]
        assert shop.published["version"] == version
        shop.save(a_py="a2\n")
        packer.update()
        assert now(packer).version == version + 1
        assert shop.published["withdrawn"] == [["b.py", version]], "texts since then know"
    with shop.packer() as packer:
        packer.update()
        assert shop.published["withdrawn"] == [["b.py", version]], "it survives"
        (shop.root / ".gitignore").unlink()
        shop.look()
        packer.update()
    assert shop.published["withdrawn"] == []
    assert shop.published["epoch"] == epoch


def test_a_withdrawal_of_what_only_earlier_packs_show_is_published_too(shop: Shop) -> None:
    shop.save(a_py=lines("a"), b_py=lines("b", 300))
    with shop.packer() as packer:
        packer.update()
    digest = shop.reader.digests(["b.py"])["b.py"]
    with shop.packer(budget=600) as packer:  # of which another policy follows, and less is shown
        packer.update()
        assert packer.candidate is None
        version = now(packer).version
        gone = {path for path, _ in shop.published["others"]}
        assert ["b.py", digest] in shop.published["others"], gone
        fill(shop.root, {".git/info/exclude": "b.py\n"})
        shop.look()
        assert packer.update() is False, "the text is the same, and is not warmed anew"
        assert ["b.py", ""] in shop.published["others"]
        assert shop.published["withdrawn"] == [["b.py", version]]
        assert now(packer).version == version


def test_too_many_paths_begin_another_epoch(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.save(a_py="a\n", b_py="b\n")
    with shop.packer() as packer:
        packer.update()
        epoch = shop.published["epoch"]
        monkeypatch.setattr("infbox.packing.erasure.shown_paths.MOST_PATHS", 2)
        shop.save(c_py="c\n")
        packer.update()
    assert shop.published["epoch"] not in ("", epoch)
    assert shop.published["others"] == []
