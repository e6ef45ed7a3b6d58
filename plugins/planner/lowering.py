"""A plan that was too greedy: what the engine's log says of it, and a plan with less."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import ceil, floor
from typing import Any

from plugins.planner.errors import PlanError
from plugins.planner.memory import GIB, Shape, reserve_per_gpu
from plugins.planner.plan import Engine, Plan
from plugins.planner.presets import (
    Gpus,
    Preset,
    forms,
    merged,
    plan_preset,
    preset_engine,
    preset_model,
    preset_plan,
)

# What of a log is read: an engine's reason is among its last lines, once for each start.
MOST_LINES = 50
MOST_CHARACTERS = 2000
# The engine's memory differs by some MiB from one start to the next.
WINDOW_SHARE = 0.97
BLOCK = 16
# A plan is off by less. If more of a GPU is taken, another program has it, and is to be ended.
MOST_SHARE = 0.1
SHARE_STEP = 0.01
MIN_STEP_TOKENS = 512
MOST_GIB = 100_000
MOST_TOKENS = 100_000_000
MOST_KV = 1e15
MOST_WORDS = 300

NUMBER = r"([0-9]{1,6}(?:\.[0-9]{1,4})?)"
# Source: vLLM 0.32, `_check_enough_kv_cache_memory` (and the worker's own line before it),
# `request_memory` and `_dummy_sampler_run`.
WINDOW = re.compile(
    rf"larger than the available KV cache memory \({NUMBER} GiB\)\."
    r"(?: Based on the available memory, the estimated maximum model length is ([0-9]{1,9})\.)?"
)
SHARE = re.compile(
    rf"Free memory on device [^ ]{{1,40}} \({NUMBER}/{NUMBER} GiB\) on startup is less than desired"
    r" GPU memory utilization \("
)
NOTHING = re.compile("No available memory for the cache blocks")
AVAILABLE = re.compile(rf"Available KV cache memory: (-?){NUMBER} GiB")
SAMPLER = re.compile(
    r"CUDA out of memory occurred when warming up sampler with ([0-9]{1,6}) dummy requests"
)

Caps = dict[str, float]
Less = Callable[[Preset, Plan], Caps]
# What a record may hold, with the largest value of each.
CAPS: Mapping[str, tuple[type, float]] = {
    "reserve_gib": (float, MOST_GIB),
    "gpu_memory_utilization": (float, 1),
    "max_model_len": (int, MOST_TOKENS),
    "max_num_seqs": (int, MOST_TOKENS),
    "max_num_batched_tokens": (int, MOST_TOKENS),
}

KEPT = ("gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens")


class NotLoweredError(Exception):
    """A plan with less would not help; the message says why and what would."""


def lowering(
    presets: Mapping[str, Preset],
    name: str,
    changes: Mapping[str, Any],
    gpus: Gpus,
    lines: Sequence[str],
    *,
    date: str,
) -> dict[str, Any]:
    """Return how to plan with less after an engine that had too little memory to start.

    Args:
        presets: name to preset, as they are without any lowering.
        name: of the preset that did not start.
        changes: what of it held otherwise on the host, as `choose_preset` returned it.
        gpus: name, memory_mib and count of the GPUs.
        lines: of the engine's log, the last one last; input, of which only numbers are taken.
        date: of today, as YYYY-MM-DD.

    Returns:
        record: to be kept on the host and given to `choose_preset`; empty where the plan is not
        lowered. why: the reason for no record, as sentences; empty if the log names no lack of
        memory.
    """
    none = {"record": {}, "why": ""}
    found = cause(lines)
    if found is None:
        return none
    less_of, reason = found
    try:
        preset = merged(presets[name], changes)
        planned = preset_plan(preset, gpus)
        caps = less_of(preset, planned)
    except NotLoweredError as refusal:
        return {**none, "why": f"The plan was not lowered, since {reason}: {refusal}"}
    except (KeyError, PlanError):
        # A preset without a profile of its model is judged by its count of GPUs: nothing to lower.
        return none
    engine = preset.get("engine", {})
    record = {
        "key": key(presets, name, gpus),
        "preset": name,
        "date": date,
        "reason": reason,
        "change": change_words(engine, caps),
        # Less of everything than now: with a shorter window a larger form may fit by the plan, and
        # would have the engine compute more at once.
        "engine": {**{what: engine[what] for what in KEPT if engine.get(what)}, **caps},
        "before": {"kv_tokens": planned.kv_tokens, "max_model_len": planned.max_model_len},
    }
    lowered = lowered_presets(presets, record)[name]
    plans = [plan_preset(name, merged(lowered, form), gpus) for form in forms(lowered)]
    if not any(plan["fits"] for plan in plans):
        why = f"The plan was not lowered, since {reason}, and with less it would not fit at all:"
        return {**none, "why": f"{why} {' '.join(plans[-1]['reasons'])}"}
    return {"record": record, "why": ""}


def cause(lines: Sequence[str]) -> tuple[Less, str] | None:
    """Return what the last reason in an engine's log asks for, and the reason in words."""
    short = [str(line)[:MOST_CHARACTERS] for line in lines[-MOST_LINES:]]
    return next(filter(None, (cause_in(line, short) for line in reversed(short))), None)


