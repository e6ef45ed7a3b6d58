"""Faults of a host's NVIDIA GPUs, their severity, and a table of the GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Finding = dict[str, str]
Gpu = Mapping[str, Any]
Links = Sequence[Mapping[str, int]]

# The driver's errors (Xid) after which a GPU computes wrong results or none: uncorrectable memory,
# a row that could not be replaced, NVLink, fallen off the bus, uncontained memory, silent firmware.
BROKEN = frozenset({48, 64, 74, 79, 95, 119})

COLUMNS = ("GPU", "name", "MiB", "ECC", "Xid", "PCIe", "NVLink", "bandwidth", "state")
BANDWIDTH = "memory_bandwidth"


def gpu_health(
    nvidia: Mapping[str, Any],
    driver: Mapping[str, Any],
    links: Links,
    diagnosed: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Return the faults of a host's GPUs.

    Args:
        nvidia: what `infbox_host_info` saw on the bus and in the kernel.
        driver: what `nvidia_smi_details` read.
        links: what `nvlinks` counted.
        diagnosed: what `dcgm_diag` read; None if no diagnostics ran.

    Returns:
        gpu (its address, or "host"), severity ("critical" or "warning") and what, the worst first.
    """
    if not nvidia["gpus"]:
        return []
    told = {gpu["address"] for gpu in driver["gpus"]}
    unread = [
        finding("host", "critical", f"the output of `nvidia-smi -q -x` cannot be read: {problem}")
        for problem in driver.get("problems", [])
    ]
    if not told:
        silent = finding("host", "critical", "the driver does not respond; see `nvidia-smi`")
        return unread or [silent]
    found = unread + [
        finding(gpu["address"], "critical", "on the bus, but not reported by the driver")
        for gpu in nvidia["gpus"]
        if gpu["address"] not in told
    ]
    for gpu in driver["gpus"]:
        found += driver_health(gpu, fabric=bool(nvidia["switches"]))
    found += xid_health(nvidia["xids"])
    found += link_health(driver["gpus"], links)
    found += diagnosed_health(driver["gpus"], diagnosed) if diagnosed is not None else []
    return sorted(found, key=lambda each: (each["severity"], each["gpu"]))


def finding(gpu: str, severity: str, what: str) -> Finding:
    """Return one fault."""
    return {"gpu": gpu, "severity": severity, "what": what}


def driver_health(gpu: Gpu, *, fabric: bool) -> Iterable[Finding]:
    """Return what is wrong with one GPU.

    Args:
        gpu: what the driver told of it.
        fabric: whether NVSwitches join the GPUs of this host.
    """
    where, pcie = gpu["address"], gpu["pcie"]
    if gpu["lost"]:
        return [finding(where, "critical", "lost; the host must be rebooted")]
    checks: Sequence[tuple[bool, str, str]] = (
        (
            bool(gpu["recovery"]),
            "critical",
            f"in error, needs {gpu['recovery']}: `nvidia-smi --gpu-reset`, or reboot the host",
        ),
        (
            gpu["ecc_uncorrected"] > 0,
            "critical",
            f"{gpu['ecc_uncorrected']} uncorrected memory errors since the driver was loaded",
        ),
        (gpu["repair"] == "failure", "critical", "memory failed permanently; replace the GPU"),
        (
            gpu["sram_worn"],
            "critical",
            "more errors in the memory on the chip than NVIDIA allows; replace the GPU",
        ),
        (
            gpu["repair"] == "pending",
            "warning",
            "failed memory is replaced by spare rows at the next reset",
        ),
        (
            fabric and gpu["fabric"] not in {"Completed", ""},
            "critical",
            f"not in the NVLink fabric ({gpu['fabric']}); see nvidia-fabricmanager",
        ),
        (bool(gpu["throttle"]), "warning", f"slowed down: {', '.join(gpu['throttle'])}"),
        (
            # An idle GPU lowers its PCIe generation by itself, but not its width.
            0 < pcie["width"] < pcie["max_width"],
            "warning",
            f"PCIe has {pcie['width']} of {pcie['max_width']} lanes",
        ),
        (not gpu["persistence"], "warning", "persistence is off; see nvidia-persistenced"),
        (gpu["mig"], "warning", "MIG is enabled, so the engine cannot use the whole GPU"),
    )
    return [finding(where, severity, what) for wrong, severity, what in checks if wrong]


