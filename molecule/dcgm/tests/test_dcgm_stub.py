"""The dcgm role and playbooks/gpu_check.yml, with stubs of the GPUs and of NVIDIA's packages.

The tests follow each other: each finds the host as the one before left it.
"""

import json
from pathlib import Path
from typing import Any

from testinfra.host import Host

from tests.rerun import ROOT, converge, told

FOLDER = "/run/nvidia-dcgm"
PARTS = "/etc/apt/sources.list.d"
JOURNAL = "journalctl --unit nvidia-dcgm -n 30; dpkg --list 'datacenter*'"


def packages(host: Host) -> dict[str, str]:
    shown = "dpkg-query --show --showformat='${db:Status-Abbrev}${Package} ${Version}\n'"
    lines = [line.split() for line in host.check_output(f"{shown} 'datacenter*'").splitlines()]
    return {line[1].rpartition("-")[2]: line[2] for line in lines if "i" in line[0]}


def check_gpus(host: Host, folder: Path, **variables: Any) -> tuple[int, str]:
    """Run playbooks/gpu_check.yml, which asks the group of a real inventory, against the host."""
    (folder / "group.yml").write_text(f"inference: {{hosts: {{{host.backend.hostname}: {{}}}}}}\n")
    return told(
        ROOT / "playbooks" / "gpu_check.yml", "--inventory", str(folder / "group.yml"),
        folder=folder, environment={"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}, **variables,
    )  # fmt: skip


def diagnosis(host: Host, level: int, test: str, status: str) -> None:
    """Have the stub of dcgmi say at a level how a test went on the second GPU."""
    results = [
        {"entity_group": "GPU", "entity_group_id": 1, "entity_id": gpu, "status": said}
        for gpu, said in enumerate(("Pass", status))
    ]
    category = {"category": "Hardware", "tests": [{"name": test, "results": results}]}
    document = {
        "DCGM Diagnostic": {"test_categories": [category]},
        "metadata": {"version": "4.5.2"},
    }
    host.check_output(f"cat > /opt/stub/diag-{level}.json <<'END'\n{json.dumps(document)}\nEND")


def test_the_diagnostics_for_the_drivers_cuda_are_there_in_one_version_and_held(host: Host) -> None:
    assert packages(host) == {"core": "1:4.5.2-1", "cuda13": "1:4.5.2-1"}
    held = set(host.check_output("apt-mark showhold").split())
    assert held >= {f"datacenter-gpu-manager-4-{part}" for part in ("core", "cuda13")}


def test_nvidias_repository_is_known_by_one_entry_with_its_key_alone(host: Host) -> None:
    assert host.file(PARTS).listdir() == ["infbox-nvidia-dcgm.sources"]
    source = host.file(f"{PARTS}/infbox-nvidia-dcgm.sources").content_string
    assert "Signed-By: /opt/stub/repository/key.asc" in source


def test_an_upgrade_takes_neither_it_nor_what_the_distribution_has_from_there(host: Host) -> None:
    planned = host.check_output("apt-get --simulate dist-upgrade")
    assert "Inst datacenter-gpu-manager" not in planned
    assert "Inst hostname" not in planned


def test_it_runs_on_boot_on_a_socket_of_roots_alone(host: Host) -> None:
    assert host.service("nvidia-dcgm").is_running and host.service("nvidia-dcgm").is_enabled
    assert host.file(f"{FOLDER}/socket").is_socket
    assert host.file(FOLDER).mode == 0o700


def test_what_is_worth_a_look_fails_where_that_is_asked_for(host: Host, tmp_path: Path) -> None:
    status, said = check_gpus(host, tmp_path, gpu_check_strict=True)
    assert status == 2
    assert "0000:01:00.0: persistence is off" in said  # the stub tells of none
    assert "are unhealthy (warning)" in said


def test_a_gpu_that_dcgm_finds_broken_is_told_with_the_test_that_it_failed(
    host: Host, tmp_path: Path
) -> None:
    diagnosis(host, 3, "memory_bandwidth", "Fail")
    status, said = check_gpus(host, tmp_path, gpu_check_level=3, gpu_check_output="gpus.json")
    assert status == 2
    assert "DCGM 4.5.2 at level 3" in said
    assert "critical 0000:01:00.0: DCGM's test memory_bandwidth: fail" in said
    written = json.loads((tmp_path / "gpus.json").read_text())["hosts"][host.backend.hostname]
    assert written["state"] == "critical"
    assert [each["status"] for each in written["diagnosed"]["results"]] == ["pass", "fail"]


def test_a_gpu_in_use_is_tested_without_load_alone(host: Host, tmp_path: Path) -> None:
    pid = host.check_output("sleep 300 > /dev/null 2>&1 & echo $! | tee /opt/stub/processes")
    deep, refused = check_gpus(host, tmp_path, gpu_check_level=2)
    diagnosis(host, 1, "software", "Pass")
    quick, said = check_gpus(host, tmp_path, gpu_check_level=1)
    host.check_output(f"kill {pid}; rm /opt/stub/processes")
    assert deep == 2
    assert f", and sleep (pid {pid}) uses one." in refused
    assert quick == 0, said
    assert "DCGM 4.5.2 at level 1" in said


def test_diagnostics_without_dcgm_are_refused(host: Host, tmp_path: Path) -> None:
    host.check_output("systemctl stop nvidia-dcgm")
    status, said = check_gpus(host, tmp_path, gpu_check_level=1)
    host.check_output("systemctl start nvidia-dcgm")
    assert status == 2
    assert "DCGM does not run on infbox-dcgm" in said


def test_a_version_that_apt_does_not_know_is_refused_with_those_it_knows() -> None:
    status, said = converge(dcgm_version="4.5.9")
    assert status != 0
    assert "apt knows no version 4.5.9 of datacenter-gpu-manager-4-core (there is: 1:4.5.3" in said


def test_an_upgrade_that_was_interrupted_is_gone_on_with_and_follows_the_drivers_cuda(
    host: Host,
) -> None:
    host.check_output("echo 12.9 > /opt/stub/cuda && touch /opt/stub/interrupt")
    assert converge(dcgm_version="4.5.3")[0] != 0
    host.check_output("rm /opt/stub/interrupt")
    status, said = converge(dcgm_version="4.5.3")
    assert status == 0, said
    assert packages(host) == {"core": "1:4.5.3-1", "cuda12": "1:4.5.3-1"}
    assert host.service("nvidia-dcgm").is_running


def test_a_later_dcgm_is_left_alone(host: Host) -> None:
    status, said = converge()  # with the earlier version that the scenario sets
    assert status == 0, said
    assert "has DCGM 4.5.3: its packages are left as they are." in said
    assert packages(host) == {"core": "1:4.5.3-1", "cuda12": "1:4.5.3-1"}


def test_dcgm_3_of_a_clouds_image_is_replaced_from_the_repository_that_its_keyring_names(
    host: Host,
) -> None:
    keyring = "/usr/share/keyrings/cuda-archive-keyring.gpg"
    entry = f"deb [signed-by={keyring}] file:///opt/stub/repository/debian13/x86_64/ /"
    host.check_output(
        "apt-get --quiet --yes --allow-change-held-packages purge 'datacenter-gpu-manager-4-*'"
        " && apt-get --quiet --yes install datacenter-gpu-manager"
        f" && rm {PARTS}/* /etc/apt/preferences.d/infbox-dcgm"
        f" && gpg --batch --output {keyring} --dearmor /opt/stub/repository/key.asc"
        f" && echo '{entry}' > {PARTS}/cuda-debian13-x86_64.list && rm -r /var/lib/apt/lists/*"
    )
    assert packages(host) == {"manager": "1:3.3.9-1"}
    status, said = converge(dcgm_version="")
    assert status == 0, said
    assert packages(host) == {"core": "1:4.5.2-1", "cuda12": "1:4.5.2-1"}
    assert host.file(PARTS).listdir() == ["cuda-debian13-x86_64.list"]
    assert host.run("apt-get update").rc == 0
    assert host.file(f"{FOLDER}/socket").is_socket
    assert "changed=0" in converge(dcgm_version="")[1]


def test_without_a_gpu_nothing_is_done_and_one_line_says_so(host: Host) -> None:
    host.check_output("umount /sys/bus/pci/devices")
    status, said = converge(dcgm_version="nonsense")
    host.check_output("stub-gpu")
    assert status == 0
    assert "has no NVIDIA GPU: no DCGM is installed." in said
    assert "changed=0" in said
