"""What the look at a host sees: real sockets, users and disks of this machine; a made-up /sys."""

import os
import pwd
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.plugins.plugin_files import load

host_info = load("modules", "infbox_host_info")

CONTAINER = "3f" * 32
OUTER = "a0" * 32


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def never_ours(_command: Sequence[str]) -> str | None:
    return None


def never(command: Sequence[str]) -> str | None:
    raise AssertionError(command)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_listener_is_found_with_its_process(port: int) -> None:
    (found,) = host_info.listeners(Path("/"), [port], "infbox", never_ours)
    assert (found["port"], found["pid"]) == (port, os.getpid())
    assert found["process"] == Path("/proc/self/comm").read_text().strip()
    assert (found["loopback"], found["wildcard"], found["ours"]) == (True, False, False)


def test_a_listener_on_every_address_is_found() -> None:
    with socket.create_server(("", 0)) as server:
        (found,) = host_info.listeners(Path("/"), [server.getsockname()[1]], "infbox", never_ours)
    assert (found["loopback"], found["wildcard"]) == (False, True)


def test_a_listener_on_ipv6_is_found() -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        (found,) = host_info.listeners(Path("/"), [server.getsockname()[1]], "infbox", never_ours)
    assert (found["loopback"], found["wildcard"]) == (True, False)


def test_a_connection_from_a_port_is_no_listener(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        from_port = connection.getsockname()[1]
        assert host_info.listeners(Path("/"), [from_port], "infbox", never) == []


def test_a_free_port_has_no_listener(port: int) -> None:
    assert host_info.listeners(Path("/"), [port + 1], "infbox", never) == []


def listener_in(
    root: Path, cgroup: str, run: object = never, pids: Sequence[int] = (42,)
) -> dict[str, object]:
    """Return what is said of processes that hold port 8000 of 127.0.0.1, the last in a cgroup."""
    write(
        root / "proc/net/tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout"
        " inode\n   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0"
        "        0 4711 1\n",
    )
    for pid in pids:
        write(root / f"proc/{pid}/comm", "systemd\n" if pid == 1 else "python3\n")
        write(root / f"proc/{pid}/cgroup", cgroup if pid == pids[-1] else "0::/init.scope\n")
        (root / f"proc/{pid}/fd").mkdir()
        (root / f"proc/{pid}/fd/3").symlink_to("socket:[4711]")
    (found,) = host_info.listeners(root, [8000], "infbox", run)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("cgroup", "unit", "ours"),
    [
        ("0::/system.slice/infbox-gateway.service\n", "infbox-gateway.service", True),
        ("1:name=systemd:/docker/x/system.slice/infbox-watcher.service\n",
         "infbox-watcher.service", True),
        ("0::/system.slice/nginx.service\n", "nginx.service", False),
        ("0::/system.slice/not-infbox-at-all.service\n", "not-infbox-at-all.service", False),
        ("0::/user.slice/user-0.slice/session-1.scope\n", "", False),
    ],
)  # fmt: skip
def test_a_unit_of_ours_is_known_by_its_name(
    tmp_path: Path, cgroup: str, unit: str, ours: bool
) -> None:
    found = listener_in(tmp_path, cgroup)
    assert (found["unit"], found["ours"]) == (unit, ours)


def test_a_socket_that_systemd_keeps_for_a_service_is_the_service_s(tmp_path: Path) -> None:
    found = listener_in(tmp_path, "0::/system.slice/infbox-gateway.service\n", pids=(1, 42))
    assert (found["pid"], found["unit"], found["ours"]) == (42, "infbox-gateway.service", True)


@pytest.mark.parametrize(
    ("told", "ours"),
    [
        ("NFileDescriptorStore=0\n\nNFileDescriptorStore=1\n", True),
        ("NFileDescriptorStore=0\n", False),
        ("", False),
        (None, False),
    ],
)
def test_a_socket_that_systemd_alone_holds_is_ours_while_a_unit_of_ours_is_restarted(
    tmp_path: Path, told: str | None, ours: bool
) -> None:
    found = listener_in(tmp_path, "0::/init.scope\n", lambda _: told, pids=(1,))
    assert (found["process"], found["ours"]) == ("systemd", ours)


@pytest.mark.parametrize(
    "cgroup",
    [
        f"0::/system.slice/docker-{CONTAINER}.scope\n",
        f"12:cpuset:/docker/{OUTER}/docker/{CONTAINER}\n0::/docker/{OUTER}/docker/{CONTAINER}\n",
    ],
)
@pytest.mark.parametrize(
    ("project", "ours"),
    [
        ("infbox\n", True),
        ("infbox-monitoring\n", True),
        ("infboxes\n", False),
        ("shop\n", False),
        (None, False),
    ],
)
def test_a_container_is_ours_by_its_compose_project(
    tmp_path: Path, cgroup: str, project: str | None, ours: bool
) -> None:
    asked = []

    def run(command: Sequence[str]) -> str | None:
        asked.append(command[-1])
        return project

    assert listener_in(tmp_path, cgroup, run)["ours"] is ours
    assert asked == [CONTAINER]


