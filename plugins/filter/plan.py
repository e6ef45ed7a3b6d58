"""The presets that hold for a host, and plans as people and scripts read them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Ansible loads filters by path, outside of any package.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from plugins.planner.errors import PlanError
from plugins.planner.gpus import named_gpus
from plugins.planner.presets import merged

Preset = Mapping[str, Any]
Table = Mapping[str, Preset]

# What the contract of playbooks/plan.yml names.
FIGURES = (
    "preset",
    "fits",
    "reasons",
    "kv_bytes_per_token",
    "kv_tokens",
    "max_model_len",
    "weights_bytes",
    "tensor_parallel_size",
)
PRESET_COLUMNS = (
    "preset", "fits", "window", "users", "KV tokens", "pack", "in memory", "on disk", "idle GPUs",
)  # fmt: skip
COLUMNS = ("host", "preset", "fits", "weights", "KV a token", "KV tokens", "context", "GPUs")

# What a preset may say, and the choice that there is; of `config` everything may be given. Kept
# beside the code that reads it.
KNOWN: Mapping[str, Any] = {
    "description": None,
    "rank": None,
    "like": None,
    "gpus": None,
    "gpu_memory_mib": None,
    "intended_gpus": None,
    "host_memory_gb": None,
    "disk_gb": None,
    "min_driver_version": None,
    "engine_image": None,
    "versions": {"vllm": None, "lmcache": None, "cuda": None},
    "model": dict.fromkeys(
        ("source", "random_fallback", "repository", "revision", "license", "weights_bytes",
         "kv_bytes_per_token", "config")
    ),
    "engine": dict.fromkeys(
        ("device", "max_model_len", "min_model_len", "cpu_kv_cache_gib", "enforce_eager",
         "tool_call_parser", "tool_calls", "reasoning_parser", "start_period",
         "tensor_parallel_size", "pipeline_parallel_size", "nodes", "expert_parallel",
         "gpu_memory_utilization", "reserve_gib", "max_num_batched_tokens", "max_num_seqs",
         "moe_backend")
    ) | {"dtype": ("float16", "bfloat16")},
    "lmcache": {"l1_size_gb": None, "l2_size_gb": None, "cake": None},
    "workspace_budget": None,
    # Changes by which it is tried, one after the other, where it does not fit as it is.
    "smaller": None,
}  # fmt: skip


# Keys that have another name now, for one release.
RENAMED = {
    "least_driver": "min_driver_version",
    "least_model_len": "min_model_len",
    "licence": "license",
    "tuple": "versions",
}


def presets_with(presets: Table, more: Any, overrides: Any) -> dict[str, dict[str, Any]]:
    """Return the presets that hold: the built-in ones, one's own, all of them adjusted.

    Args:
        presets: the built-in ones.
        more: one's own by name; each is taken to be like the preset that its `like` names, but for
            what it says.
        overrides: what every preset is to say otherwise, such as {engine: {max_model_len: 65536}}.

    Returns:
        name to preset. What `preset_mistakes` refuses is left out.
    """
    table: dict[str, dict[str, Any]] = {name: dict(preset) for name, preset in presets.items()}
    for name, preset in mapping(more).items():
        if isinstance(preset, Mapping):
            base = {**table.get(str(preset.get("like", "")), {})}
            # They are those of another model, or of another size.
            for key in ("smaller", "intended_gpus"):
                base.pop(key, None)
            # Its own rank is above that of what it is like, or it would never be chosen.
            table[name] = merged({**base, "rank": int(base.get("rank", 0)) + 1}, preset)
    return {name: overridden(preset, mapping(overrides)) for name, preset in table.items()}


def overridden(preset: Preset, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preset with what it is to say otherwise, in each of its smaller forms as well."""
    result = merged(preset, overrides)
    smaller = preset.get("smaller")
    if isinstance(smaller, list) and "smaller" not in overrides:
        result["smaller"] = [
            merged(changes, overrides) for changes in smaller if isinstance(changes, Mapping)
        ]
    return result


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and anything else as an empty one."""
    return value if isinstance(value, Mapping) else {}


def preset_mistakes(presets: Table, more: Any, overrides: Any) -> list[str]:
    """Refuse what no preset has, by name and with the nearest one that there is.

    Args:
        presets: the built-in ones.
        more: one's own.
        overrides: changes to all of them.
    """
    found = []
    for setting, value in (("infbox_more_presets", more), ("infbox_preset_overrides", overrides)):
        if not isinstance(value, Mapping):
            found.append(f"{setting} is {value!r}. Write it as names and values, or leave it out.")
    for name, preset in mapping(more).items():
        path = f"infbox_more_presets.{name}"
        found += list(own_mistakes(path, preset, [*presets, *mapping(more)]))
        if name in presets:
            found.append(f"{path} has the name of a preset that there is. Give it another name.")
    return [*found, *mistakes("infbox_preset_overrides", mapping(overrides), KNOWN)]


def own_mistakes(path: str, preset: Any, names: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with one's own preset."""
    if not isinstance(preset, Mapping):
        yield f"{path} is {preset!r}. Write it as names and values."
        return
    if preset.get("like") not in names:
        yield f"{path} is like {preset.get('like')!r}. Set its like to one of {', '.join(names)}."
    yield from mistakes(path, preset, KNOWN)


