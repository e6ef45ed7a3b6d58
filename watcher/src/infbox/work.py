"""What a service does in its event loop: packing, warming, and showing how it fares."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

import aiohttp
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infbox.engine import Engine
from infbox.errors import InputError
from infbox.git import GitError
from infbox.index import Reader, is_damage
from infbox.lmcache import LMCache
from infbox.log import line
from infbox.metrics import WatcherMetrics
from infbox.notify import notify, watchdog_seconds
from infbox.warm import Warmer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from starlette.requests import Request

    from infbox.follow import Follower
    from infbox.packer import Packer, Publication
    from infbox.service import Service

_RETRY_SECONDS = 5.0
_READY_SECONDS = 0.05  # between looks at whether all trees were seen
_FAILURES = (OSError, GitError, InputError, sqlite3.Error)

_logger = logging.getLogger(__name__)


class PackThread(threading.Thread):
    """Brings one workspace's pack up to its index whenever that changed.

    Args:
        packer: blocking; every call to it is made here.
        follower: who tells of changes.
        offer: called here with a time of a save, or None, when there is something new to warm.
    """

    def __init__(
        self, packer: Packer, follower: Follower, offer: Callable[[float | None], None]
    ) -> None:
        super().__init__(name=f"pack-{follower.workspace}", daemon=True)
        self.packer = packer
        self.failure = ""
        self.sections: dict[str, int] = {}
        """Tokens of the published pack, by section."""
        self._follower = follower
        self._offer = offer
        self._adopting = False

    def run(self) -> None:
        """Pack until the follower ends."""
        try:
            while (changes := self._follower.changes.wait()) is not None:
                self._update(*changes)
        except Exception:
            _logger.critical(
                line("stopped-packing", workspace=self._follower.workspace), exc_info=True
            )
            raise
        finally:
            self.packer.close()

    def adopt(self) -> None:
        """Publish the candidate soon. For any thread."""
        self._adopting = True
        self._follower.changes.mark(None)

    def _update(self, saved_at: float | None) -> None:
        try:
            changed = self.packer.update()
            if self._adopting:
                self._adopting = False
                changed |= self.packer.adopt()
        except _FAILURES as error:
            self._complain(error, saved_at)
            return
        if self.failure:
            _logger.info(line("packing-again", workspace=self._follower.workspace))
        self.failure = ""
        self.sections = self.packer.sections()
        if changed or saved_at is not None:
            self._offer(saved_at)

    def _complain(self, error: Exception, saved_at: float | None) -> None:
        """Note that the pack cannot be made: what was published stays, and it is retried."""
        reason = str(error) or type(error).__name__
        if reason != self.failure:
            _logger.error(line("not-packed", workspace=self._follower.workspace, reason=reason))
        self.failure = reason
        if isinstance(error, sqlite3.Error) and is_damage(error):
            self._follower.doubt()
        retry = threading.Timer(_RETRY_SECONDS, self._follower.changes.mark, (saved_at,))
        retry.daemon = True
        retry.start()


class Worker:
    """One workspace at work: its follower, its pack and its warmth, as seen from the event loop.

    Args:
        follower: of its tree.
        packer: of its pack.
        warmer: what keeps that warm.
        metrics: to count in.
    """

    def __init__(
        self, follower: Follower, packer: Packer, warmer: Warmer, metrics: WatcherMetrics
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._follower = follower
        self._warmer = warmer
        self._metrics = metrics
        self._reader = Reader(follower.index_file)
        self._published: Publication | None = None
        self._candidate: Publication | None = None
        self._last_save: float | None = None
        self._told = {"events": 0, "overflows": 0, "scans": 0}
        self.thread = PackThread(packer, follower, self._offer)

    @property
    def is_alive(self) -> bool:
        """Whether both threads are."""
        return self._follower.is_alive() and self.thread.is_alive()

    def close(self) -> None:
        """Wait for the pack to end, and close what was opened here."""
        self.thread.join(_RETRY_SECONDS)
        self._reader.close()

    def status(self) -> dict[str, Any]:
        """Return where the workspace stands; times are unix times, durations seconds."""
        follower, warmth = self._follower, self._warmer.warmth
        publication, candidate = self._published, self._candidate
        version = publication.version if publication else 0
        return {
            "files": self._files(),
            "tokens": publication.tokens if publication else 0,
            "generation": publication.generation if publication else 0,
            "version": version,
            "warm": bool(version) and warmth.version == version,
            "warm_version": warmth.version,
            "warm_since": warmth.since,
            "prompt_tokens": warmth.prompt_tokens,
            "cached_tokens": warmth.cached_tokens,
            "last_save": self._last_save,
            "save_to_indexed_seconds": follower.save_to_indexed,
            "save_to_warm_seconds": warmth.save_to_warm,
            "unwatched_folders": follower.unwatched_folders,
            "polled_folders": follower.polled_folders,
            "unreadable_paths": follower.unreadable_paths,
            "sections": self.thread.sections,
            "garbage": self._garbage(),
            "candidate_generation": candidate.generation if candidate else None,
            "error": follower.failure or self.thread.failure or self._warmer.template_error,
        }

    def show(self) -> None:
        """Bring the metrics up to now."""
        name, metrics, follower = self._follower.workspace, self._metrics, self._follower
        for key, counter in (
            ("events", metrics.events),
            ("overflows", metrics.overflows),
            ("scans", metrics.rescans),
        ):
            now = getattr(follower, key)
            counter.labels(name).inc(now - self._told[key])
            self._told[key] = now
        while follower.times:
            metrics.indexed.labels(name).observe(follower.times.popleft())
        metrics.files.labels(name).set(self._files())
        metrics.unwatched.labels(name).set(follower.unwatched_folders)
        metrics.polled.labels(name).set(follower.polled_folders)
        metrics.unreadable.labels(name).set(follower.unreadable_paths)
        metrics.readable.labels(name).set(not follower.failure)
        metrics.index_bytes.labels(name).set(_size(follower.index_file))
        metrics.garbage.labels(name).set(self._garbage())
        for section, tokens in self.thread.sections.items():
            metrics.tokens.labels(name, section).set(tokens)

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
        self._last_save = self._last_save if saved_at is None else saved_at
        if publication and publication is not self._published:
            self._published = publication
            self._take_note(publication, saved_at)
            self._warmer.offer(publication, saved_at)
        if candidate is not self._candidate:
            self._candidate = candidate
            self._warmer.prepare(candidate, self.thread.adopt)

    def _take_note(self, publication: Publication, saved_at: float | None) -> None:
        name = self._follower.workspace
        took = None if saved_at is None else time.time() - saved_at
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
    """A service at work in the event loop, and its pages.

    Args:
        service: begun or not.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._metrics = WatcherMetrics()
        self._workers: dict[str, Worker] = {}
        self._warming: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Work while this is open."""
        await asyncio.to_thread(self._service.start, 0.0)
        async with aiohttp.ClientSession() as session:
            reporting = self._begin(session)
            try:
                yield
            finally:
                notify("STOPPING=1")
                for task in (reporting, *self._warming):
                    task.cancel()
                await asyncio.gather(reporting, *self._warming, return_exceptions=True)
                await asyncio.to_thread(self._service.stop)
                for worker in self._workers.values():
                    await asyncio.to_thread(worker.close)

    async def show_status(self, _request: Request) -> JSONResponse:
        """Show how the workspaces fare."""
        workers = self._workers.items()
        return JSONResponse(
            {
                "alive": self._is_alive(),
                "ready": self._service.is_ready,
                "workspaces": {name: worker.status() for name, worker in workers},
            }
        )

    async def show_metrics(self, _request: Request) -> Response:
        """Show the metrics, for Prometheus."""
        for worker in self._workers.values():
            worker.show()
        page = generate_latest(self._metrics.registry)
        return Response(page, headers={"content-type": CONTENT_TYPE_LATEST})

    def _begin(self, session: aiohttp.ClientSession) -> asyncio.Task[None]:
        """Begin to pack and to warm."""
        loop, service = asyncio.get_running_loop(), self._service
        settings = service.config.engine
        engine = Engine(session, settings.url)
        lmcache = LMCache(session, settings.lmcache) if settings.lmcache else None
        for follower, packer in zip(service.followers, service.packers, strict=True):
            name = follower.workspace
            warmer = Warmer(name, engine, self._metrics, lmcache=lmcache)
            worker = self._workers[name] = Worker(follower, packer, warmer, self._metrics)
            worker.thread.start()
            task = loop.create_task(warmer.run())
            task.add_done_callback(_tell_why)
            self._warming.append(task)
        return loop.create_task(self._report())

    async def _report(self) -> None:
        """Tell systemd when every tree was seen once, and from then on that all is alive."""
        service = self._service
        while not service.is_ready:
            await asyncio.sleep(_READY_SECONDS)
            service.tell_ready()
        period = watchdog_seconds()
        while period:
            if self._is_alive() and service.have_heard():
                notify("WATCHDOG=1")
            service.beat()
            await asyncio.sleep(period / 3)

    def _is_alive(self) -> bool:
        working = all(worker.is_alive for worker in self._workers.values())
        return working and not any(task.done() for task in self._warming)


def pages(service: Service) -> Starlette:
    """Return the pages of a service; serving them runs it, and ends it."""
    work = Work(service)
    routes = [Route("/status", work.show_status), Route("/metrics", work.show_metrics)]
    return Starlette(routes=routes, lifespan=work.lifespan)


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
