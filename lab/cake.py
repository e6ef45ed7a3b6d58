"""Real engines with LMCache on this machine itself, and a disk that the kernel holds back.

For what tests and measures Cake: LMCache's server with Cake's module, and vLLM without Cake, with
it, or both, which share what is stored. The disk is slowed down by the kernel's throttle on the
server's container, and chunks are read past the page cache.
"""

import contextlib
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from lab.settings import ROOT, STATE
from lab.shell import LabError, remove_container, run, succeeds

DIRECTORY = STATE / "cake"
SERVER, PLAIN, CAKE = (f"infbox-cake-{name}" for name in ("lmcache", "plain", "raced"))
ZMQ_PORT, HTTP_PORT = 15555, 18020
PORTS = {PLAIN: 18000, CAKE: 18001}
CHUNK = 256  # tokens
START_SECONDS = 300
ANSWER_TOKENS = 8
UNTHROTTLED = 0
VOCABULARY = range(300, 3900)  # whole words of the random model

# Makes the random model's layers twice as wide, which is four times the weights and the computing.
LARGER = """\
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.from_pretrained("/out/model")
for size in "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads":
    setattr(config, size, 2 * getattr(config, size))
torch.manual_seed(0)
AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained("/out/model")
for file in Path("/out/model").iterdir():
    file.chmod(0o644)
"""


class Rig:
    """The containers and what is asked of them.

    Args:
        engines: containers of engines.
    """

    def __init__(self, engines: Sequence[str]) -> None:
        self.engines = engines
        self.client = httpx.Client(timeout=600)
        self.bytes_per_token = 0.0

    def ask(self, engine: str, ids: Sequence[int], salt: str = "") -> tuple[float, str]:
        """Ask for a few greedy tokens.

        Args:
            engine: container.
            ids: the prompt.
            salt: another one than before finds nothing in any cache.

        Returns:
            Seconds to the first token, and the answer.
        """
        body: dict[str, Any] = {
            "model": "coder", "prompt": list(ids), "max_tokens": ANSWER_TOKENS, "stream": True,
            "temperature": 0, "return_token_ids": True,
        }  # fmt: skip
        if salt:
            body["cache_salt"] = salt
        first = 0.0
        answer: list[int] = []
        began = time.monotonic()
        url = f"http://127.0.0.1:{PORTS[engine]}/v1/completions"
        with self.client.stream("POST", url, json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    first = first or time.monotonic() - began
                    # One event may bring several.
                    answer += json.loads(line[6:])["choices"][0]["token_ids"] or []
        return first, str(answer)

    @contextlib.contextmanager
    def writing(self, engine: str) -> Iterator[list[float]]:
        """Have an engine write a long answer meanwhile; gives the times at which tokens come."""
        body = {
            "model": "coder", "prompt": prompt(100, 1), "max_tokens": 10_000, "stream": True,
            "temperature": 0, "ignore_eos": True,
        }  # fmt: skip
        url = f"http://127.0.0.1:{PORTS[engine]}/v1/completions"
        times: list[float] = []
        is_wanted = True

        def listen() -> None:
            with httpx.stream("POST", url, json=body, timeout=600) as response:
                for line in response.iter_lines():
                    if not is_wanted:
                        return
                    if line.startswith("data: {"):
                        times.append(time.monotonic())

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            while len(times) < ANSWER_TOKENS:
                time.sleep(0.01)
            yield times
        finally:
            is_wanted = False
            thread.join()

    def forget(self) -> None:
        """Empty every cache but the disk."""
        for engine in self.engines:
            url = f"http://127.0.0.1:{PORTS[engine]}/reset_prefix_cache"
            self.client.post(url).raise_for_status()
        self.client.post(f"http://127.0.0.1:{HTTP_PORT}/cache/clear", json={}).raise_for_status()

    def store(self, ids: Sequence[int], salt: str = "") -> None:
        """Have a prompt's KV on disk."""
        before = len(stored())
        self.ask(self.engines[0], ids, salt)
        ends = time.monotonic() + 60
        while len(stored()) < before + len(ids) // CHUNK:
            if time.monotonic() > ends:
                raise LabError("LMCache did not store the prompt")
            time.sleep(0.2)
        self.bytes_per_token = stored()[-1].stat().st_size / CHUNK

    def one(
        self, engine: str, ids: Sequence[int], speed: float, salt: str = ""
    ) -> tuple[float, str]:
        """Ask with only the disk warm, as fast as given in tokens a second; then undo."""
        self.forget()
        kept = set(stored())
        throttle(int(speed * self.bytes_per_token))
        try:
            return self.ask(engine, ids, salt)
        finally:
            throttle(UNTHROTTLED)
            time.sleep(0.5)
            for file in set(stored()) - kept:
                file.unlink()


def stored() -> list[Path]:
    """Return the chunks on disk."""
    return sorted(DIRECTORY.glob("l2/*.data"))


def throttle(bytes_per_second: int) -> None:
    """Limit what the server reads from the disk; 0 lifts the limit."""
    device = DIRECTORY.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    container = run(["docker", "inspect", "--format", "{{.Id}}", SERVER])
    old = Path("/sys/fs/cgroup/blkio/docker", container, "blkio.throttle.read_bps_device")
    if old.exists():
        old.write_text(f"{name} {bytes_per_second}\n")
        return
    group = next(Path("/sys/fs/cgroup").glob(f"**/*{container}*/io.max"))
    group.write_text(f"{name} rbps={bytes_per_second or 'max'}\n")


@contextlib.contextmanager
def running(
    image: str, engines: Sequence[str] = (PLAIN, CAKE), *, larger: bool = False
) -> Iterator[Rig]:
    """Start LMCache's server and engines; they are removed with the block.

    Args:
        image: the lab's of the engine.
        engines: their containers; one or both.
        larger: take a model of four times the weights.
    """
    stop()
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    (DIRECTORY / "l2").mkdir(parents=True)
    run(["docker", "run", "--rm", "--user", "0:0", "--volume", f"{DIRECTORY}:/out",
         "--volume", f"{ROOT}/roles/model_store/files:/run/files:ro", "--workdir", "/run/files",
         "--entrypoint", "python3", image, "-m", "infbox_model", "random",
         "--place", "/out/model"])  # fmt: skip
    if larger:
        run(["docker", "run", "--rm", "--user", "0:0", "--volume", f"{DIRECTORY}:/out",
             "--entrypoint", "python3", image, "-c", LARGER])  # fmt: skip
    shutil.chown(DIRECTORY / "l2", 64430, 64430)
    try:
        start_server(image)
        for engine in engines:
            start_engine(image, engine)
        rig = Rig(engines)
        for engine in engines:
            await_engine(rig, engine)
        yield rig
    finally:
        stop()
        shutil.rmtree(DIRECTORY, ignore_errors=True)


def start_server(image: str) -> None:
    """Start LMCache's server with Cake's module; its disk is read past the page cache."""
    adapter = {"type": "fs_native", "base_path": "/l2", "use_odirect": True, "max_capacity_gb": 20}
    module = {"module_path": "infbox_cake.on_lmcache", "factory_name": "build_server_modules"}
    start(SERVER, image, "lmcache", [
        "server", "--host", "127.0.0.1", "--port", ZMQ_PORT, "--http-host", "127.0.0.1",
        "--http-port", HTTP_PORT, "--l1-size-gb", 2, "--eviction-policy", "LRU",
        "--chunk-size", CHUNK, "--hash-algorithm", "blake3", "--supported-transfer-mode", "auto",
        "--l2-prefetch-policy", "retain", "--l2-adapter", json.dumps(adapter),
        "--server-module", json.dumps(module),
    ], ["--volume", f"{DIRECTORY}/l2:/l2"])  # fmt: skip


def start_engine(image: str, engine: str) -> None:
    """Start vLLM, without Cake or with it."""
    connector: dict[str, Any] = {
        "kv_connector": "InfboxConnector",
        "kv_connector_module_path": "infbox_cake.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "lmcache.mp.host": "tcp://127.0.0.1",
            "lmcache.mp.port": ZMQ_PORT,
        },
    }
    more: list[str] = []
    if engine == CAKE:
        connector["kv_connector"] = "CakeConnector"
        connector["kv_connector_module_path"] = "infbox_cake.on_vllm"
        more = ["--scheduler-cls", "infbox_cake.on_vllm.CakeScheduler"]
    start(engine, image, "vllm", [
        "serve", "/model", "--host", "127.0.0.1", "--port", PORTS[engine], "--dtype", "float16",
        "--max-model-len", 20000, "--enforce-eager", "--served-model-name", "coder",
        "--kv-transfer-config", json.dumps(connector), *more,
    ], ["--volume", f"{DIRECTORY}/model:/model:ro"])  # fmt: skip


