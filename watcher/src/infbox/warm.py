"""Keeping a published pack in the engine's cache, and proving it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infbox import prompt
from infbox.engine import Engine, EngineAwayError, EngineRefusedError, Usage
from infbox.log import line

if TYPE_CHECKING:
    from infbox.metrics import WatcherMetrics
    from infbox.workspace import Publication

PRIORITY = 100
"""Of warm-ups; vLLM serves larger numbers later, and people's requests have 0."""

_WARM_SHARE = 0.9
_UNSTORED_TOKENS = 256
"""The cache holds whole blocks only, so the end of any prompt is computed each time."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How often the engine is asked, in seconds.

    Attributes:
        first_pause: after a first failure; it doubles with each further one.
        longest_pause: the bound of that while the engine is away; ``proof`` is the bound where it
            refuses, or forgets.
        health: between looks at whether the engine still answers.
        proof: between proofs that a warm pack still is warm.
    """

    first_pause: float = 0.5
    longest_pause: float = 10.0
    health: float = 5.0
    proof: float = 60.0


@dataclass(frozen=True)
class Warmth:
    """What was proven last.

    Attributes:
        version: of the pack that is warm; None when none is.
        since: unix time at which its computation ended, in seconds.
        prompt_tokens: of the last probe.
        cached_tokens: of them in the cache, as the engine counted.
        save_to_warm: seconds from the save that led to this version until it was warm for the
            first time; None where no save led to it.
    """

    version: int | None = None
    since: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    save_to_warm: float | None = None


@dataclass(frozen=True)
class _Target:
    publication: Publication
    saved_at: float | None


class _SupersededError(Exception):
    """A newer generation was published while the engine worked on an older one."""


