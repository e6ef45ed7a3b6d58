"""What is read out of the table of services, row by row."""

from typing import Any

import pytest

from tests.plugins.plugin_files import load

services = load("filter", "services")

TABLE: dict[str, dict[str, Any]] = {
    "engine": {
        "kind": "container",
        "user": "infbox",
        "ports": {
            "engine": {"port": 8000, "at": "127.0.0.1:8000", "purpose": "the engine"},
            "others": {
                "port": 8001, "at": "*:8001", "purpose": "others", "setting": "x", "when": False,
            },
        },
        "metrics": "engine",
        "page": {"path": "/engine"},
        "backup": ["/var/lib/engine"],
    },
    "measure": {"kind": "container", "project": "infbox-monitoring", "backup": ["/var/lib/engine"]},
    "front": {
        "kind": "unit",
        "user": "front",
        "ports": {"v6": {"port": 9, "at": "[::1]:9", "purpose": "the front", "freed_from": ["x"]}},
        "metrics": "v6",
        "runs_by": ["/etc/front.yml"],
    },
    "away": {
        "kind": "unit",
        "user": "away",
        "ports": {
            "away": {"port": 7, "at": "*:7", "purpose": "away"},
            "soon": {"port": 6, "at": "*:6", "purpose": "soon", "when": True},
        },
        "metrics": "away",
        "page": {"path": "/away"},
        "runs_by": ["/etc/away.yml"],
        "packages": ["git"],
        "when": False,
    },
    "plain": {"kind": "unit"},
}  # fmt: skip


def test_services_are_found_by_kind_project_and_whether_they_are_here() -> None:
    assert services.services_here(TABLE, "container", "infbox") == ["engine"]
    assert services.services_here(TABLE, "container", "infbox-monitoring") == ["measure"]
    assert services.services_here(TABLE, "container") == ["engine", "measure"]
    assert services.services_here(TABLE, "unit") == ["front", "plain"]


def test_what_all_services_have_is_told_once_whether_they_are_here_or_not() -> None:
    assert services.services_all(TABLE, "backup") == ["/var/lib/engine"]
    assert services.services_all(TABLE, "packages") == ["git"]
    assert services.services_all(TABLE, "project") == ["infbox", "infbox-monitoring"]


def test_ports_are_claimed_where_roles_listen_by_a_row_s_or_their_own_condition() -> None:
    assert services.service_ports(TABLE) == [
        {"port": 8000, "address": "127.0.0.1", "purpose": "the engine"},
        {"port": 9, "address": "[::1]", "purpose": "the front", "freed_from": ["x"]},
        {"port": 6, "purpose": "soon"},
    ]


def test_targets_and_pages_are_those_of_services_that_are_here() -> None:
    assert services.service_targets(TABLE) == [
        {"job": "engine", "address": "127.0.0.1:8000"},
        {"job": "front", "address": "[::1]:9"},
    ]
    assert services.service_pages(TABLE) == [{"path": "/engine", "upstream": "127.0.0.1:8000"}]


@pytest.mark.parametrize(("everywhere", "names"), [(False, ["front"]), (True, ["front", "away"])])
def test_a_release_covers_units_with_their_files(everywhere: bool, names: list[str]) -> None:
    assert services.service_units(TABLE, everywhere=everywhere) == {
        f"infbox-{name}.service": [
            f"/etc/{name}.yml", f"/etc/systemd/system/infbox-{name}.service",
        ]
        for name in names
    }  # fmt: skip


def test_users_are_those_of_services_that_are_here_and_accounts_those_of_units() -> None:
    users = {"infbox": 1, "front": 2, "away": 3}
    assert services.service_users(TABLE, users) == [
        {"name": "infbox", "uid": 1},
        {"name": "front", "uid": 2},
    ]
    assert services.service_accounts(TABLE) == ["front", "away"]
