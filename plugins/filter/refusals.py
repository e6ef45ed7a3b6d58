"""Checks that stop a run before the first change. A refusal names the problem, then the fix."""

from __future__ import annotations

import difflib
import posixpath
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Ansible loads filters by path, outside of any package.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins.inputs import rules

WORKSPACE_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def setting_refusals(
    given: Iterable[str],
    known: Sequence[str],
    required: Iterable[str],
    effective: Mapping[str, Any],
    renamed: Mapping[str, str],
) -> list[str]:
    """Refuse settings that there are not, and required ones that are not there.

    Args:
        given: the `infbox_*` names that are set for a host, and old names of other variables.
        known: those that a user may set.
        required: those of them that a host cannot do without.
        effective: what holds, by name without `infbox_`.
        renamed: old names to the names that replaced them.
    """
    refusals = []
    for name in sorted(set(given) - set(known)):
        if name in renamed:
            refusals.append(f"{name} is now named {renamed[name]}. Rename it in your inventory.")
            continue
        near = difflib.get_close_matches(name, known, n=1)
        fix = (
            f"Did you mean {near[0]}?"
            if near
            else f"Remove it; the settings are {', '.join(known)}."
        )
        refusals.append(f"{name} is not a setting. {fix}")
    for name in required:
        if effective.get(name.removeprefix("infbox_")) in (None, "", [], {}):
            refusals.append(f"{name} is not set. Set it for this host in your inventory.")
    return refusals


def gpu_refusals(
    given: Any,
    addresses: Sequence[str],
    seen: Mapping[str, Any],
    preset: str,
    presets: Mapping[str, Any],
    *,
    source: str = "silent",
) -> list[str]:
    """Refuse GPUs that nothing can be said about.

    Args:
        given: the GPUs given by hand, None for none.
        addresses: PCI addresses of the NVIDIA GPUs there are.
        seen: driver_version, gpus, split and problems, as the driver told.
        preset: the preset asked for.
        presets: all of them; one without GPUs needs none.
        source: who tells of the GPUs, as `host_gpus` has it, or "installed" for a driver that this
            run brought and that is silent; one that does not answer is refused only where nobody
            stands in for it.
    """
    if given is not None:
        right = isinstance(given, list) and all(
            isinstance(gpu, dict)
            and all(whole_number(gpu.get(key)) for key in ("memory_mib", "count"))
            for gpu in given
        )
        fix = "Write it as [{name: …, memory_mib: 81920, count: 4}]."
        return [] if right else [f"infbox_gpus is not a list of GPUs with memory and count. {fix}"]
    if presets.get(preset, {"gpus": 1}).get("gpus", 0) == 0:
        return []
    refusals = []
    problems = seen.get("problems", [])
    answers = seen["driver_version"] or seen["gpus"] or seen["split"] or problems
    if addresses and not answers and source == "silent":
        refusals.append(
            f"This host has {len(addresses)} NVIDIA GPU{'s' * (len(addresses) != 1)}"
            f" ({', '.join(addresses)}) and nvidia-smi does not respond. Install the NVIDIA driver"
            " with playbooks/driver.yml, and reboot if it says so; or describe the GPUs in"
            " infbox_gpus, or set infbox_preset to cpu."
        )
    if addresses and not answers and source == "installed":
        refusals.append(
            f"This host has {len(addresses)} NVIDIA GPU{'s' * (len(addresses) != 1)}"
            f" ({', '.join(addresses)}), the driver is installed, and nvidia-smi does not respond."
            " Reboot the host, or find the reason with `journalctl --dmesg --grep NVRM`; then run"
            " this again."
        )
    for problem in problems:
        refusals.append(
            f"The output of `nvidia-smi -q -x` cannot be read: {problem}. Run it on the host to"
            " find the reason, or describe the GPUs in infbox_gpus."
        )
    for name in seen["split"]:
        refusals.append(
            f"MIG is enabled on the GPU {name}. Disable it with `nvidia-smi -mig 0`, or describe"
            " the GPUs in infbox_gpus."
        )
    for gpu in seen["gpus"]:
        if not gpu["memory_mib"]:
            refusals.append(
                f"nvidia-smi does not report the memory of {gpu['name']}. Set infbox_gpus."
            )
    return refusals


