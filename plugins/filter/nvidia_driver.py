"""Which packages bring a host's NVIDIA driver, and what speaks against installing them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Host = Mapping[str, Any]
Plan = Mapping[str, Any]
Kernel = Mapping[str, Any]

# What a driver's own packages are called, in every archive.
FAMILY = re.compile(
    r"(lib)?nvidia-(?!container)|libnv(cuvid|optix)|libcuda1$|cuda-drivers|linux-modules-nvidia-"
)
# The certificate of the key by which dkms signs the modules that it builds, and what makes that
# key: by default, on Ubuntu, and on Debian 12, whose dkms is older than `dkms generate_mok`.
# Source: dkms 2.8.7, `sign_build`; 3.0.10 to 3.2.2, `prepare_signing`; 3.1.0, `generate_mok`.
DKMS_KEY = ("/var/lib/dkms/mok.pub", "dkms generate_mok")
UBUNTU_KEY = ("/var/lib/shim-signed/mok/MOK.der", "update-secureboot-policy --new-key")
DEBIAN_12_KEY = (
    DKMS_KEY[0],
    (
        f"[ -e {DKMS_KEY[0]} ] || openssl req -x509 -newkey rsa:2048 -nodes -days 36500 -subj"
        f" /CN=dkms/ -keyout /var/lib/dkms/mok.key -outform DER -out {DKMS_KEY[0]}"
    ),
)
DRIVER_VERSION = re.compile(r"\d{3,}(\.\d+){1,2}")


def driver_plan(host: Host, sources: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a host's driver packages are called; which version is chosen once apt is asked.

    Args:
        host: what `infbox_host_info` saw.
        sources: the package maps, by the name of the source.
        asked: source, version (a branch, or exact), open and fabric_manager, as the role's
            variables have them.

    Returns:
        system, source, branch, asked (as it was asked for), exact (the version where it is exact,
        else ""), open, fabric_manager, directory and key of the repository, pin (how the names of
        pinning packages begin; "" for none), versioned (packages that take the driver's version,
        each a list of names of which one exists), optional, dkms (the package that builds the
        modules), prebuilt (how the names of prebuilt modules begin; "" for none), kernel_common
        (by which these tell their driver's version) and family (globs for apt's preferences).
    """
    release_name = host["version"] if host["distribution"] == "ubuntu" else major(host["version"])
    system = f"{host['distribution']}-{release_name}"
    source = asked["source"]
    if source == "auto":
        source = next((name for name, found in sources.items() if system in found["systems"]), "")
    found = sources.get(source, {})
    release = found.get("systems", {}).get(system, {})
    version = str(asked["version"])
    gpus, branch = host["nvidia"]["gpus"], major(version)
    opened = asked["open"] == "true"
    if asked["open"] == "auto":
        opened = all(number(gpu) >= found.get("first_open", 0) for gpu in gpus)
    fabric = asked["fabric_manager"] == "true"
    if asked["fabric_manager"] == "auto":
        fabric = bool(host["nvidia"]["switches"])
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(host["architecture"], "")
    directory = found.get("architectures", {}).get(architecture, "")
    words = {"branch": branch, "open": "-open" if opened else ""}

    def fill(name: str) -> str:
        return name.format(**words)

    versioned = [[name] for name in found.get("packages", [])]
    if fabric:
        versioned = [*versioned, found.get("fabric_manager", [])]
    return {
        "system": system,
        "source": source,
        "branch": branch,
        "asked": version,
        "exact": version if "." in version else "",
        "open": opened,
        "fabric_manager": fabric,
        "directory": f"{release.get('directory', '')}/{directory}",
        "key": release.get("key", ""),
        "pin": found.get("pin", ""),
        "versioned": [[fill(name) for name in names] for names in versioned],
        "optional": [fill(name) for name in found.get("optional", [])],
        "dkms": fill(found.get("dkms", "")),
        "prebuilt": fill(found.get("prebuilt", "")),
        "kernel_common": fill(found.get("kernel_common", "")),
        "family": fill(found.get("family", "")),
    }


