"""Choosing what is shown with a question: what it names first, then what has its words.

One pure function of the text index, the question, what the pack shows and the space, which the
measure, the command line and whoever answers questions share.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from infbox.kinds import RETRIEVAL_WEIGHTS, kind_of
from infbox.packing.pack import section
from infbox.retrieval import questions
from infbox.retrieval.texts import Weights
from infbox.retrieval.words import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from infbox.kinds import KindWeights
    from infbox.packing.tokens import Tokenizer
    from infbox.retrieval.questions import Question
    from infbox.retrieval.texts import Place, Texts

HEADING = "# From the source tree, found for the question that follows\n\n"
"""What the chosen chunks stand under."""

MAX_MATCHES = 400
"""Chunks that are looked at for one question."""

MAX_OF_A_NAME = 6
"""Chunks that one name in a question may bring; a name that more share says little."""

NAMED_SHARE = 0.6
"""Of the space, for what the question names: the rest is for what has its words."""

FILE_SHARE = 0.15
"""How much the best other matches in the same file add to a chunk's score."""

REPEAT = 0.95
"""What each further match in a file is worth of the one before."""

EDITED_SHARE = 0.5
"""How much more, at most, a match is worth in a file that is edited all the time."""

_TOLD_WORDS = 6  # in a reason
_MIN_SPACE = 40  # tokens: no chunk with its heading is shorter


@dataclass(frozen=True, slots=True)
class Chosen:
    """A chunk that is shown, and why.

    Attributes:
        place: of it.
        text: its lines.
        reason: for people; may be empty.
    """

    place: Place
    text: str
    reason: str


def choose(
    texts: Texts,
    question: str,
    in_full: Callable[[str], bool],
    space: int,
    tokenizer: Tokenizer,
    *,
    files: Iterable[str] = (),
    heat: Callable[[str], float] = lambda _: 0.0,
    was_shown: Callable[[Place], bool] = lambda _: False,
    is_explained: bool = True,
    weights: KindWeights = RETRIEVAL_WEIGHTS,
) -> list[Chosen]:
    """Choose the chunks that are shown with a question.

    Args:
        texts: the text index.
        question: what was asked, or what to look for.
        in_full: says whether the pack shows a file in full already, by its path.
        space: tokens that the chosen chunks may have, as ``rendered`` gives them.
        tokenizer: counts tokens.
        files: paths that the question is about besides, such as those open in an editor.
        heat: says how often and how lately a file was edited, by its path.
        was_shown: says whether a chunk stands before the question already.
        is_explained: whether to say of each chunk which words it has, which takes nearly half of
            the time.
        weights: what a match is worth, by the kind of its file.

    Returns:
        Chunks, those that are worth most first; none where there is no space.
    """
    asked = questions.read(question)
    if files:
        asked = replace(asked, paths=(*files, *asked.paths)[: questions.MAX_PLACES])
    scores = dict(texts.matching(asked.words, MAX_MATCHES, Weights()))
    left = space - tokenizer.count(HEADING)
    taken: dict[int, Chosen] = {}
    for candidates, share in (
        (_named(texts, asked, scores, weights), NAMED_SHARE),
        (_matching(texts, scores, heat, weights), 1.0),
    ):
        spare = left * (1 - share)
        for place, reason in candidates:
            if left - spare < _MIN_SPACE:
                break
            if place.id in taken or place.size > (left - spare) * tokenizer.most_chars:
                continue
            if in_full(place.path) or was_shown(place):
                continue
            text = texts.text(place)
            cost = tokenizer.count(_section(place, place, text))
            if text.strip() and cost <= left - spare:
                if is_explained and not reason:
                    reason = _shared(asked, place, text)  # noqa: PLW2901
                taken[place.id] = Chosen(place, text, reason)
                left -= cost
    return list(taken.values())


def rendered(chosen: Sequence[Chosen], heading: str = HEADING) -> str:
    """Return chosen chunks as the text that is shown; neighbours in a file as one section.

    Args:
        chosen: the chunks.
        heading: that they stand under, with an empty line behind it.
    """
    if not chosen:
        return ""
    parts = [heading]
    for run in _runs(chosen):
        first, last = run[0].place, run[-1].place
        parts.append(_section(first, last, "".join(part.text for part in run)))
    return "".join(parts)


