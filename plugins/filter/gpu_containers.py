"""Which containers were given NVIDIA cards, and how many they should see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

ALL = -1
CDI_KIND = "nvidia.com/gpu="


def gpu_containers(inspected: Sequence[Mapping[str, Any]], cards: int) -> list[dict[str, Any]]:
    """Return the containers that were given cards.

    Args:
        inspected: what `docker container inspect` prints.
        cards: how many cards the host has.

    Returns:
        id, name and cards, the number that a container should see.
    """
    found = []
    for container in inspected:
        wanted = wanted_cards(container, cards)
        if wanted:
            name = str(container["Name"]).removeprefix("/")
            found.append({"id": container["Id"], "name": name, "cards": wanted})
    return found


def wanted_cards(container: Mapping[str, Any], cards: int) -> int:
    """Return how many of a host's cards a container was given, by CDI or by the older hook."""
    names: set[str] = set()
    count = 0
    for request in container["HostConfig"].get("DeviceRequests") or []:
        devices = request.get("DeviceIDs") or []
        if request.get("Driver") == "cdi":
            names |= {name.removeprefix(CDI_KIND) for name in devices if CDI_KIND in name}
        elif any("gpu" in group for group in request.get("Capabilities") or []):
            names |= set(devices)
            count = cards if request.get("Count") == ALL else max(count, request.get("Count", 0))
    return cards if "all" in names else max(count, len(names))


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"gpu_containers": gpu_containers}
