"""What of a preset's engine depends on the GPUs."""

from typing import Any

import pytest

from tests.plugins.plugin_files import load

engine_options = load("filter", "engine_options").engine_options
FP8_EXPERTS = {"dtype": "bfloat16", "moe_backend": "triton"}


def gpus(name: str, memory_mib: int = 81920) -> list[dict[str, Any]]:
    return [{"name": name, "memory_mib": memory_mib, "count": 1}]


@pytest.mark.parametrize(
    ("name", "dtype", "backend"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", "triton"),
        ("NVIDIA L40S", "bfloat16", "triton"),
        # No FP8 arithmetic: vLLM takes Marlin, and refuses triton.
        ("NVIDIA A100-SXM4-80GB", "bfloat16", ""),
        # No bfloat16 either.
        ("Quadro RTX 8000", "float16", ""),
        # Whatever it is, it is later than what the planner knows.
        ("NVIDIA Z900", "bfloat16", "triton"),
    ],
)
def test_each_gpu_gets_what_it_can_compute(name: str, dtype: str, backend: str) -> None:
    assert engine_options(FP8_EXPERTS, gpus(name)) == {"dtype": dtype, "moe_backend": backend}


def test_the_weakest_gpu_of_a_host_decides() -> None:
    mixed = gpus("NVIDIA H100 80GB HBM3") + gpus("NVIDIA A100-SXM4-80GB")
    assert engine_options(FP8_EXPERTS, mixed)["moe_backend"] == ""


def test_a_preset_that_says_nothing_is_computed_in_float16_by_what_vllm_chooses() -> None:
    assert engine_options({}, []) == {"dtype": "float16", "moe_backend": ""}
