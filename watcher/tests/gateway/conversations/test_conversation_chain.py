"""By what a conversation is known."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.gateway.conversations import chain, clients, forms, volatile

USER = {"role": "user", "content": "Why?"}
SAID = {"role": "assistant", "content": "Because."}


def last(*items: dict[str, Any]) -> bytes:
    return chain.hashes("ann", items)[-1]


SAME = [
    (USER, {**USER, "cache_control": {"type": "ephemeral"}}),
    (USER, {"role": "user", "content": [{"type": "text", "text": "Why?"}]}),
    (
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Why?", "cache_control": {"type": "ephemeral"}}],
        },
    ),
    (USER, {**USER, "type": "message", "id": "msg_1", "status": "completed"}),
    (
        USER,
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Why?"}]},
    ),
    (SAID, {**SAID, "refusal": None, "tool_calls": [], "audio": None, "annotations": []}),
    (
        {"role": "tool", "tool_call_id": "a", "content": "x"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "x"}]},
    ),
    ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_has_no_meaning_makes_no_other_message(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert last(one) == last(other)


def call(**arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "tool_use", "input": arguments}]}


OTHER = [
    (USER, {"role": "user", "content": "Why"}),
    (USER, {"role": "assistant", "content": "Why?"}),
    (USER, {"role": "user", "content": [{"type": "text", "text": t} for t in ("Why", "?")]}),
    (call(id=1), call(id=2)),
    (call(id=1), call()),
    (call(a=None), call()),
    (
        {"role": "tool", "content": [{"type": "tool_result", "is_error": True}]},
        {"role": "tool", "content": [{"type": "tool_result", "is_error": False}]},
    ),
    ({"a": "bc"}, {"ab": "c"}),
    ({"a": 0}, {"a": 1}),
]


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_what_has_a_meaning_makes_another_message(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert last(one) != last(other)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
_ITEMS = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "id", "x"]), _JSON), max_size=4
)


@given(items=_ITEMS, more=_ITEMS)
def test_a_hash_is_of_all_before_it_and_of_nothing_after(items: Any, more: Any) -> None:
    before = copy.deepcopy(items)
    whole = chain.hashes("ann", items + more)
    assert whole[: len(items)] == chain.hashes("ann", items)
    assert len(set(whole)) == len(whole), "each message is counted, an empty one too"
    assert items == before


def test_others_have_other_hashes() -> None:
    assert chain.hashes("ann", [USER]) != chain.hashes("bob", [USER])


def test_the_order_of_tools_has_a_meaning_and_their_marks_have_none() -> None:
    one, other = {"name": "a", "input_schema": {}}, {"name": "b"}
    digest = chain.digest_of_tools([one, other])
    assert digest == chain.digest_of_tools([one, {**other, "cache_control": {"type": "ephemeral"}}])
    assert digest != chain.digest_of_tools([other, one])
    assert chain.digest_of_tools(None) != digest


def test_what_nobody_understands_is_no_conversation() -> None:
    for path in (forms.CHAT, forms.MESSAGES, forms.RESPONSES):
        for items in (None, 7, "x", [1], {"a": 1}):
            found = forms.dialogue(path, {"messages": items, "input": items})
            assert found is None or (path == forms.RESPONSES and items == "x")
    assert forms.dialogue("/v1/completions", {"prompt": "x", "messages": [USER]}) is None


@pytest.mark.parametrize(
    ("item", "takes"),
    [
        (USER, True),
        ({**USER, "type": "message"}, True),
        ({"role": "user", "content": [{"type": "text", "text": "x"}]}, True),
        ({"role": "user", "content": [{"type": "image_url"}]}, True),
        (
            {"role": "user", "content": [{"type": "tool_result"}, {"type": "text", "text": "x"}]},
            False,
        ),
        ({"role": "user", "content": ""}, False),
        ({"role": "user", "content": None}, False),
        ({"role": "user", "content": [1]}, False),
        ({"role": "tool", "content": "x"}, False),
        ({"type": "function_call_output", "output": "x"}, False),
        (SAID, False),
    ],
)
def test_a_note_stands_in_messages_of_people_only(item: dict[str, Any], takes: bool) -> None:
    assert forms.takes_note(item) is takes


BILLING = "x-anthropic-billing-header: cc_version=2.1; cch=0a1b2;"


@pytest.mark.parametrize("own", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_a_block_that_changes_with_each_request_is_taken_out(own: Any) -> None:
    blocks = [{"type": "text", "text": BILLING}, {"type": "text", "text": "Be brief."}]
    text = f"{BILLING}\nBe brief."
    given = blocks if isinstance(own, list) else text
    chat = {"messages": [{"role": "system", "content": given}, USER]}
    assert volatile.without(forms.CHAT, chat)["messages"] == [
        {"role": "system", "content": own},
        USER,
    ]
    assert volatile.without(forms.MESSAGES, {"system": given}) == {"system": own}
    items = {"input": chat["messages"], "instructions": text}
    found = volatile.without(forms.RESPONSES, items)
    assert found["input"][0]["content"] == own
    assert found["instructions"] == "Be brief."
    assert chat["messages"][0]["content"] == given, "the client's own is not changed"


@pytest.mark.parametrize("path", [forms.CHAT, forms.MESSAGES, forms.RESPONSES, "/v1/completions"])
@pytest.mark.parametrize("value", [None, 7, "x", [], [7], [{"role": "system"}], [{"text": 7}]])
def test_anything_else_stays_the_very_same(path: str, value: Any) -> None:
    request = {"messages": value, "system": value, "input": value, "instructions": value}
    assert volatile.without(path, request) is request
    user = {"messages": [{"role": "user", "content": BILLING}]}
    assert volatile.without(forms.CHAT, user) is user


@pytest.mark.parametrize(
    ("agent", "family"),
    [
        ("claude-cli/2.1.197 (external, sdk-cli)", "claude-code"),
        ("codex_exec/0.171.0 (Debian 12.0.0; x86_64) xterm (codex_exec; 0.171.0)", "codex"),
        ("opencode/1.18.33 ai-sdk/provider-utils/4.0.23 runtime/bun/1.3.14", "opencode"),
        ("QwenCode/0.15.10 (linux; x64)", "qwen-code"),
        ("OpenAI/Python 2.20.0", "openai-sdk"),
        ("ls/JS 5.23.2", "openai-sdk"),
        ("Anthropic/Python 0.70", "anthropic-sdk"),
        ("", "other"),
        ("Robert'); DROP", "other"),
    ],
)
def test_a_client_s_family_is_one_of_a_few(agent: str, family: str) -> None:
    assert clients.family(agent) == family
