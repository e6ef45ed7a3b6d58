"""Measures what a coding agent's session costs the engine through infbox, and without.

Runs the real watcher and gateway on a tree of its own, in front of a real engine. An agent asks for
so many turns, saves a file itself before each second one, and somebody else saves one before each
fifth. The same session without infbox goes to the engine by turns with it: nobody else should use
the engine meanwhile. Then a client with a large system prompt and many tools of its own asks for
the first time in a large workspace.

    python -m bench.sessions [--engine http://127.0.0.1:8000 --tokenizer tokenizer.json]

Without an engine it starts the lab's on the CPU with random layers as wide as a 7B model's, which
needs root, a Docker Engine, `python -m lab up`, and 8 GB of memory.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

import bench.engine
from bench.warm import Status, free_port, make_tree, served_model, watching

COMPUTED_BAR = 1.05
FIRST_TOKEN_BAR = 1.2

_CHAT = "/v1/chat/completions"
_OWN_EVERY = 2
_OTHERS_EVERY = 5
_ANSWER_TOKENS = 8
_LAST_TURNS = 5
_WORDS_OF_SYSTEM = "Follow the conventions of the project, and say what you are about to do. "
_WORDS_OF_CLAUDE = "You are somebody who is asked about a system prompt that changes. "
_BILLING = "x-anthropic-billing-header: cc_version=2.1; cch={};"
_BILLED_REQUESTS = 3

_ENGINE = "infbox-sessions-engine"
_WINDOW = 49_152
_TOOL_CALLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
_LARGE_PACK_TOKENS = 32_000
_LARGE_FILES = 150
_LARGE_OWN_TOKENS = 12_000
_LARGE_TOOLS = 24
_BLOCK = 128  # tokens of a block of vLLM's cache on the CPU: only whole ones are kept
_WORDS_OF_TOOL = "Reads, writes or runs what it is told to, and says what came of it. "


@dataclass(frozen=True)
class Turn:
    """What a turn cost.

    Attributes:
        prompt: tokens of the prompt.
        computed: of them, those that were not in the cache.
        first: seconds to the first token.
        engine: of them, seconds in the engine; 0 where it was asked directly.
        state: of the conversation, as the gateway says; empty where it was not asked.
        told: tokens of changes that were told in all.
        after_save: whether files were saved just before.
    """

    prompt: int
    computed: int
    first: float
    engine: float = 0.0
    state: str = ""
    told: int = 0
    after_save: bool = False


@dataclass
class Recorder:
    """Stands between the gateway and the engine; keeps the last question and its first token."""

    session: aiohttp.ClientSession
    engine: str
    url: str = ""
    last: dict[str, Any] = field(default_factory=dict)
    first: float = 0.0  # seconds to its first token

    def app(self) -> web.Application:
        """Return the application to serve."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._pass)
        return app

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        is_question = request.path == _CHAT
        if is_question:
            self.last, self.first = json.loads(body), 0.0
        kind = {"content-type": request.content_type} if body else {}
        url = f"{self.engine}{request.path_qs}"
        began = time.perf_counter()
        async with self.session.request(request.method, url, data=body, headers=kind) as answer:
            passed = web.StreamResponse(status=answer.status)
            passed.content_type = answer.content_type
            with contextlib.suppress(ConnectionResetError):  # a warm-up that was superseded
                await passed.prepare(request)
                async for chunk in answer.content.iter_any():
                    if is_question:
                        self.first = self.first or time.perf_counter() - began
                    await passed.write(chunk)
                await passed.write_eof()
            return passed


