"""A cost over the size of what causes it, beside the same of a floor, and how fast either grows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WORSE_THAN_LINEAR = 1.15
"""An exponent above this is more than the noise of a line: ten times the files take 14 times."""

MIN_SHARE = 0.1
"""Of what the largest point adds: smaller ones are mostly noise, and say nothing of growth."""


@dataclass
class Curve:
    """A cost at each size.

    Attributes:
        name: of what costs it.
        unit: of the cost.
        by: what the sizes count.
        floor: what the floor does.
        bar: the most of the floor that is allowed; None where nothing is.
        points: sizes with the cost, and the floor's.
    """

    name: str
    unit: str
    by: str
    floor: str
    bar: float | None = None
    points: list[tuple[int, float, float]] = field(default_factory=list)

    def add(self, size: int, seen: float, floor: float) -> None:
        """Add a point."""
        self.points.append((size, seen, floor))

    @property
    def exponent(self) -> float:
        """How it grows: 1 where ten times the size costs ten times as much."""
        return exponent([(size, seen) for size, seen, _ in self.points])

    @property
    def floor_exponent(self) -> float:
        """How the floor grows."""
        return exponent([(size, floor) for size, _, floor in self.points])

    @property
    def is_worse_than_linear(self) -> bool:
        """Whether it grows faster than its size, and than its floor does."""
        floor = 0.0 if math.isnan(self.floor_exponent) else self.floor_exponent
        return self.exponent > max(WORSE_THAN_LINEAR, floor + WORSE_THAN_LINEAR - 1)

    def json(self) -> dict[str, Any]:
        """Return it for a file; an exponent is null where there are too few points."""
        return {
            "name": self.name,
            "unit": self.unit,
            "by": self.by,
            "floor": self.floor,
            "bar": self.bar,
            "points": [
                {"size": size, "seen": _rounded(seen), "floor": _rounded(floor)}
                for size, seen, floor in self.points
            ],
            "exponent": _rounded(self.exponent),
            "floor_exponent": _rounded(self.floor_exponent),
            "worse_than_linear": self.is_worse_than_linear,
        }


def joined(
    before: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return curves as they are written, with what a run measured in place of what was there.

    Args:
        before: curves by name; sizes that were not measured again are kept.
        new: those that were.
    """
    found = dict(before)
    for name, written in new.items():
        points = {p["size"]: p for p in [*before.get(name, {"points": []})["points"]]}
        points |= {p["size"]: p for p in written["points"]}
        ordered = [(size, points[size]["seen"], points[size]["floor"]) for size in sorted(points)]
        told = {key: written[key] for key in ("name", "unit", "by", "floor", "bar")}
        found[name] = Curve(**told, points=ordered).json()
    return found


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Return the exponent of a power that fits best what is added to the first point.

    What a start costs, whatever the size, is so left out.

    Args:
        points: sizes with costs, the smallest first. Of what they add, less than a tenth of the
            last counts only where fewer than two points would be left.

    Returns:
        It; 0 where the largest costs no more than the smallest; nan for fewer than three points.
    """
    added = [(size - points[0][0], cost - points[0][1]) for size, cost in points[1:]]
    if added and added[-1][1] <= 0:
        return 0.0
    added = [point for point in added if point[1] > 0]
    large = [point for point in added if point[1] >= MIN_SHARE * added[-1][1]]
    added = large if len(large) > 1 else added[-2:]
    if len(added) < 2:  # noqa: PLR2004  # a line takes two
        return math.nan
    across = [math.log(size) for size, _ in added]
    up = [math.log(cost) for _, cost in added]
    middle, height = sum(across) / len(across), sum(up) / len(up)
    spread = sum((x - middle) ** 2 for x in across)
    return sum((x - middle) * (y - height) for x, y in zip(across, up, strict=True)) / spread


def rows(curves: Mapping[str, Curve]) -> list[list[str]]:
    """Return the cells of a table: a row for each point, then one that says how the curve grows."""
    lines: list[list[str]] = []
    for curve in curves.values():
        for size, seen, floor in curve.points:
            times = f"{seen / floor:.1f} x" if floor else ""
            cells = [f"{size:,} {curve.by}", _figure(seen), _figure(floor), times]
            lines.append([f"{curve.name}, {curve.unit}", *cells])
        said = f"size to the power of {curve.exponent:.2f}, floor {curve.floor_exponent:.2f}"
        lines.append(["", said, "", "", "WORSE" if curve.is_worse_than_linear else ""])
    return lines


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.3g}")
