"""NVML of GPUs that are not there. Runs in the engine image."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

MIB = 1024 * 1024


def install(gpus: Sequence[Mapping[str, Any]]) -> None:
    """Have vLLM see these GPUs, before anything else of it is imported.

    Args:
        gpus: name, memory_mib, count and compute_capability (such as 8.9) of each kind.
    """
    import torch.cuda
    from triton.backends.nvidia.driver import CudaDriver
    from vllm.third_party import pynvml

    # It asks CUDA itself. Without Triton vLLM would judge for a machine that has none.
    CudaDriver.is_active = staticmethod(lambda: True)
    flat = [gpu for gpu in gpus for _ in range(gpu["count"])]
    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(flat),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda index: flat[index]["name"],
        "nvmlDeviceGetUUID": lambda index: f"GPU-00000000-0000-0000-0000-{index:012}",
        "nvmlDeviceGetCudaComputeCapability": lambda index: tuple(
            map(int, flat[index]["compute_capability"].split("."))
        ),
        "nvmlDeviceGetMemoryInfo": lambda index: SimpleNamespace(
            total=flat[index]["memory_mib"] * MIB
        ),
        "nvmlDeviceGetP2PStatus": lambda *_: pynvml.NVML_P2P_STATUS_OK,
    }
    # torch counts by NVML too, through a binding of its own.
    torch.cuda._device_count_nvml = lambda: len(flat)
    for name, answer in answers.items():
        # Raises where vLLM has no such function any more.
        getattr(pynvml, name)
        setattr(pynvml, name, answer)
