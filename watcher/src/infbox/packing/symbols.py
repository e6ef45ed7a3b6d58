"""The symbol map's lines: what a source defines, by name.

Only identifiers ever come out. A default value, a string or a comment may be a secret, so a name is
taken from the node that the grammar calls a name, and is refused unless it looks like one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from itertools import count, groupby, islice
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple
from zlib import compress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tree_sitter import Node

MAX_NAMES = 60  # of a file
MAX_MEMBERS = 20  # of a type
MAX_DEPTH = 3  # of types inside types
MAX_DEFINITIONS = 2000  # of a file, whose places are told
# What follows in a longer file is not looked at: most reach MAX_NAMES before.
MAX_BYTES = 64 * 1024
# A parser may take so many steps (in hundreds) and read so many chunks, and so many more a KiB.
# Most sources take a third of it; what is no source would have it try for minutes and take
# gigabytes. Not seconds: the same text always gives the same outline.
STEPS, STEPS_A_KIB = 200, 24
READS, READS_A_KIB = 100, 8
CHUNK = 1024
# What is long and shrinks more than this is one thing over and over, for which even so many steps
# take seconds. Sources shrink to a tenth at the least.
MAX_RATIO, MIN_ODD = 25, 16 * 1024
MORE = "…"

_NAME = re.compile(r"[\w$#@:.?!=~\\-]{1,80}")
_LEFT_OUT = re.compile(r"__\w+__|__construct|constructor|initialize")  # each type has them
# The shell's grammar takes gigabytes for a file of here-documents, and only this was asked of it.
_SHELL = re.compile(
    r"^(?:function[ \t]+([\w:.-]+)[ \t]*(?:\([ \t]*\))?|([\w:.-]+)[ \t]*\([ \t]*\))\s*[{(]",
    re.MULTILINE,
)
_IDENTIFIERS = frozenset(
    {
        *("identifier", "type_identifier", "field_identifier", "property_identifier"),
        *("private_property_identifier", "qualified_identifier", "member_expression"),
        *("constant", "scope_resolution", "setter", "name"),
    }
)


@dataclass(frozen=True)
class Language:
    """Where the names are in one language's syntax tree.

    Sets and keys are types of nodes.

    Attributes:
        grammar: the module that holds the grammar, and the function that gives it.
        types: what has members, with the word that the outline shows.
        members: what is listed as a member of a type: what is called.
        fields: further members, by which a broken source is not told: after a string that is left
            open, its text looks like them.
        alone: what stands outside of types, with the word that the outline shows.
        through: what is looked into as if it were not there.
        name: gives the node that names a definition, or None for one that is left out.
        owner: gives the node that names the type of a definition that stands outside of it.
        bodies: matches a function whose lines within are told by their indentation.
    """

    grammar: tuple[str, str]
    types: Mapping[str, str]
    members: frozenset[str]
    fields: frozenset[str]
    alone: Mapping[str, str]
    through: frozenset[str]
    name: Callable[[Node], Node | None]
    owner: Callable[[Node], Node | None] = lambda _: None
    bodies: re.Pattern[bytes] | None = None


class Definition(NamedTuple):
    """Where something is defined, in lines from 1, the last one included.

    Attributes:
        name: of what is defined; empty where it is not told.
        start: the first line, without comments and decorators.
        end: the last line.
        members: what is defined inside of a type.
    """

    name: str
    start: int
    end: int
    members: tuple[Definition, ...] = ()


@dataclass(frozen=True)
class _Entry:
    head: str  # "class Tree: ", "def "
    names: tuple[str, ...]


def outline(path: str, text: str) -> tuple[str, ...]:
    """Tell what a source defines at its top level and in its types.

    Args:
        path: relative, with `/`; its ending decides on the language.
        text: the whole file; it may be broken.

    Returns:
        Lines such as ``class Tree: refresh, scan`` and ``def replay, main`` in the order of the
        source, at most MAX_NAMES names in all; nothing where the language is unknown.
    """
    ending, data = _ending(path), _beginning(text)
    if ending in ("sh", "bash"):
        names = (a or b for a, b in _SHELL.findall(data.decode(errors="replace")))
        return _lines(_Entry("function ", (name,)) for name in names)
    language = LANGUAGES.get(ending)
    root = _root(language, data)
    if language is None or root is None:
        return ()
    if root.has_error:
        language = replace(language, fields=frozenset())
    return _lines(_definitions(language, data, root))


def definitions(path: str, text: str) -> tuple[Definition, ...]:
    """Tell where a source defines what it does at its top level and in its types.

    Args:
        path: as for ``outline``.
        text: the whole file; what comes after MAX_BYTES is not looked at.

    Returns:
        At most MAX_DEFINITIONS in the order of the source; nothing where the language is unknown.
        What is broken in a function alone may hide fewer than it does from ``outline``.
    """
    language, data = LANGUAGES.get(_ending(path)), _beginning(text)
    if language and language.bodies and not _is_odd(data):
        short = language.bodies.sub(_without_body, data)
        root = _parsed(language, short)
        if root is not None and not root.has_error:
            return tuple(_places(language, short, root, count(1)))
    root = _root(language, data)
    if language is None or root is None:
        return ()
    return tuple(_places(language, data, root, count(1)))


def _without_body(function: re.Match[bytes]) -> bytes:
    """Return a function on the same lines with nothing in it: half of parsing is what is within."""
    head, indent, body = function.group("head", "indent", "body")
    lines = body.rstrip()
    last = lines[lines.rfind(b"\n") + 1 :].lstrip()
    # A string or a line that goes on behind these lines; a comment, which may be of what follows.
    goes_on = body.count(b'"""') % 2 or body.count(b"'''") % 2 or lines.endswith(b"\\")
    if goes_on or last.startswith(b"#"):
        return function[0]
    before = lines.count(b"\n")
    return b"".join((head, b"\n" * before, indent, b" pass", b"\n" * (body.count(b"\n") - before)))


