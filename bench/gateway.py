"""Measures what the gateway adds: time to the first byte, throughput, memory, leaks.

Asks an engine directly and through the gateway by turns. The engine is a fast one of this file's
own, a process by itself that reads and answers as vLLM does, over the same server library, and
computes nothing; with `--engine URL` also a real one.

    python -m bench.gateway [--engine http://127.0.0.1:8000 --model coder] [--json FILE]
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count, repeat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from bench.workload import cpu_seconds

CHAT = "/v1/chat/completions"
WORKSPACE = "bench"
PACK_TOKENS = 100_000
PACK_BYTES = 430_000
STREAMS = 50
IDLE = 500
LEAK_REQUESTS = 10_000
CONVERSATIONS = 1000
MESSAGES = 100  # of each

_JSON = {"content-type": "application/json"}
_ROUNDS = 4
_ROUND_SECONDS = 9.0
_ENGINE_ROUNDS = 6  # of a real engine, which answers a question in seconds
_ENGINE_ROUND_SECONDS = 30.0
_READY_SECONDS = 180.0  # on a machine that does much else
_GRACE_SECONDS = 15.0  # after a round, for answers that have begun
_MIN_ANSWERS = 20  # of which a median and a tail can be told
_SETTLE_SECONDS = 4.0  # by then connections that nobody uses are closed
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Target:
    """Who is asked, and how.

    Attributes:
        url: its address.
        bodies: of the questions, as JSON, by turns.
    """

    url: str
    bodies: Iterator[bytes]

    @property
    def body(self) -> bytes:
        """The next question."""
        return next(self.bodies)


@dataclass(frozen=True)
class Pace:
    """What the fast engine answers with: so many events, a pause in seconds after each."""

    events: int
    pause: float

    @property
    def query(self) -> str:
        """Tell it so: in the address, of which the gateway takes nothing away."""
        return f"?events={self.events}&pause={self.pause}"


CHATTING = Pace(events=40, pause=0.05)  # an answer of two seconds, 20 tokens a second
BUSY = Pace(events=100, pause=0.02)
FLAT_OUT = Pace(events=2000, pause=0)
SHORT = Pace(events=3, pause=0)
SILENT = Pace(events=10_000, pause=3600)

EVENT = b"data: " + json.dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1795516905,
        "model": "coder",
        "choices": [{"index": 0, "delta": {"content": " token"}, "finish_reason": None}],
    }
).encode() + b"\n\n"  # fmt: skip


async def engine(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as told by the request's address (an ASGI application)."""
    while (await receive()).get("more_body"):
        pass
    told = dict(parse_qsl(scope["query_string"].decode()))
    events = int(told.get("events", "1"))
    pause = float(told.get("pause", "0"))
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    gone = asyncio.ensure_future(receive())
    for _ in range(events):
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        if pause:
            await asyncio.wait([gone], timeout=pause)
        if gone.done():
            return
    gone.cancel()
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


def serve_engine(port: int) -> None:
    """Serve the fast engine until SIGTERM."""
    uvicorn.run(
        engine, port=port, log_level="warning", access_log=False, lifespan="off", loop="uvloop"
    )


