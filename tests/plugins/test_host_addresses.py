"""By which addresses clients reach a host. The facts are reduced to what is read."""

import pytest

from tests.plugins.plugin_files import load

host_addresses = load("filter", "host_addresses").host_addresses

ROUTE = {"default_ipv4": {"address": "192.0.2.7"}}
INTERFACES = {
    "interfaces": ["lo", "ens-5", "docker0", "br-0123456789ab", "veth1", "bond0", "eth9"],
    "lo": {"ipv4": {"address": "127.0.0.1"}},
    "ens_5": {"ipv4": {"address": "198.51.100.5"}},
    "docker0": {"ipv4": {"address": "172.17.0.1"}},
    "br_0123456789ab": {"ipv4": {"address": "172.18.0.1"}},
    "bond0": {"ipv4": {"address": "203.0.113.4"}},
    "eth9": {},
}


@pytest.mark.parametrize(
    ("facts", "addresses"),
    [
        ({"fqdn": "gpu1.example", **ROUTE, **INTERFACES}, ["gpu1.example", "192.0.2.7"]),
        ({"fqdn": "192.0.2.7", **ROUTE}, ["192.0.2.7"]),
        ({"fqdn": "gpu1"}, ["gpu1"]),
        ({}, []),
    ],
)
def test_a_host_has_its_name_and_the_address_of_its_way_out(
    facts: dict[str, object], addresses: list[str]
) -> None:
    assert host_addresses(facts) == addresses


def test_a_host_without_a_way_out_has_the_addresses_that_others_reach() -> None:
    facts = {"fqdn": "gpu1", "default_ipv4": {}, **INTERFACES}
    assert host_addresses(facts) == ["gpu1", "203.0.113.4", "198.51.100.5"]
