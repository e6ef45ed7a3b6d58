"""Keeping a pack warm: against a fake engine, with real requests."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import generate_latest

from fake_engine import FakeEngine, TemplateRefusalError, encode, render, split, turns
from infbox.metrics import WatcherMetrics
from infbox.packing import prompt
from infbox.packing.erasure.cached_chunks import CachedChunks, hashes
from infbox.warming.engine import Engine
from infbox.warming.lmcache import LMCache
from infbox.warming.warmer import PIECE_TOKENS, PRIORITY, Pace, Warmer

FAST = Pace(first_pause=0.02, longest_pause=0.05, health=0.05, proof=60.0)
NOWHERE = "http://127.0.0.1:1"
TEXT = "# Source tree\n\n" + "the source tree\n```\n" * 90  # less than one piece


@dataclass(frozen=True)
class Pack:
    """A pack as warming sees it."""

    text: str = TEXT
    generation: int = 1
    version: int = 1
    model: str = "coder"
    ids: Sequence[int] | None = None
    sha256: str = ""
    sections: Sequence[tuple[int, int]] = ()
    told: Sequence[frozenset[str]] = ()


PACK = Pack(ids=encode(TEXT))


def grown(pack: Pack, more: str, version: int) -> Pack:
    """The pack with an entry more, its ids put together as the packer does."""
    return replace(pack, text=pack.text + more, ids=encode(pack.text + more), version=version)


def question(pack: Pack, messages: list[prompt.Message], engine: FakeEngine) -> list[int]:
    """The token ids of a person's question, as the engine renders it."""
    return encode(engine.template(prompt.with_pack(pack.text, messages), []))


@contextlib.asynccontextmanager
async def warming(
    url: str,
    pace: Pace = FAST,
    lmcache: str = "",
    *,
    is_here: Callable[[], bool] | None = None,
    chunks: CachedChunks | None = None,
    salts: tuple[str, ...] = ("",),
) -> AsyncIterator[Warmer]:
    async with aiohttp.ClientSession() as session:
        cache = LMCache(session, lmcache, longest=0.3) if lmcache else None
        warmer = Warmer(
            "shop",
            Engine(session, url),
            WatcherMetrics(),
            pace,
            cache,
            is_here=is_here,
            chunks=chunks,
            salts=salts,
        )
        task = asyncio.create_task(warmer.run())
        try:
            yield warmer
        finally:
            task.cancel()
            ended = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(ended[0], asyncio.CancelledError), ended


async def come(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to pass in time")


def run(scenario: Callable[[FakeEngine], Coroutine[Any, Any, None]], **settings: Any) -> FakeEngine:
    """Run a scenario against an engine with these settings, and return that."""
    with FakeEngine(**settings).running() as engine:
        asyncio.run(scenario(engine))
    return engine


def asked(engine: FakeEngine) -> list[list[int]]:
    """The prompts of the warm-ups, in order."""
    return [seen.chat["prompt"] for seen in engine.warm_ups]


def counted(warmer: Warmer, name: str, **labels: str) -> float:
    labels = {"workspace": "shop", **labels}
    return warmer._metrics.registry.get_sample_value(f"infbox_{name}", labels) or 0.0


# ---- what is asked of the engine


def test_a_pack_is_computed_and_proven() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK, saved_at=1.0)
            await come(lambda: warmer.warmth.version == 1)
            assert warmer.warmth.cached_tokens == warmer.warmth.prompt_tokens > 0
            assert warmer.warmth.save_to_warm is not None
            assert counted(warmer, "pack_warm") == 1
            assert counted(warmer, "pack_recomputed_tokens_total") == warmer.warmth.prompt_tokens

    engine = run(scenario)
    assert len(engine.warm_ups) == 2
    body = engine.warm_ups[0].chat
    assert body["max_tokens"] == 1
    assert body["priority"] == PRIORITY > 0
    assert engine.chats == [], "the engine renders no text for a warm-up"


