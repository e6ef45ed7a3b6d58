"""What the monitoring role refuses before it changes anything."""

from typing import Any

import pytest

from tests.stack.refusals import refusals

MAIL = {"to": "a@example.org", "from": "b@example.org", "smarthost": "mail.example.org"}
MEMBER = {"host": "a", "address": "a:8443", "server_name": "a", "password": "a-fleet-password"}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "for_ever": ({"monitoring_retention_time": "0d"}, "Give a time such as 30d"),
    "no_bound": ({"monitoring_retention_size": ""}, "so that the disk cannot fill up"),
    "seldom": ({"monitoring_scrape_interval": "5m"}, "Give 1s to 60s"),
    "no_rules": ({"monitoring_rules_dir": "/nowhere"}, 'monitoring_rules_dir, "/nowhere"'),
    "a_target_url": (
        {"monitoring_targets": [{"job": "a", "address": "http://a:1"}]},
        "Give each target an ADDRESS:PORT",
    ),
    "a_probe_twice": (
        {"monitoring_probes": [{"name": "a", "url": "http://a"}, {"name": "a", "url": "http://b"}]},
        "a name of its own",
    ),
    "a_probe_for_ever": (
        {"monitoring_probes": [{"name": "a", "url": "http://a", "seconds": 60}]},
        "at most 55 seconds",
    ),
    "a_fleet_of_itself": (
        {"monitoring_host": "a", "monitoring_fleet": [MEMBER]},
        "a name of its own, another than a",
    ),
    "a_fleet_of_one_twice": ({"monitoring_fleet": [MEMBER, MEMBER]}, "a name of its own"),
    "a_fleet_without_a_port": (
        {"monitoring_fleet": [{**MEMBER, "address": "https://a"}]},
        "has the hosts a at https://a. Give each host",
    ),
    "a_fleet_without_a_login": (
        {"monitoring_fleet": [{**MEMBER, "password": ""}]},
        "the content of its fleet-password",
    ),
    "nowhere_to_tell": (
        {"monitoring_alertmanager_image": "alertmanager"},
        "neither monitoring_webhook_url nor monitoring_mail says where alerts go",
    ),
    "no_mail_port": ({"monitoring_mail": MAIL}, "Give to, from and smarthost as HOST:PORT"),
    "mail_to_nobody": ({"monitoring_mail": {"to": "a@example.org"}}, "Give to, from and smarthost"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("monitoring")
    cases = {name: variables for name, (variables, _) in CASES.items()}
    return refusals(folder, "monitoring", {**cases, "the_defaults": {}})


@pytest.mark.parametrize("case", CASES)
def test_it_refuses(said: dict[str, str], case: str) -> None:
    assert CASES[case][1] in said[case]


def test_it_takes_its_defaults(said: dict[str, str]) -> None:
    assert said["the_defaults"] == ""


def test_a_refusal_does_not_say_a_password(said: dict[str, str]) -> None:
    assert not [case for case, message in said.items() if "a-fleet-password" in message]
