"""Reading `nvidia-smi -q -x`. The fixtures are written for these tests and hold facts only."""

import textwrap

import pytest

from tests.plugins.plugin_files import load

nvidia_smi_cards = load("filter", "nvidia_smi").nvidia_smi_cards


def log(*cards: str, driver: str = "580.95.05") -> str:
    version = f"<driver_version>{driver}</driver_version>" if driver else ""
    return textwrap.dedent(
        f"""\
        <?xml version="1.0" ?>
        <!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
        <nvidia_smi_log>{version}{"".join(cards)}</nvidia_smi_log>
        """
    )


def card(name: str, memory: str, mig: str = "N/A", pieces: str = "None") -> str:
    return (
        f"<gpu><product_name>{name}</product_name>"
        f"<mig_mode><current_mig>{mig}</current_mig></mig_mode>"
        f"<mig_devices>{pieces}</mig_devices>"
        f"<fb_memory_usage><total>{memory}</total></fb_memory_usage>"
        "<bar1_memory_usage><total>256 MiB</total></bar1_memory_usage></gpu>"
    )


def test_equal_cards_are_one_entry_and_the_largest_comes_first() -> None:
    small = card("NVIDIA GeForce RTX 4090", "24564 MiB")
    large = card("NVIDIA A100-SXM4-80GB", "81920 MiB")
    seen = nvidia_smi_cards(log(small, large, large, large, large))
    assert seen["gpus"] == [
        {"name": "NVIDIA A100-SXM4-80GB", "memory_mib": 81920, "count": 4},
        {"name": "NVIDIA GeForce RTX 4090", "memory_mib": 24564, "count": 1},
    ]


def test_the_driver_is_told() -> None:
    assert nvidia_smi_cards(log(driver="535.86.05"))["driver_version"] == "535.86.05"


def test_a_card_split_by_mig_is_told_apart_and_its_pieces_are_no_cards() -> None:
    piece = "<mig_device><fb_memory_usage><total>19968 MiB</total></fb_memory_usage></mig_device>"
    seen = nvidia_smi_cards(log(card("NVIDIA A100-SXM4-40GB", "40960 MiB", "Enabled", piece)))
    assert (seen["gpus"], seen["split"]) == ([], ["NVIDIA A100-SXM4-40GB"])


@pytest.mark.parametrize("memory", ["N/A", "", "[Not Supported]"])
def test_memory_that_is_not_told_is_zero(memory: str) -> None:
    assert nvidia_smi_cards(log(card("NVIDIA GB10", memory)))["gpus"] == [
        {"name": "NVIDIA GB10", "memory_mib": 0, "count": 1}
    ]


def test_no_output_is_no_driver_and_no_card() -> None:
    assert nvidia_smi_cards(" \n") == {"driver_version": "", "gpus": [], "split": []}