def xid_health(xids: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return the driver's errors since boot, each kind once for each GPU."""
    last = {(each["address"], each["xid"]): each for each in xids}
    return [
        finding(
            each["address"],
            "critical" if each["xid"] in BROKEN else "warning",
            f"Xid {each['xid']} since boot: {each['message']}",
        )
        for each in last.values()
    ]


def link_health(gpus: Sequence[Gpu], links: Links) -> list[Finding]:
    """Return which GPUs have NVLinks that are down."""
    return [
        finding(
            gpu["address"],
            "warning",
            f"{of['inactive']} of {of['active'] + of['inactive']} NVLinks are down",
        )
        for gpu, of in zip(gpus, links, strict=False)
        if of["inactive"]
    ]


def diagnosed_health(gpus: Sequence[Gpu], diagnosed: Mapping[str, Any]) -> Iterator[Finding]:
    """Return what DCGM's diagnostics found."""
    if diagnosed["error"]:
        yield finding("host", "critical", f"DCGM's diagnostics: {diagnosed['error']}")
    for result in diagnosed["results"]:
        if result["severity"]:
            where = address_of(gpus, result["gpu"])
            said = "; ".join(result["messages"]) or result["status"]
            yield finding(where, result["severity"], f"DCGM's test {result['test']}: {said}")


def address_of(gpus: Sequence[Gpu], number: int) -> str:
    """Return the address of the GPU that the driver and DCGM know by a number."""
    return str(gpus[number]["address"]) if 0 <= number < len(gpus) else "host"


def gpu_table(
    driver: Mapping[str, Any],
    xids: Sequence[Mapping[str, Any]],
    links: Links,
    findings: Sequence[Finding],
    diagnosed: Mapping[str, Any] | None = None,
) -> str:
    """Return a table with one line for each GPU.

    Args:
        driver: what `nvidia_smi_details` read.
        xids: the driver's errors since boot, as `infbox_host_info` has them.
        links: what `nvlinks` counted.
        findings: what `gpu_health` said.
        diagnosed: what `dcgm_diag` read; None if no diagnostics ran.
    """
    padded = [*links, *({"active": 0, "inactive": 0} for _ in driver["gpus"][len(links) :])]
    rows = [COLUMNS]
    for number, (gpu, of) in enumerate(zip(driver["gpus"], padded, strict=False)):
        seen = sorted({each["xid"] for each in xids if gpu["address"].startswith(each["address"])})
        rows.append(
            (
                gpu["address"],
                gpu["name"],
                f"{gpu['used_mib']}/{gpu['memory_mib']}",
                f"{gpu['ecc_uncorrected']} errors" if gpu["ecc"] else "off",
                ",".join(map(str, seen)) or "none",
                f"{gpu['pcie']['generation']}x{gpu['pcie']['width']}",
                f"{of['active']}/{of['active'] + of['inactive']}",
                bandwidth(number, diagnosed),
                worst(findings, gpu["address"]),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def bandwidth(number: int, diagnosed: Mapping[str, Any] | None) -> str:
    """Return the status of DCGM's memory bandwidth test on a GPU; "-" if it did not run."""
    for result in (diagnosed or {"results": []})["results"]:
        if (result["test"], result["gpu"]) == (BANDWIDTH, number):
            return str(result["status"])
    return "-"


def worst(findings: Sequence[Finding], address: str) -> str:
    """Return the state of a GPU: the severity of its worst fault, which comes first."""
    # The kernel's log has addresses without the function.
    of_gpu = (each["severity"] for each in findings if address.startswith(each["gpu"]))
    return next(of_gpu, "healthy")


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"gpu_health": gpu_health, "gpu_table": gpu_table}
