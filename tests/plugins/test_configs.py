"""What the planner makes of public models' config.json, as their publishers wrote them.

configs.json has a line for each model: `config` without towers for pictures and sound and without
what nothing reads (token ids, dropout, norms); `source`, where it was read; `kv`, the bytes that
one more token of a long request keeps on all layers together (16 bits; an index has its own 8), by
hand from the layers' numbers, null for kinds that the planner refuses; `context`, the longest
request.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from plugins.planner import Engine, GpuGroup, PlanError, plan, read_config
from plugins.planner.memory import Shape, growing_bytes_per_token, kv_layout

CONFIGS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("configs.json").read_text(encoding="utf-8")
)
KNOWN = [name for name, fact in CONFIGS.items() if fact["kv"]]
UNKNOWN = [name for name, fact in CONFIGS.items() if not fact["kv"]]
# As many GPUs as hold anything, so that only the reading is tested.
HUGE = GpuGroup("NVIDIA B300", 4_000_000, 1)


def test_there_are_configs_of_forty_models_with_their_source() -> None:
    assert len(KNOWN) >= 40
    assert all(fact["source"] for fact in CONFIGS.values())


@pytest.mark.parametrize("name", KNOWN)
def test_kv_and_context_are_those_of_the_layers(name: str) -> None:
    model = read_config(CONFIGS[name]["config"], name)
    assert growing_bytes_per_token(model) == CONFIGS[name]["kv"]
    assert model.context == CONFIGS[name]["context"]
    verdict = plan(model, 1_000_000_000, Engine(), [HUGE])
    assert verdict.fits, verdict.reasons


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_kind_that_is_not_known_is_refused_by_name_and_the_fix_works(name: str) -> None:
    config = CONFIGS[name]["config"]
    with pytest.raises(PlanError, match=r"kind '\w[\w-]*'.*give them as kv_bytes_per_token"):
        read_config(config, name)
    model = read_config(config, name, 100_000)
    assert growing_bytes_per_token(model) == 100_000
    assert model.context == CONFIGS[name]["context"]
    verdict = plan(model, 1_000_000_000, Engine(), [HUGE])
    assert verdict.fits, verdict.reasons


@pytest.mark.parametrize("name", KNOWN)
def test_the_fix_works_on_any_config(name: str) -> None:
    model = read_config(CONFIGS[name]["config"], name, 65536)
    assert growing_bytes_per_token(model) == 65536
    assert model.depth == read_config(CONFIGS[name]["config"], name).depth > 0


@pytest.mark.parametrize(
    ("name", "window", "layers"),
    [("gemma-3-27b-it", 1024, 52), ("gemma-4-26B-A4B", 1024, 25), ("gpt-oss-120b", 128, 18),
     ("MiMo-V2-Flash", 128, 39)],
)  # fmt: skip
def test_windows_are_those_of_the_config(name: str, window: int, layers: int) -> None:
    (sliding,) = read_config(CONFIGS[name]["config"], name).only("sliding")
    assert (sliding.window, sliding.count) == (window, layers)


@pytest.mark.parametrize(
    ("name", "layers", "state"),
    [
        # Value heads * key dim * value dim in FP32, and three inputs of what is convolved.
        ("Qwen3.5-35B-A3B", 30, 32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2),
        ("granite-4.0-h-small", 36, 8192 * 128 * 4 + (8192 + 2 * 128) * 3 * 2),
        ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 23, 4096 * 128 * 4 + (4096 + 2 * 8 * 128) * 3 * 2),
    ],
)
def test_states_are_those_of_the_config(name: str, layers: int, state: int) -> None:
    (kind,) = read_config(CONFIGS[name]["config"], name).only("state")
    assert (kind.count, kind.state_bytes) == (layers, state)


def test_heads_of_full_and_sliding_layers_may_differ() -> None:
    # Each GPU of two holds half of the heads of each.
    model = read_config(CONFIGS["gemma-4-26B-A4B"]["config"], "gemma-4")
    assert kv_layout(model, Shape(2), 0).per_token == 5 * 1 * 2 * 512 * 2


def test_an_entry_may_be_zero_for_what_there_is_not() -> None:
    config = {**CONFIGS["Qwen3-8B"]["config"], "num_experts": 0, "num_experts_per_tok": 0}
    assert read_config(config, "dense").experts == 0


def test_the_language_model_of_a_model_of_several_senses_is_read() -> None:
    config = CONFIGS["Qwen3-VL-8B-Instruct"]["config"]
    nested = {"model_type": "omni", "thinker_config": config}
    assert read_config(nested, "omni").layers == read_config(config, "vl").layers


def test_yarn_lengthens_nothing() -> None:
    """The engine refuses more than max_position_embeddings, from 0.32 on."""
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40960}
    assert read_config({**CONFIGS["Qwen3-8B"]["config"], "rope_scaling": scaling}, "x").context == (
        40960
    )


def test_linear_scaling_lengthens_the_context() -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    for where in (scaling, {"full_attention": scaling}):
        config = {**CONFIGS["Qwen3-8B"]["config"], "rope_parameters": where}
        assert read_config(config, "x").context == 81920
