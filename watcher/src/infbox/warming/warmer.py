"""Keeping a published pack in the engine's cache, and proving it.

What is published goes first; the next generation is computed while nothing published waits. There
is one request at a time, of the lowest priority, by token ids (``template.py`` says which). A long
pack is computed in pieces, each a longer beginning of it: the engine serves a person's question
between two of them, and what is done stays in its cache when something more urgent comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from infbox.log import line
from infbox.packing import prompt
from infbox.packing.erasure.cached_chunks import ANY
from infbox.runtime import clock
from infbox.warming import template
from infbox.warming.engine import (
    Engine,
    EngineAwayError,
    EngineBusyError,
    EngineRefusedError,
    Usage,
)
from infbox.warming.lmcache import Prefetched
from infbox.warming.template import Template, TemplateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from infbox.metrics import WatcherMetrics
    from infbox.packing.erasure.cached_chunks import CachedChunks
    from infbox.warming.lmcache import LMCache

PRIORITY = 100
"""Of warm-ups; vLLM serves larger numbers later, and people's requests have 0."""

PIECE_TOKENS = 2048
"""Computed by one request at most: what a person who asks meanwhile waits for, at the longest."""

_CHUNK_TOKENS = 256
"""LMCache stores whole chunks of this many tokens: what was loaded from it lacks less than one."""

_BLOCK_TOKENS = 16  # of vLLM's cache, where it does not tell

# The last one is a full disk's, where what LMCache keeps cannot be noted.
_FAILURES = (EngineAwayError, EngineRefusedError, TemplateError, sqlite3.OperationalError)

_logger = logging.getLogger(__name__)


class Published(Protocol):
    """A pack, as far as warming needs it. It may have ``ids``, the token ids of its text."""

    @property
    def model(self) -> str:
        """The name the engine serves."""

    @property
    def generation(self) -> int:
        """Number of its base."""

    @property
    def version(self) -> int:
        """Number of its text."""

    @property
    def text(self) -> str:
        """What goes in front of a question."""


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


@dataclass(frozen=True, eq=False)
class _Job:
    """A pack to warm; ``ready`` is called once it is, where it is not published yet."""

    publication: Published
    saved_at: float | None = None
    ready: Callable[[], None] | None = None


class _SupersededError(Exception):
    """Something more urgent came while the engine worked."""


class _Checks:
    """What is known of the engine that runs now: its template, by generation, and its cache."""

    def __init__(self) -> None:
        self.templates: dict[int, tuple[int, Template | TemplateError]] = {}
        """By generation: the version it was checked with, and what came of it."""
        self.computed: dict[int, array[int]] = {}
        """By generation: ids of the prompt that was computed last."""
        self.proven: set[int] = set()
        """Generations of which a pack was proven warm."""
        self.head: tuple[int, ...] | None = None
        self.block: int | None = None
        self.prefetched = False


