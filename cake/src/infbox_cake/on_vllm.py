"""Cake in vLLM: a scheduler that computes a prompt's front while its back is staged.

One of the files that depend on the internals of others; this one on vLLM 0.32.0 and the connector
of LMCache 0.5.6. vLLM loads both classes by their names: ``--scheduler-cls
infbox_cake.on_vllm.CakeScheduler`` and, in ``--kv-transfer-config``, ``"kv_connector":
"CakeConnector", "kv_connector_module_path": "infbox_cake.on_vllm"``. Nothing of theirs is patched.

A prompt of which a part is stored is computed from its front at once, as if nothing were. Before
each step the scheduler asks how far staging is. Once what is computed reaches what is staged, the
request is preempted: its blocks stay in vLLM's prefix cache, and on its way back the connector is
asked once more and answers with what is staged.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from lmcache.integration.vllm.lmcache_mp_metadata import LMCacheMPRequestState
from lmcache.v1.multiprocess.protocols.server_module import (
    ServerModuleCallRequest,
    ServerModuleCallResponse,
)
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from infbox_cake import wire
from infbox_cake.connector import InfboxConnector
from infbox_cake.race import (
    ON_CPU,
    ON_GPU,
    Compute,
    Load,
    Over,
    Prefill,
    Race,
    Wait,
    loads_at_once,
    run_to_stage,
)

if TYPE_CHECKING:
    from lmcache.v1.multiprocess.futures import MessagingFuture
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request

TESTED = {"vllm": "0.32.0", "lmcache": "0.5.6"}

ANSWER_SECONDS = 2.0
"""Longest time that LMCache's server may take for an answer; then the prompt is left to vLLM."""

FRESH_SECONDS = 0.02
"""Longest wait for how far staging is by now, once a step: what was told before the step is old."""

_STEPS_UNDER_WAY = 4
"""More than vLLM ever has."""

_logger = logging.getLogger("vllm.infbox_cake")

Answer = TypeVar("Answer")


@dataclass
class Prompt:
    """A request whose prompt is raced for.

    Attributes:
        look: the answer to which chunks are stored, as long as it is awaited.
        status: the answer to how far staging is, as long as one is awaited.
        asked_at: when the awaited answer was asked for, of the monotonic clock.
        race: begun once the chunks are known; None before, and where the request is left to vLLM.
        allowed: tokens that the next step may compute.
        has_stepped: whether a step was scheduled since the last decision.
        local: tokens that vLLM's prefix cache had at first.
        end: tokens until the end of what is staged.
        stored: tokens that are stored without a gap from the prompt's beginning on.
    """

    look: MessagingFuture[ServerModuleCallResponse] | None
    asked_at: float
    status: MessagingFuture[ServerModuleCallResponse] | None = None
    race: Race | None = None
    allowed: int = 0
    has_stepped: bool = False
    local: int = 0
    end: int = 0
    stored: int = 0


