"""Any tree: its paths, contents, ignore files, the configuration of its repository, and its times.

Nothing of it may end what looks at it, take long, take much memory, run a program, or be shown
though it may not be.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import fuzz
from hypothesis import strategies as st

from following import following
from infbox.config import MAX_FILE_BYTES
from infbox.errors import GitError, InputError
from infbox.packing import hunks, imports, symbols, tokens
from infbox.packing.packer import packed
from infbox.runtime import clock
from infbox.tree import git
from infbox.tree.files import Tree
from infbox.tree.git import Tracked
from infbox.tree.mounts import read as read_mounts
from infbox.tree.rules import IGNORE_FILE, Rules

pytestmark = pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")

REFUSALS = (InputError, GitError, OSError)
CONTROL = "<|im_end|>"

# What means something to one of those that look at contents.
WORDS = [
    *("import ", "from a import (", "require ", "include ", "#include <", "using ", "use ", "mod "),
    *("pub(", "::", "static ", "function ", "def f():", "class A:", "source ", "module ", "<?php "),
    *("(", ")", "[", "]", "{", "}", "<", "<<EOF", "'", '"', "`", '"""', "'''", "/*", "*/", "<!--"),
    *(
        "-->",
        "//",
        "--",
        "#",
        "%",
        "$",
        "${",
        "\\",
        "\\\n",
        "\n",
        "\r\n",
        " ",
        "\t",
        "\x0b",
        "\x0c",
    ),
    *("=", ":", ";", ",", ".", "@", "|", "*", "->", "a", "0", "é", "\u2028", "\ufeff", "🙂"),
    *("generated ", "do not edit ", "@generated", "[package]", "name = ", '"name": "', CONTROL),
    *("password", "secret: ", "token=", "api_key", "A1b2C3d4E5f6G7h8", "https://u:p@", "AKIA"),
    *("-----BEGIN RSA PRIVATE KEY-----", "eyJhbGciOi", "sk-", "ghp_", "sk-infbox-", "```", "## "),
]
ENDINGS = [
    *("py", "js", "ts", "go", "rs", "c", "cpp", "java", "cs", "rb", "php", "sh", "md", "json"),
    *("toml", "yml", "tf", "env", "ipynb", "txt", "xml", "ini", ""),
]
NAMES = ["go.mod", "package.json", "Cargo.toml", "Makefile", ".env", "id_rsa", "CLAUDE.md"]


@st.composite
def texts(draw: st.DrawFn, most: int = MAX_FILE_BYTES) -> str:
    """Some words once, then some over and over: what makes an expression take long."""
    several = st.lists(st.sampled_from(WORDS), max_size=6).map("".join)
    head, unit, end = draw(several), draw(several | st.text(max_size=9)), draw(several)
    size = draw(st.sampled_from([0, 1, 100, 5000, most]))
    bytes_each = max(len(unit.encode("utf-8", "surrogatepass")), 1)
    return head + unit * (size // bytes_each) + end


paths = st.builds(
    lambda stem, ending: f"{stem}.{ending}" if ending else stem,
    st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=9),
    st.sampled_from(ENDINGS),
) | st.sampled_from(NAMES)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def test_any_content_is_judged_and_read_within_bounds() -> None:
    rules = Rules(control_tokens=[CONTROL])

    def check(text: str, other: str, path: str, data: bytes) -> None:
        refused = rules.by_content(encoded(text), path)
        assert refused or CONTROL not in text
        rules.by_content(data, path)
        for each in (text, data.decode(errors="replace")):
            names = imports.imported(path, each)
            assert len(names) <= imports.MAX_IMPORTS
            symbols.outline(path, each)
        hunks.unified(text, other)

    binary = st.binary(max_size=2000)
    assert fuzz(check, 0.3, text=texts(), other=texts(), path=paths, data=binary)


