"""The tables of docs/performance.md and of the README, made of the results."""

import math
from collections.abc import Callable, Iterator

from ..growth.curves import Curve
from .benches import BENCHES
from .promises import SECTIONS, TIMES, Promise
from .results import MEASURED, Result

Read = Callable[[str], Result | None]


def tables(read: Read) -> dict[str, list[str]]:
    """Return the tables of docs/performance.md by name.

    Args:
        read: returns the result of a benchmark by its name.
    """
    return {
        "promises": list(promises(read)),
        "growth": list(growth(read)),
        "missed": list(missed(read)),
        "runs": list(runs(read)),
    }


def promises(read: Read) -> Iterator[str]:
    """Yield a row for each promise, below those of its section."""
    yield "| promise | measured | bar | floor or peer, same run | command, date, machine |"
    yield "| --- | ---: | ---: | --- | --- |"
    for section, rows in SECTIONS.items():
        yield f"| **{section}** | | | | |"
        for promise in rows:
            result = read(promise.bench)
            yield _row(promise, result)


def missed(read: Read) -> Iterator[str]:
    """Yield the promises whose bar is not met, as a list."""
    found = [
        f"- {promise.text}: {_seen(promise, result.figures)}, bar {_bar(promise)}."
        for rows in SECTIONS.values()
        for promise in rows
        if (result := read(promise.bench)) and _has(promise, result)
        and promise.is_kept(result.figures) is False
    ]  # fmt: skip
    yield from found or ["- None."]


def front(read: Read) -> list[str]:
    """Return the table of the README: the promises that it shows."""
    shown = [promise for rows in SECTIONS.values() for promise in rows if promise.short]
    lines = ["| | measured | bar |", "| --- | ---: | ---: |"]
    for promise in shown:
        result = read(promise.bench)
        if result and _has(promise, result):
            lines.append(
                f"| {promise.short} | {_beside(promise, result)} | {_bar(promise, 'that')} |"
            )
    return lines


def growth(read: Read) -> Iterator[str]:
    """Yield a row for each curve: its smallest and its largest size, and how it grows."""
    result = read("growth")
    if result is None or not result.figures:
        return
    yield "| | smallest | largest | grows with the size to the power of | floor | largest, of it |"
    yield "| --- | ---: | ---: | ---: | --- | ---: |"
    for curve in result.figures.values():
        points = [(p["size"], p["seen"], p["floor"]) for p in curve["points"]]
        whole = Curve(curve["name"], curve["unit"], curve["by"], curve["floor"], points=points)
        first, end = (f"{size:,}: {number(seen)}" for size, seen, _ in (points[0], points[-1]))
        power = _power(whole.exponent)
        worse = f"**{power}**" if whole.is_worse_than_linear else power
        times = f"{points[-1][1] / points[-1][2]:.1f} {TIMES}" if points[-1][2] else ""
        yield (
            f"| {whole.name}, {whole.unit} | {first} | {end} | {worse}, floor"
            f" {_power(whole.floor_exponent)} | {whole.floor} | {times} |"
        )


def _power(exponent: float) -> str:
    """Return an exponent; where the points are too few for one, words."""
    return "not told" if math.isnan(exponent) else f"{exponent:.2f}"


def runs(read: Read) -> Iterator[str]:
    """Yield a row for each benchmark: its command, and how its last run ended."""
    yield "| command | figures of | machine | load | last run |"
    yield "| --- | --- | --- | --- | --- |"
    names = dict.fromkeys([*(bench.name for bench in BENCHES), *_named()])
    for name in names:
        result = read(name)
        if result is None:
            yield f"| `python -m bench.{name}` | | | | not run yet |"
            continue
        day, outcome = result.last_run
        ended = outcome if outcome == MEASURED else f"**{outcome}**"
        note = f"; {result.note}" if result.note else ""
        yield (
            f"| `{result.command}` | {result.date} | {result.machine} | {result.load}{note}"
            f" | {day}: {ended} |"
        )


def _named() -> Iterator[str]:
    return (promise.bench for rows in SECTIONS.values() for promise in rows)


def _has(promise: Promise, result: Result) -> bool:
    try:
        promise.figure(result.figures)
        promise.floor_figure(result.figures)
    except LookupError:
        return False
    return True


def _row(promise: Promise, result: Result | None) -> str:
    if result is None or not _has(promise, result):
        return f"| {promise.text} | not measured yet | {_bar(promise)} | {promise.floor_is} | |"
    seen = _seen(promise, result.figures)
    if promise.is_kept(result.figures) is False:
        seen = f"**{seen}, missed**"
    floor = promise.floor_figure(result.figures)
    beside = "" if floor is None else f"{promise.floor_is}: {_with_unit(floor, promise.unit)}"
    where = f"`{result.command}`, {result.date}, {result.machine}"
    return f"| {promise.text} | {seen} | {_bar(promise)} | {beside} | {where} |"


def _seen(promise: Promise, figures: object) -> str:
    """Return what was measured; where the bar is times of the floor, that too."""
    seen, floor = promise.figure(figures), promise.floor_figure(figures)
    shown = _with_unit(seen, promise.unit)
    return (
        f"{shown}, {number(seen / floor)} {TIMES} the floor"
        if promise.of_floor and floor
        else shown
    )


def _beside(promise: Promise, result: Result) -> str:
    """Return what was measured, with the floor, for the README."""
    seen = _with_unit(promise.figure(result.figures), promise.unit)
    floor = promise.floor_figure(result.figures)
    if floor is None:
        return seen
    return f"{seen} ({promise.floor_is}: {_with_unit(floor, promise.unit)})"


def _bar(promise: Promise, floor: str = "the floor") -> str:
    if promise.bar is None:
        return ""
    bound = "at least " if promise.minimum and promise.unit != "%" else ""
    unit = f"{TIMES} {floor}" if promise.of_floor else promise.unit
    return f"{bound}{_with_unit(promise.bar, unit)}"


def _with_unit(value: float, unit: str) -> str:
    return f"{number(value)} {unit}".rstrip()


def number(value: float) -> str:
    """Return a figure as the page shows it: three digits, without an exponent."""
    if value and abs(value) < 100:  # noqa: PLR2004
        return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"
    return f"{value:,.0f}"