def test_only_nvidia_display_controllers_count_as_gpus(tmp_path: Path) -> None:
    for address, vendor, kind in (
        ("0000:01:00.0", "0x10de", "0x030000"),
        ("0000:01:00.1", "0x10de", "0x040300"),  # the sound device of that GPU
        ("0000:02:00.0", "0x10de", "0x030200"),
        ("0000:03:00.0", "0x8086", "0x030000"),
    ):
        write(tmp_path / "sys/bus/pci/devices" / address / "vendor", f"{vendor}\n")
        write(tmp_path / "sys/bus/pci/devices" / address / "class", f"{kind}\n")
    assert host_info.nvidia_gpu_addresses(tmp_path) == ["0000:01:00.0", "0000:02:00.0"]


def test_a_machine_without_pci_has_no_gpus(tmp_path: Path) -> None:
    assert host_info.nvidia_gpu_addresses(tmp_path) == []


def pci(root: Path, address: str, device: str, kind: str) -> Path:
    folder = root / "sys/bus/pci/devices" / address
    write(folder / "vendor", "0x10de\n")
    write(folder / "device", f"0x{device}\n")
    write(folder / "class", f"{kind}\n")
    return folder


def test_gpus_and_switches_are_told_by_their_pci_ids_without_a_driver(tmp_path: Path) -> None:
    pci(tmp_path, "0000:05:00.0", "22a3", "0x068000")
    gpu = pci(tmp_path, "0000:18:00.0", "2330", "0x030200")
    (gpu / "subsystem_vendor").write_text("0x10de\n")
    (gpu / "subsystem_device").write_text("0x16C1\n")
    (tmp_path / "sys/bus/pci/drivers/nouveau").mkdir(parents=True)
    (gpu / "driver").symlink_to(tmp_path / "sys/bus/pci/drivers/nouveau")
    seen = host_info.nvidia_state(tmp_path, "infbox", never_ours)
    assert seen == {
        "gpus": [
            {
                "address": "0000:18:00.0",
                "device": "2330",
                "subsystem": "10de:16c1",
                "driver": "nouveau",
            }
        ],
        "switches": [{"address": "0000:05:00.0", "device": "22a3", "subsystem": ":", "driver": ""}],
        "kernel_module": "",
        "open_kernel_module": False,
        "xids": [],
        "nvlinks": "",
        "compute_capabilities": "",
        "processes": [],
    }


def test_without_a_gpu_nothing_is_asked(tmp_path: Path) -> None:
    assert host_info.nvidia_state(tmp_path, "infbox", never)["gpus"] == []


def test_the_loaded_module_its_errors_and_who_uses_a_gpu_are_told(tmp_path: Path) -> None:
    pci(tmp_path, "0000:18:00.0", "2330", "0x030200")
    write(tmp_path / "sys/module/nvidia/version", "580.173.02\n")
    write(
        tmp_path / "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.173.02\n",
    )
    write(tmp_path / "proc/31/comm", "train.py\n")
    write(tmp_path / "proc/31/cgroup", "0::/user.slice\n")

    def run(command: Sequence[str]) -> str | None:
        if command[0] == "journalctl":
            return "NVRM: Xid (PCI:0000:18:00): 79, pid=1, GPU has fallen off the bus.\n"
        return "31\n31\n" if "--query-compute-apps=pid" in command else None

    seen = host_info.nvidia_state(tmp_path, "infbox", run)
    assert (seen["kernel_module"], seen["open_kernel_module"]) == ("580.173.02", True)
    assert seen["xids"] == [
        {"address": "0000:18:00", "xid": 79, "message": "pid=1, GPU has fallen off the bus."}
    ]
    assert seen["processes"] == [{"pid": 31, "process": "train.py", "unit": "", "ours": False}]


@pytest.mark.parametrize(
    ("value", "on"), [(b"\6\0\0\0\1", True), (b"\6\0\0\0\0", False), (None, False)]
)
def test_secure_boot_is_read_from_the_firmware(
    tmp_path: Path, value: bytes | None, on: bool
) -> None:
    if value is not None:
        place = tmp_path / host_info.SECURE_BOOT
        place.parent.mkdir(parents=True)
        place.write_bytes(value)
    assert host_info.secure_boot(tmp_path) is on


def test_the_system_is_read_from_its_own_files(tmp_path: Path) -> None:
    write(
        tmp_path / "etc/os-release", 'ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04"\n'
    )
    write(tmp_path / "proc/meminfo", "MemTotal:       16000000 kB\nMemFree: 1 kB\n")
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    seen = host_info.system(tmp_path)
    assert (seen["distribution"], seen["version"], seen["name"]) == (
        "ubuntu",
        "24.04",
        "Ubuntu 24.04",
    )
    assert (seen["memory_bytes"], seen["systemd"]) == (16000000 * 1024, True)


def test_room_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)
    seen = host_info.disks([str(tmp_path / "not" / "yet")], 0)
    assert seen["free_bytes"] == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.01)
    assert seen["used_bytes"] == 0


