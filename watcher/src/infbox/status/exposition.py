"""Reading a few metrics out of what a service exposes to Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class Sample(NamedTuple):
    """A value of a metric.

    Attributes:
        name: of the sample.
        labels: by name.
        value: of it.
    """

    name: str
    labels: Mapping[str, str]
    value: float


class Exposition:
    """Some of the samples of an exposition.

    An engine exposes some thousand lines, which take a parser tens of milliseconds. Lines of other
    metrics are dropped before it sees them, since requests would wait for it.

    Args:
        text: in Prometheus's text format.
        names: of the samples that are wanted.

    Raises:
        ValueError: it is in another format.
    """

    def __init__(self, text: str, names: Collection[str]) -> None:
        starts = tuple(f"{name}{end}" for name in names for end in "{ ")
        wanted = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(starts))
        self.samples = [
            Sample(sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(wanted)
            for sample in family.samples
        ]

    def total(self, name: str, **labels: str) -> float | None:
        """Return the sum of a metric's samples with these labels; None where there is none."""
        values = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(values) if values else None