def start(name: str, image: str, program: str, words: Sequence[Any], more: Sequence[str]) -> None:
    """Start a container on the host's network, with this checkout's Cake."""
    environment = {
        "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1", "HOME": "/tmp",  # noqa: S108
        # The engine's core computes, as on one GPU: docs/decisions/0083.
        "OMP_NUM_THREADS": str(os.cpu_count()), "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "PYTHONPATH": "/cake", "TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": "1",
    }  # fmt: skip
    given = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
    run(["docker", "run", "--detach", "--name", name, "--network", "host", "--ipc", "host",
         "--volume", f"{ROOT}/cake/src:/cake:ro", *given, *more,
         "--entrypoint", program, image, *map(str, words)])  # fmt: skip


def await_engine(rig: Rig, engine: str) -> None:
    """Wait until an engine answers, and have it answer once: the first time takes longer."""
    ends = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if rig.client.get(f"http://127.0.0.1:{PORTS[engine]}/health").is_success:
                break
        is_there = run(["docker", "inspect", "--format", "{{.State.Running}}", engine]) == "true"
        if not is_there or time.monotonic() > ends:
            raise LabError(run(["sh", "-c", f"docker logs --tail 30 {engine} 2>&1"]))
        time.sleep(1)
    for length in (100, 2000):
        rig.ask(engine, prompt(length, length), "warm-up")


def stop() -> None:
    """Remove what an earlier run or this one started."""
    for name in (SERVER, *PORTS):
        if succeeds(["docker", "container", "inspect", name]):
            remove_container(name)


def prompt(length: int, seed: int) -> list[int]:
    """Return a prompt's token ids."""
    return random.Random(seed).choices(VOCABULARY, k=length)  # noqa: S311
