"""By which names and addresses clients reach a host that was not told any."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

# Of the host alone, of Docker's networks and of virtual machines.
INNER = re.compile(r"lo|docker\d*|br-[0-9a-f]{12}|veth.*|virbr\d*")


def host_addresses(facts: Mapping[str, Any]) -> list[str]:
    """Return a host's own name and its IPv4 addresses.

    Args:
        facts: what Ansible gathered of it, the network at least.

    Returns:
        The name, then the address of the default route. Without such a route, as on a host that
        has no way out, those of all interfaces that other machines may reach.
    """
    route = facts.get("default_ipv4", {}).get("address")
    addresses = [route] if route else _outer(facts)
    return list(dict.fromkeys(name for name in (facts.get("fqdn"), *addresses) if name))


def _outer(facts: Mapping[str, Any]) -> list[str]:
    """Return the addresses of interfaces that lead out of the host, by the interfaces' names."""
    names = sorted(name for name in facts.get("interfaces", []) if not INNER.fullmatch(name))
    # A fact has no dash in its name.
    found = (facts.get(name.replace("-", "_"), {}) for name in names)
    return [each["ipv4"]["address"] for each in found if "ipv4" in each]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"host_addresses": host_addresses}
