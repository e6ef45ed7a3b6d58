"""Shows in which order vLLM and LMCache evict KV, and that a pack that is proven warm goes last.

One real engine with a small KV cache, and LMCache's server with as small a memory, both filled by
prompts of strangers. The pack is asked for again between them as the watcher's proofs do, or not.
What is left of it then is what the engine counts as cached: after the strangers, and once more
after vLLM's own cache was emptied, so that only LMCache's memory has it. Counts tokens, so it does
not matter how busy the machine is.

    python -m bench.eviction [--json FILE]

Needs root, a Docker Engine, `python -m lab up`, and 4 GB of memory.
"""

import argparse
import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

import bench.engine
from bench.warm import free_port
from lab.cake import prompt, start
from lab.images import engine_image

SERVER, ENGINE = "infbox-eviction-lmcache", "infbox-eviction-engine"
CHUNK = 256
BLOCK = 128
VLLM_TOKENS = 48 * BLOCK
LMCACHE_GB = 0.03125
PACK_TOKENS = 2048
OWN_TOKENS = 512
STRANGER_TOKENS = 512
SETTLE_SECONDS = 4.0  # LMCache's eviction looks once a second
WINDOW = 4096
STRANGERS = (4, 8, 16)
EACH = 4  # strangers between two proofs

_seeds = itertools.count(1)


class Left(NamedTuple):
    """What was left of a conversation with its pack.

    Attributes:
        strangers: prompts that came between.
        proven: whether the pack was asked for between them.
        vllm: tokens that were in vLLM's cache or LMCache's.
        lmcache: tokens that LMCache alone had.
    """

    strangers: int
    proven: bool
    vllm: int
    lmcache: int


class Engine:
    """The real engine.

    Args:
        url: of it.
        lmcache: address of LMCache's own API.
    """

    def __init__(self, url: str, lmcache: str) -> None:
        self._client = httpx.Client(timeout=600)
        self._url, self._lmcache = url, lmcache

    def ask(self, ids: Sequence[int]) -> int:
        """Ask for one token; return how many tokens of the prompt were cached."""
        body = {"model": "coder", "prompt": list(ids), "max_tokens": 1, "temperature": 0}
        answer = self._client.post(f"{self._url}/v1/completions", json=body)
        answer.raise_for_status()
        return (answer.json()["usage"]["prompt_tokens_details"] or {}).get("cached_tokens") or 0

    def forget(self, *, everything: bool) -> None:
        """Empty vLLM's cache, and LMCache's where everything is to go."""
        self._client.post(f"{self._url}/reset_prefix_cache").raise_for_status()
        if everything:
            self._client.post(f"{self._lmcache}/cache/clear", json={}).raise_for_status()


def measure(engine: Engine, strangers: int, *, proven: bool) -> Left:
    """Have a pack and a conversation computed, fill both caches, and return what is left."""
    counts = []
    for only_lmcache in (False, True):
        engine.forget(everything=True)
        pack = prompt(PACK_TOKENS, next(_seeds))
        conversation = [*pack, *prompt(OWN_TOKENS, next(_seeds))]
        engine.ask([*pack, 1])
        engine.ask([*conversation, 1])
        for number in range(1, strangers + 1):
            engine.ask(prompt(STRANGER_TOKENS, next(_seeds)))
            if number % EACH == 0:
                time.sleep(SETTLE_SECONDS / 2)
                if proven:
                    engine.ask([*pack, 1])
        time.sleep(SETTLE_SECONDS)
        if only_lmcache:
            engine.forget(everything=False)
        counts.append(engine.ask([*conversation, 1]))
    return Left(strangers, proven, *counts)


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    """Start both; they are removed with the block."""
    zmq, http = free_port(), free_port()
    bench.engine.remove(SERVER)
    try:
        start(SERVER, engine_image(), "lmcache", [
            "server", "--host", "127.0.0.1", "--port", zmq, "--http-host", "127.0.0.1",
            "--http-port", http, "--l1-size-gb", LMCACHE_GB, "--eviction-policy", "LRU",
            "--chunk-size", CHUNK, "--hash-algorithm", "blake3",
            "--supported-transfer-mode", "auto",
        ], [])  # fmt: skip
        few = ["--block-size", BLOCK, "--num-gpu-blocks-override", VLLM_TOKENS // BLOCK]
        words = [*few, *bench.engine.connected(zmq)]
        with bench.engine.running(ENGINE, WINDOW, words) as served:
            yield Engine(served.url, f"http://127.0.0.1:{http}")
    finally:
        bench.engine.remove(SERVER)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", metavar="FILE", type=Path, help="write it as JSON too")
    options = parser.parse_args()
    found = []
    print(
        f"a pack of {PACK_TOKENS} tokens, a conversation of {OWN_TOKENS} behind it, then strangers "
        f"of {STRANGER_TOKENS}; vLLM holds {VLLM_TOKENS} tokens\n"
        f"{'strangers':>9} {'proven':>7} {'cached':>7} {'by LMCache alone':>17}",
        flush=True,
    )
    with running() as engine:
        for proven in (False, True):
            for strangers in STRANGERS:
                left = measure(engine, strangers, proven=proven)
                found.append(left)
                print(
                    f"{strangers:>9} {'yes' if proven else 'no':>7} {left.vllm:>7} "
                    f"{left.lmcache:>17}",
                    flush=True,
                )
    again = [left for left in found if left.proven]
    whole = sum(min(left.vllm, left.lmcache) >= PACK_TOKENS for left in again)
    print(f"packs that were proven between and are whole: {whole} of {len(again)}   bar all")
    if options.json:
        options.json.write_text(json.dumps([left._asdict() for left in found]))


if __name__ == "__main__":
    main()
