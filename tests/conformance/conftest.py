"""The host that `make conformance` asks: the demo's where it is, else one of its own."""

import json
from collections.abc import Iterator

import pytest

from demo import __main__ as demo
from demo.scene import SHOP
from lab import hosts
from lab.client import Client
from lab.deployment import copy_tree, endpoint
from lab.hosts import Host

WORKSPACE = "shop"


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A host with the demo's model and workspace."""
    if demo.HOST in hosts.names() and demo.state_file().exists():
        yield Host(**json.loads(demo.state_file().read_text()))
        return
    copy_tree(SHOP, WORKSPACE)
    try:
        made = demo.deploy(WORKSPACE)
        Client(endpoint(made), WORKSPACE).wait_until_warm()
        yield made
    finally:
        hosts.remove(demo.HOST)
        demo.state_file().unlink(missing_ok=True)
