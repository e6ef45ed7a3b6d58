"""The symbol map's lines: names of every language, and nothing but names."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from textwrap import dedent

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infbox.packing.symbols import LANGUAGES, MAX_BYTES, MAX_MEMBERS, MAX_NAMES, MORE, outline

SOURCES = {
    "python": (
        "tree.py",
        """
        import os
        LIMIT = 3
        @dataclass(frozen=True)
        class Tree(Base):
            path: str = "hunter2"
            @property
            def size(self): return 1
            def __init__(self): ...
            async def scan(self, where="hunter2"):
                def inner(): ...
            class Meta:
                def order(self): ...
        try:
            import fast
        except ImportError:
            def slow(): ...
        def main(argv=None): ...
        """,
        ("class Tree: path, size, scan", "class Tree.Meta: order", "def slow, main"),
    ),
    "javascript": (
        "app.mjs",
        """
        const key = "hunter2";
        export const limit = 3, { hidden } = key;
        export default class App extends Base {
          #count = 0;
          constructor() {}
          run(x = "hunter2") {}
          static get name() {}
          "quoted name"() {}
        }
        const arrow = () => 1, plain = 2;
        function* walk() {}
        exports.send = function () {};
        App.prototype["hunter2"] = function () {};
        if (true) { function late() {} }
        """,
        (
            "const limit",
            "class App: #count, run, name",
            "const arrow",
            "function walk, exports.send, late",
        ),
    ),
    "typescript": (
        "app.ts",
        """
        export interface Ref<T = any> { readonly value: T; get(): T }
        export type Maybe<T> = T | Ref<T>
        enum Color { Red = "hunter2", Green }
        abstract class Box<T> { private item?: T = undefined; abstract open(): void }
        declare module "hunter2" { export function inside(): void }
        namespace Space { export function of(x: "hunter2"): void }
        export function is(r: any): r is Ref { return true }
        """,
        (
            "interface Ref: value, get",
            "type Maybe",
            "enum Color: Red, Green",
            "class Box: item, open",
            "function inside, of, is",
        ),
    ),
    "tsx": (
        "view.tsx",
        'export const View: FC = () => <a href="hunter2">text</a>;\nexport function Two() {}',
        ("const View", "function Two"),
    ),
    "go": (
        "serve.go",
        """
        package main
        const Key = "hunter2"
        type Handler struct { Name string `json:"hunter2"`; next http.Handler }
        type Closer interface { Close() error }
        type ID int
        func (h *Handler) Serve(w io.Writer) {}
        func (h Handler) Stop() {}
        func (l *List[T]) Push(v T) {}
        func New() *Handler { return nil }
        """,
        (
            "type Handler: Name, next",
            "type Closer: Close",
            "type ID",
            "func Handler: Serve, Stop",
            "func List: Push",
            "func New",
        ),
    ),
    "rust": (
        "lib.rs",
        """
        mod glob;
        const KEY: &str = "hunter2";
        pub struct Glob<'a> { pub re: &'a str, opts: Options }
        pub enum Token { Literal(char), Any }
        trait Match { fn is_match(&self) -> bool; }
        impl<'a> fmt::Display for Glob<'a> { fn fmt(&self) {} }
        impl<'a> Glob<'a> { pub fn new() {} }
        macro_rules! err { () => { "hunter2" } }
        pub(crate) fn parse() {}
        """,
        (
            "mod glob",
            "struct Glob: re, opts",
            "enum Token: Literal, Any",
            "trait Match: is_match",
            "impl Glob: fmt, new",
            "macro err",
            "fn parse",
        ),
    ),
    "java": (
        "Tree.java",
        """
        package a.b;
        public class Tree<T> extends Base {
          private String key = "hunter2";
          public Tree() {}
          @Named("hunter2") public void scan(int x) {}
          enum Kind { LEAF, NODE; int order() { return 1; } }
          static class Node { void next() {} }
        }
        interface Walk { void step(); }
        record Point(int x) { int twice() { return 2 * x; } }
        """,
        (
            "class Tree: scan",
            "enum Tree.Kind: LEAF, NODE, order",
            "class Tree.Node: next",
            "interface Walk: step",
            "record Point: twice",
        ),
    ),
    "c": (
        "list.c",
        """
        #include "list.h"
        #define KEY "hunter2"
        typedef struct node { int *value, size; struct node *next; } node;
        struct pair { int a, b[2]; };
        enum kind { LEAF = 1, NODE };
        static const char *key = "hunter2";
        #ifdef FAST
        static char **split(const char *s) { return 0; }
        #endif
        int main(void) { return 0; }
        """,
        (
            "typedef node: value, size, next",
            "struct pair: a, b",
            "enum kind: LEAF, NODE",
            "func split, main",
        ),
    ),
    "header": (
        "tree.h",
        """
        #ifndef TREE_H
        #define TREE_H
        extern "C" { int tree_size(const struct tree *t); }
        namespace a { namespace b {
        template <class T> class Tree : public Base {
         public:
          Tree();
          virtual void scan(const char *k = "hunter2") = 0;
          T *root() { return root_; }
         private:
          T *root_ = nullptr;
        };
        }}
        #endif
        """,
        ("func tree_size", "class Tree: Tree, scan, root, root_"),
    ),
    "c++": (
        "tree.cpp",
        'void Tree::scan() {}\nint main() { std::string s = "hunter2"; }',
        ("func Tree::scan, main",),
    ),
    "c#": (
        "Tree.cs",
        """
        namespace A.B;
        public class Tree : Base {
          const string Key = "hunter2";
          public int Size { get; set; } = 3;
          public async Task Scan(string k = "hunter2") {}
        }
        interface IWalk { void Step(); }
        enum Kind { Leaf, Node }
        """,
        ("class Tree: Size, Scan", "interface IWalk: Step", "enum Kind: Leaf, Node"),
    ),
    "php": (
        "Tree.php",
        """
        <?php
        namespace App\\Models;
        const KEY = 'hunter2';
        class Tree extends Base { private $key = 'hunter2';
          public function __construct() {} public static function scan($k = 'hunter2') {} }
        interface Walk { function step(); }
        trait Lists { function all() {} }
        enum Kind: string { case Leaf = 'hunter2'; }
        function helper() {}
        """,
        (
            "class Tree: scan",
            "interface Walk: step",
            "trait Lists: all",
            "enum Kind: Leaf",
            "function helper",
        ),
    ),
    "ruby": (
        "tree.rb",
        """
        KEY = 'hunter2'
        module Forest
          class Tree < Base
            def initialize(key = 'hunter2'); end
            def scan?; end
            def self.open; end
            class << self
              def close; end
            end
            def ==(other); end
          end
        end
        def main; end
        """,
        ("module Forest", "class Forest.Tree: scan?, open, close", "def main"),
    ),
    "shell": (
        "run.sh",
        """
        KEY=hunter2
        usage() { echo "hunter2"; }
        function run-all {
          inner() { :; }
        }
        function with_both ()
        {
          :
        }
        """,
        ("function usage, run-all, with_both",),
    ),
}


def odd(number: int) -> int:
    """Return a number that follows from another in no way that shows: such texts do not shrink."""
    return int.from_bytes(sha256(str(number).encode()).digest()[:4], "big")


@pytest.mark.parametrize("language", SOURCES)
def test_a_source_is_told_by_its_names(language: str) -> None:
    path, source, lines = SOURCES[language]
    found = outline(path, dedent(source))
    assert found == lines
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize("path", ["notes.md", "values.yaml", "data.json", "Makefile", "a.py/b", ""])
def test_what_is_no_source_has_no_outline(path: str) -> None:
    assert outline(path, "# Heading\nclass Tree:\n    pass\n") == ()


def test_an_ending_counts_whatever_its_case() -> None:
    assert outline("OLD.PY", "def run(): ...") == ("def run",)


def test_a_broken_source_gives_what_can_be_read() -> None:
    source = 'class Tree:\n    def scan(self):\n        return (\n\ndef main():\n    x = "open\n'
    assert "Tree" in "".join(outline("a.py", source))
    assert outline("a.go", "func Whole() {}\n\nfunc Half(") == ("func Whole, Half",)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("a.py", 'class A:\n    x: str = "hunter2 = 1\n    def f(self): ...\n'),
        ("a.py", 'class A:\n    def f(self): ...\n    x = """\n    hunter2 = 1\n'),
        ("a.js", "class A {\n  f() {}\n  x = `hunter2;\n  hunter2 = 1;\n}\n"),
        ("a.ts", 'interface A {\n  f(): void;\n  x: "\n hunter2: number;\n}\n'),
    ],
)
def test_a_string_that_is_left_open_tells_no_field(path: str, source: str) -> None:
    found = "".join(outline(path, source))
    assert "A" in found
    assert "hunter2" not in found


