"""What vLLM and LMCache are started with for each GPU preset, rendered by the roles themselves.

One run of Ansible renders all of them on this machine: the playbook beside this file plans each
preset for its `intended_gpus`, which this machine does not have, and templates the variables of
roles/vllm through group_vars/all. Tests hand the commands to vLLM's own code.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from plugins.planner.gpus import named_gpus

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = Path(__file__).with_suffix(".yml")
PRESETS: dict[str, dict[str, Any]] = yaml.safe_load(
    (ROOT / "group_vars/all/presets.yml").read_text(encoding="utf-8")
)["_infbox_presets"]


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


def hosts() -> dict[str, dict[str, Any]]:
    """Return the inventory's hosts: name of a case to what its host is told."""
    table: dict[str, dict[str, Any]] = {}
    for preset, row in PRESETS.items():
        for text in row.get("intended_gpus", ()):
            case = f"{preset} on {text.replace('NVIDIA ', '').replace('GeForce ', '')}"
            told = {"infbox_preset": preset, "infbox_gpus": [named_gpus(text)]}
            nodes = row["engine"].get("nodes", 1)
            if nodes == 1:
                table[case] = told
                continue
            for rank in range(nodes):
                table[f"{case}, rank {rank}"] = {
                    **told,
                    "infbox_model_group": case,
                    # Hosts of one model, which nobody can reach.
                    "infbox_model_group_address": f"192.0.2.{11 + rank}",
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
