"""What replicas have in common comes from the one that has it, by the roles' own tasks.

In two containers and not on lab hosts, which take longer: nothing runs in them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import infbox
import pytest

from lab import engine
from lab.hosts import kept_modules
from lab.images import host_image, lock
from lab.settings import ROOT

pytestmark = pytest.mark.lab

HOSTS = ("gpu1", "gpu2")
PROGRAM = Path(sys.executable).parent / "infbox-keys"
SOURCE = Path(infbox.__file__).parents[1]
CERTIFICATE = "/var/lib/infbox/caddy/replicas"
KEYS = "/etc/infbox/secrets/api-keys"
DIGESTS = "/etc/infbox/keys/users.json"
CHANGE = f"/opt/infbox/watcher/venv/bin/infbox-keys --digests {DIGESTS} --directory {KEYS}"


def container(host: str) -> str:
    return f"infbox-test-replica-secrets-{host}"


def inside(host: str, command: str, given: str = "") -> str:
    """Run a command on a host, and return what it printed."""
    done = subprocess.run(
        ["docker", "exec", "--interactive", container(host), "sh", "-c", command],
        input=given, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def held(host: str) -> str:
    """Return the digests of what replicas have in common, and who may read it."""
    return inside(host, f"cd /; for file in {CERTIFICATE}/* {KEYS}/* {DIGESTS};"
                        " do stat -c '%n %u %a' $file; sha256sum < $file; done")  # fmt: skip


def is_disabled(host: str, user: str, label: str) -> bool:
    """Return whether a key that is known on a host lets nobody in."""
    users = json.loads(inside(host, f"cat {KEYS}/_labelled/_keys.json"))["users"]
    disabled: bool = users[user][label]["disabled"]
    return disabled


@pytest.fixture
def _hosts() -> Iterator[None]:
    engine.ensure()
    with lock():
        image = host_image("debian13")
    mounts = [f"--volume={path}:{path}:ro" for path in (sys.prefix, sys.base_prefix, SOURCE)]
    mounts += [f"--volume={mount}" for mount in kept_modules()]
    program = f'#!/bin/sh\nPYTHONPATH={SOURCE} exec {sys.executable} {PROGRAM} "$@"\n'
    for host in HOSTS:
        subprocess.run(
            ["docker", "rm", "--force", container(host)], capture_output=True, check=False
        )
        subprocess.run(
            ["docker", "run", "--detach", "--name", container(host), *mounts, image,
             "sleep", "900"],
            check=True, capture_output=True,
        )  # fmt: skip
        folder = "/opt/infbox/watcher/venv/bin"
        inside(
            host, f"mkdir -p {folder}; cat > {folder}/infbox-keys; chmod 755 {folder}/*", program
        )
    yield
    for host in HOSTS:
        subprocess.run(
            ["docker", "rm", "--force", container(host)], capture_output=True, check=False
        )


def deploy(folder: Path, *arguments: str, order: tuple[str, ...] = HOSTS) -> str:
    """Have the roles bring what replicas have in common; return what Ansible printed."""
    variables: dict[str, Any] = {
        "ansible_connection": "community.docker.docker",
        # One `docker exec` a module in the place of five.
        "ansible_pipelining": True,
        "ansible_become": False,
        "_infbox_replica_hosts": order,
        "caddy_image": "caddy",
        "caddy_replicas": ["gpu1:8444", "gpu2:8444"],
        "caddy_replicas_source": "{{ _infbox_replica_source }}",
        "watcher_users": ["alice", "bob"],
        "watcher_keys_source": "{{ _infbox_replica_keys_source }}",
        "watcher_key_records": "{{ _infbox_replica_key_records }}",
    }
    of_watcher = {"name": "watcher"}
    tasks = [
        {"ansible.builtin.include_tasks": str(ROOT / "playbooks/tasks/replica_source.yml")},
        {"ansible.builtin.include_role": {"name": "caddy"}},
        {"ansible.builtin.include_role": {**of_watcher, "tasks_from": "directories"}},
        {"ansible.builtin.include_role": {**of_watcher, "tasks_from": "keys"}},
        {
            "ansible.builtin.include_role": {**of_watcher, "tasks_from": "shared_keys"},
            "when": "watcher_keys_source != inventory_hostname",
        },
    ]
    play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
    inventory = {host: {"ansible_host": container(host)} for host in HOSTS}
    (folder / "play.yml").write_text(json.dumps([play]))
    (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": inventory, "vars": variables}}))
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", folder / "hosts.yml",
         folder / "play.yml", "-vv", "--diff", *arguments],
        capture_output=True, text=True, check=False,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
             "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1",
             "ANSIBLE_FILTER_PLUGINS": str(ROOT / "plugins/filter")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PRIVATE KEY" not in done.stdout
    assert "sk-infbox" not in done.stdout
    return done.stdout


@pytest.mark.usefixtures("_hosts")
def test_all_have_the_certificate_and_the_keys_of_the_one_that_has_had_them(tmp_path: Path) -> None:
    deploy(tmp_path, "--check")
    deploy(tmp_path)
    first = held("gpu1")
    assert held("gpu2") == first
    assert f"{CERTIFICATE}/group.key 64431 600" in first
    assert f"{KEYS}/alice 0 600" in first
    assert deploy(tmp_path).count("changed=0 ") == 2
    # Another machine in the place of one, listed first, is given what the others have.
    inside("gpu2", f"rm -r {CERTIFICATE} {KEYS} /etc/infbox/keys")
    deploy(tmp_path, "--limit", "gpu2", order=("gpu2", "gpu1"))
    assert held("gpu2") == first
    # While the one is away the other has its own.
    subprocess.run(["docker", "stop", "--time", "1", container("gpu1")], check=True)
    # With pipelining the connection does not tell one that is away from a module that fails.
    deploy(tmp_path, "--limit", "gpu2", "-e", '{"ansible_pipelining": false}')
    assert held("gpu2") == first


@pytest.mark.usefixtures("_hosts")
def test_a_key_that_ended_here_stays_ended_although_the_host_that_is_copied_knows_nothing_of_it(
    tmp_path: Path,
) -> None:
    deploy(tmp_path)
    inside("gpu1", f"{CHANGE} add alice/laptop")
    deploy(tmp_path)
    assert not is_disabled("gpu2", "alice", "laptop")
    # Each is changed while the other one is away, and then one is brought up alone.
    inside("gpu2", f"{CHANGE} disable alice/laptop")
    inside("gpu1", f"{CHANGE} add bob/ci")
    deploy(tmp_path, "--limit", "gpu2")
    assert is_disabled("gpu2", "alice", "laptop")
    assert not is_disabled("gpu2", "bob", "ci"), "it copied"
    deploy(tmp_path)
    assert is_disabled("gpu1", "alice", "laptop")
    assert deploy(tmp_path).count("changed=0 ") == 2
