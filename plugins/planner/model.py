"""What of a model's config.json decides about memory: its kinds of layers, heads and context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from plugins.planner.errors import PlanError
from plugins.planner.fields import (
    Config,
    context,
    heads,
    layer_count,
    number,
    optional,
    text_config,
)
from plugins.planner.layers import FP16_BYTES, Kind, Layers, reader


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
        depth: layers of the network, whatever each keeps.
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
    depth: int = 0

    @property
    def layer_count(self) -> int:
        """Layers of the network: one may keep KV and an index, or nothing."""
        return self.depth or sum(layers.count for layers in self.layers)

    def only(self, kind: Kind) -> tuple[Layers, ...]:
        """Return the layers of one kind."""
        return tuple(layers for layers in self.layers if layers.kind == kind)


def read_config(config: Config, name: str, kv_bytes_per_token: int = 0) -> Model:
    """Read a model's config.json.

    Args:
        config: the file's contents, or those of its entries that are read here.
        name: the repository, for messages.
        kv_bytes_per_token: FP16 bytes of KV for a token, by hand, for a model whose kind is not
            known here. Every GPU is then taken to keep all of it. 0 for none.

    Returns:
        The model.

    Raises:
        PlanError: the kind of model is not known, or an entry that is needed is missing or absurd.
    """
    text = text_config(config)
    read = (lambda *_: by_hand(kv_bytes_per_token)) if kv_bytes_per_token else reader(text, name)
    experts = optional(text, name, "num_experts", "num_local_experts", "n_routed_experts")
    width = optional(text, name, "intermediate_size_mlp", "intermediate_size", "n_inner")
    active = ("num_experts_per_tok", "top_k_experts", "experts_per_token")
    return Model(
        name=name,
        layers=read(text, name),
        context=context(text, name),
        hidden_size=number(text, name, "hidden_size", "n_embd"),
        intermediate_size=width or 4 * number(text, name, "hidden_size", "n_embd"),
        heads=heads(text, name),
        vocab_size=number(text, name, "vocab_size"),
        experts=experts,
        active_experts=optional(text, name, *active),
        expert_size=optional(text, name, "moe_intermediate_size", "intermediate_size")
        if experts
        else 0,
        quantization=quantization(text),
        weight_block=weight_block(text),
        exact=not kv_bytes_per_token,
        kind=str(text.get("model_type", "")),
        depth=depth(text, name),
    )


def depth(config: Config, name: str) -> int:
    """Return the number of layers, by a list of their kinds where the config has no number."""
    kinds = config.get("layers_block_type")
    return len(kinds) if isinstance(kinds, list) and kinds else layer_count(config, name)


def by_hand(kv_bytes_per_token: int) -> tuple[Layers, ...]:
    """Return layers that keep what was given by hand, all of it on every GPU."""
    if kv_bytes_per_token < FP16_BYTES:
        raise PlanError(
            f"kv_bytes_per_token is {kv_bytes_per_token}, which no model has. Give the bytes of KV"
            " that one token takes at FP16."
        )
    return (Layers("full", 1, 1, ceil(kv_bytes_per_token / FP16_BYTES)),)


def quantization(config: Config) -> str:
    """Return how the weights are quantized; empty for 16 bits."""
    found = config.get("quantization_config")
    return str(found.get("quant_method", "")) if isinstance(found, Mapping) else ""


def weight_block(config: Config) -> int:
    """Return the width of blocks of weights that share a scale, 0 for none.

    Source: vLLM 0.32, `weight_block_size` of FP8, `group_size` of AWQ and GPTQ, and the groups of
    compressed-tensors.
    """
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return 0
    block = found.get("weight_block_size")
    if isinstance(block, list) and block:
        return int(block[0])
    groups = found.get("config_groups")
    weights = [
        each["weights"]
        for each in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(each, Mapping) and isinstance(each.get("weights"), Mapping)
    ]
    sizes = [found.get("group_size"), *(each.get("group_size") for each in weights)]
    return max((size for size in sizes if isinstance(size, int) and size > 0), default=0)
