"""What of a model's config.json decides about memory: its kinds of layers, heads and context."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

from plugins.planner.errors import PlanError

Config = Mapping[str, Any]
Kind = Literal["full", "sliding", "state"]

FP16_BYTES = 2
FP32_BYTES = 4

# `model_type` of models whose layers are all of one kind, unless the config says otherwise.
PLAIN = frozenset(
    ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi3", "granite")
)
LATENT = frozenset(("deepseek_v2", "deepseek_v3", "kimi_k2"))
# Where a wrapper holds the language model's own config.
WRAPPERS = frozenset(("gemma3", "mistral3"))


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
        """Return the bytes that one layer keeps for a token on one card, at FP16.

        Heads are shared out among the cards; where there are more cards than heads, each card keeps
        one, so that it is there several times over. A latent (MLA) counts as one head.

        Source: vLLM, `ModelConfig.get_num_kv_heads` and `AttentionSpec.page_size_bytes`.
        """
        return ceil(self.kv_heads / tensor_parallel_size) * self.head_width * FP16_BYTES


@dataclass(frozen=True)
class Model:
    """What a plan needs to know of a model.

    Attributes:
        name: for messages.
        layers: its kinds of layers.
        context: tokens that it can take, position scaling counted in.
        hidden_size: width between the layers.
        intermediate_size: width inside a dense layer's MLP.
        heads: attention heads.
        vocab_size: entries of the vocabulary.
        experts: of each mixture-of-experts layer; 0 for a dense model.
        active_experts: of them, how many compute a token.
        expert_size: width inside an expert.
        quantization: `quant_method` of the weights; empty for 16 bits.
        weight_block: width of the blocks that share a scale, and so cannot be cut; 0 for none.
        exact: whether the KV was computed, not given by hand.
        kind: its `model_type`.
    """

    name: str
    layers: tuple[Layers, ...]
    context: int
    hidden_size: int
    intermediate_size: int
    heads: int
    vocab_size: int
    experts: int = 0
    active_experts: int = 0
    expert_size: int = 0
    quantization: str = ""
    weight_block: int = 0
    exact: bool = True
    kind: str = ""

    @property
    def layer_count(self) -> int:
        """Layers of every kind."""
        return sum(layers.count for layers in self.layers)

    def only(self, kind: Kind) -> tuple[Layers, ...]:
        """Return the layers of one kind."""
        return tuple(layers for layers in self.layers if layers.kind == kind)


def read_config(config: Config, name: str, kv_bytes_per_token: int = 0) -> Model:
    """Read a model's config.json.

    Args:
        config: the file's contents, or those of its entries that are read here.
        name: the repository, for messages.
        kv_bytes_per_token: FP16 bytes of KV for a token, by hand, for a model whose kind is not
            known here. Every card is then taken to keep all of it. 0 for none.

    Returns:
        The model.

    Raises:
        PlanError: the kind of model is not known, or an entry that is needed is missing or absurd.
    """
    text = config.get("text_config") if config.get("model_type") in WRAPPERS else config
    if not isinstance(text, Mapping):
        raise PlanError(f"The config of {name} has no text_config. Give one that has.")
    # A wrapper's quantization stands beside its text_config.
    text = {"quantization_config": config.get("quantization_config"), **text}
    read = (lambda *_: by_hand(kv_bytes_per_token)) if kv_bytes_per_token else reader(config, name)
    experts = optional(text, name, "num_experts", "num_local_experts", "n_routed_experts")
    return Model(
        name=name,
        layers=read(text, name),
        context=context(text, name),
        hidden_size=number(text, name, "hidden_size", "n_embd"),
        intermediate_size=optional(text, name, "intermediate_size", "n_inner")
        or 4 * number(text, name, "hidden_size", "n_embd"),
        heads=heads(text, name),
        vocab_size=number(text, name, "vocab_size"),
        experts=experts,
        active_experts=optional(text, name, "num_experts_per_tok", "experts_per_token"),
        expert_size=optional(text, name, "moe_intermediate_size", "intermediate_size")
        if experts
        else 0,
        quantization=quantization(text),
        weight_block=weight_block(text),
        exact=not kv_bytes_per_token,
        kind=str(text.get("model_type", "")),
    )


def reader(config: Config, name: str) -> Callable[[Config, str], tuple[Layers, ...]]:
    """Return what reads the layers of this kind of model."""
    kind = config.get("model_type")
    if kind in PLAIN or kind == "mistral3":
        return plain_layers
    if kind in LATENT:
        return latent_layers
    known: dict[Any, Callable[[Config, str], tuple[Layers, ...]]] = {
        "gemma2": gemma2_layers,
        "gemma3": gemma3_layers,
        "gemma3_text": gemma3_layers,
        "gpt_bigcode": bigcode_layers,
        "gpt_oss": gpt_oss_layers,
        "qwen3_next": qwen3_next_layers,
    }
    if kind in known:
        return known[kind]
    raise PlanError(
        f"The planner does not know models of the kind {kind!r} ({name}). Look up how much KV one"
        " token takes and give it as kv_bytes_per_token in the preset's model."
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

    Bytes a token = layers * (kv_lora_rank + qk_rope_head_dim) * 2, on every card of a
    tensor-parallel group, since there is nothing to share out.

    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1; vLLM, `MLAAttentionSpec`.
    """
    width = number(config, name, "kv_lora_rank") + number(config, name, "qk_rope_head_dim")
    return (Layers("full", layer_count(config, name), 1, width),)


