"""The nvidia_driver role, with stubs of GPUs, nouveau, the kernel's module and driver packages.

The tests follow each other: each finds the host as the one before left it.
"""

import json

from testinfra.host import Host

from tests.rerun import converge

NVIDIA = ("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "libcuda1", "nvidia-fabricmanager")
UBUNTU = (
    "nvidia-headless-no-dkms-{}-server-open",
    "nvidia-compute-utils-{}-server",
    "nvidia-utils-{}-server",
    "nvidia-kernel-common-{}-server",
    "nvidia-fabricmanager-{}",
)
PERSISTENT = "nvidia-smi -q -x | grep -c '<persistence_mode>Enabled'"


def versions(host: Host) -> set[str]:
    shown = "dpkg-query --show --showformat='${db:Status-Status} ${Package} ${Version}\n'"
    lines = [line.split() for line in host.check_output(shown).splitlines()]
    return {
        line[2].partition("-")[0]
        for line in lines
        if line[0] == "installed"
        and ("nvidia" in line[1] or line[1] == "libcuda1")
        and not line[1].startswith("linux-")
    }


def held(host: Host) -> set[str]:
    return set(host.check_output("apt-mark showhold").split())


def installed(host: Host, name: str) -> bool:
    return "ok installed" in host.run(f"dpkg --status {name}").stdout


def loaded(host: Host) -> str:
    return str(host.file("/sys/module/nvidia/version").content_string).strip()


def test_of_a_branch_all_packages_have_the_newest_common_version_and_are_held(host: Host) -> None:
    assert versions(host) == {"580.95.05"}
    assert held(host) >= {*NVIDIA, "nvidia-driver-pinning-580.95.05"}
    record = json.loads(host.file("/etc/infbox/nvidia-driver.json").content_string)
    assert (record["version"], record["modules"]) == ("580.95.05", "dkms")


def test_upgrades_leave_it_alone(host: Host) -> None:
    assert "Inst nvidia" not in host.check_output("apt-get --simulate dist-upgrade")
    blacklist = host.check_output("apt-config dump Unattended-Upgrade::Package-Blacklist")
    assert '"nvidia-"' in blacklist and '"libcuda1"' in blacklist


def test_nouveau_gives_way_without_a_reboot(host: Host) -> None:
    assert not host.file("/opt/stub/pci/0000:00:00.0/driver").exists
    assert loaded(host) == "580.95.05"
    assert host.check_output("nvidia-smi -L").count("H100") == 2


def test_nouveau_is_off_from_the_next_boot_on(host: Host) -> None:
    assert "blacklist nouveau" in host.file("/etc/modprobe.d/infbox-nouveau.conf").content_string
    assert host.file("/opt/stub/initramfs.log").content_string == "-u -k all\n"


def test_the_services_run(host: Host) -> None:
    for name in ("nvidia-persistenced", "nvidia-fabricmanager", "infbox-nvidia-devices"):
        assert host.service(name).is_running and host.service(name).is_enabled
    assert host.check_output(PERSISTENT) == "2"


def test_modules_are_loaded_and_device_nodes_made_before_docker_at_each_boot(host: Host) -> None:
    modules = host.file("/etc/modules-load.d/infbox-nvidia.conf").content_string
    assert modules.split() == ["nvidia", "nvidia_uvm"]
    before = host.check_output("systemctl show --property=Before --value infbox-nvidia-devices")
    units = {"docker.service", "infbox-cdi.service", "nvidia-cdi-refresh.service"}
    assert units <= set(before.split())
    assert "systemd-modules-load.service" in host.check_output(
        "systemctl show --property=After --value infbox-nvidia-devices"
    )


def test_device_nodes_of_unified_memory_have_the_number_that_the_kernel_chose(host: Host) -> None:
    for major in (511, 510):
        host.check_output(
            "mkdir -p /run/nodes && printf 'Character devices:\n  1 mem\n"
            f"{major} nvidia-uvm\n' > /run/devices && infbox-nvidia-devices /run/devices /run/nodes"
        )
        for minor, name in enumerate(("nvidia-uvm", "nvidia-uvm-tools")):
            shown = host.check_output(f"stat --format=%a:%t:%T /run/nodes/{name}")
            assert shown == f"666:{major:x}:{minor}"


def test_somebody_elses_program_keeps_its_gpu(host: Host) -> None:
    pid = host.check_output("sleep 300 > /dev/null 2>&1 & echo $! | tee /opt/stub/processes")
    status, said = converge(nvidia_driver_version="590.48.01")
    host.check_output(f"kill {pid}; rm /opt/stub/processes")
    assert status != 0
    assert "changed=0" in said
    assert f"Another program uses a GPU: sleep (pid {pid})" in said
    assert versions(host) == {"580.95.05"}


def test_a_version_that_apt_does_not_know_is_refused_with_those_it_knows(host: Host) -> None:
    status, said = converge(nvidia_driver_version="590.47.01")
    assert status != 0
    assert (
        "apt knows no version 590.47.01 of all of nvidia-driver-cuda (there is: 590.50.01" in said
    )
    assert versions(host) == {"580.95.05"}


def test_a_gpu_too_old_and_a_branch_that_is_not_are_refused(host: Host) -> None:
    devices = "/opt/stub/pci/0000:0{}:00.0/device"
    # Tesla P100, whose last branch is 580, beside B200, which has open modules alone.
    host.check_output(f"echo 0x15f8 > {devices.format(1)}; echo 0x2901 > {devices.format(0)}")
    status, said = converge(nvidia_driver_version="590.48.01")
    host.check_output(f"echo 0x2330 | tee {devices.format(0)} {devices.format(1)}")
    assert status != 0
    assert "changed=0" in said
    old, new = "the GPU 0000:01:00.0 (10de:15f8)", "the GPU 0000:00:00.0 (10de:2901)"
    assert f"Branch 590 of the driver does not know {old}, which is too old" in said
    assert f"No module drives both {old}, which the open ones do not know, and {new}" in said
    status, said = converge(nvidia_driver_version="111.11.01")
    assert status != 0
    assert "There is no branch 111 of the driver for debian-13 known here; there are" in said
    assert versions(host) == {"580.95.05"}


def test_an_upgrade_that_was_interrupted_is_gone_on_with_and_says_what_is_left(host: Host) -> None:
    wanted = {"nvidia_driver_version": "590.48.01", "_nvidia_driver_local": True}
    host.check_output("touch /opt/stub/interrupt")
    assert converge(**wanted)[0] != 0
    host.check_output("rm /opt/stub/interrupt")
    status, said = converge(**wanted)
    assert status != 0
    assert "driver 590.48.01 is installed, and the module of 580.95.05 is loaded." in said
    assert "reboot this host, then run the same command again" in said
    assert versions(host) == {"590.48.01"}
    assert held(host) >= {*NVIDIA, "nvidia-driver-pinning-590.48.01"}
    assert loaded(host) == "580.95.05"


def test_a_local_run_leaves_a_mark_where_the_host_must_be_rebooted(host: Host) -> None:
    marker = "/var/lib/stub/reboot"
    status, said = converge(
        nvidia_driver_version="590.48.01", nvidia_driver_reboot_marker=marker,
        _nvidia_driver_local=True,
    )  # fmt: skip
    assert status == 0
    assert "must be rebooted: driver 590.48.01 is installed" in said
    why = "driver 590.48.01 is installed, and the module of 580.95.05 is loaded.\n"
    assert host.file(marker).content_string == why
    assert host.file(marker).mode == 0o644


def test_a_reboot_is_announced_and_brings_the_new_driver(host: Host) -> None:
    status, said = converge(nvidia_driver_version="590.48.01")
    assert status == 0
    assert "reboots now: driver 590.48.01 is installed" in said
    assert loaded(host) == "590.48.01"
    assert host.check_output(PERSISTENT) == "2"


def test_a_downgrade_is_refused(host: Host) -> None:
    status, said = converge()
    assert status != 0
    assert "Driver 590.48.01 is here, later than nvidia_driver_version (580)" in said
    assert versions(host) == {"590.48.01"}


def test_a_driver_of_somebody_else_that_works_is_left_alone(host: Host) -> None:
    host.check_output("mv /etc/apt/apt.conf.d/52infbox-nvidia-driver /root/")
    status, said = converge(nvidia_driver_min_version="580.65.06")
    host.check_output("mv /root/52infbox-nvidia-driver /etc/apt/apt.conf.d/")
    assert status == 0
    assert "has driver 590.48.01, which works and was not installed by this role" in said
    assert "changed=0" in said


def test_without_a_gpu_nothing_is_done_and_one_line_says_so(host: Host) -> None:
    host.check_output("umount /sys/bus/pci/devices")
    status, said = converge(nvidia_driver_version="nonsense")
    host.check_output("stub-gpu")
    assert status == 0
    assert "has no NVIDIA GPU: no driver is installed." in said
    assert "changed=0" in said


def test_ubuntu_gets_the_archives_modules_for_its_kernel_and_persistence_mode(host: Host) -> None:
    host.check_output(
        "systemctl stop nvidia-persistenced && rm /opt/stub/persistence"
        " /etc/systemd/system/nvidia-persistenced.service.d/infbox.conf"
        " /etc/systemd/system/multi-user.target.wants/nvidia-persistenced.service"
    )
    host.check_output(
        "apt-get --yes --allow-change-held-packages purge"
        " libcuda1 'nvidia-*' dkms 'linux-headers-*' &&"
        " rm /opt/stub/loaded /opt/stub/installed /etc/infbox/nvidia-driver.json && stub-gpu &&"
        " printf 'ID=ubuntu\nVERSION_ID=24.04\n' > /etc/os-release &&"
        " apt-get --yes install linux-image-generic-hwe-24.04"
    )
    status, said = converge()
    assert status == 0, said
    assert versions(host) == {"580.95.05"}
    following = "linux-modules-nvidia-580-server-open-generic-hwe-24.04"
    kernel = host.check_output("uname -r").lower()
    modules = {f"linux-modules-nvidia-580-server-open-{kernel}", following}
    names = {name.format(580) for name in UBUNTU}
    assert held(host) >= {*names, *modules, "linux-image-generic-hwe-24.04"}
    assert not installed(host, "dkms")
    assert (loaded(host), host.check_output(PERSISTENT)) == ("580.95.05", "2")
    wants = host.check_output("systemctl show --property=Wants --value multi-user.target")
    assert "nvidia-persistenced.service" in wants.split()


def test_what_is_installed_of_a_branch_stays_though_the_archive_lost_it(host: Host) -> None:
    host.check_output("mv /etc/apt/sources.list.d /root/ && mkdir /etc/apt/sources.list.d")
    status, said = converge()
    host.check_output("rmdir /etc/apt/sources.list.d && mv /root/sources.list.d /etc/apt/")
    assert status == 0, said
    assert "changed=0" in said


def test_a_branch_of_ubuntu_follows_another_in_one_step_although_it_is_held(host: Host) -> None:
    status, said = converge(nvidia_driver_version="590", nvidia_driver_reboot=False)
    assert status == 0, said
    assert "kernel modules built on the host" in said
    assert "must be rebooted: driver 590.48.01 is installed, and the module of 580.95.05" in said
    assert versions(host) == {"590.48.01"}
    assert held(host) >= {*(name.format(590) for name in UBUNTU), "nvidia-dkms-590-server-open"}
    assert "linux-image-generic-hwe-24.04" not in held(host)
