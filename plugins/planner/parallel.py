"""Whether a model can be cut into so many parts."""

from __future__ import annotations

from math import ceil

from plugins.planner.memory import Shape
from plugins.planner.model import Model

VOCABULARY_PADDING = 64


def shape_refusals(model: Model, shape: Shape) -> list[str]:
    """Return why a model cannot be cut so.

    Sources: vLLM, `ModelConfig.verify_with_parallel_config` (heads), `QKVParallelLinear` (KV heads
    are shared out or repeated, never both), `VocabParallelEmbedding` (padded to 64),
    `Fp8MoEMethod.create_weights` (a block of weights with one scale cannot be cut).
    """
    refusals = [head_refusal(model, shape.tensor), *kv_head_refusals(model, shape.tensor)]
    vocabulary = ceil(model.vocab_size / VOCABULARY_PADDING) * VOCABULARY_PADDING
    if vocabulary % shape.tensor:
        refusals.append(
            f"{model.name}'s vocabulary of {vocabulary} cannot be shared out among {shape.tensor}"
            " GPUs."
        )
    refusals.append(width_refusal(model, shape))
    if shape.pipeline > model.layer_count:
        refusals.append(f"{model.name} has {model.layer_count} layers for {shape.pipeline} stages.")
    if shape.expert and not model.experts:
        refusals.append(f"{model.name} has no experts to share out: leave expert_parallel out.")
    return [refusal for refusal in refusals if refusal]


def head_refusal(model: Model, tensor: int) -> str:
    """Return why attention heads cannot be shared out; empty where they can."""
    if model.heads % tensor == 0:
        return ""
    return f"{model.name}'s {model.heads} attention heads cannot be shared out among {tensor} GPUs."


def kv_head_refusals(model: Model, tensor: int) -> list[str]:
    """Return why KV heads can neither be shared out nor repeated evenly."""
    counts = {kind.kv_heads for kind in model.layers if kind.kv_heads}
    return [
        f"{model.name}'s {count} KV heads can be neither shared out nor repeated evenly among"
        f" {tensor} GPUs."
        for count in sorted(counts)
        if max(count, tensor) % min(count, tensor)
    ]


def width_refusal(model: Model, shape: Shape) -> str:
    """Return why the MLP cannot be cut; empty where it can."""
    cut_experts = bool(model.experts) and not shape.expert
    width = model.expert_size if model.experts else model.intermediate_size
    if model.experts and not cut_experts:
        return ""
    part, rest = divmod(width, shape.tensor)
    if rest:
        return f"{model.name}'s MLP of {width} cannot be shared out among {shape.tensor} GPUs."
    if model.weight_block and part % model.weight_block:
        fix = " Set expert_parallel, which shares experts out whole." if cut_experts else ""
        return (
            f"{model.name}'s {'experts' if cut_experts else 'MLP'} of {width} would be cut into"
            f" {shape.tensor} parts of {part}, across blocks of {model.weight_block} weights that"
            f" share a scale.{fix}"
        )
    return ""


def widths(model: Model, most: int, *, expert: bool = False) -> list[int]:
    """Return the numbers of GPUs, up to a most, among which a model's layers can be shared out."""
    return [n for n in range(1, most + 1) if not shape_refusals(model, Shape(n, expert=expert))]
