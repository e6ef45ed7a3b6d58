"""Does a model fit a host? The arithmetic, the verdict, and the nearest change that would fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import floor
from typing import Literal

from plugins.planner.errors import PlanError
from plugins.planner.gpu_groups import GpuGroup, capability_notes, capability_refusal
from plugins.planner.memory import (
    CPU_BLOCK,
    GIB,
    Batch,
    KvLayout,
    Shape,
    beside_engine,
    default_batch,
    growing_bytes_per_token,
    in_flight,
    kv_layout,
    reserve_per_gpu,
    weights_per_gpu,
)
from plugins.planner.model import Model
from plugins.planner.network import network_note
from plugins.planner.parallel import shape_refusals, widths

GB = 1e9
# Main memory beside weights, KV and LMCache: the processes themselves, and what loading passes
# through; and pinned buffers for each GPU.
CPU_PROCESSES_BYTES = 2_700_000_000
GPU_PROCESSES_BYTES = 6_000_000_000
PER_GPU_PROCESSES_BYTES = 2_000_000_000
# Memory of the GPUs on the market, in MiB as drivers report it.
GPU_SIZES_MIB = (24564, 32607, 46068, 81920, 97887, 143771, 183359)
MAX_GPUS = 16
# Source: vLLM 0.32, `_FLOAT16_NOT_SUPPORTED_MODELS`.
NOT_IN_FP16 = frozenset(("gemma2", "gemma3", "gemma3_text", "glm4"))
LARGEST_CONTEXT = 100_000_000
# A window that the plan chooses fits this share of the KV that it promises: an engine with less KV
# than one longest request needs does not start.
WINDOW_SHARE = 0.97


@dataclass(frozen=True)
class Engine:
    """How a preset runs a model.

    Attributes:
        device: `cpu` or `cuda`.
        tensor_parallel_size: GPUs that share every layer; 0 takes as many equal ones as there are.
        pipeline_parallel_size: stages that share the layers out.
        nodes: hosts that hold the model together, by GPUs that share every layer.
        expert_parallel: whether experts are shared out whole.
        gpu_memory_utilization: share of a GPU's memory that the engine may take.
        cpu_kv_cache_bytes: main memory for KV on a host without GPUs.
        max_model_len: tokens of prompt and answer together; 0 takes the most that fit.
        min_model_len: tokens below which a model is of no use.
        batch: what a step computes at most; None for the engine's own limits.
        enforce_eager: whether there are no CUDA graphs.
        reserve_bytes: memory on each GPU that is kept from KV, beside what computing takes.
        l1_bytes: main memory for LMCache.
        l2_bytes: disk for LMCache.
        image_bytes: disk for images.
    """

    device: Literal["cpu", "cuda"] = "cuda"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    nodes: int = 1
    expert_parallel: bool = False
    gpu_memory_utilization: float = 0.9
    cpu_kv_cache_bytes: int = 0
    max_model_len: int = 0
    min_model_len: int = 8192
    batch: Batch | None = None
    enforce_eager: bool = False
    reserve_bytes: int = 0
    l1_bytes: int = 0
    l2_bytes: int = 0
    image_bytes: int = 5_000_000_000

    def __post_init__(self) -> None:
        for refusal in engine_refusals(self):
            raise PlanError(refusal)


@dataclass(frozen=True)
class Host:
    """What a host has beside its GPUs, in bytes; None if it is not known."""

    memory_bytes: int | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True)
class Plan:
    """The verdict.

    Attributes:
        fits: whether the engine would start and serve.
        reasons: why, with the arithmetic; refusals end with the nearest change that would fit.
        notes: what a person should know although it fits.
        kv_bytes_per_token: FP16 bytes that one more token takes, on all GPUs together.
        kv_tokens: tokens whose KV the GPUs hold, for requests of `max_model_len`.
        max_model_len: tokens of prompt and answer together; 0 where it does not fit.
        weights_bytes: bytes of all weights.
        tensor_parallel_size: GPUs that share every layer.
        kv_pool_bytes: bytes for KV on each GPU.
        memory_bytes: main memory that is needed.
        disk_bytes: disk that is needed.
        layout: what requests keep on each GPU.
        batch: what a step computes at most.
        gpus: how many GPUs each host uses.
        gpu_name: what kind they are.
    """

    fits: bool
    reasons: tuple[str, ...]
    kv_bytes_per_token: int
    weights_bytes: int
    tensor_parallel_size: int
    kv_tokens: int = 0
    max_model_len: int = 0
    notes: tuple[str, ...] = ()
    kv_pool_bytes: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    layout: KvLayout = field(default=KvLayout(0), repr=False)
    batch: Batch = field(default=Batch(), repr=False)
    gpus: int = 0
    gpu_name: str = ""

    def concurrent_requests(self, tokens: int) -> int:
        """Return how many requests of so many tokens the GPUs hold at once.

        Raises:
            PlanError: tokens is not above 0.
        """
        if tokens <= 0:
            raise PlanError(f"A request has {tokens} tokens. Give a number above 0.")
        return int(self.layout.requests(self.kv_pool_bytes, tokens)) if self.fits else 0


def plan(
    model: Model,
    weights_bytes: int,
    engine: Engine,
    gpus: Sequence[GpuGroup],
    host: Host | None = None,
    *,
    gbit: float = 0,
) -> Plan:
    """Plan a model on a host, or on several that hold it together.

    Args:
        model: from `read_config`.
        weights_bytes: bytes of all weights.
        engine: how it is to run.
        gpus: each host's GPUs, equal ones counted together.
        host: main memory and disk of each, which count only if they are known.
        gbit: of the network between the hosts, in Gbit/s; 0 if it is not known.

    Returns:
        The plan. On each GPU

            KV = CUDA's memory * gpu_memory_utilization - weights - reserve

        as vLLM has it (`request_memory`, `Worker.determine_available_memory`), and what is not the
        engine's must hold CUDA's contexts and LMCache's buffers. On a CPU KV is what the preset
        gives it.

    Raises:
        PlanError: the weights have no bytes.
    """
    if weights_bytes <= 0:
        raise PlanError(f"{model.name} has {weights_bytes} bytes of weights. Give weights_bytes.")
    if engine.device == "cpu":
        planned = plan_cpu(model, weights_bytes, engine)
    else:
        planned = plan_gpus(model, weights_bytes, engine, gpus)
        if not planned.fits:
            planned = replace(
                planned,
                reasons=(*planned.reasons, *fixes(model, weights_bytes, engine, gpus, planned)),
            )
    if planned.fits and engine.nodes > 1:
        shape = Shape(planned.tensor_parallel_size)
        planned = replace(planned, notes=(*planned.notes, network_note(model, shape, gbit)))
    return with_host(planned, engine, host or Host())


def plan_cpu(model: Model, weights_bytes: int, engine: Engine) -> Plan:
    """Plan a model in main memory."""
    batch = engine.batch or Batch(2048, 128)
    shape = Shape(engine.nodes)
    layout = kv_layout(model, shape, in_flight(batch, shape), CPU_BLOCK)
    start = Plan(
        fits=False,
        reasons=(),
        kv_bytes_per_token=growing_bytes_per_token(model),
        weights_bytes=weights_bytes,
        tensor_parallel_size=shape.tensor,
        kv_pool_bytes=max(engine.cpu_kv_cache_bytes - engine.reserve_bytes, 0),
        memory_bytes=weights_per_gpu(weights_bytes, shape)
        + engine.cpu_kv_cache_bytes
        + engine.l1_bytes
        + CPU_PROCESSES_BYTES,
        disk_bytes=weights_bytes + engine.l2_bytes + engine.image_bytes,
        layout=layout,
        batch=batch,
        notes=model_notes(model),
    )
    if model.only("state"):
        reason = (
            f"{model.name} has linear attention, which the engine can compute on GPUs only."
            " Use a host with GPUs."
        )
        return replace(start, reasons=(reason,))
    if refusals := shape_refusals(model, shape):
        return replace(start, reasons=tuple(refusals))
    where = f" of each of {engine.nodes} hosts" if engine.nodes > 1 else ""
    words = f"{gib(engine.cpu_kv_cache_bytes)} of main memory{where} for KV{kept_words(engine)}"
    return with_context(start, model, engine, words)


def plan_gpus(model: Model, weights_bytes: int, engine: Engine, gpus: Sequence[GpuGroup]) -> Plan:
    """Plan a model on GPUs, without suggesting a change that would fit."""
    start = Plan(
        fits=False,
        reasons=(),
        kv_bytes_per_token=growing_bytes_per_token(model),
        weights_bytes=weights_bytes,
        tensor_parallel_size=max(engine.tensor_parallel_size, 1),
    )
    if not gpus:
        return replace(start, reasons=(f"{model.name} needs GPUs, this host has none.",))
    refusal, gpu, shape = choose_gpus(model, engine, gpus)
    start = replace(start, tensor_parallel_size=shape.tensor)
    refusals = [refusal] if refusal else shape_refusals(model, shape)
    refusals += [capability_refusal(gpu, model.quantization)]
    if any(refusals):
        return replace(start, reasons=tuple(filter(None, refusals)))
    return plan_shape(start, model, engine, gpu, shape)


def plan_shape(start: Plan, model: Model, engine: Engine, gpu: GpuGroup, shape: Shape) -> Plan:
    """Plan a model of a given shape on equal GPUs."""
    batch = engine.batch or default_batch(gpu)
    weights = weights_per_gpu(start.weights_bytes, shape)
    reserve = reserve_per_gpu(model, shape, batch, eager=engine.enforce_eager)
    usable = int(gpu.cuda_bytes * engine.gpu_memory_utilization)
    pool = usable - weights - reserve - engine.reserve_bytes
    layout = kv_layout(model, shape, in_flight(batch, shape))
    planned = replace(
        start,
        notes=tuple(capability_notes(gpu, model.quantization)) + model_notes(model),
        kv_pool_bytes=max(pool, 0),
        memory_bytes=engine.l1_bytes
        + GPU_PROCESSES_BYTES
        + shape.gpus // engine.nodes * PER_GPU_PROCESSES_BYTES,
        disk_bytes=start.weights_bytes + engine.l2_bytes + engine.image_bytes,
        layout=layout,
        batch=batch,
        gpus=shape.gpus // engine.nodes,
        gpu_name=gpu.name,
    )
    share = (
        f"{gib(usable)} ({engine.gpu_memory_utilization:.0%} of the {gib(gpu.cuda_bytes)} that"
        f" CUDA has of {gpu.memory_mib} MiB)"
    )
    words = f"{share} - weights {gib(weights)} - computing {gib(reserve)}{kept_words(engine)}"
    where = f"on each of {shape.gpus} x {gpu.name}" if shape.gpus > 1 else f"on {gpu.name}"
    if engine.nodes > 1:
        where += f" ({shape.gpus // engine.nodes} in each of {engine.nodes} hosts)"
    if pool <= 0:
        reason = (
            f"{model.name} does not fit: {where}, {words} leaves no memory for KV"
            f" ({gib(-pool)} too little)."
        )
        return replace(planned, reasons=(reason,))
    if gpu.cuda_bytes - usable < beside_engine(layout):
        reason = (
            f"{model.name} does not fit: {where}, gpu_memory_utilization leaves"
            f" {gib(gpu.cuda_bytes - usable)} of the {gib(gpu.cuda_bytes)} that CUDA has, and"
            f" CUDA's contexts and LMCache's buffers take {gib(beside_engine(layout))}."
        )
        return replace(planned, reasons=(reason,))
    return with_context(planned, model, engine, f"{where}, {words} = {gib(pool)} for KV")


def kept_words(engine: Engine) -> str:
    """Return the memory that is kept from KV in words; empty if there is none."""
    return f" - reserve_gib {gib(engine.reserve_bytes)}" if engine.reserve_bytes else ""


def with_context(planned: Plan, model: Model, engine: Engine, words: str) -> Plan:
    """Set the context window, and say whether the KV of one request of that length fits."""
    wanted = engine.max_model_len
    pool = planned.kv_pool_bytes if wanted else int(planned.kv_pool_bytes * WINDOW_SHARE)
    longest = planned.layout.longest(pool, model.context)
    if wanted > model.context:
        reason = (
            f"{model.name} takes {model.context:,} tokens, max_model_len is {wanted:,}."
            f" Set max_model_len to {model.context} or less."
        )
        return replace(planned, reasons=(reason,))
    minimum = min(wanted or engine.min_model_len, model.context)
    a_token = f"{planned.kv_bytes_per_token / 1024:g} KiB a token"
    if longest < minimum:
        reason = (
            f"{model.name} does not fit: {words}, at {a_token} enough for a request of"
            f" {longest:,} tokens, fewer than {minimum:,}."
        )
        return replace(planned, reasons=(reason,))
    # Whole blocks: a part of one is never used.
    context = wanted or max(longest - longest % 16, minimum)
    tokens = int(planned.layout.requests(planned.kv_pool_bytes, context) * context)
    reason = f"{model.name} fits: {words}, at {a_token} {tokens:,} tokens of KV."
    return replace(planned, fits=True, reasons=(reason,), kv_tokens=tokens, max_model_len=context)


def with_host(planned: Plan, engine: Engine, host: Host) -> Plan:
    """Compare main memory and disk with what the plan needs, if they are known."""
    refusals = []
    if host.memory_bytes is not None and host.memory_bytes < planned.memory_bytes:
        refusals.append(
            f"{planned.memory_bytes / GB:.1f} GB of main memory are needed,"
            f" {engine.l1_bytes / GB:.1f} of them for LMCache; this host has"
            f" {host.memory_bytes / GB:.1f}. Add memory, or lower lmcache.l1_size_gb."
        )
    if host.disk_bytes is not None and host.disk_bytes < planned.disk_bytes:
        refusals.append(
            f"{planned.disk_bytes / GB:.0f} GB of disk are needed: weights"
            f" {planned.weights_bytes / GB:.0f}, LMCache {engine.l2_bytes / GB:.0f}, images"
            f" {engine.image_bytes / GB:.0f}; this host has {host.disk_bytes / GB:.0f}."
            " Add disk, or lower lmcache.l2_size_gb."
        )
    if not refusals:
        return planned
    return replace(planned, fits=False, reasons=(*planned.reasons, *refusals))


def choose_gpus(
    model: Model, engine: Engine, gpus: Sequence[GpuGroup]
) -> tuple[str, GpuGroup, Shape]:
    """Return a refusal (empty if there is none), the equal GPUs for a model, and its shape.

    GPUs that share a layer wait for the slowest and hold what the smallest holds, so they must be
    equal; of several kinds, the one with the most memory in all is taken.
    """
    stages, wanted, nodes = (
        engine.pipeline_parallel_size,
        engine.tensor_parallel_size,
        engine.nodes,
    )
    largest = max(gpus, key=lambda gpu: gpu.memory_mib * gpu.count)
    if not wanted:
        most = widths(model, largest.count * nodes // stages, expert=engine.expert_parallel)
        even = [width for width in most if width % nodes == 0]
        return "", largest, Shape(even[-1] if even else nodes, stages, engine.expert_parallel)
    shape = Shape(wanted, stages, engine.expert_parallel)
    enough = [gpu for gpu in gpus if gpu.count * nodes >= shape.gpus]
    if enough:
        return "", max(enough, key=lambda gpu: gpu.memory_mib), shape
    there = " and ".join(map(str, gpus))
    if nodes > 1:
        there += f", and so have the others of {nodes}"
    if sum(gpu.count for gpu in gpus) * nodes >= shape.gpus:
        refusal = (
            f"{model.name} needs {shape.gpus} equal GPUs, this host has {there}. GPUs of several"
            " kinds cannot share a model's layers."
        )
    else:
        refusal = f"{model.name} needs {shape.gpus} GPUs, this host has {there}."
    return refusal, largest, shape


def fixes(
    model: Model, weights_bytes: int, engine: Engine, gpus: Sequence[GpuGroup], refused: Plan
) -> Iterator[str]:
    """Yield the nearest change that would fit, as a sentence; nothing if none is known.

    Nearest is what costs least: a smaller share, a shorter context, more GPUs like these, larger
    ones.
    """
    changes = [
        *smaller_share(engine, gpus, refused),
        *shorter(model, engine, gpus, refused),
        *more_gpus(model, engine, gpus),
    ]
    for words, changed, there in changes:
        if plan_gpus(model, weights_bytes, changed, there).fits:
            yield f"It would fit with {words}."
            return


# A change in words, and the engine and GPUs after the change.
Change = tuple[str, Engine, Sequence[GpuGroup]]


def smaller_share(engine: Engine, gpus: Sequence[GpuGroup], refused: Plan) -> Iterator[Change]:
    """Yield the largest whole percentage of a GPU's memory that leaves enough free."""
    if not gpus or not refused.kv_pool_bytes:
        return
    smallest = min(gpu.cuda_bytes for gpu in gpus)
    share = floor(100 * (1 - beside_engine(refused.layout) / smallest)) / 100
    if 0 < share < engine.gpu_memory_utilization:
        changed = replace(engine, gpu_memory_utilization=share)
        yield f"gpu_memory_utilization: {share:g}", changed, gpus


