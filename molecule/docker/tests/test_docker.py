"""The docker role on a bare lab host, from a stub of Docker's repository. The Engine is real."""

import contextlib
import json
import shlex
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from testinfra.host import Host

from tests.rerun import converge

# The only files that a program needs to run in an otherwise empty image.
PROGRAM = "/usr/bin/true /lib64/ld-linux-x86-64.so.2 /lib/x86_64-linux-gnu/libc.so.6"
PARTS = "/etc/apt/sources.list.d"
JOURNAL = "journalctl --unit docker --no-pager --lines 40"


def info(host: Host) -> Any:
    return json.loads(host.check_output("docker info --format '{{json .}}'"))


def test_the_engine_runs_a_container(host: Host) -> None:
    host.check_output(f"tar -chf - {PROGRAM} | docker import - probe")
    host.check_output("docker run --rm probe /usr/bin/true")


def test_a_container_goes_on_while_the_engine_restarts(host: Host) -> None:
    program = "/usr/bin/sleep /lib64/ld-linux-x86-64.so.2 /lib/x86_64-linux-gnu/libc.so.6"
    host.check_output(f"tar -chf - {program} | docker import - sleeper")
    host.check_output("docker run --detach --name stays sleeper /usr/bin/sleep 300")
    state = "docker inspect --format '{{.State.Pid}} {{.State.StartedAt}}' stays"
    before = host.check_output(state)
    host.check_output("systemctl restart docker")
    assert host.check_output(state) == before
    host.check_output("docker rm --force stays")


def test_it_came_from_dockers_own_signed_repository_in_the_version_asked_for(host: Host) -> None:
    assert host.package("docker-ce").version == "5:28.0.4-1"
    assert host.file(PARTS).listdir() == ["infbox-docker.sources"]
    assert "Signed-By:" in host.file(f"{PARTS}/infbox-docker.sources").content_string


def test_upgrades_leave_the_engine_alone(host: Host) -> None:
    held = set(host.check_output("apt-mark showhold").split())
    assert {"docker-ce", "containerd.io", "containerd"} <= held
    planned = host.check_output("apt-get --simulate --quiet dist-upgrade")
    assert "Inst docker" not in planned


def test_the_engine_starts_on_boot(host: Host) -> None:
    assert host.service("docker").is_enabled


def test_compose_is_version_2_and_there_is_a_builder(host: Host) -> None:
    major = host.check_output("docker compose version --short").removeprefix("v").split(".")[0]
    assert int(major) >= 2
    assert host.run("docker buildx version").rc == 0


def test_the_running_engine_has_the_settings(host: Host) -> None:
    seen = info(host)
    assert seen["LoggingDriver"] == "json-file"
    assert seen["LiveRestoreEnabled"] is True
    assert seen["DefaultAddressPools"] == [{"Base": "10.97.0.0/16", "Size": 24}]
    assert seen["DockerRootDir"] == "/var/lib/docker/engine"
    assert seen["RegistryConfig"]["Mirrors"] == ["https://mirror.example/"]
    assert seen["HttpsProxy"] == "http://proxy.example:3128"
    assert seen["NoProxy"] == "10.213.77.2"
    registries = seen["RegistryConfig"]["IndexConfigs"]
    assert any(":5000" in name and not entry["Secure"] for name, entry in registries.items())


def test_a_key_of_the_host_itself_is_kept(host: Host) -> None:
    settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert settings["max-concurrent-downloads"] == 2
    assert settings["log-opts"] == {"max-file": "3", "max-size": "5m"}


def test_the_settings_are_for_root_alone(host: Host) -> None:
    assert host.file("/etc/docker/daemon.json").mode == 0o600


def test_the_authority_is_trusted(host: Host) -> None:
    folder = "/usr/local/share/ca-certificates"
    names = host.file(folder).listdir()
    assert [name for name in names if name.startswith("infbox-")] != []
    pem = next(name for name in names if name.startswith("infbox-"))
    host.check_output(f"openssl verify -CAfile /etc/ssl/certs/ca-certificates.crt {folder}/{pem}")


def test_an_authority_that_is_not_given_any_more_is_gone(host: Host) -> None:
    assert not host.file("/usr/local/share/ca-certificates/infbox-gone.crt").exists