@pytest.mark.parametrize("block", [1, 16, 128])
@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Why?"}],
        [{"role": "system", "content": "\nBe brief."}, {"role": "user", "content": "Why?"}],
    ],
)
def test_a_question_after_a_warm_up_finds_all_whole_blocks_of_the_pack(
    messages: list[prompt.Message], block: int
) -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)

    engine = run(scenario, block=block)
    tokens = question(PACK, messages, engine)
    warm = asked(engine)[-1]
    blocks = len(encode("<system>\n") + encode(PACK.text)[:-1]) // block
    assert len(warm) == blocks * block + 1
    assert tokens[: blocks * block] == warm[:-1]


def test_with_ids_of_the_pack_a_save_has_the_engine_tokenise_nothing() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            before = len(engine.tokenized)
            warmer.offer(grown(PACK, "## b.py\n```\nb\n```\n", 2))
            await come(lambda: warmer.warmth.version == 2)
            assert len(engine.tokenized) == before

    run(scenario)


@pytest.mark.parametrize("ids", [None, [1, 2, 3] * 500], ids=["no-ids", "other-ids"])
def test_without_the_engine_s_own_ids_each_version_is_tokenised_by_the_engine(
    ids: list[int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    pack = replace(PACK, ids=ids)
    second = replace(grown(PACK, "## b.py\n```\nb\n```\n", 2), ids=ids)

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(pack)
            await come(lambda: warmer.warmth.version == 1)
            warmer.offer(second)
            await come(lambda: warmer.warmth.version == 2)
            assert warmer.template_error is None

    engine = run(scenario)
    tokens = question(second, [{"role": "user", "content": "Why?"}], engine)
    warm = asked(engine)[-1]
    assert len(warm) > len(second.text) // 2
    assert tokens[: len(warm) - 1] == warm[:-1]
    assert caplog.text.count("other-tokens") == (0 if ids is None else 1)


def test_a_long_pack_is_computed_in_pieces_and_what_follows_it_is_not() -> None:
    text = "0" * (2 * PIECE_TOKENS + 100)
    pack = Pack(text, ids=encode(text))

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(pack)
            await come(lambda: warmer.warmth.version == 1)
            before = len(engine.warm_ups)
            warmer.offer(grown(pack, "x" * 300, 2))
            await come(lambda: warmer.warmth.version == 2)
            assert len(engine.warm_ups) == before + 2

    engine = run(scenario)
    lengths = [len(prompt) for prompt in asked(engine)]
    assert all(later - earlier <= PIECE_TOKENS for earlier, later in pairwise([0, *lengths]))
    assert len(lengths) == 3 + 1 + 2


def test_a_long_pack_that_is_replaced_is_not_computed_to_its_end() -> None:
    text = "0" * (4 * PIECE_TOKENS)
    pack = Pack(text, ids=encode(text))
    second = replace(pack, text=text[:-100] + "1" * 100, ids=encode(text[:-100] + "1" * 100))

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(pack)
            await come(lambda: engine.under_way)
            warmer.offer(replace(second, version=2))
            await come(lambda: warmer.warmth.version == 2)

    prompts = asked(run(scenario, delay=0.05))
    assert not any(ord("0") in prompt[-50:] for prompt in prompts if len(prompt) > len(text))
    lengths = [len(prompt) for prompt in prompts]
    assert lengths.count(PIECE_TOKENS) == 1, "what was done of it begins what replaced it"


# ---- proof


@pytest.mark.parametrize("block", [1, 16])
def test_even_a_short_change_is_proven_by_a_request_of_its_own(block: int) -> None:
    second = grown(PACK, "## b.py\n```\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n```\n", 2)

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            before = len(engine.warm_ups)
            warmer.offer(second)
            await come(lambda: warmer.warmth.version == 2)
            assert len(engine.warm_ups) == before + 2
            assert warmer.warmth.prompt_tokens - warmer.warmth.cached_tokens <= 1

    run(scenario, block=block)


def test_an_engine_that_forgets_is_not_called_warm(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: len(engine.warm_ups) >= 4)
            assert warmer.warmth.version is None
            assert counted(warmer, "warm_requests_total", result="cold") >= 1
            engine.forgets = False
            await come(lambda: warmer.warmth.version == 1)

    run(scenario, forgets=True)
    assert "only 0 of" in caplog.text


def test_an_engine_that_does_not_tell_is_not_called_warm(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: "--enable-prompt-tokens-details" in caplog.text)
            assert warmer.warmth.version is None

    run(scenario, tells_cached_tokens=False)


def test_a_warm_pack_is_proven_again_and_computed_where_it_was_evicted() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url, replace(FAST, proof=0.1)) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            since = warmer.warmth.since
            await come(lambda: len(engine.warm_ups) >= 5)
            assert warmer.warmth.since == since, "proving again does not make it warm anew"
            computed = counted(warmer, "pack_recomputed_tokens_total")
            assert computed == warmer.warmth.prompt_tokens, "what is cached costs one request"
            engine.prompts.clear()
            await come(lambda: counted(warmer, "pack_recomputed_tokens_total") == 2 * computed)
            assert warmer.warmth.version == 1

    run(scenario)


# ---- trouble


@pytest.mark.parametrize("trouble", ["away", "busy"])
def test_it_backs_off_and_comes_back(trouble: str) -> None:
    async def scenario(engine: FakeEngine) -> None:
        url = engine.url if trouble == "busy" else NOWHERE
        async with warming(url, replace(FAST, first_pause=0.05, longest_pause=0.2)) as warmer:
            warmer.offer(PACK)
            await asyncio.sleep(0.5)
            assert warmer.warmth.version is None
            assert counted(warmer, "warm_requests_total", result=trouble) >= 3
            if trouble == "busy":
                assert 3 <= len(engine.tokenized) <= 6, "0.05, 0.1, 0.2, 0.2 s between tries"
                engine.busy = False
                await come(lambda: warmer.warmth.version == 1)

    run(scenario, busy=True)


def test_only_one_request_at_a_time_and_what_is_superseded_is_dropped() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            for version in range(1, 6):
                warmer.offer(grown(PACK, f"{version} " * 50, version))
                await asyncio.sleep(0.02)
            await come(lambda: warmer.warmth.version == 5)

    engine = run(scenario, delay=0.1)
    assert engine.most_under_way == 1
    versions = {tuple(prompt) for prompt in asked(engine)}
    assert len(versions) <= 3, "the first, perhaps the one that waited for it, the last"


def test_a_new_generation_cancels_the_work_on_an_old_one() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: engine.under_way)
            engine.delay = 0.0
            warmer.offer(replace(PACK, generation=2, version=2))
            await come(lambda: warmer.warmth.version == 2)
            await come(lambda: engine.cancelled == 1)

    run(scenario, delay=30.0)


