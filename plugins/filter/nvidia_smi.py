"""What `nvidia-smi -q -x` says of a host's GPUs.

Its output is input: the names of processes stand in it as they are, whatever bytes those have. So
it is not given to an XML parser, which takes all or nothing. What can be read is read, and what
cannot is told as a problem; nothing here raises.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

# A host with 16 GPUs and hundreds of processes prints less than half of one.
MOST_CHARACTERS = 4 * 1024 * 1024
MOST_ELEMENTS = 200_000
# The driver's own output has seven levels.
MOST_LEVELS = 32
# The kernel's own bound on the path of a program.
MOST_TEXT = 4096
MOST_PROBLEMS = 3

ROOT = "nvidia_smi_log"
TAG = re.compile(r"<(/?)([A-Za-z_][A-Za-z0-9_.-]*)((?:\s[^<>]*)?)(/?)>")
IDENTIFIER = re.compile(r"""\sid\s*=\s*["']([^"'<>]*)["']""")
# Names that the driver does not choose: what looks like a tag inside is none.
FREE_TEXT = ("process_name", "product_name")
ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}

BEYOND_REPAIR = ("remapped_rows/remapped_row_failure", "ecc_errors/unrepairable_memory")
REPAIRED_AT_RESET = (
    "remapped_rows/remapped_row_pending",
    "retired_pages/pending_retirement",
    "ecc_errors/channel_repair_pending",
    "ecc_errors/tpc_repair_pending",
)


def nvidia_smi_gpus(xml: Any, capabilities: Any = "") -> dict[str, Any]:
    """Read the output of `nvidia-smi -q -x`.

    Args:
        xml: the output; empty where the command is missing or failed.
        capabilities: the output of `nvidia-smi --query-gpu=pci.bus_id,compute_cap
            --format=csv,noheader`; empty where the driver does not know these.

    Returns:
        driver_version ("" for none); gpus as `infbox_gpus` has them: equal GPUs are one entry of
        name, memory_mib, count and, where it is told, compute_capability, the largest first,
        memory_mib 0 where it is not told; split: the names of GPUs that MIG has cut into pieces and
        that cannot be used whole; problems: what of the output cannot be read, in words.
    """
    log, problems = read_log(xml)
    told = compute_capabilities(capabilities)
    whole: Counter[tuple[int, str, str]] = Counter()
    split = []
    for gpu in log.iter("gpu"):
        name = text(gpu, "product_name") or "unknown NVIDIA GPU"
        if text(gpu, "mig_mode/current_mig") == "Enabled":
            split.append(name)
        else:
            memory = mebibytes(text(gpu, "fb_memory_usage/total"))
            whole[memory, name, told.get(address_of(gpu), "")] += 1
    gpus = [
        {
            "name": name,
            "memory_mib": memory,
            "count": count,
            **({"compute_capability": capability} if capability else {}),
        }
        for (memory, name, capability), count in sorted(whole.items(), reverse=True)
    ]
    return {
        "driver_version": text(log, "driver_version"),
        "gpus": gpus,
        "split": split,
        "problems": problems,
    }


def nvidia_smi_details(xml: Any) -> dict[str, Any]:
    """Read the details of each GPU from the output of `nvidia-smi -q -x`.

    Args:
        xml: the output; empty where the command is missing or failed.

    Returns:
        driver_version, cuda_version ("" for none), problems (what of the output cannot be read, in
        words) and gpus, in the driver's order: address (as sysfs writes it), name, architecture,
        uuid, memory_mib, used_mib, mig, persistence, ecc, ecc_uncorrected (since the driver was
        loaded), repair ("", "pending" or "failure"), sram_worn (more errors in the memory on the
        chip than NVIDIA allows), throttle (reasons that slow a GPU down, such as
        "hw_thermal_slowdown"), pcie (generation and width, each current and max; 0 where not told),
        fabric ("" where there is no NVSwitch), processes (pid, name, type, memory_mib), recovery
        (what the driver asks for after an error, such as "reset"; "" for nothing) and lost, for a
        GPU that no longer answers.
    """
    log, problems = read_log(xml)
    return {
        "driver_version": text(log, "driver_version"),
        "cuda_version": text(log, "cuda_version"),
        "gpus": [details(gpu) for gpu in log.iter("gpu")],
        "problems": problems,
    }


def read_log(printed: Any) -> tuple[ET.Element, list[str]]:
    """Read as much of the output of `nvidia-smi -q -x` as can be read.

    Returns:
        The document, empty where there is none, and what of it cannot be read, in words. What
        stands before the document, such as a warning, is passed over.
    """
    nothing = ET.Element(ROOT)
    if not isinstance(printed, str) or not printed.strip():
        return nothing, []
    if len(printed) > MOST_CHARACTERS:
        return nothing, [f"it printed more than {MOST_CHARACTERS // 1024**2} MB"]
    start = re.search(rf"<{ROOT}[\s>]", printed)
    if not start:
        return nothing, [f"it printed no XML: {shown(printed)}"]
    # The driver's own document type names a file. One that brings entities is not the driver's.
    if "<!ENTITY" in printed[: start.start()].upper():
        return nothing, ["its XML declares entities, which NVIDIA's does not"]
    log, problems = build(without_tags_in_names(printed[start.start() :]))
    count = len(log.findall("gpu"))
    attached = text(log, "attached_gpus")
    if not problems and attached and number(attached) != count:
        problems = [f"it tells of {count} of {shown(attached)} GPUs"]
    return log, problems


def without_tags_in_names(xml: str) -> str:
    """Return a document in which the names of processes and products hold nothing like a tag."""
    for tag in FREE_TEXT:
        first, *others = xml.split(f"<{tag}>")
        pieces = [first]
        for other in others:
            # The last one on the line, as a name may hold this too.
            line, newline, rest = other.partition("\n")
            end = line.rfind(f"</{tag}>")
            if end < 0:
                pieces.append(other)
            else:
                name = plain(line[:end]).replace("&", "&amp;").replace("<", "&lt;")
                pieces.append(name + line[end:] + newline + rest)
        xml = f"<{tag}>".join(pieces)
    return xml


def build(xml: str) -> tuple[ET.Element, list[str]]:
    """Build a document from tags as they come, whether they match or not."""
    root = ET.Element(ROOT)
    open_elements: list[ET.Element] = []
    problems: list[str] = []
    position = 0
    for elements, tag in enumerate(TAG.finditer(xml)):
        closing, name, attributes, empty = tag.groups()
        if open_elements and len(open_elements[-1]) == 0:
            leaf = open_elements[-1]
            leaf.text = f"{leaf.text or ''}{plain(xml[position : tag.start()])}"[:MOST_TEXT]
        position = tag.end()
        if elements >= MOST_ELEMENTS:
            return root, [f"it has more than {MOST_ELEMENTS:,} tags"]
        if closing:
            problems += close(name, open_elements)
            if not open_elements:
                return root, problems[:MOST_PROBLEMS]
        elif not open_elements:
            # The first one is the document's own.
            open_elements.append(root)
            if empty:
                return root, problems
        elif len(open_elements) < MOST_LEVELS:
            identifier = IDENTIFIER.search(attributes)
            given = {"id": plain(identifier[1])} if identifier else {}
            element = ET.SubElement(open_elements[-1], name, given)
            if not empty:
                open_elements.append(element)
    return root, ["it ends before its end", *problems][:MOST_PROBLEMS]


def close(name: str, open_elements: list[ET.Element]) -> Iterator[str]:
    """Close the nearest open element of a name, and tell of those inside that were left open."""
    names = [element.tag for element in open_elements]
    if name not in names:
        if len(open_elements) < MOST_LEVELS:
            yield f"it closes <{name[:40]}>, which is not open"
        return
    left = names[len(names) - names[::-1].index(name) :]
    del open_elements[len(names) - 1 - names[::-1].index(name) :]
    if left:
        yield f"it leaves <{left[-1][:40]}> open"


def plain(given: str) -> str:
    """Return text with XML's five entities decoded and without control characters."""
    meant = re.sub("&(?:lt|gt|quot|apos|amp);", lambda found: ENTITIES[found[0]], given)
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in meant)


