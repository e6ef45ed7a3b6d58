"""The presets as data: that they hold together, and how they are adjusted and chosen."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugins.planner.gpus import named_gpus
from tests.plugins.plugin_files import ROOT, load

choose_preset = load("filter", "presets").choose_preset
preset_rows = load("filter", "presets").preset_rows
filters = load("filter", "plan")
PRESETS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(ROOT / "group_vars/all/presets.yml").read_text(encoding="utf-8")
)["_infbox_presets"]
FACTS = yaml.safe_load((ROOT / "tests/plugins/models.yml").read_text(encoding="utf-8"))
CONFIGS = json.loads((ROOT / "tests/plugins/configs.json").read_text(encoding="utf-8"))


def equal_gpus(name: str, memory_mib: int, count: int = 1) -> list[dict[str, Any]]:
    return [{"name": name, "memory_mib": memory_mib, "count": count}]


A100 = equal_gpus("NVIDIA A100-SXM4-80GB", 81920)
A6000 = equal_gpus("NVIDIA RTX A6000", 49140)
# Each preset with each kind of host for which its row says that it is intended.
INTENDED = [
    (name, text) for name, preset in PRESETS.items() for text in preset.get("intended_gpus", [""])
]


@pytest.mark.parametrize(("name", "text"), INTENDED)
def test_a_preset_fits_the_intended_gpus_and_asks_for_no_less_than_it_needs(
    name: str, text: str
) -> None:
    nodes = PRESETS[name]["engine"].get("nodes", 1)
    group = {"name": "big", "hosts": [f"gpu{node}" for node in range(nodes)], "gbit": 200}
    given = [named_gpus(text)] if text else []
    chosen = choose_preset(PRESETS, name, given, None, group=group if nodes > 1 else None)
    plan, preset = chosen["plan"], filters.merged(PRESETS[name], chosen["changes"])
    assert plan["fits"], plan["reasons"]
    assert preset["host_memory_gb"] >= plan["memory_bytes"] / 1e9
    assert preset["disk_gb"] >= plan["disk_bytes"] / 1e9
    assert preset["workspace_budget"] < plan["max_model_len"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_pins_all_that_it_must(name: str) -> None:
    preset = PRESETS[name]
    assert list(filters.mistakes(name, preset, filters.KNOWN)) == []
    # dev32 waits for somebody who can see the hub; a host asks it for the commit until then.
    assert re.fullmatch(r"[0-9a-f]{40}", preset["model"]["revision"]) or name == "dev32"
    assert preset["model"]["license"]
    assert preset["versions"]["vllm"] == "0.32.0"
    assert preset["engine"]["tool_call_parser"]
    if preset["gpus"]:
        assert preset["min_driver_version"]
        assert preset["intended_gpus"]


def test_the_page_lists_every_preset() -> None:
    page = (ROOT / "docs/presets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?`) \|", page, re.MULTILINE)
    assert {name.strip("`") for row in rows for name in row.split(", ")} >= set(PRESETS)


@pytest.mark.parametrize(
    ("preset", "model"),
    [
        ("cpu", "Qwen2.5-Coder-0.5B-Instruct"),
        ("dev24", "Qwen2.5-Coder-7B-Instruct"),
        ("dev32-awq", "Qwen2.5-Coder-32B-Instruct"),
        ("moe24", "Qwen3-Coder-30B-A3B-Instruct"),
        ("moe80", "Qwen3-Coder-30B-A3B-Instruct"),
        ("air141", "GLM-4.5-Air"),
        ("prod480", "Qwen3-Coder-480B-A35B-Instruct-FP8"),
    ],
)
def test_a_presets_facts_are_those_of_its_model(preset: str, model: str) -> None:
    told = PRESETS[preset]["model"]["config"]
    fact = FACTS[model] if model in FACTS else CONFIGS[model]
    known = {key: value for key, value in fact["config"].items() if key in told}
    assert len(known) >= 9
    # The preset may be a copy with other weights.
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
    method = config.get("quantization_config", {}).get("quant_method")
    is_fp8 = method in ("fp8", "compressed-tensors")
    has_experts = "num_experts" in config or "n_routed_experts" in config
    assert PRESETS[name]["engine"].get("moe_backend") == (
        "triton" if is_fp8 and has_experts else None
    )


RTX_4090 = equal_gpus("NVIDIA GeForce RTX 4090", 24564)


@pytest.mark.parametrize(
    ("gpus", "name"),
    [
        ([], "cpu"),
        (equal_gpus("NVIDIA RTX A4000", 16376), "cpu"),
        (equal_gpus("NVIDIA L4", 23034), "moe24"),
        (A6000, "moe80"),
        (equal_gpus("NVIDIA H100 80GB HBM3", 81559, 4), "prod480"),
    ],
)
def test_auto_takes_the_best_that_fits(gpus: list[Any], name: str) -> None:
    assert choose_preset(PRESETS, "auto", gpus, None)["name"] == name


# What people own, and what `auto` makes of it.
MACHINES = [
    ("NVIDIA GeForce RTX 4090", 24564, 1, "moe24"),
    ("NVIDIA GeForce RTX 5090", 32607, 1, "moe24"),
    ("NVIDIA L40S", 46068, 1, "moe80"),
    ("NVIDIA A100-SXM4-80GB", 81920, 1, "moe80"),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, 1, "moe80"),
    ("NVIDIA H200", 143771, 1, "air141"),
    ("NVIDIA GeForce RTX 3090", 24576, 2, "moe80"),
    ("NVIDIA L40S", 46068, 2, "moe80"),
    ("NVIDIA A100-SXM4-80GB", 81920, 2, "air141"),
    ("NVIDIA GeForce RTX 3090", 24576, 4, "moe80"),
    ("NVIDIA L40S", 46068, 4, "air141"),
    ("NVIDIA A100-SXM4-80GB", 81920, 4, "prod480"),
    ("NVIDIA H200", 143771, 4, "prod480"),
    ("NVIDIA A100-SXM4-80GB", 81920, 8, "prod480"),
    ("NVIDIA H200", 143771, 8, "prod480"),
    ("NVIDIA B200", 183359, 8, "prod480"),
]


@pytest.mark.parametrize(("gpu", "memory_mib", "count", "name"), MACHINES)
def test_auto_uses_all_gpus_of_the_machines_that_people_own(
    gpu: str, memory_mib: int, count: int, name: str
) -> None:
    chosen = choose_preset(PRESETS, "auto", equal_gpus(gpu, memory_mib, count), None)
    assert (chosen["name"], chosen["plan"]["gpus"]) == (name, count)
    assert not any("Idle" in note for note in chosen["notes"])
    # A pack leaves room for a conversation, and agents have their tool calls.
    preset = filters.merged(PRESETS[name], chosen["changes"])
    assert preset["workspace_budget"] <= chosen["plan"]["max_model_len"] / 2
    assert preset["engine"].get("tool_calls", True)


def test_a_gpu_that_stays_idle_is_named() -> None:
    chosen = choose_preset(PRESETS, "auto", equal_gpus("NVIDIA A100-SXM4-80GB", 81920, 3), None)
    assert chosen["notes"][0] == (
        "Preset air141 uses 2 x NVIDIA A100-SXM4-80GB. Idle: 1 x NVIDIA A100-SXM4-80GB of 81920"
        " MiB, which cannot share this model's layers with them."
    )
    chosen = choose_preset(PRESETS, "auto", [*A100, *RTX_4090], None)
    assert "Idle: 1 x NVIDIA GeForce RTX 4090 of 24564 MiB" in chosen["notes"][0]


def test_dev32_serves_on_24_gb_with_a_short_window_and_a_small_pack() -> None:
    chosen = choose_preset(PRESETS, "dev32", RTX_4090, None)
    assert chosen["refusals"] == []
    assert 8_192 <= chosen["plan"]["max_model_len"] <= 12_000
    assert filters.merged(PRESETS["dev32"], chosen["changes"])["workspace_budget"] == 4000
    assert "in a smaller form: a window of about 10,000 tokens" in chosen["notes"][0]


@pytest.mark.parametrize("gpu", ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"])
def test_prod480_serves_on_four_gpus_of_80_gb_in_4_bits(gpu: str) -> None:
    chosen = choose_preset(PRESETS, "prod480", equal_gpus(gpu, 81559, 4), None)
    assert chosen["refusals"] == []
    assert 150_000 < chosen["plan"]["kv_tokens"] < 200_000
    preset = filters.merged(PRESETS["prod480"], chosen["changes"])
    assert preset["model"]["repository"] == "QuantTrio/Qwen3-Coder-480B-A35B-Instruct-AWQ"
    # Taken whole: nothing of the FP8 one is left in it.
    assert preset["model"]["config"]["quantization_config"] == {
        "quant_method": "awq", "group_size": 128,
    }  # fmt: skip


def host(memory_gb: float, disk_gb: float = 2000) -> dict[str, Any]:
    return {"memory_bytes": memory_gb * 1e9, "free_bytes": disk_gb * 1e9, "used_bytes": 0,
            "driver_version": "580.173.02"}  # fmt: skip


def test_auto_keeps_less_kv_in_memory_where_the_host_is_short_of_it() -> None:
    chosen = choose_preset(PRESETS, "auto", A6000, host(64))
    assert (chosen["name"], chosen["refusals"]) == ("moe80", [])
    assert chosen["changes"]["lmcache"] == {"l1_size_gb": 32, "l2_size_gb": 125}
    assert chosen["changes"]["host_memory_gb"] == 48
    assert "preset moe80 keeps 32 GB of KV in memory and 125 GB on disk instead." in " ".join(
        chosen["notes"]
    )


def test_auto_falls_to_the_next_preset_where_that_is_not_enough() -> None:
    four = equal_gpus("NVIDIA A100-SXM4-80GB", 81920, 4)
    chosen = choose_preset(PRESETS, "auto", four, host(256, disk_gb=300))
    assert (chosen["name"], chosen["refusals"]) == ("air141", [])
    assert chosen["plan"]["gpus"] == 4
    assert "Preset prod480 needs 850 GB of disk, this host has 300.0 GB free" in chosen["notes"][0]
    assert "It is passed over." in chosen["notes"][0]


@pytest.mark.parametrize("memory", [4, 8])
def test_auto_refuses_the_best_by_name_where_nothing_has_the_memory_that_it_needs(
    memory: float,
) -> None:
    # 8 GB would do for the preset without GPUs, which leaves these idle.
    chosen = choose_preset(PRESETS, "auto", A6000, host(memory))
    assert chosen["name"] == "moe80"
    refusal = f"Preset moe80 needs 80 GB of memory, this host has {memory:.1f} GB."
    assert refusal in chosen["refusals"][0]


def test_a_preset_without_tool_calls_says_so() -> None:
    chosen = choose_preset(PRESETS, "dev32", A6000, None)
    assert any("Preset dev32 has no tool calls" in note for note in chosen["notes"])
    assert not any("no tool calls" in note
                   for note in choose_preset(PRESETS, "moe80", A6000, None)["notes"])  # fmt: skip


def test_an_override_holds_in_the_smaller_forms_too() -> None:
    shorter = filters.presets_with(PRESETS, {}, {"engine": {"max_num_seqs": 4}})
    assert shorter["dev32"]["smaller"][0]["engine"]["max_num_seqs"] == 4
    assert shorter["dev32"]["smaller"][0]["engine"]["min_model_len"] == 8192


def test_a_preset_that_names_no_commit_is_taken_and_told_of() -> None:
    wanted, given = "dev32", equal_gpus("NVIDIA GeForce RTX 5090", 32607)
    chosen = choose_preset(PRESETS, wanted, given, None)
    assert (chosen["name"], chosen["refusals"]) == ("dev32", [])
    assert "Preset dev32 names no commit of Qwen/Qwen2.5-Coder-32B" in chosen["notes"][-1]
    pinned = filters.presets_with(PRESETS, {}, {"model": {"revision": "0" * 40}})
    notes = choose_preset(pinned, wanted, given, None)["notes"]
    assert not any("commit" in note for note in notes)


def test_an_override_beyond_what_fits_is_refused_with_the_arithmetic() -> None:
    longer = {"engine": {"max_model_len": 262144, "gpu_memory_utilization": 0.7}}
    presets = filters.presets_with(PRESETS, {}, longer)
    (refusal,) = choose_preset(presets, "moe80", A6000, None)["refusals"]
    assert "Preset moe80 does not fit:" in refusal
    assert "33.1 GiB (70% of the 47.3 GiB that CUDA has of 49140 MiB)" in refusal
    assert "- weights 29.1 GiB - computing" in refusal
    assert "fewer than 262,144" in refusal


def test_an_override_changes_only_what_it_names() -> None:
    presets = filters.presets_with(PRESETS, {}, {"lmcache": {"l1_size_gb": 8}})
    assert presets["moe80"]["lmcache"] == {"l1_size_gb": 8, "l2_size_gb": 250}
    assert PRESETS["moe80"]["lmcache"]["l1_size_gb"] == 64


def test_ones_own_preset_is_like_another_but_for_what_it_says() -> None:
    more = {"big": {"like": "moe80", "engine": {"tensor_parallel_size": 2}}}
    presets = filters.presets_with(PRESETS, more, {})
    assert presets["big"]["model"] == PRESETS["moe80"]["model"]
    two = equal_gpus("NVIDIA RTX A6000", 49140, 2)
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
        ({}, {"intended_gpus": "H200"}, "intended_gpus is 'H200'. Write it as a list, such as"),
        ({}, {"intended_gpus": ["H200"]}, "intended_gpus: 'H200' is no number of GPUs. Write it"),
        ({}, {"intended_gpus": ["2 x NVIDIA H20O"]}, "is no GPU NVIDIA H20O in plugins/planner/g"),
    ],
)
def test_mistakes_are_named(more: Any, overrides: Any, words: str) -> None:
    found = filters.preset_mistakes(PRESETS, more, overrides)
    assert words in " ".join(found)
    # What is wrong is told, and stands in nobody's way until it is.
    assert set(filters.presets_with(PRESETS, more, overrides)) >= set(PRESETS)


def test_a_key_by_an_earlier_name_is_refused_with_the_one_that_it_has() -> None:
    more = {
        "mine": {
            "like": "moe80",
            "least_driver": "580.65.06",
            "model": {"licence": "MIT"},
            "smaller": [{"engine": {"least_model_len": 8192}}],
        }
    }
    found = filters.preset_mistakes(PRESETS, more, {"tuple": {}})
    assert [
        re.sub(r"^infbox_(more_presets\.mine|preset_overrides)\.", "", row) for row in found
    ] == [
        "least_driver is now named min_driver_version. Rename it.",
        "model.licence is now named license. Rename it.",
        "smaller[0].engine.least_model_len is now named min_model_len. Rename it.",
        "tuple is now named versions. Rename it.",
    ]


@pytest.mark.parametrize("key", ["max_model_len", "tensor_parallel_size", "gpu_memory_utilization"])
@pytest.mark.parametrize("value", [-1, "many", True, None])
def test_an_absurd_override_is_refused_by_name(key: str, value: object) -> None:
    presets = filters.presets_with(PRESETS, {}, {"engine": {key: value}})
    (refusal,) = choose_preset(presets, "moe80", A100, None)["refusals"]
    assert f"Preset moe80 cannot be planned. {key} is {value!r}" in refusal.replace("-1.0", "-1")


def test_gpus_that_are_none_are_refused() -> None:
    for given in ("four", [1], [{"memory_mib": "80"}], [{"memory_mib": 1, "count": True}]):
        choice = choose_preset(PRESETS, "auto", given, None)
        assert "infbox_gpus is not a list of GPUs" in choice["refusals"][0]


def test_what_each_preset_comes_to_is_one_table() -> None:
    gpus = equal_gpus("NVIDIA GeForce RTX 3090", 24576, 3)
    rows = preset_rows(PRESETS, gpus)
    assert [row["preset"] for row in rows][-1] == "cpu"
    by_name = {row["preset"]: row for row in rows}
    assert set(by_name) == set(PRESETS)
    moe = by_name["moe80"]
    assert (moe["fits"], moe["gpus"]) == (True, 2)
    assert moe["idle"] == ["1 x NVIDIA GeForce RTX 3090 of 24576 MiB"]
    assert moe["memory_tokens"] == 64_000_000_000 // 98304
    assert "Qwen3-Coder-480B" in by_name["prod480"]["reason"]
    table = filters.preset_table(rows).splitlines()
    assert table[0].split() == [
        "preset", "fits", "window", "users", "KV", "tokens", "pack", "in", "memory", "on", "disk",
        "idle", "GPUs",
    ]  # fmt: skip
    (line,) = (line for line in table if line.startswith("moe80 "))
    assert line.split()[1:4] == ["smaller", f"{moe['max_model_len']:,}", str(moe["users"])]
    assert line.endswith("1 x NVIDIA GeForce RTX 3090 of 24576 MiB")
    assert any(line.split() == ["prod480", "no"] for line in table)


def test_gpus_that_are_none_have_no_table() -> None:
    assert preset_rows(PRESETS, "four") == []
