"""Each API: how the pack gets in, and what is said of the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fake_apis import CHAT, COMPLETIONS, COUNT, MESSAGES, RESPONSES
from gateway_stack import BODIES, SECTION, SECTION_TOKENS, TEXT, USER, Stack, publish
from infbox.gateway import apis
from serving import until

CHATS = [CHAT, MESSAGES, RESPONSES]
BRIEF = "Be brief."
ALL = pytest.mark.parametrize("path", BODIES)


def with_own_text(path: str) -> dict[str, Any]:
    """A question with a system text of its own."""
    if path == MESSAGES:
        return {**BODIES[path], "system": BRIEF}
    if path == RESPONSES:
        return {**BODIES[path], "instructions": BRIEF}
    return {"messages": [{"role": "system", "content": BRIEF}, USER]}


@ALL
@pytest.mark.parametrize("streams", [False, True])
def test_the_pack_comes_first(stack: Stack, path: str, streams: bool) -> None:
    answer = stack.post(path, model="coder@shop", stream=streams, top_k=7, **BODIES[path])
    assert answer.status == 200
    (seen,) = stack.engine.seen
    assert (seen.target, seen.chat["model"], seen.chat["top_k"]) == (path, "coder", 7)
    (asked,) = stack.engine.prompts
    start = asked if path == COMPLETIONS else json.loads(str(asked))[0]["content"]
    assert start.startswith(TEXT)
    assert answer.headers["X-Infbox-Generation"] == "3"
    assert answer.headers["X-Infbox-Version"] == "1"
    assert answer.headers["X-Infbox-Pack-Tokens"] == "100"


@pytest.mark.parametrize("own", [False, True])
def test_all_chats_ask_the_same_prompt(stack: Stack, own: bool) -> None:
    for path in CHATS:
        body = with_own_text(path) if own else BODIES[path]
        assert stack.post(path, model="coder@shop", **body).status == 200
    first, *others = stack.engine.prompts
    assert others == [first, first]
    system = f"{TEXT}\n\n{BRIEF}" if own else TEXT
    assert json.loads(str(first)) == [{"role": "system", "content": system}, USER]


def test_blocks_of_a_system_text_follow_the_pack(stack: Stack) -> None:
    system = [{"type": "text", "text": BRIEF, "cache_control": {"type": "ephemeral"}}]
    stack.post(MESSAGES, model="coder@shop", system=system, **BODIES[MESSAGES])
    stack.post(CHAT, model="coder@shop", **with_own_text(CHAT))
    one, other = stack.engine.prompts
    assert one == other
    assert stack.engine.seen[0].chat["system"][1] == system[0]


def test_a_leading_system_message_of_a_response_follows_the_pack(stack: Stack) -> None:
    items = [{"role": "system", "content": BRIEF}, USER]
    stack.post(RESPONSES, model="coder@shop", input=items)
    stack.post(CHAT, model="coder@shop", **with_own_text(CHAT))
    one, other = stack.engine.prompts
    assert one == other


def test_parts_of_a_leading_system_message_get_one_more_in_front(stack: Stack) -> None:
    own = {"type": "input_text", "text": BRIEF}
    stack.post(RESPONSES, model="coder@shop", input=[{"role": "system", "content": [own]}, USER])
    system, user = stack.engine.seen[0].chat["input"]
    assert system["content"] == [{"type": "input_text", "text": f"{TEXT}\n"}, own]
    assert user == USER


def test_an_answer_does_not_repeat_the_pack_as_its_instructions(stack: Stack) -> None:
    stack.post(RESPONSES, model="coder@shop", input="Why?", instructions=BRIEF)
    assert "instructions" not in stack.engine.seen[0].chat


def test_each_of_several_prompts_gets_the_pack(stack: Stack) -> None:
    stack.post(COMPLETIONS, model="coder@shop", prompt=["a", "b"])
    assert stack.engine.seen[0].chat["prompt"] == [f"{TEXT}\n\na", f"{TEXT}\n\nb"]


@pytest.mark.parametrize("prompt", [[1, 2], [[1], [2]], ["a", 1], None, 7, {}, []], ids=str)
def test_a_prompt_that_is_no_text_is_refused_by_name(stack: Stack, prompt: object) -> None:
    answer = stack.post(COMPLETIONS, model="coder@shop", prompt=prompt)
    assert answer.status == 400
    assert "`prompt` must be text" in answer.json["error"]["message"]
    assert not stack.engine.seen


def test_tokens_are_counted_with_the_pack(stack: Stack) -> None:
    without = stack.post(COUNT, model="coder", messages=[USER]).json["input_tokens"]
    answer = stack.post(COUNT, model="coder@shop", messages=[USER])
    assert answer.json["input_tokens"] > without + len(TEXT)
    assert answer.headers["X-Infbox-Version"] == "1"


@ALL
def test_a_header_names_the_workspace_too(stack: Stack, path: str) -> None:
    named = {"X-Infbox-Workspace": "shop"}
    by_header = stack.post(path, named, model="coder", **BODIES[path])
    by_model = stack.post(path, model="coder@shop", **BODIES[path])
    both = stack.post(path, named, model="coder@shop", **BODIES[path])
    assert [by_header.status, by_model.status, both.status] == [200, 200, 200]
    bodies = [json.loads(seen.body) for seen in stack.engine.seen]
    assert bodies[0] == bodies[1] == bodies[2]
    assert by_header.headers["X-Infbox-Version"] == "1"


def test_a_name_may_be_written_in_any_way_that_json_has(stack: Stack) -> None:
    for name in (b"coder\\u0040shop", b"coder@\\u0073hop"):
        body = b'{"messages": [], "model": "' + name + b'"}'
        assert stack.ask("POST", CHAT, body)[1]["X-Infbox-Version"] == "1"


def test_a_response_need_not_name_a_model_besides_the_header(stack: Stack) -> None:
    stack.post(RESPONSES, {"X-Infbox-Workspace": "shop"}, input="Why?")
    assert TEXT in stack.engine.seen[0].chat["input"][0]["content"]
    assert "model" not in stack.engine.seen[0].chat


@ALL
def test_the_count_of_cached_tokens_is_in_a_header(stack: Stack, path: str) -> None:
    stack.post(path, model="coder@shop", **BODIES[path])
    answer = stack.post(path, model="coder@shop", **BODIES[path])
    assert int(answer.headers["X-Infbox-Cached-Tokens"]) > len(TEXT)


@ALL
@pytest.mark.parametrize("streams", [False, True])
def test_tokens_are_counted_by_user_and_workspace(stack: Stack, path: str, streams: bool) -> None:
    for _ in range(2):
        stack.post(
            path, {"X-Infbox-User": "ann"}, model="coder@shop", stream=streams, **BODIES[path]
        )
    prompt = len(stack.engine.prompts[0])

    def counted(kind: str, number: int) -> bool:
        labels = f'{{kind="{kind}",user="ann",workspace="shop"}}'
        return f"infbox_gateway_tokens_total{labels} {number}.0" in stack.metrics

    until(lambda: counted("completion", 2))
    assert counted("prompt", 2 * prompt)
    assert counted("cached", prompt)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_tokens_of_what_passes_untouched_are_counted_too(stack: Stack, path: str) -> None:
    stack.post(path, {"X-Infbox-User": "bob"}, model="coder", stream=True, **BODIES[path])
    labels = '{kind="completion",user="bob",workspace=""}'
    until(lambda: f"infbox_gateway_tokens_total{labels} 1.0" in stack.metrics)


@pytest.mark.parametrize("user", ["Robert'); DROP", "", "x" * 33, "a b"])
def test_a_user_s_name_that_caddy_would_not_give_is_no_label(stack: Stack, user: str) -> None:
    stack.post(CHAT, {"X-Infbox-User": user}, model="coder@shop", messages=[USER])
    until(lambda: 'requests_total{status="200",user="",workspace="shop"} 1.0' in stack.metrics)


@ALL
def test_a_pack_may_be_cut_where_a_section_ends(stack: Stack, path: str) -> None:
    body = {**BODIES[path], "infbox": {"pack": "fit"}}
    limit = {RESPONSES: "max_output_tokens"}.get(path, "max_tokens")
    body[limit] = 100_000 - 60 - len(json.dumps(BODIES[path]))
    answer = stack.post(path, model="coder@shop", **body)
    tokens = int(answer.headers["X-Infbox-Pack-Tokens"])
    assert 0 < tokens < 100
    assert tokens % SECTION_TOKENS == 0
    (asked,) = stack.engine.prompts
    text = asked if path == COMPLETIONS else json.loads(str(asked))[0]["content"]
    assert text.startswith(SECTION * (tokens // SECTION_TOKENS))
    assert text.count(SECTION) == tokens // SECTION_TOKENS
    assert "infbox" not in stack.engine.seen[0].chat


@ALL
def test_a_pack_that_fits_is_not_cut(stack: Stack, path: str) -> None:
    options = {"pack": "fit"}
    answer = stack.post(path, model="coder@shop", infbox=options, **BODIES[path])
    assert answer.headers["X-Infbox-Pack-Tokens"] == "100"
    assert "infbox" not in stack.engine.seen[0].chat


@ALL
def test_a_pack_is_cut_further_where_vllm_still_refuses(stack: Stack, path: str) -> None:
    stack.engine.window = len(TEXT) // 3
    answer = stack.post(path, model="coder@shop", infbox={"pack": "fit"}, **BODIES[path])
    assert answer.status == 200
    assert 0 < int(answer.headers["X-Infbox-Pack-Tokens"]) <= 25
    assert 2 < len(stack.engine.seen) < 5


@ALL
def test_what_does_not_fit_is_refused_with_the_pack_s_tokens(stack: Stack, path: str) -> None:
    stack.engine.window = len(TEXT) // 2
    answer = stack.post(path, {"X-Infbox-Pack": "whole"}, model="coder@shop", **BODIES[path])
    assert answer.status == 400
    error = answer.json["error"]
    words = f"This model's maximum context length is {stack.engine.window} tokens."
    assert error["message"] == ("prompt is too long: " if path == MESSAGES else "") + words
    ours = error["infbox"]
    told = {"workspace": "shop", "pack_tokens": 100, "window": 100_000, "left": 99_900}
    assert {**ours, "hint": ""} == {**told, "hint": ""}
    assert "X-Infbox-Pack: fit" in ours["hint"]
    assert answer.json.get("type") == ("error" if path == MESSAGES else None)


def test_the_words_of_anthropic_s_api_have_both_numbers(stack: Stack) -> None:
    words = (
        "This model's maximum context length is 8192 tokens. However, your prompt contains "
        "at least 8193 input tokens, which exceeds this limit even without any output tokens."
    )
    said = f"prompt is too long: 8193 tokens > 8192 maximum. {words}"
    assert apis.too_long(MESSAGES, words) == said
    assert apis.too_long(CHAT, words) == words
    stack.engine.window = 5
    answer = stack.post(MESSAGES, model="coder", **BODIES[MESSAGES])
    assert answer.json["error"]["message"].startswith("prompt is too long: This model's maximum")
    assert "infbox" not in answer.json["error"]
    answer = stack.post(CHAT, model="coder", **BODIES[CHAT])
    assert answer.json["error"]["message"].startswith("This model's maximum")


@ALL
def test_a_header_has_the_pack_cut_too(stack: Stack, path: str) -> None:
    stack.engine.window = len(TEXT) // 3
    asked = {"model": "coder@shop", **BODIES[path]}
    assert stack.post(path, {"X-Infbox-Pack": "fit"}, **asked).status == 200
    assert stack.post(path, {"X-Infbox-Pack": "whole"}, **asked).status == 400
    assert stack.post(path, {"X-Infbox-Pack": "half"}, **asked).status == 400
    whole = {**asked, "infbox": {"pack": "whole"}}
    assert stack.post(path, {"X-Infbox-Pack": "fit"}, **whole).status == 400


@ALL
def test_who_does_not_say_gets_the_whole_pack_and_a_part_where_that_is_too_long(
    stack: Stack, path: str
) -> None:
    asked = {"model": "coder@shop", **BODIES[path]}
    assert stack.post(path, **asked).headers["X-Infbox-Pack-Tokens"] == "100"
    assert len(stack.engine.seen) == 1
    stack.engine.window = len(TEXT) // 3
    for body in (asked, {**asked, "infbox": {}}):
        answer = stack.post(path, **body)
        assert answer.status == 200
        assert 0 < int(answer.headers["X-Infbox-Pack-Tokens"]) <= 25


def test_who_does_not_say_gets_what_there_is_room_for_at_once(stack: Stack) -> None:
    long = {"role": "user", "content": "x" * 50_000}
    stack.engine.window = 1 << 20
    stack.post(CHAT, model="coder@shop", messages=[long], max_tokens=83_300)
    stack.engine.window = 50_000 + len(TEXT)
    answer = stack.post(CHAT, model="coder@shop", messages=[long], max_tokens=83_260)
    assert answer.headers["X-Infbox-Pack-Tokens"] not in ("0", "50", "100")
    assert len(stack.engine.seen) == 3


def test_what_fits_with_no_pack_at_all_is_refused_at_last(stack: Stack) -> None:
    stack.engine.window = 10
    answer = stack.post(CHAT, model="coder@shop", messages=[USER], infbox={"pack": "fit"})
    assert answer.status == 400
    assert len(stack.engine.seen) < 10


def test_a_refusal_of_something_else_stays_as_it_is(stack: Stack) -> None:
    answer = stack.post(CHAT, model="coder@shop")
    assert (answer.status, answer.json) == (400, {"error": {"message": "malformed"}})


@pytest.mark.parametrize("options", [7, {"pack": "half"}, {"peck": "fit"}, [], None], ids=str)
def test_options_that_are_none_are_refused(stack: Stack, options: object) -> None:
    answer = stack.post(CHAT, model="coder@shop", messages=[USER], infbox=options)
    assert answer.status == 400
    assert "`infbox` must be" in answer.json["error"]["message"]


def test_a_pack_published_without_sections_is_used_whole_or_not(
    stack: Stack, tmp_path: Path
) -> None:
    publish(tmp_path, version=2, sections=[])
    fit = {"infbox": {"pack": "fit"}, "messages": [USER]}
    assert stack.post(CHAT, model="coder@shop", **fit).headers["X-Infbox-Pack-Tokens"] == "100"
    answer = stack.post(CHAT, model="coder@shop", max_tokens=99_990, **fit)
    assert answer.headers["X-Infbox-Pack-Tokens"] == "0"
    assert stack.engine.seen[-1].chat["messages"] == [USER]


@pytest.mark.parametrize("path", CHATS)
def test_no_messages_are_none_with_a_pack_too(stack: Stack, path: str) -> None:
    name = "input" if path == RESPONSES else "messages"
    for model in ("coder", "coder@shop"):
        stack.post(path, model=model, **{name: []})
        assert stack.engine.seen.pop().chat[name] == []
