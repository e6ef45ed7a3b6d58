"""The lab's CPU engine with its random model, for benchmarks that are given no engine."""

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from bench.warm import free_port
from lab.cake import start
from lab.images import engine_image
from lab.shell import LabError, run, succeeds

START_SECONDS = 1200  # of a machine that does much else; about 40 s of one that does not

_FILES = Path(__file__).parents[1] / "roles" / "model_store" / "files"
_OUT = "/out/model"

# Those of Qwen2.5-Coder-7B, and three of its 28 layers. What a token costs in the matrices and what
# it costs to attend to those before it have the same share in each layer, so a longer prompt slows
# these three as it slows the whole model; in the lab's small model attention takes nearly all.
LAYERS_OF_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_hidden_layers": 3,
    "layer_types": None,
}

# The random model's rotary embeddings have no end, so a longer window is a matter of saying so.
_RESHAPE = """\
import json, sys
from pathlib import Path
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

place = "/out/model"
changes = json.loads(sys.argv[1])
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
config = Qwen2Config(**{**Qwen2Config.from_pretrained(place).to_dict(), **changes})
Qwen2ForCausalLM(config).save_pretrained(place)
for file in Path(place).iterdir():
    file.chmod(0o644)  # the engine is another user
"""


class Served(NamedTuple):
    """An engine that answers.

    Attributes:
        url: its base address.
        tokenizer: file of its tokenizer.
    """

    url: str
    tokenizer: Path


@contextlib.contextmanager
def running(
    name: str, window: int, words: Sequence[Any] = (), shape: Mapping[str, Any] | None = None
) -> Iterator[Served]:
    """Start the engine; it is removed with the block.

    Args:
        name: of its container.
        window: tokens of its window.
        words: more of its command line.
        shape: what the model's configuration says otherwise than the lab's.

    Raises:
        LabError: there is no Docker Engine or no lab, or the engine does not start.
    """
    image = engine_image()
    remove(name)
    with tempfile.TemporaryDirectory(prefix="infbox-bench-engine-") as path:
        directory = Path(path)
        directory.chmod(0o755)
        mounted = ["docker", "run", "--rm", "--user", "0:0", "--volume", f"{directory}:/out",
                   "--volume", f"{_FILES}:/run/files:ro", "--workdir", "/run/files",
                   "--entrypoint", "python3", image]  # fmt: skip
        run([*mounted, "-m", "infbox_model", "random", "--place", _OUT])
        changes = {**(shape or {}), "max_position_embeddings": window}
        run([*mounted, "-c", _RESHAPE, json.dumps(changes)])
        port = free_port()
        try:
            start(name, image, "vllm", [
                "serve", "/model", "--host", "127.0.0.1", "--port", port, "--dtype", "bfloat16",
                "--max-model-len", window, "--enforce-eager", "--served-model-name", "coder",
                "--scheduling-policy", "priority", "--enable-prompt-tokens-details", *words,
            ], ["--volume", f"{directory}/model:/model:ro"])  # fmt: skip
            url = f"http://127.0.0.1:{port}"
            _await(name, url)
            yield Served(url, directory / "model" / "tokenizer.json")
        finally:
            remove(name)


def connected(port: int) -> list[str]:
    """Return the words by which an engine uses LMCache's server.

    Args:
        port: of the server, on this machine.
    """
    extra = {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": port}
    connector = {
        "kv_connector": "InfboxConnector",
        "kv_connector_module_path": "infbox_cake.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": extra,
    }
    return ["--kv-transfer-config", json.dumps(connector)]


def remove(name: str) -> None:
    """Remove a container, if it is there."""
    if succeeds(["docker", "container", "inspect", name]):
        run(["docker", "rm", "--force", name])


def _await(name: str, url: str) -> None:
    ends = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5).is_success:
                return
        is_there = run(["docker", "inspect", "--format", "{{.State.Running}}", name]) == "true"
        if not is_there or time.monotonic() > ends:
            raise LabError(run(["sh", "-c", f"docker logs --tail 30 {name} 2>&1"]))
        time.sleep(1)