def test_many_names_are_cut_short() -> None:
    lines = outline("a.py", "\n".join(f"def f{i}(): ..." for i in range(MAX_NAMES + 1)))
    assert lines == ("def " + ", ".join(f"f{i}" for i in range(MAX_NAMES)), MORE)


def test_exactly_as_many_names_as_may_be_are_not_cut() -> None:
    lines = outline("a.py", "\n".join(f"def f{i}(): ..." for i in range(MAX_NAMES)))
    assert lines == ("def " + ", ".join(f"f{i}" for i in range(MAX_NAMES)),)


def test_many_members_are_cut_short_and_the_next_type_is_still_there() -> None:
    members = "\n".join(f"    def f{i}(self): ..." for i in range(100))
    first, second = outline("a.py", f"class A:\n{members}\nclass B: ...\n")
    assert first == "class A: " + ", ".join(f"f{i}" for i in range(MAX_MEMBERS)) + f", {MORE}"
    assert second == "class B"


def test_a_name_that_comes_twice_is_told_once() -> None:
    source = (
        "class A:\n    @property\n    def x(self): ...\n    @x.setter\n    def x(self, v): ...\n"
    )
    assert outline("a.py", source) == ("class A: x",)


def test_a_name_as_long_as_a_token_is_none() -> None:
    assert outline("a.py", f"def {'a' * 81}(): ...\ndef b(): ...") == ("def b",)


