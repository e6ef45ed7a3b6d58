"""Reading `nvidia-smi -q -x`.

nvidia_smi/ has what real GPUs told, with where that was captured. What stands below is composed.
"""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.plugin_files import load

nvidia_smi = load("filter", "nvidia_smi")
nvidia_smi_gpus = nvidia_smi.nvidia_smi_gpus
nvidia_smi_details = nvidia_smi.nvidia_smi_details
nvlinks = nvidia_smi.nvlinks

CAPTURED = Path(__file__).parent / "nvidia_smi"


def log(*gpus: str, driver: str = "580.95.05") -> str:
    version = f"<driver_version>{driver}</driver_version>" if driver else ""
    return (
        '<?xml version="1.0" ?>\n'
        '<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n'
        f"<nvidia_smi_log>{version}{''.join(gpus)}</nvidia_smi_log>\n"
    )


def gpu_xml(name: str, memory: str, mig: str = "N/A", pieces: str = "None") -> str:
    return (
        f"<gpu><product_name>{name}</product_name>"
        f"<mig_mode><current_mig>{mig}</current_mig></mig_mode>"
        f"<mig_devices>{pieces}</mig_devices>"
        f"<fb_memory_usage><total>{memory}</total></fb_memory_usage>"
        "<bar1_memory_usage><total>256 MiB</total></bar1_memory_usage></gpu>"
    )


def test_equal_gpus_are_one_entry_and_the_largest_comes_first() -> None:
    small = gpu_xml("NVIDIA GeForce RTX 4090", "24564 MiB")
    large = gpu_xml("NVIDIA A100-SXM4-80GB", "81920 MiB")
    seen = nvidia_smi_gpus(log(small, large, large, large, large))
    assert seen["gpus"] == [
        {"name": "NVIDIA A100-SXM4-80GB", "memory_mib": 81920, "count": 4},
        {"name": "NVIDIA GeForce RTX 4090", "memory_mib": 24564, "count": 1},
    ]


def test_the_driver_is_told() -> None:
    assert nvidia_smi_gpus(log(driver="535.86.05"))["driver_version"] == "535.86.05"


def test_a_gpu_split_by_mig_is_told_apart_and_its_pieces_are_no_gpus() -> None:
    piece = "<mig_device><fb_memory_usage><total>19968 MiB</total></fb_memory_usage></mig_device>"
    seen = nvidia_smi_gpus(log(gpu_xml("NVIDIA A100-SXM4-40GB", "40960 MiB", "Enabled", piece)))
    assert (seen["gpus"], seen["split"]) == ([], ["NVIDIA A100-SXM4-40GB"])


@pytest.mark.parametrize("memory", ["N/A", "", "[Not Supported]"])
def test_memory_that_is_not_told_is_zero(memory: str) -> None:
    assert nvidia_smi_gpus(log(gpu_xml("NVIDIA GB10", memory)))["gpus"] == [
        {"name": "NVIDIA GB10", "memory_mib": 0, "count": 1}
    ]


def test_no_output_is_no_driver_and_no_gpu() -> None:
    nothing = {"driver_version": "", "gpus": [], "split": [], "problems": []}
    assert nvidia_smi_gpus(" \n") == nothing


def with_process(name: str) -> str:
    process = (
        f"<processes>\n<process_info>\n<pid>4711</pid>\n<process_name>{name}</process_name>\n"
        "<used_memory>7 MiB</used_memory>\n</process_info>\n</processes>"
    )
    return log(
        '<gpu id="00000000:01:00.0"><product_name>NVIDIA A100-SXM4-80GB</product_name>\n'
        f"{process}\n<fb_memory_usage><total>81920 MiB</total></fb_memory_usage></gpu>"
    )


A100S = [{"name": "NVIDIA A100-SXM4-80GB", "memory_mib": 81920, "count": 1}]