class Gateway:
    """The gateway as a process, in front of an engine, with one pack.

    Args:
        directory: for its files.
        url: of the engine.
        model: that the engine serves.
        pack: text of the pack.
    """

    def __init__(self, directory: Path, url: str, model: str, pack: str) -> None:
        self.port = _free_port()
        self._directory = directory
        self._config = {
            "state_dir": str(directory / "state"),
            "engine": {"url": url, "model": model, "max_model_len": 10 * PACK_TOKENS},
            "watcher": {"listen": f"127.0.0.1:{_free_port()}"},
            "gateway": {"listen": f"127.0.0.1:{self.port}"},
            "workspaces": [{"name": WORKSPACE, "path": str(directory), "budget": PACK_TOKENS}],
        }
        self._model = model
        self._pack = pack
        self.pid = 0

    @contextlib.contextmanager
    def running(self) -> Iterator["Gateway"]:
        """Run it until the block is left."""
        self._publish()
        config = self._directory / "watcher.yml"
        config.write_text(json.dumps(self._config))
        program = Path(sysconfig.get_path("scripts")) / "infbox-gateway"
        with _process([program, "run", "--config", config], self.port) as self.pid:
            yield self

    def _publish(self) -> None:
        directory = self._directory / "state" / "packs" / WORKSPACE
        directory.mkdir(parents=True)
        pack = {
            "workspace": WORKSPACE,
            "model": self._model,
            "generation": 1,
            "version": 1,
            "sha256": sha256(self._pack.encode()).hexdigest(),
            "tokens": PACK_TOKENS,
            "text": self._pack,
            "sections": [[len(self._pack), PACK_TOKENS]],
            "entries": [["intro", "", "", ""]],
            "epoch": "bench",
        }
        (directory / "pack.json").write_text(json.dumps(pack, ensure_ascii=False))

    @property
    def megabytes(self) -> float:
        """Memory that is its own."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return float(status.partition("VmRSS:")[2].split()[0]) / 1024

    @property
    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        return cpu_seconds(Path(f"/proc/{self.pid}"))

    @property
    def sockets(self) -> int:
        """Sockets that it has open."""
        links = [_link(entry) for entry in Path(f"/proc/{self.pid}/fd").iterdir()]
        return sum(link.startswith("socket:") for link in links)


def targets(direct: str, gateway: Gateway, pack: str, model: str, **body: Any) -> dict[str, Target]:
    """Return the same question for both: with the pack in it, and with the workspace's name."""
    question = {"role": "user", "content": "Where are orders priced?"}
    long = {"model": model, "messages": [{"role": "system", "content": pack}, question]}
    short = {"model": f"{model}@{WORKSPACE}", "messages": [question]}
    return {
        "direct": Target(direct + CHAT, repeat(json.dumps({**long, **body}).encode())),
        "gateway": Target(
            f"http://127.0.0.1:{gateway.port}{CHAT}", repeat(json.dumps({**short, **body}).encode())
        ),
    }


def talks(direct: str, gateway: Gateway, pack: str) -> dict[str, Target]:
    """Return the next turns of many conversations for both; each is another one's."""

    def turns(system: list[dict[str, str]], model: str, size: int) -> Iterator[bytes]:
        for number in count():
            body = {"model": model, "stream": True, "messages": [*system, *_messages(number, size)]}
            yield json.dumps(body).encode()

    shown = [{"role": "system", "content": pack}]
    return {
        "direct": Target(direct + CHAT, turns(shown, "coder", MESSAGES + 2)),
        "first": Target(
            f"http://127.0.0.1:{gateway.port}{CHAT}", turns([], f"coder@{WORKSPACE}", MESSAGES)
        ),
        "gateway": Target(
            f"http://127.0.0.1:{gateway.port}{CHAT}", turns([], f"coder@{WORKSPACE}", MESSAGES + 2)
        ),
    }


def _messages(number: int, size: int) -> list[dict[str, str]]:
    """Return so many messages of one of the conversations, of some 400 bytes each."""
    text = f"What is said in conversation {number % CONVERSATIONS}, as often as it takes. " * 6
    roles = ("assistant", "user") if size % 2 == 0 else ("user", "assistant")
    return [{"role": roles[n % 2], "content": f"{n}: {text}"} for n in range(size)]


@dataclass
class Heard:
    """What one round heard: seconds to each first byte, and events a second in all."""

    firsts: list[float]
    rate: float


async def listen(target: Target, query: str, streams: int, seconds: float) -> Heard:
    """Keep so many streams going for so long, their starts spread over the first second.

    The first question on each connection is left out: neither side keeps one waiting in practice.
    What is not answered a while after the end is broken off: on a machine that gives this next to
    nothing, rounds took minutes.
    """
    firsts: list[float] = []
    heard = 0
    began = time.perf_counter()

    async def ask_on(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal heard
        await asyncio.sleep(number / streams)
        is_first = True
        while time.perf_counter() - began < seconds:
            start, first = time.perf_counter(), None
            async for chunk in _answer(session, target, query):
                if first is None:
                    first = time.perf_counter() - start
                    firsts.extend([] if is_first else [first])
                heard += chunk.count(b"\n\n")
            is_first = False

    async with _session() as session:
        asking = asyncio.gather(*(ask_on(session, number) for number in range(streams)))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asking, seconds + _GRACE_SECONDS)
    return Heard(firsts, heard / (time.perf_counter() - began))