def test_what_the_modules_need_is_there(host: Host) -> None:
    assert host.run("python3 -c 'import requests'").rc == 0


def test_what_is_published_is_guarded_before_docker_starts(host: Host) -> None:
    guard = host.service("infbox-docker-guard")
    assert guard.is_running and guard.is_enabled
    assert "docker.service" in host.check_output(
        "systemctl show --property=Before infbox-docker-guard"
    )


# A mount that nothing waits for by itself, of a file server that takes its time.
MOUNT = """
[Unit]
DefaultDependencies=no
Wants=slow-server.service
[Mount]
What=models
Where=/srv/models
Type={kind}
"""
SERVER = """
[Unit]
DefaultDependencies=no
Before=srv-models.mount
[Service]
Type=oneshot
ExecStart=/bin/sleep 3
"""


@contextlib.contextmanager
def models_on_a_mount(host: Host, kind: str) -> Iterator[None]:
    """Have models on a file system of a kind, not mounted, and Docker stopped.

    Args:
        host: has them.
        kind: of the file system; one that does not exist cannot be mounted.
    """
    units = {"srv-models.mount": MOUNT.format(kind=kind), "slow-server.service": SERVER}
    files = {f"/etc/systemd/system/{name}": text for name, text in units.items()}
    for file, text in files.items():
        host.check_output(f"printf %s {shlex.quote(text)} > {file}")
    stop = "systemctl stop docker.socket docker infbox-docker-mounts srv-models.mount"
    # systemd counts how often a test starts it.
    host.check_output(f"systemctl daemon-reload && {stop} && systemctl reset-failed docker")
    try:
        yield
    finally:
        host.check_output(f"{stop}; rm {' '.join(files)}; systemctl daemon-reload")
        host.check_output("systemctl reset-failed docker && systemctl start docker")


def test_docker_waits_until_what_its_containers_use_is_mounted(host: Host) -> None:
    with models_on_a_mount(host, "tmpfs"):
        host.check_output("systemctl start docker")
        assert host.mount_point("/srv/models").exists
        began = "systemctl show --value --timestamp=unix --property"
        mounted = host.check_output(f"{began}=ActiveEnterTimestamp srv-models.mount")
        started = host.check_output(f"{began}=ExecMainStartTimestamp docker")
        assert started >= mounted


def test_docker_starts_without_what_cannot_be_mounted(host: Host) -> None:
    with models_on_a_mount(host, "no-such-kind"):
        host.check_output("systemctl start docker")
        assert host.check_output("systemctl is-failed srv-models.mount") == "failed"
        assert host.service("docker").is_running


def test_an_engine_of_a_clouds_image_that_is_stopped_is_started_and_completed_from_its_source(
    host: Host,
) -> None:
    keyring = "/etc/apt/keyrings/docker.gpg"
    entry = f"deb [arch=amd64 signed-by={keyring}] file:///opt/stub/repository/debian trixie stable"
    host.check_output(
        # The tests before started it often, and systemd counts that. By name: a pattern leaves
        # out what is not active.
        "systemctl disable --now docker.socket docker"
        " && systemctl reset-failed docker.socket docker"
        " && apt-get --quiet --yes purge"
        " docker-compose-plugin docker-compose docker-buildx-plugin docker-buildx"
        f" && rm {PARTS}/* && mkdir -p /etc/apt/keyrings"
        f" && gpg --batch --output {keyring} --dearmor /opt/stub/repository/key.asc"
        f" && echo '{entry}' > {PARTS}/docker.list && rm -r /var/lib/apt/lists/*"
    )
    # In check mode nothing is started, and no other Engine is planned.
    status, said = converge("--check", docker_source="distribution")
    assert status == 0, said
    assert not host.service("docker").is_running
    status, said = converge(docker_source="distribution")
    assert status == 0, said
    assert host.service("docker").is_running and host.service("docker").is_enabled
    assert host.package("docker-ce").version == "5:28.0.4-1"
    assert not host.package("docker.io").is_installed
    for plugin in ("docker-compose-plugin", "docker-buildx-plugin"):
        assert host.package(plugin).is_installed
    assert host.file(PARTS).listdir() == ["docker.list"]
    assert host.run("apt-get update").rc == 0
    assert "changed=0 " in converge(docker_source="distribution")[1]


