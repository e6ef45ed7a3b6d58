"""Which preset a host gets, and whether it fits."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

AUTO = "auto"

Preset = Mapping[str, Any]
Gpus = Sequence[Mapping[str, Any]]


def choose_preset(
    presets: Mapping[str, Preset], wanted: str, gpus: Gpus, host: Mapping[str, Any]
) -> dict[str, Any]:
    """Choose the preset of a host and say whether the host can bear it.

    `auto` takes the one that uses the most GPU memory among those whose cards are there. Memory,
    disk and driver do not change that choice, since they can be mended: they are refused by name.

    Args:
        presets: name to preset; of each `gpus`, `gpu_memory_mib`, `host_memory_gb`, `disk_gb` and
            `least_driver` are read.
        wanted: a name, or `auto`.
        gpus: name, memory_mib and count of the cards.
        host: memory_bytes, free_bytes, held_bytes, driver_version ("" where not known).

    Returns:
        name ("" where there is none to choose), refusals: why it cannot be, each with its mend, and
        notes: what a person should know although the run goes on.
    """
    if wanted == AUTO:
        name = best(presets, gpus)
        if not name:
            return {"name": "", "refusals": [nothing_fits(presets, gpus)], "notes": []}
        return {
            "name": name,
            "refusals": host_refusals(name, presets[name], host),
            "notes": idle_cards(presets, name, gpus),
        }
    if wanted not in presets:
        return {"name": "", "refusals": [unknown(presets, wanted)], "notes": []}
    refusals = host_refusals(wanted, presets[wanted], host)
    if not cards_fit(presets[wanted], gpus):
        fitting = [name for name in presets if cards_fit(presets[name], gpus)]
        mend = f"Set infbox_preset to one that fits ({', '.join(fitting)})" if fitting else ""
        refusals.insert(
            0,
            f"Preset {wanted} does not fit: it needs {needs(presets[wanted])},"
            f" this host has {has(gpus)}. {mend or 'Use another host'}.",
        )
    return {"name": wanted, "refusals": refusals, "notes": []}


def best(presets: Mapping[str, Preset], gpus: Gpus) -> str:
    """Return the preset with the most GPU memory of those whose cards are there, or nothing."""
    fitting = [name for name, preset in presets.items() if cards_fit(preset, gpus)]
    # max() keeps the first of equals, so the order of the table decides between them.
    return max(fitting, key=lambda name: gpu_memory(presets[name]), default="")


def gpu_memory(preset: Preset) -> int:
    """Return the GPU memory that a preset asks for, in MiB."""
    return int(preset.get("gpus", 0)) * int(preset.get("gpu_memory_mib", 0))


def cards_fit(preset: Preset, gpus: Gpus) -> bool:
    """Return whether the cards that a preset asks for are there."""
    memory = int(preset.get("gpu_memory_mib", 0))
    large = sum(int(card["count"]) for card in gpus if int(card["memory_mib"]) >= memory)
    return large >= int(preset.get("gpus", 0))


def host_refusals(name: str, preset: Preset, host: Mapping[str, Any]) -> list[str]:
    """Return what a host lacks for a preset beside its cards."""
    refusals = []
    memory = float(preset.get("host_memory_gb", 0))
    has_memory = host["memory_bytes"] / 1e9
    if has_memory < memory:
        refusals.append(
            f"Preset {name} needs {memory:g} GB of memory, this host has {has_memory:.1f} GB."
            " Add memory, or set infbox_preset to a smaller one."
        )
    disk = float(preset.get("disk_gb", 0))
    free, held = host["free_bytes"] / 1e9, host["held_bytes"] / 1e9
    if free + held < disk:
        refusals.append(
            f"Preset {name} needs {disk:g} GB of disk, this host has {free:.1f} GB free and"
            f" {held:.1f} GB that infbox and Docker hold already. Free some, or move their folders"
            " to a larger disk."
        )
    least, driver = str(preset.get("least_driver", "")), str(host["driver_version"])
    if least and driver and version(driver) < version(least):
        refusals.append(
            f"Preset {name} needs NVIDIA driver {least} or later, this host has {driver}."
            " Install a later driver."
        )
    return refusals


def version(number: str) -> tuple[int, ...]:
    """Return a version as something that compares: 580.9 comes before 580.65."""
    return tuple(int(part) for part in re.findall(r"\d+", number))


def needs(preset: Preset) -> str:
    """Return what cards a preset needs, in words."""
    count = int(preset.get("gpus", 0))
    return f"{count} GPU{'s' * (count != 1)} of {preset.get('gpu_memory_mib', 0)} MiB"


def has(gpus: Gpus) -> str:
    """Return what cards there are, in words."""
    if not gpus:
        return "no GPU"
    return " and ".join(
        f"{card['count']} of {card['memory_mib']} MiB ({card.get('name', 'unnamed')})"
        for card in gpus
    )


def unknown(presets: Mapping[str, Preset], wanted: str) -> str:
    """Return the refusal of a preset that there is not, the nearest names first."""
    near = difflib.get_close_matches(wanted, presets, n=len(presets), cutoff=0)
    return f"There is no preset {wanted}. Set infbox_preset to one of: {', '.join([*near, AUTO])}."


def nothing_fits(presets: Mapping[str, Preset], gpus: Gpus) -> str:
    """Return the refusal of a host that no preset fits."""
    demands = "; ".join(f"{name} needs {needs(preset)}" for name, preset in presets.items())
    return f"No preset fits: this host has {has(gpus)}, {demands}. Use another host."


def idle_cards(presets: Mapping[str, Preset], chosen: str, gpus: Gpus) -> list[str]:
    """Return a note where there are cards and the chosen preset uses none of them."""
    if not gpus or presets[chosen].get("gpus", 0):
        return []
    demands = "; ".join(
        f"{name} needs {needs(preset)}" for name, preset in presets.items() if preset.get("gpus", 0)
    )
    note = (
        f"This host has {has(gpus)}, too little for any preset with GPUs ({demands or 'none'})."
        f" It gets the preset {chosen}, which leaves the cards idle."
    )
    return [note]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"choose_preset": choose_preset}