class CakeConnector(InfboxConnector):
    """infbox's connector, whose scheduler's half races where that is worth it."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        role: KVConnectorRole,
        kv_cache_config: KVCacheConfig | None = None,
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.prompts: dict[str, Prompt] = {}
        self.is_crowded = False
        """Whether answers are being written at present."""
        self.prefill = Prefill()
        self._worth = ON_CPU if vllm_config.device_config.device_type == "cpu" else ON_GPU
        self._load: float | None = None
        self._is_on = role == KVConnectorRole.SCHEDULER and self._may_race(vllm_config)

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Say how many tokens are to be loaded; see vLLM's base class."""
        if not self._is_on or request.skip_reading_prefix_cache:
            return super().get_num_new_matched_tokens(request, num_computed_tokens)
        prompt = self.prompts.get(request.request_id)
        if prompt is None:
            prompt = self.prompts[request.request_id] = self._look(request)
        if prompt.look and not self._see(prompt, prompt.look, request, num_computed_tokens):
            return None, True
        if prompt.race is None:
            return super().get_num_new_matched_tokens(request, num_computed_tokens)
        return self._answer(prompt, prompt.race, request, num_computed_tokens)

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """Take note that there is room for what is to be loaded; see vLLM's base class."""
        prompt = self.prompts.get(request.request_id)
        if prompt and prompt.race and num_external_tokens:
            tracker = self._get_request_tracker(request.request_id)
            # What is staged is kept for this request already: LMCache's own lookup, whose result
            # the base class would deal with now, was never asked.
            tracker.state = LMCacheMPRequestState.WAITING_FOR_LOAD
            prompt.race = None
            self._release(request.request_id, tracker.num_vllm_hit_tokens // self._chunk)
        super().update_state_after_alloc(request, blocks, num_external_tokens)

    def request_finished(
        self, request: Request, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Forget the request; see vLLM's base class."""
        prompt = self.prompts.pop(request.request_id, None)
        if prompt and prompt.race:
            self._release(request.request_id, wire.ALL)
        return super().request_finished(request, block_ids)

    def decide(
        self, prompt: Prompt, race: Race, request_id: str, front: int, patience: float = 0.0
    ) -> Compute | Wait | Load | Over:
        """Decide what a prompt's next step is.

        Args:
            prompt: one in a race.
            race: its race.
            request_id: its request's.
            front: tokens computed.
            patience: seconds to wait for how far staging is by now.
        """
        if patience:
            prompt.status = self._ask(prompt, request_id)
            prompt.status.wait(patience)
        now = time.monotonic()
        self._hear(prompt, race, request_id, now)
        return race.next(front, self.prefill.value, self._load, now, is_crowded=self.is_crowded)

    def leave(self, prompt: Prompt, request_id: str) -> None:
        """Load nothing for a prompt any more."""
        prompt.race = None
        self._release(request_id, wire.ALL)

    @property
    def _chunk(self) -> int:
        """Tokens of a chunk."""
        return self.scheduler_adapter.lmcache_tokens_per_chunk

    # Asking LMCache's server

    def _look(self, request: Request) -> Prompt:
        tracker = self._get_or_create_request_tracker(request)
        adapter = self.scheduler_adapter
        asked = wire.Look(
            request=request.request_id,
            model=adapter.model_name,
            world_size=adapter.world_size,
            readers=adapter.parallel_strategy.num_kv_readers,
            tokens=tracker.get_token_ids(),
            salt=tracker.cache_salt,
        )
        return Prompt(self._call(wire.LOOK, asked), time.monotonic())

    def _see(
        self,
        prompt: Prompt,
        look: MessagingFuture[ServerModuleCallResponse],
        request: Request,
        local: int,
    ) -> bool:
        """Take the answer to a look; return False while it is awaited."""
        now = time.monotonic()
        if not look.query() and now - prompt.asked_at < ANSWER_SECONDS:
            return False
        seen = _result(look, wire.Seen)
        prompt.look = None
        chunk = self._chunk
        tiers = seen.tiers if seen else b""
        # One token is always computed: the answer begins with what it leads to.
        first = local // chunk
        start, end = run_to_stage(tiers[: (request.num_tokens - 1) // chunk], first)
        if not seen or start == end or (start == first and 1 not in tiers[first:end]):
            # Nothing to read from disk: what is in RAM LMCache's own way is the shortest for.
            return True
        self._load = seen.rate or self._load
        at_once = loads_at_once(chunk, self.prefill.value, self._load, self._worth)
        prompt.race = Race(chunk, start, end, now, at_once, worth=self._worth)
        prompt.local, prompt.end = local, end * chunk
        prompt.stored = prompt.end if 0 not in tiers[:end] else 0
        self._call(wire.STAGE, wire.Stage(request.request_id, start, end, at_once))
        return True

    def _hear(self, prompt: Prompt, race: Race, request_id: str, now: float) -> None:
        """Take the answer to how far staging is, if it is there, and ask again."""
        if prompt.status and (prompt.status.query() or now - prompt.asked_at > ANSWER_SECONDS):
            staged = _result(prompt.status, wire.Staged)
            prompt.status = None
            if staged:
                self._load = staged.rate or self._load
                race.staged(staged.staged_from, staged.is_over, now)
            else:
                race.staged(prompt.end, True, now)
        if prompt.status is None and not race.is_failed:
            prompt.status = self._ask(prompt, request_id)

    def _ask(self, prompt: Prompt, request_id: str) -> MessagingFuture[ServerModuleCallResponse]:
        prompt.asked_at = time.monotonic()
        return self._call(wire.STATUS, wire.Status(request_id))

    def _release(self, request_id: str, until: int) -> None:
        self._call(wire.RELEASE, wire.Release(request_id, until))

    def _call(self, method: str, payload: msgspec.Struct) -> MessagingFuture[Any]:
        (client,) = self.scheduler_adapter.req_clients.values()
        call = ServerModuleCallRequest(method, msgspec.msgpack.encode(payload))
        return client.server_module_call(call)

    # Answering vLLM

    def _answer(
        self, prompt: Prompt, race: Race, request: Request, local: int
    ) -> tuple[int | None, bool]:
        tracker = self._get_or_create_request_tracker(request)
        aligned = local // self._hit_alignment_tokens * self._hit_alignment_tokens
        tracker.num_vllm_hit_tokens = aligned
        decision = self.decide(prompt, race, request.request_id, local)
        if isinstance(decision, Wait):
            return None, True
        # What is stored already need not be stored again.
        tracker.num_stored_tokens = prompt.stored
        if isinstance(decision, Load):
            tracker.num_stored_tokens = tracker.num_lmcache_hit_tokens = prompt.end
            self._note(prompt, request, local)
            return prompt.end - local, True
        if isinstance(decision, Over):
            self.leave(prompt, request.request_id)
            return 0, False
        prompt.allowed = decision.tokens
        return 0, False

    def _note(self, prompt: Prompt, request: Request, local: int) -> None:
        """Tell the answer's usage what was loaded: vLLM itself notes it at the first try only."""
        if request.prefill_stats:
            request.prefill_stats.set(
                num_prompt_tokens=request.num_prompt_tokens,
                num_local_cached_tokens=prompt.local,
                num_external_cached_tokens=prompt.end - local,
            )

    def _may_race(self, vllm_config: VllmConfig) -> bool:
        reasons = _other_versions()
        if not vllm_config.cache_config.enable_prefix_caching:
            reasons.append("there is no prefix cache")
        if len(self.scheduler_adapter.req_clients) > 1:
            reasons.append("there are several LMCache servers")
        if len(self._group_tokens_per_block) > 1:
            reasons.append("the model has layers of several kinds")
        if reasons:
            _logger.warning("Cake is off: %s", "; ".join(reasons))
        else:
            _logger.info("Cake is on: prompts are computed and loaded at once")
        return not reasons


class CakeScheduler(AsyncScheduler):
    """vLLM's scheduler, which stops computing a prompt where what is staged begins."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._under_way: deque[tuple[SchedulerOutput, float]] = deque(maxlen=_STEPS_UNDER_WAY)
        self._ended = 0.0

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Schedule a step; see vLLM's own."""
        connector = self.connector
        if isinstance(connector, CakeConnector):
            self._turn(connector)
        step = super().schedule(throttle_prefills)
        self._under_way.append((step, time.monotonic()))
        return step

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """Take what came of a step; see vLLM's own."""
        now = time.monotonic()
        for step, began in self._under_way:
            if step is scheduler_output and isinstance(self.connector, CakeConnector):
                tokens = step.num_scheduled_tokens.values()
                self.connector.prefill.step(tokens, now - max(began, self._ended))
        self._ended = now
        return super().update_from_output(scheduler_output, model_runner_output)

    def _turn(self, connector: CakeConnector) -> None:
        """Decide for each prompt in a race what it does in this step."""
        racing = {name for name, p in connector.prompts.items() if p.race}
        connector.is_crowded = any(
            not request.is_prefill_chunk for request in self.running
            if request.request_id not in racing
        )  # fmt: skip
        for request in [r for r in self.running if r.request_id in racing]:
            prompt = connector.prompts[request.request_id]
            if prompt.race:
                self._step(connector, prompt, prompt.race, request)

    def _step(self, connector: CakeConnector, prompt: Prompt, race: Race, request: Request) -> None:
        if request.num_in_flight_tokens:
            # The next step is decided when this one has ended, by what is staged then.
            prompt.allowed = 0
            return
        patience = FRESH_SECONDS if prompt.has_stepped else 0.0
        prompt.has_stepped = False
        front = request.num_computed_tokens
        decision = connector.decide(prompt, race, request.request_id, front, patience)
        if isinstance(decision, Load):
            self._give_way(request)
        elif isinstance(decision, Over):
            connector.leave(prompt, request.request_id)
        else:
            prompt.allowed = decision.tokens if isinstance(decision, Compute) else 0

    def _give_way(self, request: Request) -> None:
        """Preempt a request, as ``reset_prefix_cache`` does: its blocks stay in the cache."""
        self.running.remove(request)
        self._preempt_request(request, time.monotonic(), drop_stale_output=True)
        self.prev_step_scheduled_req_ids.discard(request.request_id)

    def _reserve_prefill_lookahead(
        self, request: Request, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        """Cut a step of a prompt in a race to what it may compute; vLLM asks this of each step."""
        tokens = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        connector = self.connector
        prompt = (
            connector.prompts.get(request.request_id)
            if isinstance(connector, CakeConnector) else None
        )  # fmt: skip
        if prompt is None or prompt.race is None:
            return tokens
        tokens = min(tokens, prompt.allowed)
        prompt.has_stepped |= tokens > 0
        return tokens


def _result(future: MessagingFuture[ServerModuleCallResponse], kind: type[Answer]) -> Answer | None:
    """Return the answer to a call; None where there is none, or it failed."""
    if not future.query():
        return None
    response = future.result(0)
    if not response.success:
        _logger.warning("Cake's half in LMCache failed: %s", response.error)
        return None
    return msgspec.msgpack.decode(response.payload, type=kind)


def _other_versions() -> list[str]:
    """Tell of the packages whose version is not the tested one."""
    found = []
    for name, wanted in TESTED.items():
        try:
            there = version(name)
        except PackageNotFoundError:
            there = "missing"
        if there.partition("+")[0] != wanted:
            found.append(f"{name} is {there}, not {wanted}")
    return found