def process_refusals(
    processes: Iterable[Mapping[str, Any]],
    told: Iterable[Mapping[str, Any]],
    preset: str,
    gpus: int,
) -> list[str]:
    """Refuse GPUs that somebody else's program uses: the engine takes their memory whole.

    Args:
        processes: who uses a GPU, as `infbox_host_info` found them.
        told: the GPUs as `nvidia_smi_details` has them, with the memory that each process holds.
        preset: the preset that the host gets.
        gpus: how many GPUs it uses.
    """
    if not gpus:
        return []
    memory_of: dict[int, int] = {}
    for gpu in told:
        for process in gpu["processes"]:
            memory_of[process["pid"]] = memory_of.get(process["pid"], 0) + process["memory_mib"]
    refusals = []
    for process in processes:
        if not process["ours"]:
            memory = memory_of.get(process["pid"], 0)
            does = f"holds {memory} MiB of" if memory else "uses"
            refusals.append(
                f"{holder_of(process)} {does} the GPUs that preset {preset} needs. End that"
                " process, or wait until it ends; or set infbox_preset to cpu."
            )
    return refusals


def whole_number(value: Any) -> bool:
    """Return whether a value is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def workspace_paths(workspaces: Any) -> list[str]:
    """Return the absolute paths among what the user wrote as workspaces."""
    if not isinstance(workspaces, list):
        return []
    paths = [str(item.get("path") or "") for item in workspaces if isinstance(item, dict)]
    return [path for path in paths if path.startswith("/")]


def workspace_refusals(
    workspaces: Any,
    paths: Mapping[str, Mapping[str, Any]],
    reader: Mapping[str, Any] | None = None,
) -> list[str]:
    """Refuse workspaces that cannot be watched.

    Args:
        workspaces: what the user wrote.
        paths: for each path whether it exists, is a directory, what it really is, its mode and
            group, and whether the reader may read it.
        reader: name of the user that must be able to read them, and the fix if it cannot.
    """
    if not isinstance(workspaces, list) or not all(isinstance(item, dict) for item in workspaces):
        return ["infbox_workspaces is not a list of {name, path}. Write it in this form."]
    refusals = []
    names: dict[str, str] = {}
    places: list[tuple[str, str]] = []
    for number, workspace in enumerate(workspaces, start=1):
        name, path = str(workspace.get("name") or ""), str(workspace.get("path") or "")
        if "git" in workspace:  # it has no path until it was fetched
            path = path or "its git remote"
        if not name or not path:
            lacking = "name" if not name else "path"
            refusals.append(f"Workspace {name or number} has no {lacking}. Give it one.")
            continue
        if not WORKSPACE_NAME.fullmatch(name):
            refusals.append(
                f"The workspace name {name} cannot be part of a model name. Use lower-case letters,"
                " digits and hyphens, a letter or digit first."
            )
        if name in names:
            refusals.append(
                f"Two workspaces are named {name}: {names[name]} and {path}. Rename one."
            )
        names.setdefault(name, path)
        if "git" not in workspace:
            refusals += path_refusals(name, path, paths, reader)
            if path.startswith("/"):
                places.append((name, paths[path]["real"]))
    return refusals + nested(places)


def path_refusals(
    name: str,
    path: str,
    paths: Mapping[str, Mapping[str, Any]],
    reader: Mapping[str, Any] | None,
) -> list[str]:
    """Refuse a path at which there is no tree that can be read; arguments as above."""
    if not path.startswith("/"):
        return [f"The path of workspace {name} is relative: {path}. Write the absolute path."]
    seen = paths[path]
    if not seen["exists"]:
        return [
            (
                f"The path of workspace {name} does not exist: {path}. Put the source tree"
                " there, or correct the path."
            )
        ]
    if not seen["is_dir"]:
        return [f"The path of workspace {name} is not a directory: {path}. Set it to a directory."]
    if reader and not seen["readable"]:
        return [
            (
                f"The user {reader['name']} may not read the workspace {name}: {path} has mode"
                f" {seen['mode']} and group {seen['group']}. {reader['hint']}."
            )
        ]
    return []


def nested(places: Sequence[tuple[str, str]]) -> list[str]:
    """Refuse workspaces that lie in another or are the same: each save would count twice."""
    refusals = []
    for index, (name, place) in enumerate(places):
        for other, outer in [*places[:index], *places[index + 1 :]]:
            if place != outer and posixpath.commonpath([place, outer]) == outer:
                refusals.append(
                    f"Workspace {name} ({place}) is inside workspace {other} ({outer})."
                    " Remove one of them."
                )
        for other, same in places[:index]:
            if place == same:
                refusals.append(
                    f"Workspaces {other} and {name} are the same directory: {place}. Remove one."
                )
    return refusals


def sign_in_refusals(oidc: Mapping[str, Any]) -> list[str]:
    """Refuse a sign-in that could let nobody in, or everybody.

    Args:
        oidc: the settings of infbox_oidc_*, by the rest of their names; empty for none.
    """
    if not oidc.get("issuer"):
        return [
            f"infbox_oidc_{name} is set, and infbox_oidc_issuer is not. Set that too, or remove it."
            for name in ("client_id", "client_secret", "groups")
            if oidc.get(name)
        ]
    refusals = []
    if not rules.is_safe_url(oidc["issuer"]):
        refusals.append(
            f"infbox_oidc_issuer is {oidc['issuer']}. Write it exactly as the provider states it,"
            " beginning with https://, without a question mark."
        )
    for name, what in (("client_id", "the id"), ("client_secret", "the secret")):
        if not isinstance(oidc[name], str) or not oidc[name].strip():
            refusals.append(
                f"infbox_oidc_{name} is not set. Set it to {what} of the client that you created"
                " for this host at the provider."
            )
    if not is_texts(oidc["groups"]):
        refusals.append(
            "infbox_oidc_groups names no group. List the groups whose members may sign in."
        )
    if not is_texts(oidc["scopes"]) or "openid" not in oidc["scopes"]:
        refusals.append(
            "infbox_oidc_scopes lacks openid. Add it, and the scopes that make the provider"
            " send the groups."
        )
    hours, minutes = oidc["session_hours"], oidc["idle_minutes"]
    if not whole_number(hours) or not whole_number(minutes) or minutes > hours * 60:
        refusals.append(
            f"infbox_oidc_session_hours is {hours} and infbox_oidc_idle_minutes is {minutes}. Set"
            " whole numbers, with idle minutes no longer than the session."
        )
    return refusals


def is_texts(values: Any) -> bool:
    """Return whether a value is a list of texts, and not empty."""
    return (
        isinstance(values, list)
        and len(values) > 0
        and all(isinstance(value, str) and value for value in values)
    )


def port_refusals(
    ports: Sequence[Mapping[str, Any]], listeners: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Refuse ports that somebody else holds, or that two of our own services want.

    Args:
        ports: port, address, purpose and optionally the setting that moves it, and freed_from:
            units that a later step moves off it.
        listeners: who listens on them now.
    """
    refusals = []
    purposes: dict[int, str] = {}
    for wanted in ports:
        port, purpose = int(wanted["port"]), str(wanted["purpose"])
        if port in purposes:
            refusals.append(
                f"Port {port} is used twice: for {purposes[port]} and for {purpose}."
                f" Change one of them{by_setting(wanted)}."
            )
        purposes.setdefault(port, purpose)
        holders = {
            holder_of(listener)
            for listener in listeners
            if listener["port"] == port
            and not listener["ours"]
            and listener["unit"] not in wanted.get("freed_from", ())
            and clashes(wanted, listener)
        }
        for holder in sorted(holders):
            refusals.append(f"Port {port} ({purpose}) is in use by {holder}. {port_fix(wanted)}.")
    return refusals


