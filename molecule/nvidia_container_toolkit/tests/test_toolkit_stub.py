"""The nvidia_container_toolkit role on a host as a cloud hands it over.

The GPUs and NVIDIA's packages are stubs; apt, its sources, Docker and its CDI are real. The tests
follow each other: each finds the host as the one before left it.
"""

from collections.abc import Iterator

import pytest
from testinfra.host import Host

from tests.rerun import ROOT, converge

SPEC = "/var/run/cdi/nvidia.yaml"
LOG = "/opt/stub/nvidia-ctk.log"
PACKAGES = (
    "libnvidia-container1",
    "libnvidia-container-tools",
    "nvidia-container-toolkit-base",
    "nvidia-container-toolkit",
)
PARTS = "/etc/apt/sources.list.d"
MINE = f"{PARTS}/infbox-nvidia-container-toolkit.sources"
THEIRS = f"{PARTS}/nvidia-container-toolkit.list"
JOURNAL = "journalctl --unit docker --unit nvidia-cdi-refresh --unit infbox-cdi -n 40"


@pytest.fixture
def engine(host: Host) -> Iterator[str]:
    """Run a container that is given the GPUs by the very lines that give them to vLLM."""
    template = (ROOT / "roles/vllm/templates/compose.yml.j2").read_text()
    reservation = template.split("{% if vllm_device == 'cuda' %}\n")[1].split("{% endif %}")[0]
    service = "container_name: engine\n    image: stub/engine:1\n    command: [/bin/sleep, '600']"
    file = f"services:\n  engine:\n    {service}\n{reservation}"
    host.check_output(f"cat > /root/engine.yml <<'END'\n{file}\nEND")
    host.check_output("docker compose --file /root/engine.yml up --detach")
    yield "engine"
    host.check_output("docker rm --force engine")


def generated(host: Host) -> int:
    return int(host.run(f"grep -c 'cdi generate' {LOG}").stdout or 0)


def versions(host: Host) -> set[str]:
    shown = host.check_output(
        f"dpkg-query --show --showformat='${{Version}} ' {' '.join(PACKAGES)}"
    )
    return set(shown.split())


def test_the_packages_of_one_version_are_there_and_held(host: Host) -> None:
    assert versions(host) == {"1.20.0-1"}
    assert set(host.check_output("apt-mark showhold").split()) >= set(PACKAGES)


def test_an_upgrade_of_the_host_leaves_them_alone(host: Host) -> None:
    upgrade = host.check_output("apt-get --simulate dist-upgrade")
    assert "Inst nvidia-container-toolkit" not in upgrade


def test_a_repository_that_the_host_knows_keeps_its_only_entry_and_apt_works(host: Host) -> None:
    assert set(host.file(PARTS).listdir()) == {
        "nvidia-container-toolkit.list",
        "cuda-debian13-x86_64.list",
    }
    assert host.run("apt-get update").rc == 0


def test_the_gpus_are_described_at_boot_before_docker_and_nvidias_own_unit(host: Host) -> None:
    for unit in ("infbox-cdi.service", "nvidia-cdi-refresh.service", "nvidia-cdi-refresh.path"):
        assert host.service(unit).is_enabled
    shown = host.check_output("systemctl show --property=Before,After infbox-cdi.service")
    before, after = sorted(shown.splitlines(), reverse=True)
    assert {"docker.service", "nvidia-cdi-refresh.service"} <= set(before[7:].split())
    assert "systemd-modules-load.service" in after


def test_a_driver_that_comes_late_is_waited_for_and_all_that_cuda_needs_is_described(
    host: Host,
) -> None:
    # As a boot finds it: no device that a program makes, no description, and no driver yet.
    host.check_output(f"rm {SPEC} /dev/nvidia-uvm; mv /opt/stub/loaded /opt/stub/kept")
    host.check_output("systemctl --no-block restart infbox-cdi && sleep 2")
    assert not host.file(SPEC).exists
    host.check_output("mv /opt/stub/kept /opt/stub/loaded")
    host.check_output("systemctl start infbox-cdi")
    assert "path: /dev/nvidia-uvm" in host.file(SPEC).content_string


