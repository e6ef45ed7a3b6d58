"""What sources import, and how central that makes each file of a tree.

A regular expression a language, not a parser: it takes a tenth of the time, and an import that is
seen in a comment costs nothing but a little accuracy. Each expression is bounded: no text, however
odd, takes long.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from math import log1p
from posixpath import dirname, normpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

MAX_IMPORTS = 500  # of a file
MAX_CHARS = 64 * 1024  # of a file are looked at: imports stand at its start
# Where more files than this could be meant, none is.
MAX_CANDIDATES = 50

# Given a bracket at the end of the text, so that one that is left open is looked for only once.
_PYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]*"
    r"(\([^)#]*(?:#[^\n]*[^)#]*)*\)|(?:[^\n\\]|\\\n)*)"
    r"|import[ \t]+((?:[^\n\\]|\\\n)*))",
    re.MULTILINE,
)
_PYTHON_NAME = re.compile(r"[.\w]+")
_COMMENT = re.compile(r"#[^\n]*")
_SCRIPT = re.compile(
    r"""\b(?:from|import|require)\b\s{0,20}\(?\s{0,20}(["'`])([^"'`\n$]{1,300})\1"""
)
_GO = re.compile(r'^import[ \t]{0,20}(?:\(([^)]*)\)|[\w. \t]{0,80}"([^"\n]+)")', re.MULTILINE)
_QUOTED = re.compile(r'"([^"\n]+)"')
_RUST = re.compile(
    r"^[ \t]*(?:pub(?:\([^)\n]*\))?[ \t]+)?(?:mod[ \t]+(\w+)[ \t]*;|use\s([^;]{1,1000});)",
    re.MULTILINE,
)
_C = re.compile(r'^[ \t]*#[ \t]*(?:include|import)[ \t]*(?:"([^"\n]+)"|(<[^>\n]+>))', re.MULTILINE)
_JAVA = re.compile(r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+\*?)", re.MULTILINE)
_C_SHARP = re.compile(
    r"^[ \t]*(?:global[ \t]+)?using[ \t]+(?:static[ \t]+)?(?:\w+[ \t]*=[ \t]*)?([\w.]+)[ \t]*;",
    re.MULTILINE,
)
_RUBY = re.compile(
    r"""^[ \t]*(require|require_relative|load)[ \t]*\(?[ \t]*["']([^"'\n#]+)["']""", re.MULTILINE
)
_PHP = re.compile(
    r"""^[ \t]*use[ \t]+(?:function[ \t]+|const[ \t]+)?([\w\\][^;()]{0,500});"""
    r"""|\b(?:require|include)(?:_once)?\b[^;"'\n]{0,80}["']([^"'\n$]+)["']""",
    re.MULTILINE,
)
_SHELL = re.compile(r"^[ \t]*(?:source|\.)[ \t]+([^\n;&|]{1,300})", re.MULTILINE)
_SHELL_VARIABLE = re.compile(r"\$\w+|\$\{[^}\n]*\}|\$\([^)\n]*\)+|[\"']")
_BRACES = re.compile(r"([\w:\\]*)\{([^{}]*)\}")
_MANIFESTS = {
    "go.mod": re.compile(r"^module[ \t]+\"?([^\s\"]+)", re.MULTILINE),
    "package.json": re.compile(r'^(?:\{|  |\t|    )\s*"name"\s*:\s*"([^"\n]+)"', re.MULTILINE),
    "Cargo.toml": re.compile(
        r"^\[package\][^\[]*?^name[ \t]*=[ \t]*\"([^\"\n]+)\"", re.MULTILINE | re.DOTALL
    ),
}
_SCRIPT_ENDINGS = (
    *(".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs"),
    *(".vue", ".svelte", ".json"),
)


def imported(path: str, text: str) -> tuple[str, ...]:
    """Tell what a source imports.

    Args:
        path: relative, with `/`; its ending decides on the language.
        text: the whole file; it may be broken.

    Returns:
        What is imported, as written, each once. Python: modules with their dots, a name that is
        taken from a module too where it may be a module itself. C: with ``<>`` where written so.
        Rust: ``mod NAME``, and paths without their braces. Ruby and PHP: with ``./`` where it is
        relative to the file. ``go.mod``, ``package.json`` and ``Cargo.toml`` give the name by which
        their directory is imported.
    """
    name, text = path.rpartition("/")[2], text[:MAX_CHARS]
    if name in _MANIFESTS:
        return tuple(_MANIFESTS[name].findall(text)[:1])
    find = _FINDERS.get(name.rpartition(".")[2].lower())
    return tuple(dict.fromkeys(find(text)))[:MAX_IMPORTS] if find else ()


def centrality(imports: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Tell how central each file is to its tree: by how many of the others import it.

    It is ``log(1 + n) / log(1 + N)``, where n files import a file directly and N the most imported
    one. The logarithm keeps one file that all import from hiding the rest. Who imports the
    importers is not asked: a pack wants what is used by what is read, one step away.

    Only what an import resolves to inside the tree counts: by a relative path, by the name in a
    manifest, else by the longest shared end of the path. Where several files could be meant, it is
    the one nearest to the importer.

    Args:
        imports: what each file of the tree imports, as `imported` gives it; files that import
            nothing belong in it too.

    Returns:
        0 to 1 for each file; 0 where nobody imports it.
    """
    tree = _Tree(imports)
    importers: Counter[str] = Counter()
    for path, specs in imports.items():
        importers.update({target for spec in specs for target in tree.resolve(path, spec)} - {path})
    most = log1p(max(importers.values(), default=0)) or 1.0
    return {path: log1p(importers[path]) / most for path in imports}


def _python(text: str) -> Iterator[str]:
    for module, names, modules in _PYTHON.findall(f"{text}\n)"):
        parts = _COMMENT.sub("", names or modules).split(",")
        listed = [match[0] for part in parts if (match := _PYTHON_NAME.search(part))]
        if not module:
            yield from listed
            continue
        if module.strip("."):
            yield module
        prefix = module if module.endswith(".") else f"{module}."
        # A class is no module, as far as its name tells.
        yield from (prefix + name for name in listed if not name[0].isupper())


def _script(text: str) -> Iterator[str]:
    return (spec for _, spec in _SCRIPT.findall(text))


def _go(text: str) -> Iterator[str]:
    for group, single in _GO.findall(f"{text}\n)"):
        yield from _QUOTED.findall(group) if group else (single,)


def _rust(text: str) -> Iterator[str]:
    for module, used in _RUST.findall(text):
        if module:
            yield f"mod {module}"
        else:
            yield from (name.removesuffix("::self") for name in _branches(used))


def _c(text: str) -> Iterator[str]:
    return (quoted or pointed for quoted, pointed in _C.findall(text))


def _ruby(text: str) -> Iterator[str]:
    for word, spec in _RUBY.findall(text):
        yield spec if word == "require" else f"./{spec}"


def _php(text: str) -> Iterator[str]:
    for used, file in _PHP.findall(text):
        if file:
            yield f"./{file.lstrip('/')}"
        else:
            yield from _branches(used)


def _shell(text: str) -> Iterator[str]:
    for spec in _SHELL.findall(text):
        words = _SHELL_VARIABLE.sub("", spec).split()
        if words:
            yield words[0].lstrip("/")


def _branches(used: str) -> Iterator[str]:
    """Write out ``a::{b, c::{d, e}}`` as ``a::b``, ``a::c::d`` and ``a::c::e``, without aliases."""
    for _ in range(100):
        match = _BRACES.search(used)
        if not match or len(used) > MAX_CHARS:
            break
        prefix, inner = match.groups()
        spread = ",".join(prefix + name.strip() for name in inner.split(",") if name.strip())
        used = used[: match.start()] + spread + used[match.end() :]
    return (name.split()[0] for name in used.split(",") if name.strip())


_FINDERS: Mapping[str, Callable[[str], Iterable[str]]] = {
    **dict.fromkeys(("py", "pyi"), _python),
    **dict.fromkeys(
        ("js", "jsx", "mjs", "cjs", "ts", "tsx", "mts", "cts", "vue", "svelte"), _script
    ),
    "go": _go,
    "rs": _rust,
    **dict.fromkeys(("c", "h", "cc", "cpp", "cxx", "hh", "hpp", "hxx"), _c),
    **dict.fromkeys(("java", "kt", "kts", "scala"), _JAVA.findall),
    "cs": _C_SHARP.findall,
    **dict.fromkeys(("rb", "rake"), _ruby),
    "php": _php,
    **dict.fromkeys(("sh", "bash"), _shell),
}


class _Tree:
    """The files of a tree, to be found by what imports say."""

    def __init__(self, imports: Mapping[str, Sequence[str]]) -> None:
        self._paths = imports.keys()
        self._ends: defaultdict[str, list[str]] = defaultdict(list)
        self._directories: defaultdict[str, list[str]] = defaultdict(list)
        self._named: dict[tuple[str, str], str] = {}
        self._known: dict[tuple[str, str, str], tuple[str, ...]] = {}
        for path, specs in imports.items():
            directory, _, name = path.rpartition("/")
            self._directories[directory].append(path)
            for end in _ends(path):
                self._ends[end].append(path)
            if name in _MANIFESTS and specs:
                plain = specs[0].replace("-", "_") if name == "Cargo.toml" else specs[0]
                self._named[name, plain] = directory

    def resolve(self, path: str, spec: str) -> tuple[str, ...]:
        """Return the files that an import in `path` means; none where it is not of this tree."""
        directory, _, name = path.rpartition("/")
        ending = name.rpartition(".")[2].lower()
        resolver = _RESOLVERS.get(ending)
        if resolver is None:
            return ()
        # Files of a directory mostly import the same; what a Rust module is depends on its name.
        key = (path if ending == "rs" else directory, ending, spec)
        if key not in self._known:
            self._known[key] = tuple(resolver(self, path, spec))
        return self._known[key]

    def exact(self, *paths: str) -> list[str]:
        """Return the first of the paths that is there."""
        return next(([path] for path in paths if path in self._paths), [])

    def near(self, path: str, *ends: str) -> list[str]:
        """Return, for the first end that files have, the file nearest to `path`."""
        for end in ends:
            found = [other for other in self._ends.get(end, ()) if other != path]
            if 0 < len(found) <= MAX_CANDIDATES:
                return [_nearest(path, found)]
        return []

    def manifest(self, kind: str, spec: str, separator: str = "/") -> tuple[str, str] | None:
        """Return the directory whose manifest names the longest start of `spec`, and the rest."""
        start, rest = spec, ""
        while start:
            if (kind, start) in self._named:
                return self._named[kind, start], rest
            start, _, last = start.rpartition(separator)
            rest = f"{last}{separator}{rest}" if rest else last
        return None

    def python(self, path: str, spec: str) -> list[str]:
        """Find a module: by its dots, else below a directory that is no package itself."""
        module = spec.lstrip(".")
        tail = module.replace(".", "/")
        if module != spec:
            base = dirname(path)
            for _ in range(len(spec) - len(module) - 1):
                base = dirname(base)
            return self.exact(*_python_files(_join(base, tail)))
        if spec.partition(".")[0] in sys.stdlib_module_names:
            return []
        for end in _python_files(tail):
            roots = (other[: -len(end)] for other in self._ends.get(end, ()))
            found = [root + end for root in roots if f"{root}__init__.py" not in self._paths]
            if 0 < len(found) <= MAX_CANDIDATES:
                return [_nearest(path, found)]
        return []

    def script(self, path: str, spec: str) -> list[str]:
        """Find a script: by its path, by a package's name, else by what follows an alias."""
        if spec.startswith("."):
            return self.exact(*_script_files(_join(dirname(path), spec)))
        package = self.manifest("package.json", spec)
        if package:
            directory, rest = package
            places = (rest, f"src/{rest}") if rest else ("src/index", "index", "lib/index")
            return self.exact(
                *(f for place in places for f in _script_files(_join(directory, place)))
            )
        alias, _, rest = spec.partition("/")
        end = rest if alias.strip("@~#$") == "" or alias == "$lib" else spec if rest else ""
        return self.near(path, *_script_files(end)) if end and not spec.startswith("node:") else []

    def go(self, _: str, spec: str) -> list[str]:
        """Find a package: all files of its directory, but its tests."""
        module = self.manifest("go.mod", spec)
        files = self._directories.get(_join(*module), ()) if module else ()
        return [f for f in files if f.endswith(".go") and not f.endswith("_test.go")]

    def rust(self, path: str, spec: str) -> list[str]:
        """Find a module: from the crate, from where the file stands, or in a crate of the tree."""
        directory, _, name = path.rpartition("/")
        own = directory if name in ("lib.rs", "main.rs", "mod.rs") else path.removesuffix(".rs")
        if spec.startswith("mod "):
            return self.exact(*_rust_files(_join(own, spec[4:])))
        first, *parts = spec.removeprefix("::").split("::")
        if first == "crate":
            while directory and not self.exact(f"{directory}/lib.rs", f"{directory}/main.rs"):
                directory = dirname(directory)
            return self._rust_module(directory, parts)
        crate = self._named.get(("Cargo.toml", first))
        if crate is not None:
            return self._rust_module(_join(crate, "src"), parts)
        while first == "super":
            own = dirname(own)
            first, parts = (parts[0], parts[1:]) if parts else ("self", [])
        known = first == "self" or spec.startswith("super::")
        return self._rust_module(own, parts if first == "self" else [first, *parts], item=known)

    def _rust_module(self, directory: str, parts: Sequence[str], *, item: bool = True) -> list[str]:
        for length in range(len(parts), 0, -1):
            found = self.exact(*_rust_files(_join(directory, "/".join(parts[:length]))))
            if found:
                return found
        # What is no module is an item of the one where it was looked for.
        names = [_join(directory, name) for name in ("lib.rs", "main.rs", "mod.rs")]
        return self.exact(*names, f"{directory}.rs") if item else []

    def c(self, path: str, spec: str) -> list[str]:
        """Find a header: beside the file, else by the end of its path."""
        if not spec.startswith("<"):
            return self.exact(_join(dirname(path), spec)) or self.near(path, spec)
        # <string.h> is the system's, whatever the tree has.
        return self.near(path, spec.strip("<>")) if "/" in spec else []

    def java(self, path: str, spec: str) -> list[str]:
        """Find a class, or the class of a static member."""
        tail = spec.replace(".", "/")
        stems = [stem for stem in (tail, dirname(tail)) if "/" in stem]
        return self.near(path, *(s + e for s in stems for e in (".java", ".kt", ".scala")))

    def ruby(self, path: str, spec: str) -> list[str]:
        """Find a file: relative to this one, or below a directory `lib`."""
        file = spec if spec.endswith(".rb") else f"{spec}.rb"
        if spec.startswith("."):
            return self.exact(_join(dirname(path), file))
        return self.near(path, f"lib/{file}", *([file] if "/" in file else []))

    def php(self, path: str, spec: str) -> list[str]:
        """Find a file: relative to this one, or a class by the end of its name."""
        if spec.startswith("./"):
            return self.exact(_join(dirname(path), spec)) or self.near(path, spec[2:])
        parts = [part for part in spec.split("\\") if part]
        ends = ["/".join(parts[start:]) + ".php" for start in range(len(parts))]
        alone = ends.pop() if ends else ""
        found = self.near(path, *ends)
        return found or (self.near(path, alone) if len(self._ends.get(alone, ())) == 1 else [])

    def shell(self, path: str, spec: str) -> list[str]:
        """Find a script: relative to this one, else by the end of its path."""
        return self.exact(_join(dirname(path), spec)) or self.near(path, spec)


_RESOLVERS: Mapping[str, Callable[[_Tree, str, str], list[str]]] = {
    ending: resolver
    for find, resolver in (
        (_python, _Tree.python),
        (_script, _Tree.script),
        (_go, _Tree.go),
        (_rust, _Tree.rust),
        (_c, _Tree.c),
        (_JAVA.findall, _Tree.java),
        (_ruby, _Tree.ruby),
        (_php, _Tree.php),
        (_shell, _Tree.shell),
    )
    for ending, finder in _FINDERS.items()
    if finder == find
}


def _ends(path: str) -> Iterator[str]:
    """Yield a path, then the path without its first directory, and so on."""
    yield path
    at = path.find("/")
    while at >= 0:
        yield path[at + 1 :]
        at = path.find("/", at + 1)


def _nearest(path: str, others: Sequence[str]) -> str:
    """Return the file that shares the most directories with `path`, of those the shortest path."""
    if len(others) == 1:
        return others[0]
    return min(others, key=lambda other: (-_shared(path, other), len(other), other))


def _shared(path: str, other: str) -> int:
    """Count the directories at the start that two paths share."""
    shared = 0
    for one, two in zip(path.split("/")[:-1], other.split("/")[:-1], strict=False):
        if one != two:
            break
        shared += 1
    return shared


def _join(directory: str, tail: str) -> str:
    joined = normpath(f"{directory}/{tail}" if directory else tail or ".")
    return "" if joined == "." else joined


def _python_files(stem: str) -> tuple[str, ...]:
    package = f"{stem}/__init__.py".lstrip("/")
    return (f"{stem}.py", package, f"{stem}.pyi") if stem else (package,)


def _rust_files(stem: str) -> tuple[str, ...]:
    return f"{stem}.rs", f"{stem}/mod.rs"


def _script_files(stem: str) -> tuple[str, ...]:
    # TypeScript writes the name of what will be there once it is compiled.
    source = re.sub(r"\.[cm]?js$", "", stem)
    plain = (source + ending for ending in _SCRIPT_ENDINGS)
    return (stem, *plain, *(f"{stem}/index{ending}" for ending in _SCRIPT_ENDINGS))
