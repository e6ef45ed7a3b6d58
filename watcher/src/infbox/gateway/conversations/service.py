"""Keeps conversations: which pack each request goes out with, and what it is told.

All is decided and written down before a request goes to the engine, in one thread, so that whatever
the engine may have seen is known afterwards. What cannot be read or written makes an answer slower,
never wrong: the conversation then goes out with the present pack.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
import zlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from infbox.gateway.conversations import forms, moving, records, retrieving
from infbox.gateway.conversations.deciding import (
    KEPT,
    MOVED,
    SAME,
    Sending,
    Turn,
    is_erased,
    shows_withdrawn,
)
from infbox.gateway.conversations.records import Records
from infbox.gateway.conversations.retrieving import Retrieval
from infbox.kinds import RETRIEVAL_WEIGHTS
from infbox.log import line
from infbox.watching import index

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from infbox.gateway.conversations.deciding import Asked
    from infbox.gateway.conversations.forms import Dialogue
    from infbox.gateway.conversations.retrieving import Found, Wanted
    from infbox.kinds import KindWeights
    from infbox.packing.published import Pack

    _Packs = Callable[[], Mapping[str, Pack | None]]

HOUSEKEEPING_SECONDS = 60.0

_MOST_PACK_BYTES = 48 * 1024 * 1024  # of packs in memory; the others are read when they are needed

_FAILURES = (OSError, sqlite3.Error, zlib.error, ValueError, KeyError, TypeError)

_logger = logging.getLogger(__name__)


class Conversations:
    """Keeps the conversations of all workspaces.

    Args:
        file: of the database.
        most_bytes: of that; 0 keeps none.
        state_dir: of the watcher, whose indexes are asked.
        clock: returns unix time, in seconds.
        weights: what a match of retrieval is worth, by the kind of its file.
    """

    def __init__(
        self,
        file: Path,
        most_bytes: int,
        state_dir: Path,
        clock: Callable[[], float] = time.time,
        weights: KindWeights = RETRIEVAL_WEIGHTS,
    ) -> None:
        self._weights = weights
        self._file = file
        self._most_bytes = most_bytes
        self._state_dir = state_dir
        self._clock = clock
        self._indexes: dict[str, index.Reader] = {}
        self._retrieval: Retrieval | None = None
        self._records: Records | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._packs: OrderedDict[str, Pack] = OrderedDict()
        self._erased: dict[str, tuple[str, Mapping[str, int]]] = {}
        self._versions: dict[str, int] = {}
        self.failure = ""
        """Why nothing can be kept at present; empty where all is well."""

    @contextlib.asynccontextmanager
    async def running(self, present: _Packs) -> AsyncIterator[None]:
        """Keep conversations until the block is left.

        Args:
            present: returns the packs of the workspaces, by their names.
        """
        if not self._most_bytes:
            yield
            return
        self._worker = ThreadPoolExecutor(1, "conversations")
        self._retrieval = Retrieval(self._state_dir, retrieving.SECONDS, weights=self._weights)
        task = asyncio.create_task(self._keep_house(present))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            worker, self._worker = self._worker, None
            await asyncio.to_thread(worker.shutdown)
            await asyncio.to_thread(self._retrieval.close)
            if self._records:
                self._records.close()
            for known in self._indexes.values():
                known.close()

    async def turn(self, asked: Asked, present: Pack | None) -> Turn:
        """Return how a request goes out; one that is of no conversation with the present pack.

        Args:
            asked: the request.
            present: the workspace's pack.
        """
        plain = Turn(present, asked.request)
        if self._worker is None or present is None or not present.epoch:
            return plain
        found = forms.dialogue(asked.path, asked.request)
        if found is None or not found.turns:
            return plain
        retrieval = await self._found(asked, found, present)
        decided = self._decided, asked, found, present, retrieval
        turn: Turn | None = await self._run(*decided)
        if turn is None:
            return plain
        if turn.record is None:
            return turn
        if turn.state == MOVED:
            _logger.info(_told_of("conversation-moved", asked, reason=turn.reason))
        if turn.beginning not in ("", SAME):
            _logger.info(_told_of("conversation-changed", asked, first=turn.beginning))
        return turn

    async def _found(self, asked: Asked, found: Dialogue, present: Pack) -> Found | None:
        """Return what retrieval finds for a request; None where nothing is to be looked for."""
        is_asked = asked.options.retrieve and forms.place_for_note(found.turns) is not None
        if not is_asked or self._retrieval is None:
            return None
        wanted: Wanted | None = await self._run(self._wanted, asked, found, present)
        return None if wanted is None else await self._retrieval.find(wanted)

    async def _run(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Return what a function returns in the thread; None where it cannot be done."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._guarded, function, *arguments)

    def drop_found(self, turn: Turn) -> None:
        """Note that a request goes out without anything that was found for its conversation."""
        turn.spare = turn.retrieved = None
        self._later(self._drop_found, turn)

    def note_front(self, turn: Turn, tokens: int) -> None:
        """Note how much of the pack was put in front of a conversation that takes less than all of
        it."""
        if turn.record is None or turn.front == tokens:
            return
        if turn.state == KEPT and turn.front is not None:
            _logger.info(line("conversation-cut", before=turn.front, now=tokens))
        turn.front = tokens
        self._later(self._set_front, turn, tokens)

    def _later(self, function: Callable[..., None], *arguments: object) -> None:
        """Have something done in the thread, once what is waited for is done. For any thread."""
        worker = self._worker
        if worker is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                worker.submit(function, *arguments)

    def _guarded(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Return what a function of the records returns, or None where that cannot be done. In the
        thread."""
        try:
            if self._records is None:
                self._records = records.opened(self._file)
            done = function(self._records, *arguments)
        except RecursionError:
            return None  # the body is nested too deeply, which is said elsewhere
        except _FAILURES as error:
            self._fail(error)
            return None
        if self.failure:
            _logger.info(line("conversations-kept-again"))
            self.failure = ""
        return done

    def _fail(self, error: Exception) -> None:
        """Note that conversations cannot be kept at present; a damaged file is begun anew."""
        reason = str(error) or type(error).__name__
        if reason != self.failure:
            _logger.error(line("conversations-not-kept", reason=reason))
        self.failure = reason
        if isinstance(error, sqlite3.DatabaseError) and self._records:
            self._records.close()
            self._records = None

    def _wanted(
        self, store: Records, asked: Asked, found: Dialogue, present: Pack
    ) -> Wanted | None:
        return self._sending(store, asked, found, present).wanted()

    def _decided(
        self,
        store: Records,
        asked: Asked,
        found: Dialogue,
        present: Pack,
        retrieval: Found | None,
    ) -> Turn:
        """Decide how a request goes out; its pack is written once it has gone out. In the
        thread."""
        turn = self._sending(store, asked, found, present).decide(retrieval)
        if turn.record and not store.has_pack(turn.record.pack):
            self._later(self._keep_pack, present, asked.workspace)
        return turn

    def _sending(self, store: Records, asked: Asked, found: Dialogue, present: Pack) -> Sending:
        return Sending(
            store,
            asked,
            found,
            present=present,
            pack_of=lambda digest: self._pack(store, digest, present),
            may_show=lambda paths: self._may_show(asked.workspace, paths),
            now=self._clock(),
        )

    def _may_show(self, workspace: str, paths: set[str]) -> bool:
        """Say whether all of these files may be shown; not where that cannot be known. In the
        thread."""
        if workspace not in self._indexes:
            self._indexes[workspace] = index.Reader(index.place(self._state_dir, workspace))
        return paths <= set(_shown(self._indexes[workspace], paths))

    def _pack(self, store: Records, digest: str, present: Pack) -> Pack | None:
        """Return a pack; None where it is no longer kept."""
        if digest == present.sha256:
            return present
        pack = self._packs.get(digest) or store.pack(digest)
        if pack is not None:
            self._remember(pack)
        return pack

    def _remember(self, pack: Pack) -> None:
        self._packs[pack.sha256] = pack
        self._packs.move_to_end(pack.sha256)
        while sum(len(each.encoded) for each in self._packs.values()) > _MOST_PACK_BYTES:
            self._packs.popitem(last=False)

    def _keep_pack(self, pack: Pack, workspace: str) -> None:
        """Write a pack, once the request that begins with it has gone out. In the thread."""
        try:
            if self._records and not self._records.has_pack(pack.sha256):
                self._records.keep_pack(pack, workspace)
        except _FAILURES as error:
            self._fail(error)

    def _set_front(self, turn: Turn, tokens: int) -> None:
        try:
            if self._records and turn.record:
                self._records.set_front(turn.record, tokens)
        except _FAILURES as error:
            self._fail(error)

    def _drop_found(self, turn: Turn) -> None:
        try:
            if self._records and turn.record:
                turn.record = self._records.without_found(turn.record)
        except _FAILURES as error:
            self._fail(error)

    async def _keep_house(self, present: _Packs) -> None:
        """Forget what is old, too much, or must not be kept."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            if self._file.exists():
                await asyncio.to_thread(self._tidy, present())

    def _tidy(self, present: Mapping[str, Pack | None]) -> None:
        """Do so once, with a connection of its own, so that no request waits for it. Blocking."""
        erased = {name: (p.epoch, p.withdrawn) for name, p in present.items() if p and p.epoch}
        versions = {name: p.version for name, p in present.items() if p}
        is_set_back = any(versions.get(name, 0) < was for name, was in self._versions.items())
        try:
            with contextlib.closing(Records(self._file)) as store:
                if erased != self._erased or is_set_back:
                    self._forget(store, present)
                if count := store.forget_found(self._allowed):
                    _logger.info(line("conversations-erased", retrieved_notes=count))
                self._erased, self._versions = erased, versions
                store.evict(self._clock() - moving.MOST_SECONDS, self._most_bytes)
        except _FAILURES as error:
            _logger.warning(line("conversations-not-tidied", reason=error))

    def _allowed(self, workspace: str, paths: Iterable[str]) -> Iterable[str]:
        """Return those of a workspace's files that may be shown; none where that cannot be
        known."""
        known = index.Reader(index.place(self._state_dir, workspace))
        with contextlib.closing(known):
            return _shown(known, paths)

    def _forget(self, store: Records, present: Mapping[str, Pack | None]) -> None:
        def unusable(workspace: str, pack: Pack) -> bool:
            now = present.get(workspace)
            return now is None or (bool(now.epoch) and is_erased(pack, now))

        def stale(workspace: str, version: int, paths: set[str]) -> bool:
            now = present.get(workspace)
            return now is not None and shows_withdrawn(paths, version, now)

        count = store.forget(unusable, stale)
        if count:
            self._later(self._packs.clear)
            _logger.info(line("conversations-erased", packs_and_notes=count))


def _shown(known: index.Reader, paths: Iterable[str]) -> Iterable[str]:
    """Return those of these files that may be shown; none where that cannot be known."""
    try:
        return known.digests(paths)
    except sqlite3.Error:
        return ()


def _told_of(event: str, asked: Asked, **fields: object) -> str:
    user, client = asked.user or "-", asked.client or "-"
    return line(event, workspace=asked.workspace, user=user, client=client, **fields)
