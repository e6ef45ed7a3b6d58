"""Which containers were given NVIDIA GPUs, and how many GPUs each should see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

ALL = -1
CDI_KIND = "nvidia.com/gpu="


def gpu_containers(inspected: Sequence[Mapping[str, Any]], gpus: int) -> list[dict[str, Any]]:
    """Return the containers that were given GPUs.

    Args:
        inspected: what `docker container inspect` prints.
        gpus: how many GPUs the host has.

    Returns:
        id, name and gpus, the number that a container should see.
    """
    found = []
    for container in inspected:
        wanted = wanted_gpus(container, gpus)
        if wanted:
            name = str(container["Name"]).removeprefix("/")
            found.append({"id": container["Id"], "name": name, "gpus": wanted})
    return found


def wanted_gpus(container: Mapping[str, Any], gpus: int) -> int:
    """Return how many of a host's GPUs a container was given, by CDI or by the older hook."""
    names: set[str] = set()
    count = 0
    for request in container["HostConfig"].get("DeviceRequests") or []:
        devices = request.get("DeviceIDs") or []
        if request.get("Driver") == "cdi":
            names |= {name.removeprefix(CDI_KIND) for name in devices if CDI_KIND in name}
        elif any("gpu" in group for group in request.get("Capabilities") or []):
            names |= set(devices)
            count = gpus if request.get("Count") == ALL else max(count, request.get("Count", 0))
    return gpus if "all" in names else max(count, len(names))


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"gpu_containers": gpu_containers}
