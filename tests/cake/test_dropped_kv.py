"""KV that the watcher drops from the real LMCache, by the names that it computes itself."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest
from infbox.packing.erasure.cached_chunks import CachedChunks, hashes
from infbox.warming.lmcache import LMCache, Prefetched

from lab.cake import CHUNK, HTTP_PORT, Rig, prompt, stored
from tests.cake.conftest import TOKENS

pytestmark = pytest.mark.lab

URL = f"http://127.0.0.1:{HTTP_PORT}"
MODEL = "/model"
FILES = {"a.py": 4 * CHUNK, "b.py": 6 * CHUNK + 100, "c.py": TOKENS}


async def found(ids: Sequence[int]) -> Prefetched:
    async with aiohttp.ClientSession() as session:
        return await LMCache(session, URL).prefetch(MODEL, ids)


async def drop(names: Sequence[bytes]) -> str:
    async with aiohttp.ClientSession() as session:
        return await LMCache(session, URL).drop(MODEL, names)


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
