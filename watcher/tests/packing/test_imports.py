"""What sources import, and who is imported by many."""

from __future__ import annotations

import time
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.packing.imports import MAX_IMPORTS, centrality, imported

SOURCES = {
    "python": (
        "app/a.py",
        """
        from __future__ import annotations
        import os, a.b.c as c  # why
        from . import one, two as three
        from ..pkg.mod import (  # why (not)
            name,  # a comment, with a comma
            Class,
            LIMIT,
        )
        from x import y, \\
            z
        if TYPE_CHECKING:
            from typing import Any
        import broken(
        text = "from here import this"
        """,
        (
            "__future__",
            "__future__.annotations",
            "os",
            "a.b.c",
            ".one",
            ".two",
            "..pkg.mod",
            "..pkg.mod.name",
            "x",
            "x.y",
            "x.z",
            "typing",
            "broken",
        ),
    ),
    "javascript": (
        "app.mjs",
        """
        import React, {
          useState,
        } from "react";
        import './side.css';
        import type { A } from '../types'
        export * from "./all.js";
        const fs = require('fs'), x = require( "./x" );
        const lazy = () => import('./lazy');
        const computed = require(`./${name}`);
        array.from(things);
        """,
        ("react", "./side.css", "../types", "./all.js", "fs", "./x", "./lazy"),
    ),
    "vue": ("App.vue", "<script setup>\nimport A from './A.vue'\n</script>", ("./A.vue",)),
    "go": (
        "main.go",
        """
        package main
        import "fmt"
        import (
          "net/http" // why
          json "example.com/app/json"
          _ "embed"
        )
        import . "example.com/dot"
        """,
        ("fmt", "net/http", "example.com/app/json", "embed", "example.com/dot"),
    ),
    "rust": (
        "src/lib.rs",
        """
        pub mod one;
        mod two { fn x() {} }
        pub(crate) use crate::a::{
            self,
            b::{C, d as e},
            *,
        };
        use super::up;
        use std::fmt;
        """,
        (
            "mod one",
            "crate::a",
            "crate::a::b::C",
            "crate::a::b::d",
            "crate::a::*",
            "super::up",
            "std::fmt",
        ),
    ),
    "c": (
        "a.c",
        '#include "list.h"\n#  include <sys/types.h> // why\n#import "old.h"\n',
        ("list.h", "<sys/types.h>", "old.h"),
    ),
    "java": (
        "A.java",
        "package a;\nimport a.b.C;\nimport static a.b.D.run;\nimport a.e.*;\n",
        ("a.b.C", "a.b.D.run", "a.e.*"),
    ),
    "kotlin": ("A.kt", "import a.b.C\nimport a.b.D as E\n", ("a.b.C", "a.b.D")),
    "c#": (
        "A.cs",
        "using System;\nglobal using static A.B;\nusing C = A.D;\nusing (var x = y) {}\n",
        ("System", "A.B", "A.D"),
    ),
    "ruby": (
        "a.rb",
        "require 'json'\nrequire_relative 'lib/b'\nload(\"./c.rb\")\n",
        ("json", "./lib/b", "././c.rb"),
    ),
    "php": (
        "a.php",
        """
        <?php
        use App\\Models\\{User, Post as P};
        use function App\\helper;
        require_once __DIR__ . '/boot.php';
        $f = function () use ($x) { return 1; };
        """,
        ("App\\Models\\User", "App\\Models\\Post", "App\\helper", "./boot.php"),
    ),
    "shell": (
        "a.sh",
        'source ./one.sh\n. "$DIR/lib/two.sh"\n. "$(dirname "$0")/three.sh" arg\n./run.sh\n',
        ("./one.sh", "lib/two.sh", "three.sh"),
    ),
    "go.mod": ("go.mod", "// why\nmodule example.com/app\n\ngo 1.22\n", ("example.com/app",)),
    "package.json": (
        "p/package.json",
        '{\n  "version": "1",\n  "name": "@app/shared",\n  "author": {\n      "name": "me"\n  }\n}',
        ("@app/shared",),
    ),
    "Cargo.toml": (
        "c/Cargo.toml",
        '[package]\nversion = "1"\nname = "my-crate"\n\n[[bin]]\nname = "x"\n',
        ("my-crate",),
    ),
}


@pytest.mark.parametrize("language", SOURCES)
def test_what_a_source_imports_is_told_as_written(language: str) -> None:
    path, source, imports = SOURCES[language]
    assert imported(path, dedent(source)) == imports


@pytest.mark.parametrize("path", ["notes.md", "data.json", "Makefile", ""])
def test_what_is_no_source_imports_nothing(path: str) -> None:
    assert imported(path, "import os\nfrom 'x'\n") == ()


