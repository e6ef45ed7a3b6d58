#!/usr/bin/python
"""Look at a host once, before anything on it is changed."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import platform
import pwd
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

DOCUMENTATION = """
module: infbox_host_info
short_description: Looks at a host before anything on it is changed
description:
  - Returns the system, memory, disks, NVIDIA GPUs, users, ports in use and what lies at paths.
  - Changes nothing. Wants root, to see whose processes hold a port.
author: infbox
options:
  data_dirs:
    description: Folders that will hold much; they need not exist yet.
    type: list
    elements: path
    default: []
  disk_needs:
    description:
      - Space that may be needed, as C(gb) and the number of C(gpus) without which it will not be.
        Only where less is free are the directories measured.
    type: list
    elements: dict
    default: []
  paths:
    description: Paths to look at.
    type: list
    elements: str
    default: []
  reader:
    description:
      - User that must be able to read these paths, by C(uid), which is its group's number too, and
        names of C(groups); empty for none.
    type: dict
    default: {}
  lowered_file:
    description: File that records a lowered plan; it need not exist.
    type: str
    default: ''
  model_path:
    description: Folder that should hold a model; empty for none.
    type: str
    default: ''
  ports:
    description: TCP ports to look up.
    type: list
    elements: int
    default: []
  users:
    description: Users, by C(name) and C(uid), to look up either way.
    type: list
    elements: dict
    default: []
  project:
    description: Compose project whose containers count as our own.
    type: str
    default: infbox
"""

RETURN = """
host:
  description: What was seen.
  returned: always
  type: dict
"""

NVIDIA = "0x10de"
# How the classes of PCI devices begin. An NVSwitch is a bridge of no kind that has a name.
DISPLAY_CONTROLLER = "0x03"
NVSWITCH = "0x0680"
XID = re.compile(r"NVRM: Xid \(PCI:([0-9A-Fa-f:.]{1,32})\): ([0-9]{1,6})(?![0-9]),?(.*)")
# The most of a command's output that is read: the reader of nvidia-smi's refuses more than 4 MiB.
MOST_BYTES = 5 * 1024 * 1024
PATIENCE = 60.0  # seconds
# A record of a lowered plan has some hundred bytes.
MOST_RECORD_BYTES = 65536

TCP_LISTEN = "0A"
SYSTEMD = 1  # its process
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
CONTAINER_ID = re.compile(r"[0-9a-f]{64}")

Run = Callable[[Sequence[str]], str | None]


def run(command: Sequence[str]) -> str | None:
    """Return what a command prints, or None where it is missing, fails or hangs.

    Bytes that are no UTF-8 are replaced. A command that prints without end is ended, and what it
    printed until then is returned, for the reader to refuse.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    patience = threading.Timer(PATIENCE, end, [process])
    patience.start()
    with process:
        printed = process.stdout.read(MOST_BYTES) if process.stdout else b""
        if len(printed) < MOST_BYTES:
            process.wait()
        else:
            end(process)
        patience.cancel()
    if process.returncode and len(printed) < MOST_BYTES:
        return None
    return printed.decode(errors="replace")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def system(root: Path) -> dict[str, Any]:
    """Return the distribution, architecture, memory in bytes, and whether systemd runs."""
    release = {}
    for line in read(root / "etc/os-release").splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip("\"'")
    total = re.search(r"^MemTotal:\s+(\d+) kB", read(root / "proc/meminfo"), re.MULTILINE)
    return {
        "distribution": release.get("ID", ""),
        "version": release.get("VERSION_ID", ""),
        "name": release.get("PRETTY_NAME", ""),
        "architecture": platform.machine(),
        "memory_bytes": int(total[1]) * 1024 if total else 0,
        # The directory that sd_booted(3) looks for.
        "systemd": (root / "run/systemd/system").is_dir(),
    }


def read(path: Path) -> str:
    """Return the text of a file, or nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def nvidia_gpu_addresses(root: Path) -> list[str]:
    """Return the PCI addresses of NVIDIA's display controllers, seen without any driver."""
    return [device["address"] for device in nvidia_devices(root, DISPLAY_CONTROLLER)]


