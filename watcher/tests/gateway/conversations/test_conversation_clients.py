"""Sessions of real clients, in their forms: what reaches the engine while files are saved."""

from __future__ import annotations

import functools
import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client_forms import CLIENTS, EDITED, WRITTEN, Client, Codex
from conversing import Workspace
from gateway_stack import Stack, running
from infbox.gateway.conversations import moving

Body = dict[str, Any]

HOLDS_HISTORY = [name for name in CLIENTS if name != "aider"]
NOTE = "<source-tree-changes>"
MEANS_NOTHING = {"cache_control", "id", "call_id", "tool_call_id", "tool_use_id"}


class Session:
    """What reached the engine of a client's session, while others save files between its turns."""

    def __init__(self, tmp_path: Path, name: str) -> None:
        self.states: list[str] = []
        self.prompts: list[list[Body]] = []
        self.shop = Workspace(tmp_path)
        self.client = CLIENTS[name](self.shop)
        with running(tmp_path) as stack:
            self.shop.publish()
            for number, body in enumerate(self.client.session()):
                self.ask(stack, self.client, body)
                self.shop.add_line("file_2.py", f"theirs_{number} = 'of somebody else'")

    def ask(self, stack: Stack, client: Client, body: Body) -> None:
        self.states.append(asked(stack, client, body))
        self.prompts.append(json.loads(str(stack.engine.prompts[-1])))


def asked(stack: Stack, client: Client, body: Body) -> str:
    """Send a request; return the state of its conversation."""
    headers = {"X-Infbox-User": "ann", "User-Agent": client.agent}
    answer = stack.post(client.path, headers, **{**body, "model": "coder@shop"})
    assert answer.status == 200
    return str(answer.headers["X-Infbox-Conversation"])


@pytest.fixture(scope="module")
def session_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Session]:
    """Return a client's session, which is had once for all tests."""
    return functools.cache(lambda name: Session(tmp_path_factory.mktemp(name), name))


SessionOf = Callable[[str], Session]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_session_keeps_its_pack_whatever_is_saved(session_of: SessionOf, name: str) -> None:
    session = session_of(name)
    assert session.states == ["new", *["kept"] * (len(session.states) - 1)]
    packs = {json.dumps(prompt[0]["content"])[:10_000] for prompt in session.prompts}
    assert len(packs) == 1


@pytest.mark.parametrize("name", HOLDS_HISTORY)
def test_what_a_client_sends_again_goes_out_again(session_of: SessionOf, name: str) -> None:
    for before, after in itertools.pairwise(session_of(name).prompts):
        one, other = plain(before[1:]), plain(after[1:])
        assert other[: len(one)] == one


def plain(value: Any) -> Any:
    """A value without what a model does not see, one part of text as the text."""
    if isinstance(value, dict):
        kept = {name: own for name, own in value.items() if name not in MEANS_NOTHING}
        return {name: plain(own) for name, own in kept.items()}
    if not isinstance(value, list):
        return value
    parts = [plain(one) for one in value]
    is_text = len(parts) == 1 and isinstance(parts[0], dict) and set(parts[0]) == {"type", "text"}
    return parts[0]["text"] if is_text else parts


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_told_of_others_changes_and_not_of_its_own(
    session_of: SessionOf, name: str
) -> None:
    prompts = session_of(name).prompts
    last = len(prompts) - 2
    assert f"theirs_{last} = 'of somebody else'" in json.dumps(prompts[-1][1:])
    told = json.dumps([prompt[1:] for prompt in prompts])
    assert f"## {EDITED}" not in told
    assert f"## {WRITTEN}" not in told


@pytest.mark.parametrize("name", CLIENTS)
def test_a_note_stands_in_questions_only(session_of: SessionOf, name: str) -> None:
    prompts = session_of(name).prompts
    assert NOTE in json.dumps(prompts[-1])
    for message in itertools.chain(*(prompt[1:] for prompt in prompts)):
        if NOTE in json.dumps(message):
            assert message["role"] == "user"
            assert "tool_result" not in json.dumps(message)


def test_claude_code_s_first_block_does_not_reach_the_engine(session_of: SessionOf) -> None:
    prompts = session_of("claude-code").prompts
    assert "x-anthropic-billing-header" not in json.dumps(prompts)
    assert len({json.dumps(prompt[0]) for prompt in prompts}) == 1


@pytest.mark.parametrize("name", CLIENTS)
def test_another_session_of_a_client_s_begins_with_the_present_pack(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some clients put examples, or a setting, that they answer themselves, before each."""
    shop = Workspace(tmp_path)
    with running(tmp_path) as stack:
        shop.publish()
        client = CLIENTS[name](shop)
        for body in client.session():
            asked(stack, client, body)
        shop.add_line("file_2.py", "theirs = 'of somebody else'")
        if name == "aider":  # it sends no question again as it was: only time tells them apart
            monkeypatch.setattr(moving, "UNANSWERED_SECONDS", 0)
        other = CLIENTS[name](shop)
        other.ask("Something else, a day later.")
        assert asked(stack, other, other.request()) == "new"


def test_what_codex_made_short_is_a_new_conversation_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shop = Workspace(tmp_path)
    with running(tmp_path) as stack:
        shop.publish()
        client = Codex(shop)
        bodies = client.session()
        for _ in range(6):
            asked(stack, client, next(bodies))
        client.ask("Write down what was done.")
        assert asked(stack, client, {**client.request(), "tools": []}) == "kept"
        del client.items[4:]
        client.ask("This is what was done: a file was changed.")
        caplog.clear()
        assert asked(stack, client, client.request()) == "new"
        assert "conversation-changed workspace=shop user=ann client=codex first=messages" in (
            caplog.text
        )
        shop.add_line("file_2.py", "theirs = 'of somebody else'")
        client.items.append({"type": "message", "role": "assistant", "content": "All right."})
        client.ask("Go on.")
        assert asked(stack, client, client.request()) == "kept"
