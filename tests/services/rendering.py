"""What `group_vars` and the roles come to on hosts that are not there: variables and templates.

One run of Ansible evaluates, for each host and each role, all variables of the role and all of its
templates, in the role's own context and with nothing done. For a checkout,
`python -m tests.services.rendering FOLDER` writes that as files, so that two can be compared: a
change of the wiring that is to change no host shows nothing.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DUMP = Path(__file__).with_name("infbox_dump.py")

FACTS = {
    "distribution": "Debian", "distribution_version": "13", "distribution_release": "trixie",
    "distribution_major_version": "13", "os_family": "Debian", "architecture": "x86_64",
    "fqdn": "gpu.example.org", "hostname": "gpu", "default_ipv4": {"address": "192.0.2.1"},
    "eth1": {"device": "eth1", "speed": 25000, "ipv4": {"address": "192.0.2.11"}},
    "eth2": {"device": "eth2", "speed": 25000, "ipv4": {"address": "192.0.2.12"}},
    "processor_vcpus": 8, "memtotal_mb": 64000,
}  # fmt: skip
SHOP = {"name": "shop", "path": "/srv/shop"}
SHOP_ANNA = {"name": "shop-anna", "path": "/srv/shop-anna", "base": "shop"}
FOLLOWED = {"name": "web", "git": {"url": "https://forge.example/web.git", "ref": "main"}}
SIGN_IN: dict[str, Any] = {
    "infbox_oidc_issuer": "https://login.example",
    "infbox_oidc_client_id": "infbox",
    "infbox_oidc_client_secret": "not-so-secret",
    "infbox_oidc_groups": ["developers"],
}
A100 = {"name": "NVIDIA A100-SXM4-80GB", "memory_mib": 81920, "compute_capability": "8.0"}


def host(preset: str = "cpu", gpus: int = 0, **settings: Any) -> dict[str, Any]:
    """Return the variables of a host on which preflight and model_store are over.

    Args:
        preset: its preset's name.
        gpus: how many GPUs it has.
        settings: what its inventory sets besides.
    """
    return {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "preflight_preset_name": preset,
        "preflight_plan": {"max_model_len": 16384, "tensor_parallel_size": max(gpus, 1)},
        "preflight_gpus": [{**A100, "count": gpus}] if gpus else [],
        "preflight_gpu_addresses": {"driver_version": "580.1", "gpus": []} if gpus else None,
        "preflight_memory_bytes": 64e9,
        "model_store_path": "/var/lib/infbox/models/some",
        "model_store_source": "hub",
        "infbox_workspaces": [SHOP, SHOP_ANNA],
        **REGISTERED,
        **settings,
    }


# What tasks find out on a host, as far as variables and templates read it.
REGISTERED: dict[str, Any] = {
    "__watcher_python": {"stdout": "3.13.5"},
    "__watcher_repositories": {"results": []},
    "__watcher_limits": {"stdout_lines": ["8192", "128"]},
    "__watcher_environments": {"stdout_lines": []},
    "__vllm_infiniband": {"stat": {"exists": False}},
    "__monitoring_login": {"stdout_lines": []},
    "__stack_found": {"stdout": ""},
    "__stack_difference": {"rc": 0, "stdout": ""},
}


def replica(number: int, **settings: Any) -> dict[str, Any]:
    """Return a host that answers the same questions as another one."""
    return host(
        **SIGN_IN,
        infbox_replicas=True,
        infbox_replica_address=f"192.0.2.{20 + number}",
        _infbox_replica_source="rep1",
        _infbox_replica_keys_source="rep1",
        infbox_shared_cache_gb=8,
        infbox_shared_cache_host="rep2",
        **settings,
    )


def node(number: int) -> dict[str, Any]:
    """Return a host that holds a model together with another one."""
    return host(
        "prod480x2",
        gpus=8,
        infbox_model_group="both",
        infbox_model_group_address=f"192.0.2.{10 + number}",
    )


INVENTORIES: dict[str, dict[str, Any]] = {
    "hosts": {
        "inference": {
            "hosts": {
                "cpu": host(),
                "gpu": host(
                    "dev24",
                    gpus=1,
                    infbox_alert_webhook="https://hook.example",
                    infbox_alert_mail={
                        "to": "a@b.example",
                        "from": "c@b.example",
                        "smarthost": "m",
                    },
                    infbox_registry_prefix="mirror.example/infbox",
                    infbox_site_addresses=["gpu.example.org", "192.0.2.7"],
                    infbox_traces="http://collector.example:4318",
                    infbox_users=["ann", "bob"],
                ),
                "quiet": host(infbox_monitoring=False, infbox_backup={"target": "/b"}),
                "signin": host(**SIGN_IN),
                "remotes": host(
                    infbox_workspaces=[SHOP, FOLLOWED],
                    infbox_git_secrets={"web": {"token": "t", "webhook": "w"}},
                ),
                "node1": node(1),
                "node2": node(2),
                "rep1": replica(1),
                "rep2": replica(2),
            }
        }
    },
    "fleet": {
        "inference": {"hosts": {"one": host(), "two": host("dev24", gpus=1, **SIGN_IN)}},
        "monitoring": {"hosts": {"tower": host(infbox_workspaces=[]), "one": {}}},
    },
}


def stage(tree: Path, folder: Path) -> list[str]:
    """Put roles that do nothing but tell what they are into a folder, and return their names.

    Args:
        tree: the checkout whose roles and group_vars they have.
        folder: where; empty.
    """
    for name, target in {"group_vars": "group_vars", "filter_plugins": "plugins/filter",
                         "watcher": "watcher", "files": "files"}.items():  # fmt: skip
        (folder / name).symlink_to(tree / target)
    (folder / "action_plugins").mkdir()
    (folder / "action_plugins/infbox_dump.py").symlink_to(DUMP)
    names = sorted(each.name for each in (tree / "roles").iterdir() if (each / "meta").is_dir())
    for name in names:
        role = folder / "roles" / name
        (role / "tasks").mkdir(parents=True)
        for part in ("defaults", "vars", "templates", "files"):
            if (tree / "roles" / name / part).is_dir():
                (role / part).symlink_to(tree / "roles" / name / part)
        (role / "tasks/main.yml").write_text(json.dumps([{"name": "Tell", "infbox_dump": {}}]))
    return names


def render(
    folder: Path,
    inventory: Mapping[str, Any],
    *,
    tree: Path = ROOT,
    roles: Iterable[str] = (),
    hosts: str = "all",
    only: Iterable[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return for each host what its variables and templates come to: by role, then by name.

    The role `group_vars` has those that belong to none. What cannot be evaluated, since only a host
    could tell, is there with the reason.

    Args:
        folder: to work in.
        inventory: as Ansible reads it.
        tree: the checkout that is rendered.
        roles: those that are wanted; all if there are none.
        hosts: a pattern.
        only: the variables that are wanted beside the templates; all if None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = stage(tree, folder)
    facts = {"ansible.builtin.set_fact": {"ansible_facts": FACTS}}
    play = {
        "hosts": hosts, "gather_facts": False,
        "vars": {
            "infbox_dump_folder": str(folder / "told"),
            "infbox_dump_only": None if only is None else list(only),
        },
        "pre_tasks": [{"name": "Tell of the host", **facts}],
        "roles": list(roles) or known,
    }  # fmt: skip
    (folder / "ansible.cfg").write_text("[defaults]\n")
    (folder / "play.yml").write_text(json.dumps([play]))
    (folder / "hosts.yml").write_text(json.dumps(inventory))
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", folder / "hosts.yml",
         folder / "play.yml"],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
             "ANSIBLE_FORKS": "2", "ANSIBLE_INJECT_FACT_VARS": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, dict[str, Any]] = {}
    for file in sorted((folder / "told").glob("*/*.json")):
        text = file.read_text().replace(str(folder), "ROOT")
        told.setdefault(file.parent.name, {})[file.stem] = json.loads(text)
    return told


def main() -> None:
    """Write what a checkout comes to into a folder, a file for each host and role."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="is made")
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--hosts", default="all", help="a pattern of Ansible's")
    given = parser.parse_args()
    for name, inventory in INVENTORIES.items():
        told = render(
            given.folder / "work" / name, inventory, tree=given.tree.resolve(), hosts=given.hosts
        )
        for host_name, roles in told.items():
            for role, values in roles.items():
                file = given.folder / "told" / name / host_name / f"{role}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
