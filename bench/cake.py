"""Measures the time to the first token where KV is computed, loaded from disk, or both at once.

Starts LMCache's server and two engines on this machine's CPU, in the lab's engine image: one with
LMCache's own connector, one with Cake. Both share what is stored. The disk is slowed down by the
kernel's own throttle on the server's container, which is given as a share of the speed at which
the engine computes; chunks are read past the page cache.

    python -m bench.cake [--lengths 2000,8000] [--shares 25,50,100] [--ratios 0.1,0.3,1,3,10]

Needs root, a Docker Engine, `python -m lab up`, and nobody else on the machine: two cores compute.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from lab.images import engine_image
from lab.settings import ROOT, STATE
from lab.shell import LabError, run, succeeds

FOLDER = STATE / "bench-cake"
SERVER, PLAIN, CAKE = (f"infbox-bench-{name}" for name in ("lmcache", "plain", "cake"))
ZMQ_PORT, HTTP_PORT = 15555, 18020
PORTS = {PLAIN: 18000, CAKE: 18001}
CHUNK = 256  # tokens
START_SECONDS = 300
ANSWER_TOKENS = 8
TRIES = 2
SUFFIX = 40  # tokens of a question after what is cached
UNTHROTTLED = 0
VOCABULARY = range(300, 3900)  # whole words of the random model


@dataclass(frozen=True)
class Cell:
    """One prompt, by each way.

    Attributes:
        length: tokens of the prompt.
        share: of it that is stored.
        ratio: speed of the disk, in speeds of computing.
        computed, loaded, raced: seconds to the first token; the best of the tries.
        bound: what 1/(1/compute + 1/load) allows.
        equal: whether all three answered the same.
    """

    length: int
    share: float
    ratio: float
    computed: float
    loaded: float
    raced: float
    bound: float
    equal: bool

    @property
    def against_better(self) -> float:
        """Cake's time in times of the better way alone."""
        return self.raced / min(self.computed, self.loaded)


@dataclass(frozen=True)
class Question:
    """What is asked, and what it takes to compute all of it.

    Attributes:
        length: tokens of the prompt that it begins with.
        ids: its tokens.
        cached: how many of them are stored.
        computed: seconds to the first token without any cache.
        answer: what was answered then.
    """

    length: int
    ids: Sequence[int]
    cached: int
    computed: float
    answer: str

    @property
    def speed(self) -> float:
        """Tokens computed a second."""
        return len(self.ids) / self.computed


class Bench:
    """The three containers and what is asked of them."""

    def __init__(self) -> None:
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
        first, answer = 0.0, ""
        began = time.monotonic()
        url = f"http://127.0.0.1:{PORTS[engine]}/v1/completions"
        with self.client.stream("POST", url, json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    first = first or time.monotonic() - began
                    answer += str(json.loads(line[6:])["choices"][0].get("token_ids"))
        return first, answer

    def forget(self) -> None:
        """Empty every cache but the disk."""
        for port in PORTS.values():
            self.client.post(f"http://127.0.0.1:{port}/reset_prefix_cache").raise_for_status()
        self.client.post(f"http://127.0.0.1:{HTTP_PORT}/cache/clear", json={}).raise_for_status()

    def store(self, ids: Sequence[int]) -> None:
        """Have a prompt's KV on disk."""
        before = len(stored())
        self.ask(PLAIN, ids)
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
    return sorted(FOLDER.glob("l2/*.data"))


def throttle(bytes_per_second: int) -> None:
    """Limit what the server reads from the disk; 0 lifts the limit."""
    device = FOLDER.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    container = run(["docker", "inspect", "--format", "{{.Id}}", SERVER])
    old = Path("/sys/fs/cgroup/blkio/docker", container, "blkio.throttle.read_bps_device")
    if old.exists():
        old.write_text(f"{name} {bytes_per_second}\n")
        return
    group = next(Path("/sys/fs/cgroup").glob(f"**/*{container}*/io.max"))
    group.write_text(f"{name} rbps={bytes_per_second or 'max'}\n")


@contextlib.contextmanager
def running(image: str) -> Iterator[Bench]:
    """Start the three containers; they are removed with the block."""
    stop()
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "l2").mkdir(parents=True)
    run(["docker", "run", "--rm", "--user", "0:0", "--volume", f"{FOLDER}:/out",
         "--volume", f"{ROOT}/roles/model_store/files:/run/files:ro", "--workdir", "/run/files",
         "--entrypoint", "python3", image, "-m", "infbox_model", "random",
         "--place", "/out/model"])  # fmt: skip
    shutil.chown(FOLDER / "l2", 64430, 64430)
    try:
        start_server(image)
        for engine in PORTS:
            start_engine(image, engine)
        bench = Bench()
        for engine in PORTS:
            await_engine(bench, engine)
        yield bench
    finally:
        stop()
        shutil.rmtree(FOLDER, ignore_errors=True)


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
    ], ["--volume", f"{FOLDER}/l2:/l2"])  # fmt: skip


