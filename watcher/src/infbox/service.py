"""The watcher as a service: every workspace watched, packed and kept warm until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import aiohttp
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from xxhash import xxh3_128_hexdigest

from infbox import tokens
from infbox.config import check_paths
from infbox.engine import Engine
from infbox.errors import InputError
from infbox.files import Tree
from infbox.git import GitError
from infbox.log import line
from infbox.metrics import WatcherMetrics
from infbox.notify import notify, watchdog_seconds
from infbox.serve import listening, server
from infbox.warm import Warmer
from infbox.watch import Batch, Inbox, Watch
from infbox.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from infbox import config as config_file
    from infbox.config import Config

RECONCILE_SECONDS = 60.0
"""Between whole looks at each tree: the net under what events do not tell."""

_RETRY_SECONDS = 5.0
_PRIVATE_UMASK = 0o027
_LOOK_FAILURES = (OSError, GitError, InputError, sqlite3.Error)

_logger = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Run the watcher until SIGTERM or SIGINT.

    Raises:
        InputError: the configuration cannot be used on this machine.
    """
    check_paths(config)
    os.umask(_PRIVATE_UMASK)
    service = Service(config)
    listener = listening(config.watcher.listen, "watcher.listen")
    server(service.app, idle_seconds=5, grace_seconds=1).run(sockets=[listener])


class Follower:
    """One workspace at work: its batches, its pack, its warmth.

    Args:
        workspace: blocking; every call to it is made in a thread, one at a time.
        inbox: where its touched paths arrive.
        warmer: what keeps its pack warm.
        metrics: to count in.
    """

    def __init__(
        self, workspace: Workspace, inbox: Inbox, warmer: Warmer, metrics: WatcherMetrics
    ) -> None:
        self._workspace = workspace
        self._inbox = inbox
        self._warmer = warmer
        self._metrics = metrics
        self._failure = ""
        self._looked_at_all = 0.0
        self._last_save: float | None = None
        self._save_to_indexed: float | None = None
        self.scanned = asyncio.Event()
        """Set once the first look at the tree is done."""

    async def run(self) -> None:
        """Follow the tree until cancelled."""
        await self._look(Batch(everything=True))
        self.scanned.set()
        while True:
            await self._look(await self._next_batch())

    def status(self) -> dict[str, Any]:
        """Return where the workspace stands; times are unix times, durations seconds."""
        publication = self._workspace.publication
        version = publication.version if publication else 0
        warmth = self._warmer.warmth
        return {
            "files": self._workspace.files,
            "tokens": publication.tokens if publication else 0,
            "generation": publication.generation if publication else 0,
            "version": version,
            "warm": bool(version) and warmth.version == version,
            "warm_version": warmth.version,
            "warm_since": warmth.since,
            "prompt_tokens": warmth.prompt_tokens,
            "cached_tokens": warmth.cached_tokens,
            "last_save": self._last_save,
            "save_to_indexed_seconds": self._save_to_indexed,
            "save_to_warm_seconds": warmth.save_to_warm,
            "unwatched_folders": self._workspace.watch.unwatched if self._workspace.watch else 0,
            "error": self._failure or None,
        }

    async def _next_batch(self) -> Batch:
        pause = RECONCILE_SECONDS if not self._failure else _RETRY_SECONDS
        left = self._looked_at_all + pause - time.monotonic()
        batch = await self._inbox.batch(max(left, 0)) or Batch(everything=True)
        if batch.first is not None and batch.everything:
            self._metrics.lost.labels(self._workspace.name).inc()
        if left <= 0 or self._failure:
            batch.everything = True
        return batch

    async def _look(self, batch: Batch) -> None:
        name = self._workspace.name
        saved_at = None if batch.first is None else time.time() - (time.monotonic() - batch.first)
        if batch.everything:
            self._looked_at_all = time.monotonic()
        try:
            published = await asyncio.to_thread(self._workspace.look, batch)
        except _LOOK_FAILURES as error:
            self._complain(error)
            return
        if self._failure:
            _logger.info(line("readable-again", workspace=name))
        self._failure = ""
        self._metrics.readable.labels(name).set(1)
        if published:
            self._take_note(saved_at)

    def _complain(self, error: Exception) -> None:
        """Note that the tree cannot be looked at: what was published stays, and it is retried."""
        name = self._workspace.name
        if str(error) != self._failure:
            _logger.error(line("not-readable", workspace=name, reason=error))
        self._failure = str(error) or type(error).__name__
        self._metrics.readable.labels(name).set(0)

    def _take_note(self, saved_at: float | None) -> None:
        publication = self._workspace.publication
        if publication is None:
            return
        name = self._workspace.name
        if saved_at is not None:
            self._last_save = saved_at
            self._save_to_indexed = time.time() - saved_at
            self._metrics.indexed.labels(name).observe(self._save_to_indexed)
        self._metrics.files.labels(name).set(self._workspace.files)
        self._metrics.tokens.labels(name).set(publication.tokens)
        self._metrics.superseded.labels(name).set(self._workspace.superseded)
        self._metrics.generation.labels(name).set(publication.generation)
        self._metrics.version.labels(name).set(publication.version)
        _logger.info(
            line(
                "published",
                workspace=name,
                generation=publication.generation,
                version=publication.version,
                tokens=publication.tokens,
                save_to_indexed_seconds="-" if saved_at is None else self._save_to_indexed,
            )
        )
        self._warmer.offer(publication, saved_at)


