"""One model over two hosts, with the real engine on CPUs and Gloo between: `make multinode`.

What joins the hosts is tried in tests/vllm_role/test_node.py, with stubs of the engine.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab import hosts
from lab.client import Client
from lab.deployment import WORKSPACES, copy_tree, endpoint, inventory, play, ssh, wait_for
from lab.hosts import Host
from lab.settings import ROOT, STATE, container_name
from lab.shell import LabError, run
from tests.system.conftest import WORKSPACE, diagnosed

pytestmark = [pytest.mark.lab, pytest.mark.long]

BASE = "debian13"
HEAD, WORKER, STRANGER = "node1", "node2", "node3"
MOUNTS = [f"{STATE / 'workspaces'}:{WORKSPACES}"]
LOADED_SECONDS = 400.0
PATIENCE = 20.0
WARM_SHARE = 0.9
PROMPTS = ("def read(path):\n", "class Cache:\n    ", "import os\nfor name in os.", "# Say why.\n")
ASK = """python3 - <<'END'
import json, urllib.request as r
body = {{"model": "coder", "prompt": {prompt}, "max_tokens": 24, "temperature": 0}}
asked = r.Request("http://127.0.0.1:8000/v1/completions", json.dumps(body).encode(),
                  {{"Content-Type": "application/json"}})
print(json.dumps(json.load(r.urlopen(asked, timeout=120))["choices"][0]["text"]))
END"""


@dataclass
class Group:
    """Two hosts that hold one model.

    Attributes:
        hosts: by name.
        alone: what the head answered to each prompt when it held the model by itself.
        client: asks the head, as people do.
        right: its answer about the workspace without any cache.
    """

    hosts: dict[str, Host] = field(default_factory=dict)
    alone: list[str] = field(default_factory=list)
    client: Client = field(init=False)
    right: str = ""

    def inventories(self, *names: str, group: str = "both", **more: Any) -> list[str | Path]:
        """Write what is given to ansible-playbook for some of the hosts."""
        tree = copy_tree(ROOT, f"multinode-{WORKSPACE}")
        variables = {
            "infbox_workspaces": [{"name": WORKSPACE, "path": f"{WORKSPACES}/{tree.name}"}],
            # The hosts of the lab have the same cores.
            "vllm_cpu_bind": "nobind",
            "infbox_preset": "cpu",
            **more,
        }
        if group:
            variables["infbox_model_group"] = group
            variables["infbox_preset_overrides"] = {"engine": {"nodes": 2}}
        return [word for name in names for word in ("-i", inventory(self.hosts[name], variables))]

    def deploy(self, log: str) -> str:
        """Run `site.yml` for both."""
        return play(["site.yml", *self.inventories(HEAD, WORKER)], log)

    def completions(self) -> list[str]:
        """Return what the head's engine makes of each prompt, greedily."""
        return [
            json.loads(ssh(self.hosts[HEAD], ASK.format(prompt=json.dumps(prompt))))
            for prompt in PROMPTS
        ]

    def health(self) -> bool:
        """Return whether the head's engine says that it is well."""
        fetch = "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"
        with contextlib.suppress(LabError):
            ssh(self.hosts[HEAD], f'python3 -c "{fetch}"')
            return True
        return False

    def until_down(self) -> float:
        """Wait until the head does not answer any more, and return how long that took."""
        began = time.monotonic()
        wait_for("the end of the whole", lambda: not self.health() or None, 4 * PATIENCE)
        return time.monotonic() - began

    def until_back(self) -> float:
        """Wait until the head answers again, and return how long that took."""
        began = time.monotonic()
        wait_for("the whole being back", lambda: self.health() or None, LOADED_SECONDS)
        return time.monotonic() - began

    def containers(self, name: str) -> set[str]:
        """Return the services whose containers run on a host and are healthy."""
        listed = ssh(
            self.hosts[name],
            "docker ps --filter label=com.docker.compose.project=infbox --filter health=healthy"
            " --format '{{.Label \"com.docker.compose.service\"}}'",
        )
        return set(listed.split())


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    for name in (HEAD, WORKER, STRANGER):
        hosts.remove(name)
    group = Group()
    try:
        with diagnosed(group.hosts.values()):
            for name in (HEAD, WORKER):
                group.hosts[name] = hosts.create(name, BASE, MOUNTS)
            # By themselves first: what each cached of the whole model must not be taken for
            # its part.
            play(["site.yml", *group.inventories(HEAD, WORKER, group="")], "multinode-alone")
            group.alone = group.completions()
            group.deploy("multinode")
            group.client = Client(endpoint(group.hosts[HEAD]), WORKSPACE)
            group.client.wait_until_warm()
            group.right = group.client.ask(cold=True).text
            yield group
    finally:
        for name in (HEAD, WORKER, STRANGER):
            hosts.remove(name)


def test_two_hosts_answer_as_one_does(group: Group) -> None:
    assert len(set(group.alone)) > 1, "the prompts tell nothing apart"
    assert group.completions() == group.alone


