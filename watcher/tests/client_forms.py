"""One coding session as five real clients, and a sixth, would send it.

Each client was recorded in such a session, in November 2026, in front of a stub that answered by
a script. What is here are requests that the project wrote itself in the form that was seen: which
roles, parts and fields, and what varies from turn to turn. No client's own words are among them.

| client | seen | API |
| --- | --- | --- |
| Claude Code | 2.1.197 | messages |
| Codex | 0.171.0 | responses |
| opencode | 1.18.33 | chat completions |
| Continue's CLI | 1.5.47 | chat completions |
| Qwen Code | 0.15.10 | chat completions |
| aider | 0.86.2 | chat completions |
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from fake_apis import CHAT, MESSAGES, RESPONSES

if TYPE_CHECKING:
    from conversing import Workspace

Body = dict[str, Any]

ROOT = "/home/ann/shop"
EDITED, WRITTEN = "file_1.py", "taxes.py"
OLD_LINE = "def function_1_3(): return 3"
NEW_LINES = "def function_1_3(count):\n    return 3 * count"
NEW_FILE = "def tax_of(total):\n    return total * 0.2\n"
_MARK = {"cache_control": {"type": "ephemeral"}}
_RULES = "Keep to the conventions of the project, and say what you are about to do. " * 40


class Call(NamedTuple):
    """A call of a tool: which kind, and what it says in the end."""

    kind: str
    result: str


class Step(NamedTuple):
    """What the model answers, and what comes then.

    Attributes:
        said: its words.
        calls: its calls of tools.
        asked: what the user says then, where it calls none.
        again: whether the request after it is sent twice, as after an error of the server's.
    """

    said: str
    calls: tuple[Call, ...] = ()
    asked: str = ""
    again: bool = False


READ = Call("read", f"{OLD_LINE}\n")
EDIT = Call("edit", "The file was changed.")
STATUS = Call("shell", f" M {EDITED}")
WRITE = Call("write", "The file was written.")
LIST = Call("list", f"{EDITED}\n{WRITTEN}")

FIRST_QUESTION = "Let function 3 take a count."
SCRIPT = (
    Step("I read the file.", (READ,)),
    Step("I change it.", (EDIT,)),
    Step("", (STATUS, WRITE)),
    Step("It is done.", asked="Now list what is there."),
    Step("", (LIST,), again=True),
    Step("That is all.", asked="And say what you did."),
    Step("I changed one file and wrote another.", asked="Thank you. Anything else?"),
)


@dataclass
class Client:
    """A client in its session.

    Attributes:
        shop: where its tools write.
    """

    shop: Workspace

    path: ClassVar[str] = CHAT
    agent: ClassVar[str] = ""
    tools_key: ClassVar[str] = "parameters"
    tools: ClassVar[tuple[str, ...]] = ("read", "edit", "write", "shell", "list")

    def __post_init__(self) -> None:
        self.items: list[Body] = []
        self.number = 0
        self.ids = itertools.count(1)

    def session(self) -> Iterator[Body]:
        """Yield the requests, each at the time at which it is sent."""
        self.ask(FIRST_QUESTION)
        yield self.request()
        for step in SCRIPT:
            for call in step.calls:
                self.work(call)
            self.answer(step)
            if step.asked:
                self.ask(step.asked)
            yield self.request()
            if step.again:
                yield self.request()

    def work(self, call: Call) -> None:
        """Do what a tool does to the tree."""
        if call.kind == "edit":
            text = self.shop.files[EDITED]
            assert OLD_LINE in text
            self.shop.save(EDITED, text.replace(OLD_LINE, NEW_LINES))
        elif call.kind == "write":
            self.shop.save(WRITTEN, NEW_FILE)

    def request(self) -> Body:
        """The body as it is sent now."""
        self.number += 1
        return copy.deepcopy(self.body())

    def body(self) -> Body:
        raise NotImplementedError

    def ask(self, text: str) -> None:
        raise NotImplementedError

    def answer(self, step: Step) -> None:
        raise NotImplementedError

    def arguments(self, call: Call) -> Body:
        """What a tool is called with."""
        by_kind: dict[str, Body] = {
            "read": {"file_path": f"{ROOT}/{EDITED}"},
            "edit": {
                "file_path": f"{ROOT}/{EDITED}",
                "old_string": OLD_LINE,
                "new_string": NEW_LINES,
            },
            "write": {"file_path": f"{ROOT}/{WRITTEN}", "content": NEW_FILE},
            "shell": {"command": "git status --short", "description": "Show what changed"},
            "list": {"command": "ls", "description": "List files"},
        }
        return by_kind[call.kind]

    def offered(self) -> list[Body]:
        """The tools, in a form of chat completions."""
        return [{"type": "function", "function": self.tool(name)} for name in self.tools]

    def tool(self, name: str) -> Body:
        schema = {"type": "object", "properties": {"path": {"type": "string"}}}
        return {"name": name, "description": f"{name}: {_RULES}", self.tools_key: schema}


class ClaudeCode(Client):
    """Marks that move on, a question that is a part while it is the last one and a text from then
    on, system messages between the user's, a first block of the system prompt that differs."""

    path = MESSAGES
    agent = "claude-cli/2.1.197 (external, cli)"
    tools_key = "input_schema"
    tools = ("Read", "Edit", "Write", "Bash", "Agent")

    def ask(self, text: str) -> None:
        if self.items:
            self.items.append({"role": "user", "content": text})
            if self.number == _ASKED_SECOND:
                self.items.append({"role": "system", "content": self.modified()})
            return
        reminder = "<system-reminder>\n# currentDate\nToday is 2026-11-29.\n</system-reminder>\n\n"
        parts = [{"type": "text", "text": each} for each in (reminder, text)]
        self.items.append({"role": "user", "content": parts})
        agents = f"Agents that there are:\n- general: {_RULES}"
        self.items.append({"role": "system", "content": agents})

    def modified(self) -> str:
        """What it says where somebody else changed a file that it has read."""
        lines = self.shop.files[EDITED].splitlines()[:9]
        told = "\n".join(f"{number}\t{line}" for number, line in enumerate(lines, 1))
        return f"Note: {ROOT}/{EDITED} was modified by the user. Its lines:\n{told}"

    def answer(self, step: Step) -> None:
        said: list[Body] = [{"type": "text", "text": step.said}] if step.said else []
        results: list[Body] = []
        for call in step.calls:
            name = f"toolu_{next(self.ids):04}"
            tool = {"shell": "Bash", "list": "Bash"}.get(call.kind, call.kind.capitalize())
            own = {"name": tool, "input": self.arguments(call)}
            said.append({"type": "tool_use", "id": name, **own})
            result = {"tool_use_id": name, "type": "tool_result", "content": call.result}
            results.insert(0, result)  # those that ended last come first
        self.items.append({"role": "assistant", "content": said})
        if results:
            self.items.append({"role": "user", "content": results})

    def body(self) -> Body:
        version = f"cc_version=2.1.197.{self.number:03x}"
        billing = f"x-anthropic-billing-header: {version}; cc_entrypoint=cli;"
        system: list[Body] = [
            {"type": "text", "text": billing},
            {"type": "text", "text": "You are a coding agent.", **_MARK},
            {"type": "text", "text": f"{_RULES}\n\ngitStatus: (clean)", **_MARK},
        ]
        return {
            "messages": self.marked(),
            "system": system,
            "tools": [self.tool(name) for name in self.tools],
            "metadata": {"user_id": json.dumps({"session_id": "70da1152", "account_uuid": ""})},
            "max_tokens": 32_000,
            "thinking": {"type": "adaptive"},
            "context_management": {"edits": [{"type": "clear_thinking", "keep": "all"}]},
            "output_config": {"effort": "high"},
            "stream": True,
        }

    def marked(self) -> list[Body]:
        """The messages, with the mark at the last one of the user's."""
        sent = copy.deepcopy(self.items)
        last = next(item for item in reversed(sent) if item["role"] == "user")
        if isinstance(last["content"], str):
            last["content"] = [{"type": "text", "text": last["content"]}]
        last["content"][-1].update(_MARK)
        return sent


