"""A cache that replicas share, on hosts of their own with the real engine: `make shared-cache`.

What one host computed the other one loads; and nothing that befalls the cache changes an answer, or
keeps anybody waiting for longer than the moment in which it is found out.
"""

import json
import re
import time
from collections.abc import Iterator

import pytest

from lab.deployment import ssh, wait_for
from lab.hosts import Host
from tests.system.faults import questions
from tests.system.replicas import Group, engine_answers, home, standing

pytestmark = [pytest.mark.lab, pytest.mark.long]

FIRST, SECOND = "sharing1", "sharing2"
GIGABYTES = 1
WARM_SHARE = 0.9
# Vllm may be restarting, and its host is still told to be away for some seconds then.
READY_SECONDS = 300
# A sign of life that is missed, and what this busy machine adds.
NOTICED_SECONDS = 3.0
FROZEN_SECONDS = 20
KEY = "/etc/infbox/lmcache/shared/group.key"
FORGET = (
    "docker stop --time 1 infbox-vllm-1 infbox-lmcache-1 > /dev/null;"
    " find /var/lib/infbox/lmcache -type f -delete;"
    " docker start infbox-lmcache-1 infbox-vllm-1 > /dev/null"
)


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with standing("sharing", FIRST, SECOND, infbox_shared_cache_gb=GIGABYTES) as group:
        yield group


def keeper(group: Group) -> Host:
    """Return the host that the cache is on, the inventory's first."""
    return group.hosts[FIRST]


def tokens(host: Host, source: str) -> float:
    """Return how many tokens of prompts a host's vLLM had from a source."""
    command = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/metrics').read().decode())"
    metrics = ssh(host, f'python3 -c "{command}"')
    found = re.findall(
        rf'^vllm:prompt_tokens_by_source_total{{[^}}]*"{source}"[^}}]*}} (\S+)',
        metrics,
        re.MULTILINE,
    )
    return sum(map(float, found))


def kept(host: Host) -> float:
    """Return how many MB the cache holds, by its process."""
    return float(ssh(host, "ps -o rss= -C valkey-server")) / 1000


def test_what_one_host_computed_the_other_one_loads(group: Group) -> None:
    warm, cold = home(group)
    pack = group.client.wait_until_warm()["tokens"]
    computing = group.client.ask(cold=True).first_token
    assert kept(keeper(group)) > 10
    other = group.hosts[cold]
    ssh(other, FORGET)
    wait_for("its engine", lambda: engine_answers(other), READY_SECONDS)
    before = {source: tokens(other, source) for source in ("local_compute", "external_kv_transfer")}
    ssh(group.hosts[warm], "docker kill infbox-vllm-1 > /dev/null")
    try:
        group.ask_through(cold)
        answer = group.client.ask()
        group.until_answered_by(cold)
        print(f"first token after {answer.first_token:.2f} s, computed {computing:.2f} s")
        computed = tokens(other, "local_compute") - before["local_compute"]
        loaded = tokens(other, "external_kv_transfer") - before["external_kv_transfer"]
        print(f"pack {pack}, cached {answer.cached_tokens}, loaded {loaded}, computed {computed}")
        assert answer.text == group.right
        assert answer.cached_tokens >= WARM_SHARE * pack
        assert loaded >= WARM_SHARE * pack
        assert computed < (1 - WARM_SHARE) * pack + 200
    finally:
        ssh(group.hosts[warm], "docker start infbox-vllm-1 > /dev/null")
        wait_for("the engine there", lambda: engine_answers(group.hosts[warm]), READY_SECONDS)


