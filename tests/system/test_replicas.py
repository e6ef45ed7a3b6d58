"""Replicas on hosts of their own, each with the real engine: `make replicas` runs it.

Both watch the same tree and stand behind one name. What the parts do among each other is tried in
tests/caddy/test_replicas.py, with stubs of the engine and many more faults.
"""

import re
import time
from collections.abc import Iterator

import pytest

from lab import hosts
from lab.deployment import ssh, wait_for
from lab.hosts import Host
from lab.settings import STATE, container_name
from lab.shell import run
from tests.system.conftest import WORKSPACE
from tests.system.faults import questions
from tests.system.replicas import BASE, Group, engine_answers, home, standing

pytestmark = [pytest.mark.lab, pytest.mark.long]

FIRST, SECOND, THIRD = (f"replica{number}" for number in (1, 2, 3))
WARM_SHARE = 0.9
CUT_OFF = """nft -f - <<'END'
table inet cut {{
  chain from_the_other {{
    type filter hook input priority -10;
    ip saddr {} tcp dport 8444 drop
  }}
}}
END"""


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    hosts.remove(THIRD)
    with standing("replicas", FIRST, SECOND) as group:
        yield group


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