def test_the_same_text_always_gives_the_same_outline() -> None:
    source = "class A:\n    def f(self): ...\n" * 200
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: outline("a.py", source), range(64)))
    assert len(found) == 1


def test_threads_do_not_read_each_others_text() -> None:
    def names(number: int) -> tuple[str, ...]:
        return outline(
            "a.py", f"def first_{number}(): ...\n" + "x = 1\n" * 400 + f"def b_{number}(): ..."
        )

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(names, range(100)))
    finally:
        sys.setswitchinterval(interval)
    assert found == [(f"def first_{number}, b_{number}",) for number in range(100)]


@pytest.mark.parametrize("ending", LANGUAGES)
@pytest.mark.parametrize("piece", ["(", "a<", 'r#"', "\\\n", "%w(", "template<", "<<A\n", "class "])
def test_a_text_that_is_one_piece_over_and_over_is_given_up_soon(ending: str, piece: str) -> None:
    begun = time.process_time()
    outline(f"a.{ending}", piece * (256 * 1024 // len(piece)))
    assert time.process_time() - begun < 10, "such texts took minutes"


@pytest.mark.parametrize(
    ("ending", "pieces", "length"),
    [
        ("rs", ('r#"', 'r#"x', 'r#"('), MAX_BYTES),
        ("rs", ("%w(",), 15_000),
    ],
)
def test_a_text_that_is_no_source_is_given_up_soon(
    ending: str, pieces: Sequence[str], length: int
) -> None:
    text = "".join(pieces[odd(i) % len(pieces)] for i in range(length // len(pieces[0])))
    begun = time.process_time()
    assert outline(f"a.{ending}", text) == ()
    assert time.process_time() - begun < 20, "such texts took minutes"


def test_a_text_that_goes_on_is_looked_at_only_at_its_start() -> None:
    source = (
        "def first(): ...\n" + "".join(f"x = {i}\n" for i in range(20_000)) + "def last(): ...\n"
    )
    assert outline("a.py", source) == ("def first",)


def test_what_was_read_is_let_go() -> None:
    lines = [f"value_{i} = compute({odd(i)})" for i in range(1000)]
    sources = [f"def f{i}(): ...\n" + "\n".join(lines) for i in range(40)]
    assert outline("a.py", sources[1]) == ("def f1",)
    tracemalloc.start()
    try:
        for source in sources:
            outline("a.py", source)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 200_000  # all of them are over a million bytes


def test_no_grammar_is_loaded_before_the_first_source_is_read() -> None:
    code = (
        "import infbox.packing.symbols, sys; print([m for m in sys.modules if 'tree_sitter' in m])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


ENDINGS = st.sampled_from([*LANGUAGES, "sh"])


@given(ENDINGS, st.binary(max_size=400))
@example("py", b"\xff\xfe\x00def a():")
def test_no_text_is_too_odd(ending: str, content: bytes) -> None:
    for line in outline(f"a.{ending}", content.decode(errors="surrogateescape")):
        assert "\n" not in line


@given(ENDINGS, st.lists(st.sampled_from(sorted(s for _, s, _ in SOURCES.values())), max_size=3))
def test_a_source_of_another_language_gives_no_string(ending: str, sources: list[str]) -> None:
    for line in outline(f"a.{ending}", "".join(map(dedent, sources))):
        assert '"' not in line
        assert "'" not in line


# A secret as it may stand in a literal: code-like surroundings, and a word to be known again.
MARK = "s3cr3tw0rd"
AROUND = st.text(st.sampled_from("abc =:;(){}[]#\\\n'\"def class "), max_size=12)
LITERALS = st.builds(lambda a, b: repr(f"{a}{MARK}{b}"), AROUND, AROUND) | st.builds(
    lambda a, b: f'"""{(a + MARK + b)}"""'.replace("\\", ""),
    AROUND.map(lambda text: text.replace('"', "")),
    AROUND.map(lambda text: text.replace('"', "")),
)
PLACES = st.sampled_from(
    [
        "X = {}\n",
        "def f(a={}): ...\n",
        "class A:\n    x: str = {}\n    y = {}\n    def f(self, b={}): ...\n",
        "@route({})\ndef g(): ...\n",
        "def h():\n    {}\n",
        "{}\n",
        "class B:\n    {}\n    def g(self): ...\n",
        "if x == {}:\n    def k(): ...\n",
        "f(*{})\n",
    ]
)


@given(st.lists(st.tuples(PLACES, LITERALS), max_size=8))
def test_no_literal_of_a_python_source_is_ever_told(parts: list[tuple[str, str]]) -> None:
    source = "".join(place.replace("{}", literal) for place, literal in parts)
    compile(source, "a.py", "exec")  # it is valid, so that the test means something
    assert MARK not in "".join(outline("a.py", source))


@given(st.lists(st.tuples(PLACES, LITERALS), min_size=1, max_size=4), st.integers(0, 400))
def test_no_literal_is_told_of_a_source_that_is_cut(
    parts: list[tuple[str, str]], length: int
) -> None:
    plain = [(place, literal.replace("def", "").replace("class", "")) for place, literal in parts]
    source = "".join(place.replace("{}", literal) for place, literal in plain)
    assert MARK not in "".join(outline("a.py", source[:length]))
