"""What the engine has seen of a conversation is never sent differently again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conversing import Talk, Workspace, text_of
from fake_apis import CHAT, COUNT, MESSAGES, RESPONSES
from gateway_stack import Stack, running
from infbox.gateway.app import Gateway
from infbox.gateway.bodies import LARGE_BYTES
from serving import get_json, serving, settings_for, until

ALL = pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
LONG = "Why is it so? " * 300  # so that what is told is little beside the conversation


@pytest.fixture
def shop(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def stack(tmp_path: Path, shop: Workspace) -> Iterator[Stack]:
    with running(tmp_path) as both:
        shop.publish()  # over what the stack publishes
        yield both


def is_extended(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> bool:
    return after[: len(before)] == before


@ALL
@pytest.mark.parametrize("streams", [False, True])
def test_a_conversation_keeps_the_pack_that_it_began_with(
    stack: Stack, shop: Workspace, path: str, streams: bool
) -> None:
    talk = Talk(stack, path=path, more={"stream": streams})
    first = talk.ask(LONG)
    assert first.headers["X-Infbox-Conversation"] == "new"
    version, before = first.headers["X-Infbox-Version"], talk.prompt
    shop.add_line("file_1.py", "x = 'another one saved this'")
    second = talk.ask("And now?")
    assert second.status == 200
    assert second.headers["X-Infbox-Conversation"] == "kept"
    assert second.headers["X-Infbox-Version"] == version
    assert is_extended(before, talk.prompt)
    shop.add_line("file_2.py", "y = 'and this'")
    before = talk.prompt
    talk.ask("And then?")
    assert is_extended(before, talk.prompt)


@ALL
def test_what_changed_is_told_in_front_of_the_next_question_and_stays_there(
    stack: Stack, shop: Workspace, path: str
) -> None:
    talk = Talk(stack, path=path)
    talk.ask(LONG)
    shop.add_line("file_1.py", "x = 'another one saved this'")
    told = talk.ask("And now?")
    question = text_of(talk.prompt[-1])
    assert "+x = 'another one saved this'" in question
    assert "## file_1.py (edited)" in question
    assert question.endswith("\nAnd now?")
    assert told.headers["X-Infbox-Told-Files"] == "1"
    assert int(told.headers["X-Infbox-Told-Tokens"]) > 0
    same = talk.ask("And then?")
    assert text_of(talk.prompt[3]) == question
    assert text_of(talk.prompt[-1]) == "And then?"
    assert same.headers["X-Infbox-Told-Tokens"] == told.headers["X-Infbox-Told-Tokens"]


def test_each_change_is_told_once_and_from_where_the_last_one_ended(
    stack: Stack, shop: Workspace
) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    shop.add_line("file_1.py", "first_change = 1")
    talk.ask("One?")
    shop.add_line("file_2.py", "in_between = 1")
    shop.add_line("file_1.py", "second_change = 2")
    talk.ask("Two?")
    question = text_of(talk.prompt[-1])
    assert "+second_change = 2" in question
    assert "+in_between = 1" in question
    assert "+first_change = 1" not in question
    assert " first_change = 1" in question, "as a line around the next change"


def test_nothing_is_put_into_a_loop_of_tools(stack: Stack, shop: Workspace) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    call = {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    talk.messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    talk.messages.append({"role": "tool", "tool_call_id": "c1", "content": "a b"})
    shop.add_line("file_1.py", "x = 'another one saved this'")
    before = talk.prompt
    talk.send()
    assert is_extended(before, talk.prompt)
    assert talk.prompt[-1] == talk.messages[-1]
    talk.ask("And now?")
    assert "another one saved this" in text_of(talk.prompt[-1])


def test_nothing_is_put_before_a_loop_of_tools_that_went_elsewhere(
    stack: Stack, shop: Workspace
) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    shop.add_line("file_1.py", "x = 'another one saved this'")
    talk.answered()
    call = {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    talk.messages.append({"role": "user", "content": "This was asked without infbox."})
    talk.messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    talk.messages.append({"role": "tool", "tool_call_id": "c1", "content": "a b"})
    assert talk.send().headers["X-Infbox-Conversation"] == "kept"
    assert talk.prompt[1:] == talk.messages


def test_nothing_is_put_into_a_result_of_a_tool_of_anthropic_s(
    stack: Stack, shop: Workspace
) -> None:
    talk = Talk(stack, path=MESSAGES)
    talk.ask(LONG)
    use = {"type": "tool_use", "id": "t1", "name": "ls", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "a b"}
    reminder = {"type": "text", "text": "Do not forget."}
    talk.messages.append({"role": "assistant", "content": [use]})
    talk.messages.append({"role": "user", "content": [result, reminder]})
    shop.add_line("file_1.py", "x = 'another one saved this'")
    talk.send()
    assert talk.prompt[-1]["content"] == [result, reminder]


@ALL
def test_marks_and_ids_that_clients_change_make_no_other_conversation(
    stack: Stack, shop: Workspace, path: str
) -> None:
    talk = Talk(stack, path=path)
    talk.ask(LONG)
    shop.add_line("file_1.py", "x = 1")
    kind = "input_text" if path == RESPONSES else "text"
    part = {"type": kind, "text": LONG, "cache_control": {"type": "ephemeral"}}
    talk.messages[0] = {"role": "user", "content": [part], "id": "msg_1", "type": "message"}
    assert talk.ask("Go on.").headers["X-Infbox-Conversation"] == "kept"


def test_a_changing_system_prompt_makes_no_other_conversation_but_is_told_of(
    stack: Stack, shop: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    talk = Talk(stack, system="It is 12:00.")
    talk.ask(LONG)
    shop.add_line("file_1.py", "x = 1")
    talk.system = "It is 12:01."
    assert talk.ask("Go on.").headers["X-Infbox-Conversation"] == "kept"
    labels = '{client="other",first="system",state="kept",workspace="shop"}'
    until(lambda: f"infbox_gateway_conversation_turns_total{labels} 1.0" in stack.metrics)
    assert "conversation-changed workspace=shop user=ann client=other first=system" in caplog.text


@ALL
def test_an_edited_history_goes_on_from_what_is_left(
    stack: Stack, shop: Workspace, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    talk = Talk(stack, path=path)
    talk.ask(LONG)
    shop.add_line("file_1.py", "first = 1")
    talk.ask("One?")
    kept = talk.prompt
    talk.ask("Two?")
    shop.add_line("file_2.py", "second = 2")
    talk.messages[4:] = [{"role": "user", "content": "Two, in other words?"}]
    assert talk.send().headers["X-Infbox-Conversation"] == "kept"
    assert is_extended(kept[:4], talk.prompt)
    assert "second = 2" in text_of(talk.prompt[-1])
    assert "first=messages" in caplog.text
    del talk.messages[2:]
    talk.ask("One, in other words?")
    assert is_extended(kept[:3], talk.prompt)
    assert "first = 1" in text_of(talk.prompt[-1])
    assert "second = 2" in text_of(talk.prompt[-1])


def test_a_branch_is_told_nothing_of_another_one_s(stack: Stack, shop: Workspace) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    talk.answered("Because.")
    other = Talk(stack, [*talk.messages])
    shop.add_line("file_1.py", "first = 1")
    talk.ask("One?")
    talk.ask("Two?")
    shop.add_line("file_2.py", "second = 2")
    other.ask("Three?")
    assert "first = 1" in text_of(other.prompt[-1])
    assert "second = 2" in text_of(other.prompt[-1])
    talk.ask("Four?")
    assert "first = 1" in text_of(talk.prompt[3])
    assert "second = 2" in text_of(talk.prompt[-1])


def test_a_repeated_request_is_sent_as_it_was(stack: Stack, shop: Workspace) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    shop.add_line("file_1.py", "first = 1")
    talk.ask("One?")
    before = talk.prompt
    shop.add_line("file_1.py", "second = 2")
    talk.send()
    assert talk.prompt == before


def test_what_was_never_answered_begins_anew_with_the_present_pack(
    stack: Stack, shop: Workspace
) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    shop.add_line("file_1.py", "first = 1")
    again = talk.send()
    assert again.headers["X-Infbox-Conversation"] == "new"
    assert again.headers["X-Infbox-Version"] == str(shop.version)


@pytest.mark.parametrize("other", [{"user": "bob"}, {"user": ""}])
def test_a_conversation_is_one_user_s(stack: Stack, shop: Workspace, other: dict[str, str]) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    talk.ask("And now?")
    shop.add_line("file_1.py", "first = 1")
    stranger = Talk(stack, [*talk.messages], **other)
    assert stranger.ask("Mine?").headers["X-Infbox-Conversation"] == "new"
    assert stranger.prompt[0] != talk.prompt


def test_a_restart_forgets_nothing(tmp_path: Path, shop: Workspace) -> None:
    with running(tmp_path) as stack:
        shop.publish()
        talk = Talk(stack)
        talk.ask(LONG)
        shop.add_line("file_1.py", "first = 1")
        talk.ask("One?")
        before = talk.prompt
        config = settings_for(tmp_path, stack.engine.url, shop=(tmp_path, 1000))
        shop.add_line("file_2.py", "second = 2")
        with serving(Gateway(config).app) as url:
            talk.stack = Stack(stack.engine, url)
            answer = talk.ask("Two?")
            assert answer.headers["X-Infbox-Conversation"] == "kept"
            assert is_extended(before, talk.prompt)
            assert "second = 2" in text_of(talk.prompt[-1])


def test_a_gateway_that_has_forgotten_is_slower_and_not_wrong(
    tmp_path: Path, shop: Workspace
) -> None:
    file = tmp_path / "state" / "conversations" / "conversations.db"
    with running(tmp_path) as stack:
        shop.publish()
        talk = Talk(stack)
        talk.ask(LONG)
    file.write_bytes(b"damaged" * 100)
    shop.add_line("file_1.py", "first = 1")
    with running(tmp_path) as stack:
        shop.publish()
        talk.stack = stack
        answer = talk.ask("One?")
        assert (answer.status, answer.headers["X-Infbox-Conversation"]) == (200, "new")
        assert answer.headers["X-Infbox-Version"] == str(shop.version)
        shop.add_line("file_1.py", "second = 2")
        assert talk.ask("Two?").headers["X-Infbox-Conversation"] == "kept"


def test_where_nothing_can_be_written_the_present_pack_goes_out(
    tmp_path: Path, shop: Workspace
) -> None:
    (tmp_path / "state" / "conversations").write_text("in the way")
    with running(tmp_path) as stack:
        shop.publish()
        talk = Talk(stack)
        talk.ask(LONG)
        shop.add_line("file_1.py", "first = 1")
        answer = talk.ask("One?")
        assert answer.status == 200
        assert answer.headers["X-Infbox-Version"] == str(shop.version)
        assert "X-Infbox-Conversation" not in answer.headers


def test_a_short_conversation_moves_to_the_present_pack_when_that_is_cheaper(
    stack: Stack, shop: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    talk = Talk(stack)
    talk.ask("Why?")
    shop.save("file_1.py", "changed = 'as a whole'\n" * 40)
    answer = talk.ask("And now?")
    assert answer.headers["X-Infbox-Conversation"] == "moved; reason=cheaper"
    assert answer.headers["X-Infbox-Version"] == str(shop.version)
    assert text_of(talk.prompt[-1]) == "And now?"
    assert "conversation-moved workspace=shop user=ann client=other reason=cheaper" in caplog.text
    before = talk.prompt
    shop.add_line("file_0.py", "x = 1")
    assert talk.ask(LONG).headers["X-Infbox-Conversation"] == "kept"
    assert is_extended(before, talk.prompt)


def test_an_edit_of_what_moved_goes_on_from_what_is_left(stack: Stack, shop: Workspace) -> None:
    talk = Talk(stack)
    talk.ask("Why?")
    shop.save("file_1.py", "changed = 'as a whole'\n" * 40)
    assert talk.ask("And now?").headers["X-Infbox-Conversation"] == "moved; reason=cheaper"
    before = talk.prompt
    del talk.messages[2:]
    assert talk.ask("In other words?").headers["X-Infbox-Conversation"] == "kept"
    assert is_extended(before[:3], talk.prompt)


@ALL
def test_a_file_that_must_not_be_shown_takes_earlier_packs_away_at_once(
    stack: Stack, shop: Workspace, path: str
) -> None:
    shop.add_line("file_3.py", "harmless = 'as it seemed'")
    talk = Talk(stack, path=path)
    talk.ask(LONG)
    assert "as it seemed" in text_of(talk.prompt[0])
    shop.ignore("file_3.py")
    shop.begin()  # as the watcher will: without it
    answer = talk.ask("And now?")
    assert answer.headers["X-Infbox-Conversation"] == "moved; reason=erased"
    assert "as it seemed" not in json.dumps(talk.prompt)


def test_a_note_about_such_a_file_is_not_sent_again_either(stack: Stack, shop: Workspace) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    shop.save("new.py", "harmless = 'as it seemed'\n")
    talk.ask("And now?")
    assert "as it seemed" in text_of(talk.prompt[-1])
    shop.ignore("new.py")
    shop.begin()
    call = {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    talk.messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    talk.messages.append({"role": "tool", "tool_call_id": "c1", "content": "a b"})
    assert talk.send().headers["X-Infbox-Conversation"] == "moved; reason=erased"
    assert "as it seemed" not in json.dumps(talk.prompt)


def test_a_pack_that_already_says_so_is_kept(stack: Stack, shop: Workspace) -> None:
    shop.ignore("file_3.py")
    talk = Talk(stack)
    talk.ask(LONG)
    shop.add_line("file_1.py", "x = 1")
    assert talk.ask("And now?").headers["X-Infbox-Conversation"] == "kept"


def test_packs_of_another_epoch_are_not_used(stack: Stack, shop: Workspace) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    shop.epoch = "e2"
    shop.add_line("file_1.py", "x = 1")
    assert talk.ask("And now?").headers["X-Infbox-Conversation"] == "moved; reason=erased"


def test_a_watcher_that_does_not_tell_enough_has_no_conversations_kept(
    stack: Stack, shop: Workspace
) -> None:
    shop.epoch = ""
    shop.publish()
    assert "X-Infbox-Conversation" not in Talk(stack).ask(LONG).headers


def test_a_response_goes_on_from_an_earlier_one(stack: Stack, shop: Workspace) -> None:
    first = Talk(stack, path=RESPONSES)
    name = first.ask(LONG).json["id"]
    pack = first.prompt[0]["content"].partition("\n\nBe brief.")[0]
    shop.add_line("file_1.py", "first = 1")
    following = Talk(stack, path=RESPONSES, more={"previous_response_id": name})
    answer = following.ask("One?")
    assert answer.headers["X-Infbox-Conversation"] == "kept"
    assert following.prompt[0]["content"] == f"{pack}\n\nBe brief."
    assert [m["role"] for m in following.prompt] == ["system", "user", "assistant", "user"]
    assert following.prompt[:2] == first.prompt[:2]
    assert "first = 1" in text_of(following.prompt[-1])
    told = following.prompt
    shop.add_line("file_2.py", "second = 2")
    third = Talk(stack, path=RESPONSES, more={"previous_response_id": answer.json["id"]})
    third.ask("Two?")
    assert third.prompt[: len(told)] == told
    assert "second = 2" in text_of(third.prompt[-1])
    assert "first = 1" not in text_of(third.prompt[-1]), "which the engine has"
    before = third.prompt
    shop.add_line("file_2.py", "third = 3")
    third.send()
    assert third.prompt == before


def test_an_id_that_the_client_gives_is_not_taken(stack: Stack) -> None:
    Talk(stack, path=RESPONSES, more={"request_id": "mine"}).ask(LONG)
    assert "request_id" not in stack.engine.seen[-1].chat


def test_tokens_are_counted_with_what_is_told_and_nothing_is_noted(
    stack: Stack, shop: Workspace
) -> None:
    talk = Talk(stack, path=MESSAGES)
    talk.ask(LONG)
    shop.add_line("file_1.py", "first = 1")
    talk.answered()
    talk.messages.append({"role": "user", "content": "One?"})
    body = {"system": talk.system, "messages": talk.messages}
    counted = stack.post(COUNT, {"X-Infbox-User": "ann"}, model="coder@shop", **body)
    assert counted.headers["X-Infbox-Conversation"] == "kept"
    assert counted.json["input_tokens"] > len(json.dumps(talk.prompt)) + 100
    assert "first = 1" in text_of(stack.engine.seen[-1].chat["messages"][-1])
    shop.add_line("file_2.py", "second = 2")
    talk.send()
    assert "second = 2" in text_of(talk.prompt[-1]), "what was counted was not sent"


def test_a_cut_pack_stays_as_it_was_cut(stack: Stack, shop: Workspace) -> None:
    most = 100_000 - shop.pack.tokens
    talk = Talk(stack, more={"infbox": {"pack": "fit"}, "max_tokens": most})
    tokens = int(talk.ask(LONG).headers["X-Infbox-Pack-Tokens"])
    assert 0 < tokens < shop.pack.tokens
    before = talk.prompt
    talk.more["max_tokens"] -= 1000
    shop.add_line("file_1.py", "first = 1")
    assert int(talk.ask("Go on.").headers["X-Infbox-Pack-Tokens"]) == tokens
    assert is_extended(before, talk.prompt)
    talk.more["max_tokens"] += 1600
    less = int(talk.ask("Go on.").headers["X-Infbox-Pack-Tokens"])
    assert 500 < less <= tokens / 2
    talk.more["max_tokens"] -= 1600
    assert int(talk.ask("Go on.").headers["X-Infbox-Pack-Tokens"]) == less


@ALL
@pytest.mark.parametrize("max_model_len", [100_000, 400_000])
def test_a_pack_that_was_cut_stays_so_once_the_conversation_is_large(
    tmp_path: Path, shop: Workspace, path: str, max_model_len: int
) -> None:
    """With a large window the last turns before it is full are bodies of more than a megabyte."""
    with running(tmp_path) as stack:
        shop.publish()
        config = settings_for(tmp_path, stack.engine.url, shop=(tmp_path, 1000))
        config = config._replace(
            engine=config.engine._replace(max_model_len=max_model_len),
            gateway=config.gateway._replace(max_body_bytes=4 * LARGE_BYTES, retrieve=False),
        )
        stack.engine.window = LARGE_BYTES + len(shop.pack.text) * 3 // 4
        with serving(Gateway(config).app) as url:
            talk = Talk(Stack(stack.engine, url), path=path)
            first = talk.ask("x" * (LARGE_BYTES - 2000))
            assert first.status == 200
            tokens = int(first.headers["X-Infbox-Pack-Tokens"])
            assert tokens < shop.pack.tokens
            assert bool(tokens) is (max_model_len > 100_000)
            before = talk.prompt
            second = talk.ask("y" * 3000)
    assert (second.status, second.headers["X-Infbox-Pack-Tokens"]) == (200, str(tokens))
    assert is_extended(before, talk.prompt)


@pytest.mark.parametrize(("room", "is_told"), [(5000, True), (1500, False)])
def test_a_note_never_makes_a_prompt_too_long(
    tmp_path: Path, shop: Workspace, room: int, is_told: bool
) -> None:
    with running(tmp_path) as stack:
        shop.publish()
        config = settings_for(tmp_path, stack.engine.url, shop=(tmp_path, 1000))
        engine = config.engine._replace(max_model_len=shop.pack.tokens + room)
        with serving(Gateway(config._replace(engine=engine)).app) as url:
            talk = Talk(Stack(stack.engine, url))
            talk.ask(LONG)
            shop.add_line("file_1.py", "x = 'another one saved this'")
            assert talk.ask("And now?").headers["X-Infbox-Conversation"] == "kept"
    assert ("another one saved this" in text_of(talk.prompt[-1])) is is_told


def test_the_status_counts_conversations(stack: Stack, shop: Workspace) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    shop.add_line("file_1.py", "first = 1")
    talk.ask("One?")
    Talk(stack).ask("Another conversation")

    def told() -> dict[str, Any]:
        status: dict[str, Any] = get_json(f"{stack.url}/v1/workspaces/shop/status")["conversations"]
        return status

    until(lambda: told()["turns"] == 3)
    assert told()["count"] == 2
    assert told()["told_tokens"] > 0
    assert 0 < told()["cached_median"] < 1
    assert "infbox_gateway_conversation_told_tokens_total" in stack.metrics


def test_conversations_can_be_switched_off(tmp_path: Path, shop: Workspace) -> None:
    with running(tmp_path) as stack:
        shop.publish()
        config = settings_for(tmp_path, stack.engine.url, shop=(tmp_path, 1000))
        off = config._replace(gateway=config.gateway._replace(conversations_mb=0))
        with serving(Gateway(off).app) as url:
            talk = Talk(Stack(stack.engine, url))
            talk.ask(LONG)
            shop.add_line("file_1.py", "first = 1")
            assert talk.ask("One?").headers["X-Infbox-Version"] == str(shop.version)
    assert not (tmp_path / "state" / "conversations").exists()


@ALL
@pytest.mark.parametrize("depth", [10, 200, 300, 450, 900, 980, 3000])
def test_a_message_nested_deeply_is_answered_or_refused(
    stack: Stack, shop: Workspace, path: str, depth: int
) -> None:
    key = "input" if path == RESPONSES else "messages"
    text = json.dumps({"model": "coder@shop", key: [{"role": "user", "content": 7}]})
    status, _, _ = stack.ask("POST", path, text.replace("7", "[" * depth + "]" * depth).encode())
    assert status in (200, 400)
