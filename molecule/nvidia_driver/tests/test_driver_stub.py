"""The nvidia_driver role, with stubs of the cards, the kernel's module and the driver's packages.

The tests follow each other: each finds the host as the one before left it.
"""

from testinfra.host import Host

from tests.rerun import converge

NVIDIA = ("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "libcuda1", "nvidia-fabricmanager")
UBUNTU = (
    "nvidia-headless-{}-server-open",
    "nvidia-headless-no-dkms-{}-server-open",
    "nvidia-dkms-{}-server-open",
    "nvidia-compute-utils-{}-server",
    "nvidia-utils-{}-server",
    "nvidia-kernel-common-{}-server",
    "nvidia-fabricmanager-{}",
)
JOURNAL = "journalctl --no-pager --lines 30; dpkg --list '*nvidia*'"


def versions(host: Host) -> set[str]:
    shown = "dpkg-query --show --showformat='${db:Status-Status} ${Package} ${Version}\n'"
    lines = [line.split() for line in host.check_output(shown).splitlines()]
    return {
        line[2].partition("-")[0]
        for line in lines
        if line[0] == "installed" and ("nvidia" in line[1] or line[1] == "libcuda1")
    }


def held(host: Host) -> set[str]:
    return set(host.check_output("apt-mark showhold").split())


def loaded(host: Host) -> str:
    return str(host.file("/sys/module/nvidia/version").content_string).strip()


def test_all_packages_have_one_version_and_are_held(host: Host) -> None:
    assert versions(host) == {"580.95.05"}
    assert held(host) >= {*NVIDIA, "nvidia-driver-pinning-580.95.05"}


def test_upgrades_leave_it_alone(host: Host) -> None:
    assert "Inst nvidia" not in host.check_output("apt-get --simulate dist-upgrade")
    blacklist = host.check_output("apt-config dump Unattended-Upgrade::Package-Blacklist")
    assert '"nvidia-"' in blacklist and '"libcuda1"' in blacklist


def test_the_module_is_loaded_without_a_reboot_where_nothing_is_in_its_way(host: Host) -> None:
    assert loaded(host) == "580.95.05"
    assert host.check_output("nvidia-smi -L").count("H100") == 2


def test_nouveau_is_off_from_the_next_boot_on(host: Host) -> None:
    assert "blacklist nouveau" in host.file("/etc/modprobe.d/infbox-nouveau.conf").content_string
    assert host.file("/opt/stub/initramfs.log").content_string == "-u\n"


def test_the_services_run(host: Host) -> None:
    for name in ("nvidia-persistenced", "nvidia-fabricmanager"):
        assert host.service(name).is_running and host.service(name).is_enabled


def test_somebody_elses_program_keeps_its_card_and_a_full_disk_is_named_beside_it(
    host: Host,
) -> None:
    pid = host.check_output("sleep 300 > /dev/null 2>&1 & echo $! | tee /opt/stub/processes")
    status, said = converge(nvidia_driver_version="590.48.01", nvidia_driver_disk_gb=1e6)
    host.check_output(f"kill {pid}; rm /opt/stub/processes")
    assert status != 0
    assert "changed=0" in said
    assert "Building the driver's modules needs 1e+06 GB in /var/lib/dkms, where" in said
    assert f"Another program uses a card: sleep (pid {pid})" in said
    assert versions(host) == {"580.95.05"}


def test_a_version_that_apt_does_not_know_is_refused_with_those_it_knows(host: Host) -> None:
    status, said = converge(nvidia_driver_version="590.47.01")
    assert status != 0
    assert "apt knows no version 590.47.01 of nvidia-driver-cuda (there is: 590.50.01" in said
    assert versions(host) == {"580.95.05"}


def test_a_card_too_old_and_a_branch_that_is_not_are_refused(host: Host) -> None:
    devices = "/opt/stub/pci/0000:0{}:00.0/device"
    # Tesla P100, whose last branch is 580, beside B200, which has open modules alone.
    host.check_output(f"echo 0x15f8 > {devices.format(1)}; echo 0x2901 > {devices.format(0)}")
    status, said = converge(nvidia_driver_version="590.48.01")
    host.check_output(f"echo 0x2330 | tee {devices.format(0)} {devices.format(1)}")
    assert status != 0
    assert "changed=0" in said
    old, new = "the card 0000:01:00.0 (10de:15f8)", "the card 0000:00:00.0 (10de:2901)"
    assert f"Branch 590 of the driver does not know {old}, which is too old" in said
    assert f"No module drives both {old}, which the open ones do not know, and {new}" in said
    status, said = converge(nvidia_driver_version="111.11.01")
    assert status != 0
    assert "There is no branch 111 of the driver for debian-13 known here; there are" in said
    assert versions(host) == {"580.95.05"}


def test_an_upgrade_that_was_interrupted_is_gone_on_with_and_says_what_is_left(host: Host) -> None:
    wanted = {"nvidia_driver_version": "590.48.01", "nvidia_driver_reboot": False}
    host.check_output("touch /opt/stub/interrupt")
    assert converge(**wanted)[0] != 0
    host.check_output("rm /opt/stub/interrupt")
    status, said = converge(**wanted)
    assert status == 0
    assert "must be rebooted by you: driver 590.48.01 is installed, and the module of 580" in said
    assert versions(host) == {"590.48.01"}
    assert held(host) >= {*NVIDIA, "nvidia-driver-pinning-590.48.01"}
    assert loaded(host) == "580.95.05"


def test_a_reboot_is_announced_and_brings_the_new_driver(host: Host) -> None:
    status, said = converge(nvidia_driver_version="590.48.01")
    assert status == 0
    assert "reboots now: driver 590.48.01 is installed" in said
    assert loaded(host) == "590.48.01"
    assert host.service("nvidia-persistenced").is_running


def test_a_downgrade_is_refused(host: Host) -> None:
    status, said = converge()
    assert status != 0
    assert "Driver 590.48.01 is here, later than nvidia_driver_version (580.95.05)" in said
    assert versions(host) == {"590.48.01"}


def test_a_driver_of_somebody_else_that_works_is_left_alone(host: Host) -> None:
    host.check_output("mv /etc/apt/apt.conf.d/52infbox-nvidia-driver /root/")
    status, said = converge(nvidia_driver_least_version="580.65.06")
    host.check_output("mv /root/52infbox-nvidia-driver /etc/apt/apt.conf.d/")
    assert status == 0
    assert "has driver 590.48.01, which works and was not installed by this role" in said
    assert "changed=0" in said


def test_without_a_card_nothing_is_done_and_one_line_says_so(host: Host) -> None:
    host.check_output("umount /sys/bus/pci/devices")
    status, said = converge(nvidia_driver_version="nonsense")
    host.check_output("stub-gpu")
    assert status == 0
    assert "has no NVIDIA card: no driver is installed." in said
    assert "changed=0" in said


def test_a_branch_of_ubuntu_follows_another_in_one_step_although_it_is_held(host: Host) -> None:
    host.check_output(
        "apt-get --yes --allow-change-held-packages purge libcuda1 'nvidia-*' && "
        "rm /opt/stub/loaded /opt/stub/installed && stub-gpu && "
        "printf 'ID=ubuntu\nVERSION_ID=24.04\n' > /etc/os-release"
    )
    assert converge()[0] == 0
    assert versions(host) == {"580.95.05"}
    assert held(host) >= {name.format(580) for name in UBUNTU}
    status, said = converge(nvidia_driver_version="590.48.01", nvidia_driver_reboot=False)
    assert status == 0, said
    assert versions(host) == {"590.48.01"}
    assert held(host) >= {name.format(590) for name in UBUNTU}
