"""What a question takes behind infbox's gateway and behind litellm's proxy.

Both stand in front of the fast engine of `bench.gateway`. Processor time a question is what other
work on the machine changes least.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import uvloop

from .. import gateway as fast
from ..workload import cpu_seconds
from .environment import version
from .trees import row

QUESTIONS = 400
AT_ONCE = 4
_QUESTION = {"role": "user", "content": "Where are orders priced?"}


def measure(directory: Path, programs: Path) -> Iterator[dict[str, object]]:
    """Ask directly, through the gateway, and through litellm.

    Args:
        directory: an empty one.
        programs: of the peers.
    """
    pack, port, own = fast._text(fast.PACK_BYTES), fast._free_port(), fast._free_port()
    direct = f"http://127.0.0.1:{port}"
    gateway = fast.Gateway(directory, direct, "coder", pack)
    config = directory / "litellm.yml"
    config.write_text(json.dumps(proxied(direct)))  # which is YAML too
    litellm: list[str | Path] = ["env", "LITELLM_LOCAL_MODEL_COST_MAP=True", programs / "litellm"]
    litellm += ["--config", config, "--port", str(own), "--host", "127.0.0.1"]
    engine: list[str | Path] = [sys.executable, "-m", "bench.gateway", "--serve-engine", str(port)]
    with (
        fast._process(engine, port) as asked,
        gateway.running(),
        fast._process(litellm, own) as proxy,
    ):
        through = f"http://127.0.0.1:{gateway.port}"
        ways = {
            "direct": (asked, direct, "coder"),
            "infbox's gateway": (gateway.pid, through, "coder"),
            "infbox's gateway, with a pack": (gateway.pid, through, f"coder@{fast.WORKSPACE}"),
            version("litellm"): (proxy, f"http://127.0.0.1:{own}", "coder"),
        }
        for who, (process, url, model) in ways.items():
            body = {"model": model, "messages": [_QUESTION], "stream": True}
            target = fast.Target(url + fast.CHAT, repeat(json.dumps(body).encode()))
            uvloop.run(ask(target, QUESTIONS // 10))  # the first ones tell of a start
            before = cpu_seconds(Path(f"/proc/{process}"))
            firsts = uvloop.run(ask(target, QUESTIONS))
            used = cpu_seconds(Path(f"/proc/{process}")) - before
            yield row("first byte, median", who, statistics.median(firsts) * 1e3, "ms")
            if who != "direct":
                yield row("a question, CPU", who, used / QUESTIONS * 1e3, "ms")
        yield row("memory, the proxy alone", "infbox's gateway", gateway.megabytes, "MB")
        gateway.pid = proxy
        yield row("memory, the proxy alone", version("litellm"), gateway.megabytes, "MB")


def proxied(url: str) -> dict[str, object]:
    """Return litellm's configuration: the same model, and nothing that is kept of a question."""
    model = {"model": "openai/coder", "api_base": f"{url}/v1", "api_key": "none"}
    return {
        "model_list": [{"model_name": "coder", "litellm_params": model}],
        "litellm_settings": {"telemetry": False},
        # As ours, it is asked without a key, on this machine alone.
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }


async def ask(target: fast.Target, count: int) -> list[float]:
    """Ask so often, a few at once; return the seconds to each first byte."""
    turns = iter(range(count))
    firsts: list[float] = []

    async def ask_on() -> None:
        for _ in turns:
            began, first = time.perf_counter(), None
            async for _chunk in fast._answer(session, target, ""):
                first = first or time.perf_counter() - began
            firsts.append(first or float("nan"))

    async with fast._session() as session:
        await asyncio.gather(*(ask_on() for _ in range(AT_ONCE)))
    return firsts
