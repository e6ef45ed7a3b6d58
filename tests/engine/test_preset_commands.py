"""The argument parsers of vLLM and LMCache take the commands of every GPU preset.

The engine image of the lab, which computes on a CPU, has the same versions; parsers know nothing of
GPUs. What it makes of a command on each GPU is judged in the CUDA image, by `make engine-cuda`.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from lab.images import engine_image
from tests.engine.preset_commands import PRESETS, hosts, preset_commands

PROGRAM = Path(__file__).with_name("parse_commands.py")
# What is put behind a command, each of which is wrong, and what vLLM or LMCache says.
WRONG = {
    "no such option": (["--no-such-option"], "unrecognized arguments"),
    "no such type of KV": (["--kv-cache-dtype", "float8"], "invalid choice"),
    "no such kernels": (["--moe-backend", "trtion"], "invalid choice"),
    "no such form of tool calls": (["--tool-call-parser", "qwen9"], "invalid tool call parser"),
    "no such pass": (["--compilation-config", '{"pass_config": {"fuse": false}}'], "fuse"),
    "no such entry": (["--kv-transfer-config", '{"kv_conector": "X"}'], "kv_conector"),
}
WRONG_OF_LMCACHE = {
    "no such mode": (["--supported-transfer-mode", "cuda_driven"], "invalid choice"),
    "too impatient": (["--worker-reap-timeout-seconds", "5"], ">= 30s"),
}


@pytest.fixture(scope="module")
def refusals() -> dict[str, str]:
    """Return what is said to each command, the wrong ones included, all in one container."""
    presets = preset_commands()
    return judged({
        **{command.name: command.argv for command in presets},
        **{f"LMCache of {command.name}": command.lmcache for command in presets},
        **{name: presets[0].argv + more for name, (more, _) in WRONG.items()},
        **{name: presets[0].lmcache + more for name, (more, _) in WRONG_OF_LMCACHE.items()},
    })  # fmt: skip


def judged(commands: Mapping[str, list[str]]) -> dict[str, str]:
    """Have commands judged in the engine image."""
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--interactive", "--entrypoint", "python",
         "--volume", f"{PROGRAM}:/parse_commands.py:ro", engine_image(), "/parse_commands.py"],
        input=json.dumps(commands), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_gpu_preset_has_a_command() -> None:
    with_gpus = {name for name, preset in PRESETS.items() if preset["gpus"]}
    assert with_gpus == {host["infbox_preset"] for host in hosts().values()}


@pytest.mark.lab
def test_every_command_is_taken(refusals: dict[str, str]) -> None:
    made_wrong = {**WRONG, **WRONG_OF_LMCACHE}
    assert {name: said for name, said in refusals.items() if said and name not in made_wrong} == {}


@pytest.mark.lab
@pytest.mark.parametrize(("name", "case"), [*WRONG.items(), *WRONG_OF_LMCACHE.items()])
def test_what_is_wrong_is_refused(
    refusals: dict[str, str], name: str, case: tuple[list[str], str]
) -> None:
    assert case[1] in refusals[name]


@pytest.mark.lab
def test_kv_has_sixteen_bits_whatever_the_checkpoint_says() -> None:
    for command in preset_commands():
        asked = command.argv[command.argv.index("--kv-cache-dtype") + 1]
        assert asked == command.dtype, command.name
        assert asked in ("float16", "bfloat16"), command.name