def port_fix(wanted: Mapping[str, Any]) -> str:
    """Return what to do about a port that another process uses."""
    return "Stop it" + (
        f", or change infbox's port{by_setting(wanted)}" if wanted.get("setting") else ""
    )


def by_setting(wanted: Mapping[str, Any]) -> str:
    """Return the setting that moves a port, as the end of a sentence; empty where there is none."""
    return f" with {wanted['setting']}" if wanted.get("setting") else ""


def holder_of(listener: Mapping[str, Any]) -> str:
    """Return who listens, in words."""
    if not listener["pid"]:
        return "a process that cannot be identified"
    unit = f", {listener['unit']}" if listener["unit"] else ""
    return f"{listener['process']} (pid {listener['pid']}{unit})"


def clashes(wanted: Mapping[str, Any], listener: Mapping[str, Any]) -> bool:
    """Return whether a listener keeps us from the address that we want."""
    address = str(wanted.get("address", ""))
    if listener["wildcard"] or address in ("", "*", "0.0.0.0", "::"):
        return True
    return bool(listener["loopback"]) == (address.startswith("127.") or address == "::1")


def model_refusals(path: str, model: Mapping[str, bool]) -> list[str]:
    """Refuse a model path that holds no model.

    Args:
        path: what the user wrote; empty for none.
        model: whether it is a directory, and has a configuration and weights.
    """
    if not path:
        return []
    fix = "Correct infbox_model_path, or remove it to download a model."
    if not path.startswith("/"):
        return [f"infbox_model_path is relative: {path}. Write the absolute path."]
    if not model["is_dir"]:
        return [f"infbox_model_path is not a directory on this host: {path}. {fix}"]
    lacking = [
        what
        for what, there in (("config.json", model["config"]), ("*.safetensors", model["weights"]))
        if not there
    ]
    if not lacking:
        return []
    return [f"infbox_model_path contains no model: {path} has no {' and no '.join(lacking)}. {fix}"]