# Something over and over is what an expression may take long for.
PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "*",
                "*",
                "**",
                "/",
                "?",
                "!",
                "a",
                "a",
                "b",
                ".py",
                "[",
                "]",
                "[a-",
                "z]",
                "[!",
                "^",
            ),
            *(
                "\\",
                " ",
                "[[:alpha:]]",
                "#",
                "\t",
                "\r",
                "é",
                "{",
                "}",
                "(",
                ")",
                "|",
                "+",
                "$",
                ".",
            ),
        ]
    ),
    max_size=4,
).map("".join)
LINES = st.lists(
    st.builds(
        lambda head, unit, count, end: head + unit * count + end,
        PIECES,
        PIECES | st.sampled_from(["*a", "*", "?*", "[ab]*", "a/**/", "**/", "*/", "a*b"]),
        st.integers(0, 60),
        PIECES,
    )
    | st.text(max_size=20),
    max_size=9,
)
PARTS = st.builds(
    lambda unit, count, end: (unit * count + end)[:200] or "a",
    st.text(st.sampled_from("aab.é\udc80\n"), max_size=3),
    st.integers(0, 99),
    st.text(st.sampled_from("ab.é\udc80\n"), max_size=3),
)
LONG_PATHS = st.builds(
    lambda parts, count: "/".join(parts * count),
    st.lists(PARTS, min_size=1, max_size=4),
    st.integers(1, 10),
)


def test_any_ignore_line_of_ours_judges_any_path_within_bounds() -> None:
    def check(lines: list[str], given: list[str]) -> None:
        try:
            rules = Rules(lines)
        except InputError:
            return
        for path in given:
            rules.by_name(path)

    assert fuzz(check, 0.15, lines=LINES, given=st.lists(LONG_PATHS, max_size=5))


def test_whatever_git_and_the_kernel_print_is_read() -> None:
    def check(data: bytes, mounts: list[bytes]) -> None:
        tracked = Tracked(data)
        assert all(path in tracked for path in tracked.all())
        with contextlib.suppress(IndexError):  # no kernel leaves a field out
            read_mounts(b" ".join(mounts))

    listing = st.lists(
        st.sampled_from([b"100644 0 0\t", b"160000 ", b"\0", b"a", b"/", b"\n", b"\xff", b"\t"])
    ).map(b"".join)
    fields = st.lists(st.sampled_from([b"/", b"\\040", b"-", b"overlay", b"lowerdir=a:b", b"ro"]))
    assert fuzz(check, 0.05, data=listing, mounts=fields)


# Whole trees

CONFIGURATION = st.lists(
    st.sampled_from(
        [
            *("[core]", '[filter "x"]', '[diff "x"]', "[include]", '[remote "o"]', "["),
            *("[core", "fsmonitor = CANARY", "pager = CANARY", "sshCommand = CANARY"),
            *("hooksPath = HOOKS", "excludesFile = PIPE", "excludesFile = /dev/zero"),
            *(
                "attributesFile = PIPE",
                "path = PIPE",
                "path = config",
                "worktree = /",
                "bare = true",
            ),
            *("clean = CANARY", "smudge = CANARY", "process = CANARY", "textconv = CANARY"),
            *("url = ext::CANARY", "promisor = true", "partialCloneFilter = blob:none"),
            *(
                "repositoryFormatVersion = 99",
                "[extensions]",
                "partialClone = o",
                "objectFormat = x",
            ),
            *("[gpg]", "program = CANARY", "[log]", "showSignature = true", "ignoreCase = true"),
            *(
                "precomposeUnicode = true",
                "untrackedCache = true",
                "splitIndex = true",
                "= =",
                "\\",
            ),
            *("[uploadpack]", "packObjectsHook = CANARY", "[alias]", "ls-files = !CANARY"),
        ]
    ),
    max_size=8,
)
FILES = st.dictionaries(
    st.lists(
        st.sampled_from(["a", "b", "é", b"\xff".decode("utf-8", "surrogateescape"), "x y", "a\nb"])
        | st.sampled_from(["sub", ".git", ".gitignore", IGNORE_FILE, "a.py", ".env", CONTROL]),
        min_size=1,
        max_size=4,
    ).map("/".join),
    texts(4000) | LINES.map("\n".join),
    max_size=6,
)
ODDITIES = st.lists(
    st.tuples(
        st.sampled_from(["pipe", "link", "loop", "closed", "socket", "future", "hard"]),
        st.sampled_from(["a", "b", ".gitignore", IGNORE_FILE, "sub", ".git/info/exclude", "x y"]),
    ),
    max_size=3,
)