def shown(given: str) -> str:
    """Return the beginning of a text, on one line."""
    words = " ".join(plain(given[:400]).split())
    return words if len(words) <= 80 else f"{words[:80]}…"  # noqa: PLR2004


def compute_capabilities(printed: Any) -> dict[str, str]:
    """Return compute capabilities by address, from `--query-gpu=pci.bus_id,compute_cap`."""
    if not isinstance(printed, str):
        return {}
    lines = re.findall(
        r"^[ \t]*([0-9A-Fa-f]{4,8}:[0-9A-Fa-f:.]{4,8})[ \t]*,[ \t]*([0-9]{1,2}\.[0-9])[ \t\r]*$",
        printed[:MOST_CHARACTERS],
        re.MULTILINE,
    )
    return {address(bus_id): capability for bus_id, capability in lines}


def address_of(gpu: ET.Element) -> str:
    """Return the PCI address of a GPU."""
    return address(gpu.get("id", "") or text(gpu, "pci/pci_bus_id"))


def details(gpu: ET.Element) -> dict[str, Any]:
    """Return what is told of one GPU."""
    link = "pci/pci_gpu_link_info/"
    return {
        "address": address_of(gpu),
        "name": text(gpu, "product_name") or "unknown NVIDIA GPU",
        "architecture": text(gpu, "product_architecture"),
        "uuid": text(gpu, "uuid"),
        "memory_mib": mebibytes(text(gpu, "fb_memory_usage/total")),
        "used_mib": mebibytes(text(gpu, "fb_memory_usage/used")),
        "mig": text(gpu, "mig_mode/current_mig") == "Enabled",
        "persistence": text(gpu, "persistence_mode") == "Enabled",
        "ecc": text(gpu, "ecc_mode/current_ecc") == "Enabled",
        "ecc_uncorrected": uncorrected(gpu),
        "repair": repair(gpu),
        "sram_worn": text(gpu, "ecc_errors/aggregate/sram_threshold_exceeded") == "Yes",
        "throttle": throttle(gpu),
        "pcie": {
            "generation": number(text(gpu, link + "pcie_gen/current_link_gen")),
            "max_generation": number(text(gpu, link + "pcie_gen/max_link_gen")),
            "width": number(text(gpu, link + "link_widths/current_link_width")),
            "max_width": number(text(gpu, link + "link_widths/max_link_width")),
        },
        "fabric": text(gpu, "fabric/state").replace("N/A", ""),
        "processes": [
            {
                "pid": number(text(process, "pid")),
                "name": text(process, "process_name"),
                "type": text(process, "type"),
                "memory_mib": mebibytes(text(process, "used_memory")),
            }
            for process in gpu.findall("processes/process_info")
        ],
        "recovery": recovery(gpu),
        "lost": any("GPU is lost" in (element.text or "") for element in gpu.iter()),
    }


