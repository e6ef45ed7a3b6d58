"""Coding agents, by what is printed for each: the command, once, without a person.

An agent always streams, and its tools are its own: whether it calls one is up to the model.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from report import MODEL, QUESTION, NotForcedError, check

LONG = 1800  # seconds: their own prompts are long, and a host without a GPU is slow


@dataclass(frozen=True)
class Agent:
    """How an agent is configured and asked.

    Attributes:
        command: that asks; the question comes last.
        file: below the home directory that the printed text belongs into; empty if the text is
            commands for the shell.
        listing: command that prints the models, if it has one.
        has_tools: whether its requests hold tools.
        mark: what it prints only once it was answered, where it ends well even so.
        wants: what it prints where it was answered, and ends badly for what the answer is.
    """

    command: tuple[str, ...]
    file: str = ""
    listing: tuple[str, ...] = ()
    has_tools: bool = True
    mark: str = ""
    wants: str = ""


AIDER = ("aider", "--config", f"{Path.home()}/.config/infbox/aider.yml", "--no-git", "--yes-always",
         "--no-check-update", "--no-show-release-notes", "--no-show-model-warnings",
         "--no-pretty", "--message")  # fmt: skip
AGENTS = {
    "aider": Agent(AIDER, has_tools=False, mark=" received."),
    "claude-code": Agent(("claude", "-p"), wants="exceeded the"),
    "cline": Agent(("cline",), wants="before a tool call"),
    "codex": Agent(("codex", "exec", "--skip-git-repo-check"), ".codex/config.toml"),
    "continue": Agent(("cn", "-p"), ".continue/config.yaml"),
    "opencode": Agent(
        ("opencode", "run"), ".config/opencode/opencode.json", ("opencode", "models", "infbox")
    ),
    "qwen-code": Agent(("qwen", "-p"), ".qwen/settings.json"),
}
name = os.environ["INFBOX_CLIENT_NAME"]
agent = AGENTS[name]
work = Path.home() / "work"


def run(*command: str) -> str:
    """Run a command in an empty directory and return what it prints."""
    done = subprocess.run(
        command, cwd=work, check=False, capture_output=True, text=True, timeout=LONG,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{done.returncode}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return done.stdout.strip()


def configure() -> None:
    """Do with the printed text what a person is told to do with it."""
    text = os.environ["INFBOX_CLIENT_TEXT"]
    if agent.file:
        place = Path.home() / agent.file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    else:
        run("bash", "-euc", text)


def tool() -> str:
    if not said:
        raise RuntimeError("there was no answer")
    raise NotForcedError("its tools are sent; it has no way to have one called")


def models() -> str:
    listed = [line for line in run(*agent.listing).splitlines() if MODEL in line]
    return "".join(listed) and f"its own list, of the file: {listed[0]}"


def answer() -> str:
    try:
        printed = run(*agent.command, QUESTION)
    except RuntimeError as error:
        if not agent.wants or agent.wants not in str(error):
            raise
        said.append(str(error))
        raise NotForcedError("it was answered, by less than it wants") from None
    if agent.mark not in printed:
        raise RuntimeError(f"it was not answered: {printed[-400:]}")
    said.append(printed)
    return printed


said: list[str] = []
work.mkdir()
configure()
check("answer", answer)
check("stream", lambda: said and "its only request is a stream")
if agent.has_tools:
    check("tool", tool)
if agent.listing:
    check("models", models)
