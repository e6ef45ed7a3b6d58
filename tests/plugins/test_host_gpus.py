"""Which GPUs a host has, by its owner, its driver or PCI ids alone."""

import re
from typing import Any

import pytest

from plugins.planner.gpu_groups import GpuGroup
from plugins.planner.gpus import GPUS
from tests.plugins.plugin_files import ROOT, load

host_gpus = load("filter", "host_gpus")
presets = load("filter", "presets")
nvidia_smi = load("filter", "nvidia_smi")

SILENT = nvidia_smi.nvidia_smi_gpus("")


def bus(*ids: str) -> list[dict[str, str]]:
    return [
        {
            "address": f"0000:{number:02x}:00.0",
            "device": device[:4],
            "subsystem": device[5:],
            "driver": "",
        }
        for number, device in enumerate(ids)
    ]


def known(*ids: str, given: Any = None, **driver: Any) -> Any:
    return host_gpus.host_gpus(given, bus(*ids), {**SILENT, **driver}, by_pci=True)


def test_gpus_are_known_by_their_pci_ids() -> None:
    seen = known("2330", "2330", "2684")
    assert seen["source"] == "pci"
    assert seen["gpus"] == [
        {
            "name": "NVIDIA H100 80GB HBM3",
            "memory_mib": 81559,
            "count": 2,
            "compute_capability": "9.0",
        },
        {
            "name": "NVIDIA GeForce RTX 4090",
            "memory_mib": 24564,
            "count": 1,
            "compute_capability": "8.9",
        },
    ]
    assert seen["most"] == seen["gpus"]
    assert seen["unknown"] == []


def test_one_that_no_id_tells_leaves_all_of_them_unknown() -> None:
    seen = known("2330", "ffff")
    assert (seen["source"], seen["gpus"]) == ("unknown", [])
    assert seen["unknown"] == ["0000:01:00.0 (PCI id 10de:ffff)"]


def test_memory_that_an_id_does_not_tell_is_not_guessed() -> None:
    seen = known("2bb3")
    assert [seen[key][0]["memory_mib"] for key in ("gpus", "most")] == [48935, 73415]
    assert seen["unknown"] == ["1 x NVIDIA RTX PRO 5000 Blackwell, of 48935 to 73415 MiB"]


def test_the_subsystem_tells_boards_of_one_id_apart() -> None:
    assert known("1e30:10de:129e")["gpus"][0]["name"] == "Quadro RTX 8000"
    assert known("1e30:10de:12BA")["gpus"][0]["name"] == "Quadro RTX 6000"
    assert known("1e30:1028:129e")["gpus"][0]["name"] == "Quadro RTX 6000/8000"


def test_the_owner_counts_before_the_driver_and_the_driver_before_the_bus() -> None:
    mine = [{"name": "x", "memory_mib": 1, "count": 1}]
    assert known("2330", given=mine)["source"] == "given"
    assert known("2330", driver_version="580.1", gpus=mine)["gpus"] == mine
    assert known("2330", split=["NVIDIA A100"])["source"] == "driver"
    # Output that cannot be read is refused, not passed over.
    assert known("2330", problems=["it ends before its end"])["source"] == "driver"
    assert known()["source"] == "none"


def test_pci_ids_stand_in_for_a_driver_only_where_one_comes() -> None:
    assert host_gpus.host_gpus(None, bus("2330"), SILENT)["source"] == "silent"


@pytest.mark.parametrize("number", GPUS)
def test_a_kind_of_gpu_is_told_as_the_driver_would(number: str) -> None:
    gpu = GPUS[number]
    assert re.fullmatch(r"[0-9a-f]{4}(:[0-9a-f]{4}){0,2}", number)
    assert 0 < gpu.min_mib <= gpu.max_mib
    # What the names alone say must not differ.
    assert GpuGroup(gpu.name, gpu.min_mib, 1).capability == gpu.capability


