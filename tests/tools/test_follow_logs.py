"""Following the logs of hosts: a real shell, with stubs of docker, journalctl and systemctl."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import follow_logs
import pytest
from follow_logs import FollowError

from tests.plugins.plugin_files import ROOT

STUBS = {
    "docker": """#!/bin/sh
case $1 in
  ps) echo infbox-vllm-1; echo infbox-caddy-1 ;;
  logs) echo "$@"; exec sleep 60 ;;
esac
""",
    "systemctl": """#!/bin/sh
echo "infbox-gateway.service loaded active running infbox gateway"
""",
    "journalctl": """#!/bin/sh
echo "$@"; exec sleep 60
""",
}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A search path with the stubs first."""
    for name, text in STUBS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


def inventory(folder: Path, **hosts: dict[str, str]) -> Path:
    file = folder / "hosts.json"
    file.write_text(json.dumps({"inference": {"hosts": hosts}}))
    return file


def lines(folder: Path, path: str, count: int, *options: str) -> set[str]:
    """Follow until so many lines came, and return them."""
    local = {"ansible_connection": "local"}
    process = subprocess.Popen(
        [sys.executable, ROOT / "tools/follow_logs.py",
         "-i", inventory(folder, a=local, bb=local), *options],
        env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    found: set[str] = set()
    os.set_blocking(process.stdout.fileno(), False)
    ends = time.monotonic() + 20
    while time.monotonic() < ends and len(found) < count:
        found |= {line.rstrip() for line in process.stdout}
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    process.stdout.close()
    return found


def test_all_services_of_all_hosts_are_followed_each_line_with_where_it_is_from(
    tmp_path: Path, path: str
) -> None:
    seen = lines(tmp_path, path, 6, "--since", "5m")
    docker = "logs --follow --timestamps --since 5m infbox-"
    unit = "--follow --no-pager --output=short-iso --since=-5m --unit=infbox-gateway"
    assert seen == {
        f"{host} {text}"
        for host in ("a ", "bb")
        for text in (
            f"vllm | {docker}vllm-1",
            f"caddy | {docker}caddy-1",
            f"gateway | {unit}",
        )
    }


def test_one_service_is_followed_alone(tmp_path: Path, path: str) -> None:
    seen = lines(tmp_path, path, 2, "--service", "gateway")
    assert {line.split()[1] for line in seen} == {"gateway"}


def test_a_service_that_is_not_is_named_with_those_that_are(tmp_path: Path, path: str) -> None:
    hosts = inventory(tmp_path, a={"ansible_connection": "local"})
    done = subprocess.run(
        [sys.executable, ROOT / "tools/follow_logs.py", "-i", hosts, "--service", "grafana"],
        env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "There is no service grafana here. Use all or one of vllm caddy gateway." in done.stdout


def test_a_host_is_reached_as_ansible_reaches_it() -> None:
    variables = {
        "ansible_host": "192.0.2.7",
        "ansible_port": 2222,
        "ansible_user": "admin",
        "ansible_ssh_private_key_file": "/keys/one",
        "ansible_ssh_common_args": "-o UserKnownHostsFile=/keys/known",
    }
    *options, remote = follow_logs.command("one", variables, "all", "1m")
    assert options == [
        "ssh", "-tt", "-o", "LogLevel=ERROR", "-o", "UserKnownHostsFile=/keys/known", "-p", "2222",
        "-l", "admin", "-i", "/keys/one", "192.0.2.7",
    ]  # fmt: skip
    assert remote.startswith("sudo -n sh -c ")


def test_root_needs_no_sudo() -> None:
    assert "sudo" not in follow_logs.command("one", {"ansible_user": "root"}, "all", "1m")[-1]


@pytest.mark.parametrize(
    "variables",
    [{"ansible_host": "{{ addresses.one }}"}, {"ansible_connection": "community.docker.docker"}],
)
def test_a_host_that_only_ansible_can_reach_is_named(variables: dict[str, str]) -> None:
    with pytest.raises(FollowError, match="one is reached in a way that only Ansible knows"):
        follow_logs.command("one", variables, "all", "1m")


def test_an_inventory_without_a_host_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "empty.yml").write_text("inference: {}\n")
    with pytest.raises(FollowError, match="There is no host in the group inference"):
        follow_logs.hosts(["-i", str(tmp_path / "empty.yml")], None)