async def compare(
    both: dict[str, Target],
    query: str,
    streams: int,
    rounds: int = _ROUNDS,
    seconds: float = _ROUND_SECONDS,
) -> dict[str, Heard]:
    """Ask both by turns, the first round of each for warming up."""
    heard: dict[str, list[Heard]] = {name: [] for name in both}
    for number in range(rounds + 1):
        order = list(both.items()) if number % 2 else list(both.items())[::-1]
        for name, target in order:
            one = await listen(target, query, streams, seconds if number else 1.0)
            heard[name] += [one] if number else []
    return {
        name: Heard(
            [first for one in ones for first in one.firsts],
            statistics.median(one.rate for one in ones),
        )
        for name, ones in heard.items()
    }


async def idle_megabytes(gateway: Gateway, target: Target) -> float:
    """Return the gateway's memory while so many streams wait for their next event."""
    async with _session() as session, contextlib.AsyncExitStack() as stack:

        async def begin() -> None:
            answer = await stack.enter_async_context(
                session.post(target.url + SILENT.query, data=target.body, headers=_JSON)
            )
            await answer.content.readany()

        for _ in range(IDLE // STREAMS):
            await asyncio.gather(*(begin() for _ in range(STREAMS)))
        await asyncio.sleep(1)
        return gateway.megabytes


@dataclass(frozen=True)
class Left:
    """What is left of many requests."""

    sockets: int
    megabytes: float


async def leaks(gateway: Gateway, target: Target, requests: int) -> Left:
    """Ask so often, a hundredth of it left in the middle, and say what stays behind."""
    turns = iter(range(requests))

    async def ask_on(session: aiohttp.ClientSession) -> None:
        for number in turns:
            leaves = number % 100 == 0
            query = SILENT.query if leaves else SHORT.query
            async for _ in _answer(session, target, query):
                if leaves:
                    break

    async with _session() as session:
        await asyncio.gather(*(ask_on(session) for _ in range(STREAMS)))
    await asyncio.sleep(_SETTLE_SECONDS)
    return Left(gateway.sockets, gateway.megabytes)


async def overhead(directory: Path) -> dict[str, float]:
    """Measure against the fast engine."""
    pack, port = _text(PACK_BYTES), _free_port()
    own = [sys.executable, "-m", "bench.gateway", "--serve-engine", str(port)]
    direct = f"http://127.0.0.1:{port}"
    gateway = Gateway(directory, direct, "coder", pack)
    with _process(own, port), gateway.running():
        both = targets(direct, gateway, pack, "coder", stream=True)
        result = _figures("", await compare(both, CHATTING.query, STREAMS))
        for name, pace in (("paced", BUSY), ("flat_out", FLAT_OUT)):
            heard = await compare(both, pace.query, STREAMS)
            result[f"{name}_events_per_second"] = heard["gateway"].rate
            result[f"{name}_of_direct"] = heard["gateway"].rate / heard["direct"].rate
        before = await leaks(gateway, both["gateway"], LEAK_REQUESTS // 10)
        after = await leaks(gateway, both["gateway"], LEAK_REQUESTS)
        result["leaked_sockets"] = after.sockets - before.sockets
        result["leaked_mb"] = after.megabytes - before.megabytes
    for name, length in (("idle_mb", 0), ("idle_long_questions_mb", 100_000)):
        with (
            _process(own, port),
            Gateway(_made(directory / name), direct, "coder", pack).running() as g,
        ):
            own_text = {"user": "x" * length}
            target = targets(direct, g, pack, "coder", stream=True, **own_text)["gateway"]
            result[name] = await idle_megabytes(g, target)
    return result


async def conversations(directory: Path) -> dict[str, float]:
    """Measure further turns of many conversations that are known, against the fast engine."""
    pack, port = _text(PACK_BYTES), _free_port()
    own = [sys.executable, "-m", "bench.gateway", "--serve-engine", str(port)]
    direct = f"http://127.0.0.1:{port}"
    gateway = Gateway(directory, direct, "coder", pack)
    with _process(own, port), gateway.running():
        targets_of = talks(direct, gateway, pack)
        first = targets_of.pop("first")
        began = time.monotonic()
        await ask(first, SHORT.query, CONVERSATIONS)
        _say(f"{CONVERSATIONS} conversations begun in {time.monotonic() - began:.0f} s")
        before = gateway.cpu_seconds
        await ask(targets_of["gateway"], SHORT.query, CONVERSATIONS)
        used = (gateway.cpu_seconds - before) / CONVERSATIONS
        _say(f"a turn takes the gateway {used * 1e3:.2f} ms of processor time")
        heard = await compare(targets_of, CHATTING.query, STREAMS)
        figures = {**_figures("known_", heard), "known_cpu_ms": used * 1e3}
        return {**figures, "known_mb": gateway.megabytes}


async def ask(target: Target, query: str, count: int) -> None:
    """Ask so often, as many at once as there are streams: a busy machine makes each wait."""
    turns = iter(range(count))

    async def ask_on(session: aiohttp.ClientSession) -> None:
        for _ in turns:
            async for _ in _answer(session, target, query):
                pass

    async with _session() as session:
        await asyncio.gather(*(ask_on(session) for _ in range(STREAMS)))


async def whole(directory: Path, url: str, model: str, pack_bytes: int) -> dict[str, float]:
    """Measure against a real engine, whose cache has the pack after the first question."""
    pack = _text(pack_bytes)
    with Gateway(directory, url, model, pack).running() as gateway:
        body = {"stream": True, "max_tokens": 64, "ignore_eos": True, "temperature": 0}
        both = targets(url, gateway, pack, model, **body)
        heard = await compare(both, "", 1, _ENGINE_ROUNDS, _ENGINE_ROUND_SECONDS)
    result = _figures("engine_", heard)
    result["engine_of_direct"] = heard["gateway"].rate / heard["direct"].rate
    return result


def _figures(prefix: str, heard: dict[str, Heard]) -> dict[str, float]:
    result: dict[str, float] = {f"{prefix}requests": len(heard["gateway"].firsts)}
    if min(len(one.firsts) for one in heard.values()) < _MIN_ANSWERS:
        _say(
            f"{prefix or 'overhead'}: too few answers came in the time of a round: the machine does"
            f" too much else (load {os.getloadavg()[0]:.0f}); measure on a quiet one"
        )
        return result
    for name, at in (("median", 50), ("p99", 99)):
        ms = {who: 1000 * _percentile(one.firsts, at) for who, one in heard.items()}
        result |= {f"{prefix}{who}_first_byte_{name}_ms": value for who, value in ms.items()}
        result[f"{prefix}added_first_byte_{name}_ms"] = ms["gateway"] - ms["direct"]
    return result


async def _answer(
    session: aiohttp.ClientSession, target: Target, query: str
) -> AsyncIterator[bytes]:
    async with session.post(target.url + query, data=target.body, headers=_JSON) as answer:
        answer.raise_for_status()
        async for chunk in answer.content.iter_any():
            yield chunk


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2),
        timeout=aiohttp.ClientTimeout(total=None),
    )


