"""What a host can do, by its preset, and what people do. docs/scale.md says from where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from plugins.planner.presets import plan_preset

PRESETS = Path(__file__).parents[2] / "group_vars/all/presets.yml"
GB = 1e9
H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_mib": 81559}

# Published for Qwen3-235B-A22B in FP8 with vLLM on four H100, and taken over by the parameters that
# a token goes through: 15,366 tokens/s of prompts of 32,000; of ShareGPT's, 194,148 tokens written
# and 214,381 read in 52.46 s, from which reading at 16,479 tokens/s is taken off.
PREFILL_PER_GPU = 15_366 * 22e9 / 4
DECODE_PER_GPU = 194_148 / (52.46 - 214_381 / 16_479) * 22e9 / 4

# Assumed: half of what PCIe 5 with 16 lanes carries, and one NVMe drive.
RAM_BYTES_PER_SECOND = 25 * GB
DISK_BYTES_PER_SECOND = 5 * GB

# Parameters that a token goes through, by the model cards.
ACTIVE = {"moe80": 3.3e9, "prod480": 35e9}
GPUS = {"moe80": 1, "prod480": 8}


@dataclass(frozen=True)
class Costs:
    """What a host can do.

    Attributes:
        prefill: tokens that it reads, a second.
        decode: tokens that it writes, a second, in all answers together.
        kv_bytes: of a token.
        pack_tokens: of a workspace.
        gpu_bytes: for KV on the GPUs.
        ram_bytes: for KV in main memory.
        disk_bytes: for KV on disk.
        ram_speed: bytes that come from main memory, a second.
        disk_speed: bytes that come from disk, a second.
    """

    prefill: float
    decode: float
    kv_bytes: int
    pack_tokens: int
    gpu_bytes: float
    ram_bytes: float
    disk_bytes: float
    ram_speed: float = RAM_BYTES_PER_SECOND
    disk_speed: float = DISK_BYTES_PER_SECOND

    @property
    def pack_bytes(self) -> int:
        """Bytes of a workspace's KV."""
        return self.pack_tokens * self.kv_bytes

    @property
    def pack_seconds(self) -> float:
        """What computing a pack takes."""
        return self.pack_tokens / self.prefill

    def question_seconds(self, work: Work) -> float:
        """Return what a question takes whose pack is there, its answer included."""
        return work.question_tokens / self.prefill + work.answer_tokens / self.decode


@dataclass(frozen=True)
class Work:
    """What people do, in an hour of work.

    Attributes:
        developers: people.
        per_workspace: of them share one.
        questions: that each asks.
        saves: that each makes.
        question_tokens: of a question that no cache holds.
        answer_tokens: of an answer.
        tail_tokens: that a save has computed anew.
        skew: how uneven workspaces are used: the k-th by 1/k to this power; 0 for all alike.
    """

    developers: int
    per_workspace: int = 20
    questions: float = 20
    saves: float = 20
    question_tokens: int = 2000
    answer_tokens: int = 400
    # The mean over the saves of twelve histories, next generations counted in: bench/README.md.
    tail_tokens: int = 1054
    skew: float = 0.7

    @property
    def workspaces(self) -> int:
        """Number of workspaces."""
        return max(1, self.developers // self.per_workspace)


def preset_costs(name: str) -> Costs:
    """Return what a host with a preset can do: memory by the planner, speed by what was published.

    Args:
        name: of the preset, `moe80` or `prod480`.
    """
    preset: dict[str, Any] = yaml.safe_load(PRESETS.read_text())["_infbox_presets"][name]
    gpus = GPUS[name]
    plan = plan_preset(name, preset, [{**H100, "count": gpus}])
    return Costs(
        prefill=PREFILL_PER_GPU * gpus / ACTIVE[name],
        decode=DECODE_PER_GPU * gpus / ACTIVE[name],
        kv_bytes=plan["kv_bytes_per_token"],
        pack_tokens=preset["workspace_budget"],
        gpu_bytes=plan["kv_tokens"] * plan["kv_bytes_per_token"],
        ram_bytes=preset["lmcache"]["l1_size_gb"] * GB,
        disk_bytes=preset["lmcache"]["l2_size_gb"] * GB,
    )
