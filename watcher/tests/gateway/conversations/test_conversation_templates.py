"""Clients' sessions through chat templates of several shapes, rendered as vLLM renders them."""

from __future__ import annotations

import asyncio
import copy
import itertools
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chat_templates
from chat_templates import GUARDED, INLINE, THINKING
from client_forms import CLIENTS, FIRST_QUESTION, NEW_FILE
from conversing import Workspace
from fake_apis import CHAT, MESSAGES, RESPONSES
from fake_engine import FakeEngine
from gateway_stack import running
from infbox.gateway.conversations import system_messages
from infbox.warming import template
from infbox.warming.engine import Engine

Item = dict[str, Any]

ANSWER = "<|assistant|>"
SHAPES = {"inline": INLINE, "guarded": GUARDED, "thinking": THINKING}
HOLDS_HISTORY = [name for name in CLIENTS if name not in ("aider", "continue")]


def prompts_of(tmp_path: Path, name: str, shape: str) -> list[str]:
    """What the engine's model is given in a session, while others save files."""
    shop = Workspace(tmp_path)
    client = CLIENTS[name](shop)
    prompts = []
    with running(tmp_path, chat_template=SHAPES[shape]) as stack:
        shop.publish()
        for number, body in enumerate(client.session()):
            headers = {"X-Infbox-User": "ann"}
            answer = stack.post(client.path, headers, **{**body, "model": "coder@shop"})
            assert answer.status == 200, answer.body
            prompts.append(str(stack.engine.prompts[-1]))
            shop.add_line("file_2.py", f"theirs_{number} = 'of somebody else'")
    return prompts


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", HOLDS_HISTORY)
def test_each_prompt_goes_on_from_the_one_before(tmp_path: Path, name: str, shape: str) -> None:
    prompts = prompts_of(tmp_path, name, shape)
    for before, after in itertools.pairwise(prompts):
        said = before.removesuffix(ANSWER)
        if shape == "thinking" and "<think>" in said:  # the template itself leaves that out
            said = said.partition("<think>")[0]
        assert after.startswith(said)
    assert "+theirs_1 = 'of somebody else'" in prompts[-1]
    assert NEW_FILE.splitlines()[0] in prompts[-1]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_codex_says_as_the_developer_reaches_every_template(
    tmp_path: Path, shape: str
) -> None:
    prompt = prompts_of(tmp_path, "codex", shape)[0]
    pack, _, rest = prompt.partition("You are a coding agent.")
    assert "def function_7_74()" in pack
    assert "<permissions>" in rest
    assert rest.index("<permissions>") < rest.index(FIRST_QUESTION)


@pytest.mark.parametrize(
    ("shape", "is_taken"), [(INLINE, True), (GUARDED, False), (THINKING, False)]
)
def test_whether_a_template_takes_later_system_messages_is_asked_of_the_engine(
    shape: str, is_taken: bool
) -> None:
    async def ask(url: str) -> bool | None:
        async with aiohttp.ClientSession() as client:
            return await system_messages.LaterSystem(url, "coder").is_taken(client)

    with FakeEngine(chat_template=shape).running() as engine:
        assert asyncio.run(ask(engine.url)) is is_taken
    assert asyncio.run(ask(engine.url)) is None, "an engine that is away says nothing of it"


def test_a_template_that_vllm_does_not_understand_merges_them_all_the_same() -> None:
    calls = "{%- set today = strftime_now('%Y') if messages | length > 3 %}"
    assert chat_templates.merges(calls + INLINE)


def told(*items: Item, path: str = MESSAGES) -> list[Item]:
    name = "input" if path == RESPONSES else "messages"
    items_of: list[Item] = system_messages.in_questions(path, {name: list(items)})[name]
    return items_of


U1: Item = {"role": "user", "content": "One?"}
U2: Item = {"role": "user", "content": [{"type": "text", "text": "Two?"}]}
RESULT: Item = {"role": "user", "content": [{"type": "tool_result", "content": "ok"}]}
A: Item = {"role": "assistant", "content": "Yes."}
S: Item = {"role": "system", "content": "Mind this."}
MIND = "<system-reminder>\nMind this.\n</system-reminder>"


