"""The layers of every kind of model that is known here, by what each keeps for a request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Literal

from plugins.planner.errors import PlanError
from plugins.planner.fields import (
    Config,
    context,
    head_dim,
    heads,
    layer_count,
    number,
    optional,
)

Kind = Literal["full", "sliding", "state"]
Reader = Callable[[Config, str], tuple["Layers", ...]]

FP16_BYTES = 2
FP32_BYTES = 4

# `model_type` of models whose layers are all of one kind, unless the config says otherwise.
PLAIN = frozenset(
    (
        "llama", "mistral", "mistral3", "mixtral", "ministral3", "granite", "granitemoe", "phi3",
        "seed_oss", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_text",
        "qwen3_vl_moe", "qwen3_vl_moe_text", "glm4", "glm4_moe", "minimax_m2", "mimo", "ernie4_5",
        "ernie4_5_moe", "smollm3", "olmo2", "olmo3", "cohere2", "exaone4", "hunyuan_v1_dense",
        "hunyuan_v1_moe",
    )
)  # fmt: skip
# Multi-head latent attention. Source: vLLM 0.32, `ModelArchConfigConvertorBase.is_deepseek_mla`.
LATENT = frozenset(
    ("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm4_moe_lite", "glm_moe_dsa")
)
# FP8 values of a sparse attention's index that share a scale of 4 bytes.
INDEX_BLOCK = 128
# Which of their layers slide is known by their own layer_types alone.
WITH_TYPES = frozenset(("olmo3", "cohere2", "exaone4"))


@dataclass(frozen=True)
class Layers:
    """Layers of a model that keep the same for a request.

    Attributes:
        kind: `full` keeps every token, `sliding` the last ones, `state` a fixed size.
        count: how many such layers there are.
        kv_heads: heads whose keys and values are kept; 0 for `state`.
        head_width: numbers kept for each such head and token, keys and values together.
        window: tokens that a `sliding` layer keeps.
        state_bytes: bytes that a `state` layer keeps for a request.
    """

    kind: Kind
    count: int
    kv_heads: int = 0
    head_width: int = 0
    window: int = 0
    state_bytes: int = 0

    def token_bytes(self, tensor_parallel_size: int = 1) -> int:
        """Return the bytes that one layer keeps for a token on one GPU, at FP16.

        Heads are shared out among the GPUs; where there are more GPUs than heads, each GPU keeps
        one, so that it is there several times over. A latent (MLA) counts as one head.

        Source: vLLM, `ModelConfig.get_num_kv_heads` and `AttentionSpec.page_size_bytes`.
        """
        return ceil(self.kv_heads / tensor_parallel_size) * self.head_width * FP16_BYTES


def reader(config: Config, name: str) -> Reader:
    """Return what reads the layers of this kind of model.

    Args:
        config: from `text_config`.
        name: the repository, for messages.

    Raises:
        PlanError: the kind is not known; the message says what to give instead.
    """
    kind = config.get("model_type")
    if kind in PLAIN and not (kind in WITH_TYPES and "layer_types" not in config):
        return plain_layers
    if kind in LATENT:
        return latent_layers
    known: dict[object, Reader] = {
        "gemma2": gemma2_layers,
        "gemma3": gemma3_layers,
        "gemma3_text": gemma3_layers,
        "gemma4": gemma4_layers,
        "gemma4_text": gemma4_layers,
        "gpt_bigcode": bigcode_layers,
        "gpt_oss": gpt_oss_layers,
        "granitemoehybrid": granite_hybrid_layers,
        "llama4": llama4_layers,
        "llama4_text": llama4_layers,
        "mimo_v2_flash": mimo_v2_layers,
        "nemotron_h": nemotron_h_layers,
        "qwen3_next": linear_layers,
        "qwen3_5": linear_layers,
        "qwen3_5_text": linear_layers,
        "qwen3_5_moe": linear_layers,
        "qwen3_5_moe_text": linear_layers,
    }
    if kind in known:
        return known[kind]
    raise PlanError(
        f"The planner does not know models of the kind {kind!r} ({name}). Look up how many bytes of"
        " KV one token takes in 16 bits, on all layers together, and give them as"
        " kv_bytes_per_token beside config in the preset's model."
    )


def plain_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read layers with keys and values for each KV head: MHA, GQA and MQA alike.

    Bytes a token = 2 * layers * KV heads * head dim * 2. Experts (MoE) change nothing about it,
    since they replace the MLP only.

    Source: vLLM, `FullAttentionSpec.page_size_bytes`; Ainslie et al., GQA, arXiv:2305.13245.
    """
    return by_types(config, name, ["full_attention"] * layer_count(config, name))