def mistakes(path: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is given and not known, level by level."""
    for key, value in given.items():
        if RENAMED.get(key) in known:
            yield f"{path}.{key} is now named {RENAMED[key]}. Rename it."
        elif key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            fix = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
            yield f"{path}.{key} is nothing that a preset has. {fix}"
        elif key == "smaller" and isinstance(value, list):
            for number, changes in enumerate(value):
                yield from mistakes(f"{path}.smaller[{number}]", mapping(changes), known)
        elif key == "intended_gpus":
            yield from intended_mistakes(f"{path}.{key}", value)
        elif isinstance(known[key], Mapping):
            if isinstance(value, Mapping):
                yield from mistakes(f"{path}.{key}", value, known[key])
            else:
                yield f"{path}.{key} is {value!r}. Write it as names and values."
        elif isinstance(known[key], tuple) and value not in known[key]:
            yield f"{path}.{key} is {value!r}. Set it to one of {', '.join(known[key])}."


def intended_mistakes(path: str, given: Any) -> Iterator[str]:
    """Yield what is wrong with the GPUs for which a preset is intended."""
    if not isinstance(given, list):
        yield f"{path} is {given!r}. Write it as a list, such as [4 x NVIDIA H200]."
        return
    for entry in given:
        try:
            named_gpus(entry)
        except PlanError as error:
            yield f"{path}: {error}"


def host_plan(
    choice: Mapping[str, Any], wanted: str, mistakes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the plan of a host by the contract.

    Args:
        choice: from `choose_preset`.
        wanted: the preset that was asked for.
        mistakes: what is wrong with the presets themselves.

    Returns:
        The contract's figures, and notes. What a host lacks beside its GPUs (memory, disk, driver)
        counts: then it does not fit either.
    """
    plan = choice["plan"] or dict.fromkeys(FIGURES, 0)
    beside = choice["refusals"]
    # The plan's own reasons say it at length already.
    told = [why for why in beside if not why.startswith(f"Preset {choice['name']} does not fit:")]
    return {
        **{figure: plan[figure] for figure in FIGURES},
        "preset": choice["name"] or wanted,
        "fits": bool(plan["fits"]) and not beside and not mistakes,
        "reasons": [*(plan["reasons"] or []), *mistakes, *told],
        "notes": list(choice["notes"]),
    }


def plan_figures(plans: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return plans as the contract has them, without what is for people only.

    Where a plan has them, `presets` are those that the host could run, from `preset_rows`. GPUs are
    numbers where they are used, and words where they stay idle.
    """
    return {"hosts": {name: host_figures(plan) for name, plan in plans.items()}}


def host_figures(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return a host's plan as the contract has it."""
    rows: list[Mapping[str, Any]] = list(plan.get("presets", []))
    of_it = [row for row in rows if row["preset"] == plan["preset"]]
    chosen: Mapping[str, Any] = of_it[0] if of_it else {}
    return {
        **{figure: plan[figure] for figure in FIGURES},
        "data_parallel_size": 1,  # no preset runs its model twice
        "gpus_used": chosen.get("gpus", 0),
        "gpus_idle": chosen.get("idle", []),
        "presets": rows,
    }


def plan_text(plan: Mapping[str, Any], host: str) -> str:
    """Return a host's plan as text: the verdict, then why, then what to know."""
    verdict = "fits" if plan["fits"] else "DOES NOT FIT"
    lines = [f"{host}: {plan['preset']} {verdict}", *(f"- {reason}" for reason in plan["reasons"])]
    return "\n".join([*lines, *(f"- Note: {note}" for note in plan["notes"])])


def plan_table(plans: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the plans of all hosts as a table."""
    return aligned([COLUMNS, *(row(host, plan) for host, plan in plans.items())])


def preset_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what each preset comes to as a table, from `preset_rows`."""
    return aligned([PRESET_COLUMNS, *map(preset_row, rows)])


def preset_row(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a preset's line of the table; one that does not fit has its name alone."""
    if not figures["fits"]:
        return (str(figures["preset"]), "no", *[""] * (len(PRESET_COLUMNS) - 2))
    numbers = ("max_model_len", "users", "kv_tokens", "pack_tokens", "memory_tokens", "disk_tokens")
    return (
        str(figures["preset"]),
        "smaller" if figures["form"] else "yes",
        *(f"{figures[key]:,}" for key in numbers),
        " and ".join(figures["idle"]) or "none",
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines whose columns stand below each other."""
    widths = [max(len(line[i]) for line in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in rows
    )


def row(host: str, plan: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a host's line of the table."""
    return (
        host,
        str(plan["preset"]),
        "yes" if plan["fits"] else "NO",
        f"{plan['weights_bytes'] / 1e9:.1f} GB",
        f"{plan['kv_bytes_per_token'] / 1024:g} KiB",
        f"{plan['kv_tokens']:,}",
        f"{plan['max_model_len']:,}",
        str(plan["tensor_parallel_size"]),
    )


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "host_plan": host_plan,
            "plan_figures": plan_figures,
            "plan_table": plan_table,
            "plan_text": plan_text,
            "preset_table": preset_table,
            "preset_mistakes": preset_mistakes,
            "presets_with": presets_with,
            "with_changes": merged,
        }
