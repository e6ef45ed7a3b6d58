"""Whoever shares questions out says which workspaces are at home here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import aiohttp

from infbox.config import Replicas
from infbox.replicas.placement import Placement
from serving import free_port, serving
from stub_balancer import StubHomes


@contextlib.asynccontextmanager
async def looking(url: str) -> AsyncIterator[Placement]:
    async with aiohttp.ClientSession() as session:
        homes = Placement(session, Replicas(url, "here"), ["shop", "web"], interval=0.01)
        task = asyncio.create_task(homes.run())
        try:
            yield homes
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def come(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to pass in time")


def test_a_workspace_is_here_while_its_questions_come_here() -> None:
    stub = StubHomes()

    async def scenario(url: str) -> None:
        async with looking(url) as homes:
            assert not homes.is_here("shop")  # it has not looked
            await come(lambda: homes.is_here("shop"))
            assert not homes.is_here("web")
            stub.homes = {"shop": "there", "web": "here"}
            await come(lambda: homes.is_here("web") and not homes.is_here("shop"))
            stub.status = 503  # no host takes questions: nothing has moved
            stub.homes = {"shop": "here", "web": "there"}
            await asyncio.sleep(0.1)
            assert homes.is_here("web")
            assert not homes.is_here("shop")

    with serving(stub.app()) as url:
        asyncio.run(scenario(url))


def test_while_nobody_can_say_all_are_here() -> None:
    async def scenario() -> None:
        async with looking(f"http://127.0.0.1:{free_port()}") as homes:
            await come(lambda: homes.is_here("shop") and homes.is_here("web"))

    asyncio.run(scenario())