@pytest.fixture
def published(host: Host) -> Iterator[None]:
    """A container that answers on ports 8090, which is open, and 8091, which is not."""
    host.check_output(f"tar -chf - {PROGRAM} | docker import - probe")
    host.check_output(
        "docker run --detach --name published --publish 8090:80 --publish 8091:80"
        " --volume /usr:/usr:ro probe /usr/bin/python3 -m http.server 80"
    )
    yield
    host.check_output("docker rm --force published")


def answers(address: str, port: int, seconds: float) -> bool:
    """Say whether something answers this machine, which is another than the host."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((address, port), timeout=2) as connection,
        ):
            connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            if connection.recv(4) == b"HTTP":
                return True
        time.sleep(0.2)
    return False


@pytest.mark.usefixtures("published")
def test_another_machine_reaches_the_open_port_alone(host: Host) -> None:
    address = host.ansible.get_variables()["ansible_host"]
    assert answers(address, 8090, 20)
    assert not answers(address, 8091, 3)
    fetch = "import urllib.request as r; r.urlopen('http://127.0.0.1:8091/', timeout=10)"
    host.check_output(f'python3 -c "{fetch}"')
    host.check_output("systemctl stop infbox-docker-guard")
    try:
        assert answers(address, 8091, 20), "it is closed by something else than the guard"
    finally:
        host.check_output("systemctl start infbox-docker-guard")
    assert not answers(address, 8091, 3)


@pytest.mark.usefixtures("published")
def test_the_guard_holds_after_docker_and_the_host_s_rules_were_loaded_anew(host: Host) -> None:
    address = host.ansible.get_variables()["ansible_host"]
    # systemd counts the restarts that the tests before asked for. With nftables the rules go by
    # which a lab host resolves names: what installs packages comes before.
    host.check_output("systemctl reset-failed docker; systemctl restart nftables")
    host.check_output("systemctl restart docker")
    assert answers(address, 8090, 30)
    assert not answers(address, 8091, 3)


def test_what_an_interrupted_run_wrote_is_applied_by_the_next(host: Host) -> None:
    table = "nft list table inet infbox_docker_guard"
    # systemd counts the restarts of the tests before.
    host.check_output("systemctl reset-failed docker")
    before = main_pid(host)
    host.check_output("touch /etc/docker/daemon.json /etc/docker/infbox-guard.nft")
    host.check_output("nft delete table inet infbox_docker_guard")
    host.check_output("touch --date=2000-01-01 /etc/ssl/certs/ca-certificates.crt")
    status, said = converge()
    assert status == 0, said
    assert main_pid(host) != before
    assert "drop" in host.check_output(table)
    assert host.file("/etc/ssl/certs/ca-certificates.crt").mtime.year > 2000
    assert "changed=0 " in converge()[1]


@pytest.fixture
def answering(host: Host) -> Iterator[Any]:
    """Have a stub answer in the place of the docker command."""
    place = "/usr/local/sbin/docker"

    def answer(text: str) -> None:
        host.check_output(f"printf '#!/bin/sh\\necho \"{text}\"\\n' > {place}; chmod +x {place}")

    yield answer
    host.check_output(f"rm {place}")


def test_an_engine_that_cannot_give_gpus_is_refused_with_the_fix_stub(answering: Any) -> None:
    answering("24.0.7|/var/lib/docker|0|v2.20.0|v0.11.0")
    status, said = converge(docker_daemon_options={"features": {"cdi": True}})
    assert status != 0
    assert "Docker Engine 24.0.7 does not know CDI" in said
    assert "apt-get install --only-upgrade docker-ce" in said
    assert "changed=0" in said


def test_a_snap_is_refused_by_name_stub(answering: Any) -> None:
    answering("29.1.3|/var/snap/docker/common/var-lib-docker|0|v2.40.0|v0.30.0")
    status, said = converge()
    assert status != 0
    assert "Docker is installed as a snap" in said
    assert "`snap remove docker`" in said
    assert "changed=0" in said


def main_pid(host: Host) -> str:
    """Return the process that is the Engine."""
    pid: str = host.check_output("systemctl show --property=MainPID --value docker")
    return pid
