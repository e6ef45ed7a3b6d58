"""Hosts that hold one model together, as playbooks see them: refusals, and what each is told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.playbooks.test_replica_groups import ROOT, own_address

# Nobody is there.
AWAY = "192.0.2.9"
FACTS = {
    "distribution": "Debian", "distribution_version": "13", "fqdn": "gpu.example.org",
    "default_ipv4": {"address": "192.0.2.1"},
}  # fmt: skip


def host(**changes: Any) -> dict[str, Any]:
    """Return a host of the group `both` whose own preflight is over."""
    return {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "preflight_preset_name": "cpu",
        "preflight_plan": {"max_model_len": 16384, "tensor_parallel_size": 2},
        "preflight_gpus": [],
        "model_store_path": "/var/lib/infbox/models/some",
        "infbox_model_group": "both",
        "infbox_model_group_address": own_address(),
        "infbox_preset_overrides": {"engine": {"nodes": 2}},
        "infbox_workspaces": [{"name": "shop", "path": "/srv/shop"}],
        "infbox_monitoring": False,
        **changes,
    }


def run(
    folder: Path, hosts: dict[str, dict[str, Any]], playbook: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a playbook for hosts that are all this machine."""
    # Below what the wiring says, as a role's defaults are.
    given = [yaml.safe_load((ROOT / f"roles/vllm/{part}/main.yml").read_text())
             for part in ("defaults", "vars")]  # fmt: skip
    inference = {"hosts": hosts, "vars": {**given[0], **given[1]}}
    (folder / "hosts.yml").write_text(json.dumps({"inference": inference}))
    return subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", folder / "hosts.yml", playbook,
         *arguments],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
             "ANSIBLE_ROLES_PATH": str(ROOT / "roles")},
    )  # fmt: skip


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what is said of two hosts that differ in all that they may not."""
    changes: dict[str, Any] = {
        "preflight_preset_name": "dev24",
        "infbox_images": {"engine-cuda": {"tag": "other"}},
        "infbox_registry_prefix": "mirror.example.org",
        "infbox_model_group_address": AWAY,
        "infbox_replicas": True,
    }
    hosts = {"gpu1": host(), "gpu2": host(**changes)}
    done = run(tmp_path_factory.mktemp("refused"), hosts, ROOT / "playbooks/preflight.yml")
    assert done.returncode != 0
    assert done.stdout.count("changed=0") == 2
    return done.stdout


@pytest.mark.parametrize(
    "words",
    [
        "gpu1 was not changed: The hosts of the model group both differ in",
        "differ in the preset: gpu1 has cpu; gpu2 has dev24.",
        "differ in the engine's image: gpu1 has",
        "No network interface of gpu2 has its address 192.0.2.9.",
        "gpu1 cannot connect to 192.0.2.9 at 29502,",
        "gpu2 is a replica and in the model group both, and cannot be both",
    ],
)
def test_hosts_that_cannot_hold_one_model_are_refused_by_name(refused: str, words: str) -> None:
    assert words in refused


def test_a_group_of_one_is_refused_by_the_plan(tmp_path: Path) -> None:
    alone: dict[str, Any] = {
        "ansible_host": AWAY,
        "infbox_preset": "prod480x2",
        "infbox_model_group": "big",
    }
    given = {"infbox_gpus": [{"name": "NVIDIA A100-SXM4-80GB", "memory_mib": 81920, "count": 4}]}
    both = {**alone, "infbox_model_group": "both", "infbox_model_group_gbit": 100}
    hosts = {"gpu1": alone, "gpu2": both, "gpu3": both}
    playbook = ROOT / "playbooks/plan.yml"
    done = run(tmp_path, hosts, playbook, "-e", json.dumps(given), "-e", "infbox_plan_output=p")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it is for 2 hosts, and this one is alone in the model group big." in done.stdout
    assert "100 Gbit/s allow at most 4,688 tokens a second" in done.stdout
    plans = json.loads((tmp_path / "p").read_text())["hosts"]
    assert [plans[name]["fits"] for name in hosts] == [False, True, True]
    assert plans["gpu2"]["tensor_parallel_size"] == 8


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the wiring makes of two hosts of a group and of one beside it, by host."""
    folder = tmp_path_factory.mktemp("group")
    facts = {"eth1": {"device": "eth1", "speed": 25000, "ipv4": {"address": "192.0.2.1"}},
             "ib0": {"device": "ib0", "ipv4": {"address": "192.0.2.2"}}}  # fmt: skip
    shown = ["stack_services", "stack_health_checks", "stack_peer_hosts", "stack_host_units",
             "_infbox_serves",
             "preflight_workspaces", "preflight_required_settings", "lmcache_node_address",
             "lmcache_shard",
             "preflight_group", "backup_settings", "_infbox_host_services"]  # fmt: skip
    play = [{
        "hosts": "inference", "gather_facts": False,
        "tasks": [
            {"ansible.builtin.set_fact": {"ansible_facts": {**FACTS, **facts}}},
            {"ansible.builtin.template": {
                "src": str(ROOT / "roles/vllm/templates/compose.yml.j2"),
                "dest": f"{folder}/{{{{ inventory_hostname }}}}.yml"}},
            {"ansible.builtin.template": {
                "src": str(ROOT / "roles/vllm/templates/guard.nft.j2"),
                "dest": f"{folder}/{{{{ inventory_hostname }}}}.nft"}},
            {"ansible.builtin.copy": {
                "dest": f"{folder}/{{{{ inventory_hostname }}}}.json",
                "content": "{{ dict(_shown | zip(query('ansible.builtin.vars', *_shown)))"
                           " | to_json }}"}},
        ],
        "vars": {"_shown": shown},
    }]  # fmt: skip
    (folder / "group_vars").symlink_to(ROOT / "group_vars")
    (folder / "filter_plugins").symlink_to(ROOT / "plugins/filter")
    (folder / "files").symlink_to(ROOT / "roles/vllm/files")
    (folder / "watcher").symlink_to(ROOT / "watcher")
    (folder / "play.yml").write_text(json.dumps(play))
    hosts = {
        "gpu1": host(infbox_model_group_address="192.0.2.1"),
        "gpu2": host(infbox_model_group_address="192.0.2.2", infbox_backup={"target": "/b"}),
        "gpu3": host(infbox_model_group="", infbox_model_group_address=AWAY),
    }
    done = run(folder, hosts, folder / "play.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        name: {
            **json.loads((folder / f"{name}.json").read_text()),
            "vllm": yaml.safe_load((folder / f"{name}.yml").read_text())["services"]["vllm"],
            "rules": (folder / f"{name}.nft").read_text(),
        }
        for name in hosts
    }