def test_the_head_alone_answers_and_both_compute(group: Group) -> None:
    assert group.containers(HEAD) == {"lmcache", "vllm", "caddy"}
    assert group.containers(WORKER) == {"lmcache", "vllm"}
    processes = ssh(group.hosts[WORKER], "docker top infbox-vllm-1")
    assert "VLLM::Worker_TP1" in processes
    assert "VLLM::EngineCore" not in processes
    units = ssh(group.hosts[WORKER], "systemctl list-units 'infbox-*' --no-legend")
    assert "infbox-node-guard" in units
    assert "infbox-gateway" not in units


def test_a_workspace_is_warm_on_both(group: Group) -> None:
    tokens = group.client.wait_until_warm()["tokens"]
    answer = group.client.ask()
    assert answer.text == group.right
    assert answer.cached_tokens >= WARM_SHARE * tokens


def test_kv_that_each_host_stored_is_loaded_after_the_engine_was_restarted(group: Group) -> None:
    ssh(group.hosts[WORKER], "docker restart infbox-vllm-1")
    group.until_back()
    tokens = group.client.wait_until_warm()["tokens"]
    answer = group.client.ask()
    assert answer.text == group.right
    assert answer.cached_tokens >= WARM_SHARE * tokens
    assert metric(group.hosts[HEAD], "vllm:external_prefix_cache_hits_total") >= WARM_SHARE * tokens


def metric(host: Host, name: str) -> float:
    """Return the sum of one of the engine's metrics."""
    url = "http://127.0.0.1:8000/metrics"
    fetch = f"import urllib.request as r; print(r.urlopen('{url}').read().decode())"
    lines = ssh(host, f'python3 -c "{fetch}"').splitlines()
    samples = [line for line in lines if line.startswith(f"{name}{{")]
    return sum(float(line.rpartition(" ")[2]) for line in samples)


def test_nothing_is_left_to_do(group: Group) -> None:
    said = group.deploy("multinode-again")
    assert said.count("changed=0 ") == 2


def test_status_says_who_holds_a_part(group: Group) -> None:
    said = play(["playbooks/status.yml", *group.inventories(HEAD, WORKER)], "multinode-status")
    assert "UNHEALTHY" not in said
    assert f"of the model that {HEAD} answers by" in said


def test_others_do_not_get_to_the_ports_between_the_hosts(group: Group) -> None:
    stranger = hosts.create(STRANGER, BASE)
    listening = (
        "ss -Htln | awk '{print $4}' | grep -v '^127\\|\\[::1\\]' | sed 's/.*://' | sort -un"
    )
    for name in (HEAD, WORKER):
        ports = {int(port) for port in ssh(group.hosts[name], listening).split()}
        assert len(ports) > 3
        open_ports = {port for port in ports if gets_through(stranger, group.hosts[name], port)}
        assert open_ports <= {22, 80, 443, 8443}
        other = group.hosts[WORKER if name == HEAD else HEAD]
        assert gets_through(other, group.hosts[name], min(ports - {22, 80, 443, 8443}))


def gets_through(source: Host, target: Host, port: int) -> bool:
    """Return whether a host can connect to a port of another one."""
    with contextlib.suppress(LabError):
        ssh(source, f"timeout 2 bash -c ': < /dev/tcp/{target.address}/{port}'")
        return True
    return False


@pytest.mark.parametrize("lost", [WORKER, HEAD])
def test_a_host_that_is_lost_and_comes_back_has_the_whole_restart(group: Group, lost: str) -> None:
    run(["docker", "kill", container_name(lost)])
    began = time.monotonic()
    if lost == WORKER:
        print(f"noticed after {group.until_down():.1f} s")
    else:
        time.sleep(PATIENCE)
    hosts.create(lost, BASE)
    print(f"{lost} was away for {time.monotonic() - began:.1f} s")
    print(f"answers {group.until_back():.1f} s after it was there again")
    assert group.completions() == group.alone
    wait_for("health of all", lambda: "vllm" in group.containers(WORKER) or None, 60)


@pytest.mark.parametrize("where", [WORKER, HEAD])
def test_an_engine_that_dies_on_one_has_all_restart(group: Group, where: str) -> None:
    ssh(group.hosts[where], "pkill -KILL -f '^VLLM::Worker'")
    print(f"noticed after {group.until_down():.1f} s")
    print(f"answers {group.until_back():.1f} s later")
    assert group.completions() == group.alone


def test_a_change_that_cannot_work_leaves_both_as_they_were(group: Group) -> None:
    broken: dict[str, Any] = {"vllm_extra_args": ["--no-such-option"]}
    before = [ssh(host, "readlink /etc/infbox/current") for host in group.hosts.values()]
    with pytest.raises(LabError):
        play(["site.yml", *group.inventories(HEAD, WORKER, **broken)], "multinode-broken")
    after = [ssh(host, "readlink /etc/infbox/current") for host in group.hosts.values()]
    assert before == after
    group.until_back()
    assert group.completions() == group.alone


def test_a_group_is_not_torn_apart(group: Group) -> None:
    with pytest.raises(LabError, match="can only be deployed as a whole, and this run lacks node2"):
        play(["site.yml", *group.inventories(HEAD, WORKER), "--limit", HEAD], "multinode-limited")


def test_a_host_that_leaves_holds_the_model_by_itself_again(group: Group) -> None:
    play(["site.yml", *group.inventories(HEAD, group="")], "multinode-left")
    assert group.completions() == group.alone
    rules = ssh(group.hosts[HEAD], "nft list tables")
    assert "infbox_node_guard" not in rules
