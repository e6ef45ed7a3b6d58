"""Sessions in the form of real clients, as far as they vary what they send between turns.

The requests are the project's own, made after what each client was seen to send.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conversing import Workspace
from fake_apis import CHAT, MESSAGES, RESPONSES
from gateway_stack import Stack, running

Body = dict[str, Any]

WORK = "The tests of the shop fail since the last change. " * 60
STEPS = 5
MARK = {"cache_control": {"type": "ephemeral"}}


def edit(number: int) -> str:
    return f"def mine_{number}(value):\n    return value + {number}"


def tools(key: str) -> list[Body]:
    return [{"name": name, key: {"type": "object"}} for name in ("read", "edit", "bash")]


def claude_code() -> Iterator[Body]:
    """Marks that move, a text that becomes a part, a first block of another hash each time."""
    messages: list[Body] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>\nRead CLAUDE.md.\n</system-reminder>"},
                {"type": "text", "text": WORK},
            ],
        }
    ]
    for number in range(STEPS):
        sent = copy.deepcopy(messages)
        last = sent[-1]["content"]
        if isinstance(last, str):
            sent[-1]["content"] = [{"type": "text", "text": last, **MARK}]
        else:
            last[-1].update(MARK)
        billing = f"x-anthropic-billing-header: cc_version=2.1; cch={number:05x};"
        system = [billing, "You are a coding agent.", "Environment: linux, git."]
        yield {
            "system": [{"type": "text", "text": text, **MARK} for text in system],
            "tools": tools("input_schema"),
            "messages": sent,
            "max_tokens": 32_000,
            "metadata": {"user_id": f"session-{number}"},
        }
        arguments = {"file_path": "/src/file_1.py", "new_string": edit(number)}
        use = {"type": "tool_use", "id": f"toolu_{number}", "name": "edit", "input": arguments}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": "ok"}
        if number % 2:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": "Done."}]})
            messages.append({"role": "user", "content": f"Go on with step {number}."})
        else:
            said = {"type": "text", "text": "I edit."}
            messages.append({"role": "assistant", "content": [said, use]})
            messages.append({"role": "user", "content": [result]})


def codex() -> Iterator[Body]:
    """Items with ids and states, reasoning between them, two messages of the user's in a row."""

    def said(role: str, text: str, kind: str = "input_text") -> Body:
        return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}

    items = [
        said("developer", "Sandbox: workspace-write."),
        said("user", "<environment_context>\n  <cwd>/src</cwd>\n</environment_context>"),
        said("user", WORK),
    ]
    for number in range(STEPS):
        yield {
            "instructions": "You are a coding agent.",
            "input": copy.deepcopy(items),
            "tools": tools("parameters"),
            "store": False,
            "prompt_cache_key": "session",
        }
        items.append({"type": "reasoning", "id": f"rs_{number}", "summary": [], "content": None})
        if number % 2:
            done = {"id": f"msg_{number}", "status": "completed"}
            items.append({**said("assistant", "Done.", "output_text"), **done})
            items.append(said("user", f"Go on with step {number}."))
        else:
            call = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}"}
            arguments = json.dumps({"command": ["apply_patch", f"+++ file_1.py\n{edit(number)}"]})
            items.append({**call, "name": "shell", "arguments": arguments, "status": "completed"})
            result = {"type": "function_call_output", "call_id": f"call_{number}", "output": "ok"}
            items.append(result)


def _agent(system: Callable[[int], str]) -> Iterator[Body]:
    messages: list[Body] = [{"role": "user", "content": WORK}]
    for number in range(STEPS):
        first = {"role": "system", "content": system(number)}
        yield {"messages": [first, *copy.deepcopy(messages)], "tools": tools("parameters")}
        if number % 2:
            messages.append({"role": "assistant", "content": "Done.", "tool_calls": None})
            part = {"type": "text", "text": f"Step {number}."}
            messages.append({"role": "user", "content": [part]})
        else:
            arguments = json.dumps({"filePath": "file_1.py", "newString": edit(number)})
            function = {"name": "edit", "arguments": arguments}
            call = {"id": f"call_{number}", "type": "function", "function": function}
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": "ok"})


def opencode() -> Iterator[Body]:
    """Chat completions with tools."""
    return _agent(lambda _number: "You are a coding agent. Today's date: Sun Nov 29 2026.")