class TestOddOutput:
    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("a & b", "a & b"),
            ("a &amp; b", "a & b"),
            ("&lol; &#0; &#x1F;", "&lol; &#0; &#x1F;"),
            ("python <train.py>", "python <train.py>"),
            ("x</gpu><gpu>", "x</gpu><gpu>"),
            ("a</process_name>b", "a</process_name>b"),
            (b"caf\xe9".decode(errors="replace"), "caf\ufffd"),
            ("\udce9\x00\x1b[2J", "\ufffd\ufffd\ufffd[2J"),
            ("<![CDATA[x]]>", "<![CDATA[x]]>"),
            ("<!-- x", "<!-- x"),
        ],
    )
    def test_whatever_a_process_is_called_its_gpu_is_read(self, name: str, told: str) -> None:
        printed = with_process(name)
        seen = nvidia_smi_gpus(printed)
        assert (seen["gpus"], seen["problems"]) == (A100S, [])
        (process,) = nvidia_smi_details(printed)["gpus"][0]["processes"]
        assert process == {"pid": 4711, "name": told, "type": "", "memory_mib": 7}

    @pytest.mark.parametrize(
        "before", ["WARNING: infoROM is corrupted at gpu 0000:01:00.0\n", "\ufeff", "<b>no</b>\n"]
    )
    def test_what_stands_before_the_document_is_passed_over(self, before: str) -> None:
        seen = nvidia_smi_gpus(before + with_process("python"))
        assert (seen["gpus"], seen["problems"]) == (A100S, [])

    def test_the_drivers_own_document_type_is_no_declaration_of_entities(self) -> None:
        document = '<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">'
        assert document in with_process("x")
        assert nvidia_smi_gpus(with_process("x"))["problems"] == []

    def test_entities_that_would_expand_are_refused_and_not_expanded(self) -> None:
        lines = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
        bomb = f'<!DOCTYPE nvidia_smi_log [<!ENTITY l0 "lol">{lines}]>'
        printed = bomb + with_process("&l9;").partition('dtd">')[2]
        seen = nvidia_smi_gpus(printed)
        assert seen["gpus"] == []
        assert seen["problems"] == ["its XML declares entities, which NVIDIA's does not"]
        # Without the declaration it is a name like another.
        assert nvidia_smi_gpus(with_process("&l9;"))["gpus"] == A100S

    @pytest.mark.parametrize(
        ("change", "problem", "gpus"),
        [
            (lambda xml: xml[: xml.index("<processes>")], "it ends before its end", 1),
            (lambda xml: xml[: xml.index("<gpu ")], "it ends before its end", 0),
            (lambda xml: xml.replace("</pid>", ""), "it leaves <pid> open", 1),
            (lambda xml: xml.replace("<pid>", "<pid"), "it closes <pid>, which is not open", 1),
            (lambda xml: xml.replace("</gpu>", ""), "it leaves <gpu> open", 1),
            (lambda xml: xml.replace("<gpu ", "<attached_gpus>8</attached_gpus><gpu "),
             "it tells of 1 of 8 GPUs", 1),
            (lambda _: "No devices were found", "it printed no XML: No devices were found", 0),
            (lambda xml: xml + " " * 5_000_000, "it printed more than 4 MB", 0),
            (lambda xml: xml.replace("<pid>", "<a>" * 300_000), "it has more than 200,000 tags", 1),
        ],
    )  # fmt: skip
    def test_what_cannot_be_read_is_named_and_the_rest_is_read(
        self, change: Any, problem: str, gpus: int
    ) -> None:
        seen = nvidia_smi_gpus(change(with_process("python")))
        assert problem in seen["problems"]
        assert len(seen["gpus"]) == gpus
        if gpus:
            assert seen["driver_version"] == "580.95.05"

    @pytest.mark.parametrize("given", [None, 7, b"<nvidia_smi_log>", ["x"], {}])
    def test_what_is_no_text_is_no_output(self, given: object) -> None:
        assert nvidia_smi_gpus(given, given)["gpus"] == []

    @pytest.mark.parametrize("piece", ["<a>", "</a>", "<process_name>", "<", "<a ", "\n", "9"])
    def test_as_much_of_it_as_there_may_be_is_read_in_seconds(self, piece: str) -> None:
        most = nvidia_smi.MOST_CHARACTERS // len(piece) - 20
        whole = "<nvidia_smi_log><x>" + piece * most
        began = time.process_time()
        nvidia_smi_gpus(whole, whole)
        nvlinks(whole)
        # Linear: a second here. Quadratic would be hours.
        assert time.process_time() - began < 20

    @settings(max_examples=200, deadline=None)
    @given(
        file=st.sampled_from(sorted(CAPTURED.glob("*.xml"))),
        cuts=st.lists(
            st.tuples(st.integers(0, 20_000), st.integers(0, 200), st.text(max_size=12)), max_size=6
        ),
    )
    def test_nothing_that_befalls_it_raises(
        self, file: Path, cuts: list[tuple[int, int, str]]
    ) -> None:
        printed = file.read_text(encoding="utf-8")
        for at, less, text in cuts:
            printed = printed[:at] + text + printed[at + less :]
        seen, told = nvidia_smi_gpus(printed, printed), nvidia_smi_details(printed)
        assert seen["problems"] == told["problems"]
        assert sum(gpu["count"] for gpu in seen["gpus"]) + len(seen["split"]) == len(told["gpus"])

    def test_compute_capabilities_are_joined_to_gpus_by_address(self) -> None:
        told = "00000000:01:00.0, 8.0\n00000000:02:00.0, [N/A]\nwhatever\n" + "9" * 5000 + ", 9.0"
        assert nvidia_smi_gpus(with_process("x"), told)["gpus"] == [
            {**A100S[0], "compute_capability": "8.0"}
        ]
        assert nvidia_smi_gpus(with_process("x"), "Field is not valid")["gpus"] == A100S


