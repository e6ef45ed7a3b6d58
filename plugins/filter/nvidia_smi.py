"""What `nvidia-smi -q -x` says of a host's cards."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from typing import Any


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


def text(element: ET.Element, path: str) -> str:
    """Return the text at a path below an element, or nothing."""
    return (element.findtext(path) or "").strip()


def mebibytes(value: str) -> int:
    """Return the number in "40960 MiB", or 0 where there is none, as in "N/A"."""
    number = re.match(r"(\d+) MiB", value)
    return int(number[1]) if number else 0


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"nvidia_smi_cards": nvidia_smi_cards}