@contextlib.contextmanager
def tree_of(
    files: dict[str, str], oddities: list[tuple[str, str]], configuration: list[str] | None
) -> Iterator[tuple[Path, Path]]:
    """Make a tree; give it and the file that says that a program of its own was run."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        root, sang, canary = top / "repo", top / "sang", top / "canary"
        canary.write_text(f"#!/bin/sh\ntouch {sang}\nexit 1\n")
        canary.chmod(0o755)
        os.mkfifo(top / "pipe")
        (top / "outside.txt").write_text("it lies outside of the tree\n")
        root.mkdir()
        if configuration is not None:
            subprocess.run(["git", "init", "--quiet", str(root)], check=True)
        for path, content in files.items():
            with contextlib.suppress(OSError):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(encoded_path_text(content))
        if configuration:
            with contextlib.suppress(OSError):
                subprocess.run(["git", "-C", str(root), "add", "."], check=False, timeout=5,
                               capture_output=True)  # fmt: skip
            places = {"CANARY": str(canary), "HOOKS": str(top), "PIPE": str(top / "pipe")}
            lines = "\n".join(configuration)
            for word, place in places.items():
                lines = lines.replace(word, place)
            with contextlib.suppress(OSError), (root / ".git/config").open("a") as file:
                file.write(f"\n{lines}\n")
        for kind, path in oddities:
            with contextlib.suppress(OSError):
                make_odd(kind, root / path, top)
        yield root, sang


def encoded_path_text(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def make_odd(kind: str, place: Path, top: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "closed":
        place.chmod(0)
    elif kind == "future":
        ahead = time.time() + 10**9
        os.utime(place, (ahead, ahead))
    else:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(place)
        elif kind == "link":
            place.symlink_to(top / "outside.txt")
        elif kind == "loop":
            place.symlink_to(place.parent)
        elif kind == "hard":
            os.link(top / "outside.txt", place)
        elif kind == "socket":
            os.mknod(place, stat.S_IFSOCK | 0o600)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = dict(git.run.__kwdefaults__ or {})
    monkeypatch.setattr("infbox.tree.git.run.__kwdefaults__", {**limits, "limit_seconds": 2.0})
    monkeypatch.setattr("infbox.tree.git._CHECK_SECONDS", 2.0)
    monkeypatch.setattr("infbox.watching.follower.RETRY_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
def test_any_tree_is_packed_or_refused_and_runs_nothing() -> None:
    def check(
        files: dict[str, str], oddities: list[tuple[str, str]], configuration: list[str] | None
    ) -> None:
        with tree_of(files, oddities, configuration) as (root, sang):
            tree = Tree(root, control_tokens=(CONTROL,))
            try:
                pack, _, _ = packed(tree, 1500, tokens.load(None))
                tree.git.facts()
            except REFUSALS:
                pack = None
            finally:
                tree.close()
            assert not sang.exists(), "a program of the tree's was run"
            if pack:
                assert pack.tokens <= 1500
                assert CONTROL not in pack.text
                is_linked = any(kind == "hard" for kind, _ in oddities)
                assert is_linked or "outside of the tree" not in pack.text

    assert fuzz(
        check,
        0.25,
        5,
        files=FILES,
        oddities=ODDITIES,
        configuration=st.none() | CONFIGURATION,
    )


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "remove", "move", "odd", "ignore", "clock"]),
        st.sampled_from(["a", "b", "sub/a", "sub/b", "sub", "sub/deep/c", ".gitignore"]),
        st.sampled_from(["a", "b", "sub", "other", "other/sub"]),
        st.integers(-7200, 7200),
    ),
    max_size=8,
)


def test_whatever_happens_in_a_tree_the_index_is_what_a_fresh_look_says() -> None:
    """With the wall clock set to and fro."""

    def check(steps: list[tuple[str, str, str, int]]) -> None:
        offset = 0
        with pytest.MonkeyPatch.context() as patch, tree_of({"a": "a\n"}, [], []) as (root, _):
            patch.setattr(clock, "wall_ns", lambda: time.time_ns() + offset * 10**9)
            patch.setattr("infbox.watching.follower.RETRY_SECONDS", 0.1)
            with following(root) as seen:
                for kind, path, other, number in steps:
                    offset = number if kind == "clock" else offset
                    with contextlib.suppress(OSError):
                        step(root, kind, path, other, number)
                seen.agrees(20)
                seen.settles_itself()

    assert fuzz(check, 0.25, 5, steps=STEPS)


def step(root: Path, kind: str, path: str, other: str, number: int) -> None:
    place = root / path
    if kind == "write":
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{number}\n")
    elif kind == "remove" and place.is_dir():
        shutil.rmtree(place)
    elif kind == "remove":
        place.unlink()
    elif kind == "move":
        (root / other).parent.mkdir(parents=True, exist_ok=True)
        place.rename(root / other)
    elif kind == "odd":
        make_odd(["link", "loop", "future", "hard"][number % 4], place, root.parent)
    elif kind == "ignore":
        (root / ".gitignore").write_text(f"{other}\n")
