"""Whether a GPU preset should race, by the speeds that its GPUs and its tiers have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import yaml
from infbox_cake.race import ON_GPU

from plugins.planner.presets import plan_preset

from ..scale.costs import (
    DISK_BYTES_PER_SECOND,
    GB,
    H100,
    PREFILL_PER_GPU,
    PRESETS,
    RAM_BYTES_PER_SECOND,
)
from .grid import CHUNK, as_built, settled
from .simulation import Speeds, bound, loaded

STEP_TOKENS = 8192
"""vLLM's own limit of a step on an H100; `default_batch` in plugins/planner/memory.py."""

RTX_4090 = {"name": "NVIDIA GeForce RTX 4090", "memory_mib": 24564}

RTX_4090_FLOPS = 165e12
"""In 16 bits, added up in 32, without sparsity: NVIDIA's own figure of what it can do at most."""

USED = 0.5
"""Assumed: the share of that which a prompt gets."""

HOSTS = {
    "dev24": (RTX_4090, 1, 7.6e9),
    "dev32": (RTX_4090, 1, 32.8e9),
    "moe24": (RTX_4090, 1, 3.3e9),
    "moe80": (H100, 1, 3.3e9),
    "air141": (H100, 2, 12e9),
    "prod480": (H100, 8, 35e9),
}
"""For each preset a GPU, how many, and the parameters that a token goes through."""

TIERS = {
    "one NVMe drive, 5 GB/s": DISK_BYTES_PER_SECOND,
    "four NVMe drives, 20 GB/s": 4 * DISK_BYTES_PER_SECOND,
    "network, 10 Gbit/s": 1.25 * GB,
    "network, 25 Gbit/s": 3.125 * GB,
    "network, 100 Gbit/s": 12.5 * GB,
    "RAM, 25 GB/s": RAM_BYTES_PER_SECOND,
}

RAM = "RAM, 25 GB/s"

WORTH_IT = 0.85
"""Cake's time in times of the better way alone, from which it counts as worth it."""


@dataclass(frozen=True)
class Row:
    """A preset and a tier; a whole pack comes from it. All times in seconds.

    Attributes:
        preset: its name.
        tier: where the pack's KV is.
        tokens: of the pack.
        kv_bytes: of a token.
        prefill: tokens computed a second.
        computed: of computing alone.
        loaded: of loading alone.
        raced: of Cake while nobody else is answered.
        crowded: of Cake while others' answers are written.
        bound: below which no meeting point leads; the copy from RAM is left out.
    """

    preset: str
    tier: str
    tokens: int
    kv_bytes: int
    prefill: float
    computed: float
    loaded: float
    raced: float
    crowded: float
    bound: float

    @property
    def ratio(self) -> float:
        """The tier's speed, in speeds of computing."""
        return TIERS[self.tier] / (self.prefill * self.kv_bytes)

    @property
    def gain(self) -> float:
        """Cake's time in times of the better way alone, while nobody else is answered."""
        return self.raced / min(self.computed, self.loaded)

    def json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        row = asdict(self)
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}


def prefill(gpu: dict[str, Any], gpus: int, active: float) -> float:
    """Return the tokens that a host computes a second.

    On an H100 by what was published, as docs/scale.md has it; on a small GPU by its arithmetic.
    """
    if gpu is H100:
        return PREFILL_PER_GPU * gpus / active
    return gpus * RTX_4090_FLOPS * USED / 2 / active


def rows() -> Iterator[Row]:
    """Yield every preset with every tier."""
    presets = yaml.safe_load(PRESETS.read_text())["_infbox_presets"]
    for name, (gpu, gpus, active) in HOSTS.items():
        plan = plan_preset(name, presets[name], [{**gpu, "count": gpus}])
        tokens = presets[name]["workspace_budget"] // CHUNK * CHUNK
        for tier in TIERS:
            speed = prefill(gpu, gpus, active)
            yield simulate(name, tier, tokens, plan["kv_bytes_per_token"], speed)


def simulate(preset: str, tier: str, tokens: int, kv_bytes: int, speed: float) -> Row:
    """Simulate a preset's pack that comes from a tier."""
    chunks = tokens // CHUNK
    load = TIERS[tier] / (kv_bytes * CHUNK)
    bare = Speeds(1 / speed, load, budget=STEP_TOKENS)
    speeds = as_built(bare, kv_bytes * CHUNK)
    in_ram = chunks / speeds.copy + speeds.handover
    raced, crowded = (
        # What is in RAM already is not raced for.
        in_ram if tier == RAM else settled(speeds, chunks, ON_GPU, is_crowded=is_crowded)
        for is_crowded in (False, True)
    )
    alone = in_ram if tier == RAM else loaded(speeds, chunks)
    computed = speeds.steps(0, tokens)
    limit = bound(bare, chunks, CHUNK)
    return Row(
        preset, tier, tokens, kv_bytes, speed, computed, alone, raced, crowded, limit
    )  # fmt: skip
