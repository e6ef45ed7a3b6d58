"""Lab hosts that stand behind one name, and who asks by it."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from lab import hosts
from lab.client import Client
from lab.deployment import WORKSPACES, Endpoint, copy_tree, endpoint, inventory, play, ssh, wait_for
from lab.hosts import Host
from lab.settings import ROOT, STATE
from lab.shell import LabError
from tests.system.conftest import WORKSPACE, diagnosed

NAME = "code.example.org"
BASE = "debian13"
MOUNTS = [f"{STATE / 'workspaces'}:{WORKSPACES}"]
SETTLED_SECONDS = 60.0


@dataclass
class Group:
    """Replicas behind one name.

    Attributes:
        settings: of each host, beside those that make it a replica.
        hosts: by name.
        inventories: a folder for each.
        client: asks by the name.
        resolved: the addresses that the name has at present.
        right: the answer without any cache.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    inventories: dict[str, Path] = field(default_factory=dict)
    client: Client = field(init=False)
    resolved: list[str] = field(default_factory=list)
    right: str = ""

    def add(self, name: str) -> None:
        """Create a host and write its inventory."""
        self.hosts[name] = hosts.create(name, BASE, MOUNTS)
        self.describe(name)

    def describe(self, name: str) -> None:
        """Write the inventory of a host."""
        tree = copy_tree(ROOT, f"replicas-{WORKSPACE}")
        variables = {
            "infbox_replicas": True,
            "infbox_site_addresses": [NAME],
            "infbox_workspaces": [{"name": WORKSPACE, "path": f"{WORKSPACES}/{tree.name}"}],
            **self.settings,
        }
        self.inventories[name] = inventory(self.hosts[name], variables)

    def deploy(self, log: str, *names: str) -> str:
        """Run `site.yml` for some of the hosts."""
        given = [word for name in names for word in ("-i", self.inventories[name])]
        return play(["site.yml", *given], log)

    def connect(self) -> None:
        """Make the client, which trusts the authority of each host."""
        each = [endpoint(host) for host in self.hosts.values()]
        authority = STATE / "replicas.crt"
        authority.write_text("".join(one.authority.read_text() for one in each))
        assert len({one.key for one in each}) == 1, "users have one key on all hosts"
        point = Endpoint(f"https://{NAME}/v1", each[0].key, authority)
        # One that is kept would go on to a host that the name does not lead to any more.
        self.client = Client(point, WORKSPACE, keep_alive=False)

    def ask_through(self, *names: str) -> None:
        """Have the name lead to some of the hosts, the first one first."""
        self.resolved = [self.hosts[name].address for name in names]

    def ask_at_home(self) -> str:
        """Have the name lead to the host that warms the workspace, and return which that is."""
        self.ask_through(*self.hosts)
        name = self.answered_by()
        self.ask_through(name)
        return name

    def answered_by(self) -> str:
        """Ask, and return which host says that it answered."""
        answer = self.client.openai.chat.completions.with_raw_response.create(
            model=f"{self.client.model}@{WORKSPACE}",
            messages=[{"role": "user", "content": "Which host?"}],
            max_tokens=1,
        )
        return answer.headers["x-infbox-host"]

    def until_answered_by(self, name: str) -> None:
        """Wait until a host answers."""

        def it() -> bool | None:
            with contextlib.suppress(openai.APIError):
                return self.answered_by() == name or None
            return None

        wait_for(f"{name} answering", it, SETTLED_SECONDS)


def names_of(group: Group, others: Callable[..., Any]) -> Callable[..., Any]:
    """Return a resolver that knows the group's name, and leaves others to the one there was."""

    def resolve(host: str, port: int, *more: Any, **options: Any) -> Any:
        if host != NAME:
            return others(host, port, *more, **options)
        return [
            found for address in group.resolved for found in others(address, port, *more, **options)
        ]

    return resolve


def home(group: Group) -> tuple[str, str]:
    """Return the host that the workspace is at home at, and another one."""
    name = group.ask_at_home()
    return name, next(other for other in group.hosts if other != name)


def engine_answers(host: Host) -> bool | None:
    """Return True once a host's engine takes questions."""
    with contextlib.suppress(LabError):
        fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8010/ready').status)"
        return ssh(host, f'python3 -c "{fetch}"') == "200" or None
    return None


@contextlib.contextmanager
def standing(log: str, first: str, second: str, **settings: Any) -> Iterator[Group]:
    """Have two new hosts behind the name, warm; whatever else the group gets is removed with them.

    Args:
        log: of the deployment.
        first: a host's name.
        second: another's.
        settings: of both hosts.
    """
    group = Group(settings)
    for name in (first, second):
        hosts.remove(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", names_of(group, socket.getaddrinfo))
        try:
            with diagnosed(group.hosts.values()):
                for name in (first, second):
                    group.add(name)
                group.deploy(log, first, second)
                group.connect()
                group.ask_at_home()
                group.client.wait_until_warm()
                group.right = group.client.ask(cold=True).text
                yield group
        finally:
            for name in group.hosts:
                hosts.remove(name)
