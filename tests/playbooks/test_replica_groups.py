"""Replicas that are not alike are refused by playbooks/preflight.yml, for all hosts and by name."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOP = {"name": "shop", "path": "/srv/shop"}
WEB = {"name": "web", "path": "/srv/web"}


def own_address() -> str:
    """Return an address of this machine at which others would find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        address: str = probe.getsockname()[0]
        return address


def host(folder: Path, name: str, address: str, **changes: Any) -> dict[str, Any]:
    """Return a host whose own preflight is over."""
    return {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "preflight_preset_name": "cpu",
        "preflight_plan": {"max_model_len": 16384},
        "preflight_memory_bytes": 16e9,
        "infbox_replicas": True,
        "infbox_replica_address": address,
        "infbox_workspaces": [SHOP, WEB],
        "infbox_monitoring": False,
        "caddy_data_dir": str(folder / name),
        **changes,
    }


def preflight(
    folder: Path,
    changes: dict[str, dict[str, Any]],
    *arguments: str,
    playbook: Path = ROOT / "playbooks/preflight.yml",
) -> subprocess.CompletedProcess[str]:
    """Run it for some of three hosts, of which some are otherwise."""
    addresses = {"gpu1": own_address(), "gpu2": socket.gethostname(), "gpu3": "192.0.2.9"}
    hosts = {
        name: host(folder, name, address, **changes[name])
        for name, address in addresses.items()
        if name in changes
    }
    (folder / "hosts.yml").write_text(json.dumps({"inference": {"hosts": hosts}}))
    return subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", folder / "hosts.yml", playbook,
         *arguments],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"gpu2": {"preflight_preset_name": "dev24"}},
            "The replicas differ in the preset: gpu1 has cpu; gpu2 has dev24.",
        ),
        (
            {"gpu2": {"infbox_images": {"caddy": {"tag": "2.6"}}}},
            "The replicas differ in Caddy's image: gpu1 has",
        ),
        (
            {"gpu2": {"infbox_workspaces": [SHOP]}},
            "The workspace web is on gpu1 and not on gpu2. Put it there too",
        ),
        ({"gpu2": {"infbox_users": ["ann"]}}, "differ in the users: gpu1 has team; gpu2 has ann."),
        (
            {"gpu2": {"infbox_replica_address": "127.0.0.1"}},
            "The address of the replica gpu2 is 127.0.0.1. Set infbox_replica_address of gpu2",
        ),
        (
            {"gpu2": {"infbox_shared_cache_gb": 8}},
            "in the shared cache: gpu1 has none; gpu2 has 8.0 GB on the first. Give them",
        ),
        (
            {name: {"infbox_shared_cache_gb": 4000} for name in ("gpu1", "gpu2")},
            "GB of memory, and its preset and the cache that replicas share need",
        ),
        (
            {"gpu3": {}},
            "gpu1 cannot connect to the replica gpu3 at port 8444 of 192.0.2.9:",
        ),
    ],
)
def test_what_differs_is_refused_by_name(
    tmp_path: Path, changes: dict[str, dict[str, Any]], words: str
) -> None:
    done = preflight(tmp_path, {"gpu1": {}, "gpu2": {}, **changes})
    assert done.returncode != 0
    assert words in done.stdout
    assert "gpu1 was not changed:" in done.stdout


def test_those_that_are_alike_pass(tmp_path: Path) -> None:
    done = preflight(tmp_path, {"gpu1": {}, "gpu2": {}})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout


def test_a_host_that_is_no_replica_is_compared_with_nobody(tmp_path: Path) -> None:
    alone = {"infbox_replicas": False, "infbox_workspaces": [SHOP], "infbox_users": ["ann"]}
    done = preflight(tmp_path, {"gpu1": {}, "gpu2": {}, "gpu3": alone})
    assert done.returncode == 0, done.stdout + done.stderr
    done = preflight(tmp_path, {"gpu1": {}, "gpu3": alone})
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_shared_cache_without_replicas_is_refused(tmp_path: Path) -> None:
    done = preflight(tmp_path, {"gpu1": {"infbox_replicas": False, "infbox_shared_cache_gb": 8}})
    assert done.returncode != 0
    assert "infbox_shared_cache_gb is 8, and gpu1 is no replica. Set infbox_replicas" in done.stdout


def test_one_host_keeps_the_cache_and_all_ask_it(tmp_path: Path) -> None:
    shared = {"infbox_shared_cache_gb": 8, "infbox_shared_cache_host": "gpu2"}
    hosts: dict[str, dict[str, Any]] = {
        "gpu1": {**shared, "model_store_path": "/models/one"},
        "gpu2": {**shared, "model_store_path": "/models/one"},
        "gpu3": {"infbox_replicas": False, "model_store_path": "/models/one"},
    }
    told = wired(
        tmp_path, hosts,
        "lmcache_shared_address, lmcache_shared_namespace, stack_services, images_list | length",
    )  # fmt: skip
    gpu1, gpu2, gpu3 = (told[name] for name in hosts)
    assert gpu1[:2] == gpu2[:2]
    assert gpu1[0] == socket.gethostname(), "where gpu2 is"
    assert re.fullmatch(r"[0-9a-f]{16}:", gpu1[1])
    assert gpu3[0] == ""
    assert gpu1[2:] == gpu3[2:] == [["lmcache", "vllm", "caddy"], 2]
    assert gpu2[2:] == [["lmcache", "vllm", "caddy", "valkey"], 3]


def test_a_host_outside_of_the_run_is_compared_by_what_the_inventory_tells(tmp_path: Path) -> None:
    hosts = {"gpu1": {}, "gpu2": {"infbox_workspaces": [SHOP]}}
    done = preflight(tmp_path, hosts, "--limit", "gpu1")
    assert done.returncode != 0
    assert "The workspace web is on gpu1 and not on gpu2." in done.stdout


def wired(folder: Path, hosts: dict[str, dict[str, Any]], expressions: str) -> dict[str, list[Any]]:
    """Return for each host what roles are told."""
    play = [{
        "hosts": "inference", "gather_facts": False,
        "tasks": [{"ansible.builtin.copy": {
            "dest": f"{folder}/{{{{ inventory_hostname }}}}.json",
            "content": f"{{{{ [{expressions}] | to_json }}}}",
        }}],
    }]  # fmt: skip
    (folder / "group_vars").symlink_to(ROOT / "group_vars")
    (folder / "filter_plugins").symlink_to(ROOT / "plugins/filter")
    (folder / "play.yml").write_text(json.dumps(play))
    done = preflight(folder, hosts, playbook=folder / "play.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in hosts}


def test_caddy_and_the_gateway_are_told_of_all_of_them(tmp_path: Path) -> None:
    sources = {"_infbox_replica_source": "gpu1", "_infbox_replica_keys_source": "gpu1"}
    v6 = {"infbox_replica_address": "2001:db8::2", **sources}
    hosts: dict[str, dict[str, Any]] = {"gpu1": {}, "gpu2": v6, "gpu3": {"infbox_replicas": False}}
    told = wired(
        tmp_path, hosts,
        "caddy_replicas, watcher_replicas_balancer, watcher_keys_source, caddy_replicas_source",
    )  # fmt: skip
    gpu1, gpu2, gpu3 = (told[name] for name in hosts)
    assert gpu1[0] == gpu2[0] == [f"{own_address()}:8444", "[2001:db8::2]:8444"]
    assert gpu1[1] == "http://127.0.0.1:8015"
    assert gpu2[2:] == ["gpu1", "gpu1"]
    assert gpu3 == [[], "", "", ""]
