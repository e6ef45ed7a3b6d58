"""What retrieval finds for a question, as a note in front of it.

The search runs in a thread of its own, so that no other request waits for it, and is broken off
when it is late: the question then goes without it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from infbox.gateway.conversations.notes import Note
from infbox.kinds import RETRIEVAL_WEIGHTS
from infbox.log import line
from infbox.packing.tokens import BYTES_PER_TOKEN, PIECES_PER_TOKEN, Estimate, Pieces
from infbox.retrieval import questions, search
from infbox.retrieval.kept import FAILURES, KeptTexts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from infbox.gateway.conversations.notes import Chunk
    from infbox.kinds import KindWeights
    from infbox.packing.published import Pack
    from infbox.retrieval.search import Chosen
    from infbox.retrieval.texts import Place, Texts

SECONDS = 0.25
"""That a question waits for what retrieval finds, at most."""

TOKENS = 4000
"""For a request that wants something and does not say how much, where nothing else is set."""

MAX_TOKENS = 16_000
"""That a client may ask for."""

MIN_TOKENS = 200
"""Of a note: less would show next to nothing."""

MAX_NOTES = 4
"""Notes of the full size that one conversation is given in all."""

MAX_SHARE = 0.25
"""Of the window without the pack, for all such notes of a conversation."""

LEFT_SHARE = 0.5
"""Of what is left of the window, for one note."""

FOUND, NONE, LATE, FAILED = "found", "none", "late", "failed"

_BEGIN = (
    "<source-tree-excerpts>\n"
    "Parts of the source tree above that may be about the message that follows, as they are now. "
    "They were looked for automatically; there may be others.\n\n"
)
_END = "</source-tree-excerpts>\n"
_FRAME_CHARS = len(_BEGIN + _END)
_MIN_WORDS = 2  # of a question that names nothing: "and now?" asks for nothing else
_MOST_OPEN = 16  # text indexes
_MIN_BYTES_PER_TOKEN = 2.0
_MARGIN = 0.95  # of what makes a token in the whole tree, as some files have less
_MIN_PIECES_PER_TOKEN, _MOST_PIECES_PER_TOKEN = 0.5, 1.2

_logger = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """What is looked for.

    Attributes:
        workspace: whose files are searched.
        place: of the message that is asked, among the request's turns.
        text: of the question.
        files: that it is about besides.
        space: tokens for what is found.
        bytes_per_token: of the tree's files, about.
        in_full: of files that the conversation shows as a whole, what changed since included, the
            digests, by path.
        told: chunks that it was told.
        must_search: whether a question of hardly a word is searched for, too.
        pieces_per_token: of the tree's files, about.
    """

    workspace: str
    place: int
    text: str
    files: tuple[str, ...]
    space: int
    bytes_per_token: float
    in_full: Mapping[str, str]
    told: frozenset[Chunk]
    must_search: bool = False
    pieces_per_token: float = PIECES_PER_TOKEN


class Found(NamedTuple):
    """What came of a search.

    Attributes:
        note: to tell; None for nothing.
        place: of the message that it is for.
        result: ``FOUND``, ``NONE``, ``LATE`` or ``FAILED``.
        seconds: that it took.
    """

    note: Note | None
    place: int
    result: str
    seconds: float


class _LateError(Exception):
    """There is no time left."""


def bytes_per_token(pack: Pack) -> float:
    """Return how many bytes of a tree make a token of the model, as the watcher counted its
    pack."""
    own = _MARGIN * len(pack.text) / pack.tokens if pack.tokens else BYTES_PER_TOKEN
    return min(max(own, _MIN_BYTES_PER_TOKEN), BYTES_PER_TOKEN)


def pieces_per_token(pack: Pack) -> float:
    """Return how many pieces of a tree's text make a token of the model, as the watcher counted its
    pack."""
    own = _MARGIN * pack.pieces / pack.tokens if pack.tokens else PIECES_PER_TOKEN
    return min(max(own, _MIN_PIECES_PER_TOKEN), _MOST_PIECES_PER_TOKEN)


class Retrieval:
    """Searches the text indexes that the watcher keeps.

    Args:
        state_dir: of the watcher.
        seconds: that a search may take, with the time that it waits for others.
        clock: seconds that only ever grow.
        weights: what a match is worth, by the kind of its file.
    """

    def __init__(
        self,
        state_dir: Path,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        weights: KindWeights = RETRIEVAL_WEIGHTS,
    ) -> None:
        self._weights = weights
        self._state_dir = state_dir
        self._seconds = seconds
        self._clock = clock
        self._open: OrderedDict[str, KeptTexts] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, "retrieval")
        self._failures: dict[str, str] = {}
        self._late: asyncio.Future[Any] | None = None

    def close(self) -> None:
        """Close what is open, once the last search has ended. Blocking."""
        self._worker.shutdown()
        for kept in self._open.values():
            kept.close()

    async def find(self, wanted: Wanted) -> Found:
        """Return what is found until the time is up."""
        began = self._clock()
        if self._late is not None and not self._late.done():
            return Found(None, wanted.place, LATE, 0.0)
        loop = asyncio.get_running_loop()
        searching = loop.run_in_executor(self._worker, self._find, wanted, began + self._seconds)
        try:
            # The thread ends by itself before that, unless a file system gives no answer.
            note, result = await asyncio.wait_for(asyncio.shield(searching), 2 * self._seconds)
        except asyncio.TimeoutError:
            note, result, self._late = None, LATE, searching
        return Found(note, wanted.place, result, self._clock() - began)

    def _find(self, wanted: Wanted, ends: float) -> tuple[Note | None, str]:
        """Search. In the thread."""
        if self._clock() >= ends:
            return None, LATE
        try:
            note = self._note(wanted, ends)
        except _LateError:
            return None, LATE
        except FAILURES as error:
            if self._clock() >= ends:
                return None, LATE
            self._fail(wanted.workspace, error)
            return None, FAILED
        except Exception:  # a question goes on without it
            _logger.exception(line("retrieval-failed", workspace=wanted.workspace))
            return None, FAILED
        self._failures.pop(wanted.workspace, None)
        return note, FOUND if note else NONE

    def _fail(self, workspace: str, error: Exception) -> None:
        """Say once why a workspace cannot be searched; it is opened anew the next time."""
        self._forget(workspace)
        reason = str(error) or type(error).__name__
        if self._failures.get(workspace) != reason:
            _logger.warning(line("retrieval-failed", workspace=workspace, reason=reason))
        self._failures[workspace] = reason

    def _note(self, wanted: Wanted, ends: float) -> Note | None:
        if not (wanted.must_search or _asks(wanted.text)):
            return None
        kept = self._kept(wanted.workspace)
        texts = kept.texts()
        texts.end_at(ends)
        try:
            chosen = self._chosen(texts, wanted, ends)
        finally:
            texts.end_at(math.inf)
        # The watcher's own index says at once what must not be shown any more, and comes last.
        return composed(chosen, kept.current({each.place.path for each in chosen}), wanted)

    def _chosen(self, texts: Texts, wanted: Wanted, ends: float) -> list[Chosen]:
        digests: dict[str, str] = {}

        def digest(path: str) -> str:
            if path not in digests:
                digests[path] = texts.digest(path)
            return digests[path]

        def is_in_full(path: str) -> bool:
            if self._clock() >= ends:
                raise _LateError
            is_shown = path in wanted.in_full and wanted.in_full[path] == digest(path)
            return is_shown or not path.isprintable()

        told = {path for path, *_ in wanted.told}

        def was_told(place: Place) -> bool:
            path = place.path
            return path in told and (path, digest(path), place.start, place.end) in wanted.told

        counted = Estimate(wanted.bytes_per_token)
        space = wanted.space - math.ceil(_FRAME_CHARS / wanted.bytes_per_token)
        return search.choose(
            texts,
            wanted.text,
            is_in_full,
            space,
            counted,
            files=wanted.files,
            was_shown=was_told,
            is_explained=False,
            weights=self._weights,
        )

    def _kept(self, workspace: str) -> KeptTexts:
        kept = self._open.get(workspace)
        if kept is None:
            kept = self._open[workspace] = KeptTexts(self._state_dir, workspace)
        self._open.move_to_end(workspace)
        if len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        return kept

    def _forget(self, workspace: str) -> None:
        kept = self._open.pop(workspace, None)
        if kept is not None:
            kept.close()


def composed(chosen: list[Chosen], digests: Mapping[str, str], wanted: Wanted) -> Note | None:
    """Return chunks as a note; None for none.

    Those of them that fit, the first ones first, by a closer estimate than that from bytes, by
    which they were chosen: it would take too long for all that might be.

    Args:
        chosen: the chunks, those that are worth most first.
        digests: of the files that may be shown.
        wanted: what they were looked for by.
    """
    counted = Pieces(wanted.pieces_per_token)
    tokens = counted.count(_BEGIN + _END)
    kept = []
    for each in chosen:
        cost = counted.count(search.rendered([each], ""))
        if each.place.path in digests and tokens + cost <= wanted.space:
            kept.append(each)
            tokens += cost
    if not kept:
        return None
    text = search.rendered(kept, _BEGIN) + _END
    found = tuple(
        (place.path, digests[place.path], place.start, place.end)
        for place in (each.place for each in kept)
    )
    return Note(text, tokens, found=found)


def _asks(text: str) -> bool:
    """Say whether there is anything in a question to look for."""
    asked = questions.read(text)
    is_named = asked.paths or asked.places or asked.symbols
    return bool(is_named) or len(asked.words) >= _MIN_WORDS
