"""The tier that replicas share, as LMCache's server loads it; it tells whether it is there.

One of the files that depend on the internals of others; this one on LMCache 0.5.6, whose
``--l2-adapter`` loads it: ``{"type": "native_plugin", "module_path": "infbox_cake.shared",
"class_name": "SharedTier", "adapter_params": {"host": …, "port": …, "certificate": …, "key": …,
"namespace": …, "readers": …}}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import metrics

from infbox_cake.valkey import ValkeyClient

if TYPE_CHECKING:
    from collections.abc import Iterable


class SharedTier(ValkeyClient):
    """A client of Valkey, and a gauge of whether it answers in the exposition of LMCache's server.

    Args:
        params: see ``ValkeyClient``.
    """

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)

        def observed(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            return [metrics.Observation(int(self.is_there))]

        metrics.get_meter("infbox.shared").create_observable_gauge(
            "infbox_shared_cache_up",
            callbacks=[observed],
            description="Whether the cache that replicas share answers.",
        )
