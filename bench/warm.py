"""Measures from a save until it is warm, less the engine's own prefill time.

Runs the real watcher on a tree of its own, against a real engine, and saves files in it. The
watcher asks the engine through a small relay here, which reads the engine's own measure of each
request's prefill from its metrics: nobody else should use the engine meanwhile.

    python -m bench.warm --engine http://127.0.0.1:8000 --tokenizer tokenizer.json
"""

import argparse
import asyncio
import contextlib
import json
import math
import re
import socket
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

BAR_SECONDS = 0.15
_PREFILL = re.compile(
    r"^vllm:request_prefill_time_seconds_(sum|count)\{[^}]*\} (\S+)$", re.MULTILINE
)
# Times are the watcher's own; asking it more often delays the very events that are measured.
_POLL_SECONDS = 0.25
_STATUS_OK = 200
_MOST_BYTES = 6000
_MIN_BYTES = 500


@dataclass(frozen=True)
class Request:
    """A warm-up that the engine answered; times are unix times, durations seconds."""

    began: float
    ended: float
    prefill: float


@dataclass
class Relay:
    """Stands between the watcher and the engine, and notes what each warm-up cost the engine."""

    session: aiohttp.ClientSession
    engine: str
    requests: list[Request] = field(default_factory=list)
    _read: asyncio.Task[None] | None = None
    _last: tuple[float, int] = (0.0, 0)

    def app(self) -> web.Application:
        """Return the application to serve."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._pass)
        return app

    async def _pass(self, request: web.Request) -> web.Response:
        is_warm_up = request.path == "/v1/completions"
        if is_warm_up and self._read:
            await self._read
        if is_warm_up and not self.requests:
            self._last = await self._prefill()
        body, began = await request.read(), time.time()
        url = f"{self.engine}{request.path_qs}"
        kind = {"content-type": request.content_type} if body else {}
        async with self.session.request(request.method, url, data=body, headers=kind) as answer:
            said = await answer.read()
            if is_warm_up and answer.status == _STATUS_OK:
                note = self._note(began, time.time())
                self._read = asyncio.get_running_loop().create_task(note)
            return web.Response(body=said, status=answer.status, content_type=answer.content_type)

    async def _note(self, began: float, ended: float) -> None:
        """Note a request once the engine's metrics have it; they lag a little behind answers."""
        seconds, count = self._last
        for _ in range(200):
            now = await self._prefill()
            if now[1] > count:
                break
            await asyncio.sleep(0.01)
        self._last = now
        prefill = now[0] - seconds if now[1] == count + 1 else float("nan")
        self.requests.append(Request(began, ended, prefill))

    async def _prefill(self) -> tuple[float, int]:
        async with self.session.get(f"{self.engine}/metrics") as answer:
            found = _PREFILL.findall(await answer.text())
        totals = {name: 0.0 for name, _ in found}
        for name, value in found:
            totals[name] += float(value)
        return totals.get("sum", 0.0), int(totals.get("count", 0))

    async def settled(self) -> None:
        """Wait until the last request is noted."""
        if self._read:
            await self._read


@dataclass(frozen=True)
class Save:
    """One save, in seconds.

    Attributes:
        to_warm: from before the write until its computation had ended.
        to_engine: of that, until the first request reached the engine.
        in_engine: of that, requests to the engine.
        prefill: of that, the engine's own measure of its prefill.
    """

    to_warm: float
    to_engine: float
    in_engine: float
    prefill: float


async def measure(options: argparse.Namespace) -> list[Save]:
    """Save files as often as asked for, and return what each cost."""
    timeout = aiohttp.ClientTimeout(total=1800)
    with tempfile.TemporaryDirectory(prefix="infbox-bench-") as name:
        directory = Path(name)
        tree = make_tree(directory / "tree", options.files)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            served = await served_model(session, options)
            relay = Relay(session, options.engine.rstrip("/"))
            async with serving(relay) as url:
                listen = f"127.0.0.1:{free_port()}"
                config = write_config(directory, options, {"url": url, **served}, listen)
                async with watching(session, config, listen) as status:
                    return await saves(status, relay, tree, options.saves)


def make_tree(root: Path, count: int) -> list[Path]:
    """Make a tree of small files of the standard library, and return them."""
    root.mkdir()
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = (source.read_bytes() for source in sorted(library.glob("**/*.py")))
    small = (text for text in sources if _MIN_BYTES < len(text) < _MOST_BYTES)
    files = []
    for number, text in zip(range(count), small, strict=False):
        files.append(root / f"module_{number:03}.py")
        files[-1].write_bytes(text)
    return files


