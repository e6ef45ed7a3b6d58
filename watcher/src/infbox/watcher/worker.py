"""What is done with trees that another process follows: packing, warming, and showing it all."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import queue
import socket
import sqlite3
import sys
import threading
import time
from collections import deque
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import aiohttp
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infbox import log
from infbox.errors import GitError, InputError
from infbox.log import line
from infbox.metrics import WatcherMetrics
from infbox.packing import tokens
from infbox.packing.erasure.cached_chunks import CachedChunks
from infbox.packing.overlay import BaseWorkspace
from infbox.packing.packer import Packer
from infbox.replicas.placement import Placement
from infbox.retrieval import texts
from infbox.runtime import clock, memory
from infbox.runtime.command import exit_status
from infbox.runtime.notify import watchdog_seconds
from infbox.runtime.serve import server
from infbox.tree.files import Tree
from infbox.warming.engine import Engine
from infbox.warming.lmcache import LMCache
from infbox.warming.warmer import Warmer
from infbox.watcher.link import Alive, Changed, Link, ReadFailure, Ready, Report
from infbox.watcher.service import named
from infbox.watcher.text_index import TextIndex, TextThread
from infbox.watching import index
from infbox.watching.index import Reader, is_damage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from starlette.requests import Request

    from infbox.config import Config, Workspace
    from infbox.packing.packer import Publication
    from infbox.packing.tokens import Tokenizer

_RETRY_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 300.0
_END_SECONDS = 5.0
_LONG_SECONDS = 120.0  # after which a pack that is being made is told of
_LONG = "its pack is still being made: see whether the tree's file system answers"
_ALIVE_SECONDS = 1.0  # between signs of life, at the longest
_REMEMBERED_TIMES = 10_000
_FAILURES = (OSError, GitError, InputError, sqlite3.Error)

_logger = logging.getLogger("infbox.watcher.worker")  # whatever this was started as


class Source:
    """A workspace's follower, as the other process tells of it.

    Args:
        name: of the workspace.
        index_file: what the follower writes.
        link: to the other process.
    """

    def __init__(self, name: str, index_file: Path, link: Link) -> None:
        self.workspace = name
        self.index_file = index_file
        self.report = Report(name)
        """How the follower fares."""
        self.times: deque[float] = deque(maxlen=_REMEMBERED_TIMES)
        """Seconds from a save until it was committed, for whoever takes them out."""
        self.also: Callable[[], None] = lambda: None
        """Called with each change, in the thread that tells of it."""
        self._link = link
        self._changes: queue.SimpleQueue[Changed | None] = queue.SimpleQueue()

    def take(self, report: Report) -> None:
        """Take note of how the follower fares."""
        self.times.extend(report.times)
        self.report = report

    def mark(self, saved_at: float | None) -> None:
        """Have the index looked at, for a save at this moment of the monotonic clock or for none.
        For any thread."""
        self._changes.put(Changed(self.workspace, saved_at))
        self.also()

    def wait(self) -> Changed | None:
        """Wait for changes, and return them as one, of the first save; None once closed."""
        change = self._changes.get()
        while change and not self._changes.empty():
            other = self._changes.get()
            if other is None or change.saved_at is None:
                change = other
        return change

    def report_unreadable(self) -> None:
        """Have the follower check the index, since it could not be read."""
        self._link.send(ReadFailure(self.workspace))

    def close(self) -> None:
        """Let the one that waits go."""
        self._changes.put(None)


class PackThread(threading.Thread):
    """Brings one workspace's pack up to its index whenever that changed.

    Args:
        packer: blocking; every call to it is made here.
        source: who tells of changes.
        offer: called here with a time of a save, or None, when there is something new to warm.
        overlays: sources of the workspaces whose packs begin with this one.
    """

    def __init__(
        self,
        packer: Packer,
        source: Source,
        offer: Callable[[float | None], None],
        overlays: Sequence[Source] = (),
    ) -> None:
        super().__init__(name=f"pack-{source.workspace}", daemon=True)
        self.packer = packer
        self.failure = ""
        self.failing_since: float | None = None
        """Since when, of the monotonic clock."""
        self.sections: dict[str, int] = {}
        """Tokens of the published pack, by section."""
        self.shared = 0
        """Tokens of it that the base's pack begins with too."""
        self._overlays = overlays
        self._source = source
        self._offer = offer
        self._adopting = False
        self._failures = 0
        self._began: float | None = None

    def run(self) -> None:
        """Pack until the source is closed."""
        try:
            while (change := self._source.wait()) is not None:
                self._began = time.monotonic()
                self._update(change.saved_at)
                self._began = None
        except Exception:
            _logger.critical(
                line("stopped-packing", workspace=self._source.workspace), exc_info=True
            )
            raise
        finally:
            self.packer.close()

    def adopt(self) -> None:
        """Publish the candidate soon. For any thread."""
        self._adopting = True
        self._source.mark(None)

    def health(self) -> tuple[str, float | None]:
        """Return why there is no new pack at present, and since when, of the monotonic clock; an
        empty text and None where there is. For any thread."""
        began = self._began
        if self.failure or began is None or time.monotonic() - began < _LONG_SECONDS:
            return self.failure, self.failing_since
        return _LONG, began

    def _update(self, saved_at: float | None) -> None:
        before = self.packer.publication
        try:
            changed = self.packer.update()
            if self._adopting:
                self._adopting = False
                changed |= self.packer.adopt()
        except Exception as error:  # one tree's slip takes nothing from the others
            self._complain(error, saved_at)
            return
        if self.failure:
            _logger.info(line("packing-again", workspace=self._source.workspace))
        self.failure, self.failing_since, self._failures = "", None, 0
        self.sections = self.packer.sections()
        self.shared = self.packer.shared
        if changed:
            for overlay in self._overlays:
                overlay.mark(None)
        if changed or saved_at is not None:
            self._offer(saved_at)
        published = self.packer.publication
        if published and (before is None or before.generation != published.generation):
            memory.give_back()  # all files were weighed: it took much more memory than a save does

    def _complain(self, error: Exception, saved_at: float | None) -> None:
        """Note that the pack cannot be made: what was published stays, and it is retried."""
        reason, trace, pause = str(error) or type(error).__name__, None, _RETRY_SECONDS
        if not isinstance(error, _FAILURES):
            # A slip of ours: it may take long each time, and end in the same way.
            reason, trace = f"{type(error).__name__}: see the journal of infbox-watcher", error
            pause = min(_RETRY_SECONDS * 2.0 ** min(self._failures, 10), _LONGEST_RETRY_SECONDS)
            self._failures += 1
        if reason != self.failure:
            _logger.error(
                line("not-packed", workspace=self._source.workspace, reason=reason), exc_info=trace
            )
        if self.failing_since is None:
            self.failing_since = time.monotonic()
        self.failure = reason
        if isinstance(error, sqlite3.Error) and is_damage(error):
            self._source.report_unreadable()
        retry = threading.Timer(pause, self._source.mark, (saved_at,))
        retry.daemon = True
        retry.start()


