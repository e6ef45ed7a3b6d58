"""A workspace whose packs are published by hand, and somebody who converses about it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from fake_apis import CHAT, MESSAGES, RESPONSES
from gateway_stack import Answer, Stack, publish
from infbox.packing import tokens
from infbox.packing.pack import Kind, Pack, introduction
from infbox.retrieval import texts
from infbox.retrieval.texts import Texts
from infbox.tree.files import Content
from infbox.tree.records import Row
from infbox.watching import index


def content(text: str) -> Content:
    data = text.encode()
    return Content(data, xxh3_128_hexdigest(data), None, None)


@dataclass
class Workspace:
    """Publishes packs as the watcher does, of files that are only in memory.

    Attributes:
        folder: of the test.
        files: what they are now.
        shown: what packs have ever shown.
        first: how many files the first pack shows.
    """

    folder: Path
    first: int = 8
    files: dict[str, str] = field(default_factory=dict)
    generation: int = 0
    version: int = 0
    epoch: str = "e1"
    withdrawn: dict[str, int] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for number in range(8):
            lines = (f"def function_{number}_{n}(): return {n}\n" for n in range(75))
            self.files[f"file_{number}.py"] = "".join(lines)
        self.begin(*sorted(self.files)[: self.first])

    def begin(self, *paths: str) -> None:
        """Begin a generation with these files, or all."""
        self.pack = Pack([], 100_000, tokens.load(None))
        self.pack.add_front(Kind.INTRO, introduction("shop"))
        for path in paths or sorted(self.files):
            self.pack.add(path, content(self.files[path]))
        self.generation += 1
        self.publish()

    def save(self, path: str, text: str) -> None:
        self.files[path] = text
        self.pack.save(path, content(text))
        self.publish()

    def add_line(self, path: str, added: str) -> None:
        """Save a file with one more line."""
        self.save(path, self.files[path] + added + "\n")

    def remove(self, path: str) -> None:
        del self.files[path]
        self.pack.remove(path)
        self.publish()

    def rename(self, old_path: str, path: str) -> None:
        self.files[path] = self.files.pop(old_path)
        self.pack.rename(old_path, path)
        self.publish()

    def ignore(self, path: str) -> None:
        """Have a file be one that must not be shown."""
        del self.files[path]
        self.pack.remove(path)
        if path in self.shown:
            self.withdrawn[path] = self.version + 1
        self.publish()

    def list_files(self) -> None:
        """Write the watcher's index."""
        rows = {
            path: Row(len(text), 0, 0, content(text).digest, None, number, 0.0)
            for number, (path, text) in enumerate(self.files.items(), start=1)
        }
        known = index.Index(index.place(self.state, "shop"))
        with contextlib.closing(known), known.transaction():
            known.write(rows, known.paths() - rows.keys())

    def index_texts(self) -> None:
        """Bring the text index up to the files, and the watcher's index first."""
        self.list_files()
        contents = {path: content(text) for path, text in self.files.items()}
        digests = {path: each.digest for path, each in contents.items()}
        with contextlib.closing(Texts(texts.place(self.state, "shop"))) as found:
            found.bring_up(digests, contents.get)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def publish(self) -> None:
        self.version += 1
        entries = self.pack.entries
        paths = {entry.path for entry in entries if entry.path}
        self.shown |= paths
        digests = {path: content(text).digest for path, text in self.files.items()}
        characters = accumulate(len(entry.text) for entry in entries)
        counts = accumulate(entry.tokens for entry in entries)
        publish(
            self.folder,
            self.pack.text,
            self.version,
            generation=self.generation,
            tokens=self.pack.tokens,
            sections=list(zip(characters, counts, strict=True)),
            entries=[[e.kind.value, e.path, e.digest, e.old_path] for e in entries],
            epoch=self.epoch,
            withdrawn=sorted(self.withdrawn.items()),
            others=[[path, digests.get(path, "")] for path in sorted(self.shown - paths)],
        )


@dataclass
class Talk:
    """One conversation by one API, as a client keeps it.

    Attributes:
        stack: where it is asked.
        messages: as the client has them.
        path: of the API.
        system: the client's own.
        user: whose key it comes with.
    """

    stack: Stack
    messages: list[dict[str, Any]] = field(default_factory=list)
    path: str = CHAT
    system: str = "Be brief."
    user: str = "ann"
    more: dict[str, Any] = field(default_factory=dict)

    def ask(self, text: str = "", **more: Any) -> Answer:
        """Ask; an answer of the engine's is added first where there was a question before."""
        if text:
            if self.messages and self.messages[-1]["role"] in ("user", "tool"):
                self.answered()
            self.messages.append({"role": "user", "content": text})
        return self.send(**more)

    def answered(self, text: str = "") -> None:
        said = text or f"That was answer {len(self.messages)}."
        self.messages.append({"role": "assistant", "content": said})

    def send(self, **more: Any) -> Answer:
        body = {"model": "coder@shop", **self.body, **self.more, **more}
        return self.stack.post(self.path, {"X-Infbox-User": self.user}, **body)

    @property
    def body(self) -> dict[str, Any]:
        if self.path == MESSAGES:
            return {"system": self.system, "messages": self.messages, "max_tokens": 5}
        if self.path == RESPONSES:
            return {"instructions": self.system, "input": self.messages}
        return {"messages": [{"role": "system", "content": self.system}, *self.messages]}

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The messages that reached the engine last, the system's first."""
        prompt: list[dict[str, Any]] = json.loads(str(self.stack.engine.prompts[-1]))
        return prompt


def text_of(message: dict[str, Any]) -> str:
    """The text of a message."""
    told = message["content"]
    return told if isinstance(told, str) else "\n".join(part["text"] for part in told)
