"""Measures what large bodies cost the gateway: how long its loop stands still, and memory.

Sends bodies of 32 MB, several at once, to the gateway in a process of its own. Its loop notes how
much processor time the process used between two of its turns: that is how long nobody else was
answered, whatever else the machine does. The engine is the fast one of `bench.gateway`.

    python -m bench.bodies [--at-once 6] [--json FILE]
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product, repeat
from pathlib import Path

import aiohttp
import uvloop

from bench import gateway as bench

SIZE = 32_000_000
_TICK_SECONDS = 0.001
_HEAD = b'{"model": "%s", "messages": '
_PROSE = b"All that is said here, and said often. "


def bodies() -> Iterator[tuple[str, bytes]]:
    """Return kinds of bodies, each of 32 MB less some, without their beginning."""
    pieces = {
        "a question": (b'[{"role": "user", "content": "', b"", b'"}]'),
        "pictures": (b'[{"role": "user", "content": "', b"QUJD", b'"}]'),
        "prose": (b'[{"role": "user", "content": "', _PROSE, b'"}]'),
        "escapes": (b'[{"role": "user", "content": "', b"\\u00e4", b'"}]'),
        "empty lists": (b"[", b"[],", b"0]"),
        "objects": (b"[", b'{"a":1},', b"0]"),
        "just so many": (b'["' + b"x" * (SIZE - 1_600_000) + b'",', b"[],", b"0]"),
        "deep": (b"", b"[", b""),
        "one number": (b"", b"1", b""),
        "the same name": (b"0", b', "priority": 0', b""),
    }
    for name, (before, piece, after) in pieces.items():
        space = SIZE - 1000 - len(before)
        yield name, before + piece * (space // len(piece) if piece else 0) + after + b"}"


async def serve(config: Path, port: int) -> None:
    """Serve a gateway, and tell on a further port how long its loop stood still at most."""
    from infbox.config import load  # noqa: PLC0415  # of the tree that is measured
    from infbox.gateway.app import Gateway  # noqa: PLC0415
    from infbox.runtime.serve import listening, server  # noqa: PLC0415

    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        before = time.process_time()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.process_time()
            longest, before = max(longest, now - before), now

    async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal longest
        writer.write(str(1000 * longest).encode())
        longest = 0.0
        writer.close()

    settings = load(config)
    telling = await asyncio.start_server(tell, "127.0.0.1", port)
    ticking = asyncio.create_task(tick())
    serving = server(Gateway(settings).app, idle_seconds=180, grace_seconds=1)
    await serving.serve(sockets=[listening(settings.gateway.listen, "gateway.listen")])
    ticking.cancel()
    telling.close()


async def longest_ms(port: int) -> float:
    """Return how long the loop stood still at most since it was asked last."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        return float(await reader.read())


async def send(session: aiohttp.ClientSession, url: str, body: bytes) -> str:
    """Send a body; return the status of the answer."""
    headers = {"content-type": "application/json"}
    try:
        async with session.post(url + bench.CHAT, data=body, headers=headers) as answer:
            await answer.read()
            return str(answer.status)
    except aiohttp.ClientError as error:
        return type(error).__name__


async def measure(model: str, rest: bytes, at_once: int) -> dict[str, object]:
    """Send a body so often at once to a gateway of its own."""
    port, told = bench._free_port(), bench._free_port()
    engine = [sys.executable, "-m", "bench.gateway", "--serve-engine", str(port)]
    with tempfile.TemporaryDirectory() as directory, bench._process(engine, port):
        pack = bench._text(bench.PACK_BYTES)
        gateway = bench.Gateway(Path(directory), f"http://127.0.0.1:{port}", "coder", pack)
        gateway._publish()
        config = Path(directory) / "watcher.yml"
        config.write_text(json.dumps(gateway._config))
        own = [sys.executable, "-m", "bench.bodies", "--serve", str(config), str(told)]
        with bench._process(own, gateway.port) as gateway.pid:
            await longest_ms(told)
            before = gateway.megabytes
            body = _HEAD % model.encode() + rest
            async with bench._session() as session:
                url = f"http://127.0.0.1:{gateway.port}"
                sent = await asyncio.gather(*(send(session, url, b) for b in repeat(body, at_once)))
            return {
                "answers": dict(Counter(sent)),
                "loop_ms": round(await longest_ms(told)),
                "before_mb": round(before),
                "peak_mb": round(_peak(gateway.pid)),
            }


def _peak(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        uvloop.run(serve(Path(given.serve[0]), int(given.serve[1])))
        return
    result = {}
    for (name, rest), model in product(bodies(), ("coder", f"coder@{bench.WORKSPACE}")):
        found = asyncio.run(measure(model, rest, given.at_once))
        result[f"{name}, {model}"] = found
        print(f"{name:14} {model:12} {found}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
