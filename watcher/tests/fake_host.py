"""All that the status page asks on a host, each part on a port of its own and to be taken down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from fake_engine import FakeEngine
from gateway_stack import Stack, publish
from infbox import config
from infbox.auth.key_service import KeyService
from infbox.auth.keyring import Keyring
from infbox.auth.keys import Limits
from infbox.gateway.app import Gateway
from serving import ANY, serving, settings_for

GIB = 1024**3

LMCACHE = {
    "is_healthy": True,
    "storage_manager": {
        "l1_usage": [5 * GIB, 48 * GIB],
        "l2_eviction_controller": {
            "adapters": [{"total_bytes_used": 61 * GIB, "total_capacity_bytes": 400 * GIB}]
        },
    },
}

DCGM = "".join(
    f'{name}{{gpu="{gpu}",UUID="GPU-{gpu}",modelName="NVIDIA H100 80GB HBM3"}} {value}\n'
    for gpu in range(2)
    for name, value in (
        ("DCGM_FI_DEV_GPU_UTIL", 43 + gpu * 20),
        ("DCGM_FI_DEV_FB_USED", 71_300),
        ("DCGM_FI_DEV_FB_FREE", 9_800),
        ("DCGM_FI_DEV_GPU_TEMP", 54 + gpu),
        ("DCGM_FI_DEV_POWER_USAGE", 312.4),
        ("DCGM_FI_DEV_XID_ERRORS", 0),
    )
)


@dataclass
class CountingEngine(FakeEngine):
    """An engine whose counters the test sets: tokens from its own cache, LMCache, computed."""

    tokens: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    kv_tokens: str = "96800"

    async def _metrics(self, _request: Request) -> Response:
        sources = ("local_cache_hit", "external_kv_transfer", "local_compute")
        name = "vllm:prompt_tokens_by_source_total"
        lines = [
            f'{name}{{engine="0",source="{source}"}} {count}\n'
            for source, count in zip(sources, self.tokens, strict=True)
        ]
        lines += [
            'vllm:num_requests_running{engine="0"} 2.0\n',
            'vllm:num_requests_waiting{engine="0"} 0.0\n',
            'vllm:kv_cache_usage_perc{engine="0"} 0.37\n',
            f"vllm:cache_config_info{{{self._cache_labels()}}} 1.0\n",
        ]
        return PlainTextResponse("".join(lines))

    def _cache_labels(self) -> str:
        numbers = f'block_size="16",kv_cache_size_tokens="{self.kv_tokens}",num_gpu_blocks="6000"'
        return f'cache_dtype="auto",engine="0",{numbers}'


def told(**changes: Any) -> dict[str, Any]:
    """What the watcher tells of a workspace."""
    return {
        "files": 413,
        "tokens": 5708,
        "warm": True,
        "last_save": time.time() - 48,
        "save_to_warm_seconds": 0.637,
        "error": None,
    } | changes


@dataclass
class GatewayStack(Stack):
    """A gateway that can be told that it is about to end."""

    is_ending: threading.Event

    def end(self) -> None:
        """Have those who follow leave."""
        self.is_ending.set()


class FakeHost:
    """A host, as the gateway sees it.

    Args:
        tmp_path: for packs and keys.
        workspaces: names; each has a pack.
    """

    def __init__(self, tmp_path: Path, workspaces: tuple[str, ...] = ("shop",)) -> None:
        self._folder = tmp_path
        self._running: dict[str, contextlib.ExitStack] = {}
        self._listen: dict[str, config.Listen] = {}
        self.engine = CountingEngine()
        self.lmcache: dict[str, Any] = dict(LMCACHE)
        self.alive = True
        self.delay = 0.0
        """Seconds that LMCache takes to answer."""
        self.workspaces = {name: told() for name in workspaces}
        self.recomputed = dict.fromkeys(workspaces, 0.0)
        self.saves = dict.fromkeys(workspaces, 0.0)
        self.asked = 0
        """Times that LMCache was asked, and with it every part."""
        served = tmp_path / "served"
        served.mkdir()
        (tmp_path / "api-keys").mkdir()
        keyring = Keyring(tmp_path / "api-keys", served / "users.json")
        keyring.apply({"alice": Limits()})
        self._apps = {
            "vllm": self.engine.app(),
            "lmcache": Starlette(routes=[Route("/status", self._lmcache)]),
            "watcher": Starlette(
                routes=[Route("/status", self._status), Route("/metrics", self._metrics)]
            ),
            "keys": KeyService(served / "users.json").app(),
            "caddy": Starlette(routes=[Route("/", self._elsewhere)]),
            "dcgm": Starlette(routes=[Route("/metrics", self._gpus)]),
        }
        for name in workspaces:
            publish(tmp_path, workspace=name)

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeHost]:
        """Run every part until the block is left."""
        try:
            for name in self._apps:
                self.up(name)
            yield self
        finally:
            for name in list(self._running):
                self.down(name)

    def up(self, name: str) -> None:
        """Start a part, where it was before."""
        running = contextlib.ExitStack()
        url = urlsplit(
            running.enter_context(serving(self._apps[name], self._listen.get(name, ANY)))
        )
        self._listen[name] = config.Listen(str(url.hostname), url.port or 0)
        self._running[name] = running

    def down(self, name: str) -> None:
        """Stop a part."""
        self._running.pop(name).close()

    def url(self, name: str) -> str:
        """Return the address of a part."""
        return f"http://{self._listen[name]}"

    def settings(self) -> config.Config:
        """Return the gateway's configuration."""
        folders = dict.fromkeys(self.workspaces, (self._folder, 6000))
        plain = settings_for(self._folder, self.url("vllm"), **folders)
        return plain._replace(
            engine=plain.engine._replace(lmcache=self.url("lmcache")),
            watcher=plain.watcher._replace(listen=self._listen["watcher"]),
            status=config.Status(
                preset="dev32",
                keys=self.url("keys"),
                caddy=self.url("caddy"),
                dcgm=self.url("dcgm"),
                disks=(self._folder,),
                planned_kv_tokens=94_165,
            ),
        )

    @contextlib.contextmanager
    def gateway(
        self, settings: config.Config | None = None, listen: config.Listen = ANY
    ) -> Iterator[GatewayStack]:
        """Run a gateway on this host, with other settings where they are given."""
        gateway = Gateway(settings or self.settings())
        is_ending = threading.Event()
        gateway.page.is_ending = is_ending.is_set
        with serving(gateway.app, listen) as url:
            yield GatewayStack(self.engine, url, is_ending)

    async def _lmcache(self, _request: Request) -> Response:
        self.asked += 1
        await asyncio.sleep(self.delay)
        return JSONResponse(self.lmcache)

    async def _status(self, _request: Request) -> Response:
        told = {"alive": self.alive, "ready": True, "workspaces": self.workspaces}
        return JSONResponse(told)

    async def _metrics(self, _request: Request) -> Response:
        lines = [
            f'infbox_pack_recomputed_tokens_total{{workspace="{name}"}} {self.recomputed[name]}\n'
            f'infbox_save_to_warm_seconds_count{{workspace="{name}"}} {self.saves[name]}\n'
            for name in self.workspaces
        ]
        return PlainTextResponse("".join(lines))

    async def _elsewhere(self, _request: Request) -> Response:
        return Response(status_code=308, headers={"location": "https://localhost/"})

    async def _gpus(self, _request: Request) -> Response:
        return PlainTextResponse(DCGM)


def events(answer: Any) -> Iterator[dict[str, Any]]:
    """Yield the statuses of a stream, given what can be read by lines."""
    for line in answer:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))
