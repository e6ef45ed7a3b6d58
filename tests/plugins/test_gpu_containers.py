"""Which containers should see GPUs. What Docker prints is reduced to what is read."""

from typing import Any

import pytest

from tests.plugins.plugin_files import load

gpu_containers = load("filter", "gpu_containers").gpu_containers


def container(*requests: dict[str, Any]) -> dict[str, Any]:
    return {"Id": "3f", "Name": "/infbox-vllm-1", "HostConfig": {"DeviceRequests": requests}}


def cdi(*names: str) -> dict[str, Any]:
    return {"Driver": "cdi", "Count": 0, "DeviceIDs": list(names), "Capabilities": None}


@pytest.mark.parametrize(
    ("requests", "gpus"),
    [
        ([cdi("nvidia.com/gpu=all")], 4),
        ([cdi("nvidia.com/gpu=0", "nvidia.com/gpu=2")], 2),
        ([cdi("nvidia.com/gpu=0"), cdi("nvidia.com/gpu=all")], 4),
        ([{"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]]}], 4),
        ([{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu", "compute"]]}], 1),
        ([{"Driver": "", "Count": 0, "DeviceIDs": ["0", "1"], "Capabilities": [["gpu"]]}], 2),
    ],
)
def test_a_container_that_was_given_gpus_should_see_them(
    requests: list[dict[str, Any]], gpus: int
) -> None:
    (seen,) = gpu_containers([container(*requests)], 4)
    assert seen == {"id": "3f", "name": "infbox-vllm-1", "gpus": gpus}


def test_other_devices_are_no_gpus() -> None:
    none = {"Id": "0", "Name": "/caddy", "HostConfig": {"DeviceRequests": None}}
    assert gpu_containers([none, container(cdi("vendor.example/nic=all"))], 4) == []