class Warmer:
    """Warms one workspace's pack: one request at a time, always the newest.

    Args:
        name: of the workspace.
        engine: to ask.
        metrics: to count in.
        pace: how often to ask.
        lmcache: to bring packs back from disk; None where there is none.
        is_here: says whether questions about it come to this engine; else it is not warmed.
        base: what warms the pack that this one begins with; None where it begins with no other's.
        chunks: where it is noted what LMCache keeps, and what of it is to be dropped.
        salts: under which the engine keeps the workspace's KV, and may have kept it before; the
            empty one is none.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        metrics: WatcherMetrics,
        pace: Pace | None = None,
        lmcache: LMCache | None = None,
        *,
        is_here: Callable[[], bool] | None = None,
        base: Warmer | None = None,
        chunks: CachedChunks | None = None,
        salts: tuple[str, ...] = ("",),
    ) -> None:
        self._name = name
        self._salts = salts
        self._chunks = chunks
        self._noted: object = None
        """The pack whose chunks are noted, with what the template puts before it."""
        self._drop_failure = ""
        self._base = base
        self._engine = engine
        self._metrics = metrics
        self._pace = pace or Pace()
        self._lmcache = lmcache
        self._is_here = is_here or _always
        self._target: _Job | None = None
        self._settled: _Job | None = None
        self._proven = 0.0
        self._candidate: _Job | None = None
        self._job: _Job | None = None
        self._offered = asyncio.Event()
        self._superseded = asyncio.Event()
        self._checks = _Checks()
        self._is_failing = False
        self._own_ids_told = False
        self._measured: int | None = None
        self._save_to_warm: float | None = None
        metrics.template_broken.labels(name).set(0)
        self.warmth = Warmth()
        self.is_elsewhere = False
        """Whether questions go to another host, so that nothing is warmed here."""
        self.template_error: str | None = None
        """Why no pack is warmed: what the model's chat template does, and the fix."""
        self.template_warning: str | None = None
        """What else is wrong with it: some questions gain nothing from a warm pack."""

    @property
    def is_at_work(self) -> bool:
        """Whether it computes a generation of which nothing was proven yet. Whoever begins with the
        same waits, since both would compute it at once; not for one that fails, or rests."""
        target = self._target
        is_new = target is not None and target.publication.generation not in self._checks.proven
        return is_new and not self._is_failing and not self.is_elsewhere

    def computed(self, ids: array[int]) -> int:
        """Return how many tokens at the beginning of a prompt were computed here."""
        known = self._checks.computed.values()
        return max((template.common_length(one, ids) for one in known), default=0)

    def offer(self, publication: Published, saved_at: float | None = None) -> None:
        """Take a newly published pack; it replaces one that waits.

        A request under way is left to end, since its text begins the new one's, unless it works on
        another generation: then it is cancelled.

        Args:
            publication: the pack.
            saved_at: monotonic time of the save that led to it.
        """
        generation = publication.generation
        if self._candidate and self._candidate.publication.generation <= generation:
            self._candidate = None
        if self._job and (self._job.ready or self._job.publication.generation != generation):
            self._superseded.set()
        self._target = _Job(publication, saved_at)
        self._show()
        self._offered.set()

    def prepare(self, candidate: Published | None, ready: Callable[[], None] | None = None) -> None:
        """Take the next generation, to be computed while nothing published waits.

        Args:
            candidate: the pack; it replaces one that was given before. None forgets that.
            ready: called once, in the loop, when it is proven warm; or when the engine is away or
                refuses, since then nothing is gained by waiting.
        """
        self._candidate = _Job(candidate, ready=ready or _nothing) if candidate else None
        job = self._job
        if (
            job
            and job.ready
            and (candidate is None or candidate.generation != job.publication.generation)
        ):
            self._superseded.set()
        self._offered.set()

    async def run(self) -> None:
        """Warm what is offered, and look after it, until cancelled."""
        failures = 0
        while True:
            self._offered.clear()
            self._superseded.clear()
            try:
                await self._step()
                failures, self._is_failing = 0, False
            except _SupersededError:
                self._count("superseded")
            except _FAILURES as error:
                self._failed(error, is_first=failures == 0)
                is_offered = await self._is_offered(self._pause_after(error, failures))
                if isinstance(error, TemplateError) and not is_offered:
                    self._checks = _Checks()  # by now the engine may have another
                failures += 1
            finally:
                self._job = None

    async def _step(self) -> None:
        """Do what is most urgent, or wait until something is.

        Raises:
            EngineAwayError, EngineRefusedError, TemplateError: no proof could be had.
            _SupersededError: it is not wanted any more.
        """
        await self._drop_chunks()
        was_elsewhere, self.is_elsewhere = self.is_elsewhere, not self._is_here()
        if self.is_elsewhere:
            await self._rest(is_first=not was_elsewhere)
        elif self._must_wait():
            await self._is_offered(self._pace.first_pause)
        elif self._target is not None and self._target is not self._settled:
            self._job = self._target
            await self._warm(self._target)
        elif self._candidate is not None:
            self._job = self._candidate
            await self._prepare(self._candidate)
        elif not await self._is_offered(self._pace.health):
            await self._look_after()

    def _must_wait(self) -> bool:
        """Say whether what comes next begins with what the base is computing. A pack of whose
        generation something was computed here does not: it has its own beginning."""
        job = self._candidate if self._target is self._settled else self._target
        if job is None or self._base is None or not self._base.is_at_work:
            return False
        return job.publication.generation not in self._checks.computed

    async def _rest(self, *, is_first: bool) -> None:
        """Warm nothing, and keep nobody waiting for it; look again when something is offered."""
        if is_first:
            self._cool("elsewhere")
        if self._candidate:
            self._release(self._candidate)
        self._show()
        await self._is_offered(self._pace.health)

    async def _look_after(self) -> None:
        """See whether the engine still answers; have it prove again when it is time to."""
        settled = self._settled
        if settled is None:
            return
        if not await self._engine.is_healthy():
            self._cool("engine-away")
        elif time.monotonic() - self._proven >= self._pace.proof:
            self._settled = None
            checked_with, _ = self._checks.templates.get(settled.publication.generation, (0, None))
            if checked_with != settled.publication.version:
                self._forget_template(settled.publication.generation)

    async def _warm(self, job: _Job) -> None:
        usage, ended = await self._compute(job, await self._prompt(job))
        version = job.publication.version
        since = clock.unix(ended)
        if self.warmth.version == version and self.warmth.since:  # proven again
            since = self.warmth.since
        else:
            self._announce(job, usage, ended)
        self.warmth = Warmth(
            version, since, usage.prompt_tokens, usage.cached_tokens or 0, self._save_to_warm
        )
        self._settled = job
        self._proven = time.monotonic()
        self._show()
        self._count("warm")

    async def _prepare(self, job: _Job) -> None:
        usage, _ = await self._compute(job, await self._prompt(job))
        self._count("prepared")
        _logger.info(
            line(
                "prepared",
                workspace=self._name,
                generation=job.publication.generation,
                prompt_tokens=usage.prompt_tokens,
            )
        )
        self._release(job)

    def _release(self, job: _Job) -> None:
        """Forget a candidate and tell whoever gave it, unless it was replaced."""
        if self._candidate is job:
            self._candidate = None
            if job.ready:
                job.ready()

    async def _prompt(self, job: _Job) -> array[int]:
        """Return the token ids by which a pack is warmed; what they rest on is checked if need be.

        Raises:
            TemplateError: warming it would serve no question.
            EngineAwayError, EngineRefusedError: the engine did not say.
        """
        publication = job.publication
        checked = await self._template(publication)
        ids = getattr(publication, "ids", None)
        if ids is None or not checked.own_ids:
            ids = await template.text_ids(self._engine, publication.model, publication.text)
        await self._note_chunks(publication, checked, ids)
        if self._checks.block is None:
            self._checks.block = await self._engine.block_size() or _BLOCK_TOKENS
        return checked.warm_up(ids, self._checks.block)

    async def _note_chunks(
        self, publication: Published, checked: Template, ids: Sequence[int]
    ) -> None:
        """Note what LMCache is about to keep of a pack: with what the template puts before it, and
        as it stands in a completion, which has no template."""
        sha256 = getattr(publication, "sha256", None)
        noted = sha256, checked.head, checked.skip
        if self._chunks is None or self._lmcache is None or noted == self._noted:
            return
        path = await self._engine.path_of(publication.model)
        chunk = await self._lmcache.chunk_tokens(path)
        before = len(checked.head) - checked.skip
        sections = _sections(publication, is_exact=checked.own_ids)
        shifted = [(until + before, paths) for until, paths in sections]
        prompt = [*checked.head, *ids[checked.skip :]]
        await asyncio.to_thread(self._chunks.note, "chat", prompt, shifted, chunk)
        await asyncio.to_thread(self._chunks.note, "completion", ids, sections, chunk)
        self._noted = noted

    async def _drop_chunks(self) -> None:
        """Have LMCache drop what must not be kept; what fails is tried again with the next step."""
        if self._chunks is None or self._lmcache is None or self._target is None:
            return
        if not self._chunks.is_due:
            return
        names = await asyncio.to_thread(self._chunks.due)
        if not names:
            return
        try:
            path = await self._engine.path_of(self._target.publication.model)
            failure = await self._lmcache.drop(path, names, self._salts)
        except (EngineAwayError, EngineRefusedError) as error:
            failure = str(error)
        if not failure:
            await asyncio.to_thread(self._chunks.dropped, names)
            _logger.info(line("kv-dropped", workspace=self._name, chunks=len(names)))
        elif failure != self._drop_failure:
            hint = "the watcher retries"
            _logger.warning(line("kv-not-dropped", workspace=self._name, reason=failure, hint=hint))
        self._drop_failure = failure

    async def _template(self, publication: Published) -> Template:
        """Return what the template makes of a generation's packs; each is checked once.

        Raises:
            TemplateError: it breaks the prefix.
            EngineAwayError, EngineRefusedError: the engine did not say.
        """
        generations = self._checks.templates
        if publication.generation not in generations:
            checked = await self._check(publication)
            generations[publication.generation] = publication.version, checked
            self._tell_template(publication.model, checked)
        _, checked = generations[publication.generation]
        if isinstance(checked, TemplateError):
            raise checked
        return checked

    async def _check(self, publication: Published) -> Template | TemplateError:
        ids = getattr(publication, "ids", None)
        text = publication.text
        try:
            checked = await template.check(self._engine, publication.model, text, ids)
        except TemplateError as error:
            return error
        head = self._checks.head
        if head is not None and head != checked.head:
            position = template.common_length(head, checked.head)
            reason = "what stands before the pack changes with time"
            return TemplateError(reason, position, template.HINT_HEAD)
        self._checks.head = checked.head
        if ids is not None and not checked.own_ids and not self._own_ids_told:
            self._own_ids_told = True
            _logger.warning(
                line(
                    "other-tokens",
                    workspace=self._name,
                    model=publication.model,
                    reason="the engine tokenizes the pack differently, so the watcher queries it "
                    "for each pack's tokens",
                    hint="set engine.tokenizer to the tokenizer.json of the served model",
                )
            )
        return checked

    def _tell_template(self, model: str, checked: Template | TemplateError) -> None:
        is_broken = isinstance(checked, TemplateError)
        self._metrics.template_broken.labels(self._name).set(is_broken)
        error = str(checked) if isinstance(checked, TemplateError) else None
        warning = checked.warning or None if isinstance(checked, Template) else None
        if isinstance(checked, TemplateError) and error != self.template_error:
            _logger.error(
                line(
                    "template-breaks-prefix",
                    workspace=self._name,
                    model=model,
                    reason=checked.reason,
                    token="-" if checked.position is None else checked.position,
                    hint=checked.hint,
                )
            )
        if warning and warning != self.template_warning:
            _logger.warning(
                line("template-warning", workspace=self._name, model=model, reason=warning)
            )
        self.template_error, self.template_warning = error, warning

    def _forget_template(self, generation: int) -> None:
        self._checks.templates.pop(generation, None)

    async def _compute(self, job: _Job, ids: array[int]) -> tuple[Usage, float]:
        """Have a prompt computed, and proven by asking again where that is needed.

        Returns:
            The proof, and the monotonic time at which the computation ended.

        Raises:
            EngineRefusedError: it is not in the cache afterwards.
            EngineAwayError: the engine did not say.
            _SupersededError: something more urgent came.
        """
        await self._prefetch(job.publication, ids)
        computed = self._checks.computed
        generation = job.publication.generation
        done = template.common_length(computed.get(generation, array("I")), ids)
        if self._base:
            done = max(done, self._base.computed(ids))
        for end in _pieces(done, len(ids)):
            usage = await self._ask(job, ids[:end])
            computed[generation] = ids[:end]
            self._check_wanted(job)
        ended = time.monotonic()
        if usage.prompt_tokens - (usage.cached_tokens or 0) > 1:  # it had something to compute
            usage = await self._ask(job, ids)
        self._keep_only_current()
        if not self._is_covered(usage):
            computed.pop(generation, None)
            if job is self._target:
                self.warmth = Warmth(
                    prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens or 0
                )
                self._show()
            self._count("cold")
            raise EngineRefusedError(_reason_cold(usage))
        self._checks.proven.add(generation)
        return usage, ended

    def _check_wanted(self, job: _Job) -> None:
        """Go no further with what was replaced: what is done of it begins what replaced it.

        Raises:
            _SupersededError: it was.
        """
        if job is not self._target and job is not self._candidate:
            raise _SupersededError

    def _keep_only_current(self) -> None:
        """Forget what was known of generations that are gone."""
        jobs = (self._target, self._candidate)
        current = {job.publication.generation for job in jobs if job}
        for known in (self._checks.templates, self._checks.computed):
            for generation in known.keys() - current:
                del known[generation]
        self._checks.proven &= current

    async def _prefetch(self, publication: Published, ids: array[int]) -> None:
        """Have LMCache bring from its disk what it has, once for each start of the engine."""
        if self._checks.prefetched or self._lmcache is None:
            return
        try:
            path = await self._engine.path_of(publication.model)
            done = await self._lmcache.prefetch(path, ids, self._salts[0])
        except EngineRefusedError as error:
            done = Prefetched("refused", reason=str(error))
        self._checks.prefetched = True
        self._metrics.prefetches.labels(self._name, done.result).inc()
        _logger.info(
            line(
                "prefetch",
                workspace=self._name,
                result=done.result,
                found=done.found,
                wanted=done.wanted,
                reason=done.reason or "-",
            )
        )
        if done.tokens:  # loading takes little time: no need for pieces
            self._checks.computed[publication.generation] = ids[: done.tokens]

    def _is_covered(self, usage: Usage) -> bool:
        """Say whether a request for what was just computed found it in the cache.

        Less than a chunk may lack: that much of an end is not kept where LMCache alone caches.
        """
        if usage.cached_tokens is None:
            return False
        block = self._checks.block or _BLOCK_TOKENS
        if not usage.cached_tokens and usage.prompt_tokens > 2 * block:
            return False
        return usage.prompt_tokens - usage.cached_tokens <= max(_CHUNK_TOKENS, block)

    def _announce(self, job: _Job, proof: Usage, ended: float) -> None:
        version = job.publication.version
        if version != self._measured:  # not when only the engine came back
            self._measured = version
            self._save_to_warm = ended - job.saved_at if job.saved_at else None
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

    async def _ask(self, job: _Job, ids: array[int]) -> Usage:
        """Send one request, and count what it computed.

        Raises:
            EngineAwayError, EngineRefusedError: no answer.
            _SupersededError: something more urgent came before there was one.
        """
        body = prompt.warm_up(ids, job.publication.model, PRIORITY)
        if self._salts[0]:
            body["cache_salt"] = self._salts[0]
        request = asyncio.create_task(self._engine.complete(body))
        superseded = asyncio.create_task(self._superseded.wait())
        try:
            await asyncio.wait({request, superseded}, return_when=asyncio.FIRST_COMPLETED)
            if not request.done():
                raise _SupersededError
            usage = request.result()
        finally:
            request.cancel()
            superseded.cancel()
        self._metrics.recomputed.labels(self._name).inc(
            usage.prompt_tokens - (usage.cached_tokens or 0)
        )
        return usage

    def _failed(self, error: Exception, *, is_first: bool) -> None:
        """Note a failure; it is logged once, not with each further try."""
        self._is_failing = True
        if is_first and not isinstance(error, TemplateError):  # of that the log has more
            _logger.warning(
                line("not-warm", workspace=self._name, reason=error, hint="the watcher retries")
            )
        if isinstance(error, EngineBusyError):
            self._count("busy")
            return
        if isinstance(error, EngineAwayError):
            self._cool("engine-away")
            self._count("away")
        elif isinstance(error, TemplateError):
            self._cool("template")
            self._count("template")
        else:
            self._count("refused")
        if self._candidate:
            self._release(self._candidate)

    def _cool(self, reason: str) -> None:
        if self.warmth.version is not None:
            _logger.warning(line("cold", workspace=self._name, reason=reason))
        self.warmth = Warmth()
        self._settled = None
        if reason == "engine-away":
            self._checks = _Checks()
            self._noted = None  # it may come back with another tokenizer
        self._show()

    def _pause_after(self, error: Exception, failures: int) -> float:
        # An engine that is away costs nothing to ask; one that refuses has worked for it.
        if isinstance(error, TemplateError):
            return self._pace.proof
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
        if self.is_elsewhere:  # neither warm nor cold
            with contextlib.suppress(KeyError):
                self._metrics.warm.remove(self._name)
            return
        version = self._target.publication.version if self._target else None
        is_warm = version is not None and self.warmth.version == version
        self._metrics.warm.labels(self._name).set(is_warm)
        self._metrics.prompt.labels(self._name).set(self.warmth.prompt_tokens)
        self._metrics.cached.labels(self._name).set(self.warmth.cached_tokens)

    def _count(self, result: str) -> None:
        self._metrics.requests.labels(self._name, result).inc()


def _sections(publication: Published, *, is_exact: bool) -> list[tuple[int, frozenset[str]]]:
    """Return where each section of a pack ends, in tokens, and the paths that it tells of; all in
    one where the engine's tokens are others."""
    ends = getattr(publication, "sections", ())
    told = getattr(publication, "told", ())
    if not is_exact or len(ends) != len(told):
        return [(1 << 40, frozenset({ANY}))]
    return [(tokens, paths) for (_, tokens), paths in zip(ends, told, strict=True)]


def _pieces(done: int, end: int) -> range | list[int]:
    """Return up to where each request goes, given how much was computed before."""
    start = done // _CHUNK_TOKENS * _CHUNK_TOKENS
    return [*range(start + PIECE_TOKENS, end, PIECE_TOKENS), end]


def _nothing() -> None:
    """Do nothing."""


def _always() -> bool:
    """Return that it is here, where there is one engine."""
    return True


def _reason_cold(proof: Usage) -> str:
    if proof.cached_tokens is None:
        return (
            "the engine does not tell cached tokens: start it with --enable-prompt-tokens-details"
        )
    return f"only {proof.cached_tokens} of {proof.prompt_tokens} prompt tokens are in the cache"
