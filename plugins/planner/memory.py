"""Where a GPU's memory goes: weights, what computing takes, and KV with what is left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from plugins.planner.gpu_groups import GpuGroup
from plugins.planner.layers import FP16_BYTES, Layers
from plugins.planner.model import Model

MIB = 1024**2
GIB = 1024**3
# Tokens that a block of KV holds, on a GPU and in main memory.
# Source: what vLLM 0.32 chooses, `CacheConfig.DEFAULT_BLOCK_SIZE` and `CpuPlatform`.
GPU_BLOCK = 16
CPU_BLOCK = 128

# Estimates, each on the safe side of what engines log at start; no formula is published.
# tests/plugins/start_logs.yml has ten published logs and how far the plan is from each.
LIBRARIES_BYTES = 256 * MIB
COLLECTIVES_BYTES = GIB
GRAPH_BYTES_PER_LAYER = 12 * MIB
# Memory that is used on each GPU beside the engine's share: the CUDA contexts of the
# engine (it exists before the engine measures what is free) and of LMCache's server, each with the
# kernels it loads, and buffers of LMCache's for the chunks in flight. An out-of-memory message of a
# shared H200 told 612 MiB for one such process.
# Source: vLLM 0.32, `request_memory`; LMCache 0.5.6, `GPUTempBuffer` (max_batch_size, chunk_size).
CONTEXT_BYTES = 640 * MIB
LMCACHE_CHUNKS = 4
LMCACHE_CHUNK_TOKENS = 256
# A state is kept twice: the one that grows and the last one that a prefix can be taken up from.
# Source: vLLM, `MambaSpec.max_memory_usage_bytes`, mode `align`.
STATES = 2

# Norms, routers and uneven cuts, which every GPU of a group holds.
UNSHARED_WEIGHTS = 1.02

# What the engine's own sampler holds at its peak for each entry of the vocabulary and each request:
# logits, their sorted copy with 64-bit indices, probabilities, sums and masks. Three logs have the
# same 1.4 GiB for 256 requests of 151,936 entries, whatever the model, which is 38.6 bytes; one of
# 1,024 requests has 5.6 GiB. FlashInfer's sampler, which is off here, takes 7.
LOGIT_BYTES = 39


@dataclass(frozen=True)
class Shape:
    """How a model is cut.

    Attributes:
        tensor: GPUs that share every layer.
        pipeline: stages that share the layers out.
        expert: whether experts are shared out whole, and not cut.
    """

    tensor: int = 1
    pipeline: int = 1
    expert: bool = False

    @property
    def gpus(self) -> int:
        """GPUs for one copy of the model."""
        return self.tensor * self.pipeline


@dataclass(frozen=True)
class Batch:
    """What one step of the engine computes at most.

    Attributes:
        tokens: `max_num_batched_tokens`.
        requests: `max_num_seqs`.
    """

    tokens: int = 2048
    requests: int = 256


def in_flight(batch: Batch, shape: Shape) -> int:
    """Return the tokens that are computed and not yet settled at most.

    Source: vLLM 0.32, `VllmConfig.max_concurrent_batches`, with asynchronous scheduling.
    """
    return (shape.pipeline + 1) * batch.tokens


def default_batch(gpu: GpuGroup) -> Batch:
    """Return the engine's own limits of a step on a GPU.

    Source: vLLM 0.32, `EngineArgs.get_batch_defaults`, for the API server.
    """
    if gpu.memory_bytes >= 160 * GIB:
        return Batch(16384, 1024)
    if gpu.memory_bytes >= 70 * GIB and "a100" not in gpu.name.lower():
        return Batch(8192, 1024)
    return Batch()


def weights_per_gpu(weights_bytes: int, shape: Shape) -> int:
    """Return the bytes of weights on each GPU, all GPUs of a group holding the same."""
    if shape.gpus == 1:
        return weights_bytes
    return ceil(weights_bytes / shape.gpus * UNSHARED_WEIGHTS)


def reserve_per_gpu(model: Model, shape: Shape, batch: Batch, *, eager: bool) -> int:
    """Return an estimate of the bytes that computing takes on each GPU, rather too high.

    Libraries' workspaces, buffers of collectives, CUDA graphs, and the larger of what a step has
    at its two peaks: the widest layer's activations for its tokens, then sampling for its requests.

    Source: what vLLM measures, `Worker.determine_available_memory`, where it must run for it; since
    0.21 it counts graphs in.
    """
    graphs = 0 if eager else GRAPH_BYTES_PER_LAYER * ceil(model.layer_count / shape.pipeline)
    collectives = COLLECTIVES_BYTES if shape.tensor > 1 else 0
    sampling = batch.requests * model.vocab_size * LOGIT_BYTES
    peak = max(activations(model, shape, batch), sampling)
    return LIBRARIES_BYTES + collectives + peak + graphs


def beside_engine(layout: KvLayout) -> int:
    """Return the bytes that must stay free of the engine's share on each GPU."""
    return 2 * CONTEXT_BYTES + LMCACHE_CHUNKS * LMCACHE_CHUNK_TOKENS * layout.token_bytes()


