"""The services of infbox on a host, and how each is asked whether it is healthy."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp

from infbox.status import capacity
from infbox.status.exposition import Exposition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infbox.config import Config

HEALTHY = "healthy"
LATE = "late"
"""It has not answered in time, once or twice: a busy engine is like that."""
UNHEALTHY = "unhealthy"
"""It answers that it is unhealthy."""
DOWN = "down"

_PATIENCE = aiohttp.ClientTimeout(total=2.0)
_MOST_LATE = 3
_OK = 200

TOKENS = "vllm:prompt_tokens_by_source_total"
SOURCES = ("local_cache_hit", "external_kv_transfer", "local_compute")
"""Where vLLM had the KV of a prompt's tokens from: its own cache, LMCache, computing it."""

_ENGINE = (
    TOKENS,
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    capacity.METRIC,
)
_WATCHER = ("infbox_pack_recomputed_tokens_total", "infbox_save_to_warm_seconds_count")
_GPU = {
    "utilisation": "DCGM_FI_DEV_GPU_UTIL",
    "memory_used_mib": "DCGM_FI_DEV_FB_USED",
    "memory_free_mib": "DCGM_FI_DEV_FB_FREE",
    "temperature": "DCGM_FI_DEV_GPU_TEMP",
    "power_watts": "DCGM_FI_DEV_POWER_USAGE",
    "xid": "DCGM_FI_DEV_XID_ERRORS",
}


class Answer(NamedTuple):
    """What came of asking.

    Attributes:
        status: of HTTP; 0 where no answer came.
        text: of its body.
        is_late: whether it did not come in time, rather than not at all.
    """

    status: int = 0
    text: str = ""
    is_late: bool = False

    @property
    def json(self) -> dict[str, Any]:
        """The body as an object of JSON; empty where it is none."""
        try:
            value = json.loads(self.text)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


class Finding(NamedTuple):
    """How a service fares.

    Attributes:
        state: ``HEALTHY``, ``LATE``, ``UNHEALTHY`` or ``DOWN``.
        facts: what it told, as the status has it; empty where it did not.
        counters: what grows, in an order of the service's own; empty where it did not tell.
        detail: what it says of itself where it is unhealthy.
    """

    state: str
    facts: Mapping[str, Any] = {}
    counters: Mapping[str, tuple[float, ...]] = {}
    detail: str = ""


@dataclass
class Service:
    """One of the services.

    Attributes:
        name: for people.
        see: the heading about it in docs/troubleshooting.md, as an anchor.
        look: what to run on the host when it is unhealthy.
        state: at present; empty until it was asked once.
        detail: what it says of itself where it is unhealthy.
        since: unix time since when it is in that state, in seconds.
        seen: unix time at which it was healthy last; None if it never was.
    """

    name: str
    see: str
    look: str
    state: str = ""
    detail: str = ""
    since: float | None = None
    seen: float | None = None
    _times_late: int = 0

    def note(self, finding: Finding, now: float) -> None:
        """Note how it fares.

        Args:
            finding: of just now.
            now: unix time, in seconds.
        """
        self._times_late = self._times_late + 1 if finding.state == LATE else 0
        state = DOWN if self._times_late >= _MOST_LATE else finding.state
        if state != self.state:
            self.state, self.since = state, now
        self.detail = finding.detail
        if state == HEALTHY:
            self.seen = now

    def shown(self) -> dict[str, Any]:
        """Return it as the status has it."""
        is_healthy = self.state == HEALTHY
        return {
            "name": self.name,
            "state": self.state,
            "since": self.since,
            "seen": self.seen,
            "detail": self.detail,
            "look": None if is_healthy else self.look,
            "see": None if is_healthy else f"docs/troubleshooting.md#{self.see}",
        }


