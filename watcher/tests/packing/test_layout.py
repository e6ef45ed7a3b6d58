"""The next generation: what it keeps, what it shows, what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.packing import layout, tokens
from infbox.packing.pack import Kind, Pack, common_length
from infbox.packing.rank import Candidate, ranked
from reading import current, sections, shown

BUDGET = 4000


@dataclass(frozen=True)
class File:
    """A file's content; its own text serves as its digest."""

    text: str

    @property
    def digest(self) -> str:
        return self.text


@dataclass
class Project:
    """A tree and the heats of its files."""

    files: dict[str, str]
    heats: dict[str, float] = field(default_factory=dict)
    committed: dict[str, str] = field(default_factory=dict)
    map_text: str = ""

    def now(self) -> layout.Tree:
        candidates = [
            Candidate(path, text, len(text.encode()), self.heats.get(path, 0.0))
            for path, text in self.files.items()
        ]
        return layout.Tree(
            name="shop",
            candidates=ranked(candidates),
            read=lambda path: File(self.files[path]) if path in self.files else None,
            committed=self.committed.get,
            draw_map=lambda _rest, _room: self.map_text,
        )

    def pack(self, budget: int = BUDGET) -> Pack:
        return layout.first(self.now(), budget, tokens.load(None))

    def save(self, pack: Pack, path: str, text: str) -> None:
        self.committed.setdefault(path, self.files[path]) if path in self.files else None
        self.files[path] = text
        pack.save(path, File(text), committed=lambda: self.committed.get(path))


def lines(name: str, count: int = 60) -> str:
    return "".join(f"{name} {n}\n" for n in range(count))


def many(count: int) -> dict[str, str]:
    return {f"f{n:03}.py": lines(f"f{n}") for n in range(count)}


def test_a_tree_that_fits_is_shown_whole_without_a_map() -> None:
    project = Project(many(5), map_text="# Map\n\n")
    pack = project.pack()
    assert current(pack.text) == project.files
    assert "# Map" not in pack.text


def test_a_larger_tree_shows_the_hottest_files_and_a_map_of_the_rest() -> None:
    project = Project(many(100), {"f042.py": 3.0, "f077.py": 1.0}, map_text="# Map\n\n")
    pack = project.pack()
    assert pack.text.count("# Map") == 1
    shown_files = list(current(pack.text))
    assert shown_files[-2:] == ["f077.py", "f042.py"], "the hottest last"
    assert BUDGET * 0.5 < pack.tokens <= BUDGET


def test_the_same_tree_gives_the_same_text() -> None:
    files = many(50)
    backwards = dict(reversed(files.items()))
    assert Project(files).pack().text == Project(backwards).pack().text


def test_a_generation_keeps_the_beginning_and_says_what_became_of_it() -> None:
    project = Project(many(100), {"f001.py": 2.0})
    pack = project.pack()
    cold = next(path for path in current(pack.text) if path != "f001.py")
    turn = 0
    while not pack.is_due:
        turn += 1
        project.heats["f001.py"] = 2.0 + turn
        project.save(pack, "f001.py", lines("f1") + f"turn {turn}\n" * 3)
        project.save(pack, cold, lines(cold) + f"turn {turn}\n")
    new = layout.following(pack, project.now(), edited=0)
    same = common_length(pack.entries, new.entries)
    kept = sum(entry.tokens for entry in new.entries[:same])
    assert kept > new.tokens / 2, "with nothing to spend, most of it is kept"
    assert not new.is_due
    assert current(new.text).items() <= project.files.items()
    assert new.holds("f001.py", project.files["f001.py"])


def test_with_more_to_spend_more_of_what_is_worth_it_is_shown() -> None:
    project = Project(many(200))
    pack = project.pack()
    for n in range(100, 103):
        project.heats[f"f{n}.py"] = 0.006  # worth a little more than what was never edited
    while not pack.is_due:
        project.save(pack, f"new{len(pack)}.py", lines(f"{len(pack)}", 10))
    thrifty = layout.following(pack, project.now(), edited=2000)
    lavish = layout.following(pack, project.now(), edited=1e9)
    assert hot(lavish) > hot(thrifty)
    assert cost(pack, lavish) > cost(pack, thrifty)
    assert cost(pack, thrifty) <= 2000 * layout.SPEND_SHARE * 1.3, "estimates are estimates"


