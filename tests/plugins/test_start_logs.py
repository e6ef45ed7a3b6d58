"""The plan beside what engines on real GPUs reported: never above it, and at most 12 % below."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugins.planner.gpu_groups import read_gpus
from plugins.planner.memory import default_batch
from plugins.planner.model import read_config
from plugins.planner.plan import Plan, plan
from plugins.planner.presets import preset_engine

HERE = Path(__file__).parent
GIB = 1024**3
LOGS: list[dict[str, Any]] = yaml.safe_load((HERE / "start_logs.yml").read_text(encoding="utf-8"))
MODELS = {
    **yaml.safe_load((HERE / "models.yml").read_text(encoding="utf-8")),
    **json.loads((HERE / "configs.json").read_text(encoding="utf-8")),
}


def planned(log: dict[str, Any]) -> Plan:
    model = read_config(MODELS[log["model"]]["config"], log["model"])
    gpus = read_gpus([log["gpu"]])
    engine = replace(
        preset_engine({"engine": log["engine"]}, default_batch(gpus[0])),
        min_model_len=1024,
        enforce_eager=not log["graphs"],
    )
    if "weights_gib" in log:
        weights = int(log["weights_gib"] * GIB * engine.tensor_parallel_size)
    else:
        weights = log["weights_bytes"]
    return plan(model, weights, engine, gpus)


def test_there_are_ten_logs_with_their_source() -> None:
    assert len(LOGS) >= 10
    assert all(log["source"] for log in LOGS)


@pytest.mark.parametrize(
    "log", LOGS, ids=[f"{log['model']} on {log['gpu']['name']}" for log in LOGS]
)
def test_the_plan_promises_no_more_than_the_engine_had_and_wastes_little(
    log: dict[str, Any],
) -> None:
    verdict = planned(log)
    share = (
        verdict.kv_tokens / log["tokens"]
        if "tokens" in log
        else verdict.kv_pool_bytes / GIB / log["kv_gib"]
    )
    assert 0.88 <= share <= 1, f"{share:.3f} of what the engine reported: {verdict.reasons}"
