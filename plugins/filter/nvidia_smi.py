"""What `nvidia-smi -q -x` says of a host's cards."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from typing import Any

BEYOND_REPAIR = ("remapped_rows/remapped_row_failure", "ecc_errors/unrepairable_memory")
REPAIRED_AT_RESET = (
    "remapped_rows/remapped_row_pending",
    "retired_pages/pending_retirement",
    "ecc_errors/channel_repair_pending",
    "ecc_errors/tpc_repair_pending",
)


def nvidia_smi_cards(xml: str) -> dict[str, Any]:
    """Read the output of `nvidia-smi -q -x`.

    Args:
        xml: the output; empty where the command is missing or failed.

    Returns:
        driver_version ("" for none), gpus as `infbox_gpus` has them: equal cards are one entry of
        name, memory_mib and count, the largest first, memory_mib 0 where it is not told; and split:
        the names of cards that MIG has cut into pieces and that cannot be used whole.
    """
    if not xml.strip():
        return {"driver_version": "", "gpus": [], "split": []}
    log = ET.fromstring(xml)
    whole: Counter[tuple[int, str]] = Counter()
    split = []
    for card in log.iter("gpu"):
        name = text(card, "product_name") or "unknown NVIDIA card"
        if text(card, "mig_mode/current_mig") == "Enabled":
            split.append(name)
        else:
            whole[mebibytes(text(card, "fb_memory_usage/total")), name] += 1
    gpus = [
        {"name": name, "memory_mib": memory, "count": count}
        for (memory, name), count in sorted(whole.items(), reverse=True)
    ]
    return {"driver_version": text(log, "driver_version"), "gpus": gpus, "split": split}


def nvidia_smi_details(xml: str) -> dict[str, Any]:
    """Read all that is worth knowing of each card from the output of `nvidia-smi -q -x`.

    Args:
        xml: the output; empty where the command is missing or failed.

    Returns:
        driver_version, cuda_version ("" for none) and cards, in the driver's order: address (as
        sysfs writes it), name, architecture, uuid, memory_mib, used_mib, mig, persistence, ecc,
        ecc_uncorrected (since the driver was loaded), repair ("", "pending" or "failure"),
        sram_worn (more errors in the memory on the chip than NVIDIA allows), throttle (reasons that
        slow a card down, such as "hw_thermal_slowdown"), pcie (generation and width, each current
        and max; 0 where not told), fabric ("" where there is no NVSwitch), processes (pid, name,
        type, memory_mib), recovery (what the driver asks for after an error, such as "reset"; ""
        for nothing) and lost, for a card that no longer answers.
    """
    if not xml.strip():
        return {"driver_version": "", "cuda_version": "", "cards": []}
    log = ET.fromstring(xml)
    return {
        "driver_version": text(log, "driver_version"),
        "cuda_version": text(log, "cuda_version"),
        "cards": [details(card) for card in log.iter("gpu")],
    }


def details(card: ET.Element) -> dict[str, Any]:
    """Return what is told of one card."""
    link = "pci/pci_gpu_link_info/"
    return {
        "address": address(card.get("id", "") or text(card, "pci/pci_bus_id")),
        "name": text(card, "product_name") or "unknown NVIDIA card",
        "architecture": text(card, "product_architecture"),
        "uuid": text(card, "uuid"),
        "memory_mib": mebibytes(text(card, "fb_memory_usage/total")),
        "used_mib": mebibytes(text(card, "fb_memory_usage/used")),
        "mig": text(card, "mig_mode/current_mig") == "Enabled",
        "persistence": text(card, "persistence_mode") == "Enabled",
        "ecc": text(card, "ecc_mode/current_ecc") == "Enabled",
        "ecc_uncorrected": uncorrected(card),
        "repair": repair(card),
        "sram_worn": text(card, "ecc_errors/aggregate/sram_threshold_exceeded") == "Yes",
        "throttle": throttle(card),
        "pcie": {
            "generation": number(text(card, link + "pcie_gen/current_link_gen")),
            "max_generation": number(text(card, link + "pcie_gen/max_link_gen")),
            "width": number(text(card, link + "link_widths/current_link_width")),
            "max_width": number(text(card, link + "link_widths/max_link_width")),
        },
        "fabric": text(card, "fabric/state").replace("N/A", ""),
        "processes": [
            {
                "pid": number(text(process, "pid")),
                "name": text(process, "process_name"),
                "type": text(process, "type"),
                "memory_mib": mebibytes(text(process, "used_memory")),
            }
            for process in card.findall("processes/process_info")
        ],
        "recovery": recovery(card),
        "lost": any("GPU is lost" in (element.text or "") for element in card.iter()),
    }


def address(bus_id: str) -> str:
    """Return a PCI address as sysfs writes it: with four digits of domain, not eight."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}" if rest else ""


