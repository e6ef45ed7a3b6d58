"""Hosts that hold one model together: what keeps them from it, and how plays keep them together."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Ansible loads filters by path, outside of any package.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins.filter.replicas import clocks_apart, differing, named

# What must be one and the same, with what to do. An engine's image is its tuple of versions.
ALIKE = {
    "preset": ("the preset", "Give them the same infbox_preset"),
    "model": ("the model", "Give them the same preset and infbox_model_path, if any"),
    "engine": ("the engine's image", "Give them the same infbox_images and infbox_registry_prefix"),
    "gpus": ("the GPUs", "Put the same GPUs into each"),
    "window": ("the model's window", "Give them the same infbox_preset_overrides"),
}
MEGABITS = 1000


def interface_at(facts: Mapping[str, Any], address: str) -> dict[str, Any]:
    """Return the network interface that has an address.

    Args:
        facts: of the host, by Ansible.
        address: one of its own.

    Returns:
        name ("" where none has it) and gbit, its speed in Gbit/s, 0 where it is not told.
    """
    for fact in facts.values():
        if isinstance(fact, Mapping) and "device" in fact and address in addresses_of(fact):
            speed = int(fact.get("speed") or 0)
            return {"name": str(fact["device"]), "gbit": max(speed, 0) / MEGABITS}
    return {"name": "", "gbit": 0}


def addresses_of(interface: Mapping[str, Any]) -> set[str]:
    """Return the addresses of an interface."""
    fourth = [interface.get("ipv4", {}), *interface.get("ipv4_secondaries", [])]
    return {str(one.get("address")) for one in [*fourth, *interface.get("ipv6", [])]}


def model_group_refusals(
    hosts: Mapping[str, Mapping[str, Any]], group: str, running: Sequence[str], every: Sequence[str]
) -> list[str]:
    """Refuse hosts that cannot hold a model together.

    Args:
        hosts: by name, the head first, what is known of each: those of ALIKE, address, interface
            (its name, "" where none has the address), clock (seconds that it is ahead) and replica.
        group: its name.
        running: hosts of the run.
        every: all hosts of the inventory, in its order.
    """
    refusals = [
        f"The hosts of the model group {group} differ in {what}: {parts}. {fix}."
        for key, (what, fix) in ALIKE.items()
        if (parts := differing(hosts, key))
    ]
    return [
        *refusals,
        *place_refusals(hosts, group, running, every),
        *address_refusals(hosts),
        *clock_refusals(hosts),
    ]


def place_refusals(
    hosts: Mapping[str, Mapping[str, Any]], group: str, running: Sequence[str], every: Sequence[str]
) -> list[str]:
    """Refuse groups that plays cannot take as one."""
    refusals = []
    missing = [host for host in hosts if host not in running]
    if missing:
        refusals.append(
            f"The model group {group} can only be deployed as a whole, and this run lacks"
            f" {named(missing)}."
            f" Give --limit {','.join(hosts)}, or leave --limit out."
        )
    places = [every.index(host) for host in hosts if host in every]
    if places and max(places) - min(places) >= len(places):
        refusals.append(
            f"Other hosts are between those of the model group {group} in the inventory."
            f" List {named(hosts)} one after the other, first the one that serves the API."
        )
    replicas = [host for host, known in hosts.items() if known.get("replica")]
    if replicas:
        refusals.append(
            f"{named(replicas)} is a replica and in the model group {group}, and cannot be"
            " both. Set infbox_replicas to false, or leave infbox_model_group out."
        )
    return refusals


def address_refusals(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Refuse addresses at which the others cannot find a host."""
    refusals = []
    seen: dict[str, str] = {}
    for host, known in hosts.items():
        address = str(known.get("address", ""))
        fix = f"Set infbox_model_group_address of {host} to the IP address of its fastest interface"
        if not usable(address):
            refusals.append(f"The address of {host} in its model group is {address}. {fix}.")
        elif address in seen:
            refusals.append(f"{seen[address]} and {host} are both at {address}. {fix}.")
        elif known.get("interface", "?") == "":
            refusals.append(f"No network interface of {host} has its address {address}. {fix}.")
        seen.setdefault(address, host)
    return refusals


def usable(address: str) -> bool:
    """Return whether something is an IP address at which other hosts can find one."""
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def clock_refusals(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Refuse clocks that are apart: logs of one engine are read side by side."""
    if (apart := clocks_apart(hosts)) is None:
        return []
    ahead, behind, seconds = apart
    return [f"The clock of {ahead} is {seconds} s ahead of that of {behind}. Set both by NTP."]


def blocked_ports(tries: Iterable[Mapping[str, Any]], host: str) -> list[str]:
    """Refuse hosts that a host cannot get through to. One that says no is there.

    Args:
        tries: what came of connecting: item (address and port), rc and stderr.
        host: who tried.
    """
    blocked: dict[str, list[str]] = {}
    for tried in tries:
        if tried["rc"] != 0 and "refused" not in tried["stderr"]:
            address, port = tried["item"]
            blocked.setdefault(str(address), []).append(str(port))
    return [
        f"{host} cannot connect to {address} at {', '.join(ports)}. Allow connections between the"
        " hosts of one model at every TCP port, and correct infbox_model_group_address if the"
        " address belongs to another host."
        for address, ports in blocked.items()
    ]


def whole_groups(
    hosts: Sequence[str], variables: Mapping[str, Mapping[str, Any]], sizes: Any = 1
) -> list[int]:
    """Return how many hosts a play takes at a time, so that no model group is torn apart.

    Args:
        hosts: of the play, in its order.
        variables: of each; `infbox_model_group` says which group it is of. There are none while the
            syntax is checked.
        sizes: how many at a time: a number, a share such as 25%, or a list of them, whose last one
            holds to the end.
    """
    given = sizes if isinstance(sizes, list) else [sizes]
    groups = [variables.get(host, {}).get("infbox_model_group") or host for host in hosts]
    batches: list[int] = []
    done = 0
    while done < len(hosts):
        end = done + number_of(given[min(len(batches), len(given) - 1)], len(hosts))
        while 0 < end < len(hosts) and groups[end] == groups[end - 1]:
            end += 1
        batches.append(min(end, len(hosts)) - done)
        done = end
    return batches or [1]


def number_of(size: Any, total: int) -> int:
    """Return a number of hosts that is given as one or as a share, at least one."""
    text = str(size)
    count = int(float(text[:-1]) * total / 100) if text.endswith("%") else int(text)
    return max(count, 1)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "blocked_ports": blocked_ports,
            "interface_at": interface_at,
            "model_group_refusals": model_group_refusals,
            "whole_groups": whole_groups,
        }
