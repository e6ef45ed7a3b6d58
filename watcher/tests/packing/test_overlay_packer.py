"""An overlay's published pack as its base and its own tree go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_packer import BUDGET, Shop, lines, now

from infbox.packing import tokens
from infbox.packing.overlay import BaseWorkspace
from infbox.packing.packer import Packer
from infbox.watching.index import Reader
from reading import current, sections
from trees import fill, git

SPACE = BUDGET * 5 // 4


class Pair:
    """A base and the overlay of one developer."""

    def __init__(self, base: Shop, mine: Shop) -> None:
        self.base = base
        self.mine = mine

    @contextlib.contextmanager
    def packers(self, budget: int = BUDGET) -> Iterator[tuple[Packer, Packer]]:
        with self.base.packer(budget) as base:
            below = BaseWorkspace(
                "shop",
                lambda: base.entries,
                Reader(self.base.index.file),
                self.base.root,
                lambda: base.erased,
            )
            over = Packer(
                name="anna",
                model="coder",
                tree=self.mine.tree,
                index=self.mine.reader,
                budget=budget * 5 // 4,
                tokenizer=tokens.load(None),
                state_dir=self.mine.state,
                base=below,
            )
            try:
                yield base, over
            finally:
                over.close()


@pytest.fixture
def pair(repo: Path, tmp_path: Path) -> Iterator[Pair]:
    root = tmp_path / "anna" / "tree"
    root.mkdir(parents=True)
    pair = Pair(Shop(repo), Shop(root))
    yield pair
    for shop in (pair.base, pair.mine):
        shop.close()


def both(pair: Pair, **files: str | None) -> None:
    pair.base.save(**files)
    pair.mine.save(**files)


def notes(packer: Packer) -> list[tuple[str, str]]:
    return [(path, note) for path, note, _ in sections(now(packer).text) if note]


def test_it_waits_for_its_base(pair: Pair) -> None:
    both(pair, a_py=lines("a"))
    with pair.packers() as (base, over):
        assert not over.update()
        assert (over.publication, over.waits_for) == (None, "shop")
        base.update()
        assert over.update()
        assert over.waits_for == ""
        assert now(over).text == now(base).text
        assert over.shared == now(base).tokens


def test_a_developers_save_goes_to_its_end_and_one_of_the_base_changes_nothing(pair: Pair) -> None:
    both(pair, a_py=lines("a"), b_py=lines("b"))
    with pair.packers() as (base, over):
        base.update()
        over.update()
        pair.mine.save(a_py=lines("a") + "mine\n")
        assert over.update()
        before = now(over)
        assert before.text.startswith(now(base).text)
        pair.base.save(b_py=lines("b") + "theirs\n")
        base.update()
        assert not over.update()
        assert now(over) == before
        assert "theirs" not in before.text
        assert over.shared > 0


def test_what_the_base_takes_over_is_shared_once_it_is_most_of_the_difference(pair: Pair) -> None:
    both(pair, a_py=lines("a"), b_py=lines("b"))
    with pair.packers() as (base, over):
        base.update()
        over.update()
        pair.mine.save(a_py=lines("a") + "mine\n", b_py="all mine\n" * 20)
        over.update()
        pair.base.save(b_py="all mine\n" * 20)
        base.update()
        assert over.update()
        assert over.candidate is not None
        assert over.adopt()
        assert now(over).text.startswith(now(base).text)
        assert notes(over) == [("b.py", "changed"), ("a.py", "edited")]
        assert not over.update(), "there is nothing more to gain"


def test_what_is_taken_over_from_the_base_costs_nothing(pair: Pair) -> None:
    both(pair, a_py=lines("a"), b_py=lines("b"), c_py="c\n")
    with pair.packers() as (base, over):
        base.update()
        over.update()
        pair.base.save(a_py="all theirs\n" * 30, b_py=lines("b") + "theirs\n")
        base.update()
        over.update()
        pair.mine.save(b_py=lines("b") + "theirs\n", c_py="c2\n")
        pair.mine.save(a_py="all theirs\n" * 30)
        over.update()
        assert over.candidate is None, "there is nothing to wait for"
        assert now(over).text.startswith(now(base).text)
        assert current(now(over).text)["c.py"] == "c2\n"


def test_the_next_generation_of_the_base_is_followed(pair: Pair) -> None:
    for shop in (pair.base, pair.mine):
        fill(shop.root, {f"f{n:02}.py": lines(f"f{n}") for n in range(60)})
        shop.look()
    with pair.packers() as (base, over):
        base.update()
        over.update()
        pair.mine.save(mine_py="mine\n")
        over.update()
        turn = 0
        while now(base).generation < 3:
            turn += 1
            pair.base.save(hot_py=lines(f"turn {turn}"), warm_py=lines(f"{turn}", 20))
            base.update()
            base.adopt()
            over.update()
            over.adopt()
            read = current(now(over).text)
            assert not read.keys() & {"hot.py", "warm.py"}
            assert read["mine.py"] == "mine\n"
        own = now(over).tokens - over.shared
        assert own < BUDGET / 4, "it shares what its base has now, not what it had"


def test_what_only_the_developer_leaves_out_is_gone(pair: Pair) -> None:
    both(pair, a_py=lines("a"), b_py=lines("b"))
    secret = 'key = "AKIA' + 'Q3EGRXWTJ5LXZJ4A"\n'
    with pair.packers() as (base, over):
        base.update()
        pair.mine.save(a_py=secret)
        over.update()
        assert notes(over) == [("a.py", "removed")]
        assert "AKIA" not in now(over).text


def test_of_a_file_that_is_not_shown_the_difference_from_the_bases_commit_is(pair: Pair) -> None:
    large = lines("large", 3000)
    both(pair, large_py=large, a_py="a\n")
    git(pair.base.root, "add", "--all")
    git(pair.base.root, "commit", "--quiet", "--message", "one")
    with pair.packers() as (base, over):
        base.update()
        pair.mine.save(large_py=large.replace("large 7\n", "large seven\n"))
        over.update()
        path, note, content = sections(now(over).text)[-1]
    assert (path, note) == ("large.py", "excerpt")
    assert "-large 7\n+large seven\n" in content


def test_a_base_that_cannot_be_read_keeps_no_save_back(pair: Pair) -> None:
    both(pair, a_py=lines("a"))
    with pair.packers() as (base, over):
        base.update()
        over.update()
        pair.base.index.file.rename(pair.base.index.file.with_suffix(".away"))
        pair.mine.save(a_py=lines("a") + "mine\n", b_py="b\n")
        over.update()
        assert current(now(over).text) == {"a.py": lines("a") + "mine\n", "b.py": "b\n"}


def test_a_restart_gives_the_same_bytes(pair: Pair) -> None:
    both(pair, a_py=lines("a"), b_py="b\n")
    with pair.packers() as (base, over):
        base.update()
        pair.mine.save(a_py=lines("a") + "mine\n")
        over.update()
        before = now(over)
    with pair.packers() as (base, over):
        over.update()
        assert now(over) == before
        assert over.shared > 0, "though its base was not looked at yet"


def test_a_base_of_its_own_or_none_any_more_makes_a_new_pack(pair: Pair) -> None:
    both(pair, a_py=lines("a"))
    with pair.packers() as (base, over):
        base.update()
        over.update()
        assert now(over).text.startswith("# Source tree: shop\n")
    alone = Packer(
        name="anna",
        model="coder",
        tree=pair.mine.tree,
        index=pair.mine.reader,
        budget=SPACE,
        tokenizer=tokens.load(None),
        state_dir=pair.mine.state,
    )
    with contextlib.closing(alone):
        alone.update()
        assert now(alone).text.startswith("# Source tree: anna\n")
        assert alone.shared == 0