_ASKED_SECOND = 4  # requests until the second question


class Codex(Client):
    """Items with ids, the system prompt as two messages of the developer's, a setting and the
    question as two of the user's, reasoning between the calls, one tool that does all."""

    path = RESPONSES
    agent = "codex_exec/0.171.0 (Debian 12.0.0; x86_64) xterm (codex_exec; 0.171.0)"
    tools = ("exec_command", "write_stdin", "view_image")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.items = [
            self.said("developer", f"You are a coding agent. {_RULES}"),
            self.said("developer", "<skills>None.</skills>", "<permissions>All.</permissions>"),
            self.said("user", f"<environment_context>\n<cwd>{ROOT}</cwd>\n</environment_context>"),
        ]

    def said(self, role: str, *texts: str) -> Body:
        parts = [{"type": "input_text", "text": text} for text in texts]
        name = f"msg_{next(self.ids):04}"
        return {"type": "message", "id": name, "role": role, "content": parts}

    def ask(self, text: str) -> None:
        self.items.append(self.said("user", text))

    def command(self, call: Call) -> str:
        lines = "\n".join(f"+{line}" for line in NEW_LINES.splitlines())
        if call.kind == "edit":
            change = f"*** Update File: {EDITED}\n@@\n-{OLD_LINE}\n{lines}"
            return f"apply_patch <<'END'\n*** Begin Patch\n{change}\n*** End Patch\nEND"
        if call.kind == "write":
            return f"cat > {WRITTEN} <<'END'\n{NEW_FILE}END"
        commands = {"read": f"cat {EDITED}", "shell": "git status --short", "list": "ls"}
        return commands[call.kind]

    def answer(self, step: Step) -> None:
        name = next(self.ids)
        part = {"type": "reasoning_text", "text": "I think."}
        thought = {"type": "reasoning", "id": f"rs_{name:04}", "summary": [], "content": [part]}
        self.items.append({**thought, "encrypted_content": None})
        if step.said:
            part = {"type": "output_text", "text": step.said, "annotations": []}
            message = {"type": "message", "status": "completed", "id": f"msg_{name:04}"}
            self.items.append({**message, "role": "assistant", "content": [part]})
        results = []
        for call in step.calls:
            number = next(self.ids)
            own = {"name": "exec_command", "arguments": json.dumps({"cmd": self.command(call)})}
            both = {"call_id": f"call_{number:04}"}
            made = {"type": "function_call", "status": "completed", "id": f"fc_{number:04}"}
            self.items.append({**made, **own, **both})
            output = f"Wall time: 0.0000 seconds\nOutput:\n{call.result}\n"
            made = {"type": "function_call_output", "id": f"fco_{number:04}"}
            results.append({**made, **both, "output": output})
        self.items += results

    def body(self) -> Body:
        return {
            "model": "coder@shop",
            "stream": True,
            "input": self.items,
            "tools": [{"type": "function", "strict": False, **self.tool(n)} for n in self.tools],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "reasoning": {"summary": "auto"},
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "prompt_cache_key": "01a2293a",
            "client_metadata": {"turn_id": f"turn-{self.number}", "session_id": "01a2293a"},
        }


