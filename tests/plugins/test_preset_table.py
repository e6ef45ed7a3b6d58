"""The presets as data: that they hold together, and how they are adjusted and chosen."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.plugin_files import ROOT, load

choose_preset = load("filter", "presets").choose_preset
filters = load("filter", "plan")
PRESETS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(ROOT / "group_vars/all/presets.yml").read_text(encoding="utf-8")
)["infbox_presets"]
FACTS = yaml.safe_load((ROOT / "tests/plugins/models.yml").read_text(encoding="utf-8"))


def cards(name: str, memory_mib: int, count: int = 1) -> list[dict[str, Any]]:
    return [{"name": name, "memory_mib": memory_mib, "count": count}]


A100 = cards("NVIDIA A100-SXM4-80GB", 81920)
A6000 = cards("NVIDIA RTX A6000", 49140)
# What each preset is made for.
MADE_FOR = {
    "cpu": [],
    "dev24": cards("NVIDIA GeForce RTX 4090", 24564),
    "dev32": cards("NVIDIA GeForce RTX 5090", 32607),
    "dev32-awq": cards("NVIDIA L40S", 46068),
    "moe80": A100,
    "prod480": cards("NVIDIA H200", 143771, 4),
    "prod480x2": cards("NVIDIA A100-SXM4-80GB", 81920, 4),
}
TWO = {"name": "big", "hosts": ["gpu1", "gpu2"], "gbit": 200}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fits_what_it_is_made_for_and_asks_for_no_less_than_it_needs(name: str) -> None:
    preset = PRESETS[name]
    group = TWO if preset["engine"].get("nodes") else None
    plan = choose_preset(PRESETS, name, MADE_FOR[name], None, group=group)["plan"]
    assert plan["fits"], plan["reasons"]
    assert preset["host_memory_gb"] >= plan["memory_bytes"] / 1e9
    assert preset["disk_gb"] >= plan["disk_bytes"] / 1e9
    assert preset["workspace_budget"] < plan["max_model_len"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_pins_all_that_it_must(name: str) -> None:
    preset = PRESETS[name]
    assert list(filters.mistakes(name, preset, filters.KNOWN)) == []
    # dev32 waits for somebody who can see the hub, and is refused until then.
    assert re.fullmatch(r"[0-9a-f]{40}", preset["model"]["revision"]) or name == "dev32"
    assert preset["model"]["licence"]
    assert preset["tuple"]["vllm"] == "0.32.0"
    assert preset["engine"]["tool_call_parser"]
    if preset["gpus"]:
        assert preset["least_driver"]


@pytest.mark.parametrize(
    ("preset", "model"),
    [
        ("cpu", "Qwen2.5-Coder-0.5B-Instruct"),
        ("dev24", "Qwen2.5-Coder-7B-Instruct"),
        ("dev32-awq", "Qwen2.5-Coder-32B-Instruct"),
        ("moe80", "Qwen3-Coder-30B-A3B-Instruct"),
        ("prod480", "Qwen3-Coder-480B-A35B-Instruct-FP8"),
    ],
)
def test_a_presets_facts_are_those_of_its_model(preset: str, model: str) -> None:
    told = PRESETS[preset]["model"]["config"]
    known = {key: value for key, value in FACTS[model]["config"].items() if "sliding" not in key}
    other: dict[str, Any] = {"quantization_config": None}
    if preset == "dev32-awq":  # a copy in 4 bits, published with activations of another type
        other["torch_dtype"] = None
    assert {**told, **other} == {**known, **other}


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "cpu"])
def test_a_model_is_computed_in_the_type_in_which_it_was_published(name: str) -> None:
    preset = PRESETS[name]
    assert preset["engine"]["dtype"] == preset["model"]["config"]["torch_dtype"]


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "cpu"])
def test_fp8_experts_have_kernels_that_need_no_compiler(name: str) -> None:
    config = PRESETS[name]["model"]["config"]
    is_fp8 = config.get("quantization_config", {}).get("quant_method") == "fp8"
    has_experts = "num_experts" in config
    assert PRESETS[name]["engine"].get("moe_backend") == (
        "triton" if is_fp8 and has_experts else None
    )


@pytest.mark.parametrize(
    ("gpus", "name"),
    [
        ([], "cpu"),
        (cards("NVIDIA RTX A4000", 16376), "cpu"),
        (MADE_FOR["dev24"], "dev24"),
        (MADE_FOR["dev32"], "dev32-awq"),
        (A100, "moe80"),
        (cards("NVIDIA A100-SXM4-80GB", 81920, 4), "moe80"),
        (cards("NVIDIA A100-SXM4-80GB", 81920, 8), "prod480"),
        (MADE_FOR["prod480"], "prod480"),
    ],
)
def test_auto_takes_the_best_that_fits_and_is_pinned(gpus: list[Any], name: str) -> None:
    assert choose_preset(PRESETS, "auto", gpus, None)["name"] == name


def test_a_preset_that_is_not_pinned_is_refused_with_the_mend() -> None:
    (refusal,) = choose_preset(PRESETS, "dev32", A6000, None)["refusals"]
    assert "Preset dev32 is not pinned to a revision of Qwen/Qwen2.5-Coder-32B" in refusal
    assert "infbox_preset_overrides" in refusal
    pinned = filters.presets_with(PRESETS, {}, {"model": {"revision": "0" * 40}})
    assert choose_preset(pinned, "dev32", A6000, None)["refusals"] == []


def test_an_override_beyond_what_fits_is_refused_with_the_arithmetic() -> None:
    longer = {"engine": {"max_model_len": 262144, "gpu_memory_utilization": 0.7}}
    presets = filters.presets_with(PRESETS, {}, longer)
    (refusal,) = choose_preset(presets, "moe80", A6000, None)["refusals"]
    assert "Preset moe80 does not fit:" in refusal
    assert "33.6 GiB (70% of 49140 MiB) - weights 29.1 GiB - computing" in refusal
    assert "fewer than 262,144" in refusal


def test_an_override_changes_only_what_it_names() -> None:
    presets = filters.presets_with(PRESETS, {}, {"lmcache": {"l1_size_gb": 8}})
    assert presets["moe80"]["lmcache"] == {"l1_size_gb": 8, "l2_size_gb": 250}
    assert PRESETS["moe80"]["lmcache"]["l1_size_gb"] == 64


def test_ones_own_preset_is_like_another_but_for_what_it_says() -> None:
    more = {"big": {"like": "moe80", "engine": {"tensor_parallel_size": 2}}}
    presets = filters.presets_with(PRESETS, more, {})
    assert presets["big"]["model"] == PRESETS["moe80"]["model"]
    two = cards("NVIDIA A100-SXM4-80GB", 81920, 2)
    assert choose_preset(presets, "auto", two, None)["name"] == "big"


def test_a_config_of_ones_own_is_taken_whole() -> None:
    config = FACTS["gpt-oss-20b"]["config"]
    more = {"oss": {"like": "dev24", "model": {"config": config, "weights_bytes": 13761264768}}}
    assert filters.presets_with(PRESETS, more, {})["oss"]["model"]["config"] == config


@pytest.mark.parametrize(
    ("more", "overrides", "words"),
    [
        ([], {}, "infbox_more_presets is []"),
        ({}, "fast", "infbox_preset_overrides is 'fast'"),
        ({"mine": {}}, {}, "infbox_more_presets.mine is like None. Set its like to one of cpu"),
        ({"cpu": {"like": "dev24"}}, {}, "has the name of a preset that there is"),
        ({"mine": 1}, {}, "infbox_more_presets.mine is 1"),
        ({}, {"engine": 1}, "infbox_preset_overrides.engine is 1"),
        ({}, {"engine": {"kv_cache_dtype": "fp8"}}, "engine.kv_cache_dtype is nothing that a"),
        ({}, {"engine": {"dtype": "fp8"}}, "dtype is 'fp8'. Set it to one of float16, bfloat16."),
        ({}, {"lmcash": {}}, "Did you mean lmcache?"),
    ],
)
def test_mistakes_are_named(more: Any, overrides: Any, words: str) -> None:
    found = filters.preset_mistakes(PRESETS, more, overrides)
    assert words in " ".join(found)
    # What is wrong is told, and stands in nobody's way until it is.
    assert set(filters.presets_with(PRESETS, more, overrides)) >= set(PRESETS)


@pytest.mark.parametrize("key", ["max_model_len", "tensor_parallel_size", "gpu_memory_utilization"])
@pytest.mark.parametrize("value", [-1, "many", True, None])
def test_an_absurd_override_is_refused_by_name(key: str, value: object) -> None:
    presets = filters.presets_with(PRESETS, {}, {"engine": {key: value}})
    (refusal,) = choose_preset(presets, "moe80", A100, None)["refusals"]
    assert f"Preset moe80 cannot be planned. {key} is {value!r}" in refusal.replace("-1.0", "-1")


def test_cards_that_are_none_are_refused() -> None:
    for given in ("four", [1], [{"memory_mib": "80"}], [{"memory_mib": 1, "count": True}]):
        choice = choose_preset(PRESETS, "auto", given, None)
        assert "infbox_gpus is not a list of cards" in choice["refusals"][0]
