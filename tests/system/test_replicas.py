"""Replicas on hosts of their own, each with the real engine: `make replicas` runs it.

Both watch the same tree and stand behind one name. What the parts do among each other is tried in
tests/caddy/test_replicas.py, with stubs of the engine and many more faults.
"""

import contextlib
import re
import socket
import time
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
from lab.settings import ROOT, STATE, container_name
from lab.shell import LabError, run
from tests.system.conftest import DIAGNOSTICS, WORKSPACE
from tests.system.faults import questions

pytestmark = [pytest.mark.lab, pytest.mark.long]

NAME = "code.example.org"
BASE = "debian13"
FIRST, SECOND, THIRD = (f"replica{number}" for number in (1, 2, 3))
MOUNTS = [f"{STATE / 'workspaces'}:{WORKSPACES}"]
WARM_SHARE = 0.9
SETTLED_SECONDS = 60.0
CUT_OFF = """nft -f - <<'END'
table inet cut {{
  chain from_the_other {{
    type filter hook input priority -10;
    ip saddr {} tcp dport 8444 drop
  }}
}}
END"""


@dataclass
class Group:
    """Replicas behind one name.

    Attributes:
        hosts: by name.
        inventories: a folder for each.
        client: asks by the name.
        resolved: the addresses that the name has at present.
        right: the answer without any cache.
    """

    hosts: dict[str, Host] = field(default_factory=dict)
    inventories: dict[str, Path] = field(default_factory=dict)
    client: Client = field(init=False)
    resolved: list[str] = field(default_factory=list)
    right: str = ""

    def add(self, name: str) -> None:
        """Create a host and write its inventory."""
        tree = copy_tree(ROOT, f"replicas-{WORKSPACE}")
        self.hosts[name] = hosts.create(name, BASE, MOUNTS)
        variables = {
            "infbox_replicas": True,
            "infbox_site_addresses": [NAME],
            "infbox_workspaces": [{"name": WORKSPACE, "path": f"{WORKSPACES}/{tree.name}"}],
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


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    for name in (FIRST, SECOND, THIRD):
        hosts.remove(name)
    group = Group()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", names_of(group, socket.getaddrinfo))
        try:
            for name in (FIRST, SECOND):
                group.add(name)
            group.deploy("replicas", FIRST, SECOND)
            group.connect()
            group.ask_at_home()
            group.client.wait_until_warm()
            group.right = group.client.ask(cold=True).text
            yield group
        except LabError:
            for host in group.hosts.values():
                print(ssh(host, DIAGNOSTICS))
            raise
        finally:
            for name in (FIRST, SECOND, THIRD):
                hosts.remove(name)


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


def test_one_host_answers_about_a_workspace_whichever_is_asked(group: Group) -> None:
    seen = set()
    for name in (FIRST, SECOND):
        group.ask_through(name)
        seen.add(group.answered_by())
    assert len(seen) == 1


def test_what_is_warm_there_is_found_through_the_other_one(group: Group) -> None:
    _, other = home(group)
    tokens = group.client.wait_until_warm()["tokens"]
    group.ask_through(other)
    answer = group.client.ask()
    assert answer.text == group.right
    assert answer.cached_tokens >= WARM_SHARE * tokens


def test_a_save_is_in_the_answer_of_either(group: Group) -> None:
    saved = STATE / "workspaces" / f"replicas-{WORKSPACE}" / "seen_by_replicas.py"
    for name in (FIRST, SECOND):
        group.ask_at_home()
        since = time.time()
        saved.write_text(f"def seen_by_{name}() -> None: ...\n")
        group.client.wait_until_saved(since)
        group.ask_through(name)
        assert group.client.ask().text == group.client.ask(cold=True).text
    group.ask_at_home()
    since = time.time()
    saved.unlink()
    group.client.wait_until_saved(since)


def test_a_host_that_is_lost_under_load_costs_no_question_that_had_not_begun(group: Group) -> None:
    lost, left = home(group)
    group.ask_through(left)
    with questions(group.client) as asking:
        wait_for("a first answer", lambda: asking.answers or None, 60)
        run(["docker", "kill", container_name(lost)])
        before = asking.asked
        wait_for("more answers", lambda: asking.asked > before + 5 or None, 180)
        assert group.answered_by() == left
        hosts.create(lost, BASE)
        wait_for("the engine there", lambda: engine_answers(group.hosts[lost]), 300)
        group.until_answered_by(lost)
    print(f"asked {asking.asked}, failed {asking.failures}, longest {asking.longest:.1f} s")
    assert asking.answers == {group.right}
    # The one that was being answered when its host was lost.
    assert len(asking.failures) <= 1, asking.failures


def engine_answers(host: Host) -> bool | None:
    """Return True once a host's engine takes questions."""
    with contextlib.suppress(LabError):
        fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8010/ready').status)"
        return ssh(host, f'python3 -c "{fetch}"') == "200" or None
    return None


def test_hosts_that_do_not_reach_each_other_answer_by_themselves(group: Group) -> None:
    name, other = home(group)
    ssh(group.hosts[name], CUT_OFF.format(group.hosts[other].address))
    ssh(group.hosts[other], CUT_OFF.format(group.hosts[name].address))
    try:
        for one in (name, other):
            group.ask_through(one)
            group.until_answered_by(one)
            assert group.client.ask().text == group.right
    finally:
        for host in group.hosts.values():
            ssh(host, "nft delete table inet cut")
    group.ask_through(other)
    group.until_answered_by(name)


def test_nothing_is_left_to_do(group: Group) -> None:
    said = group.deploy("replicas-again", FIRST, SECOND)
    assert said.count("changed=0 ") == 2


def test_a_host_is_added_and_one_taken_away_by_the_inventory_alone(group: Group) -> None:
    group.add(THIRD)
    group.deploy("replicas-three", FIRST, SECOND, THIRD)
    group.connect()
    group.ask_at_home()
    group.client.wait_until_warm()
    group.ask_through(THIRD)
    assert group.client.ask().text == group.right
    assert known(group.hosts[THIRD]) == {host.address for host in group.hosts.values()}
    group.deploy("replicas-without-first", SECOND, THIRD)
    run(["docker", "kill", container_name(FIRST)])
    for name in (SECOND, THIRD):
        group.ask_through(name)
        assert group.answered_by() in (SECOND, THIRD)
        assert known(group.hosts[name]) == {group.hosts[left].address for left in (SECOND, THIRD)}


def known(host: Host) -> set[str]:
    """Return the addresses among which a host's Caddy shares questions out."""
    adapted = ssh(host, "docker exec infbox-caddy-1 caddy adapt --config /etc/caddy/Caddyfile")
    return set(re.findall(r'"dial": *"([^"]+):8444"', adapted))