def shorter(
    model: Model, engine: Engine, gpus: Sequence[GpuGroup], refused: Plan
) -> Iterator[Change]:
    """Yield a shorter context, if the weights leave enough memory for a useful one."""
    if not engine.max_model_len or not refused.kv_pool_bytes:
        return
    longest = refused.layout.longest(refused.kv_pool_bytes, model.context)
    tokens = longest - longest % 1024
    if tokens >= min(engine.min_model_len, model.context):
        yield f"max_model_len: {tokens}", replace(engine, max_model_len=tokens), gpus


def more_gpus(model: Model, engine: Engine, gpus: Sequence[GpuGroup]) -> Iterator[Change]:
    """Yield more GPUs of the same kind, also with whole experts on each, then larger GPUs.

    A host without GPUs has no kind: each size is tried.
    """
    count, minimum = max(engine.tensor_parallel_size // engine.nodes, 1), 0
    if gpus:
        gpu = max(gpus, key=lambda gpu: gpu.memory_mib * gpu.count)
        yield from same_gpus(model, engine, gpu)
        count, minimum = gpu.count, gpu.memory_mib
    for size in GPU_SIZES_MIB:
        if size > minimum:
            words = f"{count} GPU{'s' * (count > 1)} of {size} MiB"
            yield words, engine, [GpuGroup(f"a GPU of {size} MiB", size, count)]


def same_gpus(model: Model, engine: Engine, gpu: GpuGroup) -> Iterator[Change]:
    """Yield one GPU of a kind, then two, and so on."""
    ways = [engine.expert_parallel]
    if model.experts and not engine.expert_parallel:
        ways.append(True)
    where = " in each host" if engine.nodes > 1 else ""
    for count in range(engine.nodes, MAX_GPUS + 1, engine.nodes):
        for expert in ways:
            there = replace(gpu, count=count * engine.pipeline_parallel_size // engine.nodes)
            words = f"{there.count} x {gpu.name}{where}"
            words += " and expert_parallel" if expert else ""
            changed = replace(engine, tensor_parallel_size=count, expert_parallel=expert)
            yield words, changed, [there]


def model_notes(model: Model) -> tuple[str, ...]:
    """Return what a person should know of a model, whatever the host."""
    notes = []
    if not model.exact:
        notes.append(
            f"KV of {model.name} as given by hand (kv_bytes_per_token), all of it on every GPU."
        )
    if model.kind in NOT_IN_FP16:
        notes.append(
            f"The engine refuses {model.name} in FP16. Set vllm_dtype to bfloat16, which takes the"
            " same memory."
        )
    return tuple(notes)


def engine_refusals(engine: Engine) -> Iterator[str]:
    """Yield what is absurd in a preset's engine."""
    for name in (
        "tensor_parallel_size", "max_model_len", "l1_bytes", "l2_bytes", "reserve_bytes",
    ):  # fmt: skip
        if getattr(engine, name) < 0:
            yield f"{name} is {getattr(engine, name)}. Give a number that is not negative."
    for name in ("pipeline_parallel_size", "nodes", "min_model_len"):
        if getattr(engine, name) < 1:
            yield f"{name} is {getattr(engine, name)}. Give a number above 0."
    if engine.nodes > 1:
        yield from cut_refusals(engine)
    if engine.max_model_len > LARGEST_CONTEXT:
        yield f"max_model_len is {engine.max_model_len}. Give the tokens of prompt and answer."
    if not 0 < engine.gpu_memory_utilization < 1:
        yield (
            f"gpu_memory_utilization is {engine.gpu_memory_utilization}. Give a share above 0 and"
            " below 1."
        )
    if engine.batch and min(engine.batch.tokens, engine.batch.requests) < 1:
        yield f"A step of {engine.batch.tokens} tokens, {engine.batch.requests} requests is none."


def cut_refusals(engine: Engine) -> Iterator[str]:
    """Yield how a model cannot be cut among hosts."""
    if engine.pipeline_parallel_size > 1:
        yield (
            f"pipeline_parallel_size is {engine.pipeline_parallel_size} and nodes {engine.nodes}."
            " Hosts share a model by tensor parallelism alone, since LMCache has no other way over"
            " several. Leave pipeline_parallel_size out."
        )
    if engine.tensor_parallel_size % engine.nodes:
        yield (
            f"tensor_parallel_size is {engine.tensor_parallel_size}, which {engine.nodes} hosts"
            f" cannot share evenly. Give a multiple of {engine.nodes}, or 0 for all equal GPUs."
        )


def gib(size: float) -> str:
    """Return bytes in words."""
    return f"{size / GIB:.1f} GiB"
