"""Hosts that cannot hold one model are refused by name, and plays keep a group together."""

from typing import Any

import pytest

from tests.plugins.plugin_files import load

groups = load("filter", "model_groups")

HOST: dict[str, Any] = {
    "preset": "prod480x2",
    "model": "org/model at 0123",
    "engine": "infbox/engine:1@sha256:1",
    "gpus": "4 x A100",
    "window": 65536,
    "interface": "eth1",
    "clock": 0,
    "replica": False,
}
NAMES = ["gpu1", "gpu2", "gpu3"]


def refuse(
    running: list[str] | None = None, every: list[str] | None = None, **changes: dict[str, Any]
) -> list[str]:
    """Return what is refused of three hosts, of which some are otherwise."""
    hosts = {
        name: {**HOST, "address": f"192.0.2.{number}", **changes.get(name, {})}
        for number, name in enumerate(NAMES, 1)
    }
    found: list[str] = groups.model_group_refusals(hosts, "big", running or NAMES, every or NAMES)
    return found


def test_those_that_are_alike_pass() -> None:
    assert refuse() == []
    assert refuse(every=["other", *NAMES, "another"]) == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("preset", "cpu", "differ in the preset: gpu1 and gpu3 have prod480x2; gpu2 has cpu. Give"),
        ("model", "org/model at 4567", "in the model: gpu1 and gpu3 have org/model at 0123; gpu2"),
        ("engine", "infbox/engine:1@sha256:2", "in the engine's image: gpu1 and gpu3 have infbox/"),
        ("gpus", "8 x A100", "in the GPUs: gpu1 and gpu3 have 4 x A100; gpu2 has 8 x A100. Put"),
        ("window", 4096, "in the model's window: gpu1 and gpu3 have 65536; gpu2 has 4096. Give"),
        ("address", "localhost", "The address of gpu2 in its model group is localhost. Set infbox"),
        ("address", "127.0.0.1", "The address of gpu2 in its model group is 127.0.0.1. Set infbox"),
        ("address", "192.0.2.1", "gpu1 and gpu2 are both at 192.0.2.1. Set infbox_model_group_ad"),
        ("interface", "", "No network interface of gpu2 has its address 192.0.2.2. Set infbox_"),
        ("clock", 11, "The clock of gpu2 is 11 s ahead of that of gpu1. Set both by NTP."),
        ("replica", True, "gpu2 is a replica and in the model group big, and cannot be both"),
    ],
)
def test_one_that_differs_is_named_with_the_mend(key: str, value: Any, words: str) -> None:
    (refusal,) = refuse(gpu2={key: value})
    assert words in refusal


def test_a_run_of_only_some_is_refused() -> None:
    (refusal,) = refuse(running=["gpu2"])
    assert "deployed as a whole, and this run lacks gpu1 and gpu3. Give" in refusal
    assert "Give --limit gpu1,gpu2,gpu3, or leave" in refusal


def test_hosts_that_do_not_stand_together_are_refused() -> None:
    (refusal,) = refuse(every=["gpu1", "other", "gpu2", "gpu3"])
    assert "List gpu1, gpu2 and gpu3 one after the other" in refusal


def test_a_port_that_is_blocked_is_told_from_one_where_nothing_listens_yet() -> None:
    tries = [
        {"item": ["192.0.2.2", 29502], "rc": 124, "stderr": ""},
        {"item": ["192.0.2.2", 5555], "rc": 1, "stderr": "bash: connect: No route to host"},
        {"item": ["192.0.2.2", 29501], "rc": 1, "stderr": "bash: connect: Connection refused"},
        {"item": ["192.0.2.3", 29501], "rc": 0, "stderr": ""},
    ]
    (refusal,) = groups.blocked_ports(tries, "gpu1")
    assert refusal.startswith("gpu1 cannot connect to 192.0.2.2 at 29502, 5555. Allow")


def test_the_interface_that_has_an_address_is_found_with_its_speed() -> None:
    facts = {
        "interfaces": ["lo", "eth0", "ib0"],
        "lo": {"device": "lo", "ipv4": {"address": "127.0.0.1"}},
        "eth0": {"device": "eth0", "speed": -1, "ipv4": {"address": "198.51.100.1"},
                 "ipv4_secondaries": [{"address": "198.51.100.2"}]},
        "br_1": {"device": "br-1"},
        "ib0": {"device": "ib0", "speed": 200000, "ipv6": [{"address": "2001:db8::1"}]},
    }  # fmt: skip
    assert groups.interface_at(facts, "2001:db8::1") == {"name": "ib0", "gbit": 200}
    assert groups.interface_at(facts, "198.51.100.2") == {"name": "eth0", "gbit": 0}
    assert groups.interface_at(facts, "192.0.2.9") == {"name": "", "gbit": 0}
    assert groups.interface_at({}, "192.0.2.9") == {"name": "", "gbit": 0}


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        (1, [1, 2, 1, 2]),
        ([1, "100%"], [1, 5]),
        ([2, "100%"], [3, 3]),
        ("50%", [3, 3]),
        ([1, 2], [1, 2, 3]),
        ("1%", [1, 2, 1, 2]),
    ],
)
def test_plays_take_hosts_of_one_model_as_one(sizes: Any, batches: list[int]) -> None:
    given = {"a": "", "b1": "b", "b2": "b", "c": "", "d1": "d", "d2": "d"}
    variables = {host: {"infbox_model_group": group} for host, group in given.items()}
    assert groups.whole_groups(list(given), variables, sizes) == batches


def test_plays_of_hosts_of_their_own_go_as_they_did() -> None:
    variables: dict[str, dict[str, Any]] = {"a": {}, "b": {}, "c": {}}
    assert groups.whole_groups(["a", "b", "c"], variables) == [1, 1, 1]
    assert groups.whole_groups(["a", "b", "c"], variables, [1, "100%"]) == [1, 2]
    assert groups.whole_groups([], variables) == [1]
