"""The nvidia_container_toolkit role, with stubs of the cards and of NVIDIA's packages.

Docker and its CDI are real.
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
JOURNAL = "journalctl --unit docker --unit nvidia-cdi-refresh -n 40"


@pytest.fixture
def engine(host: Host) -> Iterator[str]:
    """Run a container that is given the cards by the very lines that give them to vLLM."""
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


def test_the_repository_is_signed_by_the_given_key_alone(host: Host) -> None:
    source = host.file("/etc/apt/sources.list.d/nvidia-container-toolkit.sources").content_string
    assert "Signed-By:" in source


def test_the_cards_are_described_at_boot_before_docker(host: Host) -> None:
    for unit in ("nvidia-cdi-refresh.service", "nvidia-cdi-refresh.path"):
        assert host.service(unit).is_enabled
    shown = host.check_output("systemctl show --property=Before nvidia-cdi-refresh.service")
    assert "docker.service" in shown


def test_a_container_is_given_the_cards_by_cdi(host: Host, engine: str) -> None:
    seen = host.check_output(f"docker exec {engine} nvidia-smi -L")
    assert seen.count("NVIDIA H100") == 2


def test_a_reload_of_systemd_takes_no_cards_away(host: Host, engine: str) -> None:
    host.check_output("systemctl daemon-reload")
    assert host.run(f"docker exec {engine} nvidia-smi -L").rc == 0


@pytest.mark.usefixtures("engine")
def test_a_changed_driver_is_described_anew_and_a_container_that_lost_its_cards_named(
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
    assert "Container engine was given 2 cards and sees 0" in said
    assert "docker restart engine" in said


def test_an_interrupted_upgrade_is_gone_on_with(host: Host) -> None:
    host.check_output("touch /opt/stub/interrupt")
    assert converge(nvidia_container_toolkit_version="1.20.1-1")[0] != 0
    host.check_output(f"rm /opt/stub/interrupt {SPEC}")
    assert converge(nvidia_container_toolkit_version="1.20.1-1")[0] == 0
    assert host.file(SPEC).exists
    assert versions(host) == {"1.20.1-1"}
    assert set(host.check_output("apt-mark showhold").split()) >= set(PACKAGES)


def test_a_downgrade_is_refused(host: Host) -> None:
    status, said = converge()  # of the later version that the test before left
    assert status != 0
    assert "installed in version 1.20.1-1, later than" in said
    assert versions(host) == {"1.20.1-1"}


def test_what_cannot_work_is_refused(host: Host) -> None:
    said = converge("--check", nvidia_container_toolkit_version="1.17.8-1")[1]
    assert "older than 1.18 vanish from containers" in said
    host.check_output("mv /opt/stub/loaded /opt/stub/kept && stub-gpu")
    said = converge(nvidia_container_toolkit_version="1.20.1-1")[1]
    host.check_output("mv /opt/stub/kept /opt/stub/loaded && stub-gpu")
    assert "has 2 NVIDIA cards and nvidia-smi does not answer" in said


def test_without_a_card_nothing_is_done_and_one_line_says_so(host: Host) -> None:
    host.check_output("umount /sys/bus/pci/devices")
    status, said = converge(nvidia_container_toolkit_version="1.17.8-1")
    host.check_output("stub-gpu")
    assert status == 0
    assert "has no NVIDIA card: no container toolkit is installed." in said
    assert "changed=0" in said
