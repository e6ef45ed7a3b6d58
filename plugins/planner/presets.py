"""Presets as the planner's input: what of them is read, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plugins.planner.errors import PlanError
from plugins.planner.gpu_groups import read_gpus
from plugins.planner.memory import GIB, Batch, default_batch
from plugins.planner.model import Model, read_config
from plugins.planner.plan import Engine, Host, Plan, plan

GB = 1_000_000_000
CPU_IMAGE_BYTES = 5 * GB
# 9.6 GB unpacked, and no more while it is built; Docker may keep its layers as archives as well.
GPU_IMAGE_BYTES = 20 * GB
# Tokens of a user at work, for how many there may be at once.
USER_TOKENS = 16384

Preset = Mapping[str, Any]
Gpus = Sequence[Mapping[str, Any]]

# Shares of its cache sizes that a preset is tried with where a host is short of memory or disk.
CACHE_SHARES = (0.5, 0.25, 0.125)
MIN_L1_GB = 4


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with changes, one level within another; a model's config is taken whole."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both and key != "config" else value
    return result


def forms(preset: Preset) -> Iterator[Mapping[str, Any]]:
    """Yield the changes by which a preset is tried: none, then each of its `smaller`."""
    yield {}
    smaller = preset.get("smaller")
    for changes in smaller if isinstance(smaller, list) else ():
        if isinstance(changes, Mapping):
            yield changes


def smaller_caches(preset: Preset) -> Iterator[Mapping[str, Any]]:
    """Yield changes that give a preset less main memory and disk for LMCache, the largest first."""
    lmcache = preset.get("lmcache", {})
    l1, l2 = (real(lmcache, key, 0) for key in ("l1_size_gb", "l2_size_gb"))
    for share in CACHE_SHARES:
        memory, disk = int(l1 * share), int(l2 * share)
        if memory < MIN_L1_GB:
            return
        yield {
            "lmcache": {"l1_size_gb": memory, "l2_size_gb": disk},
            "host_memory_gb": real(preset, "host_memory_gb", 0) - (l1 - memory),
            "disk_gb": real(preset, "disk_gb", 0) - (l2 - disk),
        }


def plan_preset(
    name: str, preset: Preset, gpus: Gpus, host: Host | None = None, gbit: float = 0
) -> dict[str, Any]:
    """Plan a preset on GPUs.

    Args:
        name: of the preset.
        preset: of it `model` (repository, config, weights_bytes, kv_bytes_per_token), `engine` and
            `lmcache` are read.
        gpus: name, memory_mib and count of the GPUs of each host.
        host: main memory and disk, which count only if they are known.
        gbit: of the network between several hosts, in Gbit/s; 0 if it is not known.

    Returns:
        preset, fits, reasons, notes, kv_bytes_per_token, kv_tokens, max_model_len, weights_bytes,
        tensor_parallel_size, gpus (how many of `gpu_name` a host of it uses), concurrent_16k (users
        at 16,384 tokens each), concurrent_requests (of the longest context), memory_bytes and
        disk_bytes. What nothing can be planned from does not fit, and its reason says why.
    """
    try:
        return {"preset": name, **as_data(preset_plan(preset, gpus, host, gbit))}
    except PlanError as error:
        return not_planned(name, f"Preset {name} cannot be planned. {error}")


def preset_plan(preset: Preset, gpus: Gpus, host: Host | None = None, gbit: float = 0) -> Plan:
    """Return the plan of a preset.

    Raises:
        PlanError: the preset or the GPUs have a value that cannot be planned.
    """
    given = preset["model"]
    model = preset_model(preset)
    groups = read_gpus(gpus) if preset.get("engine", {}).get("device") != "cpu" else ()
    weights = given.get("weights_bytes", 0)
    if isinstance(weights, bool) or not isinstance(weights, int):
        raise PlanError(f"weights_bytes is {weights!r}. Give the bytes of all weights.")
    engine = preset_engine(preset, default_batch(groups[0]) if groups else None)
    return plan(model, weights, engine, groups, host, gbit=gbit)


def preset_model(preset: Preset) -> Model:
    """Return a preset's model."""
    given = preset["model"]
    by_hand = whole(given, "kv_bytes_per_token", 0)
    return read_config(given["config"], str(given.get("repository", "the model")), by_hand)