A_BAD_GPU = """
<gpu id="00000000:3B:00.0">
  <product_name>NVIDIA A100-SXM4-80GB</product_name>
  <product_architecture>Ampere</product_architecture>
  <persistence_mode>Enabled</persistence_mode>
  <mig_mode><current_mig>Disabled</current_mig></mig_mode>
  <uuid>GPU-00000000-0000-0000-0000-00000000003b</uuid>
  <pci><pci_gpu_link_info>
    <pcie_gen><max_link_gen>4</max_link_gen><current_link_gen>4</current_link_gen></pcie_gen>
    <link_widths><max_link_width>16x</max_link_width><current_link_width>8x</current_link_width>
    </link_widths>
  </pci_gpu_link_info></pci>
  <clocks_event_reasons>
    <clocks_event_reason_gpu_idle>Not Active</clocks_event_reason_gpu_idle>
    <clocks_event_reason_hw_thermal_slowdown>Active</clocks_event_reason_hw_thermal_slowdown>
    <clocks_event_reason_sw_power_cap>Active</clocks_event_reason_sw_power_cap>
  </clocks_event_reasons>
  <fb_memory_usage><total>81920 MiB</total><used>40000 MiB</used></fb_memory_usage>
  <ecc_mode><current_ecc>Enabled</current_ecc></ecc_mode>
  <ecc_errors>
    <volatile>
      <sram_correctable>4</sram_correctable>
      <sram_uncorrectable_parity>1</sram_uncorrectable_parity>
      <sram_uncorrectable_secded>2</sram_uncorrectable_secded>
      <dram_uncorrectable>N/A</dram_uncorrectable>
    </volatile>
    <aggregate><dram_uncorrectable>9</dram_uncorrectable></aggregate>
  </ecc_errors>
  <remapped_rows>
    <remapped_row_pending>Yes</remapped_row_pending>
    <remapped_row_failure>No</remapped_row_failure>
  </remapped_rows>
  <fabric><state>Completed</state><status>Success</status></fabric>
  <processes><process_info>
    <pid>4242</pid><type>C</type><process_name>python3</process_name>
    <used_memory>39990 MiB</used_memory>
  </process_info></processes>
</gpu>
"""

AN_OLD_GPU = """
<gpu id="00000000:00:1E.0">
  <product_name>Tesla P100-PCIE-16GB</product_name>
  <product_architecture>Pascal</product_architecture>
  <persistence_mode>Disabled</persistence_mode>
  <clocks_throttle_reasons>
    <clocks_throttle_reason_gpu_idle>Active</clocks_throttle_reason_gpu_idle>
    <clocks_throttle_reason_hw_slowdown>Active</clocks_throttle_reason_hw_slowdown>
  </clocks_throttle_reasons>
  <fb_memory_usage><total>16384 MiB</total><used>0 MiB</used></fb_memory_usage>
  <ecc_mode><current_ecc>Enabled</current_ecc></ecc_mode>
  <ecc_errors><volatile>
    <single_bit><total>7</total></single_bit><double_bit><total>2</total></double_bit>
  </volatile></ecc_errors>
  <retired_pages><pending_retirement>No</pending_retirement></retired_pages>
  <remapped_rows>N/A</remapped_rows>
  <processes></processes>
</gpu>
"""

