"""Cake in LMCache's server: looks chunks up, and stages them from the back.

One of the files that depend on the internals of others; this one on LMCache 0.5.6, whose
``--server-module`` loads it:
``{"module_path": "infbox_cake.on_lmcache", "factory_name": "build_server_modules"}``.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import msgspec
from lmcache.v1.distributed.api import (
    GroupedObjectKeys,
    PrefetchLockMode,
    PrefetchTaskSpec,
    ipc_key_to_grouped_object_keys,
)
from lmcache.v1.multiprocess.custom_types import IPCCacheServerKey
from lmcache.v1.multiprocess.ext_server_module import server_module_handler

from infbox_cake import wire
from infbox_cake.counts import Counts
from infbox_cake.race import Average
from infbox_cake.stager import Stager

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lmcache.lmcache_native import Bitmap
    from lmcache.v1.distributed.api import ObjectKey, PrefetchHandle
    from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
    from lmcache.v1.distributed.storage_manager import StorageManager
    from lmcache.v1.multiprocess.engine_context import MPCacheServerContext
    from lmcache.v1.multiprocess.ext_server_module import ExtServerModuleBuildContext

ABSENT, ON_DISK, IN_RAM = range(3)

LOOK_SECONDS = 1.0
"""Longest time that a look at the disk may take."""

KEPT_SECONDS = 300.0
"""After which a prompt that nobody asks about is forgotten, and what was staged for it released."""

_POLL_SECONDS = 0.0005


def build_server_modules(build: ExtServerModuleBuildContext) -> CakeModule:
    """Return the module; LMCache's server calls this by its name."""
    return CakeModule(build.server_context)


class Prompt:
    """The chunks of one prompt in LMCache; what a ``Stager`` calls a store.

    Args:
        storage: LMCache's.
        rows: the chunks' keys, a row for each rank.
        readers: times that each chunk is going to be read.
    """

    def __init__(
        self, storage: StorageManager, rows: list[GroupedObjectKeys], readers: int
    ) -> None:
        self._storage = storage
        self._rows = rows
        self._readers = readers
        self._tiers = b""
        self._stager: Stager | None = None
        self.asked_at = time.monotonic()
        self.raced: tuple[int, int] | None = None
        """The first chunk raced for and the one after the last; None before the race."""

    def look(self) -> bytes:
        """Return in which tier each chunk is."""
        width = len(self._rows[0].keys)
        in_ram = self._whole(self._in_ram(), width)
        on_disk: set[int] = set()
        for _, adapter in self._storage.l2_adapters():
            on_disk |= self._whole(self._on_disk(adapter), width)
        self._tiers = bytes(
            IN_RAM if chunk in in_ram else ON_DISK if chunk in on_disk else ABSENT
            for chunk in range(width)
        )
        return self._tiers

    def stage(self, start: int, end: int, rate: Average, at_once: int) -> None:
        """Begin to stage chunks, the last first."""
        in_ram = frozenset(chunk for chunk in range(start, end) if self._tiers[chunk] == IN_RAM)
        self._stager = Stager(self, start, end, in_ram, rate, at_once=at_once)
        self._stager.start()
        self.raced = start, end

    def staged(self) -> tuple[int, bool]:
        """Return from where on chunks are staged, and whether no more will be."""
        if self._stager is None:
            return len(self._tiers), True
        # In this order: what is staged last is not overlooked.
        is_over = self._stager.is_over
        return self._stager.staged_from, is_over

    def release_until(self, until: int) -> None:
        """Stage no more, and keep the chunks before ``until`` no longer."""
        if self._stager:
            self._stager.release(until)

    def bring(self, chunk: int) -> PrefetchHandle:
        """Begin to bring a chunk to RAM, where it is kept until it is read or released."""
        rows = [
            GroupedObjectKeys([row.keys[chunk]], row.object_group_id, row.layout_desc)
            for row in self._rows
        ]
        return self._storage.submit_prefetch_task(
            PrefetchTaskSpec(rows, num_kv_readers=self._readers, fetching_policy="full")
        )

    def wait(self, handle: PrefetchHandle, seconds: float) -> bool | None:
        """Wait for a chunk; return whether it is in RAM, or None while it is under way."""
        if not self._storage.wait_prefetch_status(handle, seconds):
            return None
        result = self._storage.query_prefetch_status(handle)
        # With this policy a chunk is brought for all ranks or for none.
        return result is not None and all(cells.test(0) for cells in result.hit_cells)

    def release(self, chunk: int) -> None:
        """Keep a chunk that was brought no longer."""
        keys = [row.keys[chunk] for row in self._rows]
        self._storage.finish_read_prefetched(keys, read_locks=self._readers)

    def _in_ram(self) -> list[bool]:
        spec = PrefetchTaskSpec(
            self._rows, fetching_policy="full", lock_mode=PrefetchLockMode.NO_LOCK
        )
        handle = self._storage.submit_prefetch_task(spec, skip_l2=True)
        result = self._storage.query_prefetch_status(handle)
        return [bit for cells in result.hit_cells for bit in _bits(cells)] if result else []

    def _on_disk(self, adapter: L2AdapterInterface) -> list[bool]:
        """Ask a disk; it locks what it has, which is undone at once."""
        keys: list[ObjectKey] = [key for row in self._rows for key in row.keys]
        layouts = {row.object_group_id: row.layout_desc for row in self._rows}
        task = adapter.submit_lookup_and_lock_task(keys, layouts)
        ends = time.monotonic() + LOOK_SECONDS
        while (found := adapter.query_lookup_and_lock_result(task)) is None:
            if time.monotonic() > ends:
                return []
            time.sleep(_POLL_SECONDS)
        bits = list(_bits(found))
        adapter.submit_unlock([key for key, bit in zip(keys, bits, strict=True) if bit])
        return bits

    def _whole(self, bits: list[bool], width: int) -> set[int]:
        """Return the chunks that are there for every rank; ``bits`` has a row for each."""
        rows = [bits[begin : begin + width] for begin in range(0, len(bits), width)]
        return {chunk for chunk in range(width) if rows and all(row[chunk] for row in rows)}