@pytest.mark.parametrize(
    ("gone", "again"),
    [
        ("docker pause infbox-valkey-1", "docker unpause infbox-valkey-1"),
        ("docker kill infbox-valkey-1", "docker start infbox-valkey-1"),
    ],
    ids=["frozen", "killed"],
)
def test_nobody_waits_for_a_cache_that_is_gone(group: Group, gone: str, again: str) -> None:
    group.ask_through(FIRST, SECOND)
    with questions(group.client) as asking:
        wait_for("a first answer", lambda: asking.answers or None, 60)
        # Warm and cold questions are in each other's way, with the cache and without.
        computing = max(group.client.ask(cold=True).first_token for _ in range(2))
        usual = asking.longest
        ssh(keeper(group), f"{gone} > /dev/null")
        try:
            ends = time.monotonic() + FROZEN_SECONDS
            took = []
            while time.monotonic() < ends:
                # Of these nothing is in any cache, so each tier is asked.
                answer = group.client.ask(cold=True)
                assert answer.text == group.right
                took.append(answer.first_token)
        finally:
            ssh(keeper(group), f"{again} > /dev/null")
        before = asking.asked
        wait_for("more answers", lambda: asking.asked > before + 2 or None, 60)
    print(f"computed {', '.join(f'{one:.1f}' for one in took)} s, {computing:.1f} s before")
    print(
        f"warm beside these: {asking.asked}, longest {asking.longest:.1f} s, before {usual:.1f} s"
    )
    assert asking.failures == []
    assert asking.answers == {group.right}
    assert min(took) <= computing + NOTICED_SECONDS


def test_lmcache_starts_without_the_cache_and_finds_it_later(group: Group) -> None:
    host = group.hosts[SECOND]
    ssh(keeper(group), "docker kill infbox-valkey-1 > /dev/null")
    try:
        ssh(host, "docker restart --time 1 infbox-lmcache-1 > /dev/null")
        wait_for("LMCache", lambda: is_healthy(host), READY_SECONDS)
        group.ask_through(SECOND)
        assert group.client.ask().text == group.right
    finally:
        ssh(keeper(group), "docker start infbox-valkey-1 > /dev/null")
    wait_for("the cache", lambda: "The shared cache answers" in log(host) or None, 30)


def is_healthy(host: Host) -> bool | None:
    """Return True once LMCache is."""
    asked = "docker inspect --format '{{.State.Health.Status}}' infbox-lmcache-1"
    return ssh(host, asked) == "healthy" or None


def log(host: Host) -> str:
    """Return what LMCache said since it started last."""
    since = ssh(host, "docker inspect --format '{{.State.StartedAt}}' infbox-lmcache-1")
    return ssh(host, f"docker logs --since {since} infbox-lmcache-1 2>&1")


def test_its_key_is_the_same_on_both_and_in_its_file_alone(group: Group) -> None:
    keys = {ssh(host, f"cat {KEY}") for host in group.hosts.values()}
    assert len(keys) == 1
    secret = next(iter(keys)).splitlines()[1]
    for host in group.hosts.values():
        assert ssh(host, f"stat -c '%U %g %a' {KEY}") == "root 64430 640"
        look = "docker inspect $(docker ps -q); cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
        told = ssh(host, f"{{ {look}; }} 2> /dev/null | tr '\\0' '\\n'")
        assert secret not in told


def test_only_who_has_it_gets_in(group: Group) -> None:
    address = keeper(group).address
    ask = (
        "import socket, ssl; c = ssl.create_default_context(); c.check_hostname = False;"
        " c.verify_mode = ssl.CERT_NONE;"
        f" s = c.wrap_socket(socket.create_connection(('{address}', 8445), 3));"
        " s.sendall(b'PING\\r\\n'); print(s.recv(100))"
    )
    assert "PONG" not in ssh(group.hosts[SECOND], f'python3 -c "{ask}" 2>&1 || true')


def test_nothing_is_left_to_do(group: Group) -> None:
    said = group.deploy("sharing-again", FIRST, SECOND)
    assert said.count("changed=0 ") == 2


def test_it_goes_where_it_is_switched_off(group: Group) -> None:
    group.settings["infbox_shared_cache_gb"] = 0
    for name in (FIRST, SECOND):
        group.describe(name)
    group.deploy("sharing-no-more", FIRST, SECOND)
    for host in group.hosts.values():
        services = ssh(host, "docker ps --all --format '{{.Names}}'")
        assert "valkey" not in services
        told = ssh(host, "docker inspect --format '{{json .Config.Cmd}}' infbox-lmcache-1")
        assert json.loads(told).count("--l2-adapter") == 1
    group.ask_through(FIRST, SECOND)
    assert group.client.ask().text == group.right