A_LOST_GPU = """
<gpu id="00000000:86:00.0">
  <product_name>NVIDIA H100 80GB HBM3</product_name>
  <persistence_mode>GPU is lost</persistence_mode>
  <fb_memory_usage><total>GPU is lost</total><used>GPU is lost</used></fb_memory_usage>
</gpu>
"""


def test_every_gpu_of_a_host_is_told_in_detail() -> None:
    seen = nvidia_smi_details(
        log("<cuda_version>13.0</cuda_version>", A_BAD_GPU, AN_OLD_GPU, A_LOST_GPU)
    )
    assert (seen["driver_version"], seen["cuda_version"]) == ("580.95.05", "13.0")
    bad, old, lost = seen["gpus"]
    assert bad == {
        "address": "0000:3b:00.0",
        "name": "NVIDIA A100-SXM4-80GB",
        "architecture": "Ampere",
        "uuid": "GPU-00000000-0000-0000-0000-00000000003b",
        "memory_mib": 81920,
        "used_mib": 40000,
        "mig": False,
        "persistence": True,
        "ecc": True,
        "ecc_uncorrected": 3,
        "repair": "pending",
        "sram_worn": False,
        "throttle": ["hw_thermal_slowdown"],
        "pcie": {"generation": 4, "max_generation": 4, "width": 8, "max_width": 16},
        "fabric": "Completed",
        "processes": [{"pid": 4242, "name": "python3", "type": "C", "memory_mib": 39990}],
        "recovery": "",
        "lost": False,
    }
    assert (old["address"], old["ecc_uncorrected"], old["repair"]) == ("0000:00:1e.0", 2, "")
    assert (old["throttle"], old["fabric"], old["processes"]) == (["hw_slowdown"], "", [])
    assert (lost["lost"], lost["memory_mib"]) == (True, 0)


# What stands in the place of values of a GPU in error, by what is told of an RTX PRO 6000.
A_GPU_IN_ERROR = """
<gpu id="00000000:01:00.0">
  <product_name>NVIDIA RTX PRO 6000 Blackwell Workstation Edition</product_name>
  <persistence_mode>Enabled</persistence_mode>
  <fan_speed>GPU requires reset</fan_speed>
  <fb_memory_usage><total>97887 MiB</total><used>58222 MiB</used></fb_memory_usage>
  <utilization><gpu_util>GPU requires reset</gpu_util></utilization>
  <temperature><gpu_temp>GPU requires reset</gpu_temp></temperature>
</gpu>
"""


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("", "reset"),
        ("None", "reset"),
        ("Reboot", "reboot"),
        ("Drain and Reset", "drain and reset"),
    ],
)
def test_a_gpu_in_error_says_what_it_needs(action: str, expected: str) -> None:
    told = f"<gpu_recovery_action>{action}</gpu_recovery_action></gpu>"
    (gpu,) = nvidia_smi_details(log(A_GPU_IN_ERROR.replace("</gpu>", told)))["gpus"]
    assert (gpu["recovery"], gpu["lost"], gpu["memory_mib"]) == (expected, False, 97887)


@pytest.mark.parametrize("action", ["None", "N/A"])
def test_a_gpu_that_needs_nothing_says_so(action: str) -> None:
    told = f"<gpu_recovery_action>{action}</gpu_recovery_action></gpu>"
    (gpu,) = nvidia_smi_details(log(AN_OLD_GPU.replace("</gpu>", told)))["gpus"]
    assert gpu["recovery"] == ""


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("unrepairable_memory", ("failure", False)),
        ("channel_repair_pending", ("pending", False)),
        ("tpc_repair_pending", ("pending", False)),
        ("sram_threshold_exceeded", ("", True)),
    ],
)
def test_what_newer_drivers_say_of_repairs_is_heard(flag: str, told: tuple[str, bool]) -> None:
    captured = (CAPTURED / "h200.xml").read_text()
    failing = captured.replace(f"<{flag}>No</{flag}>", f"<{flag}>Yes</{flag}>")
    assert failing != captured
    (gpu,) = nvidia_smi_details(failing)["gpus"]
    assert (gpu["repair"], gpu["sram_worn"]) == told


