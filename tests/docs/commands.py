"""The commands in README and docs, as they stand there, and where each can be run.

A code block without a language holds commands, unless what stands before it says that it does not:

    <!-- not run: why -->

Each of its lines is a command, known by how it begins. One that no rule knows fails the tests, so
that what is written next is run or says why not. What is no command is of the language text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.stages import ROOT

PAGES = (
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("docs/runbooks/*.md")),
    ROOT / "watcher/README.md",
    ROOT / "lab/README.md",
    ROOT / "bench/README.md",
)
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+) -->\n+)?"
    r"^(?P<fence>```+)(?P<language>\w*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
COMMENT = re.compile(r"\s+# .*$")

HERE = "here"
API = "api"
HOST = "host"
CHANGES = "changes"
# Where a command is run, by how it begins. The first that matches counts.
RULES = (
    # Here, in the unit tests: at least as far as it is known without a host.
    (HERE, r"make |ansible-playbook |(\S*/)?infbox-watch |python -m lab "),
    # Of the deployed host's API, from outside.
    (API, r"curl .*https://|export KEY=|infbox ask |ssh (SERVER|HOST) (sudo )?cat "),
    # On the deployed host: what only looks.
    (HOST, r"curl -s (-H 'X-Infbox-Workspaces: \*' )?http://127"),
    (HOST, r"(journalctl|docker (ps|logs|inspect)|systemctl status) "),
    # What changes a host, a registry or this machine, or needs what is not at hand. What they name
    # is tried by the tests of what they are about.
    (CHANGES, r"(PIP_CERT=\S+ )?\./bootstrap\.sh|docker (restart|tag|push) |systemctl restart "),
    (CHANGES, r"ansible inference |cp |hf download |ssh-keyscan |pipx? install |uv pip compile "),
    (CHANGES, r"/opt/infbox/backup/infbox-backup "),
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: relative to the root.
        line: at which it begins.
        language: as the fence names it; empty for commands.
        text: what it holds.
        why_not: why it is not run; empty where it is.
    """

    page: str
    line: int
    language: str
    text: str
    why_not: str


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        at: page and line of its block.
        text: as it stands there, in one line, comments left out.
        where: by `RULES`; empty where none knows it.
    """

    at: str
    text: str
    where: str

    def __str__(self) -> str:
        return f"{self.at}: {self.text[:60]}"


def blocks() -> Iterator[Block]:
    """Yield the code blocks of all pages."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in BLOCK.finditer(text):
            yield Block(
                str(page.relative_to(ROOT)),
                text.count("\n", 0, found.start("fence")) + 1,
                found["language"],
                found["text"],
                found["why"] or "",
            )


def commands() -> Iterator[Command]:
    """Yield the commands of all pages."""
    for block in blocks():
        if block.language in ("", "sh", "bash") and not block.why_not:
            for text in lines(block.text):
                where = next((name for name, rule in RULES if re.match(rule, text)), "")
                yield Command(f"{block.page}:{block.line}", text, where)


def lines(text: str) -> Iterator[str]:
    """Yield commands, each in one line: quotes and backslashes go on over the end of a line."""
    pending = ""
    for line in text.splitlines():
        pending = f"{pending}\n{line}" if pending else line.strip()
        if pending.endswith("\\"):
            pending = pending.removesuffix("\\").rstrip() + " "
            continue
        try:
            shlex.split(pending, comments=True)
        except ValueError:
            continue
        if found := COMMENT.sub("", pending).strip():
            yield re.sub(r" \n\s*", " ", found)
        pending = ""
    if pending:
        yield pending
