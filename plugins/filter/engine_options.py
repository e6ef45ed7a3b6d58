"""What of a preset's engine depends on the GPUs that compute."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

# Ansible loads filters by path, outside of any package.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins.planner.gpu_groups import FP8_CAPABILITY, read_gpus

# Ten times the compute capability from which on a GPU computes in bfloat16.
# Source: vLLM 0.32, `CudaPlatformBase.check_if_supports_dtype`.
BFLOAT16_CAPABILITY = 80


def engine_options(
    engine: Mapping[str, Any], gpus: Iterable[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """Return the type and the kernels in which a preset is computed on these GPUs.

    Args:
        engine: the preset's.
        gpus: name, memory_mib and count of each kind.

    Returns:
        dtype: the preset's, or float16 where a GPU has no bfloat16; moe_backend: the preset's, or
        "", by which vLLM chooses, where a GPU has no FP8 arithmetic: FP8 weights run in Marlin's
        kernels there, and vLLM refuses to start with any other that it is told to take.
    """
    known = [kind.capability for kind in read_gpus(gpus) if kind.capability]
    minimum = min(known, default=FP8_CAPABILITY)
    dtype = str(engine.get("dtype", "float16"))
    backend = str(engine.get("moe_backend", ""))
    return {
        "dtype": "float16" if minimum < BFLOAT16_CAPABILITY else dtype,
        "moe_backend": "" if minimum < FP8_CAPABILITY else backend,
    }


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"engine_options": engine_options}