def test_an_engine_that_comes_back_is_checked_and_warmed_again() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK, saved_at=1.0)
            await come(lambda: warmer.warmth.version == 1)
            first, checks = warmer.warmth.save_to_warm, len(engine.tokenized)
            engine.healthy, engine.busy = False, True
            await come(lambda: warmer.warmth.version is None)
            engine.prompts.clear()
            await asyncio.sleep(0.2)
            engine.healthy, engine.busy = True, False
            await come(lambda: warmer.warmth.version == 1)
            assert warmer.warmth.save_to_warm == first, "that the engine was away is no slow save"
            assert len(engine.tokenized) >= checks + 3

    engine = run(scenario)
    assert len(engine.warm_ups) >= 4


# ---- the next generation

NEXT_TEXT = "# Source tree\n\n" + "another base\n```\n" * 90
NEXT = Pack(NEXT_TEXT, generation=2, version=5, ids=encode(NEXT_TEXT))


def test_the_next_generation_is_warm_before_anybody_is_told() -> None:
    told: list[int] = []

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            warmer.prepare(NEXT, lambda: told.append(len(engine.warm_ups)))
            await come(lambda: told)
            assert warmer.warmth.version == 1, "what is published still is what it was"
            warmer.offer(NEXT)
            await come(lambda: warmer.warmth.version == 5)
            computed = counted(warmer, "pack_recomputed_tokens_total")
            assert computed < len(PACK.text) + len(NEXT.text) + 100, "nothing twice"

    engine = run(scenario)
    assert told == [4], "computed and proven"
    assert len(engine.warm_ups) == 5, "and found warm when it is published"


def test_what_is_published_goes_before_the_next_generation() -> None:
    warm_by_then: list[int] = []

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.prepare(NEXT, lambda: warm_by_then.append(warmer.warmth.version))
            warmer.offer(PACK)
            await come(lambda: warm_by_then)

    run(scenario)
    assert warm_by_then == [PACK.version], "what is published"


