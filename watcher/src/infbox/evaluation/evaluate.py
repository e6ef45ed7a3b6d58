"""The measure of use: of what a commit goes on to change, how much a prompt would have shown.

A history is replayed. Before each commit its message, file names removed, is taken for the
question, and the old lines of each hunk for what must be seen to answer it; then the commit's
changes are taken in, as saves.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from infbox import kinds
from infbox.errors import InputError
from infbox.evaluation.history import History
from infbox.evaluation.judge import lines as judge_lines
from infbox.evaluation.policies import Log, Ordered, Remembering, by_age
from infbox.kinds import FileKind, kind_of
from infbox.packing import hunks
from infbox.retrieval import chunks, search
from infbox.retrieval.questions import read as read_question
from infbox.retrieval.texts import Texts, Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from infbox.evaluation.history import Blob, Save
    from infbox.evaluation.judge import Judge
    from infbox.packing.tokens import Tokenizer
    from infbox.retrieval.texts import Place

VIEWS = ("pack", "retrieved", "both", "bm25", "recent")
KINDS = ("source", "tests", "docs", "other", "all")

MAX_FILES = 30
"""Files that a commit may change and still be taken for the answer to one question."""

MAX_HUNKS = 200
"""The same of hunks: beyond that it is a sweep over the tree."""

MAX_MESSAGE = 4000
"""Characters of a message that are taken for the question."""

MAX_TREE_FILES = 100_000
MAX_TREE_BYTES = 512 * 1024 * 1024

WINDOW_LINES = 60
"""Of the plain BM25 that stands beside."""

_TOLD_EVERY = 25  # commits
_MANY = 400  # chunks that the plain BM25 looks at
_KIND_NAMES = {
    FileKind.SOURCE: "source",
    FileKind.TESTS: "tests",
    FileKind.DOCS: "docs",
    FileKind.README: "docs",
}
_TRAILER = re.compile(
    r"^(?:[A-Z][\w-]*-by|git-svn-id|change-id|cc|closes|fixes|refs)\s*:.*$",
    re.IGNORECASE | re.MULTILINE,
)
_MERGE = re.compile(
    r"^merge (?:pull request #\d+ from \S+|.*\bbranch\b.*)$", re.IGNORECASE | re.MULTILINE
)

Lines = dict[str, list[tuple[int, int]]]
"""Lines that are shown of files, from 1, the last one included."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What must be seen of a file: ranges of lines from 1, the last one included."""

    path: str
    old: Blob
    hunks: tuple[tuple[int, int], ...]


@dataclass
class Shares:
    """What one view showed of what was wanted, by kind of file."""

    hunks: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    files: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def count(
        self, wanted: Wanted, shown: Callable[[str, Blob], Sequence[tuple[int, int]]]
    ) -> None:
        """Count a file with what a view shows of it."""
        ranges = shown(wanted.path, wanted.old)
        seen = sum(_is_within(hunk, ranges) for hunk in wanted.hunks)
        for kind in (_kind(wanted.path), "all"):
            self.hunks[kind] += seen
            self.files[kind] += bool(ranges)


