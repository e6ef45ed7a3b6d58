"""What bootstrap.sh refuses, function by function, with what it looks at exchanged."""

import json
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
    presets = yaml.safe_load((ROOT / "group_vars/all/presets.yml").read_text())["infbox_presets"]
    done = bash("echo $LEAST_MEMORY_GB $LEAST_DISK_GB")
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
    ],
)
def test_a_supported_system_passes_and_decides_on_python(
    tmp_path: Path, system: str, version: str, packages: str
) -> None:
    release = os_release(tmp_path, ID=system, VERSION_ID=version)
    done = bash(f'{release}; look_at_system; echo "${{PACKAGES[*]}} ${{#REFUSALS[@]}}"')
    assert done.stdout.strip() == f"{packages} 0"


@pytest.mark.parametrize(
    "fields",
    [
        {"ID": "debian", "VERSION_ID": "11", "PRETTY_NAME": "Debian GNU/Linux 11 (bullseye)"},
        {"ID": "ubuntu", "VERSION_ID": "23.10", "PRETTY_NAME": "Ubuntu 23.10"},
        {"ID": "rocky", "VERSION_ID": "9.4", "PRETTY_NAME": "Rocky Linux 9.4"},
    ],
)
def test_another_system_is_refused_by_name(tmp_path: Path, fields: dict[str, str]) -> None:
    (line,) = refusals(f"{os_release(tmp_path, **fields)}; look_at_system")
    assert line.startswith(f"This host runs {fields['PRETTY_NAME']}. Use one with Debian 12 or 13,")


def test_a_host_without_systemd_is_refused(tmp_path: Path) -> None:
    (line,) = refusals(f"SYSTEMD={tmp_path}/none; look_at_systemd")
    assert line.startswith("This host does not run systemd")
    assert refusals(f"SYSTEMD={tmp_path}; look_at_systemd") == []


def test_another_architecture_is_refused() -> None:
    assert refusals("uname() { echo aarch64; }; look_at_architecture") == [
        "This host's architecture is aarch64. Use one with x86_64."
    ]


def test_too_little_memory_is_refused_in_numbers() -> None:
    assert refusals("memory_bytes() { echo 3900000000; }; look_at_memory") == [
        "This host has 3.9 GB of memory, the smallest preset needs 7 GB. Add memory."
    ]
    assert refusals("memory_bytes() { echo 7000000000; }; look_at_memory") == []


def test_memory_beyond_two_gigabytes_is_counted_right() -> None:
    kilobytes = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    assert int(bash("memory_bytes").stdout) == kilobytes * 1024


def test_too_little_disk_is_refused_in_numbers(tmp_path: Path) -> None:
    look = f"free_bytes() {{ echo 5000000000; }}; look_at_disk {tmp_path} 12 {tmp_path}/none"
    (line,) = refusals(look)
    assert line.startswith(f"{tmp_path} has room for 5.0 GB, at least 12 GB are needed in")


def test_what_an_earlier_run_holds_counts_as_room(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(b"x" * 2_000_000)
    look = f"free_bytes() {{ echo 999000000; }}; look_at_disk {tmp_path} 1 {tmp_path}"
    assert refusals(look) == []


@pytest.mark.parametrize("value", ["", "shop", "shop=", "shop=srv/shop", "Shop=/srv", "a b=/srv"])
def test_a_malformed_workspace_is_refused(value: str) -> None:
    look = 'read_arguments "$@"; look_at_workspaces'
    (line,) = refusals(look, "--workspace", value)
    assert line.startswith(f"--workspace {value} is not NAME=PATH.")


def test_a_workspace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    look = 'read_arguments "$@"; look_at_workspaces'
    (line,) = refusals(look, f"--workspace=shop={tmp_path}/shop")
    assert line.startswith(f"The path of workspace shop is not a folder: {tmp_path}/shop. Put")


def test_a_workspace_is_refused_where_the_inventory_is_the_users(tmp_path: Path) -> None:
    look = f'INVENTORY={tmp_path}; read_arguments "$@"; look_at_workspaces'
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("inference: {}\n")
    (line,) = refusals(look, "--workspace", f"shop={tmp_path}")
    assert "has no such line" in line
    assert f'- {{name: shop, path: "{tmp_path}"}}' in line
    inventory.write_text(f'infbox_workspaces:\n  - {{name: shop, path: "{tmp_path}"}}\n')
    assert refusals(look, "--workspace", f"shop={tmp_path}") == []
    assert refusals(look) == [], "without --workspace the inventory is taken as it is"


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    release = os_release(tmp_path, ID="rocky", VERSION_ID="9", PRETTY_NAME="Rocky Linux 9")
    done = bash(f"{release}; SYSTEMD={tmp_path}/none; uname() {{ echo aarch64; }}; look")
    assert done.returncode == 1
    for part in ("left as it is", "- This host runs Rocky", "not run systemd", "aarch64"):
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


def test_help_says_what_it_does_and_changes_nothing() -> None:
    done = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--workspace NAME=PATH" in done.stdout
