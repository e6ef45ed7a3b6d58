"""What keeps hosts from answering the same questions: who differs in what, and the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

CLOCK_SECONDS = 10
MIN_CACHE_GB = 0.1
CACHE_SPARE = 1.25  # what its container may have at most
LOOPBACK = ("localhost", "127.", "::1", "[::1]")

# What must be one and the same, with what to do. An engine's tuple is what its KV depends on.
ALIKE = {
    "preset": ("the preset", "Give them the same infbox_preset"),
    "served_name": ("the name that they serve", "Give them the same infbox_served_name"),
    "model": ("the model", "Give them the same preset and infbox_model_path, if any"),
    "engine": ("the engine's image", "Give them the same infbox_images and infbox_registry_prefix"),
    "window": ("the model's window", "Set engine.max_model_len by infbox_preset_overrides"),
    "caddy": ("Caddy's image", "Give them the same infbox_images and infbox_registry_prefix"),
    "users": ("the users", "Give them the same infbox_users"),
    "access": (
        "the workspaces that users may use",
        "Give them the same infbox_users, infbox_teams and infbox_workspaces_private",
    ),
    "bases": (
        "the bases of workspaces",
        "Give a workspace of infbox_workspaces the same base on all of them",
    ),
    "shared_cache": (
        "the shared cache",
        "Give them the same infbox_shared_cache_gb and infbox_shared_cache_host",
    ),
}


def replica_refusals(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Refuse replicas that are not alike, or cannot be told apart.

    Args:
        hosts: by name, what is known of each: those of ALIKE, workspaces (their names), address,
            and clock (seconds that it is ahead). What is not known of a host is not compared.
    """
    refusals = [
        f"The replicas differ in {what}: {parts}. {fix}, or set infbox_replicas to false for some."
        for key, (what, fix) in ALIKE.items()
        if (parts := differing(hosts, key))
    ]
    return [
        *refusals,
        *workspace_refusals(hosts),
        *address_refusals(hosts),
        *clock_refusals(hosts),
    ]


def differing(hosts: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """Return who has what, if not all have the same; else nothing."""
    found: dict[str, list[str]] = {}
    for host, known in hosts.items():
        if key in known:
            value = known[key]
            text = ", ".join(sorted(value)) if isinstance(value, list) else str(value)
            found.setdefault(text or "nothing", []).append(host)
    if len(found) < 2:  # noqa: PLR2004
        return ""
    return "; ".join(f"{named(names)} {has(names)} {text}" for text, names in found.items())


def workspace_refusals(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Refuse workspaces that only some have: a question about one may go to any host."""
    told = {host: known["workspaces"] for host, known in hosts.items() if "workspaces" in known}
    refusals = []
    for name in sorted({name for names in told.values() for name in names}):
        there = [host for host, names in told.items() if name in names]
        lacking = [host for host in told if host not in there]
        if lacking:
            refusals.append(
                f"The workspace {name} is on {named(there)} and not on {named(lacking)}. Put it"
                " there too and list it in infbox_workspaces, or take it from all of them."
            )
    return refusals


def address_refusals(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Refuse addresses at which the others cannot find a host."""
    refusals = []
    seen: dict[str, str] = {}
    for host, known in hosts.items():
        address = str(known.get("address", ""))
        if "address" not in known:
            continue
        fix = f"Set infbox_replica_address of {host} to one at which the other replicas reach it."
        if not address or address.startswith(LOOPBACK):
            refusals.append(f"The address of the replica {host} is {address or 'empty'}. {fix}")
        elif address in seen:
            refusals.append(f"The replicas {seen[address]} and {host} are both at {address}. {fix}")
        seen.setdefault(address, host)
    return refusals


def clock_refusals(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Refuse clocks that are apart: certificates and what was measured go by them."""
    if (apart := clocks_apart(hosts)) is None:
        return []
    ahead, behind, seconds = apart
    told = f"The clock of the replica {ahead} is {seconds} s ahead of that of {behind}."
    return [f"{told} Set both by NTP."]


def clocks_apart(hosts: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, int] | None:
    """Return whose clock is the most ahead of whose, and by how many seconds.

    Args:
        hosts: by name, what is known of each; of some the clock, in seconds that it is ahead.

    Returns:
        None where they are no further apart than CLOCK_SECONDS.
    """
    clocks = {host: int(known["clock"]) for host, known in hosts.items() if "clock" in known}
    if not clocks:
        return None
    behind, ahead = min(clocks, key=clocks.__getitem__), max(clocks, key=clocks.__getitem__)
    seconds = clocks[ahead] - clocks[behind]
    return (ahead, behind, seconds) if seconds > CLOCK_SECONDS else None


def unreachable_replicas(tries: Iterable[Mapping[str, Any]], host: str, port: int) -> list[str]:
    """Refuse replicas that a host cannot get through to. One that says no is there.

    Args:
        tries: what came of connecting to each: item (name and address), rc and stderr.
        host: who tried.
        port: at which.
    """
    refusals = []
    for tried in tries:
        if tried["rc"] == 0 or "refused" in tried["stderr"]:
            continue
        reason = tried["stderr"].strip().rpartition("bash: ")[2] or "no response within 3 s"
        name, address = tried["item"]["host"], tried["item"]["address"]
        refusals.append(
            f"{host} cannot connect to the replica {name} at port {port} of {address}: {reason}."
            f" Allow connections between the two, correct infbox_replica_address of {name}, or"
            f" remove {name} from the inventory while it is down."
        )
    return refusals


def shared_cache_refusals(
    host: str,
    gigabytes: float,
    keeper: str,
    replicas: Sequence[str],
    *,
    is_replica: bool,
    memory: Mapping[str, float],
) -> list[str]:
    """Refuse a shared cache that nobody would share, that is nowhere, or that does not fit.

    Args:
        host: who is asked.
        gigabytes: RAM that the cache is to have, in GB.
        keeper: who is to have it.
        replicas: the group's hosts.
        is_replica: whether the host is to be one.
        memory: what the host has, and what its preset needs beside the cache, in GB; empty where
            nobody looked.
    """
    set_to = f"infbox_shared_cache_gb is {gigabytes:g}"
    refusal = ""
    needs = memory.get("needs", 0) + gigabytes * CACHE_SPARE
    if not is_replica:
        refusal = (
            f"{set_to}, and {host} is no replica. Set infbox_replicas to true for it and for"
            " others, or remove infbox_shared_cache_gb."
        )
    elif keeper not in replicas:
        refusal = (
            f"infbox_shared_cache_host is {keeper}, which is none of the replicas. Give one of"
            f" {named(replicas)}."
        )
    elif gigabytes < MIN_CACHE_GB:
        refusal = f"{set_to}. Give {MIN_CACHE_GB:g} or more, or 0."
    elif host == keeper and memory and needs > memory["has"]:
        refusal = (
            f"{host} has {memory['has']:.1f} GB of memory, and its preset and the cache that"
            f" replicas share need {needs:.1f} GB. Set infbox_shared_cache_gb to less, or"
            " infbox_shared_cache_host to a replica that has more."
        )
    return [refusal] if refusal else []


def named(hosts: Iterable[str]) -> str:
    """Return names as words of a sentence."""
    *others, last = hosts
    return f"{', '.join(others)} and {last}" if others else last


def has(hosts: list[str]) -> str:
    """Return the verb that goes with so many."""
    return "have" if len(hosts) > 1 else "has"


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "replica_refusals": replica_refusals,
            "shared_cache_refusals": shared_cache_refusals,
            "unreachable_replicas": unreachable_replicas,
        }
