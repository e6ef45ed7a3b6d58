"""Which files of a tree may enter a prompt."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.runtime.clock import TICK_NS, Moment
from infbox.tree.files import Tree, Walk
from infbox.tree.git import tracked_paths
from infbox.tree.rules import IGNORE_FILE
from trees import fill, git


def as_git_says(root: Path) -> set[str]:
    """What git lists, less what is no regular file in a real folder."""
    listed = git(root, "ls-files", "-coz", "--exclude-standard").split(b"\0")[:-1]
    found = {os.fsdecode(path) for path in listed}
    return {path for path in found if is_plain(root, path)}


def is_plain(root: Path, path: str) -> bool:
    target = root / path
    return target.is_file() and not target.is_symlink() and target.resolve() == root / path


TRICKY = {
    "nothing ignored": ({}, ["a.py", "d/b.py"]),
    "star, folders and go files back": (
        {".gitignore": "*\n!*/\n!*.go\n"},
        ["a.go", "a.py", "d/b.go", "d/e/c.go", "d/e/c.py"],
    ),
    "inside of a folder, one back": ({".gitignore": "d/**\n!d/keep\n"}, ["d/keep", "d/x", "e/d/x"]),
    "top one only": (
        {".gitignore": "/node_modules\n!**/node_modules/**\n"},
        ["node_modules/a.js", "d/node_modules/b.js"],
    ),
    "a bare exclamation mark": ({".gitignore": "!\n*.o\n"}, ["a.o", "a.c"]),
    "children of a folder": ({".gitignore": "d/*\n!d/e/\n"}, ["d/a", "d/e/b", "d/f/c"]),
    "nested ignore files": (
        {".gitignore": "*.log\n", "d/.gitignore": "!keep.log\n/x\n"},
        ["a.log", "d/keep.log", "d/b.log", "d/x", "d/e/x"],
    ),
    "an ignored folder cannot be entered": (
        {".gitignore": "d/\n", "d/.gitignore": "!a\n"},
        ["d/a", "d/b"],
    ),
    "escaped marks": ({".gitignore": "\\#a\n\\!b\nc\\ \n"}, ["#a", "!b", "c ", "c"]),
    "spaces at the end": ({".gitignore": "a  \nb\\  \n"}, ["a", "b ", "a  "]),
    "classes and question marks": ({".gitignore": "[ab]?.py\n"}, ["a1.py", "c1.py", "b.py"]),
    "double star in the middle": ({".gitignore": "a/**/z\n"}, ["a/z", "a/b/z", "a/b/c/z", "z"]),
    "a name, file or folder": ({".gitignore": "build\n"}, ["build/x", "d/build", "builder"]),
    "folders only": ({".gitignore": "build/\n"}, ["build/x", "d/build"]),
    "last rule wins": ({".gitignore": "*.a\n!x.a\nx.a\n!x.a\n"}, ["x.a", "y.a"]),
    "lines that end in CR": ({".gitignore": "a.txt\r\nb.txt\n"}, ["a.txt", "b.txt"]),
    "byte order mark": ({".gitignore": "\ufeffa.txt\n"}, ["a.txt", "b.txt"]),
    "info/exclude": ({".git/info/exclude": "*.tmp\n"}, ["a.tmp", "a.py"]),
    "odd names": ({}, ["a b", "*", "[x]", ":(glob)x", "-n", "ü.py", "d*/e", "new\nline"]),
    "names of magic, ignored": ({".gitignore": ":d/\n"}, [":d/x", ":e/x"]),
    "case": ({".gitignore": "Makefile\n"}, ["makefile", "Makefile"]),
    "only ignored files now": ({".gitignore": "*.o\n"}, ["d/a.o", "d/b.o"]),
    "a slash in the middle anchors": ({".gitignore": "d/x\n"}, ["d/x", "e/d/x"]),
    "double star in front": ({".gitignore": "**/x/y\n"}, ["x/y", "d/x/y", "y"]),
    "comment": ({".gitignore": "#x\nx#y\n"}, ["#x", "x#y"]),
    "everything": ({".gitignore": "*\n"}, ["a", "d/b"]),
}


@pytest.mark.parametrize("name", TRICKY)
def test_scan_agrees_with_git(repo: Path, name: str) -> None:
    rules, paths = TRICKY[name]
    fill(repo, dict.fromkeys(paths, "x\n") | rules)
    assert Tree(repo).scan() == as_git_says(repo)


@pytest.mark.parametrize("is_listed", [True, False], ids=["git-is-quick", "git-is-slow"])
@pytest.mark.parametrize("is_added", [True, False], ids=["added", "new"])
@pytest.mark.parametrize("name", TRICKY)
def test_a_walk_while_git_lists_finds_what_one_after_it_does(
    repo: Path, name: str, is_added: bool, is_listed: bool
) -> None:
    rules, paths = TRICKY[name]
    fill(repo, dict.fromkeys(paths, "x\n") | rules)
    if is_added:
        git(repo, "--literal-pathspecs", "add", "--force", "--", *paths[:1])  # ignored or not
        git(repo, "add", "--all")
    time.sleep(2 * TICK_NS / 1e9)  # what just changed is left until git has listed it
    with contextlib.closing(Tree(repo)) as tree:
        after, meanwhile = (Walk(tree, lambda _: None, Moment.now()) for _ in range(2))
        for _ in after.run(listed=tree.git.files()):
            pass
        for _ in meanwhile.ahead(tracked_paths(repo), lambda: is_listed):
            pass
        assert "" in meanwhile.directories
        for _ in meanwhile.run(listed=tree.git.other_files()):
            pass
    assert meanwhile.files == after.files == as_git_says(repo)
    assert meanwhile.directories == after.directories


_PARTS = st.sampled_from(["a", "b", "c.py", "d.o", "keep"])
_PATHS = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)
_PATTERNS = st.tuples(
    st.sampled_from(["", "!", "/", "!/"]),
    st.lists(st.sampled_from(["a", "b", "*", "**", "*.o", "*.py", "keep", "?"]), min_size=1)
    .map(lambda parts: "/".join(parts[:3])),
    st.sampled_from(["", "/"]),
).map("".join)  # fmt: skip


@given(
    paths=st.sets(_PATHS, min_size=1, max_size=12),
    top=st.lists(_PATTERNS, max_size=5),
    inner=st.lists(_PATTERNS, max_size=3),
    tracked=st.integers(0, 4),
)
def test_scan_agrees_with_git_on_any_tree(
    tmp_path_factory: pytest.TempPathFactory,
    paths: set[str],
    top: list[str],
    inner: list[str],
    tracked: int,
) -> None:
    root = tmp_path_factory.mktemp("tree")
    git(root, "init", "--quiet")
    # A path that is also the folder of another cannot be written.
    files = {p for p in paths if not any(other.startswith(f"{p}/") for other in paths)}
    fill(root, dict.fromkeys(sorted(files), "x\n"))
    (root / ".gitignore").write_text("\n".join(top) + "\n")
    if (root / "a").is_dir():
        (root / "a" / ".gitignore").write_text("\n".join(inner) + "\n")
    for path in sorted(files)[:tracked]:
        git(root, "add", "--force", path)
    tree = Tree(root)
    found = tree.scan()
    assert found == as_git_says(root)
    assert tree.belonging(files) == found & files


def test_scan_of_a_part_of_a_repository_lists_that_part(repo: Path) -> None:
    fill(repo, {".gitignore": "*.o\n", "a.py": "", "d/b.py": "", "d/c.o": ""})
    assert Tree(repo / "d").scan() == {"b.py"}


def test_scan_below_a_folder_lists_that_folder(repo: Path) -> None:
    fill(repo, {".gitignore": "*.o\n", "a.py": "", "d/b.py": "", "d/e/c.py": "", "d/c.o": ""})
    assert Tree(repo).scan("d") == {"d/b.py", "d/e/c.py"}


def test_scan_enters_no_ignored_folder(repo: Path) -> None:
    fill(repo, {".gitignore": "node_modules/\nout/*\n", "node_modules/x/y": "", "out/z": ""})
    entered: set[str] = set()
    Tree(repo).scan(entering=entered.add)
    assert entered == {"", "out"}  # a file in out/ may yet be brought back by a later rule


def test_scan_drops_what_is_tracked_but_not_there(repo: Path, tmp_path: Path) -> None:
    fill(repo, {"gone.py": "", "link.py": "", "d/inner.py": "", "kept.py": ""})
    outside = fill(tmp_path / "outside", {"inner.py": "secret", "link.py": "secret"})
    git(repo, "add", ".")
    (repo / "gone.py").unlink()
    (repo / "link.py").unlink()
    (repo / "link.py").symlink_to(outside / "link.py")
    shutil.rmtree(repo / "d")
    (repo / "d").symlink_to(outside)
    tree = Tree(repo)
    assert tree.scan() == {"kept.py"}
    assert tree.read("link.py") is None
    assert tree.read("d/inner.py") is None, "reached through a folder that is a link"


def test_git_ignored_but_tracked_stays(repo: Path) -> None:
    fill(repo, {".gitignore": "out/\n", "out/kept.py": "", "out/new.py": ""})
    git(repo, "add", "--force", "out/kept.py")
    assert Tree(repo).scan() == {".gitignore", "out/kept.py"}


def test_a_repository_inside_a_repository_is_a_border(repo: Path) -> None:
    fill(repo, {"a.py": "", "inner/b.py": ""})
    git(repo / "inner", "init", "--quiet")
    assert Tree(repo).scan() == {"a.py"} == as_git_says(repo)


def test_outside_git_ignore_files_mean_what_git_means(tmp_path: Path) -> None:
    root = fill(
        tmp_path / "plain",
        {".gitignore": "*\n!*/\n!*.go\n", "a.go": "", "a.py": "", "d/b.go": "", "d/b.py": ""},
    )
    before = sorted(root.rglob("*"))
    assert Tree(root).scan() == {"a.go", "d/b.go"}
    assert sorted(root.rglob("*")) == before, "nothing of a workspace is ever written"


def test_outside_git_repositories_below_are_entered(tmp_path: Path) -> None:
    root = fill(tmp_path / "plain", {"a.py": "", "one/b.py": "", "one/.gitignore": "*.o\n"})
    fill(root, {"one/c.o": ""})
    git(root / "one", "init", "--quiet")
    tree = Tree(root)
    assert tree.scan() == {"a.py", "one/b.py", "one/.gitignore"}
    assert tree.belonging(["one/b.py", "one/c.o"]) == {"one/b.py"}


def test_an_ignored_folder_of_a_repository_is_a_tree_of_its_own(repo: Path) -> None:
    fill(repo, {".gitignore": "scratch/\n", "scratch/a.py": ""})
    assert Tree(repo / "scratch").scan() == {"a.py"}


def test_core_excludes_file_counts(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, {"excludes": "*.mine\n", "config": f"[core]\nexcludesFile={tmp_path}/excludes"})
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    fill(repo, {"a.mine": "", "a.py": ""})
    assert Tree(repo).scan() == {"a.py"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a tree to somebody else")
def test_a_tree_of_another_user_is_read(repo: Path) -> None:
    fill(repo, {"a.py": ""})
    for path in [repo, *repo.rglob("*")]:
        os.chown(path, 12345, 12345)
    assert Tree(repo).scan() == {"a.py"}


def test_nothing_that_a_repository_configures_is_run(repo: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    fill(tmp_path, {"trap.sh": f"#!/bin/sh\ntouch {trap}\n"}).joinpath("trap.sh").chmod(0o755)
    git(repo, "config", "core.fsmonitor", str(tmp_path / "trap.sh"))
    fill(repo, {"a.py": "", ".git/hooks/post-index-change": f"#!/bin/sh\ntouch {trap}\n"})
    (repo / ".git/hooks/post-index-change").chmod(0o755)
    tree = Tree(repo)
    tree.scan()
    tree.why("a.py")
    assert not trap.exists()


def test_git_variables_of_the_caller_do_not_lead_elsewhere(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, {"a.py": ""})
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "elsewhere" / "index"))
    assert Tree(repo).scan() == {"a.py"}


def test_a_name_that_is_not_text_is_carried(repo: Path) -> None:
    name = os.fsdecode(b"caf\xe9.py")
    (repo / name).write_text("x = 1\n")
    tree = Tree(repo)
    assert tree.scan() == {name}
    content = tree.read(name)
    assert content is not None
    assert content.text == "x = 1\n"


SECRETS = [".env", "d/.ENV", "server.pem", "id_rsa", ".netrc", ".kube/config", "credentials.json"]


def test_secrets_stay_out_of_a_scan(repo: Path) -> None:
    fill(repo, dict.fromkeys(SECRETS, "x") | {"a.py": ""})
    git(repo, "add", "--force", ".")
    assert Tree(repo).scan() == {"a.py"}


def test_binary_and_large_files_are_refused(repo: Path) -> None:
    (repo / "a.bin").write_bytes(b"text\0more")
    (repo / "large.py").write_text("x" * 101)
    (repo / "small.py").write_text("x" * 100)
    tree = Tree(repo, max_bytes=100)
    assert tree.readable("a.bin") is None
    assert tree.readable("large.py") is None
    assert tree.readable("small.py") is not None


def test_own_ignore_file_takes_away(repo: Path) -> None:
    fill(repo, {IGNORE_FILE: "docs/\n*.txt\n", "docs/a.md": "", "b.txt": "", "c.py": ""})
    assert Tree(repo).scan() == {IGNORE_FILE, "c.py"}


@pytest.mark.parametrize(
    ("path", "kept", "word"),
    [
        ("new.py", True, "not ignored by git"),
        ("tracked.py", True, "tracked by git"),
        ("a.o", False, "ignored by git: .gitignore:1: *.o"),
        (".env", False, "secret by name: .env*"),
        ("link.py", False, "symbolic link"),
        ("blob", False, "binary"),
        ("nothere", False, "no such file"),
        ("d", False, "not a regular file"),
        ("x.txt", False, "named in .infboxignore"),
        ("large.py", False, "larger than 262144 bytes"),
        (".git/config", False, "not part of this repository"),
    ],
)
def test_why_names_the_rule(repo: Path, path: str, kept: bool, word: str) -> None:
    fill(repo, {".gitignore": "*.o\n", ".env": "A=1", "new.py": "", "tracked.py": "", "a.o": ""})
    fill(repo, {IGNORE_FILE: "*.txt\n", "x.txt": "", "d/e": "", "large.py": "x" * 300_000})
    (repo / "blob").write_bytes(b"\0")
    (repo / "link.py").symlink_to("new.py")
    git(repo, "add", "tracked.py")
    verdict, rule = Tree(repo).why(path)
    assert verdict is kept
    assert rule.startswith(word)