class Evaluation:
    """The views of one history as it goes on.

    Args:
        history: the commits.
        start: the commit before the first.
        budget: tokens in all, of each view but ``retrieved``.
        retrieve: tokens of them for retrieval.
        tokenizer: counts tokens.
        judge: a model that judges too; None for none.
        weights: what files are worth, by their kinds.
    """

    def __init__(
        self,
        history: History,
        start: str,
        budget: int,
        retrieve: int,
        tokenizer: Tokenizer,
        *,
        judge: Judge | None = None,
        weights: kinds.Weights = kinds.DEFAULTS,
    ) -> None:
        self._weights = weights.retrieval
        self._judge, self._commits = judge, 0
        self._history = history
        self._budget, self._retrieve, self._tokenizer = budget, retrieve, tokenizer
        self._tree = _bounded(history.files(start))
        heats = history.heats(start)
        order = by_age(history, start, self._tree)
        self._pack = Log(self._tree, heats, budget, tokenizer, weights.pack)
        self._smaller = Log(self._tree, heats, budget - retrieve, tokenizer, weights.pack)
        self._recent = Ordered(self._tree, order, recency=True, budget=budget, tokenizer=tokenizer)
        self._texts = Texts()
        self._windows = Texts(cut=lambda _, text: chunks.windows(text, WINDOW_LINES))
        digests = {path: blob.digest for path, blob in self._tree.items()}
        for texts in (self._texts, self._windows):
            texts.bring_up(digests, self._tree.get)
        self.questions = 0
        self.wanted = Shares()
        self.found = {view: Shares() for view in VIEWS}
        self.computed_per_question: list[int] = []
        self.computed_per_save: list[int] = []

    def step(self, parent: str, commit: str) -> None:
        """Ask a commit's question, then take in what it changes."""
        saves = list(self._history.saves(parent, commit))
        question = without_names(
            self._history.message(commit)[:MAX_MESSAGE], [save.path for save in saves], self._tree
        )
        wanted = list(wanted_of(saves))
        if wanted and not is_sweep(saves, wanted) and read_question(question).words:
            self._ask(question, wanted, saves)
        self._commits += 1
        for save in saves:
            self._take(save)

    def _ask(self, question: str, wanted: Sequence[Wanted], saves: Sequence[Save]) -> None:
        self.questions += 1
        choose = partial(
            search.choose,
            self._texts,
            question,
            space=self._retrieve,
            tokenizer=self._tokenizer,
            heat=self._smaller.heat,
            weights=self._weights,
        )
        besides = choose(in_full=self._is_in_full)
        cost = self._tokenizer.count(search.rendered(besides)) + self._tokenizer.count(question)
        self.computed_per_question.append(cost)
        by_itself = choose(in_full=lambda _: False)
        alone = _lines_of(each.place for each in by_itself)
        added = _lines_of(each.place for each in besides)
        plain = _lines_of(plain_bm25(self._windows, question, self._budget, self._tokenizer))
        views: Mapping[str, Callable[[str, Blob], Sequence[tuple[int, int]]]] = {
            "pack": self._pack.lines,
            "retrieved": lambda path, _: alone.get(path, ()),
            "both": lambda path, old: [*self._smaller.lines(path, old), *added.get(path, ())],
            "bm25": lambda path, _: plain.get(path, ()),
            "recent": self._recent.lines,
        }
        for each in wanted:
            for kind in (_kind(each.path), "all"):
                self.wanted.hunks[kind] += len(each.hunks)
                self.wanted.files[kind] += 1
            for name, shown in views.items():
                self.found[name].count(each, shown)

        if self._judge and self._judge.wants(self._commits):
            contexts = {
                "pack": self._pack.text(),
                "retrieved": search.rendered(by_itself),
                "both": self._smaller.text() + search.rendered(besides),
            }
            self._judge.judge(self._commits, question, saves, contexts)

    def _is_in_full(self, path: str) -> bool:
        blob = self._tree.get(path)
        return blob is not None and self._smaller.holds(path, blob)

    def _take(self, save: Save) -> None:
        self.computed_per_save.append(self._smaller.take(save))
        self._pack.take(save)
        self._recent.take(save)
        for texts in (self._texts, self._windows):
            if save.new:
                texts.put(save.path, save.new)
            else:
                texts.remove(save.path)
        if save.new:
            self._tree[save.path] = save.new
        else:
            self._tree.pop(save.path, None)


def evaluate(
    repository: Path,
    commits: int,
    budget: int,
    retrieve: int,
    tokenizer: Tokenizer,
    *,
    tell: Callable[[int, int], None] = lambda _done, _of: None,
    judge: Judge | None = None,
    weights: kinds.Weights = kinds.DEFAULTS,
) -> dict[str, Any]:
    """Replay the last commits of what is checked out, and see what each way would have shown.

    Args:
        repository: a git repository, bare or not; its work tree is not looked at.
        commits: how many, along first parents; a shorter history is replayed whole.
        budget: of the whole prompt, in tokens.
        retrieve: tokens of them for retrieval.
        tokenizer: counts tokens.
        tell: is called now and then with the commits that are done, and how many there are.
        judge: a model that judges too; None for none.
        weights: what files are worth, by their kinds.

    Returns:
        ``questions``; ``hunks`` and ``files``, by view and kind of file, as the share that was
        shown, None where there were none of a kind; ``computed_per_question``, what is behind the
        pack; ``computed_per_save``, of the pack that leaves retrieval its tokens; and, if there is
        a judge, ``judge`` as ``Judge.result`` has it.

    Raises:
        InputError: the directory is in no repository, or that has no commits or too large a tree;
            or retrieval leaves the pack nothing; or the judge's engine does not answer.
    """
    if retrieve >= budget:
        raise InputError(f"--retrieve {retrieve}: give fewer tokens than --budget, {budget}")
    with History(repository) as history:
        steps = history.steps(commits)
        running = Evaluation(
            history,
            steps[0][0],
            budget,
            retrieve,
            Remembering(tokenizer),
            judge=judge,
            weights=weights,
        )
        for done, (parent, commit) in enumerate(steps, start=1):
            running.step(parent, commit)
            if done % _TOLD_EVERY == 0:
                tell(done, len(steps))
    return {
        "questions": running.questions,
        "hunks": {view: _shares(running.found[view].hunks, running.wanted.hunks) for view in VIEWS},
        "files": {view: _shares(running.found[view].files, running.wanted.files) for view in VIEWS},
        "computed_per_question": _mean(running.computed_per_question),
        "computed_per_save": _mean(running.computed_per_save),
        **({"judge": judge.result()} if judge else {}),
    }