async def served_model(
    session: aiohttp.ClientSession, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the model's name and its window in tokens, as the configuration names them."""
    async with session.get(f"{options.engine.rstrip('/')}/v1/models") as answer:
        models = (await answer.json())["data"]
    model = next((model for model in models if options.model in ("", model["id"])), None)
    if model is None:
        raise SystemExit(f"--model: {options.model} is not served there: give one that is")
    return {"model": model["id"], "max_model_len": model["max_model_len"]}


def write_config(
    directory: Path, options: argparse.Namespace, engine: dict[str, Any], listen: str
) -> Path:
    """Write the watcher's configuration."""
    more = {"tokenizer": str(options.tokenizer.resolve())}
    if options.lmcache:
        more["lmcache"] = options.lmcache
    workspace = {"name": "bench", "path": str(directory / "tree"), "budget": options.budget}
    content = {
        "state_dir": str(directory / "state"),
        "engine": {**engine, **more},
        "watcher": {"listen": listen},
        "workspaces": [workspace],
    }
    file = directory / "watcher.yml"
    file.write_text(yaml.safe_dump(content))
    return file


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def serving(relay: Relay) -> AsyncIterator[str]:
    """Serve the relay; give its address."""
    runner = web.AppRunner(relay.app(), access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


class Status:
    """What the watcher says of its one workspace."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def now(self) -> dict[str, Any]:
        """Return it; empty as long as the watcher does not answer."""
        try:
            async with self._session.get(self._url) as answer:
                workspace: dict[str, Any] = (await answer.json())["workspaces"]["bench"]
                return workspace
        except (aiohttp.ClientError, KeyError):
            return {}

    async def warm(self, after: int) -> dict[str, Any]:
        """Wait until a later version than this one is warm, and return the status."""
        while True:
            status = await self.now()
            if status.get("warm") and status["version"] > after:
                return status
            if status.get("error"):
                raise SystemExit(f"not warm: {status['error']}")
            await asyncio.sleep(_POLL_SECONDS)


@contextlib.asynccontextmanager
async def watching(
    session: aiohttp.ClientSession, config: Path, listen: str
) -> AsyncIterator[Status]:
    """Run the watcher until the block is left; its log goes to watcher.log beside its config."""
    program = Path(sys.executable).with_name("infbox-watch")
    log_file = config.with_name("watcher.log")
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, "run", "--config", config, stderr=log
        )
        status = Status(session, f"http://{listen}/status")
        try:
            first = asyncio.ensure_future(status.warm(0))
            ended = asyncio.ensure_future(process.wait())
            await asyncio.wait({first, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                first.cancel()
                raise SystemExit(f"the watcher ended: {log_file.read_text()[-2000:]}")
            first.result()
            yield status
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def saves(status: Status, relay: Relay, tree: list[Path], count: int) -> list[Save]:
    """Save files, one after the other, each once the one before is warm."""
    done: list[Save] = []
    before = await status.now()
    number = 0
    while len(done) < count:
        number += 1
        await asyncio.sleep(0.3)  # beyond a debounce, and the proof has ended
        await relay.settled()
        file = tree[number % min(len(tree), 5)]
        text = file.read_text() + f"\n\ndef saved_{number}(value):\n    return value + {number}\n"
        wrote = time.time()
        file.write_text(text)
        after = await status.warm(before["version"])
        await relay.settled()
        is_rebased = after["generation"] != before["generation"]
        before = after
        if is_rebased or after["save_to_warm_seconds"] is None:
            continue  # a new base was computed, maybe beforehand
        warm_at = after["last_save"] + after["save_to_warm_seconds"]
        requests = [
            request for request in relay.requests if wrote <= request.began < request.ended
            and request.ended <= warm_at + 0.001
        ]  # fmt: skip
        if requests:
            done.append(
                Save(
                    to_warm=warm_at - wrote,
                    to_engine=requests[0].began - wrote,
                    in_engine=sum(request.ended - request.began for request in requests),
                    prefill=sum(request.prefill for request in requests),
                )
            )
    return [save for save in done if not math.isnan(save.prefill)]


def report(done: list[Save]) -> dict[str, float]:
    """Return the medians, in seconds."""
    own = [save.to_warm - save.prefill for save in done]
    return {
        "saves": len(done),
        "save_to_warm": statistics.median(save.to_warm for save in done),
        "engine_prefill": statistics.median(save.prefill for save in done),
        "difference": statistics.median(own),
        "difference_p90": sorted(own)[int(len(own) * 0.9)],
        "save_to_request": statistics.median(save.to_engine for save in done),
        "request_less_prefill": statistics.median(s.in_engine - s.prefill for s in done),
        "bar": BAR_SECONDS,
    }


def show(medians: dict[str, float]) -> None:
    """Print the medians for people."""
    to_warm, prefill = medians["save_to_warm"], medians["engine_prefill"]
    print(f"{medians['saves']:.0f} saves; medians in milliseconds")
    print(f"  save to warm                   {to_warm * 1000:8.0f}")
    print(f"  the engine's own prefill       {prefill * 1000:8.0f}   the floor")
    print(f"  save to warm / prefill         {to_warm / prefill:8.2f}")
    difference = medians["difference"] * 1000
    print(f"  difference                     {difference:8.0f}   bar {BAR_SECONDS * 1000:.0f}")
    print(f"    nine of ten are below        {medians['difference_p90'] * 1000:8.0f}")
    print(f"    of it, until the request     {medians['save_to_request'] * 1000:8.0f}")
    print(f"    of it, in the engine         {medians['request_less_prefill'] * 1000:8.0f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--engine", metavar="URL", required=True, help="vLLM's base address")
    parser.add_argument("--tokenizer", metavar="FILE", type=Path, required=True)
    parser.add_argument("--model", metavar="NAME", default="", help="the first that is served")
    parser.add_argument("--lmcache", metavar="URL", default="", help="LMCache's HTTP interface")
    parser.add_argument("--budget", metavar="TOKENS", type=int, default=6000)
    parser.add_argument("--files", metavar="N", type=int, default=20)
    parser.add_argument("--saves", metavar="N", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    done = asyncio.run(measure(options))
    if not done:
        raise SystemExit("nothing was measured: somebody else used the engine")
    medians = report(done)
    show(medians)
    if options.json:
        options.json.write_text(json.dumps(medians, indent=1) + "\n")


if __name__ == "__main__":
    main()