def test_two_folders_of_one_file_system_do_not_count_twice(tmp_path: Path) -> None:
    one = host_info.disks([str(tmp_path)], 0)["free_bytes"]
    two = host_info.disks([str(tmp_path), str(tmp_path / "other")], 0)["free_bytes"]
    assert two == pytest.approx(one, rel=0.01)


def test_what_a_folder_holds_is_measured_only_where_room_is_short(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights").write_bytes(os.urandom(3_000_000))
    os.link(tmp_path / "models" / "weights", tmp_path / "models" / "the-same")
    assert host_info.disks([str(tmp_path)], 0)["used_bytes"] == 0
    assert host_info.disks([str(tmp_path)], 1e18)["used_bytes"] == pytest.approx(3e6, rel=0.1)


def test_users_are_found_by_number_and_by_name() -> None:
    root = pwd.getpwuid(0)
    asked = [
        {"name": root.pw_name, "uid": 0},
        {"name": "nobody-of-that-name", "uid": 4_000_000_000},
    ]
    first, second = host_info.users(asked)
    assert (first["owner"], first["named"]) == (root.pw_name, 0)
    assert (second["owner"], second["named"]) == (None, None)


def test_a_link_is_seen_as_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "link").symlink_to("tree")
    seen = host_info.look_at(str(tmp_path / "link"), {})
    assert (seen["exists"], seen["is_dir"], seen["readable"]) == (True, True, True)
    assert seen["real"] == os.path.realpath(tmp_path / "tree")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask for another user")
@pytest.mark.parametrize(
    ("mode", "groups", "readable"),
    [
        (0o755, [], True),
        (0o750, [], False),
        (0o750, ["adm", "no-group-of-that-name"], True),
        (0o744, [], False),  # names without what they stand for
    ],
)
def test_it_is_seen_whether_a_user_may_read_a_folder(
    tmp_path: Path, mode: int, groups: list[str], readable: bool
) -> None:
    tree = tmp_path / "tree"  # in a folder that only its owner may enter
    tree.mkdir()
    shutil.chown(tree, group="adm")
    tree.chmod(mode)
    seen = host_info.look_at(str(tree), {"uid": 64430, "groups": groups})
    assert (seen["readable"], seen["mode"], seen["group"]) == (readable, f"{mode:04o}", "adm")


def test_a_model_is_told_from_an_empty_folder(tmp_path: Path) -> None:
    assert host_info.model(str(tmp_path)) == {"is_dir": True, "config": False, "weights": False}
    (tmp_path / "config.json").touch()
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert host_info.model(str(tmp_path)) == {"is_dir": True, "config": True, "weights": True}


def test_a_command_that_is_missing_or_fails_says_nothing() -> None:
    assert host_info.run(["/no/such/command"]) is None
    assert host_info.run(["false"]) is None
    assert host_info.run(["echo", "yes"]) == "yes\n"


def test_units_of_ours_are_told_by_name(tmp_path: Path) -> None:
    for name in ("infbox-node-guard.service", "infbox-x.timer", "other.service"):
        write(tmp_path / "etc/systemd/system" / name, "")
    assert host_info.units(tmp_path, "infbox") == ["infbox-node-guard.service"]
    assert host_info.units(tmp_path / "none", "infbox") == []


def test_bytes_that_are_no_utf_8_do_not_stop_the_look() -> None:
    assert host_info.run(["printf", "caf\\351 1\\n"]) == "caf\ufffd 1\n"


def test_a_command_that_prints_without_end_is_ended() -> None:
    printed = host_info.run(["yes", "nvidia"])
    assert printed is not None
    assert len(printed) == host_info.MOST_BYTES


def test_a_command_that_hangs_is_ended_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_info, "PATIENCE", 0.3)
    assert host_info.run(["sh", "-c", "sleep 60 & echo some; wait"]) is None


@pytest.mark.parametrize("command", [["false"], ["sh", "-c", "echo some; exit 9"], ["/no/such"]])
def test_a_command_that_fails_says_nothing(command: list[str]) -> None:
    assert host_info.run(command) is None


def test_numbers_beyond_all_measure_are_passed_over(tmp_path: Path) -> None:
    pci(tmp_path, "0000:18:00.0", "2330", "0x030200")

    def run(command: Sequence[str]) -> str | None:
        if command[0] == "journalctl":
            xid = "NVRM: Xid (PCI:0000:18:00):"
            return f"{xid} {'9' * 5000}, many\n{xid} 79, one"
        return f"{'9' * 5000}\n31\n" if "--query-compute-apps=pid" in command else None

    seen = host_info.nvidia_state(tmp_path, "infbox", run)
    assert [each["xid"] for each in seen["xids"]] == [79]
    assert [each["pid"] for each in seen["processes"]] == [31]


def test_a_process_name_moves_no_terminal(tmp_path: Path) -> None:
    write(tmp_path / "proc/42/comm", "\x1b[2Jname\n")
    assert host_info.process(tmp_path, 42, "infbox", never_ours)["process"] == "\ufffd[2Jname"