def continue_() -> Iterator[Body]:
    """The same with a clock in the system prompt."""
    return _agent(lambda number: f"You are in an IDE. It is 12:0{number}.")


def aider() -> Iterator[Body]:
    """No tools; files stand in the middle, and what they hold changes; a reminder at the end."""
    history: list[Body] = []
    for number in range(STEPS):
        file = f"file_1.py\n```\n{''.join(edit(n) for n in range(number))}\n```"
        yield {
            "messages": [
                {"role": "system", "content": "Act as an expert. Use SEARCH/REPLACE blocks."},
                {"role": "user", "content": WORK},
                {"role": "assistant", "content": "Ok."},
                *copy.deepcopy(history),
                {"role": "user", "content": f"These are the files:\n{file}"},
                {"role": "assistant", "content": "Ok, I will change those files alone."},
                {"role": "user", "content": f"Do step {number}."},
                {"role": "system", "content": "Use SEARCH/REPLACE blocks."},
            ],
        }
        history += [
            {"role": "user", "content": f"Do step {number}."},
            {"role": "assistant", "content": f"file_1.py\n<<<<<<< SEARCH\n{edit(number)}\n"},
        ]


CLIENTS = {
    "claude-code": (MESSAGES, claude_code),
    "codex": (RESPONSES, codex),
    "opencode": (CHAT, opencode),
    "continue": (CHAT, continue_),
    "aider": (CHAT, aider),
}
HOLDS_HISTORY = [name for name in CLIENTS if name != "aider"]


class Session:
    """What reached the engine of a client's session, with saves between its turns."""

    def __init__(self, tmp_path: Path, name: str) -> None:
        self.states: list[str] = []
        self.prompts: list[list[Body]] = []
        path, client = CLIENTS[name]
        self.shop = Workspace(tmp_path)
        with running(tmp_path) as stack:
            self.shop.publish()
            for number, body in enumerate(client()):
                self.ask(stack, path, body)
                if number % 2 == 0 or name == "aider":
                    self.shop.add_line("file_1.py", edit(number))
                self.shop.add_line("file_2.py", f"theirs_{number} = 'of somebody else'")

    def ask(self, stack: Stack, path: str, body: Body) -> None:
        answer = stack.post(path, {"X-Infbox-User": "ann"}, model="coder@shop", **body)
        assert answer.status == 200
        self.states.append(str(answer.headers["X-Infbox-Conversation"]))
        self.prompts.append(json.loads(str(stack.engine.prompts[-1])))


@pytest.mark.parametrize("name", CLIENTS)
def test_a_session_keeps_its_pack_whatever_is_saved(tmp_path: Path, name: str) -> None:
    session = Session(tmp_path, name)
    assert session.states == [session.states[0], *["kept"] * (STEPS - 1)]
    packs = {json.dumps(prompt[0]["content"])[:10_000] for prompt in session.prompts}
    assert len(packs) == 1


@pytest.mark.parametrize("name", HOLDS_HISTORY)
def test_what_a_client_sends_again_goes_out_again(tmp_path: Path, name: str) -> None:
    prompts = Session(tmp_path, name).prompts
    for before, after in itertools.pairwise(prompts):
        one, other = words(before[1:]), words(after[1:])
        assert other[: len(one)] == one


def words(messages: list[Body]) -> list[str]:
    """The texts of messages, whether they are parts or not."""
    return [json.dumps(_plain(message.get("content"))) for message in messages]


def _plain(content: Any) -> Any:
    if isinstance(content, str):
        return [content]
    return [
        {key: value for key, value in part.items() if key != "cache_control"}
        if part.get("type") not in ("text", "input_text", "output_text")
        else part["text"]
        for part in content or []
    ]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_told_of_others_changes_and_not_of_its_own(tmp_path: Path, name: str) -> None:
    session = Session(tmp_path, name)
    told = json.dumps(session.prompts[-1] if name == "aider" else session.prompts[2:])
    assert "theirs_1 = 'of somebody else'" in told
    if name != "continue":
        assert "## file_1.py" not in json.dumps([prompt[1:] for prompt in session.prompts])


def test_claude_code_s_first_block_does_not_reach_the_engine(tmp_path: Path) -> None:
    prompts = Session(tmp_path, "claude-code").prompts
    assert "x-anthropic-billing-header" not in json.dumps(prompts)
    assert len({json.dumps(prompt[0]) for prompt in prompts}) == 1
