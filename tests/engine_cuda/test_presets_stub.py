"""vLLM's own code accepts every GPU preset's command on GPUs that NVML's stub shows it.

`vllm serve` builds its whole configuration before it touches a GPU: arguments, the model's
architecture, quantisation for the GPU's compute capability, parallel sizes, the connector. That is
what is run here, from a config.json alone. Whether the model then fits and what it computes needs
a GPU.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.engine.preset_commands import PresetCommand, hosts, preset_commands
from tests.engine_cuda.conftest import Engine

pytestmark = [pytest.mark.lab, pytest.mark.long]

# What the presets' models say beside what memory depends on. A preset with a model of another type
# or in another quantisation says it in its own `config`.
COMMON = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}
KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False},
    "qwen3_moe": {"architectures": ["Qwen3MoeForCausalLM"], "norm_topk_prob": True},
    "glm4_moe": {
        "architectures": ["Glm4MoeForCausalLM"],
        "norm_topk_prob": True,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "partial_rotary_factor": 0.5,
    },
}
QUANTISATIONS: dict[str, dict[str, Any]] = {
    "gptq": {"torch_dtype": "float16",
             "quantization_config": {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}},
    "awq": {"torch_dtype": "float16",
            "quantization_config": {"bits": 4, "group_size": 128, "zero_point": True,
                                    "version": "gemm"}},
    "fp8": {"torch_dtype": "bfloat16",
            "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3"}},
    # A scale for each channel of weights, and one for each token of activations.
    "compressed-tensors": {"torch_dtype": "bfloat16", "quantization_config": {
        "format": "float-quantized", "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True,
                        "dynamic": False},
            "input_activations": {"num_bits": 8, "type": "float", "strategy": "token",
                                  "symmetric": True, "dynamic": True}}}}},
    "": {"torch_dtype": "bfloat16"},
}  # fmt: skip


def config_json(config: dict[str, Any]) -> dict[str, Any]:
    """Return a model's config.json from those entries of it that a preset holds."""
    own = config.get("quantization_config", {})
    method = QUANTISATIONS.get(own.get("quant_method", ""), {})
    whole = {**COMMON, **KINDS.get(config["model_type"], {}), **method, **config}
    if own:
        whole["quantization_config"] = {**method.get("quantization_config", {}), **own}
    return whole


ON_A6000 = "dev32 on 1 x RTX A6000"
# More arguments, and what vLLM says of them.
WRONG: dict[str, tuple[Sequence[str], str]] = {
    "heads that cannot be shared out": (["--tensor-parallel-size", "3"], "must be divisible by"),
    "an unknown quantisation": (["--quantization", "nothing"], "nothing"),
    "a flag that is gone": (["--swap-space", "4"], "unrecognized arguments: --swap-space"),
    "a longer context than the model's": (["--max-model-len", "65536"], "is greater than"),
}


@pytest.fixture(scope="module")
def commands() -> dict[str, PresetCommand]:
    given = {command.name: command for command in preset_commands()}
    like = given[ON_A6000]
    # Three of them, so that it is not their number that is refused.
    three = [{**like.gpus[0], "count": 3}]
    wrong = {
        name: replace(like, argv=[*like.argv, *more], gpus=three)
        for name, (more, _) in WRONG.items()
    }
    return {**given, **wrong}


@pytest.fixture(scope="module")
def verdicts(engine: Engine, commands: Mapping[str, PresetCommand]) -> dict[str, Any]:
    """Return vLLM's verdict of each command."""
    cases = [
        {
            "name": name,
            "argv": command.argv,
            "environment": command.environment,
            "gpus": command.gpus,
            "config": config_json(command.config),
        }
        for name, command in commands.items()
    ]
    found = engine.python("judge", text=json.dumps(cases))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", hosts())
def test_vllm_accepts_a_presets_command_on_stub_gpus(
    verdicts: Mapping[str, Any], commands: Mapping[str, PresetCommand], name: str
) -> None:
    verdict, command = verdicts[name], commands[name]
    assert "accepted" in verdict, verdict["refused"]
    made = verdict["accepted"]
    print(name, made)
    assert made["platform"] == "NvmlCudaPlatform"
    capability = ".".join(map(str, made["compute_capability"]))
    assert capability == command.gpus[0]["compute_capability"]
    # 16 bits, for what is computed and for KV alike.
    assert made["dtype"] == made["kv_cache_dtype"] == command.dtype
    assert made["dtype"] in ("float16", "bfloat16")
    assert made["world_size"] == command.nodes * sum(gpu["count"] for gpu in command.gpus)
    assert made["kv_connector"] == "InfboxConnector"


@pytest.mark.parametrize("name", WRONG)
def test_vllm_refuses_a_command_that_is_wrong_on_stub_gpus(
    verdicts: Mapping[str, Any], name: str
) -> None:
    assert WRONG[name][1] in verdicts[name]["refused"]