@pytest.mark.parametrize(
    ("items", "placed"),
    [
        ([U1, S], [{**U1, "content": f"One?\n{MIND}"}]),
        ([U1, S, S, A], [{**U1, "content": f"One?\n{MIND}\n{MIND}"}, A]),
        ([U2, S], [{**U2, "content": [{"type": "text", "text": f"Two?\n{MIND}"}]}]),
        (
            [RESULT, S, A],
            [{**RESULT, "content": [*RESULT["content"], {"type": "text", "text": MIND}]}, A],
        ),
        ([U1, A, S, U1], [U1, A, {**U1, "content": f"{MIND}\nOne?"}]),
        ([U1, A, S, A], [U1, A, {"role": "user", "content": MIND}, A]),
        ([U1, A, S], [U1, A, {"role": "user", "content": MIND}]),
        ([S, U1], [{**U1, "content": f"{MIND}\nOne?"}]),
        ([U1, {"role": "system", "content": ""}], [U1, {"role": "system", "content": ""}]),
        ([U1, {"role": "system", "content": 7}], [U1, {"role": "system", "content": 7}]),
    ],
)
def test_a_system_message_goes_into_the_user_s_beside_it(
    items: list[Item], placed: list[Item]
) -> None:
    assert told(*items) == placed


def test_the_first_one_of_a_chat_stays() -> None:
    assert told(S, U1, S, path=CHAT) == [S, {**U1, "content": f"One?\n{MIND}"}]
    assert told(S, S, U1, path=CHAT) == [{**S, "content": "Mind this.\n\nMind this."}, U1]


@pytest.mark.parametrize("before", [U1, A])
def test_any_number_of_them_is_placed_at_once(before: Item) -> None:
    placed = told(before, *[S] * 100_000)
    assert len(placed) <= 2, "and what grows by each would take minutes"
    assert placed[-1]["content"].count("Mind this.") == 100_000


_CONTENT = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=3),
    st.lists(
        st.one_of(
            st.text(max_size=2),
            st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=3)}),
            st.just({"type": "tool_result", "content": "ok"}),
            st.just({"type": "text", "text": 7}),
        ),
        max_size=3,
    ),
)
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", 7, None, []])},
    optional={"content": _CONTENT},
)


@given(
    path=st.sampled_from([CHAT, MESSAGES, RESPONSES]),
    messages=st.lists(_MESSAGE, max_size=6),
    more=st.sampled_from([{}, {"instructions": "x"}]),
)
def test_any_messages_are_placed_or_left_to_the_engine(
    path: str, messages: list[Item], more: dict[str, Any]
) -> None:
    name = "input" if path == RESPONSES else "messages"
    request = {name: messages, **more}
    before = copy.deepcopy(request)
    placed = system_messages.in_questions(path, system_messages.of_developers(path, request))
    assert request == before
    said = [item for item in placed[name] if item.get("role") not in ("system", "developer")]
    assert len(said) >= sum(m["role"] not in ("system", "developer") for m in messages)
    again = system_messages.in_questions(path, placed)
    assert system_messages.in_questions(path, again) == again


def test_leading_system_messages_become_one() -> None:
    parts: Item = {"role": "system", "content": [{"type": "input_text", "text": "And that."}]}
    request = {"instructions": "Be brief.", "input": [parts, S, U1]}
    assert system_messages.are_there(RESPONSES, request)
    placed = system_messages.in_questions(RESPONSES, request)
    assert "instructions" not in placed
    assert [part["text"] for part in placed["input"][0]["content"]] == [
        "Be brief.",
        "And that.",
        "Mind this.",
    ]
    assert placed["input"][1:] == [U1]


def test_requests_without_them_are_left_alone() -> None:
    for path, request in (
        (CHAT, {"messages": [S, U1]}),
        (MESSAGES, {"system": "x", "messages": [U1]}),
        (RESPONSES, {"input": [S, U1]}),
        (RESPONSES, {"instructions": "x", "input": "One?"}),
        (CHAT, {"messages": None}),
        ("/v1/completions", {"prompt": "x"}),
    ):
        assert not system_messages.are_there(path, request)
        assert system_messages.of_developers(path, request) is request


def checked(shape: str) -> None:
    """Have the watcher check a template."""

    async def check(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            text = "def f(): pass\n" * 30
            await template.check(Engine(session, url), "coder", text, None)

    with FakeEngine(chat_template=shape).running() as engine:
        asyncio.run(check(engine.url))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_template_that_leaves_each_message_in_its_place_is_fine(shape: str) -> None:
    checked(SHAPES[shape])


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (chat_templates.LAST_QUESTION_ONLY, "it renders what was said otherwise once more is said"),
        (chat_templates.COUNTS_TURNS, "it renders what was said otherwise once more is said"),
        (chat_templates.WITHOUT_MARKUP, "it leaves out a part of a question"),
    ],
)
def test_a_template_with_no_place_for_what_is_told_is_refused_by_name(
    shape: str, reason: str
) -> None:
    with pytest.raises(template.TemplateError, match=reason):
        checked(shape)