class Warmer:
    """Warms one workspace's pack: one request at a time, always the newest.

    Args:
        name: of the workspace.
        engine: to ask.
        metrics: to count in.
        pace: how often to ask.
    """

    def __init__(
        self, name: str, engine: Engine, metrics: WatcherMetrics, pace: Pace | None = None
    ) -> None:
        self._name = name
        self._engine = engine
        self._metrics = metrics
        self._pace = pace or Pace()
        self._target: _Target | None = None
        self._offered = asyncio.Event()
        self._superseded = asyncio.Event()
        self._measured: int | None = None
        self._save_to_warm: float | None = None
        self.warmth = Warmth()

    def offer(self, publication: Publication, saved_at: float | None = None) -> None:
        """Take a newly published pack; it replaces one that waits.

        A request under way is left to end, since its text begins the new one's, unless the
        generation is another: then it would be wasted, and is cancelled.

        Args:
            publication: the pack.
            saved_at: unix time of the save that led to it.
        """
        old = self._target
        if old and old.publication.generation != publication.generation:
            self._superseded.set()
        self._target = _Target(publication, saved_at)
        self._show()
        self._offered.set()

    async def run(self) -> None:
        """Warm what is offered, and look after it, until cancelled."""
        failures = 0
        while True:
            target = await self._next_target()
            try:
                await self._warm(target)
                failures = 0
            except _SupersededError:
                self._count("superseded")
            except (EngineAwayError, EngineRefusedError) as error:
                self._failed(error, is_first=failures == 0)
                await self._is_offered(self._pause_after(error, failures))
                failures += 1
            else:
                await self._guard(target)

    async def _next_target(self) -> _Target:
        while self._target is None:
            await self._offered.wait()
            self._offered.clear()
        self._offered.clear()
        self._superseded.clear()
        return self._target

    async def _warm(self, target: _Target) -> None:
        """Have the pack computed, then prove it by asking again.

        Raises:
            EngineAwayError, EngineRefusedError: no proof could be had.
            _SupersededError: it is not wanted any more.
        """
        computed = await self._ask(target)
        ended = time.time()
        self._metrics.recomputed.labels(self._name).inc(
            computed.prompt_tokens - (computed.cached_tokens or 0)
        )
        proof = await self._ask(target)
        self._judge(target, proof, ended)

    async def _guard(self, target: _Target) -> None:
        """Return when there is something new to warm, or the engine is away, or it is time to
        prove again."""
        proven = time.monotonic()
        while self._target is target and time.monotonic() - proven < self._pace.proof:
            if await self._is_offered(self._pace.health):
                continue
            if not await self._engine.is_healthy():
                self._cool("engine-away")
                return

    def _judge(self, target: _Target, proof: Usage, ended: float) -> None:
        cached = proof.cached_tokens
        missing = proof.prompt_tokens - (cached or 0)
        is_warm = cached is not None and (
            missing <= max(_UNSTORED_TOKENS, proof.prompt_tokens * (1 - _WARM_SHARE))
        )
        if not is_warm:
            self.warmth = Warmth(prompt_tokens=proof.prompt_tokens, cached_tokens=cached or 0)
            self._show()
            self._count("cold")
            raise EngineRefusedError(_reason_cold(proof))
        version = target.publication.version
        since = ended
        if self.warmth.version == version and self.warmth.since:  # proven again
            since = self.warmth.since
        else:
            self._announce(target, proof, ended)
        self.warmth = Warmth(version, since, proof.prompt_tokens, cached or 0, self._save_to_warm)
        self._show()
        self._count("warm")

    def _announce(self, target: _Target, proof: Usage, ended: float) -> None:
        version = target.publication.version
        if version != self._measured:  # not when only the engine came back
            self._measured = version
            self._save_to_warm = ended - target.saved_at if target.saved_at else None
            if self._save_to_warm is not None:
                self._metrics.warmed.labels(self._name).observe(self._save_to_warm)
        _logger.info(
            line(
                "warm",
                workspace=self._name,
                version=version,
                prompt_tokens=proof.prompt_tokens,
                cached_tokens=proof.cached_tokens,
                save_to_warm_seconds="-" if self._save_to_warm is None else self._save_to_warm,
            )
        )

    async def _ask(self, target: _Target) -> Usage:
        publication = target.publication
        body = prompt.warm_up(publication.text, publication.model, PRIORITY)
        request = asyncio.create_task(self._engine.chat(body))
        superseded = asyncio.create_task(self._superseded.wait())
        try:
            await asyncio.wait({request, superseded}, return_when=asyncio.FIRST_COMPLETED)
            if not request.done():
                raise _SupersededError
            return request.result()
        finally:
            request.cancel()
            superseded.cancel()

    def _failed(self, error: Exception, *, is_first: bool) -> None:
        """Note a failure; it is logged once, not with each further try."""
        if is_first:
            _logger.warning(
                line("not-warm", workspace=self._name, reason=error, mend="it is tried again")
            )
        if isinstance(error, EngineAwayError):
            self._cool("engine-away")
            self._count("away")
        else:
            self._count("refused")

    def _cool(self, reason: str) -> None:
        if self.warmth.version is not None:
            _logger.warning(line("cold", workspace=self._name, reason=reason))
        self.warmth = Warmth()
        self._show()

    def _pause_after(self, error: Exception, failures: int) -> float:
        # An engine that is away costs nothing to ask; one that refuses has worked for it.
        away = isinstance(error, EngineAwayError)
        longest = self._pace.longest_pause if away else self._pace.proof
        return min(self._pace.first_pause * 2.0 ** min(failures, 16), longest)

    async def _is_offered(self, seconds: float) -> bool:
        """Wait for an offer, no longer than this, and say whether one came."""
        try:
            await asyncio.wait_for(self._offered.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    def _show(self) -> None:
        version = self._target.publication.version if self._target else None
        is_warm = version is not None and self.warmth.version == version
        self._metrics.warm.labels(self._name).set(is_warm)
        self._metrics.prompt.labels(self._name).set(self.warmth.prompt_tokens)
        self._metrics.cached.labels(self._name).set(self.warmth.cached_tokens)

    def _count(self, result: str) -> None:
        self._metrics.requests.labels(self._name, result).inc()


def _reason_cold(proof: Usage) -> str:
    if proof.cached_tokens is None:
        return (
            "the engine does not tell cached tokens: start it with --enable-prompt-tokens-details"
        )
    return f"only {proof.cached_tokens} of {proof.prompt_tokens} prompt tokens are in the cache"
