"""What kind of file a path tells of, and what each kind is worth beside the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from functools import cache, lru_cache
from typing import NamedTuple

from infbox.errors import InputError


class FileKind(Enum):
    """What a file is for; the values are what people set weights by."""

    SOURCE = "source"
    TESTS = "tests"
    DOCS = "docs"
    README = "readme"
    CONFIGURATION = "configuration"
    FIXTURES = "fixtures"
    CHANGELOG = "changelog"
    CI = "ci"
    LOCK = "lock"


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


_CODE = _set(
    """
    asm bash bat c cc clj cljs cmake cpp cs css cu cuh cxx d dart el erl ex exs f90 fish fs
    fsx go gd gleam glsl go gql graphql groovy h hcl hh hpp hrl hs html hxx java jl js jsx
    kt kts less lua m metal mjs cjs ml mli mm mts cts nim nix odin php pl pm proto ps1 pxd
    py pyi pyx r rake rb re res rkt rs s sass scala scm scss sh sol sql sv svelte swift tcl
    tf thrift ts tsx v vala vb vhd vue wgsl zig zsh j2 jinja ejs hbs pug tmpl tpl ipynb
    """
)
_DOCS = _set("md mdx markdown rst txt adoc asciidoc org tex pod man 1 3 7 8")
_TEST_DIRECTORIES = _set(
    """
    test tests testing spec specs __tests__ e2e testsuite test_suite integration_tests
    """
)
_DOCS_DIRECTORIES = _set("doc docs documentation website site examples example samples")
_FIXTURE_DIRECTORIES = _set(
    """
    fixtures fixture testdata __snapshots__ snapshots cassettes golden __fixtures__
    """
)
# Texts are compiled with the first file that is judged: a start of the watcher waits for none.
_TEST_NAME = r"(?:test_.*|.*[_.-](?:test|tests|spec|specs)|.*[a-z0-9]Tests?|conftest)\.\w+$"
_CHANGELOG = (
    r"(?i)(?:change(?:s|log)?|history|news|releases?|release[_-]?notes|authors|contributors|"
    r"maintainers|notice|licen[cs]e|copying|code[_-]of[_-]conduct|security|citation)"
    r"(?:[-_.].*)?$"
)
_CHANGE_DIRECTORIES = _set("changelog changelog.d changelogs changes newsfragments news")
_CONFIGURATION = r"(?i)(?:requirements.*|constraints.*|CMakeLists|robots)\.txt$"
# What Ansible, Helm and Kubernetes are programmed in.
_DECLARING = _set("yml yaml")
_DECLARED_DIRECTORIES = _set(
    "tasks handlers playbooks roles templates charts manifests helm k8s kubernetes"
)
_LOCK = (
    r"(?i)(?:.*[.-]lock(?:\.\w+)?|package-lock\.json|pnpm-lock\.yaml|go\.sum|"
    r"npm-shrinkwrap\.json)$"
)
_CI_DIRECTORIES = _set(".github .gitlab .circleci .buildkite .azure-pipelines .woodpecker")
_CI = (
    r"(?i)(?:\.travis\.yml|\.gitlab-ci\.yml|appveyor\.ya?ml|azure-pipelines\.ya?ml|jenkinsfile|"
    r"\.pre-commit-config\.ya?ml|codecov\.ya?ml|renovate\.json5?|dependabot\.yml)$"
)


def kind_of(path: str) -> FileKind:
    """Tell what kind of file a path names.

    Args:
        path: relative, with `/`.
    """
    above, _, name = path.rpartition("/")
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    directories = _directories(above)
    return _by_name(name, directories, ending) or _by_directory(name, directories, ending)


@lru_cache(16)
def _directories(above: str) -> frozenset[str]:
    """Return the names of directories, in lower case. Files come in the order of their paths: to
    remember a few directories takes nearly no memory, to remember each file's kind much."""
    return frozenset(above.lower().split("/")) if above else frozenset()


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _by_name(name: str, directories: frozenset[str], ending: str) -> FileKind | None:
    """Return the kind of what no one takes for source, wherever it lies."""
    if directories & _CI_DIRECTORIES or _compiled(_CI).match(name):
        return FileKind.CI
    if _compiled(_LOCK).match(name):
        return FileKind.LOCK
    if ending not in _CODE and (
        _compiled(_CHANGELOG).match(name) or directories & _CHANGE_DIRECTORIES
    ):
        return FileKind.CHANGELOG
    is_readme = name.lower().startswith("readme") and not directories
    return FileKind.README if is_readme else None


