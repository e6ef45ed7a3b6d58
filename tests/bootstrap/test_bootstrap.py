"""What bootstrap.sh refuses, function by function, with what it looks at exchanged."""

import fcntl
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bootstrap.sh"


def bash(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code after the script's functions were read; nothing of `main` runs."""
    return subprocess.run(
        ["bash", "-c", f'source "{SCRIPT}"; {code}', "bootstrap.sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def refusals(code: str, *arguments: str) -> list[str]:
    """Return what the code refused."""
    done = bash(f'{code}; printf "%s\\n" "${{REFUSALS[@]}}"', *arguments)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line]


def os_release(folder: Path, **fields: str) -> str:
    path = folder / "os-release"
    path.write_text("".join(f'{key}="{value}"\n' for key, value in fields.items()))
    return f"OS_RELEASE={path}"


def test_the_least_sizes_are_those_of_the_smallest_preset() -> None:
    presets = yaml.safe_load((ROOT / "group_vars/all/presets.yml").read_text())["_infbox_presets"]
    done = bash("echo $MIN_MEMORY_GB $MIN_DISK_GB")
    memory, disk = map(int, done.stdout.split())
    assert memory == min(preset["host_memory_gb"] for preset in presets.values())
    assert disk == min(preset["disk_gb"] for preset in presets.values())


@pytest.mark.parametrize(
    ("system", "version", "packages"),
    [
        ("debian", "12", "python3-apt python3-venv"),
        ("debian", "13", "python3-apt python3-venv"),
        ("ubuntu", "22.04", "python3-apt python3.11 python3.11-venv"),
        ("ubuntu", "24.04", "python3-apt python3-venv"),
        ("ubuntu", "26.04", "python3-apt python3-venv"),
    ],
)
def test_a_supported_system_passes_and_decides_on_python(
    tmp_path: Path, system: str, version: str, packages: str
) -> None:
    release = os_release(tmp_path, ID=system, VERSION_ID=version)
    done = bash(f'{release}; check_system; echo "${{PACKAGES[*]}} ${{#REFUSALS[@]}}"')
    assert done.stdout.strip() == f"{packages} 0"


@pytest.mark.parametrize(
    "fields",
    [
        {"ID": "debian", "VERSION_ID": "11", "PRETTY_NAME": "Debian GNU/Linux 11 (bullseye)"},
        {"ID": "ubuntu", "VERSION_ID": "25.10", "PRETTY_NAME": "Ubuntu 25.10"},
        {"ID": "rocky", "VERSION_ID": "9.4", "PRETTY_NAME": "Rocky Linux 9.4"},
    ],
)
def test_another_system_is_refused_by_name(tmp_path: Path, fields: dict[str, str]) -> None:
    (line,) = refusals(f"{os_release(tmp_path, **fields)}; check_system")
    assert line.startswith(f"This host runs {fields['PRETTY_NAME']}. Use one with Debian 12 or 13,")


def test_a_host_without_systemd_is_refused(tmp_path: Path) -> None:
    (line,) = refusals(f"SYSTEMD={tmp_path}/none; check_systemd")
    assert line.startswith("This host does not run systemd")
    assert refusals(f"SYSTEMD={tmp_path}; check_systemd") == []


def test_another_architecture_is_refused() -> None:
    assert refusals("uname() { echo aarch64; }; check_architecture") == [
        "This host's architecture is aarch64. Use one with x86_64."
    ]


def test_too_little_memory_is_refused_in_numbers() -> None:
    assert refusals("memory_bytes() { echo 3900000000; }; check_memory") == [
        "This host has 3.9 GB of memory, and the smallest preset needs 7 GB. Add memory."
    ]
    assert refusals("memory_bytes() { echo 7000000000; }; check_memory") == []


def test_memory_beyond_two_gigabytes_is_counted_right() -> None:
    kilobytes = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    assert int(bash("memory_bytes").stdout) == kilobytes * 1024


def test_too_little_disk_is_refused_in_numbers(tmp_path: Path) -> None:
    look = f"free_bytes() {{ echo 5000000000; }}; check_disk {tmp_path} 12 {tmp_path}/none"
    (line,) = refusals(look)
    assert line.startswith(f"{tmp_path} has 5.0 GB of disk space, and")


def test_what_an_earlier_run_holds_counts_as_room(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(b"x" * 2_000_000)
    look = f"free_bytes() {{ echo 999000000; }}; check_disk {tmp_path} 1 {tmp_path}"
    assert refusals(look) == []


def test_what_an_earlier_run_holds_is_looked_for_wherever_the_engine_has_it() -> None:
    code = 'check_disk() { [[ $1 = /opt ]] || echo "${@:3}"; }; '
    code += "eval \"$(declare -f run_checks | grep 'check_disk /var/lib')\""
    counted = bash(code).stdout.split()
    preflight = yaml.safe_load((ROOT / "roles/preflight/defaults/main.yml").read_text())
    uninstall = yaml.safe_load((ROOT / "roles/uninstall/defaults/main.yml").read_text())
    assert counted == preflight["preflight_data_dirs"]
    engine = {path for path in uninstall["uninstall_engine_directories"] if "/var/" in path}
    assert engine <= {*counted}


@pytest.mark.parametrize("value", ["", "shop", "shop=", "shop=srv/shop", "Shop=/srv", "a b=/srv"])
def test_a_malformed_workspace_is_refused(value: str) -> None:
    look = 'read_arguments "$@"; check_workspaces'
    (line,) = refusals(look, "--workspace", value)
    assert line.startswith(f"--workspace {value} is not NAME=PATH.")


def test_a_workspace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    look = 'read_arguments "$@"; check_workspaces'
    (line,) = refusals(look, f"--workspace=shop={tmp_path}/shop")
    assert line.startswith(f"The path of workspace shop is not a directory: {tmp_path}/shop. Put")


def test_a_workspace_is_refused_where_the_inventory_is_the_users(tmp_path: Path) -> None:
    look = f'INVENTORY={tmp_path}; read_arguments "$@"; check_workspaces'
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("inference: {}\n")
    (line,) = refusals(look, "--workspace", f"shop={tmp_path}")
    assert "but lacks this line" in line
    assert f'- {{name: shop, path: "{tmp_path}"}}' in line
    inventory.write_text(f'infbox_workspaces:\n  - {{name: shop, path: "{tmp_path}"}}\n')
    assert refusals(look, "--workspace", f"shop={tmp_path}") == []
    assert refusals(look) == [], "without --workspace the inventory is taken as it is"


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    release = os_release(tmp_path, ID="rocky", VERSION_ID="9", PRETTY_NAME="Rocky Linux 9")
    done = bash(f"{release}; SYSTEMD={tmp_path}/none; uname() {{ echo aarch64; }}; run_checks")
    assert done.returncode == 1
    for part in ("was not changed", "- This host runs Rocky", "not run systemd", "aarch64"):
        assert part in done.stderr


def test_the_inventory_names_this_host_and_its_workspaces(tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted" \\ folder'
    odd.mkdir()
    code = f'INVENTORY={tmp_path}; read_arguments "$@"; write_inventory "$INVENTORY"'
    done = bash(code, "--workspace", f"shop={tmp_path}", f"--workspace=odd={odd}")
    assert done.returncode == 0, done.stderr
    file = tmp_path / "hosts.yml"
    assert file.stat().st_mode & 0o777 == 0o600
    group = yaml.safe_load(file.read_text())["inference"]
    assert group["hosts"] == {"localhost": {"ansible_connection": "local"}}
    assert group["vars"]["infbox_workspaces"] == [
        {"name": "shop", "path": str(tmp_path)},
        {"name": "odd", "path": str(odd)},
    ]


def test_the_checkout_is_the_workspace_where_none_is_named() -> None:
    done = bash('read_arguments "$@"; inventory')
    workspaces = yaml.safe_load(done.stdout)["inference"]["vars"]["infbox_workspaces"]
    assert workspaces == [{"name": "infbox", "path": str(ROOT)}]


def test_other_arguments_reach_ansible_as_they_are() -> None:
    variables = json.dumps({"infbox_users": ["a b"]})
    code = 'read_arguments "$@"; printf "%s\\n" "$CHECK" "${PASSED_ON[@]}"'
    done = bash(code, "--check", "-e", variables, "--diff")
    assert done.stdout.splitlines() == ["true", "-e", variables, "--diff"]


def test_the_environment_is_made_anew_only_when_its_lock_changes(tmp_path: Path) -> None:
    lock = tmp_path / "ansible.txt"
    lock.write_text("ansible==1\n")
    settings = f"VENV={tmp_path}; REQUIREMENTS={lock}"
    assert bash(f"{settings}; ansible_is_ready").returncode == 1
    bash(f'{settings}; fingerprint >"$VENV/made-from"')
    assert bash(f"{settings}; ansible_is_ready").returncode == 0
    assert bash(f"{settings}; PYTHON=python3.11; ansible_is_ready").returncode == 1
    lock.write_text("ansible==2\n")
    assert bash(f"{settings}; ansible_is_ready").returncode == 1


def test_a_step_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    done = bash(f"LOG={tmp_path}/log; step 'Breaking' bash -c 'echo why; exit 3'")
    assert done.returncode == 1
    assert "Breaking" in done.stdout
    assert "why" in done.stderr


def test_another_python3_in_the_path_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    done = bash(f'PATH={tmp_path}:$PATH; "$PYTHON" -c "print(7)"')
    assert done.stdout == "7\n"


def test_what_a_login_sets_for_other_pythons_is_not_kept() -> None:
    code = "export PIP_USER=1 PYTHONPATH=/opt/conda PIP_CERT=/c; clean_environment; env"
    names = {line.partition("=")[0] for line in bash(code).stdout.splitlines()}
    assert not names & {"PIP_USER", "PYTHONPATH"}
    assert names >= {"PIP_CERT", "DEBIAN_FRONTEND", "NEEDRESTART_MODE"}


FAKE_APT = """
SCRATCH={folder}
sleep() {{ echo "waited $*" >>"$SCRATCH/log"; }}
apt() {{
    echo "$*" >>"$SCRATCH/log"
    [[ $(grep -c update "$SCRATCH/log") -ge {succeeds_at} ]] && return
    echo "{message}" >&2
    return 100
}}
"""


def test_lists_that_another_apt_holds_are_waited_for(tmp_path: Path) -> None:
    message = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"
    apt = FAKE_APT.format(folder=tmp_path, message=message, succeeds_at=3)
    assert bash(f"{apt} update_lists apt").returncode == 0
    assert (tmp_path / "log").read_text().count("waited") == 2


def test_lists_that_cannot_be_read_are_not_waited_for(tmp_path: Path) -> None:
    apt = FAKE_APT.format(folder=tmp_path, message="E: no such host", succeeds_at=3)
    done = bash(f"{apt} update_lists apt")
    assert done.returncode == 1
    assert "no such host" in done.stdout
    assert "waited" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("files", "cgroup", "over"),
    [
        ([], "", True),
        (["enabled"], "0::/user.slice/session-1.scope", False),
        (["enabled", "result.json"], "0::/user.slice/session-1.scope", True),
        (["enabled"], "0::/system.slice/cloud-final.service", True),
        (["disabled"], "", True),
    ],
)
def test_a_first_boot_is_over_when_cloud_init_says_so_or_runs_the_script(
    tmp_path: Path, files: list[str], cgroup: str, over: bool
) -> None:
    for name in files:
        (tmp_path / name).touch()
    (tmp_path / "cgroup").write_text(cgroup)
    done = bash(f"CLOUD_INIT={tmp_path}; CGROUP={tmp_path}/cgroup; first_boot_is_over")
    assert (done.returncode == 0) is over


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    look = f"LOCK={tmp_path}/lock; check_other_runs"
    assert refusals(look) == []
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (line,) = refusals(look)
    assert line.startswith("Another run of bootstrap.sh is in progress.")


def pci_device(folder: Path, vendor: str, kind: str) -> None:
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [
        ("0x10de", "0x030200", True),
        ("0x10de", "0x030000", True),
        ("0x10de", "0x040300", False),
        ("0x1a03", "0x030000", False),
    ],
)
def test_gpus_are_found_on_the_pci_bus_stub(
    tmp_path: Path, vendor: str, kind: str, found: bool
) -> None:
    pci_device(tmp_path / "0000:00:00.0", "0x8086", "0x060000")
    pci_device(tmp_path / "0000:01:00.0", vendor, kind)
    assert (bash(f"PCI={tmp_path}; has_nvidia_gpu").returncode == 0) is found
    assert bash(f"PCI={tmp_path}/none; has_nvidia_gpu").returncode == 1


# What stands for the playbooks, the reboot and systemd.
FAKES = """
CHECKOUT=/srv/infbox
PCI={folder}/pci
MARKER={folder}/run/reboot-needed
UNITS={folder}/units
RESUME={folder}/etc/bootstrap-resume
INVENTORY={folder}
LOG={folder}/log
MOTD={folder}/motd.d/infbox-bootstrap
SCRATCH={folder}/scratch
trap 'clean_up $?' EXIT
ansible_is_ready() {{ true; }}
sync() {{ true; }}
sleep() {{ echo "sleep $*"; }}
systemctl() {{ echo "systemctl $*"; [[ $1 != reboot ]] || {{ cat "$RESUME"; ls "$UNITS"; }}; }}
play() {{
    printf 'play'; printf ' %q' "${{@:2}}"; echo
    [[ $2 == site.yml ]] || ! {needs} || echo "nouveau holds the GPUs." >"$MARKER"
}}
"""


def bring_up(
    folder: Path, *arguments: str, needs: bool = True, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `deploy` on a host with a stub GPU, where the driver needs a reboot or not."""
    if not (folder / "pci").exists():
        pci_device(folder / "pci/0000:01:00.0", "0x10de", "0x030200")
        (folder / "units").mkdir()
        (folder / "hosts.yml").touch()
    fakes = FAKES.format(folder=folder, needs=str(needs).lower())
    return bash(f'{fakes} {before} read_arguments "$@"; deploy "$@"', *arguments)


def test_where_no_reboot_is_needed_the_driver_comes_first_stub(tmp_path: Path) -> None:
    done = bring_up(tmp_path, "-e", "infbox_preset=cpu", needs=False)
    assert done.returncode == 0, done.stderr
    driver, site = [line for line in done.stdout.splitlines() if line.startswith("play ")]
    marker = f"nvidia_driver_reboot_marker={tmp_path}/run/reboot-needed"
    assert driver == f"play playbooks/driver.yml -e {marker} -e infbox_preset=cpu"
    assert site == "play site.yml -e infbox_preset=cpu"
    assert "systemctl" not in done.stdout


def test_a_marker_of_an_earlier_run_does_not_count_stub(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/reboot-needed").write_text("yesterday\n")
    assert "systemctl" not in bring_up(tmp_path, needs=False).stdout


def test_a_reboot_is_announced_and_what_follows_is_put_there_first_stub(tmp_path: Path) -> None:
    odd = "infbox_users=[\"a b\"] $(id) 'it'"
    before = "export PIP_CERT=/c https_proxy='http://u:p@h' LS_COLORS=x;"
    done = bring_up(tmp_path, "--workspace", f"w={tmp_path}", "-e", odd, before=before)
    assert done.returncode == 0, done.stderr
    said, _, rest = done.stdout.partition("systemctl reboot\n")
    for part in ("nouveau holds the GPUs", "15 seconds", "journalctl -fu infbox-bootstrap-resume"):
        assert part in said
    assert "systemctl --quiet enable infbox-bootstrap-resume.service" in said
    assert "play site.yml" not in done.stdout
    assert rest.splitlines()[-1] == "infbox-bootstrap-resume.service"

    resume = tmp_path / "etc/bootstrap-resume"
    assert resume.stat().st_mode & 0o777 == 0o600
    unit = (tmp_path / "units/infbox-bootstrap-resume.service").read_text()
    assert "a b" not in unit
    assert f"ExecStart=/bin/bash {resume}\n" in unit
    assert f"ConditionPathExists={resume}\n" in unit
    # The same arguments, and what matters of the environment.
    spy = "resume() { printf '%s\\n' \"$@\"; env; }"
    told = subprocess.run(
        ["bash", "-c", resume.read_text().replace(f". {SCRIPT}", spy)],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.splitlines()[:4] == ["--workspace", f"w={tmp_path}", "-e", odd]
    assert {"PIP_CERT=/c", "https_proxy=http://u:p@h"} <= set(told.stdout.splitlines())
    assert "LS_COLORS" not in told.stdout


@pytest.mark.parametrize(
    ("arguments", "before", "why"),
    [
        (["--no-reboot"], "", "--no-reboot was given"),
        ([], "RESUMED=true; report_end() { true; };", "the server rebooted once already"),
        ([], "CHECKOUT=/tmp/infbox;", "a reboot may remove /tmp/infbox"),
        (["--ask-vault-pass"], "", "--ask-vault-pass asks a question"),
        (["-e", "@/tmp/mine.yml"], "", "a reboot may remove /tmp/mine.yml"),
        (["--vault-password-file=/run/x"], "", "a reboot may remove /run/x"),
    ],
)
def test_a_reboot_that_this_run_cannot_survive_is_left_to_the_user_stub(
    tmp_path: Path, arguments: list[str], before: str, why: str
) -> None:
    done = bring_up(tmp_path, *arguments, before=before)
    assert done.returncode == 1
    assert f"A reboot is needed: nouveau holds the GPUs. This run does not reboot: {why}." in (
        done.stderr
    )
    assert "systemctl" not in done.stdout
    assert list((tmp_path / "units").iterdir()) == []


def test_a_reboot_that_is_prevented_leaves_nothing_stub(tmp_path: Path) -> None:
    done = bring_up(tmp_path, before="sleep() { kill -TERM $$; };")
    assert "systemctl reboot" not in done.stdout
    assert list((tmp_path / "units").iterdir()) == []
    assert not (tmp_path / "etc/bootstrap-resume").exists()


@pytest.mark.parametrize(("status", "told"), [(0, "succeeded"), (3, "failed")])
def test_after_the_reboot_the_unit_goes_at_once_and_the_end_is_told_stub(
    tmp_path: Path, status: int, told: str
) -> None:
    bring_up(tmp_path)
    runtime = tmp_path / "run-systemd"
    fakes = (
        FAKES.format(folder=tmp_path, needs="false") + f"RUNTIME_UNITS={runtime}; unset -f sleep\n"
    )
    main = f'main() {{ ls "$UNITS" "${{RESUME%/*}}"; cat "$MOTD"; echo "$@"; exit {status}; }}'
    done = bash(f"{fakes} {main}; resume --no-reboot")
    assert done.returncode == status
    units, said = done.stdout.split("infbox: ")
    assert units.split() == [f"{tmp_path}/etc:", f"{tmp_path}/units:"]
    assert said.startswith("bootstrap.sh continues after the reboot")
    assert said.endswith("--no-reboot\n")
    assert list((tmp_path / "units").iterdir()) == []
    assert (runtime / "infbox-bootstrap-resume.service").exists()
    assert told in (tmp_path / "motd.d/infbox-bootstrap").read_text()
    assert "continues after the reboot" in (tmp_path / "log").read_text()


def test_help_says_what_it_does_and_changes_nothing() -> None:
    done = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--workspace NAME=PATH" in done.stdout