def preset_engine(preset: Preset, batch: Batch | None = None) -> Engine:
    """Return how a preset runs its model.

    Args:
        preset: the preset.
        batch: the engine's own limits of a step, for those that the preset leaves out.

    Raises:
        PlanError: a number is absurd.
    """
    given, lmcache = preset.get("engine", {}), preset.get("lmcache", {})
    own = batch or Batch()
    step = None
    if "max_num_batched_tokens" in given or "max_num_seqs" in given:
        step = Batch(
            whole(given, "max_num_batched_tokens", own.tokens),
            whole(given, "max_num_seqs", own.requests),
        )
    device = given.get("device", "cuda")
    if device not in ("cpu", "cuda"):
        raise PlanError(f"engine.device is {device!r}. Give cpu or cuda.")
    nodes = whole(given, "nodes", 1)
    return Engine(
        device=device,
        # On hosts without GPUs each host holds one shard.
        tensor_parallel_size=whole(given, "tensor_parallel_size", 0 if nodes > 1 else 1),
        nodes=nodes,
        pipeline_parallel_size=whole(given, "pipeline_parallel_size", 1),
        expert_parallel=bool(given.get("expert_parallel", False)),
        gpu_memory_utilization=real(given, "gpu_memory_utilization", 0.9),
        cpu_kv_cache_bytes=int(real(given, "cpu_kv_cache_gib", 2) * GIB),
        max_model_len=whole(given, "max_model_len", 0),
        min_model_len=whole(given, "min_model_len", 8192),
        batch=step,
        enforce_eager=bool(given.get("enforce_eager", False)),
        reserve_bytes=int(real(given, "reserve_gib", 0) * GIB),
        l1_bytes=int(real(lmcache, "l1_size_gb", 0) * GB),
        l2_bytes=int(real(lmcache, "l2_size_gb", 0) * GB),
        image_bytes=CPU_IMAGE_BYTES if device == "cpu" else GPU_IMAGE_BYTES,
    )


def whole(given: Mapping[str, Any], key: str, default: int) -> int:
    """Return a whole number of a preset.

    Raises:
        PlanError: it is none.
    """
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PlanError(f"{key} is {value!r}. Give a whole number.")
    return value


def real(given: Mapping[str, Any], key: str, default: float) -> float:
    """Return a number of a preset.

    Raises:
        PlanError: it is none.
    """
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PlanError(f"{key} is {value!r}. Give a number.")
    return float(value)


def as_data(planned: Plan) -> dict[str, Any]:
    """Return a plan as plain data."""
    longest = planned.max_model_len
    return {
        "fits": planned.fits,
        "reasons": list(planned.reasons),
        "notes": list(planned.notes),
        "kv_bytes_per_token": planned.kv_bytes_per_token,
        "kv_tokens": planned.kv_tokens if planned.fits else 0,
        "max_model_len": longest if planned.fits else 0,
        "weights_bytes": planned.weights_bytes,
        "tensor_parallel_size": planned.tensor_parallel_size,
        "gpus": planned.gpus if planned.fits else 0,
        "gpu_name": planned.gpu_name,
        "concurrent_16k": planned.concurrent_requests(USER_TOKENS),
        "concurrent_requests": planned.concurrent_requests(longest) if planned.fits else 0,
        "memory_bytes": planned.memory_bytes,
        "disk_bytes": planned.disk_bytes,
    }


def not_planned(name: str, *reasons: str) -> dict[str, Any]:
    """Return the plan of what cannot be planned, as plain data."""
    return {
        "preset": name,
        "fits": False,
        "reasons": list(reasons),
        "notes": [],
        "kv_bytes_per_token": 0,
        "kv_tokens": 0,
        "max_model_len": 0,
        "weights_bytes": 0,
        "tensor_parallel_size": 0,
        "gpus": 0,
        "gpu_name": "",
        "concurrent_16k": 0,
        "concurrent_requests": 0,
        "memory_bytes": 0,
        "disk_bytes": 0,
    }
