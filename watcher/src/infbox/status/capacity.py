"""The KV cache that was planned for the engine beside the one that it reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infbox.status.exposition import Exposition

METRIC = "vllm:cache_config_info"
"""Carries the engine's cache settings as labels; its value is always 1."""

_TOLERANCE = 0.01
"""The plan counts bytes and the engine whole blocks, so that a little less means nothing."""

_MOST_DIGITS = 15


def reported_tokens(exposed: Exposition) -> int | None:
    """Return the tokens of KV that an engine reports; None where it does not.

    Several engines behind one address each report their own, and the smallest counts. A product of
    blocks and their size is right only for models whose layers all keep KV alike, so it stands in
    for engines that do not report tokens.

    Args:
        exposed: with the samples of ``METRIC``.
    """
    counts = [
        _whole(sample.labels, "kv_cache_size_tokens")
        or _whole(sample.labels, "num_gpu_blocks") * _whole(sample.labels, "block_size")
        for sample in exposed.samples
        if sample.name == METRIC
    ]
    return min(filter(None, counts), default=None)


def capacity(planned: int, reported: int | None, note: str = "") -> dict[str, Any]:
    """Return the planned and the reported KV cache, as the status has them.

    Args:
        planned: tokens; 0 where nothing was planned.
        reported: tokens; None where the engine has not reported any.
        note: about the plan itself; empty for none.
    """
    notes = [note] if note else []
    if reported is not None and reported < planned * (1 - _TOLERANCE):
        notes.append(
            f"vLLM reports a KV cache of {reported:,} tokens, {1 - reported / planned:.0%} less"
            f" than the {planned:,} that were planned: fewer requests fit at once, and the others"
            " wait. Look for other programs on the GPUs, or plan with less:"
            " docs/presets.md#plan-and-reality."
        )
    return {"planned_tokens": planned or None, "tokens": reported, "notes": notes}


def _whole(labels: Mapping[str, str], name: str) -> int:
    """Return a label's whole number; 0 where it holds none."""
    text = labels.get(name, "")
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if is_number else 0
