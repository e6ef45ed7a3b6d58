"""Which packages bring a host's NVIDIA driver, and what speaks against installing them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Host = Mapping[str, Any]
Plan = Mapping[str, Any]

# What a driver's own packages are called, in every archive.
FAMILY = re.compile(
    r"(lib)?nvidia-(?!container)|libnv(cuvid|optix)|libcuda1$|cuda-drivers|linux-modules-nvidia-"
)
DRIVER_VERSION = re.compile(r"\d{3,}(\.\d+){1,2}")


def driver_plan(
    host: Host, sources: Mapping[str, Any], asked: Mapping[str, Any], enrolled: bool
) -> dict[str, Any]:
    """Say which packages bring a driver to a host.

    Args:
        host: what `infbox_host_info` saw.
        sources: the package maps, by the name of the source.
        asked: source, version, open and fabric_manager, as the role's variables have them.
        enrolled: whether the firmware trusts the key that signs modules built on this host.

    Returns:
        system, source, branch, version, open, modules ("dkms" or "signed"), fabric_manager, folder
        and key of the repository, pin (installed first; "" for none), versioned (packages that take
        the driver's version, each a list of names of which one exists) and others.
    """
    release_name = host["version"] if host["distribution"] == "ubuntu" else major(host["version"])
    system = f"{host['distribution']}-{release_name}"
    source = asked["source"]
    if source == "auto":
        source = next((name for name, found in sources.items() if system in found["systems"]), "")
    found = sources.get(source, {})
    release = found.get("systems", {}).get(system, {})
    version = str(asked["version"])
    cards, branch = host["nvidia"]["cards"], major(version)
    opened = asked["open"] == "true"
    if asked["open"] == "auto":
        opened = all(number(card) >= found.get("first_open", 0) for card in cards)
    signed = host["secure_boot"] and not enrolled and "signed" in found.get("packages", {})
    fabric = asked["fabric_manager"] == "true"
    if asked["fabric_manager"] == "auto":
        fabric = bool(host["nvidia"]["switches"])
    architectures = found.get("architectures", {})
    words = {
        "branch": branch,
        "version": version,
        "open": "-open" if opened else "",
        "kernel": host["kernel"],
        "flavour": re.sub(r"^[\d.]+-(\d+-)?", "", host["kernel"]),
        "arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(host["architecture"], ""),
    }
    plan: dict[str, Any] = {
        "system": system,
        "source": source,
        "branch": branch,
        "version": version,
        "open": opened,
        "modules": "signed" if signed else "dkms",
        "fabric_manager": fabric,
        "folder": f"{release.get('folder', '')}/{architectures.get(words['arch'], '')}",
        "key": release.get("key", ""),
        "pin": found.get("pin", "").format(**words),
    }
    packages = found.get("packages", {}).get(plan["modules"], {})
    versioned = packages.get("versioned", [])
    if plan["fabric_manager"]:
        versioned = [*versioned, found.get("fabric_manager", [])]
    plan["versioned"] = [
        [name.format(**words) for name in ([names] if isinstance(names, str) else names)]
        for names in versioned
    ]
    plan["others"] = [name.format(**words) for name in packages.get("others", [])]
    return plan


def major(version: str) -> str:
    """Return what stands before a version's first dot."""
    return version.partition(".")[0]


def number(card: Mapping[str, str]) -> int:
    """Return a card's PCI device id, by which architectures follow each other."""
    return int(card["device"] or "0", 16)


def driver_packages(listing: str) -> dict[str, str]:
    """Return the driver's packages that are installed, with their versions.

    Args:
        listing: lines of status, name and version, as dpkg-query prints them.
    """
    words = (line.split() for line in listing.splitlines())
    return {
        line[1]: line[2]
        for line in words
        if len(line) == 3 and line[0] == "installed" and FAMILY.match(line[1])  # noqa: PLR2004
    }


def installed_driver(packages: Mapping[str, str]) -> str:
    """Return the version of the driver that packages brought, the latest of them, or nothing."""
    versions = [found[0] for text in packages.values() if (found := DRIVER_VERSION.match(text))]
    return max(versions, key=parts, default="")


def parts(version: str) -> tuple[int, ...]:
    """Return a version as something that compares: 580.95 comes before 580.126."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def driver_choice(running: str, managed: bool, least: str) -> str:
    """Say whether a driver that works is left alone.

    Args:
        running: version of the driver that answers; "" for none.
        managed: whether this role installed a driver here before.
        least: the least version that will do; "" for any.

    Returns:
        "leave" or "install".
    """
    enough = bool(running) and parts(running) >= parts(least)
    return "leave" if enough and not managed else "install"


def driver_refusals(
    host: Host,
    plan: Plan,
    sources: Mapping[str, Any],
    found: Mapping[str, Any],
    disk_gb: float,
) -> list[str]:
    """Say what speaks against installing the driver of a plan, each with its mend.

    Args:
        host: what `infbox_host_info` saw.
        plan: what `driver_plan` said.
        sources: the package maps.
        found: running and installed (versions, "" for none), runfile (whether a driver came from
            NVIDIA's installer), enrolled (whether the firmware trusts this host's key) and open
            (the variable).
        disk_gb: space that building the modules needs, in GB.
    """
    source = sources.get(plan["source"], {})
    branches = source.get("systems", {}).get(plan["system"], {}).get("branches", [])
    refusals: list[str] = []
    if not branches:
        known = sorted({name for entry in sources.values() for name in entry["systems"]})
        wanted = plan["source"] or "auto"
        refusals.append(
            f"There are no driver packages of source {wanted} known for {plan['system']}. Set"
            f" nvidia_driver_source to auto on one of {', '.join(known)}, or install the driver"
            " yourself."
        )
        return refusals
    if not re.fullmatch(r"\d{3}\.\d+(\.\d+)?", plan["version"]):
        refusals.append(
            f"nvidia_driver_version is {plan['version']}, which is no exact version. Write it as"
            " 580.173.02."
        )
        return refusals
    if int(plan["branch"]) not in branches:
        refusals.append(
            f"There is no branch {plan['branch']} of the driver for {plan['system']} known here;"
            f" there are {', '.join(map(str, branches))}. Set nvidia_driver_version to a version"
            " of one of these."
        )
    if host["architecture"] not in {"x86_64", "aarch64"}:
        refusals.append(
            f"There are no driver packages for {host['architecture']}. Use a host of x86_64 or"
            " aarch64."
        )
    refusals += card_refusals(host["nvidia"]["cards"], plan, source, found["open"])
    refusals += change_refusals(host, plan, found)
    free = host["free_bytes"] / 1e9
    if plan["modules"] == "dkms" and free < disk_gb and found["installed"] != plan["version"]:
        refusals.append(
            f"Building the driver's modules needs {disk_gb:g} GB in /var/lib/dkms, where"
            f" {free:.1f} GB are free. Free some."
        )
    return refusals


def card_refusals(
    cards: Iterable[Mapping[str, str]], plan: Plan, source: Mapping[str, Any], wanted: str
) -> list[str]:
    """Refuse cards that the branch or the kind of module does not know."""
    refusals = []
    firsts = [
        int(device)
        for branch, device in source["first_card"].items()
        if int(plan["branch"]) >= int(branch)
    ]
    first = max(firsts, default=0)
    old = [card for card in cards if number(card) < first]
    if old:
        refusals.append(
            f"Branch {plan['branch']} of the driver does not know {names(old)}, which"
            f" {'is' if len(old) == 1 else 'are'} too old. Set nvidia_driver_version to a version"
            " of an earlier branch, or take the card out."
        )
    closed = [card for card in cards if number(card) < source["first_open"]]
    opened = [card for card in cards if number(card) >= source["only_open"]]
    if closed and opened:
        refusals.append(
            f"No module drives both {names(closed)}, which the open ones do not know, and"
            f" {names(opened)}, which need them. Take one kind out of this host."
        )
    elif closed and wanted == "true":
        refusals.append(
            f"The open kernel modules do not know {names(closed)}: they begin with Turing. Set"
            " nvidia_driver_open to auto."
        )
    elif opened and wanted == "false":
        refusals.append(
            f"{names(opened)} need the open kernel modules. Set nvidia_driver_open to auto."
        )
    return refusals


def names(cards: Sequence[Mapping[str, str]]) -> str:
    """Return cards in words, by address and PCI id."""
    return ", ".join(f"the card {card['address']} (10de:{card['device']})" for card in cards)


def change_refusals(host: Host, plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """Refuse a change that goes backwards, breaks another driver or takes a card from somebody."""
    version, there = plan["version"], max(found["installed"], found["running"], key=parts)
    if there == version:
        return []
    refusals = []
    if parts(there) > parts(version):
        refusals.append(
            f"Driver {there} is here, later than nvidia_driver_version ({version}), and a"
            " downgrade can leave a host without a driver. Set nvidia_driver_version to"
            f" {there}, or remove its packages first."
        )
    if found["runfile"]:
        refusals.append(
            "A driver of NVIDIA's own installer is here, which packages would break. Remove it by"
            " `nvidia-uninstall`, and run this again."
        )
    strangers = [process for process in host["nvidia"]["processes"] if not process["ours"]]
    if strangers:
        told = ", ".join(f"{each['process']} (pid {each['pid']})" for each in strangers)
        refusals.append(
            f"Another program uses a card: {told}. End it, or wait for it, and run this again."
        )
    if host["secure_boot"] and plan["modules"] == "dkms" and not found["enrolled"]:
        refusals.append(
            "Secure Boot is on, and the modules would be signed by a key that the firmware does not"
            " know. Run `apt install dkms mokutil`, `dkms generate_mok` and"
            " `mokutil --import /var/lib/dkms/mok.pub`, reboot, choose Enroll MOK on the console,"
            " and run this again; or switch Secure Boot off in the firmware."
        )
    return refusals


def exact_versions(madison: str, wanted: Sequence[Sequence[str]], version: str) -> dict[str, str]:
    """Find the packages of a driver's version in what apt knows.

    Args:
        madison: what `apt-cache madison` prints.
        wanted: packages, each a list of names of which one exists.
        version: the driver's version, without what an archive puts behind it.

    Returns:
        Each package's whole version by its name. Of a package that is missing, the first name with
        the versions there are instead, behind an exclamation mark.
    """
    known: dict[str, list[str]] = {}
    for line in madison.splitlines():
        name, _, rest = line.partition("|")
        known.setdefault(name.strip(), []).append(rest.partition("|")[0].strip())
    found = {}
    for alternatives in wanted:
        hits = [
            (name, full)
            for name in alternatives
            for full in known.get(name, [])
            if full.partition("-")[0] == version
        ]
        if hits:
            found[hits[0][0]] = hits[0][1]
        else:
            there = [full for name in alternatives for full in known.get(name, [])]
            found[alternatives[0]] = f"!{', '.join(dict.fromkeys(there)) or 'none'}"
    return found


def other_branches(packages: Mapping[str, str], branch: str) -> list[str]:
    """Return the installed packages that carry another branch in their names."""
    carried = {name: re.findall(r"-(\d{3})(?=[-.]|$)", name) for name in packages}
    return sorted(name for name, numbers in carried.items() if numbers and numbers[0] != branch)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "driver_plan": driver_plan,
            "driver_packages": driver_packages,
            "installed_driver": installed_driver,
            "driver_choice": driver_choice,
            "driver_refusals": driver_refusals,
            "exact_versions": exact_versions,
            "other_branches": other_branches,
        }
