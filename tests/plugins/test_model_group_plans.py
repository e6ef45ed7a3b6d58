"""One model over several hosts, as the planner sees it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.plugin_files import ROOT, load

choose_preset = load("filter", "presets").choose_preset
PRESETS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(ROOT / "group_vars/all/presets.yml").read_text(encoding="utf-8")
)["_infbox_presets"]
FOUR_A100 = [{"name": "NVIDIA A100-SXM4-80GB", "memory_mib": 81920, "count": 4}]


def chosen(
    wanted: str, gpus: list[Any], *hosts: str, gbit: float = 100, **engine: Any
) -> dict[str, Any]:
    """Return what is chosen for a host of a group, of presets whose engine is otherwise."""
    presets = {
        name: {**preset, "engine": {**preset["engine"], **engine}}
        for name, preset in PRESETS.items()
    }
    group = {"name": "big", "hosts": list(hosts), "gbit": gbit} if hosts else None
    found: dict[str, Any] = choose_preset(presets, wanted, gpus, None, group=group)
    return found


def test_two_hosts_of_four_gpus_hold_what_one_of_eight_does() -> None:
    two = chosen("prod480x2", FOUR_A100, "gpu1", "gpu2")["plan"]
    eight = [{**FOUR_A100[0], "count": 8}]
    one = chosen("prod480", eight)["plan"]
    assert two["fits"]
    assert two["tensor_parallel_size"] == 8
    assert two["kv_tokens"] == one["kv_tokens"]
    assert "on each of 8 x NVIDIA A100-SXM4-80GB (4 in each of 2 hosts)" in two["reasons"][0]
    # Main memory is told of each host, and half the GPUs are in one.
    assert two["memory_bytes"] == one["memory_bytes"] - 4 * 2_000_000_000


def test_two_hosts_of_too_small_gpus_are_refused_with_what_would_do() -> None:
    small = [{"name": "NVIDIA L40S", "memory_mib": 46068, "count": 4}]
    (refusal,) = chosen("prod480x2", small, "gpu1", "gpu2")["plan"]["reasons"][1:]
    assert refusal == "It would fit with 8 x NVIDIA L40S in each host and expert_parallel."


@pytest.mark.parametrize(
    ("gbit", "words"),
    [
        (400, "moves 2.67 MB from host to host: 400 Gbit/s allow at most 18,751 tokens a second"),
        (10, "allow at most 469 tokens a second, which is slow. WARNING: connect the hosts"),
        (0, "The speed of their network is unknown; below 42.7 Gbit/s prompts will be slow. Set"),
    ],
)
def test_the_network_between_the_hosts_is_taken_into_account(gbit: float, words: str) -> None:
    notes = chosen("prod480x2", FOUR_A100, "gpu1", "gpu2", gbit=gbit)["notes"]
    assert any(words in note for note in notes)
    assert any("WARNING" in note for note in notes) == (gbit == 10)


def test_nothing_is_said_of_a_network_where_one_host_holds_the_model() -> None:
    eight = [{**FOUR_A100[0], "count": 8}]
    assert not any("network" in note for note in chosen("prod480", eight)["notes"])


@pytest.mark.parametrize(
    ("wanted", "hosts", "words"),
    [
        (
            "prod480x2",
            ["gpu1"],
            "it is for 2 hosts, and this one is alone in the model group big. Give 2 hosts",
        ),
        ("prod480x2", [], "it is for 2 hosts, and this one is in no model group. Give 2 hosts"),
        (
            "moe80",
            ["gpu1", "gpu2"],
            "it is for 1 host, and the model group big has gpu1, gpu2. Name another, or change",
        ),
        ("prod480x2", ["a", "b", "c"], "it is for 2 hosts, and the model group big has a, b, c."),
    ],
)
def test_a_group_of_another_size_is_refused(wanted: str, hosts: list[str], words: str) -> None:
    (refusal,) = chosen(wanted, FOUR_A100, *hosts)["refusals"]
    assert words in refusal


def test_auto_takes_what_is_for_so_many_hosts() -> None:
    eight = [{**FOUR_A100[0], "count": 8}]
    assert chosen("auto", eight, "gpu1", "gpu2")["name"] == "prod480x2"
    assert chosen("auto", eight)["name"] == "prod480"
    assert chosen("auto", [])["name"] == "cpu"


def test_hosts_without_gpus_share_weights_and_kv() -> None:
    two = chosen("cpu", [], "gpu1", "gpu2", nodes=2)["plan"]
    one = chosen("cpu", [])["plan"]
    assert two["fits"]
    assert two["tensor_parallel_size"] == 2
    assert two["kv_tokens"] == pytest.approx(2 * one["kv_tokens"], rel=0.01)
    assert two["memory_bytes"] < one["memory_bytes"]
    # Its 14 heads cannot be shared out among four.
    four = chosen("cpu", [], "a", "b", "c", "d", nodes=4)["plan"]
    assert "14 attention heads cannot be shared out among 4" in four["reasons"][0]


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"tensor_parallel_size": 3}, "tensor_parallel_size is 3, which 2 hosts cannot share even"),
        ({"pipeline_parallel_size": 2}, "Hosts share a model by tensor parallelism alone"),
        ({"nodes": 0}, "nodes is 0"),
        ({"nodes": "two"}, "nodes is 'two'. Give a whole number."),
    ],
)
def test_a_cut_that_hosts_cannot_have_is_refused(engine: dict[str, Any], words: str) -> None:
    hosts = () if engine.get("nodes", 2) != 2 else ("gpu1", "gpu2")
    (refusal,) = chosen("prod480x2", FOUR_A100, *hosts, **engine)["refusals"]
    assert words in refusal
