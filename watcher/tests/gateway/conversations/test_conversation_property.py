"""For any sequence of turns, saves, edits of history, restarts and rollbacks: what was sent of a
conversation is sent the same way again, or the log says why not."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversing import Talk, Workspace
from fake_apis import CHAT, MESSAGES, RESPONSES
from fake_engine import FakeEngine
from gateway_stack import Stack
from infbox.gateway.app import Gateway
from infbox.gateway.conversations import forms, retrieving
from serving import serving, settings_for

_TALK = st.sampled_from([0, 0, 0, 1])
_FILE = st.integers(0, 7)
_HOW = st.integers(0, 9)
_NO = st.just(0)
_ASK = st.tuples(st.just("ask"), _TALK, st.sampled_from([1, 50, 200]))
_SAVE = st.tuples(st.just("save"), _FILE, _HOW)
_STEPS = st.one_of(
    _ASK,
    _ASK,
    _ASK,
    _SAVE,
    _SAVE,
    st.tuples(st.just("tools"), _TALK, st.integers(1, 3)),
    st.tuples(st.just("rewrite"), _FILE, st.integers(1, 60)),
    st.tuples(st.sampled_from(["remove", "rename"]), _FILE, _HOW),
    st.tuples(st.just("ignore"), _FILE, _NO),
    st.tuples(st.just("texts"), _NO, _NO),
    st.tuples(st.just("about"), _TALK, _FILE),
    st.tuples(st.just("about"), _TALK, _FILE),
    st.tuples(st.just("generation"), st.integers(1, 8), _NO),
    st.tuples(st.sampled_from(["edit", "rollback", "again"]), _TALK, _HOW),
    st.tuples(st.sampled_from(["restart", "forget"]), _NO, _NO),
)

_ENDS = ("</source-tree-excerpts>\n\n", "</source-tree-changes>\n\n")
_WHY = re.compile(r"conversation-moved .*reason=|conversation-changed .*first=unknown")


class World:
    """Two conversations about a workspace, and all that was ever sent of them."""

    def __init__(self, folder: Path, path: str, log: pytest.LogCaptureFixture) -> None:
        self.shop = Workspace(folder, first=4)
        self.folder = folder
        self.log = log
        self.engine = FakeEngine()
        self.number = 0
        self.talks = [
            Talk(Stack(self.engine, ""), path=path),
            Talk(Stack(self.engine, ""), path=path),
        ]
        self.sent: list[list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]] = [[], []]
        self.histories: list[list[list[dict[str, Any]]]] = [[], []]
        self.hidden: set[str] = set()
        self.ignored: set[str] = set()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with self.engine.running(), contextlib.ExitStack() as self.gateway:
            self.restart()
            yield

    def restart(self) -> None:
        self.gateway.close()
        config = settings_for(self.folder, self.engine.url, shop=(self.folder, 1000))
        limits = config.gateway._replace(max_body_bytes=10_000_000)
        url = self.gateway.enter_context(serving(Gateway(config._replace(gateway=limits)).app))
        for talk in self.talks:
            talk.stack = Stack(self.engine, url)

    def step(self, kind: str, which: int, how: int) -> None:
        self.number += 1
        if kind == "ask":
            self.ask(which, f"Question {self.number}? " * how)
        elif kind == "about":
            self.ask(which, f"What does function_{how}_1 return, and rewritten_{how}?")
        elif kind == "tools":
            self.call_tools(which, how)
        elif kind == "restart":
            self.restart()
        elif kind == "forget":
            self.forget()
        elif kind in ("edit", "rollback", "again"):
            self.go_back(kind, which, how)
        elif kind == "texts":
            self.shop.index_texts()
        else:
            self.change(kind, which, how)
            self.shop.list_files()  # which the text index follows later

    def change(self, kind: str, which: int, how: int) -> None:
        path = f"file_{which}.py"
        is_there = path in self.shop.files
        if kind == "save" and is_there:
            self.shop.add_line(path, f"added_{self.number} = {how}")
        elif kind == "rewrite" and path not in self.ignored:
            self.shop.save(path, f"rewritten_{self.number} = 0\n" * how)
        elif kind == "remove" and self.is_shown(path):
            self.shop.remove(path)
        elif kind == "rename" and self.is_shown(path):
            self.shop.rename(path, f"moved_{self.number}.py")
        elif kind == "ignore" and is_there and len(self.shop.files) > 2:
            self.hidden.update(line for line in self.shop.files[path].splitlines() if line)
            self.ignored.add(path)
            self.shop.ignore(path)
            self.shop.begin()
        elif kind == "generation":
            self.shop.begin(*sorted(self.shop.files)[:which])

    def is_shown(self, path: str) -> bool:
        """Whether the present pack shows a file in full."""
        return path in self.shop.files and self.shop.pack.holds(path, self.shop.pack.stands(path))

    def forget(self) -> None:
        self.gateway.close()
        for file in (self.folder / "state" / "conversations").glob("*"):
            file.unlink()
        self.restart()

    def go_back(self, kind: str, which: int, how: int) -> None:
        talk = self.talks[which]
        if not self.histories[which]:
            return
        history = copy.deepcopy(self.histories[which][how % len(self.histories[which])])
        if kind == "edit":
            place = how % len(history)
            if history[place]["role"] != "user" or forms.is_of_people(history[place]) is False:
                return
            talk.messages = history[:place]
            self.ask(which, f"Edited {self.number}.")
        elif kind == "rollback":
            talk.messages = history
            self.ask(which, f"Other {self.number}?")
        else:
            self.send(which)

    def ask(self, which: int, text: str) -> None:
        talk = self.talks[which]
        if talk.messages and talk.messages[-1]["role"] != "assistant":
            talk.answered(f"Answer {self.number}.")
        talk.messages.append({"role": "user", "content": text})
        if talk.path == MESSAGES and self.number % 3 == 0:  # as Claude Code does
            talk.messages.append({"role": "system", "content": f"Mind {self.number}."})
        self.send(which)

    def call_tools(self, which: int, count: int) -> None:
        talk = self.talks[which]
        if talk.path != MESSAGES or not talk.messages or talk.messages[-1]["role"] == "assistant":
            return
        for number in range(count):
            name = f"{self.number}-{number}"
            use = {"type": "tool_use", "id": name, "name": "ls", "input": {"path": name}}
            result = {"type": "tool_result", "tool_use_id": name, "content": f"files of {name}"}
            talk.messages.append({"role": "assistant", "content": [use]})
            talk.messages.append({"role": "user", "content": [result]})
            self.send(which)
            assert talk.prompt[-1] == talk.messages[-1], "nothing is put into a loop of tools"

    def send(self, which: int) -> None:
        talk = self.talks[which]
        self.log.clear()
        assert talk.send().status == 200
        messages, prompt = copy.deepcopy(talk.messages), talk.prompt
        self.check(which, messages, prompt)
        self.sent[which].append((messages, prompt))
        self.histories[which].append(messages)

    def check(
        self, which: int, messages: list[dict[str, Any]], prompt: list[dict[str, Any]]
    ) -> None:
        lines = {line for message in prompt for line in _lines(message["content"])}
        assert not lines & self.hidden, "what must not be shown is shown"
        assert [text_of_end(m) for m in prompt[1:]] == [text_of_end(m) for m in messages]
        if all(forms.is_of_people(message) for message in messages):
            assert prompt[0]["content"].startswith(self.shop.pack.text), (
                "it begins with the present"
            )
            return
        common = [common_length(messages, before) for before, _ in self.sent[which]]
        longest = max(common, default=0)
        if not longest:
            return
        before = [
            sent[: 1 + longest]
            for length, (_, sent) in zip(common, self.sent[which], strict=True)
            if length == longest
        ]
        is_same = prompt[: 1 + longest] == before[-1]
        assert is_same or _WHY.search(self.log.text), "it was sent differently, and nobody said why"


def text_of_end(message: dict[str, Any]) -> object:
    """A message's content without what is told in front of it."""
    content = message["content"]
    if isinstance(content, str):
        for end in _ENDS:
            content = content.rpartition(end)[2]
    return content


def _lines(content: object) -> list[str]:
    """The lines of a message's content, less what a change puts before them."""
    lines = str(content).replace("\\n", "\n").splitlines()
    return [*lines, *(line[1:] for line in lines if line[:1] in "+- ")]


def common_length(one: list[Any], other: list[Any]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


@given(
    path=st.sampled_from([CHAT, MESSAGES, RESPONSES]),
    steps=st.lists(_STEPS, min_size=12, max_size=25),
)
@settings(max_examples=20)
def test_what_was_sent_is_sent_the_same_way_again(
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
    path: str,
    steps: list[tuple[str, int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retrieving, "SECONDS", 30.0)
    caplog.set_level(logging.INFO)
    world = World(tmp_path_factory.mktemp("world"), path, caplog)
    with world.running():
        world.shop.index_texts()
        world.step("ask", 0, 400)
        for step in steps:
            world.step(*step)