class Asker:
    """Asks the services, each of them at most for two seconds.

    Args:
        session: for the requests; the caller closes it.
        config: says where they are.
    """

    def __init__(self, session: aiohttp.ClientSession, config: Config) -> None:
        self._session = session
        self._config = config

    async def engine(self) -> Finding:
        """Ask vLLM."""
        url = self._config.engine.url
        health, metrics = await asyncio.gather(
            self._get(f"{url}/health"), self._get(f"{url}/metrics")
        )
        if health.status != _OK:
            return _unhealthy(health)
        told = _exposed(metrics, _ENGINE)
        running, waiting, usage = (told.total(name) for name in _ENGINE[1:4])
        sources = [told.total(TOKENS, source=source) for source in SOURCES]
        return Finding(
            HEALTHY,
            {
                "running": running,
                "waiting": waiting,
                "kv_usage": usage,
                "kv_tokens": capacity.reported_tokens(told),
            },
            {"tokens": tuple(count or 0.0 for count in sources)} if any_known(sources) else {},
        )

    async def engine_version(self) -> str | None:
        """Ask vLLM which version it is; None where it does not tell."""
        told = (await self._get(f"{self._config.engine.url}/version")).json.get("version")
        return told if isinstance(told, str) else None

    async def lmcache(self) -> Finding:
        """Ask LMCache."""
        answer = await self._get(f"{self._config.engine.lmcache}/status")
        told = answer.json
        if answer.status != _OK or told.get("is_healthy") is not True:
            return _unhealthy(answer)
        try:
            return Finding(HEALTHY, {"stores": list(_stores(told))})
        except (KeyError, TypeError, ValueError):
            return Finding(HEALTHY)

    async def watcher(self) -> Finding:
        """Ask the watcher."""
        url = f"http://{self._config.watcher.listen}"
        answer, metrics = await asyncio.gather(
            self._get(f"{url}/status"), self._get(f"{url}/metrics")
        )
        told = answer.json
        workspaces = told.get("workspaces")
        if not told.get("alive") or not isinstance(workspaces, dict):
            return _unhealthy(answer)
        exposed = _exposed(metrics, _WATCHER)
        counters = {}
        for name in workspaces:
            counts = [exposed.total(metric, workspace=name) for metric in _WATCHER]
            if any_known(counts):
                counters[name] = tuple(count or 0.0 for count in counts)
        return Finding(HEALTHY, {"workspaces": workspaces}, counters)

    async def keys(self) -> Finding:
        """Ask the keys' service."""
        answer = await self._get(f"{self._config.status.keys}/metrics")
        return Finding(HEALTHY) if answer.status == _OK else _unhealthy(answer)

    async def caddy(self) -> Finding:
        """Ask Caddy, which sends whoever asks without TLS elsewhere."""
        answer = await self._get(f"{self._config.status.caddy}/")
        return Finding(HEALTHY) if answer.status else _unhealthy(answer)

    async def dcgm(self) -> Finding:
        """Ask DCGM's exporter for the GPUs."""
        answer = await self._get(f"{self._config.status.dcgm}/metrics")
        if answer.status != _OK:
            return _unhealthy(answer)
        return Finding(HEALTHY, {"gpus": _gpus(_exposed(answer, _GPU.values()))})

    async def _get(self, url: str) -> Answer:
        try:
            async with self._session.get(url, timeout=_PATIENCE, allow_redirects=False) as answer:
                return Answer(answer.status, await answer.text())
        except asyncio.TimeoutError:
            return Answer(is_late=True)
        except (aiohttp.ClientError, ValueError):
            return Answer()


def any_known(values: list[float | None]) -> bool:
    """Say whether any of the values is known."""
    return any(value is not None for value in values)


def _unhealthy(answer: Answer) -> Finding:
    if answer.status:
        return Finding(UNHEALTHY, detail=f"It reports that it is unhealthy (HTTP {answer.status}).")
    if answer.is_late:
        return Finding(LATE, detail="It did not respond in time.")
    return Finding(DOWN, detail="It does not respond.")


def _exposed(answer: Answer, names: Any) -> Exposition:
    try:
        return Exposition(answer.text if answer.status == _OK else "", names)
    except ValueError:
        return Exposition("", names)


def _stores(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return LMCache's memory and disk, as the status has them."""
    manager = told["storage_manager"]
    used, size = manager["l1_usage"]
    stores = [{"name": "memory", "used": int(used), "size": int(size)}]
    controller = manager.get("l2_eviction_controller") or {}
    stores += [
        {
            "name": "disk",
            "used": int(adapter["total_bytes_used"]),
            "size": int(adapter["total_capacity_bytes"]),
        }
        for adapter in controller.get("adapters", ())
    ]
    return stores


def _gpus(exposed: Exposition) -> list[dict[str, Any]]:
    gpus: dict[str, dict[str, Any]] = {}
    fields = {metric: field for field, metric in _GPU.items()}
    for name, labels, value in exposed.samples:
        number = labels.get("gpu", "0")
        gpu = gpus.setdefault(number, {"gpu": number, "name": labels.get("modelName", "")})
        gpu[fields[name]] = value
    return [gpus[number] for number in sorted(gpus, key=lambda text: (len(text), text))]