def system_refusals(
    host: Mapping[str, Any],
    platforms: Mapping[str, Sequence[str]],
    architectures: Sequence[str],
) -> list[str]:
    """Refuse a system that nothing here is made for.

    Args:
        host: distribution, version, name, architecture and systemd.
        platforms: the versions that will do, by distribution.
        architectures: the architectures that will do.
    """
    refusals = []
    if host["version"] not in platforms.get(host["distribution"], []):
        good = ", ".join(
            f"{name.capitalize()} {one_of(versions)}" for name, versions in platforms.items()
        )
        refusals.append(
            f"This host runs {host['name'] or 'an unknown system'}. Use one with {good}."
        )
    if host["architecture"] not in architectures:
        refusals.append(
            f"This host's architecture is {host['architecture']}."
            f" Use one with {' or '.join(architectures)}."
        )
    if not host["systemd"]:
        refusals.append(
            "This host does not run systemd, which starts infbox's services."
            " Use a host or a virtual machine that boots with systemd."
        )
    return refusals


def one_of(words: Sequence[str]) -> str:
    """Return words as a choice: "12", "12 or 13", "22.04, 24.04 or 26.04"."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def user_refusals(users: Iterable[Mapping[str, Any]]) -> list[str]:
    """Refuse a host on which somebody else has our users' uid or name.

    Args:
        users: name, uid, owner (who has the uid, None for nobody), named (uid of that name).
    """
    refusals = []
    for user in users:
        if user["owner"] not in (None, user["name"]):
            refusals.append(
                f"The uid {user['uid']}, which infbox needs for its user {user['name']}, belongs to"
                f" the user {user['owner']}. Change the uid of {user['owner']}."
            )
        if user["named"] not in (None, user["uid"]):
            refusals.append(
                f"The user {user['name']} exists with uid {user['named']}, and infbox needs"
                f" {user['uid']} for it. Rename the user, or change its uid to {user['uid']}."
            )
    return refusals


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "setting_refusals": setting_refusals,
            "gpu_refusals": gpu_refusals,
            "workspace_paths": workspace_paths,
            "workspace_refusals": workspace_refusals,
            "sign_in_refusals": sign_in_refusals,
            "port_refusals": port_refusals,
            "process_refusals": process_refusals,
            "model_refusals": model_refusals,
            "system_refusals": system_refusals,
            "user_refusals": user_refusals,
        }
