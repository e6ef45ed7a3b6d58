"""What the table of services, group_vars/all/services.yml, says: of all of them, or of a host's.

Rows are read key by key, since Ansible evaluates a value when it is read: `when` of one may depend
on what is made of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]
Table = Mapping[str, Row]
PROJECT = "infbox"
UNITS_DIR = "/etc/systemd/system/"


def services_here(services: Table, kind: str, project: str = "") -> list[str]:
    """Return the names of a kind of services that are on this host.

    Args:
        services: the table.
        kind: `container` or `unit`.
        project: of containers, their compose project.
    """
    return [
        name
        for name, row in services.items()
        # `when` last: it takes the longest to evaluate.
        if row["kind"] == kind and project in ("", _project(row)) and row.get("when", True)
    ]


def services_all(services: Table, key: str) -> list[str]:
    """Return what all services have under a key, each once, whether they are on this host or not.

    Args:
        services: the table.
        key: `project`, or one whose value is a list.
    """
    if key == "project":
        rows = (row for row in services.values() if row["kind"] == "container")
        found = [_project(row) for row in rows]
    else:
        found = [value for row in services.values() for value in row.get(key, [])]
    return list(dict.fromkeys(found))


def service_roles(services: Table) -> list[str]:
    """Return the roles that render this host's services into a release, in the table's order."""
    here = [row["role"] for row in services.values() if "role" in row and row.get("when", True)]
    return list(dict.fromkeys(here))


def service_users(services: Table, users: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return name and uid of the users by which this host's services run.

    Args:
        services: the table.
        users: uids by name.
    """
    here = {row["user"] for row in services.values() if "user" in row and row.get("when", True)}
    return [{"name": name, "uid": users[name]} for name in users if name in here]


def service_accounts(services: Table) -> list[str]:
    """Return the users that have an account on the host: those of units."""
    users = [row["user"] for row in services.values() if row["kind"] == "unit" and "user" in row]
    return list(dict.fromkeys(users))


def service_units(services: Table, *, everywhere: bool = False) -> dict[str, list[str]]:
    """Return the units that a release covers, each with the files that it runs by.

    Args:
        services: the table.
        everywhere: those that are not on this host, too.
    """
    return {
        unit: [*row["runs_by"], UNITS_DIR + unit]
        for name, row in services.items()
        if "runs_by" in row and (everywhere or row.get("when", True))
        for unit in [f"infbox-{name}.service"]
    }


def service_ports(services: Table) -> list[dict[str, Any]]:
    """Return the ports that this host needs: port, purpose, and if it is not every one, address."""
    claims = []
    for row in services.values():
        for port in _ports(row).values():
            address, _, number = port["at"].rpartition(":")
            claim = {"port": int(number), "purpose": port["purpose"]}
            if address != "*":
                claim["address"] = address
            claim |= {key: port[key] for key in ("freed_from", "setting") if key in port}
            claims.append(claim)
    return claims


def service_targets(services: Table) -> list[dict[str, str]]:
    """Return whom Prometheus asks on this host: job and address."""
    return [
        {"job": name, "address": ports[row["metrics"]]["at"]}
        for name, row in services.items()
        if "metrics" in row and row.get("when", True)
        for ports in [_ports(row)]
        if row["metrics"] in ports
    ]


def service_pages(services: Table) -> list[dict[str, Any]]:
    """Return the pages that this host has for whoever looks after it: path, upstream, sign_in."""
    return [
        {**row["page"], "upstream": next(iter(_ports(row).values()))["at"]}
        for row in services.values()
        if "page" in row and row.get("when", True)
    ]


def _project(row: Row) -> str:
    project: str = row.get("project", PROJECT)
    return project


def _ports(row: Row) -> dict[str, Row]:
    """Return the ports that a service has on this host."""
    ports: Mapping[str, Row] = row.get("ports", {})
    return dict(_open(ports, row))


def _open(ports: Mapping[str, Row], row: Row) -> Iterator[tuple[str, Row]]:
    for name, port in ports.items():
        if port["when"] if "when" in port else row.get("when", True):
            yield name, port


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "service_accounts": service_accounts,
            "service_pages": service_pages,
            "service_ports": service_ports,
            "service_roles": service_roles,
            "service_targets": service_targets,
            "service_units": service_units,
            "service_users": service_users,
            "services_all": services_all,
            "services_here": services_here,
        }