class CakeModule:
    """What the scheduler's side of Cake calls.

    Args:
        context: of LMCache's server.
    """

    def __init__(self, context: MPCacheServerContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._prompts: dict[str, Prompt] = {}
        # A prompt may bring no more than one value, and the next one goes by it.
        self._rate = Average(weight=0.5)
        self._counts = Counts(lambda: self._rate.value)

    @property
    def context(self) -> MPCacheServerContext:
        """The server's context, as LMCache asks of each module."""
        return self._context

    def report_status(self) -> dict[str, object]:
        """Return what the server's status page shows of this module."""
        return {"cake": {"prompts": len(self._prompts), "chunks_per_second": self._rate.value}}

    def close(self) -> None:
        """Release everything."""
        self._forget(list(self._prompts))

    @server_module_handler(wire.LOOK)
    def look(self, payload: bytes) -> bytes:
        """Answer ``wire.Look``."""
        asked = msgspec.msgpack.decode(payload, type=wire.Look)
        self._forget_old()
        rows = self._rows(asked)
        if not rows:
            return msgspec.msgpack.encode(wire.Seen(b"", None))
        prompt = Prompt(self._context.storage_manager, rows, asked.readers)
        with self._lock:
            self._prompts[asked.request] = prompt
        return msgspec.msgpack.encode(wire.Seen(prompt.look(), self._rate.value))

    @server_module_handler(wire.STAGE)
    def stage(self, payload: bytes) -> bytes:
        """Take ``wire.Stage``."""
        asked = msgspec.msgpack.decode(payload, type=wire.Stage)
        if prompt := self._prompts.get(asked.request):
            prompt.stage(asked.start, asked.end, self._rate, asked.at_once)
        return b""

    @server_module_handler(wire.STATUS)
    def status(self, payload: bytes) -> bytes:
        """Answer ``wire.Status``; of a prompt that is not known nothing more will come."""
        asked = msgspec.msgpack.decode(payload, type=wire.Status)
        prompt = self._prompts.get(asked.request)
        if prompt is None:
            return msgspec.msgpack.encode(wire.Staged(wire.ALL, True, self._rate.value))
        prompt.asked_at = time.monotonic()
        return msgspec.msgpack.encode(wire.Staged(*prompt.staged(), self._rate.value))

    @server_module_handler(wire.RELEASE)
    def release(self, payload: bytes) -> bytes:
        """Take ``wire.Release``."""
        asked = msgspec.msgpack.decode(payload, type=wire.Release)
        with self._lock:
            prompt = self._prompts.pop(asked.request, None)
        if prompt:
            prompt.release_until(asked.until)
            if prompt.raced:
                self._counts.take(*prompt.raced, asked.until)
        return b""

    def _rows(self, asked: wire.Look) -> list[GroupedObjectKeys]:
        """Return the keys of a prompt's chunks; none for a model that Cake is not for."""
        registry, hasher = self._context.layout_desc_registry, self._context.token_hasher
        layouts = registry.find_group_layout_descs(asked.model, asked.world_size)
        if not layouts or len(layouts) > 1:  # not served yet, or layers of several kinds
            return []
        chunk = self._context.chunk_size
        end = len(asked.tokens) // chunk * chunk
        hashes = hasher.compute_chunk_hashes(asked.tokens, end=end)
        if not hashes:
            return []
        key = IPCCacheServerKey(
            asked.model, asked.world_size, None, tuple(asked.tokens), 0, end, asked.request,
            cache_salt=asked.salt, num_kv_readers=asked.readers,
        )  # fmt: skip
        windows = registry.find_attn_desc(asked.model, asked.world_size)
        return ipc_key_to_grouped_object_keys(key, hashes, list(layouts), layouts, windows)

    def _forget_old(self) -> None:
        before = time.monotonic() - KEPT_SECONDS
        self._forget([name for name, p in list(self._prompts.items()) if p.asked_at < before])

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            with self._lock:
                prompt = self._prompts.pop(name, None)
            if prompt:
                prompt.release_until(wire.ALL)


def _bits(cells: Bitmap) -> list[bool]:
    return [cells.test(index) for index in range(cells.size())]