def _places(
    language: Language, data: bytes, node: Node, told: Iterator[int], depth: int = 1
) -> Iterator[Definition]:
    for child in _children(language, node):
        kind = child.type  # which the binding makes anew each time
        is_type = kind in language.types
        if not is_type and kind not in language.alone and kind not in language.members:
            continue
        name = _identifier(data, child if kind in _IDENTIFIERS else language.name(child))
        if not name:
            continue
        if next(told) > MAX_DEFINITIONS:
            return
        body = _body(child) if is_type and depth <= MAX_DEPTH else None
        members = () if body is None else tuple(_places(language, data, body, told, depth + 1))
        yield Definition(name, child.start_point.row + 1, child.end_point.row + 1, members)


def _ending(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[2].lower()


def _beginning(text: str) -> bytes:
    return text[:MAX_BYTES].encode(errors="replace")[:MAX_BYTES]


def _root(language: Language | None, data: bytes) -> Node | None:
    """Return the root of the syntax tree; None for no language, or for what is no source."""
    return _parsed(language, data) if language and not _is_odd(data) else None


def _is_odd(data: bytes) -> bool:
    return len(data) > MIN_ODD and len(data) > MAX_RATIO * len(compress(data, 1))


# The binding never lets go of what a reader returns (tree-sitter 0.26.1). So it is the same buffer
# each time, and one parser at a time: they hold the interpreter's lock anyway.
_chunk = bytearray(CHUNK)
_parsing = Lock()


def _parsed(language: Language, data: bytes) -> Node | None:
    """Return the root of the syntax tree, or None where parsing takes too long."""
    tree_sitter = import_module("tree_sitter")  # at first use, for the service's start
    parser = tree_sitter.Parser(_grammar(*language.grammar))
    steps, reads = count(1), count(1)
    most_steps = STEPS + STEPS_A_KIB * len(data) // 1024
    most_reads = READS + READS_A_KIB * len(data) // 1024
    stopped = False

    def read(offset: int, _: object) -> bytes | bytearray:
        nonlocal stopped
        part = data[offset : offset + CHUNK]
        stopped = stopped or next(reads) > most_reads
        if stopped or not part:
            return b""
        _chunk[:] = part.ljust(CHUNK, b"\n")
        return _chunk

    def stop(*_: object) -> bool:
        nonlocal stopped
        stopped = stopped or next(steps) > most_steps
        return stopped

    with _parsing:
        try:
            root: Node = parser.parse(read, progress_callback=stop).root_node
        except ValueError:  # stopped
            return None
    return None if stopped else root


@cache
def _grammar(module: str, function: str) -> object:
    return import_module("tree_sitter").Language(getattr(import_module(module), function)())


def _definitions(
    language: Language, data: bytes, node: Node, outer: str = "", depth: int = 1
) -> Iterator[_Entry]:
    for child in _children(language, node):
        if child.type in language.types:
            name, body = _name(language, data, child), _body(child)
            if not name or (body is None and child.type in ("struct_specifier", "enum_specifier")):
                continue
            members = () if body is None else _members(language, data, body)
            yield _Entry(f"{language.types[child.type]} {outer}{name}: ", members)
            if body is not None and depth < MAX_DEPTH:
                nested = _definitions(language, data, body, f"{outer}{name}.", depth + 1)
                yield from (entry for entry in nested if entry.head.endswith(": "))
        elif child.type in language.alone and (name := _name(language, data, child)):
            owner = _identifier(data, language.owner(child))
            word = language.alone[child.type]
            yield _Entry(f"{word} {owner}: " if owner else f"{word} ", (name,))


def _members(language: Language, data: bytes, body: Node) -> tuple[str, ...]:
    kinds = language.members | language.fields
    nodes = (node for node in _children(language, body) if node.type in kinds)
    names = filter(None, (_name(language, data, node) for node in nodes))
    first = list(islice(names, MAX_MEMBERS + 1))
    return (*first[:MAX_MEMBERS], MORE) if len(first) > MAX_MEMBERS else tuple(first)


def _children(language: Language, node: Node) -> Iterator[Node]:
    """Yield a node's children in order, and in place of one that is looked through its own."""
    # No recursion: a broken source nests as deep as it likes.
    waiting = node.named_children[::-1]
    while waiting:
        child = waiting.pop()
        if child.type in language.through:
            waiting.extend(reversed(child.named_children))
        else:
            yield child


def _body(node: Node) -> Node | None:
    return node.child_by_field_name("body") or node.child_by_field_name("type")


def _name(language: Language, data: bytes, node: Node) -> str:
    name = _identifier(data, node if node.type in _IDENTIFIERS else language.name(node))
    return "" if _LEFT_OUT.fullmatch(name) else name


def _identifier(data: bytes, node: Node | None) -> str:
    """Return the text of a node that names something, or an empty text."""
    if node is None or node.type not in _IDENTIFIERS:
        return ""
    name = data[node.start_byte : node.end_byte].decode(errors="replace")
    return name if _NAME.fullmatch(name) else ""


def _lines(entries: Iterable[_Entry]) -> tuple[str, ...]:
    """Write entries, those that follow each other under one head as one line."""
    lines: list[str] = []
    left = MAX_NAMES
    for head, group in groupby(entries, key=lambda entry: entry.head):
        names = list(dict.fromkeys(islice((n for entry in group for n in entry.names), left + 1)))
        left -= head.endswith(": ")
        if left <= 0:
            return (*lines, MORE)
        more = len(names) > left and names[left] != MORE
        lines.append((head + ", ".join(names[:left])).rstrip(": "))
        if more:
            return (*lines, MORE)
        left -= len(names)
    return tuple(lines)


def _named(node: Node) -> Node | None:
    return node.child_by_field_name("name")


def _python_name(node: Node) -> Node | None:
    return node.child_by_field_name("left" if node.type == "assignment" else "name")


def _c_name(node: Node) -> Node | None:
    """Look for the name in a declarator: a pointer to an array of functions hides it well."""
    name = _named(node)
    inner = node.child_by_field_name("declarator")
    for _ in range(8):
        if inner is None or inner.type in _IDENTIFIERS:
            break
        inner = inner.child_by_field_name("declarator")
    return name or inner


def _go_owner(node: Node) -> Node | None:
    """Look for the type in a method's receiver."""
    receiver = node.child_by_field_name("receiver")
    return _first(receiver, "type_identifier") if receiver else None


def _rust_name(node: Node) -> Node | None:
    if node.type != "impl_item":
        return _named(node)
    kind = node.child_by_field_name("type")
    return _first(kind, "type_identifier") if kind else None


def _first(node: Node, kind: str) -> Node | None:
    waiting = [node]
    for _ in range(20):
        if not waiting or waiting[-1].type == kind:
            break
        waiting.extend(reversed(waiting.pop().named_children))
    return waiting[-1] if waiting and waiting[-1].type == kind else None


_FUNCTIONS = frozenset({"arrow_function", "function_expression", "generator_function", "class"})


def _script_name(node: Node) -> Node | None:
    """Leave out variables and assignments, unless they hold a function or are exported."""
    if node.type == "assignment_expression":
        value, name = node.child_by_field_name("right"), node.child_by_field_name("left")
        return name if value and value.type in _FUNCTIONS else None
    if node.type == "variable_declarator":
        value, place = node.child_by_field_name("value"), node.parent and node.parent.parent
        exported = place and place.type == "export_statement"
        return _named(node) if exported or (value and value.type in _FUNCTIONS) else None
    return _named(node) or node.child_by_field_name("property")


_PYTHON = Language(
    grammar=("tree_sitter_python", "language"),
    types={"class_definition": "class"},
    members=frozenset({"function_definition"}),
    fields=frozenset({"assignment"}),
    alone={"function_definition": "def"},
    through=frozenset(
        {
            *("ERROR", "block", "decorated_definition", "expression_statement", "if_statement"),
            *("elif_clause", "else_clause", "try_statement", "except_clause", "finally_clause"),
            *("with_statement",),
        }
    ),
    name=_python_name,
    # Each line can match in one way alone, and each function is tried once: no text takes long.
    bodies=re.compile(
        rb"^(?P<head>(?P<indent>[ \t]*)(?:async[ \t]+)?def\b[^#\n]*"
        rb"(?:\(\n(?:(?P=indent)[ \t].*\n)+?(?P=indent)\)[^#\n]*)?:[ \t]*(?:#.*)?\n)"
        rb"(?P<body>(?:(?:(?P=indent)[ \t]+\S.*|[ \t]*)\n)+)",
        re.MULTILINE,
    ),
)
_C = Language(
    grammar=("tree_sitter_c", "language"),
    types={
        "struct_specifier": "struct",
        "union_specifier": "union",
        "enum_specifier": "enum",
        "type_definition": "typedef",
    },
    members=frozenset({"function_declarator"}),
    fields=frozenset({"field_identifier", "enumerator"}),
    alone={"function_definition": "func", "function_declarator": "func"},
    through=frozenset(
        {
            *("ERROR", "declaration", "pointer_declarator", "array_declarator"),
            *("field_declaration", "field_declaration_list", "enumerator_list"),
            *("linkage_specification", "declaration_list", "preproc_if", "preproc_ifdef"),
            *("preproc_else", "preproc_elif", "preproc_elifdef"),
        }
    ),
    name=_c_name,
)
_CPP = replace(
    _C,
    grammar=("tree_sitter_cpp", "language"),
    types={**_C.types, "class_specifier": "class"},
    members=_C.members | {"function_definition"},
    through=_C.through
    | {"namespace_definition", "template_declaration", "reference_declarator", "access_specifier"},
)
_GO = Language(
    grammar=("tree_sitter_go", "language"),
    types={"type_spec": "type", "type_alias": "type"},
    members=frozenset({"method_elem"}),
    fields=frozenset({"field_declaration"}),
    alone={"function_declaration": "func", "method_declaration": "func"},
    through=frozenset({"ERROR", "type_declaration", "field_declaration_list"}),
    name=_named,
    owner=_go_owner,
)
_RUST = Language(
    grammar=("tree_sitter_rust", "language"),
    types={
        "struct_item": "struct",
        "enum_item": "enum",
        "union_item": "union",
        "trait_item": "trait",
        "impl_item": "impl",
    },
    members=frozenset({"function_item", "function_signature_item"}),
    fields=frozenset({"field_declaration", "enum_variant"}),
    alone={
        "function_item": "fn",
        "mod_item": "mod",
        "type_item": "type",
        "macro_definition": "macro",
    },
    through=frozenset({"ERROR", "foreign_mod_item", "declaration_list"}),
    name=_rust_name,
)
_JAVASCRIPT = Language(
    grammar=("tree_sitter_javascript", "language"),
    types={"class_declaration": "class"},
    members=frozenset({"method_definition"}),
    fields=frozenset({"field_definition"}),
    alone={
        "function_declaration": "function",
        "generator_function_declaration": "function",
        "variable_declarator": "const",
        "assignment_expression": "function",
    },
    through=frozenset(
        {
            *("ERROR", "export_statement", "lexical_declaration", "variable_declaration"),
            *("expression_statement", "statement_block", "if_statement", "else_clause"),
        }
    ),
    name=_script_name,
)
_TYPESCRIPT = replace(
    _JAVASCRIPT,
    grammar=("tree_sitter_typescript", "language_typescript"),
    types={
        **_JAVASCRIPT.types,
        "abstract_class_declaration": "class",
        "interface_declaration": "interface",
        "enum_declaration": "enum",
    },
    members=frozenset({"method_definition", "method_signature", "abstract_method_signature"}),
    fields=frozenset(
        {
            *("property_signature", "public_field_definition"),
            *("enum_assignment", "property_identifier"),
        }
    ),
    alone={
        **_JAVASCRIPT.alone,
        "function_signature": "function",
        "type_alias_declaration": "type",
    },
    through=_JAVASCRIPT.through | {"ambient_declaration", "internal_module", "module"},
)
_TSX = replace(_TYPESCRIPT, grammar=("tree_sitter_typescript", "language_tsx"))
_JAVA = Language(
    grammar=("tree_sitter_java", "language"),
    types={
        "class_declaration": "class",
        "interface_declaration": "interface",
        "enum_declaration": "enum",
        "record_declaration": "record",
        "annotation_type_declaration": "@interface",
    },
    members=frozenset({"method_declaration", "annotation_type_element_declaration"}),
    fields=frozenset({"enum_constant"}),
    alone={},
    through=frozenset({"ERROR", "enum_body_declarations"}),
    name=_named,
)
_C_SHARP = Language(
    grammar=("tree_sitter_c_sharp", "language"),
    types={
        "class_declaration": "class",
        "interface_declaration": "interface",
        "struct_declaration": "struct",
        "record_declaration": "record",
        "enum_declaration": "enum",
    },
    members=frozenset({"method_declaration"}),
    fields=frozenset({"property_declaration", "enum_member_declaration"}),
    alone={"delegate_declaration": "delegate"},
    through=frozenset(
        {
            *("ERROR", "namespace_declaration", "file_scoped_namespace_declaration"),
            *("declaration_list", "preproc_if", "preproc_else", "preproc_elif"),
        }
    ),
    name=_named,
)
_PHP = Language(
    grammar=("tree_sitter_php", "language_php"),
    types={
        "class_declaration": "class",
        "interface_declaration": "interface",
        "trait_declaration": "trait",
        "enum_declaration": "enum",
    },
    members=frozenset({"method_declaration"}),
    fields=frozenset({"enum_case"}),
    alone={"function_definition": "function"},
    through=frozenset({"ERROR", "namespace_definition", "compound_statement", "if_statement"}),
    name=_named,
)
_RUBY = Language(
    grammar=("tree_sitter_ruby", "language"),
    types={"class": "class", "module": "module"},
    members=frozenset({"method", "singleton_method"}),
    fields=frozenset(),
    alone={"method": "def", "singleton_method": "def"},
    through=frozenset({"ERROR", "body_statement", "singleton_class"}),
    name=_named,
)

LANGUAGES: Mapping[str, Language] = {
    **dict.fromkeys(("py", "pyi"), _PYTHON),
    **dict.fromkeys(("js", "jsx", "mjs", "cjs"), _JAVASCRIPT),
    **dict.fromkeys(("ts", "mts", "cts"), _TYPESCRIPT),
    "tsx": _TSX,
    "go": _GO,
    "rs": _RUST,
    "java": _JAVA,
    "c": _C,
    # A header of C is nearly always one of C++ too, but not the other way round.
    **dict.fromkeys(("h", "cc", "cpp", "cxx", "hh", "hpp", "hxx"), _CPP),
    "cs": _C_SHARP,
    "php": _PHP,
    **dict.fromkeys(("rb", "rake"), _RUBY),
}