def gemma2_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read Gemma 2: a sliding layer and a full one by turns.

    Source: transformers, `Gemma2Config.layer_types`; Gemma 2 report, arXiv:2408.00118.
    """
    count = layer_count(config, name)
    pattern = ["full_attention" if i % 2 else "sliding_attention" for i in range(count)]
    return by_types(config, name, pattern)


def gemma3_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read Gemma 3: five sliding layers, then a full one.

    Source: transformers, `Gemma3TextConfig.layer_types`; Gemma 3 report, arXiv:2503.19786.
    """
    every = optional(config, name, "sliding_window_pattern") or 6
    count = layer_count(config, name)
    pattern = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(count)]
    return by_types(config, name, pattern)


def gpt_oss_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read gpt-oss: a sliding layer and a full one by turns, the sliding one first.

    Source: transformers, `GptOssConfig.layer_types`; gpt-oss model card, arXiv:2508.10925.
    """
    count = layer_count(config, name)
    pattern = ["sliding_attention" if (i + 1) % 2 else "full_attention" for i in range(count)]
    return by_types(config, name, pattern)


def by_types(config: Config, name: str, pattern: list[str]) -> tuple[Layers, ...]:
    """Count layers by their kind; the config's own `layer_types` wins over the pattern."""
    window = optional(config, name, "sliding_window")
    # Qwen writes a window and then switches it off.
    slides = bool(window) and config.get("use_sliding_window", True) is True
    given = config.get("layer_types")
    if isinstance(given, list):
        pattern = given
        if len(given) != layer_count(config, name):
            raise PlanError(
                f"The config of {name} has {len(given)} layer_types for"
                f" {layer_count(config, name)} layers. Give as many as there are."
            )
    elif slides and set(pattern) == {"full_attention"}:
        # Mistral 7B v0.1 and its like: every layer slides.
        pattern = ["sliding_attention"] * len(pattern)
    counts = Counter(pattern)
    unknown = set(counts) - {"full_attention", "sliding_attention"}
    if unknown:
        raise PlanError(
            f"The planner does not know layers of the kind {', '.join(sorted(unknown))} ({name})."
            " Give kv_bytes_per_token in the preset's model."
        )
    kv_heads = optional(config, name, "num_key_value_heads") or heads(config, name)
    width = 2 * head_dim(config, name)
    full, sliding = counts["full_attention"], counts["sliding_attention"]
    if not slides or window >= context(config, name):
        # A window that no request outgrows is none.
        full, sliding = full + sliding, 0
    kinds = (
        Layers("full", full, kv_heads, width),
        Layers("sliding", sliding, kv_heads, width, window=window),
    )
    return tuple(layers for layers in kinds if layers.count)


