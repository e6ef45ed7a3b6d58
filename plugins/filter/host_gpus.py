"""Which GPUs a host has, by its inventory, its driver or its PCI bus."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Ansible loads filters by path, outside of any package.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins.planner.gpus import Gpu, gpu_of, unknown_gpus


def host_gpus(
    given: Any,
    devices: Sequence[Mapping[str, str]],
    driver: Mapping[str, Any],
    *,
    by_pci: bool = False,
) -> dict[str, Any]:
    """Return a host's GPUs from the best source that there is.

    Args:
        given: the GPUs given by hand, None for none.
        devices: those on the PCI bus, as `infbox_host_info` has them.
        driver: what `nvidia_smi_gpus` read.
        by_pci: whether PCI ids may stand in for a driver that does not answer.

    Returns:
        source: "given", "driver", "pci", "unknown" (PCI ids tell nothing of one or more),
        "silent" (the driver does not answer, and PCI ids may not stand in) or "none"; gpus as
        `infbox_gpus` has them, with the least memory that they may have; most: the same with the
        most; unknown: what is not known, in words.
    """
    if given is not None:
        return known("given", given)
    if any(driver[key] for key in ("driver_version", "gpus", "split", "problems")):
        return known("driver", driver["gpus"])
    if not devices:
        return known("none", [])
    if not by_pci:
        return known("silent", [])
    unknown = unknown_gpus(devices)
    if unknown:
        return {**known("unknown", []), "unknown": unknown}
    kinds = Counter(kind for device in devices if (kind := gpu_of(device)))
    return {
        "source": "pci",
        "gpus": counted(kinds, "min_mib"),
        "most": counted(kinds, "max_mib"),
        "unknown": [
            f"{count} x {kind.name}, of {kind.min_mib} to {kind.max_mib} MiB"
            for kind, count in kinds.items()
            if kind.min_mib != kind.max_mib
        ],
    }


def known(source: str, gpus: Any) -> dict[str, Any]:
    """Return GPUs whose memory is known exactly."""
    return {"source": source, "gpus": gpus, "most": gpus, "unknown": []}


def counted(kinds: Mapping[Gpu, int], memory: str) -> list[dict[str, Any]]:
    """Return kinds of GPUs as `infbox_gpus` has them, the largest first."""
    gpus = [
        {
            "name": kind.name,
            "memory_mib": getattr(kind, memory),
            "count": count,
            "compute_capability": f"{kind.capability // 10}.{kind.capability % 10}",
        }
        for kind, count in kinds.items()
    ]
    return sorted(gpus, key=lambda gpu: gpu["memory_mib"], reverse=True)


def same_choice(choice: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two results of `choose_preset` have the same preset, form and verdict."""
    return what_is_chosen(choice) == what_is_chosen(other)


def what_is_chosen(choice: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values of a choice on which a run depends."""
    return choice["name"], choice.get("changes", {}), bool(choice["plan"].get("fits"))


def gpu_words(gpus: Iterable[Mapping[str, Any]]) -> str:
    """Return GPUs in words."""
    return " and ".join(
        f"{gpu['count']} x {gpu.get('name', 'unnamed GPU')} of {gpu['memory_mib']} MiB"
        for gpu in sorted(gpus, key=lambda gpu: (-gpu["memory_mib"], str(gpu.get("name"))))
    )


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"gpu_words": gpu_words, "host_gpus": host_gpus, "same_choice": same_choice}
