"""How infbox is on this host: one sampler for everybody who looks.

It asks every service now and then, and every few seconds while somebody looks. What it knows is one
object of JSON; docs/status.md says what is in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import aiohttp

from infbox.log import line
from infbox.status.capacity import capacity
from infbox.status.history import FirstTokens, Minutes
from infbox.status.services import DOWN, HEALTHY, SOURCES, UNHEALTHY, Asker, Finding, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
    from pathlib import Path

    from infbox.config import Config, Workspace
    from infbox.packing.published import PackFile

WATCHED_SECONDS = 2.0
"""Between samples while somebody looks."""

IDLE_SECONDS = 30.0
"""Between samples while nobody does: two a minute, for the last hour's minutes."""

MOST_VIEWERS = 32

_COLD_SECONDS = 120.0
"""A workspace that was not warm for so long is cold; before, it is being warmed."""

_DISK_SECONDS = 2.0  # longer than any disk takes that answers

_logger = logging.getLogger(__name__)


class TooManyViewersError(Exception):
    """As many look on as may."""


class Sampler:
    """Knows how everything is.

    Args:
        config: says where the services are.
        packs: by workspace.
        conversations: says how those of a workspace fared.
        watched: seconds between samples while somebody looks.
        idle: seconds between samples while nobody does.
    """

    def __init__(
        self,
        config: Config,
        packs: Mapping[str, PackFile],
        conversations: Callable[[str], dict[str, Any]],
        *,
        watched: float = WATCHED_SECONDS,
        idle: float = IDLE_SECONDS,
    ) -> None:
        self._config = config
        self._packs = packs
        self._conversations = conversations
        self._pauses = (idle, watched)
        self._started = time.time()
        self._viewers = 0
        self._came = asyncio.Event()
        self._sampled = asyncio.Condition()
        self._sampling = asyncio.Lock()
        self._services = _services(config)
        self._facts: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self._tokens = Minutes()
        self._work: dict[str, Minutes] = {name: Minutes() for name in packs}
        self._warm_at = dict.fromkeys(packs, time.monotonic())
        self._version: str | None = None
        self._disks: list[dict[str, Any]] = []
        self._looking: asyncio.Future[list[dict[str, Any]]] | None = None
        self._asker: Asker
        self._now: dict[str, Any] = {}
        self._taken = float("-inf")
        self.first_tokens = FirstTokens()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sample until the block is left."""
        async with aiohttp.ClientSession() as session:
            self._asker = Asker(session, self._config)
            task = asyncio.create_task(self._run())
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def fresh(self) -> dict[str, Any]:
        """Return the status, no older than what those who look on see."""
        if time.monotonic() - self._taken > self._pauses[1]:
            await self._sample()
        return self._now

    def has_space(self) -> bool:
        """Say whether one more may look on."""
        return self._viewers < MOST_VIEWERS

    async def follow(self, is_over: Callable[[], bool]) -> AsyncIterator[dict[str, Any]]:
        """Yield the status, and again whenever there is another.

        Args:
            is_over: asked once a second whether to end.

        Raises:
            TooManyViewersError: at once, where there is no space.
        """
        if not self.has_space():
            raise TooManyViewersError
        self._viewers += 1
        self._came.set()
        try:
            yield await self.fresh()
            while not is_over():
                seen = self._taken
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._next(seen), 1.0)
                    yield self._now
        finally:
            self._viewers -= 1

    async def _next(self, seen: float) -> None:
        async with self._sampled:
            await self._sampled.wait_for(lambda: self._taken > seen)

    async def _run(self) -> None:
        while True:
            try:
                await self._sample()
            except Exception:  # one slip does not end what others look at
                _logger.exception(line("not-sampled"))
            pause = self._pauses[bool(self._viewers)]
            self._came.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._came.wait(), pause)

    async def _sample(self) -> None:
        """Ask everybody at once; whoever asks meanwhile waits for the same."""
        began = time.monotonic()
        async with self._sampling:
            if self._taken >= began:
                return
            await self._ask_all()
            self._taken = time.monotonic()
            self._now = self._compose(time.time())
        async with self._sampled:
            self._sampled.notify_all()

    async def _ask_all(self) -> None:
        asks: dict[str, Callable[[], Awaitable[Finding]]] = {
            "vllm": self._asker.engine,
            "lmcache": self._asker.lmcache,
            "watcher": self._asker.watcher,
            "keys": self._asker.keys,
            "caddy": self._asker.caddy,
            "dcgm": self._asker.dcgm,
        }
        names = [name for name in self._services if name in asks]
        found = await asyncio.gather(*(asks[name]() for name in names), self._look_at_disks())
        now = time.time()
        for name, finding in zip(names, found, strict=False):
            if isinstance(finding, Finding):
                self._take(name, finding, now)
        self._services["gateway"].note(Finding(HEALTHY), now)
        if self._version is None and self._services["vllm"].state == HEALTHY:
            self._version = await self._asker.engine_version()

    def _take(self, name: str, finding: Finding, now: float) -> None:
        self._services[name].note(finding, now)
        if finding.facts:
            self._facts[name] = (now, finding.facts)
        if name == "vllm":
            if finding.state == DOWN:
                self._version = None  # another may come back
            if "tokens" in finding.counters:
                self._tokens.note(time.monotonic(), finding.counters["tokens"])
        if name == "watcher":
            for workspace, counts in finding.counters.items():
                if workspace in self._work:
                    self._work[workspace].note(time.monotonic(), counts)

    async def _look_at_disks(self) -> None:
        """Look at the disks. One that hangs leaves them as they were seen last."""
        if self._looking is None or self._looking.done():
            looking = asyncio.to_thread(_disks, self._config.status.disks)
            self._looking = asyncio.ensure_future(looking)
        with contextlib.suppress(asyncio.TimeoutError):
            self._disks = await asyncio.wait_for(asyncio.shield(self._looking), _DISK_SECONDS)

    def _compose(self, now: float) -> dict[str, Any]:
        config = self._config
        services = [service.shown() for service in self._services.values()]
        moment = time.monotonic()
        workspaces = [self._workspace(workspace, moment) for workspace in config.workspaces]
        return {
            "at": now,
            "host": socket.gethostname(),
            "sign_in": config.status.sign_in,
            "sign_in_asks": config.status.sign_in_asks,
            "healthy": _is_healthy(services, workspaces),
            "served": {
                "model": config.engine.model,
                "preset": config.status.preset or None,
                "max_model_len": config.engine.max_model_len,
                "engine": f"vLLM {self._version}" if self._version else None,
            },
            "services": services,
            "engine": self._told("vllm"),
            "kv": capacity(
                config.status.planned_kv_tokens,
                self._told("vllm").get("kv_tokens"),
                config.status.plan_note,
            ),
            "workspaces": workspaces,
            "cache": {
                "since": self._started,
                "sources": ["engine", "lmcache", "computed"],
                "minutes": self._tokens.growth(moment),
                "tokens": self._tokens.total(moment) or (0.0,) * len(SOURCES),
            },
            "first_token": self.first_tokens.summary(moment),
            "stores": self._told("lmcache"),
            "disks": self._disks,
            "gpus": self._told("dcgm") if config.status.dcgm else None,
        }

    def _told(self, name: str) -> dict[str, Any]:
        """Return what a service told last, and when; its being away takes nothing away."""
        at, facts = self._facts.get(name, (None, {}))
        return {"at": at, **facts}

    def _workspace(self, workspace: Workspace, now: float) -> dict[str, Any]:
        name, watcher = workspace.name, self._told("watcher")
        told = watcher.get("workspaces", {}).get(name, {})
        pack = self._packs[name].current()
        tokens = pack.tokens if pack else 0
        recomputed, saves = self._work[name].total(now) or (0.0, 0.0)
        return {
            "name": name,
            "state": self._warmth(name, told, now),
            "files": told.get("files"),
            "tokens": tokens,
            "base": workspace.base,
            "shared_tokens": told.get("shared_tokens", 0),
            "budget": workspace.budget,
            "last_save": told.get("last_save"),
            "save_to_warm_seconds": told.get("save_to_warm_seconds"),
            "saves": int(saves),
            "recomputed_tokens": int(recomputed),
            "recomputed_share": recomputed / (saves * tokens) if saves and tokens else None,
            "conversations": self._conversations(name),
            "error": told.get("error"),
            "unhealthy_since": told.get("unhealthy_since"),
            "at": watcher["at"],
        }

    def _warmth(self, name: str, told: Mapping[str, Any], now: float) -> str:
        if self._services["watcher"].state in (UNHEALTHY, DOWN) or not told:
            return "unknown"
        if told.get("elsewhere"):
            self._warm_at[name] = now
            return "elsewhere"
        if told.get("warm"):
            self._warm_at[name] = now
            return "warm"
        waits = now - self._warm_at[name] < _COLD_SECONDS
        return "warming" if waits and not told.get("error") else "cold"


def shown(status: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """Return a status as somebody sees it who may use these workspaces: the others do not exist.

    Args:
        status: as the sampler has it.
        names: of the workspaces.
    """
    workspaces = [each for each in status["workspaces"] if each["name"] in names]
    if len(workspaces) == len(status["workspaces"]):
        return status
    return {
        **status,
        "workspaces": workspaces,
        "healthy": _is_healthy(status["services"], workspaces),
    }


def _is_healthy(services: list[dict[str, Any]], workspaces: list[dict[str, Any]]) -> bool:
    return all(service["state"] not in (UNHEALTHY, DOWN) for service in services) and all(
        workspace["state"] in ("warm", "warming", "elsewhere")
        and workspace["unhealthy_since"] is None
        for workspace in workspaces
    )


def _services(config: Config) -> dict[str, Service]:
    """Return the services that there are, in the order in which a request meets them."""
    status = config.status
    services = {
        "caddy": Service("Caddy", "caddy-is-down", "docker logs --tail 50 infbox-caddy-1"),
        "keys": Service("Key service", "the-key-service-is-down", "systemctl status infbox-keys"),
        "gateway": Service("Gateway", "the-gateway-is-down", "systemctl status infbox-gateway"),
        "vllm": Service("vLLM", "vllm-is-down", "docker logs --tail 50 infbox-vllm-1"),
        "lmcache": Service("LMCache", "lmcache-is-down", "docker logs --tail 50 infbox-lmcache-1"),
        "watcher": Service("Watcher", "the-watcher-is-down", "journalctl -n 50 -u infbox-watcher"),
        "dcgm": Service("GPU metrics", "no-gpu-metrics", "docker ps --all"),
    }
    there = {
        "caddy": status.caddy,
        "keys": status.keys,
        "lmcache": config.engine.lmcache,
        "dcgm": status.dcgm,
    }
    return {name: service for name, service in services.items() if there.get(name, True)}


def _disks(directories: tuple[Path, ...]) -> list[dict[str, Any]]:
    """Return each file system that these directories lie on, once."""
    disks: dict[int, dict[str, Any]] = {}
    for directory in directories:
        with contextlib.suppress(OSError):
            device, space = directory.stat().st_dev, os.statvfs(directory)
            size = space.f_blocks * space.f_frsize
            used = (space.f_blocks - space.f_bfree) * space.f_frsize
            if size and device not in disks:
                disks[device] = {
                    "path": str(directory),
                    "used": used,
                    "size": size,
                    "free": space.f_bavail * space.f_frsize,
                }
    return list(disks.values())