def table(result: Mapping[str, Any]) -> str:
    """Return what ``evaluate`` returned as lines for people."""
    lines = [f"{result['questions']} questions; hunks shown, files located"]
    lines.append(" " * 10 + "".join(f"{kind:>12}" for kind in KINDS))
    for view in VIEWS:
        pairs = ((result["hunks"][view][kind], result["files"][view][kind]) for kind in KINDS)
        cells = ("-" if a is None else f"{a:.0%}, {b:.0%}" for a, b in pairs)
        lines.append(f"{view:10}" + "".join(f"{cell:>12}" for cell in cells))
    lines.append(
        f"tokens computed: {result['computed_per_question']:,.0f} a question,"
        f" {result['computed_per_save']:,.0f} a save"
    )
    if "judge" in result:
        lines += judge_lines(result["judge"])
    return "\n".join(lines)


def without_names(message: str, changed: Iterable[str], tree: Iterable[str]) -> str:
    """Return a commit's message as a question that names no file.

    Args:
        message: of the commit.
        changed: paths that it changes.
        tree: all paths.

    Returns:
        The message without paths and names of files, and without what tools write in it.
    """
    known = {name for path in (*changed, *tree) for name in (path, path.rpartition("/")[2])}
    text = _MERGE.sub("", _TRAILER.sub("", message))

    def kept(match: re.Match[str]) -> str:
        word = match[0].strip(".,:;()[]{}<>\"'`*")
        is_name = word in known or (("/" in word or "." in word) and _is_end(word, known))
        return " " if is_name else match[0]

    return re.sub(r"\S+", kept, text).strip()


def _is_end(word: str, known: set[str]) -> bool:
    """Say whether a word is a path's end, or names a directory or a file by its last part."""
    return word.rpartition("/")[2] in known and "." in word.rpartition("/")[2]


def plain_bm25(texts: Texts, question: str, space: int, tokenizer: Tokenizer) -> list[Place]:
    """Return the windows that match a question best, as many as fit."""
    wanted = read_question(question).words
    found = texts.matching(wanted, _MANY, Weights(path=3.0, names=0.0, body=1.0))
    chosen: list[Place] = []
    for place in texts.places(id_ for id_, _ in found).values():
        cost = tokenizer.count(texts.text(place))
        if cost > space:
            break
        space -= cost
        chosen.append(place)
    return chosen


def _bounded(files: Iterable[tuple[str, Blob]]) -> dict[str, Blob]:
    tree: dict[str, Blob] = {}
    size = 0
    for path, blob in files:
        tree[path] = blob
        size += blob.size
        if len(tree) > MAX_TREE_FILES or size > MAX_TREE_BYTES:
            raise InputError(
                f"the tree has more than {MAX_TREE_FILES} files or {MAX_TREE_BYTES} bytes: "
                "evaluate a smaller history"
            )
    return tree


def is_sweep(saves: Sequence[Save], wanted: Iterable[Wanted]) -> bool:
    """Say whether a commit changes too much to be the answer to one question."""
    return len(saves) > MAX_FILES or sum(len(each.hunks) for each in wanted) > MAX_HUNKS


def wanted_of(saves: Iterable[Save]) -> Iterable[Wanted]:
    """Yield what a commit changes in files that were there: lines that go, or those around where
    lines are put."""
    for save in saves:
        if save.old is None or not save.old.text:
            continue
        ranges = hunks.replaced(save.old.text, save.new.text if save.new else "")
        if ranges is None or save.new is None:
            continue
        last = len(chunks.lines_of(save.old.text))
        yield Wanted(
            save.path,
            save.old,
            tuple(
                (start + 1, end) if end > start else (max(start, 1), min(start + 1, last))
                for start, end in ranges
            ),
        )


def _is_within(hunk: tuple[int, int], ranges: Sequence[tuple[int, int]]) -> bool:
    at = hunk[0]
    for start, end in sorted(ranges):
        if start <= at <= end:
            at = end + 1
    return at > hunk[1]


def _lines_of(places: Iterable[Place]) -> Lines:
    lines: Lines = defaultdict(list)
    for place in places:
        lines[place.path].append((place.start, place.end))
    return lines


def _kind(path: str) -> str:
    return _KIND_NAMES.get(kind_of(path), "other")


def _shares(found: Mapping[str, int], wanted: Mapping[str, int]) -> dict[str, float | None]:
    return {
        kind: round(found.get(kind, 0) / wanted[kind], 4) if wanted.get(kind) else None
        for kind in KINDS
    }


def _mean(values: Sequence[int]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0