def test_an_import_is_told_once_and_not_without_end() -> None:
    assert imported("a.go", 'import "x"\nimport "x"\n') == ("x",)
    many = "".join(f"import m{i}\n" for i in range(2 * MAX_IMPORTS))
    assert len(imported("a.py", many)) == MAX_IMPORTS


def test_a_bracket_that_is_left_open_is_read_to_the_end() -> None:
    assert imported("a.py", "from a import (b,\n  c\n") == ("a", "a.b", "a.c")
    assert imported("a.go", 'import (\n"a"\n') == ("a",)


def test_a_text_that_goes_on_is_looked_at_only_at_its_start() -> None:
    assert imported("a.py", "import a\n" + "x = 1\n" * 20_000 + "import b\n") == ("a",)


# Of each tree: the files with what they import, and who is imported by whom.
TREES = {
    "python, by dots": (
        {"app/a.py": (".b", "..top"), "app/b.py": (), "top.py": (), "app/__init__.py": (".b",)},
        {"app/b.py": 2, "top.py": 1},
    ),
    "python, by its full name": (
        {
            "src/app/a.py": ("app.sub.b", "app.sub"),
            "src/app/sub/b.py": (),
            "src/app/__init__.py": (),
        }
        | {"src/app/sub/__init__.py": ()},
        {"src/app/sub/b.py": 1, "src/app/sub/__init__.py": 1},
    ),
    "python, no module of the language": (
        {"app/a.py": ("json", "logging.config"), "app/json.py": (), "logging/config.py": ()},
        {},
    ),
    "python, no part of a package from outside": (
        {"a.py": ("views",), "app/__init__.py": (), "app/views.py": ()},
        {},
    ),
    "python, the nearest": (
        {"one/deep/run.py": ("lib",), "one/deep/lib.py": (), "two/lib.py": ()},
        {"one/deep/lib.py": 1},
    ),
    "javascript, by path": (
        {"src/a.ts": ("./b", "./c.js", "../lib", "./d"), "src/b.tsx": (), "src/c.ts": ()}
        | {"lib/index.js": (), "src/d/index.vue": ()},
        {"src/b.tsx": 1, "src/c.ts": 1, "lib/index.js": 1, "src/d/index.vue": 1},
    ),
    "javascript, by a package's name": (
        {"p/a/src/x.ts": ("@app/b", "@app/b/deep", "lodash")}
        | {"p/b/package.json": ("@app/b",), "p/b/src/index.ts": (), "p/b/src/deep.ts": ()},
        {"p/b/src/index.ts": 1, "p/b/src/deep.ts": 1},
    ),
    "javascript, by an alias": (
        {"web/src/a.vue": ("@/lib/b", "~/c", "fs", "node:path/posix"), "web/src/lib/b.ts": ()}
        | {"web/src/c.js": (), "web/fs.js": (), "node:path/posix.js": ()},
        {"web/src/lib/b.ts": 1, "web/src/c.js": 1},
    ),
    "go, all files of a package": (
        {"go.mod": ("example.com/app",), "main.go": ("example.com/app/pkg/x", "fmt")}
        | {"pkg/x/a.go": (), "pkg/x/b.go": (), "pkg/x/a_test.go": (), "fmt/fmt.go": ()},
        {"pkg/x/a.go": 1, "pkg/x/b.go": 1},
    ),
    "rust, in a crate": (
        {"c/src/lib.rs": ("mod a", "mod b"), "c/src/a.rs": ("crate::b::C::d", "mod in_a")}
        | {"c/src/a/in_a.rs": ("super::x", "crate::Z"), "c/src/b/mod.rs": ("self::deep::Y",)}
        | {"c/src/b/deep.rs": ("super::super::a", "a::x", "std::fmt")},
        {"c/src/a.rs": 3, "c/src/b/mod.rs": 2, "c/src/a/in_a.rs": 1, "c/src/b/deep.rs": 1}
        | {"c/src/lib.rs": 1},
    ),
    "rust, the same words in two modules": (
        {"a.rs": ("mod x",), "b.rs": ("mod x",), "a/x.rs": (), "b/x.rs": ()},
        {"a/x.rs": 1, "b/x.rs": 1},
    ),
    "rust, a program beside a library": ({"main.rs": ("std::fmt",), "lib.rs": ()}, {}),
    "rust, of another crate": (
        {"one/Cargo.toml": ("my-one",), "one/src/lib.rs": (), "one/src/x.rs": ()}
        | {"two/src/main.rs": ("my_one::x::Y", "my_one::Z", "serde::x")},
        {"one/src/x.rs": 1, "one/src/lib.rs": 1},
    ),
    "c, beside the file or by the end of the path": (
        {"src/a.c": ("b.h", "util/c.h", "<util/c.h>", "<string.h>"), "src/b.h": (), "b.h": ()}
        | {"include/util/c.h": (), "string.h": ()},
        {"src/b.h": 1, "include/util/c.h": 1},
    ),
    "java, a class and a static member": (
        {"m/java/a/A.java": ("a.b.C", "a.b.D.run", "java.util.List"), "m/java/a/b/C.java": ()}
        | {"m/java/a/b/D.kt": (), "n/List.java": ()},
        {"m/java/a/b/C.java": 1, "m/java/a/b/D.kt": 1},
    ),
    "ruby": (
        {"spec/a.rb": ("./b", "app/c", "app", "json"), "spec/b.rb": (), "json.rb": ()}
        | {"lib/app/c.rb": (), "lib/app.rb": ()},
        {"spec/b.rb": 1, "lib/app/c.rb": 1, "lib/app.rb": 1},
    ),
    "php, by name and by path": (
        {"public/index.php": ("./../src/boot.php", "App\\Models\\User", "App\\Kernel")}
        | {"src/boot.php": (), "src/Models/User.php": (), "src/Kernel.php": ()},
        {"src/boot.php": 1, "src/Models/User.php": 1, "src/Kernel.php": 1},
    ),
    "shell": ({"bin/a.sh": ("lib/b.sh",), "lib/b.sh": ()}, {"lib/b.sh": 1}),
}