def kernel_metas(listing: str, kernel: str) -> list[dict[str, str]]:
    """Return the installed meta packages that bring a host's kernel, the best one first.

    The kernel's own name does not tell which one it is: generic, generic-hwe-24.04 and virtual all
    bring kernels that end in -generic. A meta package that has been upgraded since the boot already
    points to the next kernel: then the one of the same version, or else of the same kind, counts.

    Args:
        listing: lines of status, name and dependencies of the packages `linux-image-*`.
        kernel: the running one, as `uname -r` prints it.

    Returns:
        image (the package), suffix (its name without `linux-image-`) and kernel (what it brings).
    """
    found = []
    for line in listing.splitlines():
        status, _, rest = line.partition(" ")
        image, _, depends = rest.partition(" ")
        suffix = image.removeprefix("linux-image-")
        if status != "installed" or re.match(r"(unsigned-)?\d", suffix):
            continue
        brought = re.findall(r"\blinux-image-(?:unsigned-)?(\d[^\s,|(:]*)", depends)
        found += [{"image": image, "suffix": suffix, "kernel": name} for name in brought[:1]]

    def distance(meta: Mapping[str, str]) -> tuple[bool, bool, bool, str]:
        other = meta["kernel"]
        same_version = other.partition("-")[0] == kernel.partition("-")[0]
        return (other != kernel, not same_version, "virtual" in meta["suffix"], meta["suffix"])

    return sorted((meta for meta in found if kind(meta["kernel"]) == kind(kernel)), key=distance)


def kind(kernel: str) -> str:
    """Return a kernel's kind: generic, aws, cloud-amd64."""
    return re.sub(r"^\d+-", "", kernel.partition("-")[2])


def driver_queries(plan: Plan, kernel: Kernel) -> dict[str, list[str]]:
    """Return which packages apt is asked about: `madison` for versions, `show` for dependencies."""
    metas = kernel["metas"]
    prebuilt = []
    if plan["prebuilt"]:
        prebuilt = [f"{plan['prebuilt']}-{name}" for name in kernels(kernel)]
        prebuilt += [f"{plan['prebuilt']}-{name}" for meta in metas for name in suffixes(meta)]
    headers = [f"linux-headers-{name}" for name in kernels(kernel)]
    headers += [name for meta in metas for name in (headers_of(meta), meta["image"])]
    names = [name for each in plan["versioned"] for name in each]
    names += [*plan["optional"], plan["dkms"], *headers, *prebuilt]
    return {"madison": list(dict.fromkeys(names)), "show": list(dict.fromkeys(prebuilt))}


def kernels(kernel: Kernel) -> list[str]:
    """Return the kernels that a host may boot: the running one, and its meta package's."""
    return list(
        dict.fromkeys([kernel["running"], *(meta["kernel"] for meta in kernel["metas"][:1])])
    )


def suffixes(meta: Mapping[str, str]) -> list[str]:
    """Return what meta packages of prebuilt modules that fit a kernel's may end in."""
    return list(dict.fromkeys([meta["suffix"], meta["suffix"].replace("virtual", "generic")]))


def headers_of(meta: Mapping[str, str]) -> str:
    """Return the meta package of the headers that belongs to a kernel's."""
    return f"linux-headers-{meta['suffix']}"


