"""Keeping a pack warm: against a fake engine, with real requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import aiohttp
import pytest

from fake_engine import FakeEngine
from infbox import prompt
from infbox.engine import Engine
from infbox.metrics import WatcherMetrics
from infbox.warm import PRIORITY, Pace, Warmer
from infbox.workspace import Publication

FAST = Pace(first_pause=0.02, longest_pause=0.05, health=0.05, proof=60.0)
PACK = Publication("shop", "coder", 1, 1, "", 5, "the source tree " * 200)


@contextlib.asynccontextmanager
async def warming(url: str, pace: Pace = FAST) -> AsyncIterator[Warmer]:
    async with aiohttp.ClientSession() as session:
        warmer = Warmer("shop", Engine(session, url), WatcherMetrics(), pace)
        task = asyncio.create_task(warmer.run())
        try:
            yield warmer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def come(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10) if hasattr(asyncio, "timeout") else contextlib.nullcontext():
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_a_pack_is_computed_and_proven() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK, saved_at=1.0)
            await come(lambda: warmer.warmth.version == 1)
            assert warmer.warmth.cached_tokens == warmer.warmth.prompt_tokens > 0
            assert warmer.warmth.save_to_warm is not None

    with FakeEngine().running() as engine:
        asyncio.run(scenario(engine))
    assert len(engine.chats) == 2
    chat = engine.chats[0].chat
    assert chat["max_tokens"] == 1
    assert chat["priority"] == PRIORITY > 0
    assert chat["messages"][0] == {"role": "system", "content": PACK.text}


def test_an_engine_that_forgets_is_not_called_warm(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: len(engine.chats) >= 4)
            assert warmer.warmth.version is None
            engine.forgets = False
            await come(lambda: warmer.warmth.version == 1)

    with FakeEngine(forgets=True).running() as engine:
        asyncio.run(scenario(engine))
    assert "only 0 of" in caplog.text


def test_an_engine_that_does_not_tell_is_not_called_warm(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: "--enable-prompt-tokens-details" in caplog.text)
            assert warmer.warmth.version is None

    with FakeEngine(tells_cached_tokens=False).running() as engine:
        asyncio.run(scenario(engine))


@pytest.mark.parametrize("trouble", ["away", "busy"])
def test_it_backs_off_and_comes_back(trouble: str) -> None:
    async def scenario() -> None:
        engine = FakeEngine(busy=True)
        with engine.running():
            url = engine.url if trouble == "busy" else "http://127.0.0.1:1"
            pace = replace(FAST, first_pause=0.05, longest_pause=0.2)
            async with warming(url, pace) as warmer:
                warmer.offer(PACK)
                await asyncio.sleep(0.5)
                assert warmer.warmth.version is None
                if trouble == "busy":
                    assert 3 <= len(engine.chats) <= 6, "0.05, 0.1, 0.2, 0.2 s between tries"
                    engine.busy = False
                    await come(lambda: warmer.warmth.version == 1)

    asyncio.run(scenario())


def test_only_one_request_at_a_time_and_what_is_superseded_is_dropped() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            for version in range(1, 6):
                warmer.offer(replace(PACK, version=version, text=PACK.text + f"{version} " * 50))
                await asyncio.sleep(0.02)
            await come(lambda: warmer.warmth.version == 5)

    with FakeEngine(delay=0.1).running() as engine:
        asyncio.run(scenario(engine))
    assert engine.most_under_way == 1
    asked = {seen.chat["messages"][0]["content"] for seen in engine.chats}
    assert len(asked) <= 3, "the first, perhaps the one that waited for it, the last"


def test_a_new_generation_cancels_the_work_on_an_old_one() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK)
            await come(lambda: engine.under_way)
            engine.delay = 0.0
            warmer.offer(replace(PACK, generation=2, version=2))
            await come(lambda: warmer.warmth.version == 2)
            await come(lambda: engine.cancelled == 1)

    with FakeEngine(delay=30.0).running() as engine:
        asyncio.run(scenario(engine))


def test_an_engine_that_comes_back_is_warmed_again() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url) as warmer:
            warmer.offer(PACK, saved_at=1.0)
            await come(lambda: warmer.warmth.version == 1)
            first = warmer.warmth.save_to_warm
            engine.healthy = False
            engine.busy = True
            await come(lambda: warmer.warmth.version is None)
            engine.prompts.clear()
            await asyncio.sleep(0.2)
            engine.healthy = True
            engine.busy = False
            await come(lambda: warmer.warmth.version == 1)
            assert warmer.warmth.save_to_warm == first, "that the engine was away is no slow save"

    with FakeEngine().running() as engine:
        asyncio.run(scenario(engine))
    assert len(engine.chats) >= 4


def test_a_pack_that_was_evicted_is_found_and_warmed_again() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with warming(engine.url, replace(FAST, proof=0.1)) as warmer:
            warmer.offer(PACK)
            await come(lambda: warmer.warmth.version == 1)
            since = warmer.warmth.since
            await come(lambda: len(engine.chats) >= 6)
            assert warmer.warmth.since == since, "proving again does not make it warm anew"

    with FakeEngine().running() as engine:
        asyncio.run(scenario(engine))


SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Why?"}


@pytest.mark.parametrize(
    ("messages", "first"),
    [
        ([], "PACK"),
        ([USER], "PACK"),
        ([SYSTEM, USER], "PACK\n\nBe brief."),
        ([{"role": "system", "content": ""}, USER], "PACK"),
        ([{"role": "system"}, USER], "PACK"),
        ([USER, SYSTEM], "PACK"),
        ([{"role": "system", "content": 7}], 7),
    ],
)
def test_the_pack_is_the_first_thing_in_the_first_system_message(
    messages: list[prompt.Message], first: object
) -> None:
    before = [dict(message) for message in messages]
    result = prompt.with_pack("PACK", messages)
    assert result[0]["role"] == "system"
    assert result[0]["content"] == first
    own = messages[1:] if messages[:1] and messages[0]["role"] == "system" else messages
    assert result[1:] == own
    assert messages == before


def test_a_list_of_parts_gets_one_more_in_front() -> None:
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    result = prompt.with_pack("PACK", [{"role": "system", "content": parts, "name": "x"}])
    assert result[0]["name"] == "x"
    joined = "\n".join(part["text"] for part in result[0]["content"])
    assert joined == "PACK\n\nBe brief.\nBe kind."


def test_a_warm_up_and_a_question_begin_alike() -> None:
    warm = prompt.warm_up("PACK", "coder", 1)["messages"]
    asked = prompt.with_pack("PACK", [USER])
    assert warm[0] == asked[0]