class Worker:
    """One workspace at work: its source, its pack and its warmth, as seen from the event loop.

    Args:
        source: tells of its tree.
        packer: of its pack.
        warmer: what keeps that warm.
        metrics: to count in.
        base: the name of the workspace that it is an overlay of; None for none.
        overlays: sources of the overlays of this one.
        texts: keeps its text index.
    """

    def __init__(
        self,
        source: Source,
        packer: Packer,
        warmer: Warmer,
        metrics: WatcherMetrics,
        *,
        base: str | None = None,
        overlays: Sequence[Source] = (),
        texts: TextThread,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._warmer = warmer
        self._metrics = metrics
        self._reader = Reader(source.index_file)
        self._published: Publication | None = None
        self._candidate: Publication | None = None
        self._last_save: float | None = None
        self._told = {"events": 0, "overflows": 0, "scans": 0}
        self._base = base
        self.thread = PackThread(packer, source, self._offer, overlays)
        self.texts = texts
        source.also = texts.mark

    def start(self) -> None:
        """Begin to pack, and to keep the text index."""
        self.thread.start()
        self.texts.start()

    @property
    def is_alive(self) -> bool:
        """Whether both threads are."""
        return self._source.report.is_alive and self.thread.is_alive()

    def close(self, ends: float) -> None:
        """Close what was opened here, once the pack ended.

        Args:
            ends: until when to wait for that, of the monotonic clock. One that hangs does not end.
        """
        self.thread.join(max(ends - time.monotonic(), 0))
        self.texts.close(ends)
        self._reader.close()

    def status(self) -> dict[str, Any]:
        """Return where the workspace stands; times are unix times, durations seconds."""
        report, warmth = self._source.report, self._warmer.warmth
        publication, candidate = self._published, self._candidate
        version = publication.version if publication else 0
        failure, since = self.health()
        return {
            "files": self._files(),
            "tokens": publication.tokens if publication else 0,
            **({"base": self._base, "shared_tokens": self.thread.shared} if self._base else {}),
            "generation": publication.generation if publication else 0,
            "version": version,
            "warm": bool(version) and warmth.version == version,
            "elsewhere": self._warmer.is_elsewhere,
            "warm_version": warmth.version,
            "warm_since": warmth.since,
            "prompt_tokens": warmth.prompt_tokens,
            "cached_tokens": warmth.cached_tokens,
            "last_save": self._last_save,
            "save_to_indexed_seconds": report.save_to_indexed,
            "save_to_warm_seconds": warmth.save_to_warm,
            "unwatched_directories": report.unwatched_directories,
            "polled_directories": report.polled_directories,
            "unreadable_paths": report.unreadable_paths,
            "sections": self.thread.sections,
            "garbage": self._garbage(),
            "candidate_generation": candidate.generation if candidate else None,
            "text_index_error": self.texts.failure,
            "error": failure or self._waiting() or self._warmer.template_error,
            "unhealthy_since": None if since is None else clock.unix(since),
        }

    def health(self) -> tuple[str, float | None]:
        """Return why the workspace is not followed or packed at present, and since when, of the
        monotonic clock; an empty text and None where it is."""
        report = self._source.report
        return (report.failure, report.since) if report.failure else self.thread.health()

    def show(self) -> None:
        """Bring the metrics up to now."""
        name, metrics, report = self._source.workspace, self._metrics, self._source.report
        for key, counter in (
            ("events", metrics.events),
            ("overflows", metrics.overflows),
            ("scans", metrics.rescans),
        ):
            now = getattr(report, key)
            counter.labels(name).inc(now - self._told[key])
            self._told[key] = now
        while self._source.times:
            metrics.indexed.labels(name).observe(self._source.times.popleft())
        metrics.files.labels(name).set(self._files())
        metrics.unwatched.labels(name).set(report.unwatched_directories)
        metrics.polled.labels(name).set(report.polled_directories)
        metrics.unreadable.labels(name).set(report.unreadable_paths)
        metrics.readable.labels(name).set(not report.failure)
        since = self.health()[1]
        metrics.unhealthy_since.labels(name).set(0 if since is None else clock.unix(since))
        metrics.text_index_failing.labels(name).set(bool(self.texts.failure))
        metrics.index_bytes.labels(name).set(_size(self._source.index_file))
        metrics.garbage.labels(name).set(self._garbage())
        for section, count in self.thread.sections.items():
            metrics.tokens.labels(name, section).set(count)

    def _waiting(self) -> str:
        base = self.thread.packer.waits_for
        return f"it waits for its base {base}, which has no pack yet" if base else ""

    def _files(self) -> int:
        try:
            return self._reader.counts()[0]
        except sqlite3.Error:
            return 0

    def _garbage(self) -> float:
        tokens = self._published.tokens if self._published else 0
        return self.thread.sections.get("superseded", 0) / tokens if tokens else 0.0

    def _offer(self, saved_at: float | None) -> None:
        """Hand what the packer has on to the event loop. Called in its thread."""
        packer = self.thread.packer
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(
                self._take, packer.publication, packer.candidate, saved_at
            )

    def _take(
        self,
        publication: Publication | None,
        candidate: Publication | None,
        saved_at: float | None,
    ) -> None:
        # Of what is published, not of the index: together with ``warm`` it tells of a save.
        self._last_save = self._last_save if saved_at is None else clock.unix(saved_at)
        if publication and publication is not self._published:
            self._published = publication
            self._take_note(publication, saved_at)
            self._warmer.offer(publication, saved_at)
        if candidate is not self._candidate:
            self._candidate = candidate
            self._warmer.prepare(candidate, self.thread.adopt)

    def _take_note(self, publication: Publication, saved_at: float | None) -> None:
        name = self._source.workspace
        took = None if saved_at is None else time.monotonic() - saved_at
        if took is not None:
            self._metrics.published.labels(name).observe(took)
        self._metrics.generation.labels(name).set(publication.generation)
        self._metrics.version.labels(name).set(publication.version)
        _logger.info(
            line(
                "published",
                workspace=name,
                generation=publication.generation,
                version=publication.version,
                tokens=publication.tokens,
                save_to_published_seconds="-" if took is None else took,
            )
        )


class Work:
    """Works on all workspaces of a configuration, and shows how they fare.

    Args:
        config: as the other process has it.
        link: to that.
        gone: called in the event loop when that has ended.

    Raises:
        InputError: the tokenizer or what is kept of a pack cannot be used.
        UnreadyError: the state directory or a tree cannot be used at present.
    """

    def __init__(self, config: Config, link: Link, gone: Callable[[], None]) -> None:
        self._config = config
        self._link = link
        self._gone = gone
        self._metrics = WatcherMetrics()
        self._is_ready = False
        self._sources = {
            workspace.name: Source(
                workspace.name, index.place(config.state_dir, workspace.name), link
            )
            for workspace in config.workspaces
        }
        self._bases = {w.name: w.base or w.name for w in config.workspaces}
        """The base of each overlay; every other workspace is its own."""
        self._chunks = {
            workspace.name: CachedChunks(config.state_dir / "packs" / workspace.name / "chunks.db")
            for workspace in config.workspaces
        }
        self._packers = _packers(config, self._chunks)
        self._texts = _text_threads(config)
        self._workers: dict[str, Worker] = {}
        self._warming: list[asyncio.Task[None]] = []

    def pages(self) -> Starlette:
        """Return the pages; serving them does the work."""
        routes = [Route("/status", self._show_status), Route("/metrics", self._show_metrics)]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Work while this is open."""
        async with aiohttp.ClientSession() as session:
            living = self._begin(session)
            try:
                yield
            finally:
                for task in (living, *self._warming):
                    task.cancel()
                await asyncio.gather(living, *self._warming, return_exceptions=True)
                for source in self._sources.values():
                    source.close()
                ends = time.monotonic() + _END_SECONDS
                for worker in self._workers.values():
                    await asyncio.to_thread(worker.close, ends)
                for chunks in self._chunks.values():
                    chunks.close()

    async def _show_status(self, _request: Request) -> JSONResponse:
        """Show how the workspaces fare."""
        workers = self._workers.items()
        return JSONResponse(
            {
                "alive": self._is_alive(),
                "ready": self._is_ready,
                "workspaces": {name: worker.status() for name, worker in workers},
            }
        )

    async def _show_metrics(self, _request: Request) -> Response:
        """Show the metrics, for Prometheus."""
        for worker in self._workers.values():
            worker.show()
        page = generate_latest(self._metrics.registry)
        return Response(page, headers={"content-type": CONTENT_TYPE_LATEST})

    def _begin(self, session: aiohttp.ClientSession) -> asyncio.Task[None]:
        """Begin to pack and to warm."""
        loop, settings = asyncio.get_running_loop(), self._config.engine
        engine = Engine(session, settings.url)
        lmcache = LMCache(session, settings.lmcache) if settings.lmcache else None
        replicas, bases = self._config.replicas, dict.fromkeys(self._bases.values())
        placement = Placement(session, replicas, bases) if replicas else None
        if placement:
            looking = loop.create_task(placement.run())
            looking.add_done_callback(_tell_why)
            self._warming.append(looking)
        salts = {each.name: self._config.cache_salts(each) for each in self._config.workspaces}
        warmers: dict[str, Warmer] = {}
        for name in sorted(self._sources, key=lambda name: name not in self._bases.values()):
            base = self._bases[name]
            warmer = Warmer(
                name,
                engine,
                self._metrics,
                lmcache=lmcache,
                is_here=partial(placement.is_here, base) if placement else None,
                base=None if base == name else warmers[base],
                chunks=self._chunks[name],
                salts=salts[name],
            )
            warmers[name] = warmer
            self._workers[name] = Worker(
                self._sources[name],
                self._packers[name],
                warmer,
                self._metrics,
                base=None if base == name else base,
                overlays=[self._sources[n] for n, b in self._bases.items() if b == name != n],
                texts=self._texts[name],
            )
        for name, worker in self._workers.items():
            worker.start()
            task = loop.create_task(warmers[name].run())
            task.add_done_callback(_tell_why)
            self._warming.append(task)
        threading.Thread(target=self._hear, args=(loop,), name="hear", daemon=True).start()
        return loop.create_task(self._live())

    def _hear(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take what the other process tells until it ends. In a thread of its own."""
        with contextlib.suppress(EOFError):
            while True:
                self._take(self._link.receive())
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._gone)

    def _take(self, message: object) -> None:
        if isinstance(message, Report):
            self._sources[message.workspace].take(message)
        elif isinstance(message, Changed):
            self._sources[message.workspace].mark(message.saved_at)
        elif isinstance(message, Ready):
            self._is_ready = True

    async def _live(self) -> None:
        """Tell the other process that all is alive, as long as it is."""
        period = min((watchdog_seconds() or _ALIVE_SECONDS) / 6, _ALIVE_SECONDS)
        while True:
            if self._is_alive():
                self._link.send(Alive())
            await asyncio.sleep(period)

    def _is_alive(self) -> bool:
        working = all(worker.is_alive for worker in self._workers.values())
        return working and not any(task.done() for task in self._warming)