def test_a_save_goes_before_a_next_generation_that_is_being_computed() -> None:
    told: list[int] = []
    text = "0123456789" * 1500
    long = replace(NEXT, text=text, ids=encode(text))

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            before = len(engine.warm_ups)
            warmer.prepare(long, lambda: told.append(1))
            await come(lambda: len(engine.warm_ups) > before)  # its first piece is done or begun
            engine.delay = 30.0
            await come(lambda: engine.under_way and len(engine.warm_ups) > before + 1)
            engine.delay = 0.0
            warmer.offer(grown(PACK, "## b.py\n```\nb\n```\n", 2))
            await come(lambda: warmer.warmth.version == 2)
            await come(lambda: engine.cancelled == 1)
            assert not told
            await come(lambda: told)

    engine = run(scenario)
    again = [len(p) for p in asked(engine) if p[:100] == encode("<system>\n" + text)[:100]]
    assert again.count(min(again)) == 1, "a piece that was computed is not asked for again"
    assert told == [1]


@pytest.mark.parametrize("trouble", ["away", "refuses"])
def test_where_the_engine_cannot_help_the_next_generation_does_not_wait(trouble: str) -> None:
    told: list[int] = []

    async def scenario(engine: FakeEngine) -> None:
        url = engine.url if trouble == "refuses" else NOWHERE
        async with warming(url, replace(FAST, longest_pause=60, proof=60)) as warmer:
            warmer.offer(PACK)
            await asyncio.sleep(0.1)
            warmer.prepare(NEXT, lambda: told.append(1))
            await come(lambda: told)

    run(scenario, longest=10)
    assert told == [1]


def test_a_busy_engine_is_waited_for_with_the_next_generation() -> None:
    told: list[int] = []

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            engine.busy = True
            warmer.prepare(NEXT, lambda: told.append(1))
            await asyncio.sleep(0.2)
            assert not told, "every question would compute the whole of it"
            engine.busy = False
            await come(lambda: told)

    run(scenario)


def test_a_newer_next_generation_replaces_one_that_waits_and_none_forgets_it() -> None:
    told: list[str] = []

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            engine.delay = 30.0
            warmer.prepare(NEXT, lambda: told.append("old"))
            await come(lambda: engine.under_way)
            engine.delay = 0.0
            warmer.prepare(replace(NEXT, generation=3), lambda: told.append("new"))
            await come(lambda: told)
            engine.delay = 30.0
            warmer.prepare(replace(NEXT, generation=4, text="x" * 5000, ids=None))
            await come(lambda: engine.under_way)
            warmer.prepare(None)
            await come(lambda: not engine.under_way)
            before = len(engine.warm_ups)
            await asyncio.sleep(0.1)
            assert len(engine.warm_ups) == before

    run(scenario)
    assert told == ["new"]


# ---- the chat template


