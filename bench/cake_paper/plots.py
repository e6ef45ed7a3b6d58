"""Draws what was simulated, as SVG that is the same whenever the numbers are."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from .. import svg
from .grid import Result

WAYS = {
    "computed": ("computed", "#8a2da8", "--"),
    "loaded": ("loaded", "#b35c00", "--"),
    "paper": ("the paper's Cake, measured", "#0f8a5f", "o"),
    "ours": ("infbox's decisions, simulated", "#0b5cad", "-"),
    "bound": ("bound", "#444c56", ":"),
}
DARK = {
    "#8a2da8": "#d2a8ff",
    "#b35c00": "#f0883e",
    "#0f8a5f": "#56d364",
    "#0b5cad": "#58a6ff",
    "#444c56": "#9ea7b3",
}
HARDWARE = {"A100": "A100", "H100": "H100", "2xA100": "two A100"}
SHARES = {1: "the whole GPU", 0.5: "half of it", 0.125: "an eighth of it"}
PANEL = 2.5  # inches of a side
MOST_TIMES = 1.6  # times of computing or of the slowest race at which an axis ends


def draw(results: Sequence[Result], file: Path) -> None:
    """Draw the paper's table 3: the time to the first token over the bandwidth.

    Args:
        results: all that was simulated.
        file: where the plot goes.
    """
    svg.prepare()
    figure, panels = plt.subplots(
        len(SHARES), len(HARDWARE), squeeze=False, layout="constrained",
        figsize=(PANEL * len(HARDWARE) + 0.8, PANEL * len(SHARES) + 0.8),
    )  # fmt: skip
    for row, share in enumerate(SHARES):
        for column, hardware in enumerate(HARDWARE):
            axes = panels[row][column]
            panel(axes, [r for r in results if shown(r, hardware, share)])
            title = f"{HARDWARE[hardware]}, {SHARES[share]}"
            axes.set_title(title, loc="left", fontsize=9.5)
    figure.supxlabel("Bandwidth of loading, Gbps", fontsize=10)
    figure.supylabel("Seconds to the first token", fontsize=10)
    figure.legend(*panels[0][0].get_legend_handles_labels(), frameon=False, fontsize=9,
                  loc="outside upper left", ncols=3)  # fmt: skip
    svg.save(figure, file, DARK)


def shown(result: Result, hardware: str, share: float) -> bool:
    """Return whether a result belongs to a panel."""
    cell = result.cell
    return (cell.table, cell.hardware, cell.share) == (3, hardware, share)


def panel(axes: Axes, results: Sequence[Result]) -> None:
    """Draw the ways on one kind of GPU, over the bandwidth."""
    across = [result.cell.gbps for result in results]
    ups = {
        "computed": [result.cell.compute_seconds for result in results],
        "loaded": [result.cell.load_seconds for result in results],
        "paper": [result.cell.cake_seconds for result in results],
        "ours": [result.ours for result in results],
        "bound": [result.bound for result in results],
    }
    for way, (name, colour, style) in WAYS.items():
        axes.plot(across, ups[way], style, color=colour, label=name, markersize=4.5, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_xticks(across)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(0, MOST_TIMES * max(ups["paper"]))
    axes.grid(visible=True, which="major", color=svg.GRID, linewidth=0.6)