@pytest.mark.parametrize("tree", TREES)
def test_an_import_is_found_in_the_tree(tree: str) -> None:
    imports, importers = TREES[tree]
    found = centrality(imports)
    assert found.keys() == imports.keys()
    assert {path for path, value in found.items() if value} == importers.keys()
    for path, count in importers.items():
        assert (found[path] == 1) == (count == max(importers.values()))


def test_the_most_imported_file_is_at_one_and_the_rest_by_the_logarithm() -> None:
    imports = {f"m{i}.py": ("a", *(["b"] if i < 2 else [])) for i in range(8)}
    found = centrality(imports | {"a.py": (), "b.py": ()})
    assert found["a.py"] == 1
    assert found["b.py"] == pytest.approx(0.5)  # log 3 to log 9
    assert found["m0.py"] == 0


def test_a_file_that_imports_twice_or_itself_counts_once_or_not() -> None:
    imports = {"a.py": ("b", ".b", "a"), "c.py": ("d",), "b.py": (), "d.py": ()}
    assert centrality(imports) == {"a.py": 0, "c.py": 0, "b.py": 1, "d.py": 1}


def test_an_import_that_could_mean_many_files_means_none() -> None:
    imports = {f"p{i}/x/y.h": () for i in range(60)} | {"a.c": ("x/y.h",)}
    assert set(centrality(imports).values()) == {0}


def test_a_tree_without_imports_has_no_centre() -> None:
    assert centrality({}) == {}
    assert centrality({"a.py": (), "b.md": ()}) == {"a.py": 0, "b.md": 0}


def test_a_large_tree_takes_no_minutes() -> None:
    imports = {
        f"src/pkg{i % 200}/mod{i}.py": tuple(f"pkg{j % 200}.mod{j}" for j in range(i, i + 10))
        for i in range(20_000)
    }
    begun = time.process_time()
    found = centrality(imports)
    assert time.process_time() - begun < 60, "it grows with more than the imports"
    assert found["src/pkg100/mod9900.py"] == 1


PIECES = ["import (\n", "import ", "use a\n", "use a{", "from a import (", "source $(", "from    "]


@pytest.mark.parametrize(
    "piece", [*PIECES, "require(", '"name":', ". ${", "#include <", "a{", "\\\n"]
)
@pytest.mark.parametrize("path", sorted({path for path, _, _ in SOURCES.values()}))
def test_no_text_takes_long(path: str, piece: str) -> None:
    text = piece * (256 * 1024 // len(piece)) + " " * 10_000
    begun = time.process_time()
    imported(path, text)
    imported(path, f"use {text};")
    imported(path, piece + " " * 256 * 1024)
    assert time.process_time() - begun < 20, "such texts took minutes"


@given(st.sampled_from(sorted({path for path, _, _ in SOURCES.values()})), st.data())
def test_no_text_and_no_import_is_too_odd(path: str, data: st.DataObject) -> None:
    words = st.sampled_from(["import", "from", "use", "mod", "..", "/", "::", "{", "}", "'", '"'])
    text = "".join(data.draw(st.lists(words | st.sampled_from([" ", "\n", "a", ".", ";", "("]))))
    specs = imported(path, text)
    found = centrality({path: specs, "a/b.py": tuple(text.split()), "a/c.rs": tuple(text.split())})
    assert all(0 <= value <= 1 for value in found.values())