def user_first(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    system, rest = split(messages)
    return f"{rest[0]['content']}\n<system>\n{system}<end>\n{turns(rest[1:])}"


def with_the_last_question(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    system, rest = split(messages)
    last = {**rest[-1], "content": f"{system}\n\n{rest[-1]['content']}"}
    return turns([*rest[:-1], last])


def strips_each_line(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    system, rest = split(messages)
    lines = "\n".join(line.strip(" `") for line in system.splitlines())
    return f"<system>\n{lines}<end>\n{turns(rest)}"


def cuts_off(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    system, rest = split(messages)
    return f"<system>\n{system[:1000]}<end>\n{turns(rest)}"


def escapes(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    system, rest = split(messages)
    return f"<system>\n{system.upper()}<end>\n{turns(rest)}"


def drops_it(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    return turns(split(messages)[1])


def refuses_it(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    system, rest = split(messages)
    if system:
        raise TemplateRefusalError("System role not supported")
    return turns(rest)


def counts_up(messages: list[dict[str, Any]], tools: list[Any], calls: list[int] = []) -> str:  # noqa: B006  # it remembers on purpose
    calls.append(1)
    return f"request {len(calls)}\n{render(messages, tools)}"


def tells_the_date(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    import datetime  # noqa: PLC0415

    return f"Today Date: {datetime.date.today():%d %b %Y}\n{render(messages, tools)}"


BROKEN: list[tuple[Callable[..., str], str, str]] = [
    (user_first, "what stands before the pack differs from question to question", "token 2 "),
    (with_the_last_question, "the pack does not stand first and unaltered in a question", ""),
    (strips_each_line, "it does not put the pack into the prompt as it is", "token "),
    (cuts_off, "it does not put the pack into the prompt as it is", "token "),
    (escapes, "it does not put the pack into the prompt as it is", "token 12 "),
    (drops_it, "it does not put the pack into the prompt as it is", "token "),
    (refuses_it, "it refuses a system message", "System role not supported"),
    (counts_up, "what stands before the pack differs from question to question", "token 8 "),
    (tells_the_date, "it writes the date before the pack", ""),
]


@pytest.mark.parametrize(
    ("template", "reason", "more"), BROKEN, ids=[broken[0].__name__ for broken in BROKEN]
)
def test_a_template_that_breaks_the_prefix_is_refused_by_name(
    template: Callable[..., str], reason: str, more: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url, replace(FAST, proof=0.1)) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.template_error)
            assert reason in str(warmer.template_error)
            assert more in str(warmer.template_error)
            assert "--chat-template" in str(warmer.template_error)
            assert warmer.warmth.version is None
            assert counted(warmer, "warm_template_broken") == 1
            assert counted(warmer, "pack_warm") == 0
            assert engine.warm_ups == [], "no work for nothing"
            engine.template = render
            await come(lambda: warmer.warmth.version == 1)
            assert warmer.template_error is None
            assert counted(warmer, "warm_template_broken") == 0

    run(scenario, template=template)
    assert "template-breaks-prefix" in caplog.text
    assert "model=coder" in caplog.text
    assert "hint=" in caplog.text


def test_saves_do_not_have_a_broken_template_checked_each_time() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.template_error)
            before = len(engine.tokenized)
            for version in range(2, 6):
                warmer.offer(grown(PACK, "x\n" * version, version))
                await asyncio.sleep(0.02)
            assert len(engine.tokenized) == before

    run(scenario, template=cuts_off)


def trims_the_end(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    system, rest = split(messages)
    return f"<system>\n{system.strip()}{''.join(map(str, tools))}<end>\n{turns(rest)}"


def test_a_trimmed_last_newline_breaks_nothing() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            assert warmer.template_error is None
            assert warmer.template_warning is None

    engine = run(scenario, template=trims_the_end)
    tokens = question(PACK, [{"role": "user", "content": "Why?"}], engine)
    warm = asked(engine)[-1]
    assert tokens[: len(warm) - 1] == warm[:-1]


def tools_first(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    return "".join(map(str, tools)) + render(messages, [])


def test_a_template_that_breaks_it_with_tools_only_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            assert "questions with tools" in str(warmer.template_warning)
            assert warmer.template_error is None

    run(scenario, template=tools_first)
    assert "template-warning" in caplog.text


def test_a_head_that_changes_with_time_is_seen_with_the_next_generation() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            engine.template = lambda messages, tools: "later\n" + render(messages, tools)
            warmer.offer(replace(NEXT, version=2))
            await come(lambda: warmer.template_error)
            assert "changes with time" in str(warmer.template_error)

    run(scenario)


def test_each_generation_is_checked() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            before = len(engine.tokenized)
            warmer.offer(replace(NEXT, version=2))
            await come(lambda: warmer.warmth.version == 2)
            assert len(engine.tokenized) == 2 * before, "as the first was"

    run(scenario)


# ---- LMCache's prefetch


@pytest.mark.parametrize(
    ("prefetch", "requests"),
    [("loaded", 2), ("partly", 2), ("nothing", 2), ("unregistered", 2), ("short", 2), ("slow", 2)],
)
def test_a_pack_is_brought_from_disk_before_anything_is_computed(
    prefetch: str, requests: int
) -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url, lmcache=engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            assert counted(warmer, "warm_prefetches_total", result=prefetch) == 1
            warmer.offer(grown(PACK, "x\n", 2))
            await come(lambda: warmer.warmth.version == 2)

    engine = run(scenario, prefetch=prefetch)
    order = [target for target in engine.targets() if "prefetches" in target or "compl" in target]
    assert order[0] == "/cache/prefetches"
    assert order.count("/cache/prefetches") == 1, "once for each start"
    begun = next(seen for seen in engine.seen if seen.target == "/cache/prefetches").chat
    assert begun["model_name"] == "/models/coder"
    assert begun["world_size"] == 2, "as LMCache's own status tells"
    assert begun["token_ids"] == asked(engine)[0]
    assert begun["cache_salt"] == ""


def test_after_the_engine_was_away_it_is_brought_from_disk_again() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url, lmcache=engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            engine.healthy = False
            await come(lambda: warmer.warmth.version is None)
            engine.healthy = True
            await come(lambda: warmer.warmth.version == 1)

    engine = run(scenario)
    assert engine.targets().count("/cache/prefetches") >= 2


def test_a_missing_lmcache_keeps_nothing_from_being_warm() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url, lmcache=NOWHERE) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            assert counted(warmer, "warm_prefetches_total", result="away") == 1

    run(scenario)


def test_what_was_loaded_from_disk_is_asked_for_in_one_piece() -> None:
    text = "0123456789" * 1500
    pack = Pack(text, ids=encode(text))

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url, lmcache=engine.url) as warmer:
            warmer.offer(pack)
            await come(lambda: warmer.warmth.version == 1)

    assert len(run(scenario, prefetch="loaded").warm_ups) == 2
    assert len(run(scenario, prefetch="partly").warm_ups) > 3


# ---- several hosts


def test_what_is_asked_of_another_host_is_not_warmed_until_it_comes_here() -> None:
    home = False

    async def scenario(engine: FakeEngine) -> None:
        nonlocal home
        async with warming(engine.url, is_here=lambda: home) as warmer:
            adopted: list[int] = []
            warmer.offer(PACK)
            warmer.prepare(replace(PACK, generation=2), lambda: adopted.append(2))
            await come(lambda: adopted)  # nobody waits for what is not warmed
            assert warmer.is_elsewhere
            assert engine.warm_ups == []
            assert "infbox_pack_warm{" not in generate_latest(warmer._metrics.registry).decode()
            home = True
            await come(lambda: warmer.warmth.version == 1)
            assert counted(warmer, "pack_warm") == 1
            home = False
            await come(lambda: warmer.is_elsewhere)
            assert warmer.warmth.version is None
            assert "infbox_pack_warm{" not in generate_latest(warmer._metrics.registry).decode()

    run(scenario)


# ---- what LMCache must not keep


def of_files(*texts: str) -> Pack:
    """A pack of files a, b, c, with these texts."""
    text = "".join(texts)
    ends = [len("".join(texts[: n + 1])) for n in range(len(texts))]
    return Pack(
        text=text,
        ids=encode(text),
        sha256=f"{hash(text):x}",
        sections=[(end, len(encode(text[:end]))) for end in ends],
        told=[frozenset({name}) for name in "abc"[: len(texts)]],
    )


def test_a_pack_is_warmed_and_brought_back_under_its_workspaces_salt() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url, lmcache=engine.url, salts=("own", "")) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            asked = {"model": "coder", "prompt": engine.warm_ups[-1].chat["prompt"]}
            for salt, finds in (("own", True), ("another", False), (None, False)):
                given = asked if salt is None else {**asked, "cache_salt": salt}
                usage = await warmer._engine.complete(given)
                assert bool(usage.cached_tokens) == finds, salt

    engine = run(scenario)
    assert {seen.chat.get("cache_salt") for seen in engine.warm_ups[:-3]} == {"own"}
    (brought,) = [s.chat for s in engine.seen if s.target == "/cache/prefetches"]
    assert brought["cache_salt"] == "own"


def test_what_was_erased_is_dropped_under_both_salts(tmp_path: Path) -> None:
    chunks = CachedChunks(tmp_path / "chunks.db")

    async def scenario(engine: FakeEngine) -> None:
        given = {"lmcache": engine.url, "chunks": chunks, "salts": ("own", "")}
        async with warming(engine.url, **given) as warmer:
            warmer.offer(of_files("a " * 1500, "b " * 1500))
            await come(lambda: warmer.warmth.version == 1)
            chunks.drop(["b"])
            warmer.offer(replace(of_files("a " * 1500), generation=2, version=2))
            await come(lambda: {"l1", "fs_native", "resp"} <= engine.dropped.keys())

    engine = run(scenario)
    keys = [
        (key["chunk_hash_hex"], key["cache_salt"])
        for seen in engine.seen
        if seen.target == "/cache/objects"
        for key in seen.chat["keys"]
    ]
    assert {salt for _, salt in keys} == {"own", ""}
    assert {name for name, salt in keys if salt} == {name for name, salt in keys if not salt}
    chunks.close()


@pytest.mark.parametrize("fails_first", [False, True])
def test_what_was_erased_is_dropped_from_every_tier_of_lmcache(
    tmp_path: Path, fails_first: bool
) -> None:
    pack = of_files(*(f"{name} " * 1500 for name in "abc"))
    chunks = CachedChunks(tmp_path / "chunks.db")

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url, lmcache=engine.url, chunks=chunks) as warmer:
            warmer.offer(pack)
            await come(lambda: warmer.warmth.version == 1)
            assert not engine.dropped
            chunks.drop(["b"])
            warmer.offer(replace(of_files("a " * 1500), generation=2, version=2))
            if fails_first:
                await come(lambda: any(s.target == "/cache/objects" for s in engine.seen))
                assert not engine.dropped
                engine.keeps = False
            await come(lambda: {"l1", "fs_native", "resp"} <= engine.dropped.keys())
            await come(lambda: warmer.warmth.version == 2)

    engine = run(scenario, keeps=fails_first)
    assert engine.dropped["l1"] == engine.dropped["fs_native"] == engine.dropped["resp"]
    dropped = {name for name, _ in engine.dropped["l1"]}
    assert {rank for _, rank in engine.dropped["l1"]} == {2 << 24 | 2 << 8, 2 << 24 | 1 << 16 | 513}
    head = encode("<system>\n")
    for before in (head, []):  # as a template has it, and as a completion
        names = [name.hex() for name in hashes([*before, *encode(pack.text)], 256)]
        begin, end = (len(before) + pack.sections[n][1] for n in (0, 1))
        inside = names[begin // 256 : -(-end // 256)]
        assert inside
        assert set(inside) <= dropped
        assert dropped.isdisjoint(names[: (begin - 16) // 256]), "what stood before is kept"
    chunks.close()


def greets(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    return f"You are served by another template.\n{render(messages, tools)}"


def test_what_another_template_made_the_engine_keep_is_dropped_too(tmp_path: Path) -> None:
    pack = of_files("a " * 1500, "b " * 1500)
    head = encode("You are served by another template.\n<system>\n")
    chunks = CachedChunks(tmp_path / "chunks.db")

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url, lmcache=engine.url, chunks=chunks) as warmer:
            warmer.offer(pack)
            await come(lambda: warmer.warmth.version == 1)
            engine.template, engine.healthy = greets, False
            await come(lambda: asked(engine)[-1][: len(head)] == list(head))
            engine.healthy = True
            chunks.drop(["b"])
            warmer.offer(replace(of_files("a " * 1500), generation=2, version=2))
            await come(lambda: {"l1", "fs_native", "resp"} <= engine.dropped.keys())

    engine = run(scenario)
    dropped = {name for name, _ in engine.dropped["l1"]}
    names = [name.hex() for name in hashes([*head, *encode(pack.text)], 256)]
    assert names[-1] in dropped
    chunks.close()


def test_a_full_disk_does_not_end_the_warming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = CachedChunks(tmp_path / "chunks.db")
    note = chunks.note
    failed: list[Any] = []

    def full(*arguments: Any) -> None:
        if len(failed) < 2:
            failed.append(arguments)
            raise sqlite3.OperationalError("database or disk is full")
        note(*arguments)

    monkeypatch.setattr(chunks, "note", full)

    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url, lmcache=engine.url, chunks=chunks) as warmer:
            warmer.offer(of_files("a " * 1500))
            await come(lambda: warmer.warmth.version == 1)

    run(scenario)
    assert len(failed) == 2
    chunks.close()