def cause_in(line: str, lines: Sequence[str]) -> tuple[Less, str] | None:
    """Return what one line of a log asks for, and the reason in words; None where it has none."""
    if match := WINDOW.search(line):
        words = f"vLLM had {float(match[1]):g} GiB for KV, too little for its context window"
        return partial(window_caps, longest=int(match[2] or 0)), words
    if match := SHARE.search(line):
        free, total = float(match[1]), float(match[2])
        words = f"{free:g} of {total:g} GiB of a GPU were free when vLLM started"
        return partial(share_caps, free=free, total=total), words
    if NOTHING.search(line):
        minimum = min(available_gib(lines), default=0.0)
        words = "weights and computing left vLLM no memory for KV"
        return partial(nothing_caps, available=minimum), words
    if match := SAMPLER.search(line):
        requests = int(match[1])
        words = f"sampling for {requests} requests at once took more memory than a GPU had"
        return partial(sampler_caps, requests=requests), words
    return None


def available_gib(lines: Sequence[str]) -> Iterator[float]:
    """Yield the memory that a GPU had left for KV, where it is none at all: 0 or negative."""
    for line in lines:
        if match := AVAILABLE.search(line):
            number = float(match[2])
            if match[1] or not number:
                yield -number


def window_caps(preset: Preset, plan: Plan, *, longest: int) -> Caps:
    """Return what to plan with where the KV of one longest request had no room."""
    engine, context = preset_engine(preset), preset_model(preset).context
    window = floor(longest * WINDOW_SHARE / BLOCK) * BLOCK
    minimum = min(engine.min_model_len, context, engine.max_model_len or context)
    if window < minimum:
        raise NotLoweredError(
            f"a window of {window:,} tokens would be left, fewer than {minimum:,}. Choose a smaller"
            " preset, or end other programs on the GPUs."
        )
    # By the engine's own count of tokens, so that the plan's is right even where the estimate of
    # a token's size was wrong.
    missing = max(plan.kv_pool_bytes - plan.layout.request_bytes(longest), 0)
    return {"max_model_len": window, "reserve_gib": reserve(engine, missing)}


def share_caps(preset: Preset, _: Plan, *, free: float, total: float) -> Caps:
    """Return what to plan with where a GPU had less free memory than the engine's share of it."""
    wanted = preset_engine(preset).gpu_memory_utilization
    share = floor(100 * free / total) / 100 - SHARE_STEP if total else 0.0
    if not wanted - MOST_SHARE <= share < wanted:
        raise NotLoweredError(
            "another program uses the GPU (nvidia-smi lists them). End it, or set a lower"
            " gpu_memory_utilization in infbox_preset_overrides."
        )
    return {"gpu_memory_utilization": round(share, 2)}