def value(told: dict[str, Any], option: str) -> str:
    """Return the argument that follows an option."""
    command = told["vllm"]["command"]
    return str(command[command.index(option) + 1])


def connector(told: dict[str, Any]) -> dict[str, Any]:
    """Return what LMCache's connector is told."""
    given: dict[str, Any] = json.loads(value(told, "--kv-transfer-config"))
    extra: dict[str, Any] = given["kv_connector_extra_config"]
    return extra


def test_the_first_host_answers_and_the_other_one_computes(rendered: dict[str, Any]) -> None:
    head, worker = rendered["gpu1"], rendered["gpu2"]
    assert head["stack_services"] == ["lmcache", "vllm", "caddy"]
    assert worker["stack_services"] == ["lmcache", "vllm"]
    assert head["_infbox_serves"] and not worker["_infbox_serves"]
    assert head["stack_health_checks"] and not worker["stack_health_checks"]
    assert (head["stack_peer_hosts"], worker["stack_peer_hosts"]) == (["gpu2"], ["gpu1"])
    assert worker["stack_host_units"] == {} and worker["_infbox_host_services"] == ["autoheal"]
    # What it needs none of is neither asked for nor looked at.
    assert worker["preflight_required_settings"] == worker["preflight_workspaces"] == []
    assert worker["backup_settings"] == {}
    assert "--headless" in worker["vllm"]["command"]
    assert "--headless" not in head["vllm"]["command"]