def _section(first: Place, last: Place, text: str) -> str:
    return section(first.path, f" (lines {first.start}-{last.end})", text)


def _runs(chosen: Sequence[Chosen]) -> Iterator[list[Chosen]]:
    """Yield chunks that follow each other in a file, files in the order of their best chunks."""
    by_file: dict[str, list[Chosen]] = defaultdict(list)
    for each in chosen:
        by_file[each.place.path].append(each)
    for parts in by_file.values():
        run: list[Chosen] = []
        for each in sorted(parts, key=lambda part: part.place.start):
            if run and run[-1].place.end + 1 != each.place.start:
                yield run
                run = []
            run.append(each)
        yield run


def _named(
    texts: Texts, asked: Question, scores: Mapping[int, float], weights: KindWeights
) -> Iterator[tuple[Place, str]]:
    """Yield chunks that the question names: by a stack trace, by a symbol, by a path."""
    for path, line in asked.places:
        for found in _files(texts, path):
            for place in texts.of_file(found):
                if place.start <= line <= place.end:
                    yield place, f"line {line} of {found} is named"
    for symbol in asked.symbols:
        places = texts.naming(symbol, MAX_OF_A_NAME + 1)
        if len(places) <= MAX_OF_A_NAME:
            ordered = sorted(places, key=lambda p: (-weights[kind_of(p.path)], p.path, p.start))
            yield from ((place, f"{symbol} is named and defined here") for place in ordered)
    for path in asked.paths:
        for found in _files(texts, path):
            parts = texts.of_file(found)
            parts.sort(key=lambda place: (-scores.get(place.id, 0.0), place.start))
            yield from ((place, f"{found} is named") for place in parts)


def _files(texts: Texts, named: str) -> list[str]:
    """Return the files that a path may mean: it may be absolute, or begin anywhere in the tree."""
    found = texts.named(named.rpartition("/")[2], MAX_OF_A_NAME * 8)
    parts = [part for part in named.split("/") if part not in ("", ".", "..")]

    def shared(path: str) -> int:
        both = zip(reversed(path.split("/")), reversed(parts), strict=False)
        return next(
            (n for n, (a, b) in enumerate(both) if a != b), min(len(parts), path.count("/") + 1)
        )

    most = max(map(shared, found), default=0)
    best = [path for path in found if shared(path) == most]
    return best if len(best) <= MAX_OF_A_NAME else []


def _matching(
    texts: Texts,
    scores: Mapping[int, float],
    heat: Callable[[str], float],
    weights: KindWeights,
) -> Iterator[tuple[Place, str]]:
    """Yield chunks that have words of the question, the best first, without a reason.

    Each further one of a file counts less, so that a file whose path has the words does not come
    whole.

    Args:
        texts: the text index.
        scores: of the chunks that match, the best first.
        heat: of files.
        weights: of kinds of files.
    """
    by_file: dict[str, list[tuple[float, Place]]] = defaultdict(list)
    for place in texts.places(scores).values():
        by_file[place.path].append((scores[place.id], place))
    worth: list[tuple[float, Place]] = []
    for path, found in by_file.items():
        factor = weights[kind_of(path)] * _edited(heat(path))
        best = sum(score for score, _ in found[:3])
        for nth, (score, place) in enumerate(found):
            worth.append(((score * REPEAT**nth + FILE_SHARE * (best - score)) * factor, place))
    for _, place in sorted(worth, key=lambda each: (-each[0], each[1].id)):
        yield place, ""


def _shared(asked: Question, place: Place, text: str) -> str:
    """Say which words of a question a chunk has, as people see them."""
    has = {*words(text), *words(place.path)}
    common = [word for word in asked.words if word in has][:_TOLD_WORDS]
    return f"has {', '.join(common)}" if common else "has forms of the question's words"


def _edited(heat: float) -> float:
    return 1 + EDITED_SHARE * heat / (1 + heat)
