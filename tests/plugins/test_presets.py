"""Which preset a host gets, and what it says where none fits."""

from typing import Any

import pytest

from tests.plugins.plugin_files import load

choose_preset = load("filter", "presets").choose_preset
host_refusals = load("filter", "presets").host_refusals
disk_needs = load("filter", "presets").disk_needs
most_needed_bytes = load("modules", "infbox_host_info").most_needed_bytes

PRESETS = {
    "cpu": {"gpus": 0, "host_memory_gb": 8, "disk_gb": 15},
    "dev24": {"gpus": 1, "gpu_memory_mib": 24000, "host_memory_gb": 32, "disk_gb": 60},
    "dev48": {"gpus": 1, "gpu_memory_mib": 46000, "min_driver_version": "575.51", "disk_gb": 80},
    "team": {"gpus": 4, "gpu_memory_mib": 80000, "disk_gb": 400},
}
HOST = {"memory_bytes": 64e9, "free_bytes": 500e9, "used_bytes": 0, "driver_version": "580.9"}


def gpus(memory_mib: int, count: int = 1) -> list[dict[str, Any]]:
    return [{"name": "L4", "memory_mib": memory_mib, "count": count}]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ([], "cpu"),
        (gpus(24000), "dev24"),
        (gpus(23999), "cpu"),
        (gpus(46068), "dev48"),
        (gpus(24564, 8), "dev24"),
        (gpus(81920, 3), "dev48"),
        (gpus(81920, 4), "team"),
        (gpus(81920, 3) + gpus(141000, 1), "team"),
    ],
)
def test_auto_takes_the_most_gpu_memory_that_fits(given: list[Any], name: str) -> None:
    choice = choose_preset(PRESETS, "auto", given, HOST)
    assert (choice["name"], choice["refusals"]) == (name, [])


def test_auto_has_nothing_to_say_where_it_uses_the_gpus_or_there_are_none() -> None:
    assert choose_preset(PRESETS, "auto", gpus(24564), HOST)["notes"] == []
    assert choose_preset(PRESETS, "auto", [], HOST)["notes"] == []


def test_auto_says_so_where_it_leaves_gpus_idle() -> None:
    choice = choose_preset(PRESETS, "auto", gpus(6144), HOST)
    assert choice["name"] == "cpu"
    assert "1 of 6144 MiB (L4)" in choice["notes"][0]
    assert "dev24 needs 1 GPU of 24000 MiB" in choice["notes"][0]


def test_auto_refuses_where_nothing_fits() -> None:
    presets = {"team": PRESETS["team"]}
    choice = choose_preset(presets, "auto", [], HOST)
    assert choice["name"] == ""
    assert choice["refusals"] == [
        "No preset fits: this host has no GPU, team needs 4 GPUs of 80000 MiB. Use another host."
    ]


def test_a_preset_that_is_named_is_kept_although_a_better_one_fits() -> None:
    assert choose_preset(PRESETS, "dev24", gpus(81920, 8), HOST)["name"] == "dev24"


def test_an_unknown_preset_is_refused_with_the_nearest_name_first() -> None:
    (refusal,) = choose_preset(PRESETS, "dev-48", [], HOST)["refusals"]
    assert refusal.startswith(
        "There is no preset dev-48. Set infbox_preset to one of: dev48, dev24"
    )
    assert all(name in refusal for name in [*PRESETS, "auto"])


def test_a_preset_that_does_not_fit_is_refused_with_the_arithmetic() -> None:
    (refusal,) = choose_preset(PRESETS, "team", gpus(81920, 2), HOST)["refusals"]
    assert refusal == (
        "Preset team does not fit: it needs 4 GPUs of 80000 MiB, this host has 2 of 81920 MiB"
        " (L4). Set infbox_preset to one that fits (cpu, dev24, dev48)."
    )


def test_too_little_memory_is_refused_with_both_numbers() -> None:
    (refusal,) = choose_preset(PRESETS, "cpu", [], {**HOST, "memory_bytes": 4.1e9})["refusals"]
    assert "needs 8 GB of memory, this host has 4.1 GB" in refusal


def test_too_little_disk_is_refused_with_all_numbers() -> None:
    host = {**HOST, "free_bytes": 9.5e9, "used_bytes": 2e9}
    (refusal,) = choose_preset(PRESETS, "cpu", [], host)["refusals"]
    assert "needs 15 GB of disk, this host has 9.5 GB free and 2.0 GB that infbox" in refusal


def test_what_infbox_holds_already_counts_as_room() -> None:
    host = {**HOST, "free_bytes": 1e9, "used_bytes": 14e9}
    assert choose_preset(PRESETS, "cpu", [], host)["refusals"] == []


@pytest.mark.parametrize(
    ("wanted", "given", "count", "gigabytes"),
    [
        ("auto", None, 0, 15),
        ("auto", None, 1, 80),
        ("auto", None, 3, 80),
        ("auto", None, 8, 400),
        ("auto", gpus(81920, 4), 0, 400),
        ("auto", gpus(24000, 1), 0, 80),
        ("dev24", None, 0, 60),
        ("team", None, 1, 400),
        ("cpu", None, 8, 15),
        ("unknown", None, 8, 0),
    ],
)
def test_the_room_that_may_be_needed_is_that_of_presets_the_gpus_allow(
    wanted: str, given: list[Any] | None, count: int, gigabytes: float
) -> None:
    assert most_needed_bytes(disk_needs(PRESETS, wanted, given), count) == gigabytes * 1e9


def test_an_old_driver_is_no_refusal_where_a_later_one_comes() -> None:
    host = {**HOST, "driver_version": "570.1"}
    for coming, refused in (("580.173.02", False), ("575.51", False), ("570.9", True)):
        refusals = host_refusals("dev48", PRESETS["dev48"], {**host, "coming_driver": coming})
        assert any("NVIDIA driver" in refusal for refusal in refusals) == refused
        assert not refused or f"and {coming} would be installed" in refusals[0]


@pytest.mark.parametrize(("driver", "refused"), [("575.9", True), ("575.51", False), ("", False)])
def test_an_old_driver_is_refused_where_it_is_known(driver: str, refused: bool) -> None:
    host = {**HOST, "driver_version": driver}
    refusals = choose_preset(PRESETS, "dev48", gpus(46068), host)["refusals"]
    assert bool(refusals) is refused
    assert all(
        f"needs NVIDIA driver 575.51 or later, this host has {driver}" in r for r in refusals
    )


def test_all_that_is_lacking_is_told_at_once() -> None:
    host = {"memory_bytes": 1e9, "free_bytes": 1e9, "used_bytes": 0, "driver_version": "1"}
    assert len(choose_preset(PRESETS, "dev24", [], host)["refusals"]) == 3