def activations(model: Model, shape: Shape, batch: Batch) -> int:
    """Return the bytes of the widest layer's activations for a step's tokens, at FP16."""
    # Residual, normed input, output and one more of each; gate and up beside each other, twice.
    around = 4 * model.hidden_size
    inside = 4 * model.intermediate_size / shape.tensor
    if model.experts:
        cut = 1 if shape.expert else shape.tensor
        expert = model.hidden_size + 2 * model.expert_size / cut
        inside = max(inside, model.active_experts * expert)
    return ceil(batch.tokens * (around + inside) * FP16_BYTES)


@dataclass(frozen=True)
class KvLayout:
    """What requests keep on each GPU, or on all of them together.

    Attributes:
        per_token: bytes for each token of a request, however long it is.
        sliding: (window, bytes for each token of it) for every kind of sliding layers.
        fixed: bytes for a request of any length.
        slack: tokens in flight, which a sliding window holds beside its own.
        block: tokens that a block holds.
    """

    per_token: int
    sliding: tuple[tuple[int, int], ...] = ()
    fixed: int = 0
    slack: int = 0
    block: int = GPU_BLOCK

    def request_bytes(self, tokens: int) -> int:
        """Return the bytes that a request of so many tokens keeps, in whole blocks.

        Source: vLLM, `FullAttentionSpec` and `SlidingWindowSpec.max_admission_blocks_per_request`.
        """
        total = self.fixed + whole_blocks(tokens, self.block) * self.per_token
        for window, token_bytes in self.sliding:
            kept = min(window - 1 + self.slack, tokens)
            total += (whole_blocks(kept, self.block) + self.block) * token_bytes
        return total

    def token_bytes(self) -> int:
        """Return the bytes of one token in layers of all kinds, as LMCache's chunks hold it."""
        return self.per_token + sum(each for _, each in self.sliding)

    def longest(self, pool: int, limit: int) -> int:
        """Return the most tokens up to a limit that one request can keep in a pool of bytes."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.request_bytes(middle) <= pool else (low, middle - 1)
        return low

    def requests(self, pool: int, tokens: int) -> float:
        """Return how many requests of so many tokens a pool of bytes keeps at once."""
        return max(pool, 0) / self.request_bytes(tokens) if tokens else 0.0


def whole_blocks(tokens: int, block: int) -> int:
    """Return tokens rounded up to whole blocks."""
    return ceil(tokens / block) * block


def kv_layout(model: Model, shape: Shape, slack: int, block: int = GPU_BLOCK) -> KvLayout:
    """Return what requests keep on the fullest GPU.

    Args:
        model: the model.
        shape: how it is cut; each stage of a pipeline keeps the KV of its own layers.
        slack: tokens in flight, from `in_flight`.
        block: tokens that a block holds.

    Returns:
        The layout. Layers of several kinds draw blocks from one pool in groups of equal size, so
        that the last group of a kind is padded (vLLM, `_get_kv_cache_groups_uniform_page_size`).
    """
    full, sliding = model.only("full"), model.only("sliding")
    group = group_size([*full, *sliding])
    stages = shape.pipeline

    def kept(kinds: Iterable[Layers]) -> int:
        return sum(
            ceil(padded(kind.count, group) / stages) * kind.token_bytes(shape.tensor)
            for kind in kinds
        )

    states = STATES * sum(
        ceil(kind.count / stages) * ceil(kind.state_bytes / shape.tensor)
        for kind in model.only("state")
    )
    return KvLayout(
        per_token=kept(full),
        sliding=tuple((kind.window, kept([kind])) for kind in sliding),
        fixed=states,
        slack=slack,
        block=block,
    )


def group_size(kinds: list[Layers]) -> int:
    """Return how many layers share a table of blocks."""
    counts = [kind.count for kind in kinds]
    if len(counts) < 2:  # noqa: PLR2004
        return 1
    # The engine's own heuristic: little padding is better than many tables.
    return max(counts) if max(counts) < 1.5 * min(counts) else min(counts)


def padded(count: int, group: int) -> int:
    """Return a number of layers rounded up to whole groups."""
    return ceil(count / group) * group


def growing_bytes_per_token(model: Model) -> int:
    """Return the FP16 bytes that one more token of a long request takes, on all GPUs together.

    Only full-attention layers grow with tokens; heads that several GPUs repeat count once.
    """
    return sum(kind.count * kind.token_bytes() for kind in model.only("full"))
