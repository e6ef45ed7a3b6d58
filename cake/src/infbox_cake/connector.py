"""LMCache's connector for vLLM, which outlives clients that hang up.

One of the files that depend on the internals of others; this one on vLLM 0.32.0 and the connector
of LMCache 0.5.6. vLLM loads it by ``"kv_connector": "InfboxConnector",
"kv_connector_module_path": "infbox_cake.connector"`` in ``--kv-transfer-config``.

Of a request that is aborted while its KV is loaded, LMCache tells vLLM two ends: that nothing of it
is stored any more, and, later, that it is loaded. vLLM gives its memory back at the first, while
that is still written to, and at the second finds no such request, which ends the engine for
everybody (https://github.com/vllm-project/vllm/issues/43226). Here the first is not told.

An engine to which nobody has spoken yet says nothing to LMCache; here it does: `presence`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmcache.integration.vllm.lmcache_mp_connector import LMCacheMPConnector
from lmcache.integration.vllm.vllm_multi_process_adapter import send_ping

from infbox_cake.presence import Presence

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


class InfboxConnector(LMCacheMPConnector):
    """LMCache's connector, which tells vLLM one end of a request and not two."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        role: KVConnectorRole,
        kv_cache_config: KVCacheConfig | None = None,
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._loading: set[str] = set()
        """Requests whose KV is being loaded."""
        self._gone: set[str] = set()
        """Requests that ended while theirs was, until LMCache told that nothing is stored."""
        self._presence: Presence | None = None

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Register KV with LMCache, and say from now on that this engine is there."""
        super().register_kv_caches(kv_caches)
        adapter = self.worker_adapter

        def ping() -> bool:
            # LMCache registers the KV of one rank after the other, and answers nobody meanwhile.
            return bool(send_ping(adapter.req_client, adapter._mq_timeout, adapter.instance_id))

        def lose() -> None:
            # LMCache's own heartbeat registers anew once it has seen the server come back.
            adapter._health_event.clear()
            adapter._ensure_heartbeat_started()

        self._presence = Presence(
            ping, lambda: adapter._heartbeat is not None, lose, adapter._heartbeat_interval
        )
        self._presence.start()

    def shutdown(self) -> None:
        """End; see vLLM's base class."""
        if self._presence:
            self._presence.end()
        super().shutdown()

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """Take note that there is room for what is to be loaded; see vLLM's base class."""
        if num_external_tokens:
            self._loading.add(request.request_id)
        super().update_state_after_alloc(request, blocks, num_external_tokens)

    def request_finished(
        self, request: Request, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Forget the request; see vLLM's base class."""
        # LMCache looks at its notes of a request, which has none if it ended before its turn.
        self._get_or_create_request_tracker(request)
        waits, params = super().request_finished(request, block_ids)
        if waits and request.request_id in self._loading:
            self._gone.add(request.request_id)
        return waits, params

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """Take out what vLLM is not to be told; see vLLM's base class."""
        super().update_connector_output(connector_output)
        self._loading -= connector_output.finished_recving or set()
        stored = connector_output.finished_sending or set()
        connector_output.finished_sending = stored - self._gone
        self._gone -= stored
