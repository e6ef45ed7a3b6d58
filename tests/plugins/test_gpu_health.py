"""What counts as wrong with a GPU, and how bad it is."""

from typing import Any

import pytest

from tests.plugins.plugin_files import load

module = load("filter", "gpu_health")
gpu_health = module.gpu_health

ADDRESS = "0000:18:00.0"
SOUND = {
    "address": ADDRESS,
    "name": "NVIDIA H100 80GB HBM3",
    "memory_mib": 81559,
    "used_mib": 0,
    "recovery": "",
    "lost": False,
    "ecc": True,
    "ecc_uncorrected": 0,
    "repair": "",
    "sram_worn": False,
    "fabric": "Completed",
    "throttle": [],
    "pcie": {"generation": 5, "width": 16, "max_width": 16},
    "persistence": True,
    "mig": False,
}


def health(
    *told: dict[str, Any],
    gpus: int = 1,
    switches: int = 0,
    xids: tuple[int, ...] = (),
    inactive: int = 0,
    diagnosed: dict[str, Any] | None = None,
) -> list[tuple[str, str]]:
    addresses = [ADDRESS, "0000:19:00.0"][:gpus]
    nvidia = {
        "gpus": [{"address": address} for address in addresses],
        "switches": [{}] * switches,
        "xids": [{"address": "0000:18:00", "xid": xid, "message": "text"} for xid in xids],
    }
    links = [{"active": 8, "inactive": inactive}] * len(told)
    found = gpu_health(nvidia, {"gpus": told}, links, diagnosed)
    return [(each["severity"], each["what"]) for each in found]


def test_a_sound_host_has_nothing_to_say() -> None:
    assert health(SOUND, switches=4) == []
    assert health(SOUND | {"fabric": ""}) == []


def test_a_host_without_gpus_has_nothing_to_say() -> None:
    assert health(gpus=0) == []


@pytest.mark.parametrize(
    ("change", "severity", "what"),
    [
        (
            {"recovery": "reset"},
            "critical",
            "in error, needs reset: `nvidia-smi --gpu-reset`, or reboot the host",
        ),
        ({"lost": True}, "critical", "lost; the host must be rebooted"),
        ({"ecc_uncorrected": 2}, "critical", "2 uncorrected memory errors"),
        ({"repair": "failure"}, "critical", "failed permanently"),
        ({"sram_worn": True}, "critical", "than NVIDIA allows"),
        ({"repair": "pending"}, "warning", "at the next reset"),
        ({"throttle": ["hw_thermal_slowdown"]}, "warning", "slowed down: hw_thermal_slowdown"),
        ({"pcie": {"width": 8, "max_width": 16}}, "warning", "PCIe has 8 of 16 lanes"),
        ({"persistence": False}, "warning", "persistence is off"),
        ({"mig": True}, "warning", "MIG is enabled"),
    ],
)
def test_a_gpu_is_told_by_what_is_wrong(change: dict[str, Any], severity: str, what: str) -> None:
    ((said, text),) = health(SOUND | change)
    assert said == severity
    assert what in text


def test_the_fabric_counts_where_there_are_switches() -> None:
    gpu = SOUND | {"fabric": "In Progress"}
    assert health(gpu) == []
    ((severity, _),) = health(gpu, switches=4)
    assert severity == "critical"


def test_a_gpu_that_the_driver_does_not_tell_of_is_critical() -> None:
    assert health(SOUND, gpus=2) == [("critical", "on the bus, but not reported by the driver")]
    assert health()[0][0] == "critical"


def test_errors_of_programs_only_warn_and_the_worst_comes_first() -> None:
    assert health(SOUND, xids=(13, 79, 79)) == [
        ("critical", "Xid 79 since boot: text"),
        ("warning", "Xid 13 since boot: text"),
    ]


def test_links_that_are_down_are_counted() -> None:
    assert health(SOUND, inactive=2) == [("warning", "2 of 10 NVLinks are down")]


def test_what_the_diagnostics_found_is_told_of_its_gpu() -> None:
    results = [
        {"test": "pcie", "gpu": 0, "status": "pass", "severity": "", "messages": []},
        {
            "test": "memory",
            "gpu": 0,
            "status": "fail",
            "severity": "critical",
            "messages": ["DBE"],
        },
        {"test": "software", "gpu": -1, "status": "fail", "severity": "warning", "messages": []},
    ]
    diagnosed = {"error": "", "results": results}
    assert health(SOUND, diagnosed=diagnosed) == [
        ("critical", "DCGM's test memory: DBE"),
        ("warning", "DCGM's test software: fail"),
    ]


def test_diagnostics_that_did_not_run_through_are_critical() -> None:
    (found,) = health(SOUND, diagnosed={"error": "not one test ran", "results": []})
    assert found == ("critical", "DCGM's diagnostics: not one test ran")


def test_the_table_has_a_line_a_gpu_with_the_worst_of_each() -> None:
    second = SOUND | {"address": "0000:19:00.0", "ecc": False}
    xids = [{"address": "0000:19:00", "xid": 79}, {"address": "0000:19:00", "xid": 13}]
    findings = [
        {"gpu": "0000:19:00", "severity": "critical", "what": "Xid 79"},
        {"gpu": "0000:19:00.0", "severity": "warning", "what": "slow"},
    ]
    links = [{"active": 18, "inactive": 0}]
    ran = {"test": "memory_bandwidth", "gpu": 0, "status": "pass", "severity": "", "messages": []}
    table = module.gpu_table(
        {"gpus": [SOUND, second]}, xids, links, findings, {"error": "", "results": [ran]}
    )
    assert [line.split() for line in table.splitlines()] == [
        ["GPU", "name", "MiB", "ECC", "Xid", "PCIe", "NVLink", "bandwidth", "state"],
        [ADDRESS, "NVIDIA", "H100", "80GB", "HBM3", "0/81559", "0", "errors", "none", "5x16",
         "18/18", "pass", "healthy"],
        ["0000:19:00.0", "NVIDIA", "H100", "80GB", "HBM3", "0/81559", "off", "13,79", "5x16",
         "0/0", "-", "critical"],
    ]  # fmt: skip


def test_output_that_cannot_be_read_is_told_and_so_is_the_rest() -> None:
    nvidia = {"gpus": [{"address": "0000:01:00.0"}], "switches": [], "xids": []}
    problems = ["it ends before its end"]
    found = gpu_health(nvidia, {"gpus": [], "problems": problems}, [])
    assert [each["what"] for each in found] == [
        "the output of `nvidia-smi -q -x` cannot be read: it ends before its end"
    ]