def latent_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read multi-head latent attention: one compressed vector and one rotary key a token.

    Bytes a token = layers * (kv_lora_rank + qk_rope_head_dim) * 2, on every GPU of a
    tensor-parallel group, since there is nothing to share out. Sparse ones (DeepSeek-V3.2, GLM-5)
    keep an index beside it: index_head_dim bytes and 4 for each 128 of them, in those layers that
    choose tokens for themselves.

    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1; vLLM 0.32, `MLAAttentionSpec`,
    `DeepseekV32IndexerCache` and `DeepseekV2MLAAttention` (which layers have an index).
    """
    count = layer_count(config, name)
    width = number(config, name, "kv_lora_rank") + number(config, name, "qk_rope_head_dim")
    latent = Layers("full", count, 1, width)
    if not optional(config, name, "index_topk"):
        return (latent,)
    values = number(config, name, "index_head_dim")
    index_bytes = values + values // INDEX_BLOCK * 4
    return latent, Layers("full", indexed(config, name), 1, ceil(index_bytes / FP16_BYTES))


def indexed(config: Config, name: str) -> int:
    """Return how many layers of sparse attention have an index of their own."""
    count, pattern = layer_count(config, name), config.get("index_topk_pattern")
    if isinstance(pattern, str | list):
        return count - list(pattern[:count]).count("S")
    every = optional(config, name, "index_topk_freq") or 1
    offset = optional(config, name, "index_skip_topk_offset") or 2
    return sum(max(layer - offset + 1, 0) % every == 0 for layer in range(count))


def bigcode_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read StarCoder: one KV head for all (multi-query attention), unless switched off.

    Source: transformers, `GPTBigCodeConfig`; Shazeer, arXiv:1911.02150.
    """
    kv_heads = 1 if config.get("multi_query", True) else heads(config, name)
    return (Layers("full", layer_count(config, name), kv_heads, 2 * head_dim(config, name)),)


def linear_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read Qwen3-Next and Qwen3.5 to 3.8: linear attention, and every fourth layer full.

    A linear layer keeps a state for a request, however long: a matrix of key dim * value dim for
    each value head, in FP32 at worst, and the last inputs of its convolution.

    Source: vLLM, `MambaStateShapeCalculator.gated_delta_net_state_shape`; transformers,
    `Qwen3NextConfig`, `Qwen3_5TextConfig`.
    """
    every = optional(config, name, "full_attention_interval") or 4
    count = layer_count(config, name)
    given = config.get("layer_types")
    full = given.count("full_attention") if isinstance(given, list) else count // every
    key_heads = number(config, name, "linear_num_key_heads")
    value_heads = number(config, name, "linear_num_value_heads")
    key_dim = number(config, name, "linear_key_head_dim")
    value_dim = number(config, name, "linear_value_head_dim")
    kernel = number(config, name, "linear_conv_kernel_dim")
    convolved = 2 * key_heads * key_dim + value_heads * value_dim
    state = value_heads * key_dim * value_dim * FP32_BYTES + convolved * (kernel - 1) * FP16_BYTES
    return (
        Layers("full", full, number(config, name, "num_key_value_heads"),
               2 * head_dim(config, name)),
        Layers("state", count - full, state_bytes=state),
    )  # fmt: skip


def llama4_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read Llama 4: three layers that attend within chunks of 8,192 tokens, then a full one.

    All of them keep every token: the engine leaves its manager of several kinds of layers off for
    chunks, unless told otherwise, and without it every layer has the blocks of a full one.

    Source: vLLM 0.32, `VllmConfig.__post_init__` (attention_chunk_size) and
    `_promote_local_kv_cache_specs`.
    """
    width = 2 * head_dim(config, name)
    kv_heads = number(config, name, "num_key_value_heads")
    return (Layers("full", layer_count(config, name), kv_heads, width),)