def main() -> int:
    """Run the process that works; the other one starts it with two sockets.

    Returns:
        The exit status, as of ``infbox-watch``.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("link", type=int, help="descriptor of the socket to the other process")
    parser.add_argument("listener", type=int, help="descriptor of the socket for the pages")
    parser.set_defaults(command=_serve)
    return exit_status("infbox-watch", parser.parse_args())


def _serve(options: argparse.Namespace) -> None:
    memory.share_one_arena()
    log.to_stderr()
    link = Link(Connection(options.link))
    with contextlib.suppress(EOFError), socket.socket(fileno=options.listener) as listener:
        work = Work(link.receive(), link, lambda: setattr(serving, "should_exit", True))
        serving = server(work.pages(), idle_seconds=5, grace_seconds=1, loop="asyncio")
        serving.run(sockets=[listener])


def _packers(config: Config, chunks: Mapping[str, CachedChunks]) -> dict[str, Packer]:
    tokenizer = tokens.load(config.engine.tokenizer)
    packers: dict[str, Packer] = {}
    for workspace in sorted(config.workspaces, key=lambda workspace: workspace.base is not None):
        base = None
        if workspace.base:
            base = _base(config, workspace.base, packers[workspace.base])
        packers[workspace.name] = _packer(
            config, workspace, tokenizer, base, chunks[workspace.name]
        )
    return {workspace.name: packers[workspace.name] for workspace in config.workspaces}


def _base(config: Config, name: str, packer: Packer) -> BaseWorkspace:
    root = next(workspace.path for workspace in config.workspaces if workspace.name == name)
    index_file = index.place(config.state_dir, name)
    return BaseWorkspace(
        name, lambda: packer.entries, Reader(index_file), root, lambda: packer.erased
    )


def _packer(
    config: Config,
    workspace: Workspace,
    tokenizer: Tokenizer,
    base: BaseWorkspace | None,
    chunks: CachedChunks,
) -> Packer:
    with named(workspace.name):
        return Packer(
            name=workspace.name,
            model=workspace.model or config.engine.model,
            tree=Tree(
                workspace.path,
                config.watcher.max_file_bytes,
                control_tokens=tokenizer.control,
            ),
            index=Reader(index.place(config.state_dir, workspace.name)),
            budget=workspace.budget,
            tokenizer=tokenizer,
            state_dir=config.state_dir,
            base=base,
            chunks=chunks,
            weights=config.weights.pack,
        )


def _text_threads(config: Config) -> dict[str, TextThread]:
    """Return what will keep the text index of each workspace."""
    control = tokens.load(config.engine.tokenizer).control
    found = {}
    for workspace in config.workspaces:
        name = workspace.name
        with named(name):
            tree = Tree(workspace.path, config.watcher.max_file_bytes, control_tokens=control)
        text_index = TextIndex(
            texts.place(config.state_dir, name), index.place(config.state_dir, name), tree
        )
        found[name] = TextThread(name, text_index)
    return found


def _size(file: Path) -> int:
    """Return the bytes of a database and its log."""
    total = 0
    for part in (file, file.with_name(f"{file.name}-wal")):
        with contextlib.suppress(OSError):
            total += part.stat().st_size
    return total


def _tell_why(task: asyncio.Task[None]) -> None:
    """Log why a task ended that should not have; systemd then misses its sign of life."""
    if not task.cancelled():
        _logger.critical(line("stopped-working"), exc_info=task.exception())


if __name__ == "__main__":
    sys.exit(main())
