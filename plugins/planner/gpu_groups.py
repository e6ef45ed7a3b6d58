"""The GPUs of a host, and what the engine can compute on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plugins.planner.errors import PlanError

MIB = 1024**2
MIN_CAPABILITY = 75
FP8_CAPABILITY = 89

# The memory that nvidia-smi reports and CUDA does not give: an upper bound on the difference of the
# two totals (`fb_memory_usage/total` and torch's `mem_get_info`), measured on GPUs of 15 to 179
# GiB, T4 to B200. tests/plugins/test_planner.py has the measurements.
HIDDEN_BYTES = 400 * MIB
HIDDEN_SHARE = 0.006

# Patterns of the driver's names, and ten times the compute capability. The first match counts, so
# the professional series stand first, since GeForce uses their numbers again. Used only if the
# driver does not report the capability.
# Source: NVIDIA, "CUDA GPU Compute Capability".
CAPABILITIES = (
    (r"Quadro RTX|TITAN RTX", 75),
    (r"Ada Generation|\bRTX \d{3,4} (SFF )?Ada\b", 89),
    (r"\b(B200|GB200)\b", 100),
    (r"\b(B300|GB300)\b", 103),
    (r"RTX PRO \d{3,4}|RTX 50\d0|Blackwell", 120),
    (r"\b(H100|H200|H800|H20|GH200)\b", 90),
    (r"\b(L2|L4|L40[SG]?|L20)\b|RTX 40\d0", 89),
    (r"\b(A100|A800|A30)\b", 80),
    (r"\b(A10[GM]?|A16|A2|A40|RTX A\d+)\b|RTX 30\d0", 86),
    (r"\bT4G?\b|RTX 20\d0|GTX 16", 75),
    (r"\b(V100|GV100)|TITAN V\b", 70),
    (r"\bP100\b", 60),
    (r"\b(P40|P4)\b|GTX 10\d0", 61),
)  # fmt: skip

# The least capability that the engine asks for, by `quant_method`.
# Source: vLLM 0.32, `get_min_capability` of each method.
METHODS = {"fp8": 75, "gptq": 75, "awq": 75, "mxfp4": 80}


@dataclass(frozen=True)
class GpuGroup:
    """Equal GPUs of a host.

    Attributes:
        name: as the driver tells it.
        memory_mib: memory of each, in MiB, as the driver tells it.
        count: how many there are.
        told_capability: ten times the compute capability that the driver tells; 0 for none.
    """

    name: str
    memory_mib: int
    count: int
    told_capability: int = 0

    @property
    def memory_bytes(self) -> int:
        """Memory of each GPU, in bytes, as the driver tells it."""
        return self.memory_mib * MIB

    @property
    def cuda_bytes(self) -> int:
        """Memory of each GPU, in bytes, that CUDA, and so the engine, can use."""
        return max(self.memory_bytes - hidden_bytes(self.memory_bytes), 0)

    @property
    def capability(self) -> int:
        """Ten times the compute capability, or 0 if neither the driver nor the name tells it."""
        if self.told_capability:
            return self.told_capability
        return next(
            (number for pattern, number in CAPABILITIES if re.search(pattern, self.name)), 0
        )

    def __str__(self) -> str:
        return f"{self.count} x {self.name} of {self.memory_mib} MiB"


def hidden_bytes(memory_bytes: int) -> int:
    """Return the bytes of a GPU's memory that CUDA keeps to itself."""
    return HIDDEN_BYTES + int(memory_bytes * HIDDEN_SHARE)


def read_gpus(given: Iterable[Mapping[str, Any]]) -> tuple[GpuGroup, ...]:
    """Read GPUs from {name, memory_mib, count}, and count equal entries together.

    An entry can also have a `compute_capability`, such as 8.6, which is used in place of the name.

    Raises:
        PlanError: an entry lacks a number or has an absurd one.
    """
    counts: dict[tuple[str, int, int], int] = {}
    for entry in given:
        numbers = [entry.get(key) for key in ("memory_mib", "count")]
        if not all(whole(number) for number in numbers):
            raise PlanError(
                f"infbox_gpus has {dict(entry)}. Give each GPU's name, memory_mib and count, both"
                " whole numbers above 0."
            )
        memory, count = (int(number) for number in numbers if number is not None)
        capability = read_capability(entry.get("compute_capability", ""))
        key = (str(entry.get("name", "unnamed GPU")), memory, capability)
        counts[key] = counts.get(key, 0) + count
    gpus = [GpuGroup(name, memory, count, told) for (name, memory, told), count in counts.items()]
    return tuple(sorted(gpus, key=lambda gpu: gpu.memory_mib, reverse=True))


def read_capability(given: Any) -> int:
    """Return ten times a compute capability such as "8.6" or 8.6; 0 where none is given.

    Raises:
        PlanError: it is none.
    """
    if given in ("", None):
        return 0
    told = re.fullmatch(r"([0-9]{1,2})\.([0-9])", str(given))
    if not told:
        raise PlanError(
            f"infbox_gpus has the compute_capability {given!r}. Write it as NVIDIA does, such as"
            " 8.6, or leave it out."
        )
    return int(told[1]) * 10 + int(told[2])


def whole(number: Any) -> bool:
    """Return whether a number is a whole one above 0."""
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def method_of(quantization: str) -> str:
    """Return the plain name of a method: `gptq_marlin` is `gptq`."""
    return quantization.removesuffix("_marlin")


def capability_refusal(gpu: GpuGroup, quantization: str) -> str:
    """Return why a GPU cannot compute a model; empty if it can or if that is not known."""
    minimum = max(MIN_CAPABILITY, METHODS.get(method_of(quantization), 0))
    if not gpu.capability or gpu.capability >= minimum:
        return ""
    weights = f"{quantization} weights" if quantization else "the engine"
    return (
        f"{gpu.name} has compute capability {gpu.capability / 10:.1f}, {weights} need"
        f"{'' if quantization else 's'} {minimum / 10:.1f}. Use a later GPU."
    )


def capability_notes(gpu: GpuGroup, quantization: str) -> list[str]:
    """Return notes on how a GPU computes a model.

    Source: vLLM, `Fp8Config`: GPUs before 8.9 have no FP8 arithmetic, and Marlin kernels widen the
    weights as they are used.
    """
    if not gpu.capability:
        note = (
            f"The compute capability of {gpu.name} is not known. Check that it is 7.5 or later,"
            " and give it as compute_capability in infbox_gpus."
        )
        return [note]
    if method_of(quantization) == "fp8" and gpu.capability < FP8_CAPABILITY:
        note = (
            f"FP8 weights run weight-only on {gpu.name}: they take FP8's memory and are computed"
            " in 16 bits, without FP8's speed."
        )
        return [note]
    return []
