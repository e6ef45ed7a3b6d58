"""What is found for a question stands in front of it, once, and stays there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conversing import Talk, Workspace, text_of
from fake_apis import CHAT, COMPLETIONS, COUNT, MESSAGES, RESPONSES
from gateway_stack import Stack, running
from infbox import kinds
from infbox.gateway.app import Gateway
from infbox.gateway.conversations import retrieving
from infbox.gateway.conversations.service import Conversations
from infbox.packing.published import Pack
from infbox.packing.tokens import PIECES_PER_TOKEN, Estimate
from infbox.retrieval import texts
from infbox.retrieval.search import Chosen
from infbox.retrieval.texts import Place
from serving import serving, settings_for

ALL = pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
BEGIN, END = "<source-tree-excerpts>", "</source-tree-excerpts>\n"
QUESTION = "What does function_5_1 return?"
LONG = "Please be careful with it. " * 300


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, no search is late."""
    monkeypatch.setattr(retrieving, "SECONDS", 30.0)


@pytest.fixture
def shop(tmp_path: Path) -> Workspace:
    """A workspace whose pack shows half of its files."""
    made = Workspace(tmp_path, first=4)
    made.index_texts()
    return made


@pytest.fixture
def stack(tmp_path: Path, shop: Workspace) -> Iterator[Stack]:
    with running(tmp_path) as both:
        shop.publish()  # over what the stack publishes
        yield both


def found_in(message: dict[str, Any]) -> str:
    """What a message was told that was found; empty for nothing."""
    text = text_of(message)
    return text.partition(BEGIN)[2].partition(END)[0]


def counted(stack: Stack, result: str) -> bool:
    return f'retrievals_total{{result="{result}",workspace="shop"}}' in stack.metrics


@ALL
def test_what_is_found_stands_in_front_of_the_question_behind_the_pack(
    stack: Stack, shop: Workspace, path: str
) -> None:
    talk = Talk(stack, path=path)
    answer = talk.ask(QUESTION)
    assert answer.status == 200
    assert text_of(talk.prompt[0]).startswith(shop.pack.text), "the prefix is the pack as it was"
    question = text_of(talk.prompt[-1])
    assert question.endswith(f"{END}\n{QUESTION}")
    assert "## file_5.py (lines " in found_in(talk.prompt[-1])
    assert "def function_5_1(): return 1" in found_in(talk.prompt[-1])
    tokens = int(answer.headers["X-Infbox-Retrieved-Tokens"])
    assert 0 < tokens <= 4000
    assert len(found_in(talk.prompt[-1])) / tokens < 4.5
    assert answer.headers["X-Infbox-Retrieved"].startswith("file_5.py:1-")
    assert "infbox_gateway_retrieved_tokens_total" in stack.metrics
    assert counted(stack, "found")


@ALL
@pytest.mark.parametrize("streams", [False, True])
def test_it_stays_where_it_was_told_and_is_told_once(
    stack: Stack, shop: Workspace, path: str, streams: bool
) -> None:
    talk = Talk(stack, path=path, more={"stream": streams})
    talk.ask(QUESTION + LONG)
    before = talk.prompt
    again = talk.ask(QUESTION)
    assert again.headers["X-Infbox-Conversation"] == "kept"
    assert talk.prompt[: len(before)] == before
    assert "function_5_1()" not in found_in(talk.prompt[-1]), "it was told before"
    before = talk.prompt
    shop.add_line("file_5.py", "x = 'another one saved this'")
    shop.index_texts()
    talk.ask("And now?")
    assert talk.prompt[: len(before)] == before
    assert "another one saved this" in text_of(talk.prompt[-1]), "its change is told"


def test_a_question_that_is_sent_again_is_sent_the_same_way(stack: Stack) -> None:
    talk = Talk(stack)
    talk.ask(QUESTION)
    first = talk.prompt
    talk.send()
    assert talk.prompt == first
    talk.ask("And then " + QUESTION)
    second = talk.prompt
    talk.send()
    assert talk.prompt == second
    assert talk.prompt[: len(first)] == first