def address(bus_id: str) -> str:
    """Return a PCI address as sysfs writes it: with four digits of domain, not eight."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}" if rest else ""


def uncorrected(gpu: ET.Element) -> int:
    """Return the uncorrected memory errors since the driver was loaded.

    Turing and later count by kind of memory; older GPUs have a total of double bit errors.
    """
    volatile = gpu.find("ecc_errors/volatile")
    if volatile is None:
        return 0
    kinds = [kind for kind in volatile if "uncorrectable" in kind.tag]
    total = text(volatile, "double_bit/total")
    return sum(number(kind.text or "") for kind in kinds) + number(total)


def recovery(gpu: ET.Element) -> str:
    """Return the action that the driver asks for, in lower case.

    Newer drivers say it in a field of its own; with or without, a GPU in error has "GPU requires
    reset" in the place of its values.
    """
    action = text(gpu, "gpu_recovery_action").lower()
    if action not in {"", "none", "n/a"} and "requires reset" not in action:
        return action
    return "reset" if any("requires reset" in (each.text or "") for each in gpu.iter()) else ""


def repair(gpu: ET.Element) -> str:
    """Return whether memory or units of the GPU failed for good, or wait for a reset.

    Those are pages of memory, rows since Ampere, and from driver 580 on whole channels and groups
    of multiprocessors (TPC) as well.
    """
    if any(text(gpu, path) == "Yes" for path in BEYOND_REPAIR):
        return "failure"
    return "pending" if any(text(gpu, path) == "Yes" for path in REPAIRED_AT_RESET) else ""


def throttle(gpu: ET.Element) -> list[str]:
    """Return the reasons that slow a GPU down, without idling and settings.

    Drivers from 535 on call them events.
    """
    found = []
    for kind in ("throttle", "event"):
        for reason in gpu.findall(f"clocks_{kind}_reasons/*"):
            name = reason.tag.removeprefix(f"clocks_{kind}_reason_")
            if "slowdown" in name and (reason.text or "").strip() == "Active":
                found.append(name)
    return found


def nvlinks(status: str) -> list[dict[str, int]]:
    """Count the NVLinks of each GPU in what `nvidia-smi nvlink --status` prints.

    Args:
        status: its lines, such as "GPU 0: NAME", "Link 0: 26.562 GB/s" and "Link 1: <inactive>".

    Returns:
        active and inactive of each GPU, in the driver's order.
    """
    counts = []
    for gpu in re.split(r"^GPU \d+:", str(status)[:MOST_CHARACTERS], flags=re.MULTILINE)[1:]:
        links = re.findall(r"^[ \t]*Link \d+: *(.+)$", gpu, re.MULTILINE)
        inactive = sum("inactive" in link.lower() for link in links)
        counts.append({"active": len(links) - inactive, "inactive": inactive})
    return counts


def text(element: ET.Element, path: str) -> str:
    """Return the text at a path below an element, or nothing."""
    return (element.findtext(path) or "").strip()


def mebibytes(value: str) -> int:
    """Return the number in "40960 MiB", or 0 where there is none, as in "N/A"."""
    told = re.match(r"([0-9]{1,9}) MiB", value)
    return int(told[1]) if told else 0


def number(value: str) -> int:
    """Return the number that a value begins with, as in "16x", or 0 where there is none."""
    told = re.match(r"[0-9]{1,9}(?![0-9])", value.strip())
    return int(told[0]) if told else 0


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "nvidia_smi_gpus": nvidia_smi_gpus,
            "nvidia_smi_details": nvidia_smi_details,
            "nvlinks": nvlinks,
        }