def test_a_container_is_given_the_gpus_by_cdi(host: Host, engine: str) -> None:
    seen = host.check_output(f"docker exec {engine} nvidia-smi -L")
    assert seen.count("NVIDIA H100") == 2
    host.check_output(f"docker exec {engine} sh -c ': < /dev/nvidia-uvm'")


def test_a_reload_of_systemd_takes_no_gpus_away(host: Host, engine: str) -> None:
    host.check_output("systemctl daemon-reload")
    assert host.run(f"docker exec {engine} nvidia-smi -L").rc == 0


@pytest.mark.usefixtures("engine")
def test_a_changed_driver_is_described_anew_and_a_container_that_lost_its_gpus_named(
    host: Host,
) -> None:
    before = generated(host)
    host.check_output("echo 580.178.04 > /opt/stub/loaded && stub-gpu")
    assert converge()[0] == 0
    assert generated(host) == before + 1
    host.check_output("rm /opt/stub/container/loaded")  # as a reload does under the older hook
    status, said = converge()
    host.check_output("cp /opt/stub/loaded /opt/stub/container/")
    assert status != 0
    assert "Container engine was given 2 GPUs and sees 0" in said
    assert "docker restart engine" in said


def test_an_interrupted_upgrade_is_gone_on_with(host: Host) -> None:
    host.check_output("touch /opt/stub/interrupt")
    assert converge(nvidia_container_toolkit_version="1.20.1-1")[0] != 0
    host.check_output(f"rm /opt/stub/interrupt {SPEC}")
    assert converge(nvidia_container_toolkit_version="1.20.1-1")[0] == 0
    assert host.file(SPEC).exists
    assert versions(host) == {"1.20.1-1"}
    assert set(host.check_output("apt-mark showhold").split()) >= set(PACKAGES)


def test_a_later_toolkit_is_left_alone(host: Host) -> None:
    host.check_output(f"apt-mark unhold {' '.join(PACKAGES)}; rm {SPEC}")
    status, said = converge()  # with the earlier version that the scenario sets
    assert status == 0, said
    assert "has version 1.20.1-1 of the toolkit, later than" in said
    assert versions(host) == {"1.20.1-1"}
    assert host.check_output("apt-mark showhold") == ""
    assert host.file(SPEC).exists


def test_an_entry_of_infbox_gives_way_to_one_that_the_host_got_since(host: Host) -> None:
    host.check_output(
        f"printf 'Types: deb\\nURIs: file:///opt/stub/repository/amd64\\nSuites: /\\n"
        f"Signed-By: /opt/stub/repository/key.asc\\n' > {MINE}"
    )
    assert "Conflicting values set for option Signed-By" in host.run("apt-get update").stderr
    status, said = converge(nvidia_container_toolkit_version="1.20.2-1")
    # That version is not there: apt is asked again, and works.
    assert status != 0
    assert "no available installation candidate for" in said
    assert not host.file(MINE).exists
    assert host.run("apt-get update").rc == 0


def test_entries_of_others_that_stop_apt_are_refused_by_name(host: Host) -> None:
    other = f"{PARTS}/other.list"
    host.check_output(f"sed 's/signed-by=.*gpg/trusted=yes/' {THEIRS} > {other}")
    status, said = converge(nvidia_container_toolkit_version="1.20.2-1")
    host.check_output(f"rm {other}")
    assert status != 0
    assert f"Keep one entry of this repository in {THEIRS}, {other}" in said.replace("\n", " ")
    assert "changed=0" in said


def test_what_cannot_work_is_refused(host: Host) -> None:
    said = converge("--check", nvidia_container_toolkit_version="1.17.8-1")[1]
    assert "before 1.18 GPUs vanish from containers" in said
    host.check_output("mv /opt/stub/loaded /opt/stub/kept && stub-gpu")
    said = converge(nvidia_container_toolkit_version="1.20.1-1")[1]
    host.check_output("mv /opt/stub/kept /opt/stub/loaded && stub-gpu")
    assert "has 2 NVIDIA GPUs and nvidia-smi does not respond" in said


def test_without_a_gpu_nothing_is_done_and_one_line_says_so(host: Host) -> None:
    host.check_output("umount /sys/bus/pci/devices")
    status, said = converge(nvidia_container_toolkit_version="1.17.8-1")
    host.check_output("stub-gpu")
    assert status == 0
    assert "has no NVIDIA GPU: no container toolkit is installed." in said
    assert "changed=0" in said