@contextlib.asynccontextmanager
async def recording(session: aiohttp.ClientSession, engine: str) -> AsyncIterator[Recorder]:
    """Serve a recorder until the block is left."""
    recorder = Recorder(session, engine)
    runner = web.AppRunner(recorder.app(), access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    recorder.url = f"http://127.0.0.1:{port}"
    try:
        yield recorder
    finally:
        await runner.cleanup()


class Agent:
    """What an agent says in its session, and saves.

    Args:
        tree: the files.
        options: of the command.
    """

    def __init__(self, tree: list[Path], options: argparse.Namespace) -> None:
        self.messages: list[dict[str, Any]] = [
            {"role": "system", "content": _WORDS_OF_SYSTEM * options.system}
        ]
        self._tree = tree
        self._words = options.words

    def turns(self, count: int) -> Iterator[bool]:
        """Go on with the session; say whether files were saved."""
        for number in range(1, count + 1):
            if number > 1:
                self.messages.append({"role": "assistant", "content": f"It is done: {number}."})
            saves_own = number % _OWN_EVERY == 0
            if saves_own:
                self._save_own(number)
            if number % _OTHERS_EVERY == 0:
                file = self._tree[number % len(self._tree)]
                file.write_text(
                    f"{file.read_text()}\n\ndef theirs_{number}():\n    return {number}\n"
                )
            question = (
                f"Now for step {number} of the work. " + "And mind what was said. " * self._words
            )
            self.messages.append({"role": "user", "content": question})
            yield saves_own or number % _OTHERS_EVERY == 0

    def _save_own(self, number: int) -> None:
        file = self._tree[(number * 7) % len(self._tree)]
        text = f"\n\ndef mine_{number}(value):\n    return value + {number}\n"
        file.write_text(file.read_text() + text)
        arguments = json.dumps({"path": str(file), "append": text})
        call = {"name": "append", "arguments": arguments}
        name = f"call_{number}"
        self.messages += [
            {
                "role": "assistant",
                "content": f"I append to {file.name}.",
                "tool_calls": [{"id": name, "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": name, "content": "It is saved."},
            {"role": "assistant", "content": "That worked."},
        ]


@dataclass
class Bench:
    """All that runs.

    Attributes:
        both: the ways to the engine.
        recorder: in front of the engine, behind the gateway.
        status: of the watcher.
        tree: the files.
    """

    both: "Both"
    recorder: Recorder
    status: Status
    tree: list[Path]


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Have both sessions and the large first turn, and return what they cost."""
    timeout = aiohttp.ClientTimeout(total=3600)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with running(session, options, options.budget, options.files) as bench_:
            result = await sessions(bench_, Agent(bench_.tree, options), options)
            result["billing"] = await billing(bench_.both)
        served = await served_model(session, options)
        minimum = _LARGE_PACK_TOKENS + _LARGE_OWN_TOKENS + _ANSWER_TOKENS
        result["large"] = None
        if served["max_model_len"] > minimum and not options.without_conversations:
            async with running(session, options, _LARGE_PACK_TOKENS, _LARGE_FILES) as bench_:
                result["large"] = await large_first_turn(bench_.both)
        return result


@contextlib.asynccontextmanager
async def running(
    session: aiohttp.ClientSession, options: argparse.Namespace, budget: int, files: int
) -> AsyncIterator[Bench]:
    """Run the watcher and the gateway on a new tree, until the block is left.

    Args:
        session: to ask with.
        options: of the command.
        budget: tokens of the pack.
        files: of the tree.
    """
    engine = options.engine.rstrip("/")
    with tempfile.TemporaryDirectory(prefix="infbox-bench-") as name:
        directory = Path(name)
        tree = make_tree(directory / "tree", files)
        async with recording(session, engine) as recorder:
            served = await served_model(session, options)
            listen = f"127.0.0.1:{free_port()}"
            gateway = f"127.0.0.1:{free_port()}"
            engine_of_it = {"url": recorder.url, **served}
            config = write_config(directory, options, engine_of_it, (listen, gateway), budget)
            async with (
                watching(session, config, listen) as status,
                answering(session, config, gateway) as url,
            ):
                both = Both(session, engine, url, served["model"])
                yield Bench(both, recorder, status, tree)


def write_config(
    directory: Path,
    options: argparse.Namespace,
    engine: dict[str, Any],
    listen: tuple[str, str],
    budget: int,
) -> Path:
    """Write the configuration of the watcher and the gateway."""
    content = {
        "state_dir": str(directory / "state"),
        "engine": {"tokenizer": str(options.tokenizer.resolve()), **engine},
        "watcher": {"listen": listen[0]},
        "gateway": {"listen": listen[1]}
        | ({"conversations_mb": 0} if options.without_conversations else {}),
        "workspaces": [{"name": "bench", "path": str(directory / "tree"), "budget": budget}],
    }
    file = directory / "watcher.yml"
    file.write_text(yaml.safe_dump(content))
    return file


@contextlib.asynccontextmanager
async def answering(
    session: aiohttp.ClientSession, config: Path, listen: str
) -> AsyncIterator[str]:
    """Run the gateway until the block is left; its log goes to gateway.log beside its config."""
    program = Path(sys.executable).with_name("infbox-gateway")
    url = f"http://{listen}"
    with config.with_name("gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, "run", "--config", config, stderr=log
        )
        try:
            for _ in range(200):
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{url}/health"):
                        break
                await asyncio.sleep(0.1)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


@dataclass
class Both:
    """The two ways to the engine.

    Attributes:
        session: to ask with.
        direct: address of the engine.
        gateway: address of the gateway.
        model: that the engine serves.
    """

    session: aiohttp.ClientSession
    direct: str
    gateway: str
    model: str

    async def ask(self, url: str, model: str, messages: list[dict[str, Any]]) -> Turn:
        """Ask, and return what it cost."""
        body = {
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": _ANSWER_TOKENS,
        }
        began, first, told = time.perf_counter(), 0.0, b""
        async with self.session.post(f"{url}{_CHAT}", json=body) as answer:
            async for chunk in answer.content.iter_any():
                first = first or time.perf_counter() - began
                told += chunk
            headers = answer.headers
        events = [line for line in told.split(b"\n\n") if b'"usage":{' in line.replace(b" ", b"")]
        if not events:
            raise SystemExit(f"no usage: {told[-500:]!r}")
        usage = json.loads(events[-1].removeprefix(b"data: "))["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Turn(
            prompt=usage["prompt_tokens"],
            computed=usage["prompt_tokens"] - cached,
            first=first,
            state=headers.get("X-Infbox-Conversation", ""),
            told=int(headers.get("X-Infbox-Told-Tokens", "0")),
        )

    async def text(self, url: str, body: dict[str, Any]) -> str:
        """Return the whole greedy answer to a question."""
        whole = {**body, "stream": False, "temperature": 0, "max_tokens": 16}
        whole.pop("stream_options", None)
        async with self.session.post(f"{url}{_CHAT}", json=whole) as answer:
            return str((await answer.json())["choices"][0]["message"])


async def sessions(bench_: Bench, agent: Agent, options: argparse.Namespace) -> dict[str, Any]:
    """Have the agent's session both ways, turn by turn."""
    both, recorder, status = bench_.both, bench_.recorder, bench_.status
    through: list[Turn] = []
    direct: list[Turn] = []
    equal = 0
    version = (await status.now())["version"]
    for saved in agent.turns(options.turns):
        if saved:
            version = (await status.warm(version))["version"]
        turn = await both.ask(both.gateway, f"{both.model}@bench", agent.messages)
        through.append(replace(turn, engine=recorder.first, after_save=saved))
        direct.append(await both.ask(both.direct, both.model, agent.messages))
        if len(through) % 10 == 0:
            sent = recorder.last
            asked = {"model": f"{both.model}@bench", "messages": agent.messages}
            equal += await both.text(both.gateway, asked) == await both.text(both.direct, sent)
        show_turn(len(through), through[-1], direct[-1])
    return {"through": through, "direct": direct, "equal": equal, "compared": options.turns // 10}


async def large_first_turn(both: Both) -> dict[str, int]:
    """Return what the first turn of a client costs that brings much of its own."""
    sentence = await _count(both, _WORDS_OF_TOOL)
    per_tool = _LARGE_OWN_TOKENS // (2 * _LARGE_TOOLS) // sentence
    tools = [
        {
            "type": "function",
            "function": {
                "name": f"tool_{number}",
                "description": _WORDS_OF_TOOL * per_tool,
                "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
            },
        }
        for number in range(_LARGE_TOOLS)
    ]
    system = _WORDS_OF_SYSTEM * (_LARGE_OWN_TOKENS // 2 // await _count(both, _WORDS_OF_SYSTEM))
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": "Where do I begin?"},
    ]
    own = await _count(both, messages, tools)
    body = {"model": f"{both.model}@bench", "messages": messages, "tools": tools}
    request = {**body, "max_tokens": 1, "temperature": 0}
    async with both.session.post(f"{both.gateway}{_CHAT}", json=request) as answer:
        told, pack = await answer.json(), answer.headers.get("X-Infbox-Pack-Tokens", "0")
    if "usage" not in told:
        raise SystemExit(f"the large first turn was refused: {told}")
    usage = told["usage"]
    return {
        "own": own,
        "pack": int(pack),
        "prompt": usage["prompt_tokens"],
        "cached": (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
    }


async def _count(both: Both, text: str | list[dict[str, Any]], tools: object = None) -> int:
    """Return how many tokens a text has, or a chat."""
    chat = {"messages": text, "tools": tools}
    asked = {"prompt": text, "add_special_tokens": False} if isinstance(text, str) else chat
    body = {"model": both.model, **asked}
    async with both.session.post(f"{both.direct}/tokenize", json=body) as answer:
        return int((await answer.json())["count"])


async def billing(both: Both) -> dict[str, list[int]]:
    """Return how many tokens are computed of requests that differ in Claude Code's first block."""
    computed: dict[str, list[int]] = {"/v1/messages": [], _CHAT: []}
    for number in range(_BILLED_REQUESTS):
        blocks = [
            {"type": "text", "text": _BILLING.format(f"{number:05x}")},
            {"type": "text", "text": _WORDS_OF_CLAUDE * 60},
        ]
        user = {"role": "user", "content": "Why?"}
        bodies = {
            "/v1/messages": {"system": blocks, "messages": [user], "max_tokens": 1},
            _CHAT: {"messages": [{"role": "system", "content": blocks}, user], "max_tokens": 1},
        }
        for path, body in bodies.items():
            body["model"] = f"{both.model}@bench"
            async with both.session.post(f"{both.gateway}{path}", json=body) as answer:
                usage = (await answer.json())["usage"]
            if path == _CHAT:
                cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                computed[path].append(usage["prompt_tokens"] - cached)
            else:
                made = usage.get("cache_creation_input_tokens") or 0
                computed[path].append(usage["input_tokens"] + made)
    return computed


def show_turn(number: int, through: Turn, direct: Turn) -> None:
    """Print one turn for people."""
    print(
        f"{number:4} {through.state:24} computed {through.computed:6} of {through.prompt:6}, "
        f"{through.first * 1000:7.0f} ms; without {direct.computed:6} of {direct.prompt:6}, "
        f"{direct.first * 1000:7.0f} ms; told {through.told}",
        flush=True,
    )


def report(result: dict[str, Any]) -> dict[str, Any]:
    """Return the figures; those of the first turn, which computes the client's own, are apart."""
    through, direct = result["through"], result["direct"]
    told = through[-1].told
    saved = [place for place, turn in enumerate(through) if turn.after_save][-_LAST_TURNS:]
    first = statistics.median(through[place].first for place in saved)
    outside = statistics.median(through[place].first - through[place].engine for place in saved)
    first_direct = statistics.median(direct[place].first for place in saved)
    mean = statistics.mean(turn.computed for turn in through[1:])
    mean_direct = statistics.mean(turn.computed for turn in direct[1:])
    return {
        "turns": len(through),
        "computed_mean": mean,
        "computed_mean_without": mean_direct,
        "told_mean": told / (len(through) - 1),
        "computed_of_bar": mean / (COMPUTED_BAR * mean_direct + told / (len(through) - 1)),
        "first_token_after_saves": first,
        "first_token_outside_engine": outside,
        "first_token_without": first_direct,
        "first_token_ratio": first / first_direct,
        "first_turn_computed": through[0].computed,
        "first_turn_without": direct[0].computed,
        "equal_answers": f"{result['equal']} of {result['compared']}",
        "billing_computed": result["billing"],
        "large_first_turn": result["large"],
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures for people."""
    print(f"{figures['turns']} turns; tokens that the engine computed, mean from the second on")
    print(f"  through infbox                 {figures['computed_mean']:8.0f}")
    print(f"  without                        {figures['computed_mean_without']:8.0f}")
    print(f"  of changes told                {figures['told_mean']:8.0f}")
    print(f"  through / (1.05 without + told){figures['computed_of_bar']:8.2f}   bar 1.00")
    print(
        f"  the last {_LAST_TURNS} turns after a save, median to the first token, in milliseconds"
    )
    print(f"  through infbox                 {figures['first_token_after_saves'] * 1000:8.0f}")
    print(f"  of it outside the engine       {figures['first_token_outside_engine'] * 1000:8.0f}")
    print(f"  without                        {figures['first_token_without'] * 1000:8.0f}")
    ratio = figures["first_token_ratio"]
    print(f"  ratio                          {ratio:8.2f}   bar {FIRST_TOKEN_BAR}")
    print(f"  first turn, computed           {figures['first_turn_computed']:8.0f}")
    print(f"  first turn, without            {figures['first_turn_without']:8.0f}")
    equal = figures["equal_answers"]
    print(f"  greedy answers equal to those of the same prompt sent directly: {equal}   bar all")
    print(f"  computed, three requests with another billing block: {figures['billing_computed']}")
    show_large(figures["large_first_turn"])


def show_large(large: dict[str, int] | None) -> None:
    """Print what the large first turn cost."""
    if large is None:
        needed = _LARGE_PACK_TOKENS + _LARGE_OWN_TOKENS
        print(f"  first turn in a large workspace: not measured, it takes a window of {needed}")
        return
    print(f"first turn, the client's own {large['own']} tokens, a pack of {large['pack']}")
    print(f"  tokens of the prompt           {large['prompt']:8}")
    minimum = large["pack"] // _BLOCK * _BLOCK
    print(f"  cached                         {large['cached']:8}   bar the pack's: {minimum}")
    print(f"  computed                       {large['prompt'] - large['cached']:8}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--engine", metavar="URL", help="vLLM's base address; else the lab's")
    parser.add_argument("--tokenizer", metavar="FILE", type=Path, help="of that engine")
    parser.add_argument("--model", metavar="NAME", default="", help="the first that is served")
    parser.add_argument("--budget", metavar="TOKENS", type=int, default=6000)
    parser.add_argument("--files", metavar="N", type=int, default=20)
    parser.add_argument("--turns", metavar="N", type=int, default=30)
    parser.add_argument("--system", metavar="N", type=int, default=80, help="sentences of its own")
    parser.add_argument(
        "--words", metavar="N", type=int, default=20, help="sentences of a question"
    )
    parser.add_argument("--small", action="store_true", help="the lab's model: quicker")
    parser.add_argument("--without-conversations", action="store_true", help="switch them off")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if bool(options.engine) != bool(options.tokenizer):
        parser.error("--engine and --tokenizer: give both, or neither")
    with contextlib.ExitStack() as stack:
        if not options.engine:
            shape = None if options.small else bench.engine.LAYERS_OF_7B
            served = stack.enter_context(bench.engine.running(_ENGINE, _WINDOW, _TOOL_CALLS, shape))
            options.engine, options.tokenizer = served
        figures = report(asyncio.run(measure(options)))
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