class Service:
    """All workspaces of a configuration, and the pages that show how they fare.

    Args:
        config: its paths were checked.

    Raises:
        InputError: the tokenizer, the state directory or an index cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._metrics = WatcherMetrics()
        self._workspaces = _open_workspaces(config)
        self._followers: dict[str, Follower] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._reporting: asyncio.Task[None]
        self.app = Starlette(
            routes=[Route("/status", self._show_status), Route("/metrics", self._show_metrics)],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as session:
            self._start(Engine(session, self._config.engine.url))
            try:
                yield
            finally:
                notify("STOPPING=1")
                tasks = [self._reporting, *self._tasks]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for workspace in self._workspaces:
                    if workspace.watch:
                        asyncio.get_running_loop().remove_reader(workspace.watch)
                        workspace.watch.close()
                    workspace.close()

    def _start(self, engine: Engine) -> None:
        loop = asyncio.get_running_loop()
        for workspace in self._workspaces:
            inbox = Inbox()
            watch = workspace.watch = Watch(workspace.tree.root, inbox.touch)
            loop.add_reader(watch, watch.take_events)
            warmer = Warmer(workspace.name, engine, self._metrics)
            follower = Follower(workspace, inbox, warmer, self._metrics)
            self._followers[workspace.name] = follower
            self._tasks += [loop.create_task(follower.run()), loop.create_task(warmer.run())]
        for task in self._tasks:
            task.add_done_callback(_tell_why)
        self._reporting = loop.create_task(self._report())

    async def _report(self) -> None:
        """Tell systemd when every tree was seen once, and from then on that all is alive."""
        for follower in self._followers.values():
            await follower.scanned.wait()
        _logger.info(line("ready", workspaces=len(self._followers)))
        notify("READY=1")
        period = watchdog_seconds()
        while period:
            if self._is_alive():
                notify("WATCHDOG=1")
            await asyncio.sleep(period / 3)

    def _is_alive(self) -> bool:
        return not any(task.done() for task in self._tasks)

    async def _show_status(self, _request: Request) -> JSONResponse:
        followers = self._followers.items()
        return JSONResponse(
            {
                "alive": self._is_alive(),
                "workspaces": {name: follower.status() for name, follower in followers},
            }
        )

    async def _show_metrics(self, _request: Request) -> Response:
        for workspace in self._workspaces:
            if workspace.watch:
                unwatched = self._metrics.unwatched.labels(workspace.name)
                unwatched.set(workspace.watch.unwatched)
        page = generate_latest(self._metrics.registry)
        return Response(page, headers={"content-type": CONTENT_TYPE_LATEST})


def _tell_why(task: asyncio.Task[None]) -> None:
    """Log why a task ended that should not have; systemd then misses its sign of life."""
    if not task.cancelled():
        _logger.critical(line("stopped-working"), exc_info=task.exception())


def _open_workspaces(config: Config) -> list[Workspace]:
    engine = config.engine
    count = tokens.counter(engine.tokenizer)
    counted_by = xxh3_128_hexdigest(engine.tokenizer.read_bytes()) if engine.tokenizer else "bytes"

    def open_one(workspace: config_file.Workspace) -> Workspace:
        try:
            return Workspace(
                name=workspace.name,
                model=engine.model,
                tree=Tree(workspace.path, config.watcher.max_file_bytes),
                budget=workspace.budget,
                count=count,
                counted_by=counted_by,
                state_dir=config.state_dir,
            )
        except (OSError, GitError, sqlite3.Error) as error:
            raise InputError(f"workspaces: {workspace.name}: {error}") from error

    return [open_one(workspace) for workspace in config.workspaces]