@pytest.mark.parametrize("file", sorted((ROOT / "tests/plugins/nvidia_smi").glob("*.xml")))
def test_what_real_drivers_told_is_within_what_the_table_says(file: Any) -> None:
    seen = nvidia_smi.nvidia_smi_gpus(file.read_text(encoding="utf-8"))
    by_name = {gpu.name: gpu for gpu in GPUS.values()}
    for gpu in seen["gpus"]:
        kind = by_name[gpu["name"]]
        assert kind.min_mib <= gpu["memory_mib"] <= kind.max_mib
    assert {*seen["split"]} <= {*by_name}


TABLE: dict[str, Any] = {
    "cpu": {"gpus": 0},
    "dev24": {"gpus": 1, "gpu_memory_mib": 22528},
    "dev48": {"gpus": 1, "gpu_memory_mib": 46000},
    "dev72": {"gpus": 1, "gpu_memory_mib": 70000},
}


@pytest.mark.parametrize(
    ("number", "wanted", "same"),
    [
        ("2bb3", "auto", False), ("2bb3", "dev72", False), ("2bb3", "dev48", True),
        ("2230", "auto", True), ("2230", "dev72", True), ("2230", "cpu", True),
    ],
)  # fmt: skip
def test_a_doubt_matters_only_where_the_choice_depends_on_it(
    number: str, wanted: str, *, same: bool
) -> None:
    seen = known(number)
    choices = [presets.choose_preset(TABLE, wanted, seen[key], None) for key in ("gpus", "most")]
    assert host_gpus.same_choice(*choices) == same


def test_the_smaller_form_of_a_preset_is_another_choice() -> None:
    whole = {"name": "dev48", "plan": {"fits": True}, "changes": {}}
    smaller = {**whole, "changes": {"workspace_budget": 4000}}
    assert not host_gpus.same_choice(whole, smaller)
    assert host_gpus.same_choice(smaller, {**smaller})


HOST = {"memory_bytes": 10**12, "free_bytes": 10**12, "used_bytes": 0, "driver_version": ""}


@pytest.mark.parametrize(
    ("driver", "coming", "refused"),
    [
        ("", "580", False), ("", "580.65.06", False), ("", "590", False), ("", "575", True),
        ("", "580.65.05", True), ("", "", False), ("580.65.06", "", False), ("570.1", "", True),
        ("570.1", "580", False), ("570.1", "575", True), ("590.48.01", "550", False),
    ],
)  # fmt: skip
def test_a_branch_stands_for_its_newest_driver(driver: str, coming: str, *, refused: bool) -> None:
    table = {"dev24": {"gpus": 1, "gpu_memory_mib": 22528, "min_driver_version": "580.65.06"}}
    host = {**HOST, "driver_version": driver, "coming_driver": coming}
    choice = presets.choose_preset(table, "dev24", known("2684")["gpus"], host)
    assert bool(choice["refusals"]) == refused, choice
    if coming == "575":
        assert "and the newest of branch 575 would be installed" in choice["refusals"][0]


def test_what_a_preset_lacks_is_refused_before_anybody_knows_the_gpus() -> None:
    table = {"dev24": {"gpus": 1, "host_memory_gb": 2000}}
    (refusal,) = presets.preset_refusals(table, "dev24", HOST)
    assert "Preset dev24 needs 2000 GB of memory" in refusal
    assert presets.preset_refusals(table, "auto", HOST) == []
    (alone,) = presets.preset_refusals({"two": {"engine": {"nodes": 2}}}, "two", HOST)
    assert alone.startswith("Preset two does not fit: it is for 2 hosts, and this one is in no")


def test_gpus_in_words_are_the_same_in_whatever_order_they_are_given() -> None:
    large = {"name": "NVIDIA H200", "memory_mib": 143771, "count": 4, "compute_capability": "9.0"}
    small = {"memory_mib": 24564, "count": 1}
    words = "4 x NVIDIA H200 of 143771 MiB and 1 x unnamed GPU of 24564 MiB"
    assert host_gpus.gpu_words([large, small]) == host_gpus.gpu_words([small, large]) == words
    assert host_gpus.gpu_words([]) == ""
