"""playbooks/plan.yml, run by ansible-playbook itself, from a folder of no account."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# Nobody answers there.
AWAY = {"ansible_host": "192.0.2.1", "ansible_ssh_common_args": "-o ConnectTimeout=1"}
HERE = {
    "ansible_connection": "local",
    "ansible_become": False,
    "ansible_python_interpreter": sys.executable,
}
FIGURES = {
    "preset", "fits", "reasons", "kv_bytes_per_token", "kv_tokens", "max_model_len",
    "weights_bytes", "tensor_parallel_size", "data_parallel_size", "gpus_used", "gpus_idle",
    "presets",
}  # fmt: skip


def infbox_gpus(name: str, memory_mib: int, count: int) -> dict[str, Any]:
    return {"infbox_gpus": [{"name": name, "memory_mib": memory_mib, "count": count}]}


A100 = infbox_gpus("NVIDIA A100-SXM4-80GB", 81920, 4)
H200 = infbox_gpus("NVIDIA H200", 143771, 4)


def plan(
    folder: Path, hosts: dict[str, Any], *arguments: str, group: str = "inference"
) -> tuple[str, dict[str, Any]]:
    """Return what the playbook printed, and the JSON that it wrote."""
    (folder / "hosts.yml").write_text(json.dumps({group: {"hosts": hosts}}))
    environment = {key: text for key, text in os.environ.items() if key != "ANSIBLE_CONFIG"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook", str(ROOT / "playbooks/plan.yml")),
            *("--inventory", "hosts.yml", "--extra-vars", "infbox_plan_output=plan.json"),
            *arguments,
        ],
        cwd=folder,
        env={**environment, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((folder / "plan.json").read_text())
    assert set(written) == {"hosts"}
    assert all(set(figures) == FIGURES for figures in written["hosts"].values())
    return done.stdout, written["hosts"]


def test_hosts_that_nobody_can_reach_are_planned_by_the_gpus_given(tmp_path: Path) -> None:
    hosts = {
        "big": {
            **AWAY,
            "infbox_preset": "fp8",
            "infbox_more_presets": {"fp8": {"like": "prod480"}},
        },
        "mid": {**AWAY, "infbox_preset": "moe80"},
        "best": AWAY,
    }
    printed, plans = plan(tmp_path, hosts, "--extra-vars", json.dumps(A100))
    assert "UNREACHABLE" not in printed
    assert {name: figures["fits"] for name, figures in plans.items()} == {
        "big": False,
        "mid": True,
        "best": True,
    }
    assert plans["best"]["preset"] == "prod480"
    assert plans["best"]["weights_bytes"] == 254_000_000_000
    assert plans["big"]["kv_bytes_per_token"] == 248 * 1024
    assert plans["big"]["kv_tokens"] == plans["big"]["max_model_len"] == 0
    assert plans["big"]["tensor_parallel_size"] == 4
    assert (plans["best"]["gpus_used"], plans["best"]["gpus_idle"]) == (4, [])
    assert plans["big"]["gpus_used"] == 0
    assert plans["mid"]["max_model_len"] == 262144
    assert plans["mid"]["kv_tokens"] > 262144
    assert plans["mid"]["weights_bytes"] == 31_200_000_000
    assert "It would fit with 8 x NVIDIA A100-SXM4-80GB" in plans["big"]["reasons"][-1]
    # As text for each host, and as a table.
    assert "big: fp8 DOES NOT FIT" in printed
    assert "leaves no memory for KV" in printed
    assert "mid   moe80    yes   31.2 GB" in printed
    # What each preset comes to on these GPUs.
    rows = {row["preset"]: row for row in plans["best"]["presets"]}
    assert next(iter(rows)) in ("prod480", "prod480x2")
    assert rows["prod480"]["form"].startswith("in 4 bits")
    assert rows["prod480"]["users"] == rows["prod480"]["kv_tokens"] // 16384
    assert rows["prod480"]["memory_tokens"] == 160_000_000_000 // (248 * 1024)
    assert rows["prod480"]["disk_tokens"] == 500_000_000_000 // (248 * 1024)
    assert rows["prod480"]["pack_tokens"] == 64_000
    assert rows["prod480"]["idle"] == rows["moe80"]["idle"] == []
    assert rows["cpu"]["idle"] == ["4 x NVIDIA A100-SXM4-80GB of 81920 MiB"]
    assert not rows["prod480x2"]["fits"]
    assert "prod480    smaller" in printed


def test_each_host_may_have_gpus_of_its_own(tmp_path: Path) -> None:
    def host(given: dict[str, Any], preset: str = "prod480") -> dict[str, Any]:
        return {**AWAY, **given, "infbox_preset": preset}

    hosts = {
        "eight": host(infbox_gpus("NVIDIA A100-SXM4-80GB", 81920, 8)),
        "h200": host(H200),
        "mixed": host({"infbox_gpus": A100["infbox_gpus"] + H200["infbox_gpus"]}),
        "a6000": host(infbox_gpus("NVIDIA RTX A6000", 49140, 1), "dev32-awq"),
        "none": host({"infbox_gpus": []}, "dev24"),
        "small": host(infbox_gpus("NVIDIA T400", 4096, 1), "auto"),
    }
    _, plans = plan(tmp_path, hosts)
    assert plans["eight"]["fits"]
    assert plans["eight"]["tensor_parallel_size"] == 8
    assert plans["h200"]["fits"]
    assert plans["h200"]["tensor_parallel_size"] == 4
    assert plans["mixed"]["tensor_parallel_size"] == 4
    assert plans["a6000"]["kv_tokens"] == pytest.approx(90_000, rel=0.1)
    assert plans["none"]["reasons"][0].endswith("needs GPUs, this host has none.")
    assert (plans["small"]["preset"], plans["small"]["fits"]) == ("cpu", True)


def test_what_is_wrong_is_named_host_by_host(tmp_path: Path) -> None:
    hosts = {
        "unknown": {**AWAY, **A100, "infbox_preset": "prod48"},
        "infbox_gpus": {**AWAY, "infbox_gpus": "four"},
        "absurd": {**AWAY, **A100, "infbox_preset": "moe80",
                   "infbox_preset_overrides": {"engine": {"max_model_len": -1}}},
        "slip": {**AWAY, **A100, "infbox_preset": "moe80",
                 "infbox_preset_overrides": {"engine": {"max_modle_len": 8192}}},
        "long": {**AWAY, **A100, "infbox_preset": "moe80",
                 "infbox_preset_overrides": {"engine": {"max_model_len": 524288}}},
        "open": {**AWAY, **A100, "infbox_preset": "dev32"},
        "strange": {**AWAY, **A100, "infbox_preset": "mine", "infbox_more_presets": {
            "mine": {"like": "moe80", "model": {"config": {"model_type": "rwkv9"}}}}},
    }  # fmt: skip
    printed, plans = plan(tmp_path, hosts)
    assert [name for name, figures in plans.items() if figures["fits"]] == ["open"]
    assert "Note: Preset dev32 names no commit of Qwen/Qwen2.5-Coder-32B" in printed
    words = {name: " ".join(figures["reasons"]) for name, figures in plans.items()}
    assert "There is no preset prod48. Set infbox_preset to one of: prod480" in words["unknown"]
    assert "infbox_gpus is not a list of GPUs" in words["infbox_gpus"]
    assert "max_model_len is -1. Give a number that is not negative." in words["absurd"]
    assert "engine.max_modle_len is nothing that a preset has." in words["slip"]
    assert "Did you mean max_model_len?" in words["slip"]
    assert "takes 262,144 tokens, max_model_len is 524,288" in words["long"]
    assert "does not know models of the kind 'rwkv9'" in words["strange"]
    assert "kv_bytes_per_token" in words["strange"]


def test_overrides_and_own_presets_are_planned(tmp_path: Path) -> None:
    hosts = {
        "shorter": {**AWAY, **A100, "infbox_preset": "moe80",
                    "infbox_preset_overrides": {"engine": {"max_model_len": 32768}}},
        "own": {**AWAY, **A100, "infbox_preset": "mine", "infbox_more_presets": {
            "mine": {"like": "moe80", "engine": {"tensor_parallel_size": 4}}}},
    }  # fmt: skip
    _, plans = plan(tmp_path, hosts)
    assert plans["shorter"]["max_model_len"] == 32768
    assert plans["own"]["preset"] == "mine"
    assert plans["own"]["tensor_parallel_size"] == 4


def test_what_is_deployed_is_what_was_planned(tmp_path: Path) -> None:
    for link in ("collections", "group_vars", "roles", "filter_plugins"):
        (tmp_path / link).symlink_to(ROOT / "playbooks" / link)
    (tmp_path / "watcher").symlink_to(ROOT / "watcher")
    choice = "preflight_choice"
    tasks = [
        {"ansible.builtin.include_role": {"name": "preflight", "tasks_from": "plan"}},
        {
            "ansible.builtin.set_fact": {
                "preflight_preset_name": f"{{{{ {choice}.name }}}}",
                "preflight_plan": f"{{{{ {choice}.plan }}}}",
                "model_store_path": "/models/big",
            }
        },
        {
            "ansible.builtin.include_role": {"name": "vllm"},
            "vars": {"vllm_staging_dir": str(tmp_path), "vllm_cache_dir": ""},
        },
    ]
    play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    host = {**HERE, **H200, "infbox_preset": "prod480"}
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"big": host}}}))
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "play.yml", "--inventory", "hosts.yml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    fragment = yaml.safe_load((tmp_path / "compose/vllm.yml").read_text())
    command = fragment["services"]["vllm"]["command"]
    figures = plan(tmp_path, {"big": host})[1]["big"]
    said = {option: command[command.index(option) + 1] for option in command[3:-1]
            if option.startswith("--")}  # fmt: skip
    assert said["--max-model-len"] == str(figures["max_model_len"])
    assert said["--tensor-parallel-size"] == str(figures["tensor_parallel_size"]) == "4"
    assert said["--gpu-memory-utilization"] == "0.94"
    assert said["--max-num-seqs"] == "128"
    assert said["--kv-cache-dtype"] == "bfloat16"
    assert said["--moe-backend"] == "triton"
    assert "--enable-expert-parallel" in command


def test_a_host_without_gpus_given_is_looked_at(tmp_path: Path) -> None:
    hosts = {
        "here": {**HERE, "infbox_preset": "cpu"},
        "gone": AWAY,
        "huge": {
            **HERE,
            "infbox_preset": "cpu",
            "infbox_preset_overrides": {"host_memory_gb": 10**6, "disk_gb": 10**6},
        },
    }
    # In a group of another name: whoever plans need not have an inventory for infbox yet.
    printed, plans = plan(tmp_path, hosts, group="machines")
    assert plans["here"]["preset"] == "cpu"
    assert plans["here"]["weights_bytes"] == 988065536
    assert not plans["gone"]["fits"]
    assert "This host could not be inspected" in plans["gone"]["reasons"][0]
    assert "needs 1e+06 GB of memory" in " ".join(plans["huge"]["reasons"])
    assert not plans["huge"]["fits"]
    assert "changed=0" in printed or "changed=1" in printed
