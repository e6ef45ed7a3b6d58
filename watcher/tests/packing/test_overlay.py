"""A pack over another workspace's: the developer's tree, and the base's tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from test_layout import Project, lines, many

from infbox.packing import layout, overlay, tokens
from infbox.packing.overlay import Base
from infbox.packing.pack import DUE_SHARE, Pack, common_length
from reading import current, gone, sections, shown

BUDGET = 6000


def over(base: Project, pack: Pack, mine: Project, budget: int = BUDGET) -> Pack:
    """The pack of a tree over a base's."""
    return overlay.laid(Base(tuple(pack.entries), base.files), mine.now(), budget, pack.tokenizer)


def own(pack: Pack, base: Pack) -> list[tuple[str, str]]:
    """What stands behind the part that both share: paths and notes."""
    same = "".join(e.text for e in pack.entries[: common_length(pack.entries, base.entries)])
    return [(path, note) for path, note, _ in sections("\n" + pack.text[len(same) :])]


def test_the_same_tree_has_the_very_pack() -> None:
    base = Project(many(30))
    pack = base.pack()
    assert over(base, pack, Project(dict(base.files))).text == pack.text


def test_what_differs_follows_as_it_would_in_a_tail() -> None:
    base = Project(many(20))
    pack = base.pack()
    shown_files = list(current(pack.text))
    edited, rewritten, removed, moved = shown_files[:4]
    mine = Project(dict(base.files))
    mine.files[edited] += "more\n"
    mine.files[rewritten] = "all new\n"
    del mine.files[removed]
    mine.files["moved.py"] = mine.files.pop(moved)
    mine.files["new.py"] = "new\n"
    result = over(base, pack, mine)
    assert result.text.startswith(pack.text)
    assert sorted(own(result, pack)) == sorted(
        [
            (edited, "edited"),
            (rewritten, "changed"),
            (removed, "removed"),
            (moved, "renamed to moved.py"),
            ("new.py", "changed"),
        ]
    )


def test_the_shared_part_has_the_base_s_token_ids(tokenizer: tokens.Tokenizer) -> None:
    base = Project(many(8))
    pack = layout.first(base.now(), BUDGET, tokenizer)
    mine = Project({**base.files, "new.py": "def main():\n    return 1\n"})
    result = over(base, pack, mine, BUDGET * 2)
    assert pack.ids is not None
    assert result.ids is not None
    assert list(result.ids[: len(pack.ids)]) == list(pack.ids)
    assert len(result.ids) == result.tokens > len(pack.ids)


def test_what_the_developer_has_not_taken_over_yet_is_not_shared() -> None:
    base = Project(many(20))
    pack = base.pack()
    mine = Project(dict(base.files))
    first, second, third = list(current(pack.text))[:3]
    base.save(pack, first, base.files[first] + "both have it\n")
    mine.files[first] = base.files[first]
    forked = pack.text
    base.save(pack, second, base.files[second] + "not taken over\n")
    base.save(pack, third, base.files[third] + "neither\n")
    assert over(base, pack, mine).text == forked


def test_a_file_that_only_the_base_shows_is_gone() -> None:
    """As where a file is secret, or left out, in the developer's tree alone."""
    base = Project(many(20))
    pack = base.pack()
    path = next(iter(current(pack.text)))
    mine = Project({name: text for name, text in base.files.items() if name != path})
    assert own(over(base, pack, mine), pack) == [(path, "removed")]


def test_a_file_that_cannot_be_read_does_not_stay_as_the_base_has_it() -> None:
    base = Project(many(20))
    pack = base.pack()
    path = next(iter(current(pack.text)))
    mine = Project({**base.files, path: "half\n"})
    tree = mine.now()
    del mine.files[path]  # since it was listed
    result = overlay.laid(Base(tuple(pack.entries), base.files), tree, BUDGET, pack.tokenizer)
    assert path not in current(result.text)


def test_a_file_that_the_base_removed_is_told_where_it_is_still_there() -> None:
    base = Project({**many(20), "gone.py": lines("gone", 5)})
    pack = base.pack()
    base.save(pack, "gone.py", lines("gone", 6))
    mine = Project(dict(base.files))
    del base.files["gone.py"]
    pack.remove("gone.py")
    for path in list(current(pack.text))[:3]:  # so that it is worth to share what comes after
        base.save(pack, path, base.files[path] + "and more of it\n" * 9)
        mine.files[path] = base.files[path]
    result = over(base, pack, mine)
    assert current(result.text)["gone.py"] == mine.files["gone.py"]
    assert result.text.startswith(pack.text)


