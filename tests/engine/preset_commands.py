"""What vLLM and LMCache are started with for each GPU preset, rendered by the roles themselves.

One run of Ansible renders all of them on this machine: the playbook beside this file plans each
preset for the GPUs that it is made for, which are not there, and templates the variables of
roles/vllm through group_vars/all. Tests hand the commands to vLLM's own code.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = Path(__file__).with_suffix(".yml")
# Hosts of one model, which nobody can reach.
ADDRESSES = ("192.0.2.11", "192.0.2.12")

Gpus = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class PresetCommand:
    """What vLLM is started with.

    Attributes:
        name: of the case: the preset, the GPU and, of several hosts, which of them it is.
        preset: name of the preset.
        argv: the command line, which begins with ``vllm serve MODEL_PATH``.
        lmcache: the command line of LMCache's server, which begins with ``lmcache server``.
        environment: what the container has beside the image's own.
        gpus: of one host, each {name, memory_mib, count, compute_capability}, as infbox_gpus.
        nodes: how many such hosts hold the model together.
        rank: which of them this one is, from 0.
        config: those entries of the model's config.json that memory depends on.
        dtype: of weights and KV, such as ``float16``.
    """

    name: str
    preset: str
    argv: list[str]
    lmcache: list[str]
    environment: dict[str, str]
    gpus: list[dict[str, Any]]
    nodes: int
    rank: int
    config: dict[str, Any]
    dtype: str


def gpu(name: str, memory_mib: int, capability: str, count: int = 1) -> dict[str, Any]:
    """Return equal GPUs of a host, as infbox_gpus has them."""
    return {
        "name": name,
        "memory_mib": memory_mib,
        "count": count,
        "compute_capability": capability,
    }


# Sources: what `nvidia-smi` shows of them, and NVIDIA, "CUDA GPU Compute Capability".
RTX_3090 = gpu("NVIDIA GeForce RTX 3090", 24576, "8.6")
RTX_4090 = gpu("NVIDIA GeForce RTX 4090", 24564, "8.9")
RTX_5090 = gpu("NVIDIA GeForce RTX 5090", 32607, "12.0")
RTX_A6000 = gpu("NVIDIA RTX A6000", 49140, "8.6")
L40S = gpu("NVIDIA L40S", 46068, "8.9")
A100 = gpu("NVIDIA A100-SXM4-80GB", 81920, "8.0")
H100 = gpu("NVIDIA H100 80GB HBM3", 81559, "9.0")
H200 = gpu("NVIDIA H200", 143771, "9.0")

# What each preset is made for: of every kind of GPU that its weights are computed on otherwise.
MADE_FOR: dict[str, tuple[dict[str, Any], ...]] = {
    "dev24": (RTX_4090,),
    # On 24 GB in its smaller form.
    "dev32": (RTX_A6000, RTX_5090, RTX_4090),
    "dev32-awq": (L40S, RTX_5090),
    "moe24": (RTX_5090, RTX_4090, {**RTX_3090, "count": 4}),
    "moe80": (H100, A100, L40S, {**RTX_3090, "count": 2}, {**RTX_3090, "count": 4}),
    "air141": (H200, {**A100, "count": 2}, {**L40S, "count": 4}),
    # On four of 80 GB in 4 bits.
    "prod480": (
        {**H200, "count": 4}, {**H100, "count": 8}, {**A100, "count": 8}, {**H100, "count": 4},
        {**A100, "count": 4},
    ),
    "prod480x2": ({**H100, "count": 4},),
}  # fmt: skip


def hosts() -> dict[str, dict[str, Any]]:
    """Return the inventory's hosts: name of a case to what its host is told."""
    table: dict[str, dict[str, Any]] = {}
    for preset, kinds in MADE_FOR.items():
        for made_for in kinds:
            word = made_for["name"].removeprefix("NVIDIA ").replace("GeForce ", "")
            case = f"{preset} on {made_for['count']} x {word}"
            told = {"infbox_preset": preset, "infbox_gpus": [made_for]}
            if preset != "prod480x2":
                table[case] = told
                continue
            for rank, address in enumerate(ADDRESSES):
                table[f"{case}, rank {rank}"] = {
                    **told,
                    "infbox_model_group": case,
                    "infbox_model_group_address": address,
                    # What the facts of a host would tell.
                    "_infbox_model_interface": {"name": "ibp65s0", "gbit": 200},
                }
    return table


@functools.cache
def preset_commands() -> list[PresetCommand]:
    """Render the commands of all GPU presets, in some seconds.

    Raises:
        RuntimeError: Ansible failed; its output is the message.
    """
    table = hosts()
    # A host's name may hold no blanks; it is told what it is called besides.
    names = {f"case{number}": case for number, case in enumerate(table)}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        inventory = {"inference": {"hosts": {
            host: {
                **table[case],
                "ansible_python_interpreter": sys.executable,
                "preset_commands_output": str(folder / f"{host}.json"),
            }
            for host, case in names.items()
        }}}  # fmt: skip
        (folder / "hosts.yml").write_text(json.dumps(inventory))
        # Beside an inventory they hold as they do beside a playbook.
        (folder / "group_vars").symlink_to(ROOT / "group_vars")
        render(folder)
        rendered = {
            case: json.loads((folder / f"{host}.json").read_text()) for host, case in names.items()
        }
    return [
        PresetCommand(
            name=case,
            preset=table[case]["infbox_preset"],
            gpus=table[case]["infbox_gpus"],
            **rendered[case],
        )
        for case in table
    ]


def render(folder: Path) -> None:
    """Run the playbook on the inventory of a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", PLAYBOOK, "--inventory", "hosts.yml",
         "--extra-vars", json.dumps({"_infbox_root": str(ROOT)})],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
            "ANSIBLE_LIBRARY": str(ROOT / "plugins/modules"),
            "ANSIBLE_NOCOLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