def hot(pack: Pack) -> int:
    return sum("f100.py" <= path < "f103.py" for path in current(pack.text))


def cost(before: Pack, after: Pack) -> int:
    same = common_length(before.entries, after.entries)
    return sum(entry.tokens for entry in after.entries[same:])


def test_what_a_generation_costs_is_paid_from_what_was_edited() -> None:
    assert layout.left_to_spend(10_000, 2000) == pytest.approx(10_000 - 2000 / layout.SPEND_SHARE)
    assert layout.left_to_spend(100, 2000) == 0


def test_a_file_that_moved_is_a_line_and_not_its_text() -> None:
    project = Project(many(5))
    pack = project.pack()
    before = pack.text
    project.files["moved/f003.py"] = project.files.pop("f003.py")
    layout.settle(pack, project.now().digests, project.now().read, project.committed.get)
    assert pack.text[len(before) :] == "## f003.py (renamed to moved/f003.py)\n"
    assert current(pack.text) == project.files


def test_a_file_that_went_on_since_it_was_listed_waits() -> None:
    project = Project(many(5))
    tree = project.now()
    project.files["f003.py"] = "newer\n"
    pack = layout.first(tree, BUDGET, tokens.load(None))
    assert set(current(pack.text)) == {path for path in project.files if path != "f003.py"}


def test_excerpts_outlive_a_generation_newest_first() -> None:
    large = {f"large{n}.py": lines(f"large {n}", 2000) for n in range(9)}
    project = Project({**many(60), **large})
    pack = project.pack()
    for n in range(9):
        project.save(pack, f"large{n}.py", large[f"large{n}.py"] + f"more {n}\n")
    new = layout.following(pack, project.now(), edited=1e9)
    excerpts = [path for path, note, _ in sections(new.text) if note == "excerpt"]
    assert excerpts
    assert excerpts == [f"large{n}.py" for n in range(9 - len(excerpts), 9)]
    tokens_of_them = sum(e.tokens for e in new.entries if e.kind is Kind.EXCERPT)
    assert tokens_of_them <= BUDGET * layout.EXCERPTS_SHARE


_PATHS = st.sampled_from([f"{letter}.py" for letter in "abcdefghij"])
# Never empty: a text is its own digest here, and an empty digest means that there is no file.
_TEXTS = st.builds(lines, st.sampled_from(["x", "y", "z"]), st.integers(1, 80))
_EDITS = st.lists(st.tuples(_PATHS, st.none() | _TEXTS), max_size=40)


@given(
    files=st.dictionaries(_PATHS, _TEXTS, max_size=10),
    edits=_EDITS,
    budget=st.integers(500, 3000),
    edited=st.sampled_from([0.0, 1e3, 1e9]),
)
def test_after_any_history_every_generation_reads_as_the_tree(
    files: dict[str, str], edits: list[tuple[str, str | None]], budget: int, edited: float
) -> None:
    project = Project(dict(files))
    pack = project.pack(budget)
    for path, text in edits:
        if text is None:
            project.files.pop(path, None)
            pack.remove(path)
        else:
            project.heats[path] = project.heats.get(path, 0.0) + 1.0
            project.save(pack, path, text)
        if pack.is_due:
            pack = layout.following(pack, project.now(), edited)
            assert pack.tokens <= budget or len(pack) <= len(project.files) + 2
        read = current(pack.text)
        assert read == {path: shown(project.files[path]) for path in read}
        in_full = {path for path, s in pack.shown.items() if s.in_full}
        assert read.keys() == in_full
        assert all(pack.stands(path) == project.files[path] for path in pack.shown)
