"""The host that `make conformance` asks: the demo's where it is, else one of its own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from demo import __main__ as demo
from demo.scene import SHOP
from lab import hosts
from lab.client import Client
from lab.deployment import copy_tree, endpoint
from lab.hosts import Host
from lab.tunnel import forwarded
from tests.conformance.runner import ENGINE_PORT, Target, targets

WORKSPACE = "shop"


class Outside(NamedTuple):
    """A host as this machine reaches it.

    Attributes:
        targets: its servers by name.
        authority: file with the certificate that theirs are signed by.
    """

    targets: dict[str, Target]
    authority: Path


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


@pytest.fixture(scope="session")
def outside(host: Host) -> Iterator[Outside]:
    """The same host, asked from this machine."""
    point = endpoint(host)
    with forwarded(host, ENGINE_PORT) as engine:
        yield Outside(targets(point, WORKSPACE, engine), point.authority)
