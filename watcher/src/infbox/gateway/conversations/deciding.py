"""Decides how one request goes out: with which pack, and what it is told. Blocking, in one
thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from infbox.gateway.conversations import chain, forms, moving, retrieving
from infbox.gateway.conversations.moving import Standing
from infbox.gateway.conversations.notes import MOST_TOKENS, Own, known, note
from infbox.gateway.conversations.options import Options
from infbox.gateway.conversations.records import Node
from infbox.gateway.conversations.retrieving import Wanted
from infbox.packing.tokens import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from infbox.gateway.connection import Headers
    from infbox.gateway.conversations.forms import Dialogue
    from infbox.gateway.conversations.notes import Note
    from infbox.gateway.conversations.records import Record, Records
    from infbox.gateway.conversations.retrieving import Found
    from infbox.packing.published import About, Pack

NEW, KEPT, MOVED = "new", "kept", "moved"
SAME, SYSTEM, TOOLS, EDITED = "same", "system", "tools", "messages"
UNKNOWN = "unknown"

_MIN_BYTES_PER_TOKEN = 3  # so that no note is what makes a prompt too long
_MOST_NAMED_CHARS = 1000  # of a header that names what was found

_Told = tuple[int, int, "Note"]
"""Place of a message, number of the text that it was told from, the note."""


class Asked(NamedTuple):
    """A request that names a workspace.

    Attributes:
        path: of the API.
        request: the body.
        size: of the body, in bytes.
        workspace: that it names.
        user: whose key it came with.
        model: that vLLM is asked for.
        client: the family of the program that asks.
        window: of the model, in tokens.
        options: what the client says to the gateway.
        answer: tokens to leave for the answer.
    """

    path: str
    request: dict[str, Any]
    size: int
    workspace: str
    user: str
    model: str
    client: str = ""
    window: int = 1 << 30
    options: Options = Options()
    answer: int = 0


@dataclass
class Turn:
    """How a request goes out.

    Attributes:
        pack: in front.
        request: with what it is told, and as it is otherwise.
        state: ``NEW``, ``KEPT`` or ``MOVED``; empty where it is of no conversation that is kept.
        reason: why it moved.
        since: unix time since when the conversation has the pack, in seconds.
        front: tokens of the pack that stand in front; None for as much as fits.
        told: files that it was told of so far.
        told_tokens: tokens of that.
        note_tokens: of those the ones that are told by this request.
        beginning: what came again of what was sent before: ``SAME``, what was the first to differ,
            or ``UNKNOWN``; empty where nothing was sent before.
        record: by which it is sent; None where that is not written down.
        retrieved: what was found for this request, and is told by it; None where nothing is.
        retrieval: what came of the search; None where there was none.
        spare: the request without anything that was ever found, should it be too long; None where
            that is the same.
    """

    pack: Pack | None
    request: dict[str, Any]
    state: str = ""
    reason: str = ""
    since: float = 0.0
    front: int | None = None
    told: int = 0
    told_tokens: int = 0
    note_tokens: int = 0
    beginning: str = ""
    record: Record | None = field(default=None, repr=False)
    retrieved: Note | None = None
    retrieval: Found | None = None
    spare: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def root(self) -> int | None:
        """Names the conversation."""
        return self.record.root if self.record else None

    @property
    def marks(self) -> Headers:
        """Headers for the answer."""
        if not self.state:
            return []
        since = datetime.fromtimestamp(self.since, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        state = f"{self.state}; reason={self.reason}" if self.reason else self.state
        marks = {
            b"x-infbox-conversation": state,
            b"x-infbox-conversation-since": since,
            b"x-infbox-told-files": str(self.told),
            b"x-infbox-told-tokens": str(self.told_tokens),
            b"x-infbox-retrieved-tokens": str(self.retrieved.tokens if self.retrieved else 0),
        }
        if self.retrieved:
            marks[b"x-infbox-retrieved"] = _named(self.retrieved)
        return [(name, value.encode()) for name, value in marks.items()]


@dataclass(frozen=True)
class _Known:
    """What is known of a request's beginning.

    Attributes:
        keys: its hashes.
        length: how many of its messages were sent before.
        node: the last one that was; None where nothing is known.
    """

    keys: Sequence[bytes]
    length: int
    node: Node | None


class Sending:
    """A request on its way out.

    Args:
        store: what is known of conversations.
        asked: the request.
        found: the conversation in it.
        present: the workspace's pack.
        pack_of: returns a kept pack by its sha256; None where it is no longer kept.
        may_show: says whether all of these files of the workspace may be shown at present.
        now: unix time, in seconds.

    Raises:
        RecursionError: the request is nested too deeply.
    """

    def __init__(
        self,
        store: Records,
        asked: Asked,
        found: Dialogue,
        *,
        present: Pack,
        pack_of: Callable[[str], Pack | None],
        may_show: Callable[[set[str]], bool],
        now: float,
    ) -> None:
        self._store = store
        self._asked = asked
        self._found = found
        self._present = present
        self._pack_of = pack_of
        self._may_show = may_show
        self._now = now
        self._seed = "\0".join((asked.user, asked.workspace, asked.model))
        self._before = self._known()
        self._notes: list[_Told] = []
        self._turn = Turn(present, asked.request, NEW)

    def wanted(self) -> Wanted | None:
        """Return what to look for in the text index; None for nothing. Decides nothing yet.

        Raises:
            sqlite3.Error: what is known cannot be read.
        """
        record = self._planned()
        place, pack, options = self._place_of_found(record), self._turn.pack, self._asked.options
        if place is None or pack is None:
            return None
        space = self._space(pack, record)
        if space < retrieving.MIN_TOKENS:
            return None
        told = [each for _, _, each in self._notes]
        shows = known(self._sections(pack, record), told)
        return Wanted(
            self._asked.workspace,
            place,
            options.query or forms.question_of(self._found.turns[place]),
            options.files,
            space,
            retrieving.bytes_per_token(self._present),
            {path: shows.digests[path] for path, whole in shows.in_full.items() if whole},
            frozenset(chunk for each in told for chunk in each.found),
            must_search=bool(options.query or options.files),
            pieces_per_token=retrieving.pieces_per_token(self._present),
        )

    def decide(self, retrieval: Found | None = None) -> Turn:
        """Decide how it goes out, and write it down.

        Args:
            retrieval: what came of looking for what was ``wanted`` a moment ago; None where nothing
                was.

        Raises:
            sqlite3.Error: what is known cannot be read or written.
        """
        record = self._planned()
        if retrieval is not None:
            self._tell(retrieval, record)
        self._turn.since = record.began if record else self._now
        if self._asked.path != forms.COUNT:
            self._turn.record = self._write(record)
        return self._finished()

    def _planned(self) -> Record | None:
        """Return the record by which it goes on; None where it begins anew."""
        record = self._record() if self._is_known_part_of_it() else None
        if record is not None and not self._found.has_begun:
            record = None  # the client took all answers out of it
            self._turn.beginning = EDITED if _goes_elsewhere(self._before) else ""
        elif record is not None:
            self._turn.beginning = _first_differing(self._found, self._before)
            if not self._goes_on(record):
                self._turn.state, self._notes, record = MOVED, [], None
        elif self._found.has_begun:
            self._turn.beginning = UNKNOWN
        return record

    def _place_of_found(self, record: Record | None) -> int | None:
        """Return the place for what is found: where all is computed anyway, that is any message."""
        if record is not None and record.front == 0:
            return None
        return forms.place_for_note(self._found.turns, self._before.length if record else 0)

    def _space(self, pack: Pack, record: Record | None) -> int:
        """Return how many tokens there are for what is found."""
        asked = self._asked
        front = pack.tokens if record is None or record.front is None else record.front
        told = sum(each.tokens for _, _, each in self._notes)
        found = sum(each.tokens for _, _, each in self._notes if each.found)
        own = asked.size // _MIN_BYTES_PER_TOKEN
        left = asked.window - front - own - told - asked.answer
        most = min(
            asked.options.retrieve * retrieving.MAX_NOTES,
            int((asked.window - front) * retrieving.MAX_SHARE),
        )
        return min(asked.options.retrieve, most - found, int(left * retrieving.LEFT_SHARE))

    def _tell(self, retrieval: Found, record: Record | None) -> None:
        """Tell what was found, unless another request has gone out meanwhile that did not."""
        self._turn.retrieval, note = retrieval, retrieval.note
        if note is None or self._place_of_found(record) != retrieval.place:
            return
        if self._may_show(note.paths):
            self._notes.append((retrieval.place, self._present.version, note))
            self._turn.retrieved = note

    def _known(self) -> _Known:
        """Return what is known of the request's beginning."""
        keys = chain.hashes(self._seed, self._found.turns)
        return _Known(keys, *self._store.longest(keys))

    def _is_known_part_of_it(self) -> bool:
        """Say whether what is known is of this conversation: something in it was answered.

        Else it is what a client puts in front of each of its conversations, with answers of its
        own: examples, its setting. A conversation that has more answers than that goes on from it
        while its KV is surely there, for some clients never send a question again as it was.
        """
        before, found = self._before, self._found
        if before.node is None:
            return False
        if before.node.system is not None:
            return True
        if self._store.was_answered(before.keys[: before.length]):
            return True
        is_recent = self._now - before.node.used < moving.UNANSWERED_SECONDS
        return is_recent and any(not forms.is_of_people(t) for t in found.turns[before.length :])

    def _record(self) -> Record | None:
        before = self._before
        if before.node is None:
            return None
        return self._store.record(before.node.record, before.length)

    def _goes_on(self, record: Record) -> bool:
        """Say whether the conversation keeps its pack, and put into the turn how; else why not."""
        turn, kept = self._turn, self._pack_of(record.pack)
        if kept is None:
            turn.reason = "lost"
            return False
        turn.reason = "erased" if self._must_not_be_used(kept, record) else ""
        place = forms.place_for_note(self._found.turns, self._before.length)
        told = None
        if not turn.reason and place is not None and kept.sha256 != self._present.sha256:
            told = self._told(record, kept)
            turn.reason = self._why_to_move(record, kept, told)
        if turn.reason:
            return False
        turn.pack, turn.state, turn.front = kept, KEPT, record.front
        self._notes = list(record.notes)
        if told is not None and place is not None:
            turn.note_tokens = told.tokens
            self._notes.append((place, self._present.version, told))
        return True

    def _must_not_be_used(self, kept: Pack, record: Record) -> bool:
        """Say whether what a conversation was sent shows something that must not be shown."""
        if is_erased(kept, self._present) or any(
            shows_withdrawn(told.paths, version, self._present) for _, version, told in record.notes
        ):
            return True
        found = {path for _, _, told in record.notes for path, *_ in told.found}
        return bool(found) and not self._may_show(found)

    def _sections(self, kept: Pack, record: Record | None) -> Sequence[About]:
        """Return the sections of a pack that stand in front of the conversation."""
        if record is None or record.front is None:
            return kept.about
        return kept.about[: sum(tokens <= record.front for _, tokens in kept.ends)]

    def _told(self, record: Record, kept: Pack) -> Note | None:
        """Return what is to be told now; None for nothing."""
        if record.front == 0:
            return None
        sections = self._sections(kept, record)
        told = [each for _, _, each in record.notes]
        own = self._asked.size // _MIN_BYTES_PER_TOKEN
        own += sum(each.tokens for each in told)
        most = min(MOST_TOKENS, (self._asked.window - kept.tokens - own) // 2)
        own_text = Own(self._found.turns, kept, told)
        return note(known(sections, told), told, self._present, own_text, most)

    def _why_to_move(self, record: Record, kept: Pack, told: Note | None) -> str:
        sum_told = sum(each.tokens for _, _, each in record.notes if not each.found)
        sum_told += told.tokens if told else 0
        node = self._before.node
        standing = Standing(
            own=int(self._asked.size / BYTES_PER_TOKEN),
            told=sum_told,
            pack=kept.tokens if record.front is None else record.front,
            idle=self._now - node.used if node else 0.0,
            age=self._now - record.began,
        )
        return moving.reason(standing)

    def _write(self, record: Record | None) -> Record:
        """Write down how the request goes out."""
        before, store = self._before, self._store
        with store.transaction():
            if record is None:
                record = store.begin(self._present, self._asked.workspace, self._now)
            for told in self._notes[len(record.notes) :]:
                record = store.tell(record, *told)
            first = before.length if self._turn.state == KEPT else 0
            if 0 < first < len(before.keys):
                store.touch(before.keys[first - 1], self._now)
            store.keep(self._nodes(record, first))
        return record

    def _nodes(self, record: Record, first: int) -> dict[bytes, Node]:
        """Return the nodes of the request: of its messages from the first new one on, and of the
        last."""
        before = self._before
        inner = Node(record.number, self._now, continued=True)
        nodes = dict.fromkeys(before.keys[first:], inner)
        whole = inner._replace(
            continued=False,
            system=chain.digest(self._found.system),
            tools=chain.digest_of_tools(self._found.tools),
        )
        if before.keys:
            was = before.node if first == len(before.keys) else None
            nodes[before.keys[-1]] = whole._replace(continued=was is not None and was.continued)
        return nodes

    def _finished(self) -> Turn:
        turn, asked = self._turn, self._turn.request
        changes = [told for told in self._notes if not told[2].found]
        turn.request = self._with(self._notes, asked)
        turn.spare = self._with(changes, asked) if len(changes) < len(self._notes) else None
        turn.told = len({path for _, _, each in changes for path in each.paths})
        turn.told_tokens = sum(each.tokens for _, _, each in changes)
        return turn

    def _with(self, notes: Sequence[_Told], request: dict[str, Any]) -> dict[str, Any]:
        """Return a request with notes; what changed comes before what was found."""
        here: dict[int, str] = {}
        for at, _, each in notes:
            here[at] = f"{here[at]}\n{each.text}" if at in here else each.text
        return forms.with_notes(request, self._found, here)


def _named(note: Note) -> str:
    """Return what a note shows of files, as a header has it."""
    named = ""
    for path, _, start, end in note.found:
        one = f"{quote(path)}:{start}-{end}"
        if len(named) + len(one) > _MOST_NAMED_CHARS:
            return f"{named}, ..."
        named = f"{named}, {one}" if named else one
    return named


def _first_differing(found: Dialogue, before: _Known) -> str:
    """Return what was the first to differ from what was sent before."""
    node = before.node
    if node is None:
        return SAME
    if node.system is not None and node.system != chain.digest(found.system):
        return SYSTEM
    if node.tools is not None and node.tools != chain.digest_of_tools(found.tools):
        return TOOLS
    return EDITED if _goes_elsewhere(before) else SAME


def _goes_elsewhere(before: _Known) -> bool:
    """Say whether a conversation had gone on otherwise from where it goes on now."""
    return before.node is not None and before.node.continued and before.length < len(before.keys)


def is_erased(pack: Pack, present: Pack) -> bool:
    """Say whether an earlier pack shows something that must not be shown, or that cannot be known:
    where the watcher began anew, or was set back, it may not tell."""
    if pack.sha256 == present.sha256:
        return False
    if pack.epoch != present.epoch or pack.version > present.version:
        return True
    if not present.withdrawn:
        return False
    paths = {path for about in pack.about for path in (about.path, about.old_path)}
    return shows_withdrawn(paths, pack.version, present)


def shows_withdrawn(paths: set[str], version: int, present: Pack) -> bool:
    """Say whether a text of this number, about these files, may show one that must not be shown."""
    if version > present.version:
        return True
    return any(version < present.withdrawn.get(path, 0) for path in paths)