def test_of_files_that_are_not_shown_what_differs_from_the_base_is() -> None:
    base = Project(many(100))
    pack = base.pack()
    hidden = [path for path in base.files if path not in current(pack.text)]
    mine = Project(dict(base.files), committed=base.files)
    mine.files[hidden[0]] += "more\n"
    mine.files["moved.py"] = mine.files.pop(hidden[1])
    del mine.files[hidden[2]]
    result = over(base, pack, mine)
    assert own(result, pack) in ([(hidden[0], "excerpt")], [(hidden[0], "changed")])


def test_where_it_does_not_fit_less_is_shared_and_all_of_it_is_true() -> None:
    base = Project(many(60))
    pack = base.pack(BUDGET)
    mine = Project({path: f"{text}{path} is other now\n" * 3 for path, text in base.files.items()})
    result = over(base, pack, mine, BUDGET)
    assert result.tokens <= BUDGET * DUE_SHARE
    assert not result.text.startswith(pack.text)
    read = current(result.text)
    assert read
    assert read == {path: mine.files[path] for path in read}


_PATHS = st.sampled_from([f"{letter}.py" for letter in "abcdefgh"])
_TEXTS = st.builds(lines, st.sampled_from(["x", "y", "z"]), st.integers(1, 60))
_FILES = st.dictionaries(_PATHS, _TEXTS, max_size=8)
_EDITS = st.lists(
    st.tuples(st.sampled_from(["base", "mine", "both"]), _PATHS, st.none() | _TEXTS | _PATHS),
    max_size=25,
)
Edit = tuple[str, str, "str | None"]


@given(files=_FILES, before=_EDITS, after=_EDITS, budget=st.integers(400, 4000))
def test_however_both_trees_went_on_the_text_tells_the_developers_tree(
    files: dict[str, str], before: list[Edit], after: list[Edit], budget: int
) -> None:
    base, mine = Project(dict(files)), Project(dict(files))
    pack = base.pack(budget)
    for edit in before:
        edited(base, mine, edit)
        pack = went_on(pack, base)
    result = over(base, pack, mine, budget * 5 // 4)
    check(result, base, mine)
    assert result.tokens <= result.budget or not result.text.startswith(pack.text)
    for edit in after:
        edited(base, mine, edit)
        pack = went_on(pack, base)
        result = went_on(result, mine, is_overlay=True)
        check(result, mine, mine)


def edited(base: Project, mine: Project, edit: Edit) -> None:
    """Edit one tree or both; a path instead of a text moves the file there."""
    who, path, text = edit
    for project in {"base": [base], "mine": [mine], "both": [base, mine]}[who]:
        if text is not None and text.endswith(".py"):
            if path in project.files:
                project.files[text] = project.files.pop(path)
        elif text is None:
            project.files.pop(path, None)
        else:
            project.files[path] = text
            project.heats[path] = project.heats.get(path, 0.0) + 1.0


def went_on(pack: Pack, project: Project, *, is_overlay: bool = False) -> Pack:
    """Take in what became of a tree, as the packer does; the next generation where it is due."""
    tree = project.now()
    layout.settle(pack, tree.digests, tree.read, tree.committed)
    for path in sorted(project.files):
        source = tree.read(path)
        assert source
        pack.save(path, source)
    return layout.following(pack, tree, 1e9) if pack.is_due and not is_overlay else pack


def check(result: Pack, base: Project, mine: Project) -> None:
    """Hold what a reader makes of an overlay's text against the tree."""
    read = current(result.text)
    assert read == {path: shown(mine.files[path]) for path in read}
    assert read.keys() == {path for path, s in result.shown.items() if s.in_full}
    assert all(result.stands(path) == mine.files[path] for path in result.shown)
    assert not gone(result.text) & mine.files.keys()
    if result.tokens < result.budget * 0.5:
        known = {*base.files.values()}
        differing = {path for path, text in mine.files.items() if base.files.get(path) != text}
        moved = {path for path in differing if mine.files[path] in known}
        assert differing - moved <= result.shown.keys()
