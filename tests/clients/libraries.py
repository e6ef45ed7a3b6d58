"""Runs a driver of a library, and reads what it saw."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.configured import PATH, Server, configured
from tests.clients.environments import node_environment, python_environment

DRIVERS = Path(__file__).parent / "drivers"
CHECKS = ("answer", "stream", "tool", "models")
GRACE_SECONDS = 5.0
# Five that are installed together in a second: these run in `make test`.
FIVE = ("openai", "anthropic", "llm", "langchain", "pydantic-ai")


@dataclass(frozen=True)
class Library:
    """A library, or a command of one, that a driver asks through.

    Attributes:
        driver: file below ``drivers``.
        lock: for Python, that it is installed by; empty for Node.js.
        configuration: the NAME of `infbox-watch client`.
        without: the checks that it has no way to do, and why.
        needs: tokens that its own prompt and an answer take; 0 if that is next to nothing.
    """

    driver: str
    lock: str = ""
    configuration: str = "openai"
    without: Mapping[str, str] = field(default_factory=dict)
    needs: int = 0


@dataclass(frozen=True)
class Seen:
    """What came of a check.

    Attributes:
        check: answer, stream, tool or models.
        outcome: ``passed``, ``form`` (the request was accepted, the rest cannot be seen),
            ``none`` (the client does not do it) or ``failed``.
        said: what was seen, in short.
        seconds: that it took.
    """

    check: str
    outcome: str
    said: str
    seconds: float = 0.0


_NO_LIST = {"models": "it has no call for it"}


def _agent(
    configuration: str, needs: int, lock: str = "", without: Mapping[str, str] = _NO_LIST
) -> Library:
    return Library("agent_cli.py", lock, configuration, without, needs)


LIBRARIES: Mapping[str, Library] = {
    "openai": Library("openai_python.py", "libraries"),
    "anthropic": Library("anthropic_python.py", "libraries", "anthropic"),
    "llm": Library("llm_cli.py", "libraries", "llm"),
    "langchain": Library("langchain_python.py", "libraries", without=_NO_LIST),
    "pydantic-ai": Library("pydantic_ai_python.py", "libraries", without=_NO_LIST),
    "litellm": Library("litellm_python.py", "litellm"),
    "litellm-proxy": Library("litellm_proxy.py", "litellm"),
    "open-webui": Library("open_webui.py", "open-webui", "open-webui"),
    "llamaindex": Library("llamaindex_python.py", "llamaindex", without=_NO_LIST),
    "instructor": Library("instructor_python.py", "instructor"),
    "openai-node": Library("openai_node.mjs"),
    "anthropic-node": Library("anthropic_node.mjs", configuration="anthropic"),
    "ai-sdk": Library("ai_sdk.mjs", without=_NO_LIST),
    "aider": _agent("aider", 4_000, lock="aider", without={"tool": "it uses no tools", **_NO_LIST}),
    "continue": _agent("continue", 3_000),
    "cline": _agent("cline", 8_000),
    "opencode": _agent("opencode", 10_000, without={}),
    "codex": _agent("codex", 14_000),
    "qwen-code": _agent("qwen-code", 22_000),
    "claude-code": _agent("claude-code", 24_000),
}


def run_library(
    name: str, server: Server, home: Path, extra: Mapping[str, Any] | None = None
) -> list[Seen]:
    """Run a library's driver, and return what it saw.

    Args:
        name: of `LIBRARIES`.
        server: that it asks.
        home: an empty directory that it has as its home.
        extra: fields that forced calls of tools have in their requests too.

    Raises:
        subprocess.CalledProcessError: it, or its configuration, cannot be had.
    """
    library = LIBRARIES[name]
    printed = configured(library.configuration, server, home)
    if library.needs > printed.window:
        why = f"its own prompt needs {library.needs} tokens, and the window is {printed.window}"
        return [Seen(check, "none", why) for check in CHECKS]
    programs = _programs(library)
    environment = {
        **printed.environment,
        "PATH": f"{programs}:{printed.environment.get('PATH', PATH)}",
        "INFBOX_CLIENT_NAME": library.configuration,
        "INFBOX_CLIENT_TEXT": printed.text,
        "INFBOX_CLIENT_KEY": server.key_file.read_text().strip(),
        "INFBOX_CLIENT_MODEL": f"coder@{server.workspace}",
        "INFBOX_CLIENT_EXTRA": json.dumps(extra or {}),
        # Nothing tells anybody else of a run.
        "DO_NOT_TRACK": "1",
    }
    try:
        done = subprocess.run(
            _command(library, programs, home), env=environment, cwd=home, check=False,
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    finally:
        end_all_at(home)
    found = {check: Seen(check, "none", why) for check, why in library.without.items()}
    for line in done.stdout.splitlines():
        if line.startswith('{"check"'):
            said = json.loads(line)
            found[said["check"]] = Seen(
                said["check"], said["outcome"], said["seen"], said["seconds"]
            )
    ended = f"the driver ended with {done.returncode}: {done.stderr[-600:]}"
    return [found.get(check, Seen(check, "failed", ended)) for check in CHECKS]


def end_all_at(home: Path) -> None:
    """End the processes that have a home directory: agents leave daemons behind.

    Args:
        home: of one client alone.
    """
    ends = time.monotonic() + GRACE_SECONDS
    _signal(_running_at(home), signal.SIGTERM)
    while (left := _running_at(home)) and time.monotonic() < ends:
        time.sleep(0.1)
    _signal(left, signal.SIGKILL)


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for each in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)


def _running_at(home: Path) -> list[int]:
    """Return the processes that have a home directory."""
    wanted, found = f"HOME={home}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        # One that ended meanwhile, or is another user's, is not meant.
        with contextlib.suppress(OSError):
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def _programs(library: Library) -> Path:
    """Return the directory of a client's programs, installed where they are not yet."""
    return python_environment(library.lock) if library.lock else node_environment()


def _command(library: Library, programs: Path, home: Path) -> list[str | Path]:
    """Return what runs a driver. One for Node.js is looked up modules for beside itself."""
    if library.lock:
        return [programs / "python", DRIVERS / library.driver]
    if library.driver.endswith(".py"):
        return [sys.executable, DRIVERS / library.driver]
    place = home / "driver"
    place.mkdir()
    for file in (library.driver, "report.mjs"):
        shutil.copy(DRIVERS / file, place)
    (place / "node_modules").symlink_to(programs.parent)
    return ["node", place / library.driver]