def test_what_changed_comes_before_what_was_found(stack: Stack, shop: Workspace) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    shop.add_line("file_0.py", "x = 'another one saved this'")
    talk.ask(QUESTION)
    question = text_of(talk.prompt[-1])
    assert question.index("another one saved this") < question.index(BEGIN)
    before = talk.prompt
    talk.ask("And now?")
    assert talk.prompt[: len(before)] == before


def test_what_the_pack_shows_in_full_is_not_found(stack: Stack, shop: Workspace) -> None:
    talk = Talk(stack)
    talk.ask("What does function_0_1 return, as does function_5_1?")
    assert "file_5.py" in found_in(talk.prompt[-1])
    assert "file_0.py" not in found_in(talk.prompt[-1])
    shop.add_line("file_0.py", "def function_0_99(): return 99")
    shop.index_texts()
    talk = Talk(stack)
    talk.ask("What does function_0_99 return, as does function_5_1?")
    assert "def function_0_99()" in text_of(talk.prompt[0]), "as a line that was added"
    assert "file_5.py" in found_in(talk.prompt[-1])
    assert "file_0.py" not in found_in(talk.prompt[-1])
    shop.begin()
    talk = Talk(stack)
    answer = talk.ask(QUESTION)
    assert answer.headers["X-Infbox-Retrieved-Tokens"] == "0"
    assert text_of(talk.prompt[-1]) == QUESTION
    assert counted(stack, "none")


@ALL
def test_a_file_that_must_not_be_shown_vanishes_with_all_that_was_found_in_it(
    stack: Stack, shop: Workspace, path: str
) -> None:
    talk = Talk(stack, path=path)
    talk.ask(QUESTION + LONG)
    assert "function_5_1()" in text_of(talk.prompt[1])
    hidden = shop.files.pop("file_5.py")
    shop.list_files()  # the text index and the pack follow later
    moved = talk.ask("And now?")
    assert moved.headers["X-Infbox-Conversation"] == "moved; reason=erased"
    assert hidden.splitlines()[1] not in str(talk.prompt)
    talk.ask(QUESTION)
    assert hidden.splitlines()[1] not in str(talk.prompt)


