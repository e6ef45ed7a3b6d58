"""What the caddy role refuses before it changes anything."""

from typing import Any

import pytest

from tests.stack.refusals import refusals

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no_address": ({"caddy_site_addresses": []}, "List at least one name or IP address"),
    "a_url": ({"caddy_site_addresses": ["https://a.example"]}, "without scheme, port and path"),
    "a_port": ({"caddy_site_addresses": ["a.example:443"]}, "without scheme, port and path"),
    "acme_for_an_address": (
        {"caddy_tls": "acme", "caddy_site_addresses": ["ai.example.org", "192.0.2.7", "::1"]},
        "no public CA certifies 192.0.2.7, ::1. Use public names",
    ),
    "acme_for_a_host_name": (
        {"caddy_tls": "acme", "caddy_site_addresses": ["gpu1"]},
        "no public CA certifies gpu1.",
    ),
    "unknown_tls": ({"caddy_tls": "none"}, "value of caddy_tls must be one of: internal, acme"),
    "one_port": ({"caddy_http_port": 443}, "caddy_http_port and caddy_https_port are both 443."),
    "a_page_at_the_root": (
        {"caddy_consoles": [{"path": "/", "upstream": "127.0.0.1:3000"}]},
        "Give each page a path such as /grafana",
    ),
    "the_pages_port_is_the_api_s": (
        {"caddy_consoles_port": 443},
        "caddy_consoles_port is 443. Give each page",
    ),
    "a_page_url": ({"caddy_page_upstream": "http://a:1"}, "Give one ADDRESS:PORT, without scheme"),
    "a_sign_in_url": ({"caddy_sign_in": "http://a:1"}, 'caddy_sign_in is "http://a:1".'),
    "a_page_that_asks_nobody": (
        {"caddy_consoles": [{"path": "/grafana", "upstream": "127.0.0.1:3000", "sign_in": True}]},
        'caddy_sign_in is "". Give one ADDRESS:PORT',
    ),
    "a_hooks_url": ({"caddy_hooks": "http://a:1"}, 'caddy_hooks is "http://a:1".'),
    "no_upstream": ({"caddy_upstreams": []}, "List at least one ADDRESS:PORT"),
    "an_authority_url": ({"caddy_key_service": "http://a:1"}, "Give one ADDRESS:PORT"),
    "one_replica": ({"caddy_replicas": ["a:8444"]}, "two at least or none"),
    "a_replica_twice": ({"caddy_replicas": ["a:8444", "a:8444"]}, "List each host once"),
    "a_replica_url": (
        {"caddy_replicas": ["https://a:8444", "b:8444"]},
        'caddy_replicas is ["https://a:8444", "b:8444"], with caddy_replicas_port 8444',
    ),
    "the_replicas_port_is_the_pages_s": (
        {"caddy_replicas_port": 8443},
        "nothing else of Caddy has",
    ),
    "no_request_for_a_replica": ({"caddy_replicas_requests": 0}, "_requests 0. List"),
    "an_upstream_url": ({"caddy_upstreams": ["http://a:1"]}, "without scheme and path"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("caddy")
    cases = {name: variables for name, (variables, _) in CASES.items()}
    return refusals(folder, "caddy", {**cases, "the_defaults": {}})


@pytest.mark.parametrize("case", CASES)
def test_it_refuses(said: dict[str, str], case: str) -> None:
    assert CASES[case][1] in said[case]


def test_it_takes_its_defaults(said: dict[str, str]) -> None:
    assert said["the_defaults"] == ""
