"""A plan that was too greedy: what is read of vLLM's own words, and what is planned then."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugins.planner.lowering import in_force, key
from tests.plugins.plugin_files import ROOT, load

presets = load("filter", "presets")
host_info = load("modules", "infbox_host_info")

TABLE = yaml.safe_load((ROOT / "group_vars/all/presets.yml").read_text())["_infbox_presets"]
RTX_4090 = [{"name": "NVIDIA GeForce RTX 4090", "memory_mib": 24564, "count": 1}]
A100 = [{"name": "NVIDIA A100-SXM4-80GB", "memory_mib": 81920, "count": 4}]
FILE = "/etc/infbox/lowered.json"

# As vLLM 0.32 writes them: `_check_enough_kv_cache_memory`, `request_memory`, `_dummy_sampler_run`.
WINDOW = (
    "(EngineCore pid=214) ERROR 11-30 08:41:07 [core.py:1210] ValueError: To serve at least one"
    " request with the model's max seq len (49584), (4.54 GiB KV cache is needed, which is larger"
    " than the available KV cache memory (3.9 GiB). Based on the available memory, the estimated"
    " maximum model length is 42592. Try increasing `gpu_memory_utilization` (which also controls"
    " CPU memory on the CPU backend) or decreasing `max_model_len` when initializing the engine."
)
SHARE = (
    "ValueError: Free memory on device cuda:0 (21.01/23.52 GiB) on startup is less than desired GPU"
    " memory utilization (0.9, 21.17 GiB). Decrease GPU memory utilization or reduce GPU memory"
    " used by other processes."
)
AVAILABLE = "INFO 11-30 08:41:07 [gpu_worker.py:759] Available KV cache memory: -0.21 GiB"
NOTHING = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_util"
SAMPLER = (
    "RuntimeError: CUDA out of memory occurred when warming up sampler with 64 dummy requests."
    " Please try lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine."
)


def chosen(gpus: Any, preset: str = "auto", lowered: Any = None) -> dict[str, Any]:
    """What a host with these GPUs gets."""
    found: dict[str, Any] = presets.choose_preset(
        TABLE, preset, gpus, None, lowered=lowered, lowered_file=FILE
    )
    return found


def lowered(gpus: Any, lines: Sequence[str], preset: str = "auto") -> tuple[Any, dict[str, Any]]:
    """What becomes of a host whose engine wrote these lines, and its choice before."""
    before = chosen(gpus, preset)
    found = presets.lowering(
        TABLE, before["name"], before["changes"], gpus, lines, date="2026-11-30"
    )
    return found, before


def engine(choice: dict[str, Any]) -> dict[str, Any]:
    """What of the engine holds otherwise on the host."""
    return dict(choice["changes"]["engine"])


def test_a_window_that_had_no_room_is_shortened_to_what_the_engine_estimated() -> None:
    found, before = lowered(RTX_4090, [WINDOW, "Engine core initialization failed."])
    after = chosen(RTX_4090, lowered=found["record"])
    assert after["refusals"] == []
    assert after["name"] == before["name"] == "moe24"
    assert (
        after["plan"]["max_model_len"] == 41_312 <= 0.97 * 42_592 < before["plan"]["max_model_len"]
    )
    # Not the larger form, which would fit by the shorter window, and compute more at once.
    assert engine(after)["max_num_seqs"] == engine(before)["max_num_seqs"] == 16
    assert 42_592 * 0.99 < after["plan"]["kv_tokens"] <= 42_592
    (note,) = [note for note in after["notes"] if "was lowered" in note]
    assert note == after["lowered"]
    assert "on 2026-11-30, since vLLM had 3.9 GiB for KV, too little for its context" in note
    assert "window 41,312 instead of" in note
    assert f"remove {FILE} on the host and run site.yml" in note


def test_a_share_of_a_gpu_that_was_not_free_becomes_smaller() -> None:
    found, before = lowered(RTX_4090, [SHARE])
    after = chosen(RTX_4090, lowered=found["record"])
    assert engine(after)["gpu_memory_utilization"] == 0.88
    assert after["plan"]["fits"]
    assert after["plan"]["kv_tokens"] < before["plan"]["kv_tokens"]
    assert "gpu_memory_utilization 0.88 instead of 0.92" in after["lowered"]


def test_a_gpu_that_another_program_uses_is_no_reason_to_plan_with_less() -> None:
    found, _ = lowered(RTX_4090, [SHARE.replace("21.01/", "3.25/")])
    assert found["record"] == {}
    assert "another program uses the GPU (nvidia-smi lists them). End it" in found["why"]


def test_steps_become_smaller_where_nothing_was_left_for_kv() -> None:
    # Each request of a step has a price in memory: 1,024 of them, as many as vLLM takes by itself.
    table = {"wide": {**TABLE["moe24"], "smaller": []}}
    table["wide"]["engine"] = {
        **table["wide"]["engine"],
        "max_num_seqs": 512,
        "min_model_len": 4096,
    }
    before = presets.choose_preset(table, "wide", RTX_4090, None)
    assert before["plan"]["fits"], before
    lines = [AVAILABLE, NOTHING]
    found = presets.lowering(table, "wide", before["changes"], RTX_4090, lines, date="2026-11-30")
    assert found["record"]["engine"]["max_num_seqs"] == 256, found
    after = presets.choose_preset(table, "wide", RTX_4090, None, lowered=found["record"])
    assert 0 < after["plan"]["kv_tokens"] < before["plan"]["kv_tokens"]
    assert "weights and computing left vLLM no memory for KV" in after["lowered"]


def test_nothing_is_tried_that_would_not_fit_by_the_plan_either() -> None:
    found, _ = lowered(RTX_4090, [AVAILABLE.replace("0.21", "4.2"), NOTHING])
    assert found["record"] == {}
    assert "with less it would not fit at all" in found["why"]


def test_half_of_the_requests_are_sampled_at_once_where_that_took_too_much() -> None:
    found, before = lowered(A100, [SAMPLER], "moe80")
    after = chosen(A100, "moe80", found["record"])
    assert engine(after)["max_num_seqs"] == 32
    # What that saves is no KV: it was never there.
    assert after["plan"]["kv_tokens"] <= before["plan"]["kv_tokens"]
    assert "max_num_seqs 32 instead of 64" in after["lowered"]


def test_a_window_that_would_be_of_no_use_is_not_tried() -> None:
    line = WINDOW.replace("42592", "2000")
    found, _ = lowered(RTX_4090, [line])
    assert found["record"] == {}
    assert "a window of 1,936 tokens would be left, fewer than" in found["why"]


def test_the_last_reason_in_the_log_counts() -> None:
    found, _ = lowered(A100, [SAMPLER, SHARE, SAMPLER], "moe80")
    assert "max_num_seqs" in found["record"]["engine"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ValueError: the tokenizer is missing",
        WINDOW.replace("42592", "9" * 400).replace("3.9 GiB", f"{'9' * 400} GiB"),
        SHARE.replace("21.01/23.52", "nan/inf"),
        SAMPLER.replace("64", "-1"),
        "x" * 5000 + SAMPLER,
    ],
)
def test_what_is_no_known_reason_changes_nothing(line: str) -> None:
    found, _ = lowered(RTX_4090, [line])
    assert found == {"record": {}, "why": ""}


def test_numbers_that_make_no_sense_are_refused() -> None:
    for line in (SHARE.replace("21.01/23.52", "0/0"), SAMPLER.replace("64", "0")):
        found, _ = lowered(RTX_4090, [line])
        assert found["record"] == {}
        assert found["why"]


@pytest.mark.parametrize("what", ["gpu", "model", "engine", "version", "preset"])
def test_it_is_forgotten_where_what_it_was_for_is_another(what: str) -> None:
    found, _ = lowered(RTX_4090, [WINDOW])
    record = found["record"]
    assert in_force(record, TABLE, RTX_4090) == record
    table = json.loads(json.dumps(TABLE))
    gpus = [{**RTX_4090[0], "count": 2}] if what == "gpu" else RTX_4090
    if what == "model":
        table["moe24"]["model"]["revision"] = "0" * 40
    if what == "engine":
        table["moe24"]["engine"]["max_num_seqs"] = 7
    if what == "version":
        table["moe24"]["versions"]["vllm"] = "0.33.0"
    if what == "preset":
        table["other"] = table.pop("moe24")
    assert in_force(record, table, gpus) == {}


def test_another_preset_is_not_lowered_by_it() -> None:
    found, _ = lowered(A100, [SAMPLER], "moe80")
    assert chosen(A100, "air141", found["record"]) == chosen(A100, "air141")


@pytest.mark.parametrize(
    "change",
    [
        {"engine": {"gpu_memory_utilization": 7.0}},
        {"engine": {"tensor_parallel_size": 1}},
        {"engine": {"max_num_seqs": True}},
        {"engine": {"max_num_seqs": 1.5}},
        {"engine": {"max_model_len": -1}},
        {"engine": []},
        {"before": {"kv_tokens": "many"}},
        {"reason": "two\nlines"},
        {"reason": "x" * 1000},
        {"date": "yesterday"},
        {"preset": "none"},
        {"key": 5},
    ],
)
def test_a_record_that_is_none_is_passed_over(change: dict[str, Any]) -> None:
    record = lowered(RTX_4090, [WINDOW])[0]["record"] | change
    assert in_force(record, TABLE, RTX_4090) == {}
    others: list[Any] = [None, {}, [], "text", 5]
    for other in others:
        assert in_force(other, TABLE, RTX_4090) == {}


def test_what_a_host_keeps_is_read_and_anything_else_is_nothing(tmp_path: Path) -> None:
    file = tmp_path / "lowered.json"
    assert host_info.record(str(file)) == {}
    for text in ("", "[]", "{", "[" * 60_000, '{"a": "' + "x" * 70_000 + '"}'):
        file.write_text(text)
        assert host_info.record(str(file)) == {}
    found, _ = lowered(RTX_4090, [WINDOW])
    file.write_text(json.dumps(found["record"]))
    assert host_info.record(str(file)) == found["record"]
    assert key(TABLE, "moe24", RTX_4090) == found["record"]["key"]


def test_memory_can_be_kept_from_kv_by_hand() -> None:
    table = {"moe80": TABLE["moe80"]}
    table["moe80"] = {**table["moe80"], "engine": {**TABLE["moe80"]["engine"], "reserve_gib": 2}}
    less = presets.choose_preset(table, "moe80", A100, None)["plan"]
    assert less["kv_tokens"] < chosen(A100, "moe80")["plan"]["kv_tokens"]
    assert "reserve_gib 2.0 GiB" in less["reasons"][0]
