"""Docker and Compose hand GPUs to both services by CDI; GPUs, and what the services run, are stubs.

The device nodes are those of /dev/zero, which Docker lets every container have: that a node is
there is seen, and not that the kernel would let a container use one of NVIDIA's.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

from tests.rerun import play

PLAYBOOK = Path(__file__).resolve().parent.parent / "gpus_stub.yml"
SERVICES = ("lmcache", "vllm")
COMPOSE = "docker compose --project-name gpus " + " ".join(
    f"--file /etc/infbox/staging-of-gpus/compose/{service}.yml" for service in SERVICES
)
NODE = {"type": "c", "major": 1, "minor": 5, "fileMode": 0o666}
SPEC = {
    "cdiVersion": "0.5.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {"name": name, "containerEdits": {
            "deviceNodes": [{"path": f"/dev/nvidia{number}", **NODE} for number in numbers]}}
        for name, numbers in (("0", (0,)), ("1", (1,)), ("all", (0, 1)))
    ],
    "containerEdits": {"env": ["INFBOX_STUB_GPUS=two"]},
}  # fmt: skip
# What runs forever, whatever it is told to.
IMAGE = (
    "tar --create --dereference --directory /"
    " usr/bin/sh usr/bin/sleep usr/bin/printenv usr/bin/head $(ldd /usr/bin/sh /usr/bin/sleep"
    " | grep --only-matching '/[^ ]*' | grep '[.]so' | sort -u | cut --characters 2-)"
    " | docker import"
    """ --change 'ENTRYPOINT ["/usr/bin/sh", "-c", "exec /usr/bin/sleep infinity"]'"""
    " - infbox/stub:1"
)
OLD = "/var/lib/infbox/vllm/compiled-00000000000000aa"
KEPT = "/var/lib/infbox/vllm/compiled-00000000000000bb"


@pytest.fixture(scope="module")
def deployed(host: Host) -> Iterator[str]:
    """Deploy both services on two GPUs; what Ansible said."""
    daemon = json.loads(host.check_output("cat /etc/docker/daemon.json"))
    daemon["features"] = {"cdi": True}
    write(host, "/etc/cdi/nvidia.json", json.dumps(SPEC))
    write(host, "/etc/docker/daemon.json", json.dumps(daemon))
    host.check_output("systemctl restart docker")
    host.check_output(IMAGE)
    host.check_output(f"mkdir --parents {OLD}/triton {KEPT}/triton")
    write(host, "/etc/infbox/releases/1/compose/vllm.yml", f"TRITON_CACHE_DIR: {KEPT}/triton\n")
    status, said = play(PLAYBOOK)
    assert status == 0, said
    host.check_output(f"{COMPOSE} up --detach --pull never 2>&1")
    yield said
    host.check_output(f"{COMPOSE} down --timeout 0")


def write(host: Host, path: str, text: str) -> None:
    """Write a file on the host."""
    host.check_output(f"mkdir --parents $(dirname {path})")
    host.check_output(f"cat > {path} <<'END'\n{text}\nEND")


def containers(host: Host) -> dict[str, str]:
    """Return each service's container."""
    return {service: host.check_output(f"{COMPOSE} ps --quiet {service}") for service in SERVICES}


def assert_gpus_are_there(host: Host) -> None:
    """See that both containers have all GPUs, as the engine's user."""
    for container in containers(host).values():
        inside = f"docker exec {container}"
        # What is started by exec has the variables that Docker knows of, without those of CDI.
        environment = host.check_output(f"{inside} head --bytes 16384 /proc/1/environ")
        assert "INFBOX_STUB_GPUS=two" in environment.split("\0")
        for number in (0, 1):
            read = host.run(f"{inside} head --bytes 1 /dev/nvidia{number}")
            assert (read.rc, read.stdout_bytes) == (0, b"\0")


def test_both_services_get_all_gpus(host: Host, deployed: str) -> None:
    assert deployed
    assert_gpus_are_there(host)


def test_a_second_deploy_changes_nothing(host: Host, deployed: str) -> None:
    assert deployed
    before = containers(host)
    status, said = play(PLAYBOOK)
    assert status == 0, said
    assert re.search(r"changed=0\b", said), said
    host.check_output(f"{COMPOSE} up --detach --pull never 2>&1")
    assert containers(host) == before


def test_gpus_stay_through_a_daemon_reload(host: Host, deployed: str) -> None:
    assert deployed
    host.check_output("systemctl daemon-reload")
    assert_gpus_are_there(host)


def test_what_is_compiled_outlives_the_container(host: Host, deployed: str) -> None:
    assert deployed
    container = containers(host)["vllm"]
    folder = host.check_output(f"docker exec {container} printenv TRITON_CACHE_DIR")
    made = host.run(f"docker exec {container} sh -c 'echo kernel > /var/lib/infbox/vllm/probe'")
    assert made.rc == 0, made.stderr
    assert folder.startswith("/var/lib/infbox/vllm/compiled-")
    cache = host.file("/var/lib/infbox/vllm")
    assert (cache.uid, cache.gid, cache.mode) == (64430, 64430, 0o750)
    assert host.file("/var/lib/infbox/vllm/probe").content_string == "kernel\n"


def test_what_was_compiled_for_releases_that_are_gone_is_removed(host: Host, deployed: str) -> None:
    assert deployed
    assert not host.file(OLD).exists
    assert host.file(KEPT).is_directory