@contextlib.contextmanager
def _process(command: Sequence[str | Path], port: int) -> Iterator[int]:
    """Run a program that listens on a port until the block is left; give its process number."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        ends = time.monotonic() + _READY_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > ends:
                raise SystemExit(f"{command[0]} does not listen on port {port}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _link(entry: Path) -> str:
    with contextlib.suppress(OSError):
        return str(entry.readlink())
    return ""


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _say(text: str) -> None:
    """Say how far it is."""
    print(text, file=sys.stderr, flush=True)


def _text(size: int) -> str:
    """Return source text of so many bytes, no line like another."""
    line = 'def function_{}(value):\n    return "{}", value * {}\n\n'
    lines = (line.format(n, n, n) for n in range(size // 40))
    return "".join(lines)[:size]


def _percentile(values: Sequence[float], at: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[at - 1]


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--engine", help="address of a real engine that nobody else uses")
    parser.add_argument("--model", default="coder", help="that it serves")
    parser.add_argument("--pack-bytes", type=int, default=15_000, help="of the pack for it")
    parser.add_argument(
        "--conversations", action="store_true", help="measure known conversations alone"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--serve-engine", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_engine:
        serve_engine(options.serve_engine)
        return
    with tempfile.TemporaryDirectory() as directory:
        result = {"load": os.getloadavg()[0]}
        for part in parts(Path(directory), options):
            result |= part
            for name, value in part.items():
                print(f"{name:36} {value:12.2f}", flush=True)
            if options.json:  # each time: whoever cannot wait has the parts that were measured
                options.json.write_text(json.dumps(result, indent=2) + "\n")


def parts(directory: Path, options: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Yield the figures of each part as soon as it is measured."""
    yield uvloop.run(conversations(_made(directory / "known")))
    if not options.conversations:
        yield uvloop.run(overhead(_made(directory / "fast")))
    if options.engine:
        real = _made(directory / "real")
        yield uvloop.run(whole(real, options.engine, options.model, options.pack_bytes))


if __name__ == "__main__":
    main()