def test_it_vanishes_within_a_loop_of_tools_too(stack: Stack, shop: Workspace) -> None:
    talk = Talk(stack)
    talk.ask(QUESTION + LONG)
    call = {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    talk.messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    talk.messages.append({"role": "tool", "tool_call_id": "c1", "content": "function_3_1"})
    before = talk.prompt
    talk.send()
    assert talk.prompt[: len(before)] == before
    assert talk.prompt[-1] == talk.messages[-1], "nothing is put into a loop of tools"
    del shop.files["file_5.py"]
    shop.list_files()
    talk.messages += [{"role": "assistant", "content": None, "tool_calls": [{**call, "id": "c2"}]}]
    talk.messages += [{"role": "tool", "tool_call_id": "c2", "content": "c d"}]
    talk.send()
    assert "function_5_1()" not in str(talk.prompt)


def test_nothing_is_looked_for_where_the_question_says_nothing(stack: Stack) -> None:
    talk = Talk(stack)
    for words in ("And now?", "yes, please", "<system-reminder>function_5_1</system-reminder> go"):
        talk.ask(words)
        assert text_of(talk.prompt[-1]) == words


@pytest.mark.parametrize(
    ("options", "is_found"),
    [
        ({"retrieve": False}, ""),
        ({"retrieve": 0}, ""),
        ({"retrieve": True}, "function_5_1()"),
        ({"retrieve": 500}, "function_5_1()"),
        ({"query": "function_7_3"}, "function_7_3()"),
        ({"files": ["file_6.py"]}, "function_6_1()"),
    ],
    ids=str,
)
@ALL
def test_a_request_says_what_is_looked_for(
    stack: Stack, path: str, options: dict[str, Any], is_found: str
) -> None:
    talk = Talk(stack, path=path)
    answer = talk.ask(QUESTION, infbox=options)
    told = found_in(talk.prompt[-1])
    assert (is_found in told) if is_found else not told
    most = options.get("retrieve", 4000)
    assert int(answer.headers["X-Infbox-Retrieved-Tokens"]) <= (4000 if most is True else most)
    assert "infbox" not in stack.engine.seen[-1].chat


@pytest.mark.parametrize(
    "options",
    [
        {"retrieve": -1},
        {"retrieve": "much"},
        {"retrieve": 1.5},
        {"files": "a.py"},
        {"files": [1]},
        {"files": ["a"] * 41},
        {"files": ["a" * 1001]},
        {"query": 1},
        {"query": "a" * 20_001},
        {"other": 1},
    ],
    ids=lambda value: str(value)[:40],
)
def test_options_that_cannot_be_understood_are_refused(
    stack: Stack, options: dict[str, Any]
) -> None:
    answer = Talk(stack).ask(QUESTION, infbox=options)
    assert answer.status == 400
    assert "`infbox` must be" in answer.json["error"]["message"]
    assert not stack.engine.prompts


@pytest.mark.parametrize(
    ("header", "field", "most"),
    [
        ("0", {}, 0),
        ("500", {}, 500),
        ("0", {"retrieve": 500}, 500),
        ("9", {"retrieve": True}, 4000),
    ],
)
def test_a_header_says_it_too(stack: Stack, header: str, field: dict[str, Any], most: int) -> None:
    asked = {"model": "coder@shop", "messages": [{"role": "user", "content": QUESTION}]}
    answer = stack.post(CHAT, {"X-Infbox-Retrieve": header}, **asked, infbox=field)
    assert most / 2 <= int(answer.headers["X-Infbox-Retrieved-Tokens"]) <= most


@pytest.mark.parametrize("header", ["-1", "much", "1.5", "9" * 9, ""])
def test_a_header_that_cannot_be_understood_is_refused(stack: Stack, header: str) -> None:
    asked = {"model": "coder@shop", "messages": [{"role": "user", "content": QUESTION}]}
    answer = stack.post(CHAT, {"X-Infbox-Retrieve": header}, **asked)
    assert answer.status == 400
    assert "X-Infbox-Retrieve must be" in answer.json["error"]["message"]


def test_completions_get_their_pack_alone(stack: Stack, shop: Workspace) -> None:
    asked = {"model": "coder@shop", "prompt": QUESTION, "infbox": {"retrieve": 500}}
    assert stack.post(COMPLETIONS, **asked).status == 200
    assert stack.engine.prompts[-1] == f"{shop.pack.text}\n\n{QUESTION}"


def test_an_operator_s_no_is_the_end_of_it(tmp_path: Path, stack: Stack) -> None:
    config = settings_for(tmp_path, stack.engine.url, shop=(tmp_path, 1000))
    off = config._replace(gateway=config.gateway._replace(retrieve=False))
    with serving(Gateway(off).app) as url:
        talk = Talk(Stack(stack.engine, url))
        for options in ({}, {"retrieve": True}, {"retrieve": 4000, "files": ["file_5.py"]}):
            talk.ask(QUESTION, infbox=options)
            assert text_of(talk.prompt[-1]) == QUESTION


def test_where_the_default_is_0_a_request_has_to_ask(tmp_path: Path, stack: Stack) -> None:
    config = settings_for(tmp_path, stack.engine.url, shop=(tmp_path, 1000))
    none = config._replace(gateway=config.gateway._replace(retrieve_tokens=0))
    with serving(Gateway(none).app) as url:
        for options, most in (({}, 0), ({"retrieve": True}, 4000), ({"retrieve": 500}, 500)):
            answer = Talk(Stack(stack.engine, url)).ask(QUESTION, infbox=options)
            assert most / 4 <= int(answer.headers["X-Infbox-Retrieved-Tokens"]) <= most


def test_the_weights_that_are_set_order_what_is_found(
    tmp_path: Path, stack: Stack, shop: Workspace
) -> None:
    shop.files["docs/five.md"] = "What function_5_1 is for, and what it has to return.\n" * 5
    shop.index_texts()
    question = "what does function 5 return?"
    docs = kinds.changed(kinds.RETRIEVAL_WEIGHTS, {"docs": 1000}, "")
    config = settings_for(tmp_path, stack.engine.url, shop=(tmp_path, 1000))
    for weights, first in (
        (kinds.DEFAULTS, "file_4.py:"),
        (kinds.Weights(retrieval=docs), "docs/five.md:"),
    ):
        with serving(Gateway(config._replace(weights=weights)).app) as url:
            answer = Talk(Stack(stack.engine, url)).ask(question, infbox={"retrieve": 4000})
            assert answer.headers["X-Infbox-Retrieved"].startswith(first)


def test_what_is_counted_is_what_is_sent(stack: Stack) -> None:
    talk = Talk(stack, path=MESSAGES)
    body = {"system": talk.system, "messages": [{"role": "user", "content": QUESTION}]}
    stack.post(COUNT, {"X-Infbox-User": "ann"}, model="coder@shop", **body)
    told = stack.engine.seen[-1].chat["messages"][-1]
    talk.ask(QUESTION)
    assert text_of(told) == text_of(talk.prompt[-1])
    assert BEGIN in text_of(told)


def test_without_a_text_index_a_question_goes_without(
    stack: Stack, shop: Workspace, tmp_path: Path
) -> None:
    file = texts.place(shop.state, "shop")
    for each in file.parent.glob(f"{file.name}*"):
        each.unlink()
    talk = Talk(stack)
    assert talk.ask(QUESTION).status == 200
    assert text_of(talk.prompt[-1]) == QUESTION
    assert counted(stack, "failed")
    shop.index_texts()
    talk.ask(QUESTION + LONG)
    assert "function_5_1()" in found_in(talk.prompt[-1]), "it is looked for again"


def test_a_search_that_is_late_keeps_no_question_waiting(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieving.Retrieval, "_note", _late)
    talk = Talk(stack)
    assert talk.ask(QUESTION).status == 200
    assert text_of(talk.prompt[-1]) == QUESTION
    assert counted(stack, "late")


def _late(*_: object) -> None:
    raise retrieving._LateError


@pytest.mark.parametrize("fits", ["", "fit", "whole"])
def test_it_is_left_out_where_the_prompt_would_be_too_long_with_it(
    stack: Stack, shop: Workspace, fits: str
) -> None:
    more = {"infbox": {"pack": fits}} if fits else {}
    talk = Talk(stack, more=more)
    talk.ask(QUESTION + LONG)
    asked = len(stack.engine.seen)
    bare = [m for m in talk.prompt if BEGIN not in text_of(m)]
    stack.engine.window = len(str(bare)) + len(QUESTION + LONG) + 2000
    answer = talk.ask("And what of function_6_1?")
    assert answer.status == 200
    assert len(stack.engine.seen) == asked + 2
    assert BEGIN not in str(talk.prompt)
    assert answer.headers["X-Infbox-Retrieved-Tokens"] == "0"
    assert int(answer.headers["X-Infbox-Pack-Tokens"]) == shop.pack.tokens
    assert counted(stack, "dropped")
    before = talk.prompt
    stack.engine.window = 0
    talk.ask("And now?")
    assert talk.prompt[: len(before)] == before, "it goes on as it went out"


def test_without_it_a_request_keeps_the_salt_of_its_workspace(tmp_path: Path, stack: Stack) -> None:
    config = settings_for(tmp_path, stack.engine.url, shop=(tmp_path, 1000))
    restricted = config.gateway._replace(restricts_workspaces=True)
    grant = {"X-Infbox-User": "ann", "X-Infbox-Workspaces": "shop"}
    asked = {"model": "coder@shop", "messages": [{"role": "user", "content": QUESTION}]}
    with serving(Gateway(config._replace(gateway=restricted)).app) as url:
        own = Stack(stack.engine, url)
        assert own.post(CHAT, grant, **asked).status == 200
        stack.engine.window = len(str(stack.engine.prompts[-1])) - 100
        assert own.post(CHAT, grant, **asked).status == 200
    first, refused, last = (seen.chat for seen in stack.engine.seen)
    assert first["cache_salt"] == refused["cache_salt"] == last["cache_salt"] != ""
    assert BEGIN in str(refused)
    assert BEGIN not in str(last)


@pytest.mark.parametrize("window", [3000, 6000, 12_000, 100_000])
def test_it_never_takes_more_than_its_share_of_the_window(
    tmp_path: Path, stack: Stack, shop: Workspace, window: int
) -> None:
    config = settings_for(tmp_path, stack.engine.url, shop=(tmp_path, 1000))
    small = config._replace(engine=config.engine._replace(max_model_len=window))
    with serving(Gateway(small).app) as url:
        talk = Talk(Stack(stack.engine, url))
        total = 0
        for number in range(8):
            answer = talk.ask(f"What of function_{number}_1 and function_{number}_70?")
            total += int(answer.headers["X-Infbox-Retrieved-Tokens"])
    share = (window - shop.pack.tokens) * retrieving.MAX_SHARE
    assert total <= min(max(share, 0), 4000 * retrieving.MAX_NOTES)


def test_what_was_found_is_no_reason_to_move(stack: Stack, shop: Workspace) -> None:
    talk = Talk(stack)
    talk.ask(LONG)
    for number in range(4, 8):
        talk.ask(f"What does function_{number}_1 return?")
        shop.add_line("file_0.py", f"x_{number} = 1")
    assert talk.ask("And now?").headers["X-Infbox-Conversation"] == "kept"


def test_it_survives_a_restart(tmp_path: Path, stack: Stack) -> None:
    talk = Talk(stack)
    talk.ask(QUESTION)
    before = talk.prompt
    config = settings_for(tmp_path, stack.engine.url, shop=(tmp_path, 1000))
    with serving(Gateway(config).app) as url:
        talk.stack = Stack(stack.engine, url)
        talk.ask("And now?")
    assert talk.prompt[: len(before)] == before


def test_it_is_erased_from_the_disk(tmp_path: Path, shop: Workspace, stack: Stack) -> None:
    folder = tmp_path / "state/conversations"
    Talk(stack).ask(QUESTION)
    conversations = Conversations(folder / "conversations.db", 10**9, shop.state)
    conversations._tidy({})
    assert b"function_5_1()" in _bytes_in(folder)
    del shop.files["file_5.py"]
    shop.list_files()
    conversations._tidy({})
    assert b"function_5_1()" not in _bytes_in(folder)


def _bytes_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def test_chunks_that_have_more_tokens_than_their_bytes_let_expect_are_left_out() -> None:
    dense = "[[0, 1], [2, 3]], {('a', 'b'): (4, 5)}, (x[i][j] << 3) & 0xff,\n" * 4
    places = [Place(n, f"f{n}.py", 1, 4, len(dense), ()) for n in range(12)]
    chosen = [Chosen(place, dense if n % 2 else "x = 1\n", "") for n, place in enumerate(places)]
    wanted = retrieving.Wanted(
        "shop", 0, QUESTION, (), 700, 4.0, {}, frozenset(), pieces_per_token=0.9
    )
    note = retrieving.composed(chosen, {place.path: "digest" for place in places}, wanted)
    assert note
    assert 500 < note.tokens <= 700
    kept = [path for path, *_ in note.found]
    assert kept == sorted(kept, key=lambda path: int(path[1:-3])), "the first ones first"
    assert kept[0] == chosen[0].place.path
    assert len(kept) < len(chosen)
    assert Estimate(4.0).count(note.text) < 0.7 * note.tokens


def test_the_pieces_of_a_token_are_those_of_the_pack() -> None:
    text = b"def price_of(order):\n    return 42\n" * 20
    pack = Pack(1, 1, 250, "", text, text)
    assert pack.pieces == 20 * 11
    assert retrieving.pieces_per_token(pack) == pytest.approx(0.95 * 220 / 250)
    assert retrieving.pieces_per_token(replace(pack, tokens=0)) == PIECES_PER_TOKEN
    assert retrieving.pieces_per_token(replace(pack, tokens=1)) == 1.2
    assert retrieving.pieces_per_token(replace(pack, tokens=9000)) == 0.5