def test_the_parts_find_each_other(rendered: dict[str, Any]) -> None:
    for rank, (name, interface) in enumerate([("gpu1", "eth1"), ("gpu2", "ib0")]):
        told = rendered[name]
        assert value(told, "--addresses") == "192.0.2.1,192.0.2.2"
        assert value(told, "--rank") == value(told, "--node-rank") == str(rank)
        assert value(told, "--nnodes") == value(told, "--tensor-parallel-size") == "2"
        assert value(told, "--master-addr") == "192.0.2.1"
        environment = told["vllm"]["environment"]
        assert environment["VLLM_HOST_IP"] == f"192.0.2.{rank + 1}"
        assert environment["GLOO_SOCKET_IFNAME"] == interface
        assert environment["NCCL_SOCKET_IFNAME"] == f"={interface}"
    assert value(rendered["gpu1"], "--whole") == value(rendered["gpu2"], "--whole")
    assert rendered["gpu1"]["preflight_group"]["gbit"] == 25


def test_each_host_keeps_the_kv_of_its_own_part(rendered: dict[str, Any]) -> None:
    for name in ("gpu1", "gpu2"):
        extra = json.loads(value(rendered[name], "--kv-transfer-config"))[
            "kv_connector_extra_config"
        ]
        assert extra["lmcache.mp.server_urls"] == ["tcp://127.0.0.1:5555", "tcp://192.0.2.2:5555"]
        assert "lmcache.mp.host" not in extra
        assert extra["lmcache.mp.heartbeat_interval"] == 2.0
    assert rendered["gpu1"]["lmcache_shard"] == "0-of-2"
    assert rendered["gpu2"]["lmcache_shard"] == "1-of-2"
    assert rendered["gpu1"]["lmcache_node_address"] == ""
    assert rendered["gpu2"]["lmcache_node_address"] == "192.0.2.2"


def test_a_worker_is_well_while_the_whole_serves(rendered: dict[str, Any]) -> None:
    head, worker = (rendered[name]["vllm"]["healthcheck"] for name in ("gpu1", "gpu2"))
    assert "--check" in worker["test"]
    assert "http://127.0.0.1:8000" in head["test"]
    # The head says first that the whole hangs.
    patience = int(head["test"][head["test"].index("--patience") + 1])
    assert "retries" not in head
    assert worker["retries"] * 10 > patience + 60


def test_only_the_hosts_themselves_get_to_the_ports_between_them(rendered: dict[str, Any]) -> None:
    rules = rendered["gpu2"]["rules"]
    assert "ip saddr 192.0.2.1 accept" in rules
    assert "tcp dport { 29501, 29502, 5555, 32768-60999 } counter drop" in rules


def test_a_host_beside_them_knows_nothing_of_it(rendered: dict[str, Any]) -> None:
    alone = rendered["gpu3"]
    assert alone["vllm"]["command"][:2] == ["vllm", "serve"]
    assert not {"--nnodes", "--tensor-parallel-size"} & set(alone["vllm"]["command"])
    assert alone["vllm"]["environment"]["VLLM_HOST_IP"] == "127.0.0.1"
    assert alone["vllm"]["environment"]["GLOO_SOCKET_IFNAME"] == "lo"
    assert not [volume for volume in alone["vllm"]["volumes"] if "infbox_node" in volume]
    extra = connector(alone)
    assert extra["lmcache.mp.host"] == "tcp://127.0.0.1"
    assert alone["stack_services"] == ["lmcache", "vllm", "caddy"]
    assert alone["stack_peer_hosts"] == []
    assert alone["lmcache_shard"] == ""
    assert alone["preflight_group"] == {}