def nothing_caps(preset: Preset, plan: Plan, *, available: float) -> Caps:
    """Return what to plan with where nothing was left for KV: steps of half the size."""
    requests = max(plan.batch.requests // 2, 1)
    return {
        "max_num_seqs": requests,
        "max_num_batched_tokens": max(plan.batch.tokens // 2, MIN_STEP_TOKENS, requests),
        "reserve_gib": reserve(preset_engine(preset), plan.kv_pool_bytes - available * GIB),
    }


def sampler_caps(preset: Preset, plan: Plan, *, requests: int) -> Caps:
    """Return what to plan with where sampling took too much: half of the requests at once."""
    half = min(requests, plan.batch.requests) // 2
    if not half:
        raise NotLoweredError("it serves one at a time already. Choose a smaller preset.")
    # The memory that the plan would save by that was never there.
    model, engine = preset_model(preset), preset_engine(preset)
    shape = Shape(plan.tensor_parallel_size, engine.pipeline_parallel_size, engine.expert_parallel)
    sizes = [
        reserve_per_gpu(model, shape, batch, eager=engine.enforce_eager)
        for batch in (plan.batch, replace(plan.batch, requests=half))
    ]
    return {"max_num_seqs": half, "reserve_gib": reserve(engine, sizes[0] - sizes[1])}


def change_words(engine: Mapping[str, Any], caps: Caps) -> str:
    """Return what caps change of an engine's settings, beside its window and KV, in words."""
    return ", ".join(
        f"{name} {caps[name]:g}" + (f" instead of {engine[name]:g}" if engine.get(name) else "")
        for name in KEPT
        if name in caps
    )


def reserve(engine: Engine, missing: float) -> float:
    """Return the memory to keep from KV, in GiB: what was kept before and what was missing."""
    return ceil((engine.reserve_bytes + missing) / GIB * 1000) / 1000


def lowered_presets(presets: Mapping[str, Preset], record: Mapping[str, Any]) -> dict[str, Preset]:
    """Return presets with one of them, in each of its forms, lowered as a record says."""
    if not record:
        return dict(presets)
    name, caps = record["preset"], record["engine"]
    preset = presets[name]
    engine = preset.get("engine", {})
    lowered = merged(preset, {"engine": less(engine, caps)})
    lowered["smaller"] = [
        merged(form, {"engine": less({**engine, **form.get("engine", {})}, caps)})
        for form in forms(preset)
        if form
    ]
    return {**presets, name: lowered}


def less(engine: Mapping[str, Any], caps: Mapping[str, float]) -> dict[str, Any]:
    """Return what of a preset's engine is other under caps; 0 and nothing are the engine's own."""
    return {
        name: max(engine.get(name, 0), cap)
        if name == "reserve_gib"
        else min(engine.get(name) or cap, cap)
        for name, cap in caps.items()
    }


def in_force(record: Any, presets: Mapping[str, Preset], gpus: Gpus) -> dict[str, Any]:
    """Return a record that was kept on a host, or nothing where it is none or for another plan.

    Args:
        record: what was read on the host.
        presets: as they are without any lowering.
        gpus: name, memory_mib and count of the GPUs.
    """
    is_right = (
        isinstance(record, Mapping)
        and all(
            isinstance(record.get(word), str)
            for word in ("key", "preset", "date", "reason", "change")
        )
        and all(
            len(record[words]) <= MOST_WORDS and record[words].isprintable()
            for words in ("reason", "change")
        )
        and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", record["date"], re.ASCII) is not None
        and all_within(record.get("engine"), CAPS)
        and all_within(
            record.get("before"), {"kv_tokens": (int, MOST_KV), "max_model_len": (int, MOST_KV)}
        )
        and record["preset"] in presets
        and record["key"] == key(presets, record["preset"], gpus)
    )
    return dict(record) if is_right else {}


def all_within(numbers: Any, known: Mapping[str, tuple[type, float]]) -> bool:
    """Return whether a mapping holds known numbers only, each of its kind and within bounds."""
    return isinstance(numbers, Mapping) and all(
        name in known
        and isinstance(number, int | float)
        and isinstance(number, (int, known[name][0]))
        and not isinstance(number, bool)
        and 0 <= number <= known[name][1]
        for name, number in numbers.items()
    )


def key(presets: Mapping[str, Preset], name: str, gpus: Gpus) -> str:
    """Return what a lowering holds for, as a hash: preset, model, engine, versions and GPUs."""
    told = [
        name,
        {what: presets[name].get(what) for what in ("model", "engine", "smaller", "versions")},
        [[gpu.get(what) for what in ("name", "memory_mib", "count")] for gpu in gpus],
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def lowered_note(record: Mapping[str, Any], plan: Mapping[str, Any], file: str) -> str:
    """Return a note that a plan was lowered, why, and how to undo it.

    Args:
        record: that is in force.
        plan: as it is now, from `plan_preset`.
        file: where the record is kept on the host.
    """
    changes = [
        f"{words} {plan[figure]:,} instead of {record['before'][figure]:,} tokens"
        for figure, words in (("max_model_len", "window"), ("kv_tokens", "KV cache"))
        if record["before"].get(figure, 0) > plan[figure]
    ]
    words = ", ".join([*changes, *filter(None, [record["change"]])])
    return (
        f"The plan was lowered on {record['date']}, since {record['reason']}: {words}. To plan"
        f" without this, remove {file} on the host and run site.yml. Another"
        " preset, model, version or GPU does the same."
    )
