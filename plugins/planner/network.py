"""What hosts that share a model send each other, and how fast their network lets them compute."""

from __future__ import annotations

from plugins.planner.layers import FP16_BYTES
from plugins.planner.memory import Shape
from plugins.planner.model import Model

# Sums over all GPUs in each layer: one after attention, one after the MLP or the experts.
# Source: vLLM, `RowParallelLinear` and `FusedMoE`, which reduce their results.
SUMS_PER_LAYER = 2
BITS = 8
GIGA = 1_000_000_000
# Below this a pack of 100,000 tokens takes longer than 50 s whatever the GPUs can do.
SLOW_TOKENS_PER_SECOND = 2000


def bytes_per_token(model: Model, shape: Shape) -> int:
    """Return the bytes that each token of a prompt moves from a host to the next one.

    The estimate is for a ring through all GPUs, which sends 2 (n - 1) / n of each sum over every
    edge. It is rather too high: trees send less, half of it at best, and a network adapter for
    each GPU would add to the bandwidth.
    """
    share = 2 * (shape.tensor - 1) / shape.tensor
    return int(model.layer_count * SUMS_PER_LAYER * model.hidden_size * FP16_BYTES * share)


def network_note(model: Model, shape: Shape, gbit: float) -> str:
    """Return what the network between hosts lets through, and a warning where that is slow.

    Args:
        model: that the hosts share.
        shape: how it is cut.
        gbit: of the network between them, in Gbit/s each way; 0 if it is not known.
    """
    moved = bytes_per_token(model, shape)
    minimum = SLOW_TOKENS_PER_SECOND * moved * BITS / GIGA
    each = f"Each token of a prompt moves {moved / 1e6:.2f} MB from host to host"
    if not gbit:
        return (
            f"{each}. The speed of their network is unknown; below {minimum:.3g} Gbit/s prompts"
            " will be slow. Set infbox_model_group_gbit."
        )
    tokens = gbit * GIGA / BITS / moved
    through = f"{each}: {gbit:g} Gbit/s allow at most {tokens:,.0f} tokens a second"
    if tokens >= SLOW_TOKENS_PER_SECOND:
        return f"{through}."
    return (
        f"{through}, which is slow. WARNING: connect the hosts with {minimum:.3g} Gbit/s or more,"
        " or use one host that can hold the model."
    )