def start_engine(image: str, engine: str) -> None:
    """Start vLLM, with LMCache's connector or Cake's."""
    connector: dict[str, Any] = {
        "kv_connector": "LMCacheMPConnector",
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
    ], ["--volume", f"{FOLDER}/model:/model:ro"])  # fmt: skip


def start(name: str, image: str, program: str, words: Sequence[Any], more: Sequence[str]) -> None:
    """Start a container on the host's network, with this checkout's Cake."""
    environment = {
        "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1", "HOME": "/tmp",  # noqa: S108
        "PYTHONPATH": "/cake", "TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": "1",
    }  # fmt: skip
    given = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
    run(["docker", "run", "--detach", "--name", name, "--network", "host", "--ipc", "host",
         "--volume", f"{ROOT}/cake/src:/cake:ro", *given, *more,
         "--entrypoint", program, image, *map(str, words)])  # fmt: skip


def await_engine(bench: Bench, engine: str) -> None:
    """Wait until an engine answers, and have it answer once: the first time takes longer."""
    ends = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if bench.client.get(f"http://127.0.0.1:{PORTS[engine]}/health").is_success:
                break
        if time.monotonic() > ends:
            raise LabError(run(["docker", "logs", "--tail", "30", engine]))
        time.sleep(1)
    for length in (100, 2000):
        bench.ask(engine, prompt(length, length), "warm-up")


def stop() -> None:
    """Remove what an earlier run or this one started."""
    for name in (SERVER, *PORTS):
        if succeeds(["docker", "container", "inspect", name]):
            run(["docker", "rm", "--force", name])


def prompt(length: int, seed: int) -> list[int]:
    """Return a prompt's token ids."""
    return random.Random(seed).choices(VOCABULARY, k=length)  # noqa: S311


def measure(bench: Bench, question: Question, ratio: float) -> Cell:
    """Measure one cell; the ways take turns, and the best of the tries of each counts."""
    speed, load = question.speed, question.speed * ratio
    tries = [
        (bench.one(PLAIN, question.ids, load), bench.one(CAKE, question.ids, load))
        for _ in range(TRIES)
    ]
    loaded, raced = (min(took for took, _ in way) for way in zip(*tries, strict=True))
    rest = len(question.ids) - question.cached
    bound = question.cached / (speed + load) + rest / speed
    answers = {answer for way in tries for _, answer in way} | {question.answer}
    return Cell(
        question.length, question.cached / question.length, ratio, question.computed, loaded,
        raced, bound, len(answers) == 1,
    )  # fmt: skip


def ask_whole(bench: Bench, ids: Sequence[int], share: float) -> Question:
    """Have a question about a stored prompt computed, which tells how fast that is."""
    cached = int(len(ids) * share) // CHUNK * CHUNK
    asked = [*ids[:cached], *prompt(len(ids) - cached + SUFFIX, int(share * 100) + 1)]
    tries = [bench.one(PLAIN, asked, 1e6, f"other-{time.time_ns()}") for _ in range(TRIES)]
    return Question(len(ids), asked, cached, min(took for took, _ in tries), tries[0][1])