def nvidia_devices(root: Path, kind: str) -> list[dict[str, str]]:
    """Return NVIDIA's PCI devices of a kind, seen without any driver.

    Args:
        root: where /sys is.
        kind: how their class begins: `DISPLAY_CONTROLLER` or `NVSWITCH`.

    Returns:
        address, device (four hexadecimal digits), subsystem (who made the board, and which one it
        is: two times four such digits with a colon) and driver, the kernel's, empty for none.
    """
    return [
        {
            "address": device.name,
            "device": hexadecimal(device / "device"),
            "subsystem": ":".join(
                hexadecimal(device / f"subsystem_{what}") for what in ("vendor", "device")
            ),
            "driver": (device / "driver").resolve().name if (device / "driver").exists() else "",
        }
        for device in sorted((root / "sys/bus/pci/devices").glob("*"))
        if read(device / "vendor").strip() == NVIDIA
        and read(device / "class").strip().startswith(kind)
    ]


def hexadecimal(path: Path) -> str:
    """Return a number of sysfs without its prefix, or nothing where there is none."""
    return read(path).strip().removeprefix("0x").lower()


def nvidia_state(root: Path, project: str, run: Run) -> dict[str, Any]:
    """Return what a host's NVIDIA GPUs are up to, beside what `nvidia-smi -q -x` tells of them.

    Args:
        root: where /sys and /proc are.
        project: compose project whose containers are our own, beside the units `PROJECT-*`.
        run: runs a command.

    Returns:
        gpus and switches as `nvidia_devices` has them; kernel_module: version of the one that is
        loaded ("" for none), open_kernel_module: whether it is the open one, xids: the driver's
        errors since boot, as address, xid and message; nvlinks: what `nvidia-smi nvlink --status`
        prints; compute_capabilities: what nvidia-smi prints of these, "" from a driver that does
        not know them; processes: who uses a GPU, as pid, process, unit and ours.
    """
    gpus = nvidia_devices(root, DISPLAY_CONTROLLER)
    state: dict[str, Any] = {
        "gpus": gpus,
        "switches": nvidia_devices(root, NVSWITCH),
        "kernel_module": read(root / "sys/module/nvidia/version").strip(),
        "open_kernel_module": "Open Kernel Module" in read(root / "proc/driver/nvidia/version"),
        "xids": [],
        "nvlinks": "",
        "compute_capabilities": "",
        "processes": [],
    }
    if not gpus:
        return state
    journal = ["journalctl", "--dmesg", "--boot", "--output", "cat", "--no-pager", "--quiet"]
    state["xids"] = xids(run([*journal, "--grep", "NVRM: Xid"]) or "")
    state["nvlinks"] = run(["nvidia-smi", "nvlink", "--status"]) or ""
    csv = "--format=csv,noheader"
    asked = run(["nvidia-smi", "--query-gpu=pci.bus_id,compute_cap", csv])
    state["compute_capabilities"] = asked or ""
    asked = run(["nvidia-smi", "--query-compute-apps=pid", csv]) or ""
    pids = sorted({int(pid) for pid in re.findall(r"^[0-9]{1,9}\b", asked, re.MULTILINE)})
    state["processes"] = [{"pid": pid, **process(root, pid, project, run)} for pid in pids]
    return state


def xids(journal: str) -> list[dict[str, Any]]:
    """Return the driver's errors in the kernel's log, as PCI address, number and message."""
    return [
        {"address": found[1].lower(), "xid": int(found[2]), "message": found[3].strip()}
        for found in XID.finditer(journal)
    ]


def look_at(path: str, reader: dict[str, Any]) -> dict[str, Any]:
    """Return what lies at a path, where it really is, and whether a user may read it.

    Args:
        path: what to look at.
        reader: uid and groups of that user; empty for nobody, who may read all.
    """
    place = Path(path)
    is_dir = place.is_dir()
    return {
        "exists": place.exists(),
        "is_dir": is_dir,
        "real": str(place.resolve()),
        "mode": f"{place.stat().st_mode & 0o7777:04o}" if is_dir else "",
        "group": group_name(place.stat().st_gid) if is_dir else "",
        "readable": not (is_dir and reader) or may_read(place, reader),
    }


def may_read(directory: Path, reader: dict[str, Any]) -> bool:
    """Ask the kernel whether a user may list a directory; modes are not all there is to it.

    The directories around it do not count: they may be hidden from that user, and the tree be
    mounted where it can be reached. Only root can ask; for others the answer is yes.
    """
    if os.geteuid() != 0:
        return True
    uid = int(reader["uid"])
    groups = [gid for name in reader.get("groups") or [] if (gid := group_number(name)) is not None]
    done = subprocess.run(
        ["test", "-r", ".", "-a", "-x", "."],
        cwd=directory,
        user=uid,
        group=uid,
        extra_groups=[uid, *groups],
        check=False,
    )
    return done.returncode == 0