def test_a_failed_row_outweighs_one_that_waits() -> None:
    failed = A_BAD_GPU.replace(
        "<remapped_row_failure>No</remapped_row_failure>",
        "<remapped_row_failure>Yes</remapped_row_failure>",
    )
    assert nvidia_smi_details(log(failed))["gpus"][0]["repair"] == "failure"


def test_a_gpu_with_mig_is_one_gpu_in_detail_too() -> None:
    piece = "<mig_device><fb_memory_usage><total>19968 MiB</total></fb_memory_usage></mig_device>"
    (seen,) = nvidia_smi_details(
        log(gpu_xml("NVIDIA A100-SXM4-40GB", "40960 MiB", "Enabled", piece * 2))
    )["gpus"]
    assert (seen["mig"], seen["memory_mib"]) == (True, 40960)


def test_no_output_has_no_details() -> None:
    nothing = {"driver_version": "", "cuda_version": "", "gpus": [], "problems": []}
    assert nvidia_smi_details("") == nothing


def test_links_are_counted_of_each_gpu() -> None:
    status = (
        "GPU 0: NVIDIA H100 (UUID: GPU-0)\n\t Link 0: 26.562 GB/s\n\t Link 1: 26.562 GB/s\n"
        "GPU 1: NVIDIA H100 (UUID: GPU-1)\n\t Link 0: 26.562 GB/s\n\t Link 1: <inactive>\n"
    )
    assert nvlinks(status) == [{"active": 2, "inactive": 0}, {"active": 1, "inactive": 1}]
    assert nvlinks("") == []


@pytest.mark.parametrize(
    ("name", "gpus", "split"),
    [
        ("h200", [("NVIDIA H200", 143771, 1)], []),
        ("h100-power-brake", [("NVIDIA H100 80GB HBM3", 81559, 2)], []),
        ("rtx-4090", [("NVIDIA GeForce RTX 4090", 24564, 2)], []),
        ("rtx-a6000", [("NVIDIA RTX A6000", 46068, 2)], []),
        ("a100-mig", [], ["NVIDIA A100-SXM4-40GB"]),
        ("tesla-p100", [("Tesla P100-PCIE-16GB", 16384, 1)], []),
    ],
)
def test_captured_gpus_are_counted(
    name: str, gpus: list[tuple[str, int, int]], split: list[str]
) -> None:
    seen = nvidia_smi_gpus((CAPTURED / f"{name}.xml").read_text())
    assert [tuple(entry.values()) for entry in seen["gpus"]] == gpus
    assert seen["split"] == split


@pytest.mark.parametrize(
    ("name", "number", "told"),
    [
        (
            "h200",
            0,
            {
                "address": "0000:00:06.0",
                "used_mib": 40311,
                # At its power limit, and without NVLink in a virtual machine of its own.
                "throttle": [],
                "fabric": "",
                "ecc": True,
                "ecc_uncorrected": 0,
                "repair": "",
                "sram_worn": False,
                "recovery": "",
                "processes": [{"pid": 793, "name": "python3", "type": "C", "memory_mib": 40302}],
            },
        ),
        (
            "h100-power-brake",
            1,
            {
                "address": "0000:3b:00.0",
                "architecture": "Hopper",
                "throttle": ["hw_slowdown", "hw_power_brake_slowdown"],
                "fabric": "Completed",
                "ecc": True,
                "persistence": True,
                "mig": False,
            },
        ),
        (
            "rtx-4090",
            1,
            {
                "address": "0000:23:00.0",
                "used_mib": 21608,
                # A GPU that reaches its power limit does its best.
                "throttle": [],
                "ecc": False,
                "ecc_uncorrected": 0,
                "fabric": "",
                "repair": "",
            },
        ),
        (
            "rtx-a6000",
            0,
            {
                "ecc": True,
                "pcie": {"generation": 1, "max_generation": 4, "width": 16, "max_width": 16},
            },
        ),
        ("a100-mig", 0, {"mig": True, "persistence": False, "memory_mib": 40960, "used_mib": 38}),
        ("tesla-p100", 0, {"ecc": True, "ecc_uncorrected": 0, "repair": "", "lost": False}),
    ],
)
def test_captured_gpus_are_told_in_detail(name: str, number: int, told: dict[str, Any]) -> None:
    gpu = nvidia_smi_details((CAPTURED / f"{name}.xml").read_text())["gpus"][number]
    assert {key: gpu[key] for key in told} == told