def uncorrected(card: ET.Element) -> int:
    """Return the uncorrected memory errors since the driver was loaded.

    Turing and later count by kind of memory; older cards have a total of double bit errors.
    """
    volatile = card.find("ecc_errors/volatile")
    if volatile is None:
        return 0
    kinds = [kind for kind in volatile if "uncorrectable" in kind.tag]
    total = text(volatile, "double_bit/total")
    return sum(number(kind.text or "") for kind in kinds) + number(total)


def recovery(card: ET.Element) -> str:
    """Return what the driver asks for, in lower case.

    Newer drivers say it in a field of its own; with or without, a card in error has "GPU requires
    reset" in the place of its values.
    """
    action = text(card, "gpu_recovery_action").lower()
    if action not in {"", "none", "n/a"} and "requires reset" not in action:
        return action
    return "reset" if any("requires reset" in (each.text or "") for each in card.iter()) else ""


def repair(card: ET.Element) -> str:
    """Return whether a part of the card failed and could not be replaced, or waits for a reset.

    Those are pages of memory, rows since Ampere, and from driver 580 on whole channels and groups
    of multiprocessors (TPC) as well.
    """
    if any(text(card, path) == "Yes" for path in BEYOND_REPAIR):
        return "failure"
    return "pending" if any(text(card, path) == "Yes" for path in REPAIRED_AT_RESET) else ""


def throttle(card: ET.Element) -> list[str]:
    """Return the reasons that slow a card down; idling and settings are none.

    Drivers from 535 on call them events.
    """
    found = []
    for kind in ("throttle", "event"):
        for reason in card.findall(f"clocks_{kind}_reasons/*"):
            name = reason.tag.removeprefix(f"clocks_{kind}_reason_")
            if "slowdown" in name and (reason.text or "").strip() == "Active":
                found.append(name)
    return found


def nvlinks(status: str) -> list[dict[str, int]]:
    """Count the NVLinks of each card in what `nvidia-smi nvlink --status` prints.

    Args:
        status: its lines, such as "GPU 0: NAME", "Link 0: 26.562 GB/s" and "Link 1: <inactive>".

    Returns:
        active and inactive of each card, in the driver's order.
    """
    counts = []
    for card in re.split(r"^GPU \d+:", status, flags=re.MULTILINE)[1:]:
        links = re.findall(r"^\s*Link \d+: *(.+)$", card, re.MULTILINE)
        inactive = sum("inactive" in link.lower() for link in links)
        counts.append({"active": len(links) - inactive, "inactive": inactive})
    return counts


def text(element: ET.Element, path: str) -> str:
    """Return the text at a path below an element, or nothing."""
    return (element.findtext(path) or "").strip()


def mebibytes(value: str) -> int:
    """Return the number in "40960 MiB", or 0 where there is none, as in "N/A"."""
    told = re.match(r"(\d+) MiB", value)
    return int(told[1]) if told else 0


def number(value: str) -> int:
    """Return the number that a value begins with, as in "16x", or 0 where there is none."""
    told = re.match(r"\d+", value.strip())
    return int(told[0]) if told else 0


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "nvidia_smi_cards": nvidia_smi_cards,
            "nvidia_smi_details": nvidia_smi_details,
            "nvlinks": nvlinks,
        }
