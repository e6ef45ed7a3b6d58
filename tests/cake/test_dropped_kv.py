"""KV that the watcher drops from the real LMCache, by the names that it computes itself."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest
from infbox.packing.erasure.cached_chunks import CachedChunks, hashes
from infbox.warming.lmcache import LMCache, Prefetched

from lab.cake import CHUNK, HTTP_PORT, PLAIN, PORTS, Rig, prompt, stored
from tests.cake.conftest import TOKENS

pytestmark = pytest.mark.lab

URL = f"http://127.0.0.1:{HTTP_PORT}"
MODEL = "/model"
FILES = {"a.py": 4 * CHUNK, "b.py": 6 * CHUNK + 100, "c.py": TOKENS}


async def found(ids: Sequence[int], salt: str = "") -> Prefetched:
    async with aiohttp.ClientSession() as session:
        return await LMCache(session, URL).prefetch(MODEL, ids, salt)


async def drop(names: Sequence[bytes], salts: Sequence[str] = ("",)) -> str:
    async with aiohttp.ClientSession() as session:
        return await LMCache(session, URL).drop(MODEL, names, salts)


def hits(rig: Rig) -> float:
    """Return how many tokens the engine has found in its own cache and in LMCache."""
    page = rig.client.get(f"http://127.0.0.1:{PORTS[PLAIN]}/metrics").text
    pattern = r"^vllm:(?:external_)?prefix_cache_hits_total\{.*\} (\S+)$"
    return sum(float(value) for value in re.findall(pattern, page, re.MULTILINE))


def on_disk(names: Sequence[bytes]) -> set[str]:
    """Return which of these chunks have a file, by their names."""
    files = " ".join(file.name for file in stored())
    return {name.hex() for name in names if name.hex() in files}


def test_what_held_an_erased_file_is_found_neither_in_memory_nor_on_disk(
    rig: Rig, tmp_path: Path
) -> None:
    ids = prompt(TOKENS, 31)
    rig.store(ids)
    names = hashes(ids, CHUNK)
    assert on_disk(names) == {name.hex() for name in names}, "LMCache knows them by these names"
    assert asyncio.run(found(ids)).result == "loaded"

    chunks = CachedChunks(tmp_path / "chunks.db")
    sections = [(end, frozenset({path})) for path, end in FILES.items()]
    chunks.note("chat", ids, sections, CHUNK)
    chunks.drop(["b.py"])
    due = chunks.due()
    chunks.close()
    held = names[4:7]
    assert set(held) <= set(due)
    assert asyncio.run(drop(due)) == ""

    assert on_disk(due) == set()
    assert on_disk(names[:3]) == {name.hex() for name in names[:3]}, "what stood before is kept"
    again = asyncio.run(found(ids))
    assert (again.result, again.tokens) == ("partly", 0)
    assert again.found == len(names) - len(due), "whatever was not dropped, by names alone"
    assert asyncio.run(found(ids[: 3 * CHUNK])).result == "loaded"


def test_what_a_salt_keeps_is_found_and_dropped_under_it_alone(rig: Rig) -> None:
    ids, others = prompt(TOKENS, 41), ("", "two")
    names = hashes(ids, CHUNK)
    rig.store(ids, "one")
    assert on_disk(names) == {name.hex() for name in names}, "the salt is no part of the names"
    for salt in others:
        assert asyncio.run(found(ids, salt)).tokens == 0, salt
        before = hits(rig)
        rig.ask(PLAIN, ids, salt)
        assert hits(rig) == before, salt
    assert asyncio.run(found(ids, "one")).result == "loaded"
    before = hits(rig)
    rig.ask(PLAIN, ids, "one")
    assert hits(rig) >= before + TOKENS - CHUNK

    assert asyncio.run(drop(names, ["one"])) == ""
    assert asyncio.run(found(ids, "one")).tokens == 0
    assert not any("one" in file.name.split("@")[-1] for file in stored())
    assert asyncio.run(drop(names, others)) == ""
    assert on_disk(names) == set()