def group_number(name: str) -> int | None:
    """Return the number of a group, None where there is none of that name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def group_name(number: int) -> str:
    """Return the name of a group, its number where it has none."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def model(path: str) -> dict[str, Any]:
    """Return whether a directory holds the two things that every model has."""
    directory = Path(path)
    return {
        "is_dir": directory.is_dir(),
        "config": (directory / "config.json").is_file(),
        "weights": any(directory.glob("*.safetensors")),
    }


def record(path: str) -> dict[str, Any]:
    """Return the object of JSON that a file holds, or an empty one where it holds none."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            told = json.loads(file.read(MOST_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def most_needed_bytes(needs: Iterable[dict[str, Any]], gpus: int) -> float:
    """Return the most bytes that may be needed on a host with so many GPUs.

    Args:
        needs: gb, and how many GPUs there must be for them to be needed.
        gpus: those of the host.
    """
    return max((float(n["gb"]) * 1e9 for n in needs if int(n["gpus"]) <= gpus), default=0.0)


def disks(directories: Iterable[str], needed_bytes: float) -> dict[str, Any]:
    """Return the disk space on the file systems of some directories.

    Args:
        directories: they need not exist; the nearest parent that does tells the file system.
        needed_bytes: if less than this is free, what the directories have already is measured too,
            since it need not be found a second time. That walk is slow, so only then.

    Returns:
        Bytes free on all those file systems, and bytes in the directories (0: not measured).
    """
    free: dict[int, int] = {}
    for directory in directories:
        place = Path(directory)
        while not place.is_dir():
            place = place.parent
        stat = os.statvfs(place)
        free[place.stat().st_dev] = stat.f_bavail * stat.f_frsize
    total = sum(free.values())
    used = sum(size(directory) for directory in directories) if total < needed_bytes else 0
    return {"free_bytes": total, "used_bytes": used}


def size(top: str) -> int:
    """Return the bytes that a directory takes on its own file system."""
    device = device_of(Path(top))
    total = 0
    seen = set()
    for directory, directories, files in os.walk(top):
        place = Path(directory)
        for name in files:
            try:
                stat = (place / name).lstat()
            except OSError:  # It went away meanwhile.
                continue
            if stat.st_ino not in seen:
                seen.add(stat.st_ino)
                total += stat.st_blocks * 512
        # Docker mounts its layers below its own directory: their files were counted already.
        directories[:] = [name for name in directories if device_of(place / name) == device]
    return total


def device_of(path: Path) -> int | None:
    """Return the number of the file system of a path, None where there is no such path."""
    try:
        return path.lstat().st_dev
    except OSError:
        return None


def users(wanted: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each wanted user who has its uid and which uid has its name, None for nobody."""
    accounts = pwd.getpwall()
    by_uid = {account.pw_uid: account.pw_name for account in accounts}
    by_name = {account.pw_name: account.pw_uid for account in accounts}
    return [
        {**user, "owner": by_uid.get(int(user["uid"])), "named": by_name.get(user["name"])}
        for user in wanted
    ]


def listeners(root: Path, ports: Iterable[int], project: str, run: Run) -> list[dict[str, Any]]:
    """Return who listens on some TCP ports.

    Args:
        root: where /proc is.
        ports: ports of interest.
        project: compose project whose containers are our own, beside the units `PROJECT-*`.
        run: runs a command.

    Returns:
        For each socket: port, wildcard (it takes every address), loopback, pid, process, unit (may
        be empty) and ours. A process that cannot be seen has pid 0.
    """
    wanted = set(ports)
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in read(root / "proc/net" / table).splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].rpartition(":")
            if fields[3] == TCP_LISTEN and int(port, 16) in wanted:
                sockets[fields[9]] = (address, int(port, 16))
    pids = owners(root, set(sockets)) if sockets else {}
    found = []
    for inode, (address, number) in sorted(sockets.items(), key=lambda item: item[1]):
        pid = pids.get(inode, 0)
        found.append(
            {
                "port": number,
                "wildcard": set(address) == {"0"},
                "loopback": is_loopback(address),
                "pid": pid,
                **process(root, pid, project, run),
            }
        )
    return found


def process(root: Path, pid: int, project: str, run: Run) -> dict[str, Any]:
    """Return a process' name, its systemd unit (may be empty) and whether it is ours.

    Args:
        root: where /proc is.
        pid: 0 for one that cannot be seen.
        project: compose project whose containers are our own, beside the units `PROJECT-*`.
        run: runs a command.
    """
    cgroup = read(root / f"proc/{pid}/cgroup") if pid else ""
    unit = (re.findall(r"([^/\n]+\.service)$", cgroup, re.MULTILINE) or [""])[-1]
    is_ours = unit.startswith(f"{project}-") or in_project(cgroup, project, run)
    return {
        "process": printable(read(root / f"proc/{pid}/comm").strip()) if pid else "",
        "unit": unit,
        "ours": is_ours or (pid == SYSTEMD and keeps_ours(project, run)),
    }


