"""The cards of a host, and what the engine can compute on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plugins.planner.errors import PlanError

MIB = 1024**2
LEAST_CAPABILITY = 75
FP8_CAPABILITY = 89

# Names as the driver tells them, to ten times the compute capability; the first match counts.
# Source: NVIDIA, "CUDA GPU Compute Capability".
CAPABILITIES = (
    (r"\b(B200|GB200)\b", 100),
    (r"\b(B300|GB300)\b", 103),
    (r"RTX PRO \d000|RTX 50\d0|Blackwell", 120),
    (r"\b(H100|H200|H800|H20|GH200)\b", 90),
    (r"\b(L4|L40S?|L20|RTX \d000 Ada)\b|RTX 40\d0|Ada Generation", 89),
    (r"\b(A100|A800|A30)\b", 80),
    (r"\b(A10G?|A16|A2|A40|RTX A\d+)\b|RTX 30\d0", 86),
    (r"\bT4\b|RTX 20\d0|TITAN RTX|Quadro RTX|GTX 16", 75),
    (r"\bV100|TITAN V\b", 70),
    (r"\bP100\b", 60),
    (r"\b(P40|P4)\b|GTX 10\d0", 61),
)  # fmt: skip

# The least capability that the engine asks for, by `quant_method`.
# Source: vLLM 0.32, `get_min_capability` of each method.
METHODS = {"fp8": 75, "gptq": 75, "awq": 75, "mxfp4": 80}


@dataclass(frozen=True)
class Card:
    """Equal cards of a host.

    Attributes:
        name: as the driver tells it.
        memory_mib: memory of each, in MiB.
        count: how many there are.
    """

    name: str
    memory_mib: int
    count: int

    @property
    def memory_bytes(self) -> int:
        """Memory of each card, in bytes."""
        return self.memory_mib * MIB

    @property
    def capability(self) -> int:
        """Ten times the compute capability, or 0 where the name is not known."""
        return next(
            (number for pattern, number in CAPABILITIES if re.search(pattern, self.name)), 0
        )

    def __str__(self) -> str:
        return f"{self.count} x {self.name} of {self.memory_mib} MiB"


def read_cards(given: Iterable[Mapping[str, Any]]) -> tuple[Card, ...]:
    """Read cards from {name, memory_mib, count}; those given twice are counted together.

    Raises:
        PlanError: an entry lacks a number or has an absurd one.
    """
    counts: dict[tuple[str, int], int] = {}
    for entry in given:
        numbers = [entry.get(key) for key in ("memory_mib", "count")]
        if not all(whole(number) for number in numbers):
            raise PlanError(
                f"infbox_gpus has {dict(entry)}. Give each card's name, memory_mib and count, both"
                " whole numbers above 0."
            )
        memory, count = (int(number) for number in numbers if number is not None)
        key = (str(entry.get("name", "unnamed card")), memory)
        counts[key] = counts.get(key, 0) + count
    cards = [Card(name, memory, count) for (name, memory), count in counts.items()]
    return tuple(sorted(cards, key=lambda card: card.memory_mib, reverse=True))


def whole(number: Any) -> bool:
    """Return whether a number is a whole one above 0."""
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def method_of(quantization: str) -> str:
    """Return the plain name of a method: `gptq_marlin` is `gptq`."""
    return quantization.removesuffix("_marlin")


def capability_refusal(card: Card, quantization: str) -> str:
    """Return why a card cannot compute a model; empty where it can or nobody knows."""
    least = max(LEAST_CAPABILITY, METHODS.get(method_of(quantization), 0))
    if not card.capability or card.capability >= least:
        return ""
    weights = f"{quantization} weights" if quantization else "the engine"
    return (
        f"{card.name} has compute capability {card.capability / 10:.1f}, {weights} need"
        f"{'' if quantization else 's'} {least / 10:.1f}. Use a later card."
    )


def capability_notes(card: Card, quantization: str) -> list[str]:
    """Return what a person should know of how a card computes a model.

    Source: vLLM, `Fp8Config`: cards before 8.9 have no FP8 arithmetic, and Marlin kernels widen the
    weights as they are used.
    """
    if not card.capability:
        return [
            f"The planner does not know what {card.name} can compute; see that it is 7.5 or later."
        ]
    if method_of(quantization) == "fp8" and card.capability < FP8_CAPABILITY:
        note = (
            f"FP8 weights run weight-only on {card.name}: they take FP8's memory and are computed"
            " in 16 bits, without FP8's speed."
        )
        return [note]
    return []
