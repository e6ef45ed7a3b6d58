"""What it costs that workspaces are private, and whether times tell of those that one may not use.

    python -m bench.private [--requests 3000] [--budget 6000] [--repository REPO]

Times: requests for a workspace that is there and not the user's, beside requests for one that is
not there, with names of one length, in turns in one process, in CPU time. A second name that is not
there says how far two of the same kind are apart on this machine.

Sharing: how much two packs begin alike, which one cache would keep once for both if they had the
same salt, in whole chunks of LMCache.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from infbox import config
from infbox.gateway.app import Gateway
from infbox.packing.tokens import BYTES_PER_TOKEN
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CHUNK = 256  # tokens
HIDDEN, ABSENT, ALSO_ABSENT = "lilac", "zebra", "quark"
QUESTION = {"messages": [{"role": "user", "content": "Why?"}]}
PATHS: dict[str, tuple[str, str, dict[str, object] | None]] = {
    "chat, by the model's name": ("POST", "/v1/chat/completions", {"model": "coder@NAME"}),
    "chat, by the header": ("POST", "/v1/chat/completions", {"model": "coder"}),
    "messages": ("POST", "/v1/messages", {"model": "coder@NAME", "max_tokens": 5}),
    "status of a workspace": ("GET", "/v1/workspaces/NAME/status", None),
    "pack": ("GET", "/v1/workspaces/NAME/pack", None),
    "tools": ("POST", "/mcp/NAME", None),
}


def gateway(directory: Path) -> Gateway:
    """Return a gateway of ten workspaces, of which the one is hidden that has a pack."""
    file = directory / "state" / "packs" / HIDDEN / "pack.json"
    file.parent.mkdir(parents=True)
    pack = {"workspace": HIDDEN, "model": "coder", "generation": 1, "version": 1, "sha256": "",
            "tokens": 6000, "text": "x" * 24000, "sections": [[24000, 6000]]}  # fmt: skip
    file.write_text(json.dumps(pack))
    names = [HIDDEN, *(f"w{number}" for number in range(9))]
    (directory / "watcher.yml").write_text(json.dumps({
        "state_dir": str(directory / "state"),
        "engine": {"url": "http://127.0.0.1:1", "model": "coder", "max_model_len": 32768},
        "gateway": {"requires_user": True, "restricts_workspaces": True},
        "workspaces": [{"name": name, "path": str(directory), "budget": 6000} for name in names],
    }))  # fmt: skip
    return Gateway(config.load(directory / "watcher.yml"))


async def ask(app: Gateway, what: str, name: str) -> tuple[int, int]:
    """Send a request without a network; return its status and its CPU time in nanoseconds."""
    method, path, body = PATHS[what]
    path = path.replace("NAME", name)
    told = json.dumps({**body, **QUESTION}).replace("NAME", name).encode() if body else b"{}"
    headers = {"x-infbox-user": "ann", "x-infbox-workspaces": "w0,w1", "content-type":
               "application/json", "accept": "application/json, text/event-stream",
               "content-length": str(len(told))}  # fmt: skip
    if what.endswith("header"):
        headers["x-infbox-workspace"] = name
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        "server": ("127.0.0.1", 8010), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    statuses: list[int] = []
    is_sent, is_done = False, asyncio.Event()

    async def receive() -> dict[str, object]:
        nonlocal is_sent
        if is_sent:
            await is_done.wait()
            return {"type": "http.disconnect"}
        is_sent = True
        return {"type": "http.request", "body": told, "more_body": False}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(int(str(message["status"])))

    began = time.process_time_ns()
    await app.app(scope, receive, send)  # type: ignore[arg-type]
    took = time.process_time_ns() - began
    is_done.set()
    return statuses[0], took


async def times(requests: int) -> Table:
    """Compare the times of names that are hidden and of names that are not there."""
    table = Table("request", "median, µs", "hidden / absent", "absent / absent",
                  title=f"CPU time of 404, {requests} requests of each name in turns")  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        app = gateway(Path(directory))
        for what in PATHS:
            took: dict[str, list[int]] = {HIDDEN: [], ABSENT: [], ALSO_ABSENT: []}
            for _ in range(requests):
                for name in random.sample(list(took), 3):
                    status, nanoseconds = await ask(app, what, name)
                    assert status == 404, (what, name, status)  # noqa: PLR2004, S101
                    took[name].append(nanoseconds)
            hidden, absent, other = (statistics.median(took[name]) for name in took)
            table.add_row(what, f"{absent / 1000:.0f}", f"{hidden / absent:.3f}",
                          f"{other / absent:.3f}")  # fmt: skip
    return table


def pack_of(tree: Path, budget: int) -> str:
    """Return the pack of a tree."""
    program = Path(sys.executable).with_name("infbox-watch")
    command: list[str | Path] = [program, "pack", tree, "--budget", str(budget)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return str(done.stdout)


def alike(one: str, other: str) -> float:
    """Return how many tokens two packs begin alike."""
    same = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    return len(one[:same].encode()) / BYTES_PER_TOKEN


def salts(directory: Path) -> tuple[bool, bool]:
    """Return whether an overlay has the salt of its base, and whether another workspace has it."""
    file = directory / "watcher.yml"
    file.write_text(json.dumps({
        "state_dir": str(directory), "gateway": {"restricts_workspaces": True},
        "engine": {"url": "http://127.0.0.1:1", "model": "coder", "max_model_len": 32768},
        "workspaces": [{"name": "shop", "path": str(directory / "a"), "budget": 6000},
                       {"name": "anna", "path": str(directory / "b"), "budget": 7500,
                        "base": "shop"},
                       {"name": "web", "path": str(directory / "c"), "budget": 6000}],
    }))  # fmt: skip
    made = config.load(file)
    base, overlay, other = (made.cache_salts(workspace)[0] for workspace in made.workspaces)
    return overlay == base, other == base


def sharing(repository: Path, budget: int) -> Table:
    """Compare packs that would share a beginning."""
    table = Table("two workspaces", "begin alike", "one salt", "lost by the salt",
                  title=f"Tokens of packs of {budget}, kept in chunks of {CHUNK}")  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        first, second = Path(directory) / "one", Path(directory) / "two"
        for tree in (first, second):
            subprocess.run(["git", "clone", "--quiet", repository, tree], check=True)
        parts = [tree for tree in first.iterdir() if tree.is_dir() and tree.name[0] != "."]
        parts = sorted(parts, key=lambda tree: -sum(1 for _ in tree.rglob("*")))[:2]
        trees = alike(*(pack_of(tree, budget) for tree in parts))
        checkouts = alike(pack_of(first, budget), pack_of(second, budget))
        (first / "c").mkdir()
        of_overlay, of_other = salts(first)
    rows = [
        ("different trees", trees, of_other),
        ("two checkouts of one commit", checkouts, of_other),
    ]
    for name, tokens, is_one in rows:
        lost = 0 if is_one else int(tokens) // CHUNK * CHUNK
        table.add_row(name, f"{tokens:.0f}", "yes" if is_one else "no", str(lost))
    table.add_row("a tree and its overlay", "the base", "yes" if of_overlay else "no", "0")
    return table


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--budget", type=int, default=6000)
    parser.add_argument("--repository", type=Path, default=ROOT)
    options = parser.parse_args()
    console = Console()
    console.print(asyncio.run(times(options.requests)))
    console.print(sharing(options.repository.resolve(), options.budget))


if __name__ == "__main__":
    main()
