"""What Cake counts, in the exposition of LMCache's server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Counts:
    """Counts prompts and chunks by what became of them.

    Args:
        speed: returns how many chunks a second are staged; None while that is unknown.
    """

    def __init__(self, speed: Callable[[], float | None]) -> None:
        meter = metrics.get_meter("infbox.cake")
        self._prompts = meter.create_counter(
            "infbox_cake_prompts", description="Prompts raced for: loaded in part, or computed."
        )
        self._chunks = meter.create_counter(
            "infbox_cake_chunks", description="Chunks raced for: loaded or computed."
        )

        def observed(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            value = speed()
            return [] if value is None else [metrics.Observation(value)]

        meter.create_observable_gauge(
            "infbox_cake_staged_chunks_per_second",
            callbacks=[observed],
            description="Chunks staged from disk a second, as Cake decides by.",
        )

    def take(self, start: int, end: int, met: int) -> None:
        """Count a prompt whose race is over.

        Args:
            start: the first chunk raced for.
            end: the chunk after the last.
            met: the first chunk that was loaded; ``end`` or more where none was.
        """
        met = max(start, min(met, end))
        self._prompts.add(1, {"end": "loaded" if met < end else "computed"})
        self._chunks.add(met - start, {"way": "computed"})
        self._chunks.add(end - met, {"way": "loaded"})
