"""An overlay's pack is warmed by its end alone, once its base is warm."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from test_service import at_work
from test_warmer import FAST, NOWHERE, PACK, asked, come, counted, grown, run

from fake_engine import FakeEngine, encode
from infbox.metrics import WatcherMetrics
from infbox.warming.engine import Engine
from infbox.warming.warmer import PIECE_TOKENS, Warmer
from serving import get_json, get_text, settings_for, until
from trees import fill

LONG = replace(PACK, text=PACK.text * 4, ids=encode(PACK.text * 4))
OVER = grown(LONG, "the developer's own\n", 7)


@contextlib.asynccontextmanager
async def two(url: str, base_url: str = "", base_here: bool = True) -> AsyncIterator[list[Warmer]]:
    """The warmers of a base and of an overlay, which may count in one place."""
    async with aiohttp.ClientSession() as session:
        metrics = WatcherMetrics()
        first = Engine(session, base_url or url)
        base = Warmer("base", first, metrics, FAST, is_here=lambda: base_here)
        over = Warmer("shop", Engine(session, url), metrics, FAST, base=base)
        tasks = [asyncio.create_task(warmer.run()) for warmer in (base, over)]
        try:
            yield [base, over]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def test_only_the_end_is_computed_for_the_overlay() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with two(engine.url) as (base, over):
            base.offer(LONG)
            await come(lambda: base.warmth.version)
            before = len(engine.warm_ups)
            over.offer(OVER)
            await come(lambda: over.warmth.version == 7)
            assert counted(over, "pack_recomputed_tokens_total") <= len("the developer's own\n") + 1
            assert len(engine.warm_ups) <= before + 2, "and it is not asked for piece by piece"

    assert LONG.ids is not None
    assert len(LONG.ids) > 2 * PIECE_TOKENS
    run(scenario)


def test_the_overlay_waits_while_its_base_is_computed() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with two(engine.url) as (base, over):
            base.offer(LONG)
            over.offer(OVER)
            await come(lambda: over.warmth.version == 7)
            assert base.warmth.version == 1
            assert counted(over, "pack_recomputed_tokens_total") <= len("the developer's own\n") + 1

    engine = run(scenario, delay=0.02)
    assert engine.most_under_way == 1
    assert len(asked(engine)[-1]) > len(asked(engine)[0])


def test_the_overlay_waits_for_no_base_that_is_away_or_at_home_elsewhere() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with two(engine.url, base_url=NOWHERE) as (base, over):
            base.offer(LONG)
            over.offer(OVER)
            await come(lambda: over.warmth.version == 7)
        async with two(engine.url, base_here=False) as (base, over):
            base.offer(LONG)
            over.offer(OVER)
            await come(lambda: over.warmth.version == 7)

    run(scenario)


def test_a_save_of_the_developer_does_not_wait_for_the_bases_next_generation() -> None:
    async def scenario(engine: FakeEngine) -> None:
        async with two(engine.url) as (base, over):
            base.offer(LONG)
            over.offer(OVER)
            await come(lambda: over.warmth.version == 7)
            engine.delay = 0.3
            base.offer(replace(LONG, generation=2, version=2, text="x" + LONG.text, ids=None))
            over.offer(grown(OVER, "and more\n", 8))
            await come(lambda: over.warmth.version == 8)
            assert base.warmth.version != 2

    run(scenario)


def test_overlays_are_warm_by_their_bases_tokens_from_the_first_start_on(
    repo: Path, tmp_path: Path
) -> None:
    files = {f"f{n:02}.py": f"line {n}\n" * 40 for n in range(30)}
    fill(repo, files)
    anna = fill(tmp_path / "anna", {**files, "f07.py": "hers\n"})
    ben = fill(tmp_path / "ben", {**files, "f08.py": "his\n", "new.py": "new\n"})
    with FakeEngine().running() as engine:
        config = settings_for(
            tmp_path, engine.url, shop=(repo, 20_000), anna=(anna, 25_000), ben=(ben, 25_000)
        )
        shop, *overlays = config.workspaces
        workspaces = (*(one._replace(base="shop") for one in overlays), shop)
        with at_work(config._replace(workspaces=workspaces)) as url:
            until(lambda: all(one["warm"] for one in told(url).values()), 30)
            status = told(url)
            assert "base" not in status["shop"]
            for name in ("anna", "ben"):
                one = status[name]
                assert (one["base"], one["shared_tokens"]) == ("shop", status["shop"]["tokens"])
            # Whichever was read first was computed whole, and the other two as far as they differ.
            computed = [recomputed(url, name) for name in status]
            assert sum(computed) < max(computed) * 1.1
            fill(anna, {"f07.py": "hers again\n"})
            until(lambda: told(url)["anna"]["version"] > 1 and told(url)["anna"]["warm"], 20)
            assert told(url)["shop"]["version"] == told(url)["ben"]["version"] == 1
            after = sum(recomputed(url, name) for name in status)
            assert after - sum(computed) < max(computed) / 20


def recomputed(url: str, name: str) -> float:
    """Tokens that the engine computed for a workspace's warm-ups."""
    metric = f'infbox_pack_recomputed_tokens_total{{workspace="{name}"}}'
    (line,) = (x for x in get_text(f"{url}/metrics").splitlines() if x.startswith(metric))
    return float(line.split()[-1])


def told(url: str) -> dict[str, dict[str, Any]]:
    """Return what is told of the workspaces."""
    workspaces: dict[str, dict[str, Any]] = get_json(f"{url}/status")["workspaces"]
    return workspaces
