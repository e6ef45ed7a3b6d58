"""What is wrong with a host's NVIDIA cards, and how bad it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Finding = dict[str, str]
Card = Mapping[str, Any]

# The driver's errors after which a card does not compute rightly or at all: uncorrectable memory, a
# row that could not be replaced, NVLink, fallen off the bus, uncontained memory, firmware silent.
BROKEN = frozenset({48, 64, 74, 79, 95, 119})


def gpu_health(
    nvidia: Mapping[str, Any], driver: Mapping[str, Any], links: Mapping[str, int]
) -> list[Finding]:
    """Say what is wrong with a host's cards.

    Args:
        nvidia: what `infbox_host_info` saw on the bus and in the kernel.
        driver: what `nvidia_smi_details` read.
        links: what `nvlinks` counted.

    Returns:
        card (its address, or "host"), severity ("critical" or "warning") and what, the worst first.
    """
    if not nvidia["cards"]:
        return []
    told = {card["address"] for card in driver["cards"]}
    if not told:
        return [finding("host", "critical", "the driver does not answer; see `nvidia-smi`")]
    found = [
        finding(card["address"], "critical", "on the bus, and the driver does not tell of it")
        for card in nvidia["cards"]
        if card["address"] not in told
    ]
    for card in driver["cards"]:
        found += card_health(card, fabric=bool(nvidia["switches"]))
    found += xid_health(nvidia["xids"])
    if links["inactive"]:
        total = links["active"] + links["inactive"]
        found.append(finding("host", "warning", f"{links['inactive']} of {total} NVLinks are down"))
    return sorted(found, key=lambda each: (each["severity"], each["card"]))


def finding(card: str, severity: str, what: str) -> Finding:
    """Return one thing that is wrong."""
    return {"card": card, "severity": severity, "what": what}


def card_health(card: Card, *, fabric: bool) -> Iterable[Finding]:
    """Return what is wrong with one card.

    Args:
        card: what the driver told of it.
        fabric: whether NVSwitches join the cards of this host.
    """
    where, pcie = card["address"], card["pcie"]
    if card["lost"]:
        return [finding(where, "critical", "lost; the host must be rebooted")]
    checks: Sequence[tuple[bool, str, str]] = (
        (
            card["ecc_uncorrected"] > 0,
            "critical",
            f"{card['ecc_uncorrected']} uncorrected memory errors since the driver was loaded",
        ),
        (card["row_remap"] == "failure", "critical", "a row of memory failed for good; replace it"),
        (
            card["row_remap"] == "pending",
            "warning",
            "a row of memory is replaced at the next reset",
        ),
        (
            fabric and card["fabric"] not in {"Completed", ""},
            "critical",
            f"not in the NVLink fabric ({card['fabric']}); see nvidia-fabricmanager",
        ),
        (bool(card["throttle"]), "warning", f"slowed down: {', '.join(card['throttle'])}"),
        (
            0 < pcie["width"] < pcie["max_width"],
            "warning",
            f"PCIe has {pcie['width']} of {pcie['max_width']} lanes",
        ),
        (not card["persistence"], "warning", "persistence is off; see nvidia-persistenced"),
        (card["mig"], "warning", "split by MIG, so the engine cannot use it whole"),
    )
    return [finding(where, severity, what) for wrong, severity, what in checks if wrong]


def xid_health(xids: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return the driver's errors since boot, each kind once a card."""
    last = {(each["address"], each["xid"]): each for each in xids}
    return [
        finding(
            each["address"],
            "critical" if each["xid"] in BROKEN else "warning",
            f"Xid {each['xid']} since boot: {each['message']}",
        )
        for each in last.values()
    ]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"gpu_health": gpu_health}