def gemma4_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read Gemma 4: its full layers have heads of another width and number than the sliding ones.

    Layers at the end may keep nothing and read an earlier layer's KV.

    Source: vLLM 0.32, `Gemma4Attention`; transformers, `Gemma4TextConfig`.
    """
    count = layer_count(config, name)
    own = count - optional(config, name, "num_kv_shared_layers")
    given = config.get("layer_types")
    if not isinstance(given, list) or len(given) != count:
        raise PlanError(f"The config of {name} lacks layer_types, one for each layer. Give them.")
    full = given[:own].count("full_attention")
    kv_heads = number(config, name, "num_key_value_heads")
    global_heads = optional(config, name, "num_global_key_value_heads") or kv_heads
    width = optional(config, name, "global_head_dim") or head_dim(config, name)
    kinds = (
        Layers("full", full, global_heads, 2 * width),
        Layers("sliding", own - full, kv_heads, 2 * head_dim(config, name),
               window=number(config, name, "sliding_window")),
    )  # fmt: skip
    return tuple(layers for layers in kinds if layers.count)


def mimo_v2_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read MiMo-V2: keys wider than values, and heads of another number in sliding layers.

    Source: vLLM 0.32, `MiMoV2Attention` and `AttentionSpec.head_size_v`.
    """
    pattern = config.get("hybrid_layer_pattern")
    count = layer_count(config, name)
    if not isinstance(pattern, list) or len(pattern) != count:
        raise PlanError(f"The config of {name} lacks hybrid_layer_pattern. Give it.")
    sliding = sum(1 for each in pattern if each)
    return (
        Layers("full", count - sliding, number(config, name, "num_key_value_heads"),
               number(config, name, "head_dim") + number(config, name, "v_head_dim")),
        Layers("sliding", sliding, number(config, name, "swa_num_key_value_heads"),
               number(config, name, "swa_head_dim") + number(config, name, "swa_v_head_dim"),
               window=number(config, name, "sliding_window")),
    )  # fmt: skip


def nemotron_h_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read Nemotron-H and Nemotron 3: Mamba 2 with a few layers of attention.

    Source: transformers and vLLM 0.32, `NemotronHConfig`: M is Mamba, * attention, - and E an MLP.
    """
    pattern = config.get("hybrid_override_pattern") or config.get("layers_block_type") or []
    count = Counter(pattern)
    state = mamba2_state(
        inner=number(config, name, "mamba_num_heads") * number(config, name, "mamba_head_dim"),
        groups=number(config, name, "n_groups"),
        size=number(config, name, "ssm_state_size"),
        kernel=number(config, name, "conv_kernel"),
    )
    return attention_and_states(
        config, name, count["*"] + count["attention"], count["M"] + count["mamba"], state
    )


def granite_hybrid_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read Granite 4: Mamba 2 with a few layers of attention, or attention alone.

    Source: transformers, `GraniteMoeHybridConfig`; vLLM 0.32, `GraniteMoeHybridForCausalLM`.
    """
    count = Counter(config.get("layer_types") or [])
    if not count:
        raise PlanError(f"The config of {name} lacks layer_types. Give them.")
    state = 0
    if count["mamba"]:
        expand = optional(config, name, "mamba_expand") or 2
        state = mamba2_state(
            inner=expand * number(config, name, "hidden_size"),
            groups=optional(config, name, "mamba_n_groups") or 1,
            size=number(config, name, "mamba_d_state"),
            kernel=number(config, name, "mamba_d_conv"),
        )
    return attention_and_states(config, name, count["attention"], count["mamba"], state)


def mamba2_state(inner: int, groups: int, size: int, kernel: int) -> int:
    """Return the bytes that a Mamba 2 layer keeps for a request, its state in FP32 at worst.

    Source: vLLM 0.32, `MambaStateShapeCalculator.mamba2_state_shape`.
    """
    convolved = inner + 2 * groups * size
    return inner * size * FP32_BYTES + convolved * (kernel - 1) * FP16_BYTES


def attention_and_states(
    config: Config, name: str, full: int, mamba: int, state: int
) -> tuple[Layers, ...]:
    """Return layers of attention beside those with a state."""
    kv_heads = optional(config, name, "num_key_value_heads") or heads(config, name)
    kinds = (
        Layers("full", full, kv_heads, 2 * head_dim(config, name)),
        Layers("state", mamba, state_bytes=state),
    )
    return tuple(layers for layers in kinds if layers.count)
