"""Which preset a host gets, and whether it fits."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Ansible loads filters by path, outside of any package.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins.planner.lowering import in_force, lowered_note, lowered_presets, lowering
from plugins.planner.presets import forms, merged, not_planned, plan_preset, smaller_caches

AUTO = "auto"

Preset = Mapping[str, Any]
Gpus = Sequence[Mapping[str, Any]]


def choose_preset(
    presets: Mapping[str, Preset],
    wanted: str,
    gpus: Gpus,
    host: Mapping[str, Any] | None,
    *,
    group: Mapping[str, Any] | None = None,
    lowered: Mapping[str, Any] | None = None,
    lowered_file: str = "",
) -> dict[str, Any]:
    """Choose the preset of a host and say whether it fits the host.

    `auto` takes the one of the highest rank that fits the GPUs and the host's memory and disk, with
    smaller caches where that is enough. A preset that does not fit is tried in each of its
    `smaller` forms. The driver does not change the choice, since it can be installed.

    Args:
        presets: name to preset; of each `rank`, `model`, `engine`, `lmcache`, `gpus`,
            `gpu_memory_mib`, `host_memory_gb`, `disk_gb` and `min_driver_version` are read. One
            without `model.config` is judged by its count of GPUs alone.
        wanted: a name, or `auto`.
        gpus: name, memory_mib and count of the GPUs.
        host: memory_bytes, free_bytes, used_bytes, driver_version ("" where not known) and
            coming_driver (installed later where that is too old, "" for none); None
            if not known.
        group: the hosts that hold one model together with this one: name, hosts (all names) and
            gbit, of the network between them, 0 if not known; None for a host of its own.
        lowered: record of an earlier run whose engine had too little memory; it counts only if it
            is for this preset, its model, engine and versions, and these GPUs. None for none.
        lowered_file: where the host keeps it.

    Returns:
        name ("" where there is none to choose), plan as `plan_preset` has it ({} without a name),
        refusals: why it cannot be, each with its fix; notes: what a person should know although
        the run goes on; changes: what of the preset holds otherwise on this host; and lowered: a
        note that the plan was lowered, empty where it was not.
    """
    record = {} if gpus_mistake(gpus) else in_force(lowered, presets, gpus)
    chosen = choose(lowered_presets(presets, record), wanted, gpus, host, group or {})
    if not record or record["preset"] != chosen["name"]:
        return {**chosen, "lowered": ""}
    name = chosen["name"]
    engine = lowered_presets(presets, record)[name]["engine"]
    caps = {"engine": {what: engine[what] for what in record["engine"]}}
    note = lowered_note(record, chosen["plan"], lowered_file)
    return {
        **chosen,
        "changes": merged(caps, chosen["changes"]),
        "notes": [*chosen["notes"], note],
        "lowered": note,
    }


def choose(
    presets: Mapping[str, Preset],
    wanted: str,
    gpus: Gpus,
    host: Mapping[str, Any] | None,
    group: Mapping[str, Any],
) -> dict[str, Any]:
    """Choose the preset of a host, as `choose_preset` does, without a lowered plan."""
    mistake = gpus_mistake(gpus)
    if mistake:
        return choice("", {}, [mistake])
    tried = {name: try_forms(name, preset, gpus, group) for name, preset in presets.items()}
    plans = {name: plan for name, (plan, _) in tried.items()}
    changed = {name: merged(presets[name], changes) for name, (_, changes) in tried.items()}
    if wanted == AUTO:
        return choose_best(presets, changed, tried, gpus, host)
    if wanted not in presets:
        return choice("", {}, [unknown(presets, wanted)])
    plan, changes = tried[wanted]
    refusals = host_refusals(wanted, changed[wanted], host)
    if not plan["fits"]:
        refusals = [misfit(wanted, presets, plans, gpus), *refusals]
    notes = [*form_notes(wanted, changes), *idle_gpus(wanted, plan, gpus), *plan["notes"],
             *open_notes(wanted, changed[wanted])]  # fmt: skip
    return choice(wanted, plan, refusals, notes, changes)


Tried = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]


def try_forms(
    name: str, preset: Preset, gpus: Gpus, group: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the plan of the first form of a preset that fits, and its changes.

    Where none fits it is the plan of the smallest, whose refusal names the nearest change.
    """
    judged = [
        (judge(name, merged(preset, changes), gpus, group), changes) for changes in forms(preset)
    ]
    return next((found for found in judged if found[0]["fits"]), (judged[-1][0], {}))


