"""The pictures of docs/performance.md, drawn of the results; the same whenever these are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from .. import svg
from .page import Read, number

BLUE, GREEN, ORANGE, GREY = "#0b5cad", "#0f8a5f", "#b35c00", "#8b949e"
DARK = {BLUE: "#58a6ff", GREEN: "#56d364", ORANGE: "#f0883e", GREY: "#6e7681"}
WIDTH = 7.6

CURVES = {
    "listing": "first listing",
    "start": "first start to READY",
    "restart": "restart to READY",
    "text": "text index made",
    "question": "a question",
    "after": "all work after a save",
    "memory": "memory",
    "many_served": "workspaces, all served",
    "many_restart": "workspaces, restart",
}
COLUMNS = 3


def draw(read: Read, directory: Path) -> None:
    """Draw all pictures of which there are figures.

    Args:
        read: returns the result of a benchmark by its name.
        directory: where they go.
    """
    directory.mkdir(exist_ok=True)
    svg.prepare()
    first_token(read, directory / "first-token.svg")
    save_to_warm(read, directory / "save-to-warm.svg")
    grown = read("growth")
    if grown and grown.figures:
        growth(grown.figures, directory / "growth.svg")


def first_token(read: Read, file: Path) -> None:
    """Draw the time to the first token: cold, warm and after a save; and in a session."""
    demo, session = read("demo"), read("sessions")
    if demo is None or session is None:
        return
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 3.6), layout="constrained",
                                  height_ratios=(3, 2))  # fmt: skip
    d, s = demo.figures, session.figures
    bars(
        panels[0],
        "The demo, 2,600 tokens, SmolLM2 135M on two cores",
        {
            "nothing cached": (d["cold_seconds"], GREY),
            "warm workspace": (d["warm_seconds"], BLUE),
            "warm, after a save": (d["after_save_seconds"], BLUE),
        },
    )
    bars(
        panels[1],
        "Turns after a save in an agent's session, layers as wide as a 7B model's",
        {
            "without infbox": (s["first_token_without"], GREY),
            "with a pack of 6,000 tokens": (s["first_token_after_saves"], BLUE),
        },
    )
    panels[1].set_xlabel("Seconds to the first token")
    svg.save(figure, file, DARK)


def bars(axes: Axes, title: str, shown: Mapping[str, tuple[float, str]]) -> None:
    """Draw horizontal bars, each with its figure beside it, the first on top."""
    names = list(shown)[::-1]
    values = [shown[name][0] for name in names]
    axes.barh(names, values, color=[shown[name][1] for name in names], height=0.6)
    for place, value in enumerate(values):
        axes.text(value + max(values) * 0.01, place, f"{value:.2f} s", va="center", fontsize=9.5)
    axes.set_xlim(0, max(values) * 1.12)
    axes.set_title(title, loc="left", fontsize=10)


def save_to_warm(read: Read, file: Path) -> None:
    """Draw where the time from a save until it is warm goes."""
    result = read("warm")
    if result is None:
        return
    f = result.figures
    parts = {
        "until the request reaches the engine": (f["save_to_request"], GREEN),
        "the engine's own prefill": (f["engine_prefill"], GREY),
        "in the engine beside that": (f["request_less_prefill"], ORANGE),
    }
    figure, axes = plt.subplots(figsize=(WIDTH, 2.2), layout="constrained")
    left = 0.0
    for name, (seconds, colour) in parts.items():
        label = f"{name}, {seconds * 1e3:.0f} ms"
        axes.barh([""], seconds * 1e3, left=left * 1e3, color=colour, height=0.5, label=label)
        left += seconds
    axes.set_xlim(0, 1.02e3 * left)
    axes.set_xlabel("Milliseconds after a save, medians of 20")
    axes.set_yticks([])
    figure.legend(frameon=False, fontsize=9.5, loc="outside upper left")
    svg.save(figure, file, DARK)


def growth(curves: Mapping[str, Any], file: Path) -> None:
    """Draw each curve over its size, with its floor and what would be linear."""
    shown = {name: title for name, title in CURVES.items() if name in curves}
    lines = -(-len(shown) // COLUMNS)
    figure, panels = plt.subplots(lines, COLUMNS, squeeze=False, layout="constrained",
                                  figsize=(WIDTH + 0.6, 2.3 * lines + 0.5))  # fmt: skip
    places = [axes for row in panels for axes in row]
    for axes, (name, title) in zip(places, shown.items(), strict=False):
        panel(axes, curves[name], title)
    for axes in places[len(shown) :]:
        axes.set_axis_off()
    figure.legend(*places[0].get_legend_handles_labels(), frameon=False, fontsize=9,
                  loc="outside upper left", ncols=3)  # fmt: skip
    svg.save(figure, file, DARK)


def panel(axes: Axes, curve: Mapping[str, Any], title: str) -> None:
    """Draw one curve."""
    sizes = [point["size"] for point in curve["points"]]
    seen = [point["seen"] for point in curve["points"]]
    axes.plot(sizes, seen, "o-", color=BLUE, label="infbox", markersize=3.5, linewidth=1.6)
    floors = [point["floor"] for point in curve["points"]]
    axes.plot(sizes, floors, "o-", color=GREEN, label="floor", markersize=3, linewidth=1.2)
    linear = [seen[-1] * size / sizes[-1] for size in sizes]
    axes.plot(sizes, linear, ":", color=GREY, label="linear", linewidth=1.4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: short(value))
    for axis, ticks in ((axes.xaxis, sizes), (axes.yaxis, None)):
        if ticks:
            axis.set_ticks(ticks)
        axis.set_major_formatter(plain)
        axis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=8)
    axes.set_xlabel(curve["by"], fontsize=8.5)
    axes.set_title(f"{title}, {curve['unit']}", loc="left", fontsize=8.5)
    axes.grid(visible=True, which="major", color=svg.GRID, linewidth=0.6)


def short(value: float) -> str:
    """Return a number as an axis shows it."""
    return f"{value / 1000:g} k" if value >= 1000 else number(value)  # noqa: PLR2004


def names(directory: Path) -> Sequence[str]:
    """Return the names of the pictures that are there."""
    return sorted(path.name for path in directory.glob("*.svg"))