def bigcode_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read StarCoder: one KV head for all (multi-query attention), unless switched off.

    Source: transformers, `GPTBigCodeConfig`; Shazeer, arXiv:1911.02150.
    """
    kv_heads = 1 if config.get("multi_query", True) else heads(config, name)
    return (Layers("full", layer_count(config, name), kv_heads, 2 * head_dim(config, name)),)


def qwen3_next_layers(config: Config, name: str) -> tuple[Layers, ...]:
    """Read Qwen3-Next: linear attention with a state of fixed size, and every fourth layer full.

    A linear layer keeps, for a request and not for a token, a matrix of key dim * value dim for
    each value head, in FP32 at worst, and the last inputs of its convolution.

    Source: vLLM, `MambaStateShapeCalculator.gated_delta_net_state_shape`; transformers,
    `Qwen3NextConfig`.
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


def by_hand(kv_bytes_per_token: int) -> tuple[Layers, ...]:
    """Return layers that keep what was given by hand, all of it on every card."""
    if kv_bytes_per_token < FP16_BYTES:
        raise PlanError(
            f"kv_bytes_per_token is {kv_bytes_per_token}, which no model has. Give the bytes of KV"
            " that one token takes at FP16."
        )
    return (Layers("full", 1, 1, ceil(kv_bytes_per_token / FP16_BYTES)),)


def context(config: Config, name: str) -> int:
    """Return the tokens that a model can take.

    Scaled positions lengthen it, except where max_position_embeddings counts them in already.

    Source: vLLM, `_get_and_verify_max_len`.
    """
    positions = number(config, name, "max_position_embeddings", "n_positions")
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("default", "llama3", "longrope", "su", "mrope"):
        return positions
    if str(config.get("model_type", "")).startswith("gemma3"):
        return positions
    factor = float(scaling.get("factor", 1))
    if kind == "yarn":
        return int(scaling.get("original_max_position_embeddings", positions) * factor)
    return int(positions * factor)


def quantization(config: Config) -> str:
    """Return how the weights are quantized; empty for 16 bits."""
    found = config.get("quantization_config")
    return str(found.get("quant_method", "")) if isinstance(found, Mapping) else ""


def weight_block(config: Config) -> int:
    """Return the width of blocks of weights that share a scale, 0 for none."""
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return 0
    block = found.get("weight_block_size")
    return int(block[0]) if isinstance(block, list) and block else 0


def layer_count(config: Config, name: str) -> int:
    """Return the number of layers."""
    return number(config, name, "num_hidden_layers", "n_layer")


def heads(config: Config, name: str) -> int:
    """Return the number of attention heads."""
    return number(config, name, "num_attention_heads", "n_head")


def head_dim(config: Config, name: str) -> int:
    """Return the width of a head: as given, else the hidden size shared out."""
    return optional(config, name, "head_dim") or number(
        config, name, "hidden_size", "n_embd"
    ) // heads(config, name)


def number(config: Config, name: str, *keys: str) -> int:
    """Return the first of `keys` that the config has.

    Raises:
        PlanError: there is none, or it is no whole number above 0.
    """
    value = optional(config, name, *keys)
    if not value:
        raise PlanError(f"The config of {name} lacks {keys[0]}. Give it.")
    return value


def optional(config: Config, name: str, *keys: str) -> int:
    """Return the first of `keys` that the config has, or 0.

    Raises:
        PlanError: it is no whole number above 0.
    """
    key = next((key for key in keys if config.get(key) is not None), None)
    if key is None:
        return 0
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise PlanError(f"The config of {name} has {key}: {value!r}. Give a whole number above 0.")
    return value