def choose_best(
    presets: Mapping[str, Preset],
    changed: Mapping[str, Preset],
    tried: Tried,
    gpus: Gpus,
    host: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Choose by rank, without presets for which the host has too little memory or disk.

    Args:
        presets: as they are.
        changed: each in the form that is tried.
        tried: their plans and changes.
        gpus: as in `choose_preset`.
        host: as in `choose_preset`.
    """
    plans = {name: plan for name, (plan, _) in tried.items()}
    ranked = by_rank(presets, plans)
    if not ranked:
        return choice("", {}, [nothing_fits(presets, gpus)])
    # GPUs that can serve are not left idle for want of memory: that is refused.
    if presets[ranked[0]].get("gpus", 0):
        ranked = [name for name in ranked if presets[name].get("gpus", 0)]
    passed: list[str] = []
    for name in ranked:
        plan, form = tried[name]
        for caches in ({}, *smaller_caches(changed[name])):
            preset = merged(changed[name], caches)
            short = space_refusals(name, preset, host)
            if not short:
                notes = [*passed, *form_notes(name, form), *cache_notes(name, caches, host),
                         *idle_gpus(name, plan, gpus), *gpus_unused(presets, plans, name, gpus),
                         *plan["notes"], *open_notes(name, preset)]  # fmt: skip
                refusals = host_refusals(name, preset, host)
                return choice(name, plan, refusals, notes, merged(form, caches))
        passed.append(f"{' '.join(space_refusals(name, changed[name], host))} It is passed over.")
    # Nothing has the memory and disk that it needs: the best is refused by name.
    name = ranked[0]
    plan, form = tried[name]
    return choice(name, plan, host_refusals(name, changed[name], host), plan["notes"], form)


def form_notes(name: str, changes: Mapping[str, Any]) -> list[str]:
    """Return a note where a preset takes a smaller form."""
    if not changes:
        return []
    words = changes.get("description") or "with fewer requests and a shorter window"
    return [f"Preset {name} fits these GPUs in a smaller form: {words}."]


def cache_notes(name: str, changes: Mapping[str, Any], host: Mapping[str, Any] | None) -> list[str]:
    """Return a note where LMCache gets less than the preset says."""
    if not changes or host is None:
        return []
    sizes = changes["lmcache"]
    note = (
        f"This host has {host['memory_bytes'] / 1e9:.0f} GB of memory and"
        f" {(host['free_bytes'] + host['used_bytes']) / 1e9:.0f} GB of disk: preset {name} keeps"
        f" {sizes['l1_size_gb']} GB of KV in memory and {sizes['l2_size_gb']} GB on disk instead."
    )
    return [note]


def idle_gpus(name: str, plan: Mapping[str, Any], gpus: Gpus) -> list[str]:
    """Return a note that names the GPUs that a preset with GPUs leaves idle."""
    idle = idle_words(plan, gpus) if plan.get("gpus") else []
    if not idle:
        return []
    note = (
        f"Preset {name} uses {plan['gpus']} x {plan['gpu_name']}. Idle: {' and '.join(idle)}, which"
        " cannot share this model's layers with them."
    )
    return [note]


def idle_words(plan: Mapping[str, Any], gpus: Gpus) -> list[str]:
    """Return the GPUs that a plan leaves idle, in words."""
    used, kind = int(plan.get("gpus", 0)), plan.get("gpu_name", "")
    left = [
        (int(gpu["count"]) - (used if gpu.get("name", "unnamed GPU") == kind else 0), gpu)
        for gpu in gpus
    ]
    return [
        f"{count} x {gpu.get('name', 'unnamed GPU')} of {gpu['memory_mib']} MiB"
        for count, gpu in left
        if count > 0
    ]


def preset_refusals(
    presets: Mapping[str, Preset],
    wanted: str,
    host: Mapping[str, Any],
    *,
    group: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return why a preset that was named cannot be used, whatever GPUs the host has.

    Arguments as for `choose_preset`; nothing for `auto`, and for a preset that there is not.
    """
    if wanted not in presets:
        return []
    preset = presets[wanted]
    grouped = group_refusal(preset, group or {})
    return [
        *([f"Preset {wanted} does not fit: {grouped}"] if grouped else []),
        *host_refusals(wanted, preset, host),
    ]


def gpus_mistake(gpus: Any) -> str:
    """Return what is wrong with a list of GPUs; empty if nothing. Memory of 0 is not known."""
    right = isinstance(gpus, Sequence) and all(
        isinstance(gpu, Mapping) and told(gpu.get("memory_mib")) and told(gpu.get("count"))
        for gpu in gpus
    )
    if right:
        return ""
    fix = "Write it as [{name: …, memory_mib: 81920, count: 4}]."
    return f"infbox_gpus is not a list of GPUs with memory and count. {fix}"


def told(number: Any) -> bool:
    """Return whether a number is a whole one, or 0."""
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def choice(
    name: str,
    plan: Mapping[str, Any],
    refusals: Sequence[str],
    notes: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what was chosen."""
    return {
        "name": name,
        "plan": dict(plan),
        "refusals": list(refusals),
        "notes": list(notes),
        "changes": dict(changes or {}),
    }


def judge(
    name: str, preset: Preset, gpus: Gpus, group: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return whether a preset fits the GPUs: by its plan, or by their count where it has none."""
    refusal = group_refusal(preset, group or {})
    if refusal:
        weights = preset.get("model", {}).get("weights_bytes", 0)
        return {**not_planned(name, refusal), "weights_bytes": weights}
    if "config" in preset.get("model", {}):
        return plan_preset(name, preset, gpus, gbit=(group or {}).get("gbit", 0))
    fits = gpus_fit(preset, gpus)
    words = f"Preset {name} needs {needs(preset)}, this host has {has(gpus)}."
    engine = preset.get("engine", {})
    said = {
        "max_model_len": engine.get("max_model_len", 0),
        "tensor_parallel_size": engine.get("tensor_parallel_size", 1),
    }
    return {**not_planned(name, words), **said, "fits": fits}


def nodes_of(preset: Preset) -> int:
    """Return how many hosts a preset is for; its plan refuses a value that is no number."""
    nodes = preset.get("engine", {}).get("nodes", 1)
    return nodes if isinstance(nodes, int) else 1


def group_refusal(preset: Preset, group: Mapping[str, Any]) -> str:
    """Return why a preset is not for so many hosts; empty where it is."""
    nodes, hosts = nodes_of(preset), list(group.get("hosts", []))
    if nodes < 1 or nodes == max(len(hosts), 1):
        return ""
    wanted = f"it is for {nodes} host{'s' * (nodes > 1)}"
    if len(hosts) > 1:
        fix = "Name another, or change the group or engine.nodes"
        return f"{wanted}, and the model group {group['name']} has {', '.join(hosts)}. {fix}."
    alone = f"alone in the model group {group['name']}" if hosts else "in no model group"
    return f"{wanted}, and this one is {alone}. Give {nodes} hosts the same infbox_model_group."


def misfit(
    name: str, presets: Mapping[str, Preset], plans: Mapping[str, Mapping[str, Any]], gpus: Gpus
) -> str:
    """Return the refusal of a preset that does not fit, with the arithmetic and the fix."""
    fitting = [name for name, plan in plans.items() if plan["fits"]]
    fix = f"Set infbox_preset to one that fits ({', '.join(fitting)})" if fitting else ""
    preset = presets[name]
    if "config" in preset.get("model", {}) or nodes_of(preset) > 1:
        why = " ".join(plans[name]["reasons"])
    else:
        why = f"it needs {needs(preset)}, this host has {has(gpus)}."
    return f"Preset {name} does not fit: {why} {fix or 'Use another host'}."


def by_rank(presets: Mapping[str, Preset], plans: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the presets that fit the GPUs, the highest rank first."""
    fitting = [name for name in presets if plans[name]["fits"]]
    # Of equals the order of the table decides.
    return sorted(fitting, key=lambda name: -rank(presets[name]))


def rank(preset: Preset) -> int:
    """Return the rank of a preset: its own, or else the GPU memory that it needs."""
    return int(preset.get("rank", gpu_memory(preset)))


def unpinned(preset: Preset) -> bool:
    """Return whether a preset names no commit of its model."""
    return "revision" in preset.get("model", {}) and not preset["model"]["revision"]


def open_notes(name: str, preset: Preset) -> list[str]:
    """Return notes if a model writes no tool calls, or if its commit is not known."""
    notes = []
    if preset.get("engine", {}).get("device") != "cpu" and lacks_tools(preset):
        notes.append(
            f"Preset {name} has no tool calls: {preset['model']['repository']} writes them in a"
            " form that vLLM does not read, so agents get text. docs/presets.md has presets with."
        )
    if unpinned(preset):
        model = preset["model"]["repository"]
        first = "the first run requests the latest one from the hub, and the host keeps that"
        notes.append(f"Preset {name} names no commit of {model}: {first}.")
    return notes


def lacks_tools(preset: Preset) -> bool:
    """Return whether a preset's model writes no tool calls that its parser reads."""
    return preset.get("engine", {}).get("tool_calls", True) is False


def gpu_memory(preset: Preset) -> int:
    """Return the GPU memory that a preset needs, in MiB."""
    return int(preset.get("gpus", 0)) * int(preset.get("gpu_memory_mib", 0))


def gpus_fit(preset: Preset, gpus: Gpus) -> bool:
    """Return whether the host has the GPUs that a preset needs."""
    memory = int(preset.get("gpu_memory_mib", 0))
    large = sum(int(gpu["count"]) for gpu in gpus if int(gpu["memory_mib"]) >= memory)
    return large >= int(preset.get("gpus", 0))


def space_refusals(name: str, preset: Preset, host: Mapping[str, Any] | None) -> list[str]:
    """Return refusals for too little memory or disk; none if the host is not known."""
    if host is None:
        return []
    refusals = []
    memory = float(preset.get("host_memory_gb", 0))
    has_memory = host["memory_bytes"] / 1e9
    if has_memory < memory:
        refusals.append(
            f"Preset {name} needs {memory:g} GB of memory, this host has {has_memory:.1f} GB."
            " Add memory, or set infbox_preset to a smaller one."
        )
    disk = float(preset.get("disk_gb", 0))
    free, used = host["free_bytes"] / 1e9, host["used_bytes"] / 1e9
    if free + used < disk:
        refusals.append(
            f"Preset {name} needs {disk:g} GB of disk, this host has {free:.1f} GB free and"
            f" {used:.1f} GB that infbox and Docker use already. Free some, or move their"
            " directories to a larger disk."
        )
    return refusals


def host_refusals(name: str, preset: Preset, host: Mapping[str, Any] | None) -> list[str]:
    """Return what a host lacks for a preset beside GPUs; nothing if the host is not known."""
    if host is None:
        return []
    refusals = space_refusals(name, preset, host)
    minimum, driver = str(preset.get("min_driver_version", "")), str(host["driver_version"])
    coming = str(host.get("coming_driver", ""))
    # With GPUs given by hand nobody may have said what driver there is, or comes.
    if (
        minimum
        and (driver or coming)
        and not any(late_enough(v, minimum) for v in (driver, coming))
    ):
        there = f"this host has {driver}" if driver else "this host has none"
        refusals.append(
            f"Preset {name} needs NVIDIA driver {minimum} or later, {there}"
            f"{f', and {words_of(coming)} would be installed' if coming else ''}."
            " Set infbox_driver_version to a later one."
        )
    return refusals


def late_enough(driver: str, minimum: str) -> bool:
    """Return whether a driver is at least as new as another.

    Args:
        driver: a version, or a branch alone such as 580, which stands for its newest version.
        minimum: the version that it must not come before.
    """
    given, wanted = version(driver), version(minimum)
    return bool(given) and (given >= wanted if len(given) > 1 else given >= wanted[:1])


def words_of(driver: str) -> str:
    """Return a driver that would be installed, in words."""
    return driver if "." in driver else f"the newest of branch {driver}"


def version(number: str) -> tuple[int, ...]:
    """Return a version as numbers that can be compared: 580.9 comes before 580.65."""
    return tuple(int(part) for part in re.findall(r"\d+", number))


def needs(preset: Preset) -> str:
    """Return the GPUs that a preset needs, in words."""
    count = int(preset.get("gpus", 0))
    each = f" in each of {nodes_of(preset)} hosts" if nodes_of(preset) > 1 else ""
    return f"{count} GPU{'s' * (count != 1)} of {preset.get('gpu_memory_mib', 0)} MiB{each}"


def has(gpus: Gpus) -> str:
    """Return the GPUs of a host in words."""
    if not gpus:
        return "no GPU"
    return " and ".join(
        f"{gpu['count']} of {gpu['memory_mib']} MiB ({gpu.get('name', 'unnamed')})" for gpu in gpus
    )


def unknown(presets: Mapping[str, Preset], wanted: str) -> str:
    """Return the refusal of an unknown preset, with the nearest names first."""
    near = difflib.get_close_matches(wanted, presets, n=len(presets), cutoff=0)
    return f"There is no preset {wanted}. Set infbox_preset to one of: {', '.join([*near, AUTO])}."


def nothing_fits(presets: Mapping[str, Preset], gpus: Gpus) -> str:
    """Return the refusal of a host that no preset fits."""
    demands = "; ".join(f"{name} needs {needs(preset)}" for name, preset in presets.items())
    return f"No preset fits: this host has {has(gpus)}, {demands}. Use another host."


def gpus_unused(
    presets: Mapping[str, Preset],
    plans: Mapping[str, Mapping[str, Any]],
    chosen: str,
    gpus: Gpus,
) -> list[str]:
    """Return a note if the host has GPUs and the chosen preset uses none of them."""
    if not gpus or presets[chosen].get("gpus", 0):
        return []
    others = {name: preset for name, preset in presets.items() if preset.get("gpus", 0)}
    # A preset or a GPU with a wrong value must not be reported as a small one.
    broken = [plans[name]["reasons"][0] for name in others if not plans[name]["weights_bytes"]
              and "config" in presets[name].get("model", {})]  # fmt: skip
    demands = "; ".join(f"{name} needs {needs(preset)}" for name, preset in others.items())
    note = (
        f"This host has {has(gpus)}, too little for any preset with GPUs ({demands or 'none'})."
        f" It gets the preset {chosen}, which leaves the GPUs idle."
    )
    return [note, *broken]


def preset_rows(
    presets: Mapping[str, Preset], gpus: Gpus, *, group: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the figures of each preset on these GPUs, the highest rank first.

    Args:
        presets: as in `choose_preset`.
        gpus: as in `choose_preset`.
        group: as in `choose_preset`.

    Returns:
        Of each preset: preset, fits, reason (why not; empty where it fits), form (what the smaller
        form is in words; empty for none), max_model_len, users (at 16,384 tokens each), kv_tokens,
        pack_tokens (a workspace's budget), memory_tokens and disk_tokens (whose KV LMCache keeps in
        each), gpus (that it uses) and idle (GPUs in words). Nothing for GPUs that are none.
    """
    if gpus_mistake(gpus):
        return []
    rows = []
    for name in sorted(presets, key=lambda name: -rank(presets[name])):
        plan, changes = try_forms(name, presets[name], gpus, group or {})
        preset = merged(presets[name], changes)
        fits = bool(plan["fits"])
        lmcache, each = preset.get("lmcache", {}), int(plan["kv_bytes_per_token"])
        # What fits has numbers here.
        cached = [
            int(lmcache.get(key, 0) * 1e9) // each if fits and each else 0
            for key in ("l1_size_gb", "l2_size_gb")
        ]
        rows.append(
            {
                "preset": name,
                "fits": fits,
                "reason": "" if fits else " ".join(plan["reasons"]),
                "form": str(changes.get("description", "")) if fits else "",
                "max_model_len": int(plan["max_model_len"]) if fits else 0,
                "users": int(plan.get("concurrent_16k", 0)),
                "kv_tokens": int(plan["kv_tokens"]) if fits else 0,
                "pack_tokens": int(preset.get("workspace_budget", 0)) if fits else 0,
                "memory_tokens": cached[0],
                "disk_tokens": cached[1],
                "gpus": int(plan.get("gpus", 0)),
                "idle": idle_words(plan, gpus) if fits else [],
            }
        )
    return rows


def disk_needs(
    presets: Mapping[str, Preset], wanted: str, given_gpus: Gpus | None
) -> list[dict[str, float]]:
    """Return the disk space that the preset of a host may need, before the host is known.

    Args:
        presets: as in `choose_preset`; `gpus` and `disk_gb` are read.
        wanted: a name, or `auto`, which can become any preset that fits the host's GPUs.
        given_gpus: GPUs of the inventory, used in place of the host's own; None for none.

    Returns:
        gb, and the number of GPUs without which they will not be needed.
    """
    if wanted != AUTO:
        return [{"gpus": 0, "gb": presets.get(wanted, {}).get("disk_gb", 0)}]
    count = sum(gpu["count"] for gpu in given_gpus or ())
    needs = [(preset.get("gpus", 0), preset.get("disk_gb", 0)) for preset in presets.values()]
    return [{"gpus": 0 if gpus <= count else gpus, "gb": gb} for gpus, gb in needs]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "choose_preset": choose_preset,
            "disk_needs": disk_needs,
            "lowering": lowering,
            "preset_rows": preset_rows,
            "preset_refusals": preset_refusals,
        }
