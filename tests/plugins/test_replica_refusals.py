"""Replicas that cannot answer the same questions are refused by name, with the fix."""

from typing import Any

import pytest

from tests.plugins.plugin_files import load

replicas = load("filter", "replicas")

HOST: dict[str, Any] = {
    "preset": "moe80",
    "served_name": "coder",
    "model": "org/model at 0123",
    "engine": "infbox/engine:1",
    "window": 65536,
    "caddy": "caddy:2.11",
    "users": ["team"],
    "shared_cache": "none",
    "workspaces": ["shop", "web"],
    "bases": [],
    "clock": 0,
}


def refuse(**changes: dict[str, Any]) -> list[str]:
    """Return what is refused of three hosts, of which some are otherwise."""
    hosts = {
        f"gpu{number}": {**HOST, "address": f"192.0.2.{number}", **changes.get(f"gpu{number}", {})}
        for number in (1, 2, 3)
    }
    found: list[str] = replicas.replica_refusals(hosts)
    return found


def test_those_that_are_alike_pass() -> None:
    assert refuse() == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("preset", "cpu", "in the preset: gpu1 and gpu3 have moe80; gpu2 has cpu. Give them the"),
        ("served_name", "c", "in the name that they serve: gpu1 and gpu3 have coder; gpu2 has c."),
        ("model", "org/model at 4567", "gpu2 has org/model at 4567. Give them the same preset"),
        ("engine", "infbox/engine:2", "in the engine's image: gpu1 and gpu3 have infbox/engine:1;"),
        ("shared_cache", "8 GB on gpu1", "gpu1 and gpu3 have none; gpu2 has 8 GB on gpu1. Give"),
        ("bases", ["web over shop"], "gpu1 and gpu3 have nothing; gpu2 has web over shop. Give a"),
        ("window", 32768, "in the model's window: gpu1 and gpu3 have 65536; gpu2 has 32768. Set"),
        (
            "caddy",
            "caddy:2.6",
            "in Caddy's image: gpu1 and gpu3 have caddy:2.11; gpu2 has caddy:2.",
        ),
        ("users", ["ann", "team"], "in the users: gpu1 and gpu3 have team; gpu2 has ann, team."),
    ],
)
def test_one_that_differs_is_named_with_what_it_has(key: str, value: Any, words: str) -> None:
    (refusal,) = refuse(gpu2={key: value})
    assert words in refusal
    assert refusal.endswith("or set infbox_replicas to false for some.")


def test_the_order_of_a_list_is_no_difference() -> None:
    users = ["team", "ann"]
    assert refuse(gpu1={"users": users}, gpu2={"users": users[::-1]}, gpu3={"users": users}) == []


def test_a_workspace_that_only_some_have_is_named() -> None:
    new, web = refuse(gpu2={"workspaces": ["shop"]}, gpu3={"workspaces": ["web", "shop", "new"]})
    assert "The workspace new is on gpu3 and not on gpu1 and gpu2. Put it there too" in new
    assert "The workspace web is on gpu1 and gpu3 and not on gpu2. Put it there too" in web


def test_what_is_not_known_of_a_host_is_not_compared() -> None:
    partly = {"gpu1": HOST, "gpu2": {"workspaces": ["shop", "web"]}}
    assert replicas.replica_refusals(partly) == []


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "::1", ""])
def test_an_address_that_is_everybody_s_own_is_refused(address: str) -> None:
    (refusal,) = refuse(gpu2={"address": address})
    assert f"address of the replica gpu2 is {address or 'empty'}. Set infbox_replica_" in refusal


def test_one_address_for_two_is_refused() -> None:
    (refusal,) = refuse(gpu2={"address": "192.0.2.1"})
    assert "gpu1 and gpu2 are both at 192.0.2.1. Set infbox_replica_address of gpu2" in refusal


def test_clocks_that_are_apart_are_named() -> None:
    assert refuse(gpu1={"clock": 4}, gpu2={"clock": -5}) == []
    assert refuse(gpu1={"clock": 4}, gpu2={"clock": -9}) == [
        "The clock of the replica gpu1 is 13 s ahead of that of gpu2. Set both by NTP."
    ]


@pytest.mark.parametrize(
    ("rc", "stderr", "words"),
    [
        (0, "", ""),
        (1, "bash: connect: Connection refused\nbash: /dev/tcp/a/8444: Connection refused", ""),
        (
            124,
            "",
            "gpu1 cannot connect to the replica gpu2 at port 8444 of a: no response within",
        ),
        (
            1,
            "bash: connect: No route to host\nbash: /dev/tcp/a/8444: No route to host\n",
            "No route",
        ),
        (1, "bash: nowhere: Name or service not known", "Name or service not known. Allow"),
    ],
)
def test_a_port_that_is_blocked_is_told_from_one_where_nothing_listens_yet(
    rc: int, stderr: str, words: str
) -> None:
    tried = {"item": {"host": "gpu2", "address": "a"}, "rc": rc, "stderr": stderr}
    found = replicas.unreachable_replicas([tried], "gpu1", 8444)
    assert bool(found) == bool(words)
    assert all(words in refusal for refusal in found)