class _Chat(Client):
    """What clients of chat completions share."""

    def system(self) -> str:
        return f"You are a coding agent. {_RULES}"

    def text(self, text: str) -> Any:
        """A text of the user's or a tool's, in the client's form."""
        return text

    def ask(self, text: str) -> None:
        self.items.append({"role": "user", "content": self.text(text)})

    def said(self, step: Step) -> Body:
        return {"role": "assistant", "content": step.said}

    def answer(self, step: Step) -> None:
        calls, results = [], []
        for call in step.calls:
            name = f"call_{next(self.ids):04}"
            function = {"name": call.kind, "arguments": json.dumps(self.arguments(call))}
            calls.append({"id": name, "type": "function", "function": function})
            content = self.text(call.result)
            results.append({"role": "tool", "tool_call_id": name, "content": content})
        self.items.append({**self.said(step), **({"tool_calls": calls} if calls else {})})
        self.items += results

    def body(self) -> Body:
        return {
            "messages": [{"role": "system", "content": self.system()}, *self.items],
            "tools": self.offered(),
            "max_tokens": 3000,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


class Opencode(_Chat):
    """The plainest: a date in the system prompt, what the model thought as a field of its own."""

    agent = "opencode/1.18.33 ai-sdk/provider-utils/4.0.23 runtime/bun/1.3.14"

    def system(self) -> str:
        return f"{super().system()}\n<env>\n  Today's date: Sun Nov 29 2026\n</env>"

    def said(self, step: Step) -> Body:
        thought = {"reasoning_content": "First I read."} if READ in step.calls else {}
        return {**super().said(step), **thought}

    def arguments(self, call: Call) -> Body:
        own = super().arguments(call)
        names = {"file_path": "filePath", "old_string": "oldString", "new_string": "newString"}
        return {names.get(name, name): value for name, value in own.items()}


class Continue(_Chat):
    """git's status in the system prompt, which a session that is resumed makes anew."""

    agent = "ls/JS 5.23.2"
    resumed_after = 5

    def system(self) -> str:
        status = "Working tree clean" if self.number <= self.resumed_after else f"M {EDITED}"
        return f'{super().system()}\n<context name="gitStatus">{status}</context>'


class QwenCode(_Chat):
    """A setting of the user's that it answers itself before each session, parts everywhere, no
    content beside calls."""

    agent = "QwenCode/0.15.10 (linux; x64)"

    def __post_init__(self) -> None:
        super().__post_init__()
        setting = f"Today is Sunday, November 29, 2026. The directory is {ROOT}."
        self.ask(setting)
        self.items.append({"role": "assistant", "content": "I know the setting now."})

    def text(self, text: str) -> Any:
        return [{"type": "text", "text": text}]

    def said(self, step: Step) -> Body:
        return {"role": "assistant", "content": step.said or None}


class Aider(_Chat):
    """No tools. Examples and a map of the repository first, which it answers itself; the files
    after the history, as they are now; rules behind the last question alone."""

    agent = "OpenAI/Python 2.20.0"

    EXAMPLES = (
        ("user", "Here is an example of a question."),
        ("assistant", f"Here is an example of an answer. {_RULES}"),
        ("user", "Now for another repository. It has orders.py."),
        ("assistant", "I know the repository now."),
    )

    def answer(self, step: Step) -> None:
        blocks = "".join(map(self.block, step.calls))
        if not step.calls:
            self.items.append({"role": "assistant", "content": step.said})
            return
        self.items.append({"role": "assistant", "content": f"{step.said}\n\n{blocks}"})
        self.items.append({"role": "user", "content": "I updated the files."})
        self.items.append({"role": "assistant", "content": "Ok."})

    def block(self, call: Call) -> str:
        old, new = (f"{OLD_LINE}\n", f"{NEW_LINES}\n") if call.kind == "edit" else ("", NEW_FILE)
        path = EDITED if call.kind == "edit" else WRITTEN
        return f"{path}\n```python\n<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n```\n"

    def session(self) -> Iterator[Body]:
        steps = (
            Step("I change it.", (EDIT,), asked="Now add a file for taxes."),
            Step("I add it.", (WRITE,), asked="And say what you did."),
            Step("I changed one file and wrote another.", asked="Thank you. Anything else?"),
            Step("No.", asked="Are you sure?"),
        )
        self.ask(FIRST_QUESTION)
        yield self.request()
        for step in steps:
            for call in step.calls:
                self.work(call)
            self.answer(step)
            self.ask(step.asked)
            yield self.request()

    def body(self) -> Body:
        files = f"These are the files:\n\n{EDITED}\n```\n{self.shop.files[EDITED]}```\n"
        *history, question = self.items
        asked = {**question, "content": f"{question['content']}\n\n# Rules\n\n{_RULES}"}
        return {
            "messages": [
                {"role": "system", "content": self.system()},
                *({"role": role, "content": text} for role, text in self.EXAMPLES),
                *history,
                {"role": "user", "content": files},
                {"role": "assistant", "content": "I change those files alone."},
                asked,
            ],
            "temperature": 0,
            "stream": True,
        }


CLIENTS: dict[str, Callable[[Workspace], Client]] = {
    "claude-code": ClaudeCode,
    "codex": Codex,
    "opencode": Opencode,
    "continue": Continue,
    "qwen-code": QwenCode,
    "aider": Aider,
}