def _by_directory(name: str, directories: frozenset[str], ending: str) -> FileKind:
    is_declared = ending in _DECLARING and bool(directories & _DECLARED_DIRECTORIES)
    is_code = ending in _CODE or is_declared
    if directories & _FIXTURE_DIRECTORIES or (directories & _TEST_DIRECTORIES and not is_code):
        return FileKind.FIXTURES
    if is_code and (directories & _TEST_DIRECTORIES or _compiled(_TEST_NAME).match(name)):
        return FileKind.TESTS
    if _compiled(_CONFIGURATION).match(name):
        return FileKind.CONFIGURATION
    if ending in _DOCS or directories & _DOCS_DIRECTORIES:
        return FileKind.DOCS
    return FileKind.SOURCE if is_code else FileKind.CONFIGURATION


KindWeights = Mapping[FileKind, float]
"""What something is worth, by the kind of its file."""

PACK_WEIGHTS: KindWeights = {
    FileKind.SOURCE: 1.0,
    FileKind.README: 1.0,
    FileKind.TESTS: 0.3,
    FileKind.DOCS: 0.1,
    FileKind.CONFIGURATION: 0.1,
    FileKind.FIXTURES: 0.03,
    FileKind.CHANGELOG: 0.02,
    FileKind.CI: 0.02,
    FileKind.LOCK: 0.01,
}
"""What a file's edits are worth in a pack, where nothing else is set."""

RETRIEVAL_WEIGHTS: KindWeights = {
    FileKind.SOURCE: 1.0,
    FileKind.README: 0.5,
    FileKind.TESTS: 0.6,
    FileKind.DOCS: 0.5,
    FileKind.CONFIGURATION: 0.5,
    FileKind.FIXTURES: 0.2,
    FileKind.CHANGELOG: 0.25,
    FileKind.CI: 0.5,
    FileKind.LOCK: 0.1,
}
"""What a match in a file is worth to a question, where nothing else is set."""


class Weights(NamedTuple):
    """What files are worth beside each other, by their kinds.

    Attributes:
        pack: a file's edits, in packs.
        retrieval: a match in a file, to a question.
    """

    pack: KindWeights = PACK_WEIGHTS
    retrieval: KindWeights = RETRIEVAL_WEIGHTS


DEFAULTS = Weights()

MIN_WEIGHT, MAX_WEIGHT = 0.001, 1000.0
"""The range of a weight. 0 would leave the order among files of a kind to chance."""


def changed(weights: KindWeights, changes: Mapping[str, object], prefix: str) -> KindWeights:
    """Return weights of which some are set otherwise.

    Args:
        weights: of all kinds.
        changes: by the names of kinds.
        prefix: of the names of kinds as whoever set them knows them, for the message.

    Raises:
        InputError: there is no such kind, or a weight is no number that can be used.
    """
    return {
        **weights,
        **{_kind(kind, prefix): _weight(kind, changes[kind], prefix) for kind in changes},
    }


def described(weights: KindWeights, defaults: KindWeights) -> str:
    """Return what is set otherwise, as `docs 0.5, tests 1`; empty where nothing is."""
    set_ = {kind.value: weight for kind, weight in weights.items() if weight != defaults[kind]}
    return ", ".join(f"{kind} {weight:g}" for kind, weight in sorted(set_.items()))


def _kind(kind: str, prefix: str) -> FileKind:
    try:
        return FileKind(kind)
    except ValueError:
        known = ", ".join(each.value for each in FileKind)
        raise InputError(f"{prefix}{kind} is not a kind of file: use {known}") from None


def _weight(kind: str, weight: object, prefix: str) -> float:
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if is_number and MIN_WEIGHT <= weight <= MAX_WEIGHT:  # type: ignore[operator]  # NaN is not
        return float(weight)  # type: ignore[arg-type]
    raise InputError(
        f"{prefix}{kind}: must be a number from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}, not {weight!r}"
    )