def choose_driver(
    plan: Plan,
    host: Host,
    kernel: Kernel,
    packages: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """Choose a driver's version and its kernel modules from what apt has.

    Modules that the archive has built for the running kernel come first: they need no compiler, and
    are signed. Without them the host builds its own. Where neither can be for the running kernel,
    the kernel's meta package brings the next one, and a reboot.

    Args:
        plan: what `driver_plan` said.
        host: what `infbox_host_info` saw.
        kernel: running (as `uname -r` prints it) and metas (see `kernel_metas`).
        packages: installed (versions of all), and what `apt-cache madison`, `apt-cache show` and,
            as pins, `apt-cache search` print.
        asked: min_version ("" for any), upgrade (whether the newest version is wanted though one of
            the branch is installed), enrolled (whether the firmware trusts this host's key) and
            disk_gb (space that building modules needs).

    Returns:
        version, modules ("prebuilt" or "dkms"), next_kernel (whether only a reboot brings them),
        pin, versioned (whole versions by package), others (packages of any version) and refusal (""
        where a choice was made).
    """
    known = archive_versions(packages["madison"])
    offers = [
        {
            full.partition("-")[0]: (name, full)
            for name in reversed(alternatives)
            for full in reversed(known.get(name, []))
        }
        for alternatives in plan["versioned"]
    ]
    modules = Modules(plan, kernel, known, packages)
    there = installed_driver(driver_packages(packages["installed"]))
    pins = {line.partition(" ")[0] for line in packages["pins"].splitlines()}
    candidates = [
        version
        for version in set.intersection(*(set(offer) for offer in offers))
        if version == (plan["exact"] or version)
        and major(version) == plan["branch"]
        and parts(version) >= max(parts(asked["min_version"]), parts(there))
        and (not plan["pin"] or plan["pin"] + version in pins)
    ]
    candidates.sort(key=parts, reverse=True)
    if there in candidates and not asked["upgrade"]:
        candidates.sort(key=lambda version: version != there)
    signed_only = host["secure_boot"] and not asked["enrolled"]
    # An upgrade reboots in any case.
    later = ("dkms", "next_prebuilt")
    ways = [
        (way, version)
        for way in ("prebuilt", *(reversed(later) if asked["upgrade"] else later), "next_dkms")
        if not (signed_only and way.endswith("dkms"))
        for version in candidates
        if getattr(modules, way)(version) is not None
    ]
    nothing: dict[str, Any] = {
        "version": "",
        "modules": "",
        "next_kernel": False,
        "pin": "",
        "versioned": {},
        "others": [],
        "refusal": "",
    }
    if not candidates:
        return nothing | {"refusal": no_version(plan, offers, asked["min_version"], there)}
    if not ways:
        hint = enrol_hint(host) if signed_only else ""
        return nothing | {"refusal": no_modules(candidates[0], kernel["running"], hint)}
    way, version = ways[0]
    versioned, others = getattr(modules, way)(version)
    built = "dkms" if way.endswith("dkms") else "prebuilt"
    free = host["free_bytes"] / 1e9
    if built == "dkms" and free < asked["disk_gb"] and there != version:
        return nothing | {
            "refusal": f"Building the driver's modules needs {asked['disk_gb']:g} GB in"
            f" /var/lib/dkms, where {free:.1f} GB are free. Free some."
        }
    optional = {
        name: full
        for name in plan["optional"]
        for full in reversed(known.get(name, []))
        if full.partition("-")[0] == version
    }
    return {
        "version": version,
        "modules": built,
        "next_kernel": way.startswith("next"),
        "pin": f"{plan['pin']}{version}" if plan["pin"] else "",
        "versioned": dict(offer[version] for offer in offers) | optional | versioned,
        "others": others,
        "refusal": "",
    }


class Modules:
    """Which packages bring a driver's kernel modules, for each way that there is.

    Each method takes the driver's version and returns whole versions by package and packages of any
    version, or None where there is no such way.
    """

    def __init__(
        self,
        plan: Plan,
        kernel: Kernel,
        known: Mapping[str, list[str]],
        packages: Mapping[str, Any],
    ) -> None:
        """Keep what apt and dpkg know of them."""
        self.plan, self.kernel, self.known = plan, kernel, known
        self.installed = packages["installed"]
        self.built: dict[str, dict[str, str]] = {}
        if plan["prebuilt"]:
            self.built = prebuilt_versions(packages["show"], plan["kernel_common"])

    def there(self, name: str) -> bool:
        """Return whether a package is installed or can be."""
        return name in self.known or name in self.installed

    def prebuilt(self, version: str) -> tuple[dict[str, str], list[str]] | None:
        """Take those that the archive has for each kernel that the host may boot."""
        found = {}
        for name in (f"{self.plan['prebuilt']}-{kernel}" for kernel in kernels(self.kernel)):
            if version not in self.built.get(name, {}):
                return None
            found[name] = self.built[name][version]
        following, image = self.following(version)
        return found | following, image

    def following(self, version: str) -> tuple[dict[str, str], list[str]]:
        """Take the meta package that follows the kernel's, in the same version of the driver."""
        for meta in self.kernel["metas"]:
            for name in (f"{self.plan['prebuilt']}-{suffix}" for suffix in suffixes(meta)):
                if version in self.built.get(name, {}):
                    return {name: self.built[name][version]}, [meta["image"]]
        return {}, []

    def dkms(self, version: str) -> tuple[dict[str, str], list[str]] | None:
        """Build them, with headers of exactly the running kernel and of those to come."""
        package = self.dkms_package(version)
        headers = f"linux-headers-{self.kernel['running']}"
        if not package or not self.there(headers):
            return None
        following = [name for name in map(headers_of, self.kernel["metas"][:1]) if self.there(name)]
        return package, ["dkms", headers, *following]

    def next_prebuilt(self, version: str) -> tuple[dict[str, str], list[str]] | None:
        """Take those of the kernel's meta package, and its kernel."""
        following, image = self.following(version)
        return (following, image) if following else None

    def next_dkms(self, version: str) -> tuple[dict[str, str], list[str]] | None:
        """Build them for the kernel that the meta package brings, since this one has no headers."""
        package = self.dkms_package(version)
        for meta in self.kernel["metas"][:1]:
            if package and meta["image"] in self.known and headers_of(meta) in self.known:
                return package, ["dkms", meta["image"], headers_of(meta)]
        return None

    def dkms_package(self, version: str) -> dict[str, str]:
        """Return the package that builds them in a version of the driver, empty for none."""
        name = self.plan["dkms"]
        found = [full for full in self.known.get(name, []) if full.partition("-")[0] == version]
        return {name: found[0]} if found else {}


def archive_versions(madison: str) -> dict[str, list[str]]:
    """Return the versions of packages that apt can install, as `apt-cache madison` prints them."""
    known: dict[str, list[str]] = {}
    for line in madison.splitlines():
        name, _, rest = line.partition("|")
        known.setdefault(name.strip(), []).append(rest.partition("|")[0].strip())
    return known


def prebuilt_versions(show: str, common: str) -> dict[str, dict[str, str]]:
    """Return for packages of prebuilt modules the whole version by that of their driver.

    Args:
        show: what `apt-cache show` prints of them.
        common: the package on which they depend in the driver's version.
    """
    found: dict[str, dict[str, str]] = {}
    for stanza in re.split(r"\n\s*\n", show):
        fields = dict(re.findall(r"(?m)^(Package|Version|Depends): (.*)$", stanza))
        driver = re.search(rf"{re.escape(common)} \(>= ([\d.]+)", fields.get("Depends", ""))
        if driver and "Package" in fields and "Version" in fields:
            found.setdefault(fields["Package"], {}).setdefault(driver[1], fields["Version"])
    return found


def no_version(
    plan: Plan, offers: Sequence[Mapping[str, tuple[str, str]]], minimum: str, there: str
) -> str:
    """Say that apt has no version of the driver that all packages have."""
    wanted = (
        f"no version {plan['exact']}" if plan["exact"] else f"no version of branch {plan['branch']}"
    )
    if parts(minimum) > parts(plan["exact"]):
        wanted += f" from {minimum} on"
    elif not plan["exact"] and there:
        wanted += f" from {there} on, which is installed,"
    told = []
    for names, offer in zip(plan["versioned"], offers, strict=True):
        versions = sorted(offer, key=parts, reverse=True)
        told.append(f"{names[0]} (there is: {', '.join(versions) or 'none'})")
    if plan["pin"]:
        told.append(f"{plan['pin']}VERSION")
    return (
        f"apt knows {wanted} of all of {', '.join(told)}. Set nvidia_driver_version to a version or"
        " a branch that all have; on Ubuntu the components restricted and multiverse must be on."
    )


def no_modules(version: str, kernel: str, hint: str) -> str:
    """Say that there are no modules for the kernel.

    Args:
        version: of the driver.
        kernel: the running one.
        hint: how to enrol the host's key where only signed modules will do; "" elsewhere.
    """
    if hint:
        return (
            f"Secure Boot is on, and the archive has no signed modules of driver {version} for"
            f" kernel {kernel}. {hint}"
        )
    return (
        f"The archive has neither modules of driver {version} for kernel {kernel} nor"
        f" linux-headers-{kernel} to build them with. Install a kernel of the distribution, reboot,"
        " and run this again."
    )


def complete_driver(plan: Plan, installed: Mapping[str, str], kernel: str, minimum: str) -> str:
    """Return the version of a driver that is installed with all that was asked for, or nothing.

    The archive is not asked: it may no longer have what is installed here.

    Args:
        plan: what `driver_plan` said.
        installed: versions of all installed packages.
        kernel: the running one.
        minimum: the least version that will do; "" for any.
    """
    if not plan["versioned"]:
        return ""
    names = [next((name for name in each if name in installed), "") for each in plan["versioned"]]
    versions = {installed.get(name, "").partition("-")[0] for name in names}
    version = versions.pop()
    has_modules = f"{plan['prebuilt']}-{kernel}" in installed or (
        installed.get(plan["dkms"], "").partition("-")[0] == version
        and f"linux-headers-{kernel}" in installed
    )
    is_asked_for = plan["exact"] == version or (
        not plan["exact"] and major(version) == plan["branch"]
    )
    is_pinned = not plan["pin"] or plan["pin"] + version in installed
    is_complete = not versions and has_modules and is_asked_for and is_pinned
    is_enough = parts(version) >= parts(minimum)
    others = other_branches(driver_packages(installed), plan["branch"])
    return version if is_complete and is_enough and not others else ""


def signing_key(host: Host) -> str:
    """Return the certificate that the firmware must know to load modules that the host builds."""
    return key_of(host)[0]


def key_of(host: Host) -> tuple[str, str]:
    """Return that certificate, and the command that makes it and its key."""
    if host["distribution"] == "ubuntu":
        return UBUNTU_KEY
    return DEBIAN_12_KEY if major(host["version"]) == "12" else DKMS_KEY


def enrol_hint(host: Host) -> str:
    """Return how to have the firmware trust what the host builds."""
    certificate, make = key_of(host)
    return (
        f"Run `apt install dkms mokutil`, `{make}` and `mokutil --import {certificate}`, reboot,"
        " choose Enroll MOK on the console, and run this again; or switch Secure Boot off in the"
        " firmware."
    )


def major(version: str) -> str:
    """Return what stands before a version's first dot."""
    return version.partition(".")[0]


def number(gpu: Mapping[str, str]) -> int:
    """Return a GPU's PCI device id, by which architectures follow each other."""
    return int(gpu["device"] or "0", 16)


def driver_packages(installed: Mapping[str, str]) -> dict[str, str]:
    """Return those of the installed packages that are the driver's."""
    return {name: version for name, version in installed.items() if FAMILY.match(name)}


def installed_driver(packages: Mapping[str, str]) -> str:
    """Return the version of the driver that packages brought, the latest of them, or nothing."""
    versions = [found[0] for text in packages.values() if (found := DRIVER_VERSION.match(text))]
    return max(versions, key=parts, default="")


def parts(version: str) -> tuple[int, ...]:
    """Return a version as something that compares: 580.95 comes before 580.126."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def driver_choice(running: str, managed: bool, minimum: str) -> str:
    """Say whether a driver that works is left alone.

    Args:
        running: version of the driver that answers; "" for none.
        managed: whether this role installed a driver here before.
        minimum: the least version that will do; "" for any.

    Returns:
        "leave" or "install".
    """
    enough = bool(running) and parts(running) >= parts(minimum)
    return "leave" if enough and not managed else "install"


def driver_refusals(
    host: Host, plan: Plan, sources: Mapping[str, Any], found: Mapping[str, Any]
) -> list[str]:
    """Say what speaks against installing the driver of a plan, each with its fix.

    Args:
        host: what `infbox_host_info` saw.
        plan: what `driver_plan` said.
        sources: the package maps.
        found: running and installed (versions, "" for none), kept (the version that is complete and
            stays, "" for none), runfile (whether a driver came from NVIDIA's installer), enrolled
            (whether the firmware trusts this host's key) and open (the variable).
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
    if not re.fullmatch(r"\d{3}(\.\d+){0,2}", plan["asked"]):
        refusals.append(
            f"nvidia_driver_version is {plan['asked']}, which is neither a branch nor a version."
            " Write it as 580, or as 580.178.04."
        )
        return refusals
    if int(plan["branch"]) not in branches:
        refusals.append(
            f"There is no branch {plan['branch']} of the driver for {plan['system']} known here;"
            f" there are {', '.join(map(str, branches))}. Set nvidia_driver_version to one of"
            " these, or to a version of it."
        )
    if host["architecture"] not in {"x86_64", "aarch64"}:
        refusals.append(
            f"There are no driver packages for {host['architecture']}. Use a host of x86_64 or"
            " aarch64."
        )
    refusals += unsupported_gpus(host["nvidia"]["gpus"], plan, source, found["open"])
    refusals += change_refusals(host, plan, found)
    return refusals


def unsupported_gpus(
    gpus: Iterable[Mapping[str, str]], plan: Plan, source: Mapping[str, Any], wanted: str
) -> list[str]:
    """Refuse GPUs that the branch or the kind of module does not know."""
    refusals = []
    firsts = [
        int(device)
        for branch, device in source["first_gpu"].items()
        if int(plan["branch"]) >= int(branch)
    ]
    first = max(firsts, default=0)
    old = [gpu for gpu in gpus if number(gpu) < first]
    if old:
        refusals.append(
            f"Branch {plan['branch']} of the driver does not know {names(old)}, which"
            f" {'is' if len(old) == 1 else 'are'} too old. Set nvidia_driver_version to a version"
            " of an earlier branch, or take the GPU out."
        )
    closed = [gpu for gpu in gpus if number(gpu) < source["first_open"]]
    opened = [gpu for gpu in gpus if number(gpu) >= source["only_open"]]
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


def names(gpus: Sequence[Mapping[str, str]]) -> str:
    """Return GPUs in words, by address and PCI id."""
    return ", ".join(f"the GPU {gpu['address']} (10de:{gpu['device']})" for gpu in gpus)


def change_refusals(host: Host, plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """Refuse a change that goes backwards, breaks another driver or takes a GPU from somebody."""
    asked, there = plan["asked"], max(found["installed"], found["running"], key=parts)
    stays = there == asked if plan["exact"] else major(there) == plan["branch"]
    refusals: list[str] = []
    if found["kept"]:
        return refusals
    if not stays and parts(there) > parts(asked):
        refusals.append(
            f"Driver {there} is here, later than nvidia_driver_version ({asked}), and a"
            " downgrade can leave a host without a driver. Set nvidia_driver_version to"
            f" {there if plan['exact'] else major(there)}, or remove its packages first."
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
            f"Another program uses a GPU: {told}. End it, or wait for it, and run this again."
        )
    if host["secure_boot"] and not plan["prebuilt"] and not found["enrolled"]:
        refusals.append(
            "Secure Boot is on, and the modules would be signed by a key that the firmware does not"
            f" know. {enrol_hint(host)}"
        )
    return refusals


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
            "kernel_metas": kernel_metas,
            "driver_queries": driver_queries,
            "choose_driver": choose_driver,
            "complete_driver": complete_driver,
            "driver_packages": driver_packages,
            "installed_driver": installed_driver,
            "driver_choice": driver_choice,
            "driver_refusals": driver_refusals,
            "other_branches": other_branches,
            "signing_key": signing_key,
        }