def printable(name: str) -> str:
    """Return a name that anybody may have chosen without what moves a terminal."""
    return "".join(each if each.isprintable() else "\ufffd" for each in name)


def keeps_ours(project: str, run: Run) -> bool:
    """Return whether systemd keeps a socket of a `PROJECT-*` that is being restarted."""
    told = run(["systemctl", "show", "--property=NFileDescriptorStore", f"{project}-*.service"])
    return bool(re.search("=[1-9]", told or ""))


def secure_boot(root: Path) -> bool:
    """Return whether the firmware lets the kernel load signed modules only."""
    try:
        # Four bytes of attributes come before the value.
        return (root / SECURE_BOOT).read_bytes()[4:5] == b"\1"
    except OSError:
        return False


def is_loopback(address: str) -> bool:
    """Return whether an address of /proc/net/tcp or tcp6 is on loopback."""
    # The kernel prints 32-bit words in the machine's order: 127.0.0.1 is 0100007F, and as an IPv6
    # address it has the prefix ::ffff.
    ipv4 = address.removeprefix("0000000000000000FFFF0000")
    return bool(re.fullmatch("[0-9A-F]{6}7F", ipv4)) or address == "0" * 24 + "01000000"


def owners(root: Path, inodes: set[str]) -> dict[str, int]:
    """Return the process that holds each socket, by inode.

    systemd, which keeps sockets for others, is named only where nobody else holds one.
    """
    found: dict[str, int] = {}
    for fd in (root / "proc").glob("[0-9]*/fd/*"):
        try:
            link = str(fd.readlink())
        except OSError:  # It was closed meanwhile, or is not ours to see.
            continue
        inode = link.removeprefix("socket:[").removesuffix("]")
        if inode in inodes:
            found[inode] = max(found.get(inode, SYSTEMD), int(fd.parts[-3]))
    return found


def in_project(cgroup: str, project: str, run: Run) -> bool:
    """Return whether a process is of a container of the compose project, or of a `PROJECT-*`."""
    identifiers = CONTAINER_ID.findall(cgroup)
    if not identifiers:
        return False
    # A host may be a container itself: the innermost one is the last.
    template = '{{index .Config.Labels "com.docker.compose.project"}}'
    label = run(["docker", "container", "inspect", "--format", template, identifiers[-1]])
    return label is not None and (label.strip() == project or label.startswith(f"{project}-"))


def units(root: Path, project: str) -> list[str]:
    """Return the names of the units of ours that were brought here.

    Args:
        root: where /etc is.
        project: how their names begin.
    """
    return sorted(path.name for path in (root / "etc/systemd/system").glob(f"{project}-*.service"))


def main() -> None:
    """Run as an Ansible module."""
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "data_dirs": {"type": "list", "elements": "path", "default": []},
            "disk_needs": {"type": "list", "elements": "dict", "default": []},
            "paths": {"type": "list", "elements": "str", "default": []},
            "reader": {"type": "dict", "default": {}},
            "lowered_file": {"type": "str", "default": ""},
            "model_path": {"type": "str", "default": ""},
            "ports": {"type": "list", "elements": "int", "default": []},
            "users": {"type": "list", "elements": "dict", "default": []},
            "project": {"type": "str", "default": "infbox"},
        },
        supports_check_mode=True,
    )
    asked = module.params
    root = Path("/")
    gpus = nvidia_gpu_addresses(root)
    host = {
        **system(root),
        **disks(asked["data_dirs"], most_needed_bytes(asked["disk_needs"], len(gpus))),
        "nvidia_gpu_addresses": gpus,
        "nvidia": nvidia_state(root, asked["project"], run),
        "secure_boot": secure_boot(root),
        "kernel": platform.release(),
        "nvidia_smi": run(["nvidia-smi", "-q", "-x"]) or "",
        "paths": {path: look_at(path, asked["reader"]) for path in asked["paths"]},
        "model": model(asked["model_path"]) if asked["model_path"] else {},
        "lowered": record(asked["lowered_file"]) if asked["lowered_file"] else {},
        "listeners": listeners(root, asked["ports"], asked["project"], run),
        "users": users(asked["users"]),
        "units": units(root, asked["project"]),
    }
    module.exit_json(changed=False, host=host)


if __name__ == "__main__":
    main()