def grid(bench: Bench, arguments: argparse.Namespace) -> list[Cell]:
    """Measure all cells, and print each as it comes."""
    cells = []
    print(f"{'tokens':>7} {'stored':>7} {'disk':>6}  computed  loaded    cake   better   bound")
    for length in arguments.lengths:
        ids = prompt(length, length)
        bench.store(ids)
        for share in arguments.shares:
            question = ask_whole(bench, ids, share / 100)
            for ratio in arguments.ratios:
                cell = measure(bench, question, ratio)
                cells.append(cell)
                print(
                    f"{length:>7,} {share:>6}% {ratio:>5}x {cell.computed:>8.2f}s"
                    f" {cell.loaded:>6.2f}s {cell.raced:>6.2f}s {cell.against_better:>7.2f}x"
                    f" {cell.raced / cell.bound:>6.2f}x{'' if cell.equal else '  NOT EQUAL'}",
                    flush=True,
                )
    return cells


def faults(bench: Bench, length: int) -> None:
    """Print what a disk that stalls, and chunks that are damaged, do to a prompt."""
    ids = prompt(length, length)
    question = [*ids, *prompt(SUFFIX, 7)]
    computed, answer = bench.one(PLAIN, question, 1e6, "faults")
    took, stalled = bench.one(CAKE, question, 1e-3)
    print(f"the disk stalls: {took / computed:.2f} x computing ({equal(answer, stalled)})")
    for file in stored()[::3]:
        with file.open("r+b") as chunk:
            chunk.truncate(chunk.seek(0, os.SEEK_END) // 2)
    took, cut = bench.one(CAKE, question, 1e6)
    print(f"a third of the chunks is cut: {took / computed:.2f} x ({equal(answer, cut)})")


def equal(first: str, second: str) -> str:
    """Say whether two answers are the same."""
    return "same answer" if first == second else "ANOTHER ANSWER"


def summary(cells: Sequence[Cell]) -> None:
    """Print the figures of the bars."""
    worst = max(cells, key=lambda cell: cell.against_better)
    even = [c.against_better for c in cells if c.ratio == 1 and c.share == 1]
    mean = statistics.mean
    print(f"worst cell against the better way: {worst.against_better:.2f} x (bar 1.05)")
    if even:
        print(f"where both are equally fast: {', '.join(f'{r:.2f}' for r in even)} x (bar 0.65)")
    print(f"mean against computing: 1/{mean(c.computed / c.raced for c in cells):.2f}")
    print(f"mean against loading: 1/{mean(c.loaded / c.raced for c in cells):.2f}")
    print(f"mean against the bound: {mean(c.raced / c.bound for c in cells):.2f} x (bar 1.25)")
    print(f"answers equal: {sum(cell.equal for cell in cells)} of {len(cells)}")


def numbers(text: str) -> list[float]:
    """Read a list of numbers with commas."""
    return [float(part) for part in text.split(",")]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lengths", type=numbers, default=[2000, 8000], metavar="TOKENS,…")
    parser.add_argument("--shares", type=numbers, default=[25, 50, 100], metavar="PERCENT,…")
    parser.add_argument("--ratios", type=numbers, default=[0.1, 0.3, 1, 3, 10], metavar="RATIO,…")
    parser.add_argument("--no-faults", action="store_true", help="leave out stalls and damage")
    parser.add_argument("--json", type=Path, help="write the cells there")
    arguments = parser.parse_args()
    arguments.lengths = [int(length) for length in arguments.lengths]
    with running(engine_image()) as bench:
        cells = grid(bench, arguments)
        if not arguments.no_faults:
            faults(bench, arguments.lengths[0])
    summary(cells)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
