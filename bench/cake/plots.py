"""Draws what was measured, as SVG that is the same whenever the numbers are."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from .. import svg
from .cells import Cell

WAYS = {
    "computed": ("computed", "#8a2da8", "--"),
    "loaded": ("loaded from the disk", "#b35c00", "--"),
    "raced": ("both at once", "#0b5cad", "-"),
    "bound": ("what both at once could reach", "#444c56", ":"),
}
PANEL = 2.7  # inches of a side
ACROSS = 3  # panels side by side
MOST_TIMES = 2.0  # times of computing at which the axis ends: loads that are slower still leave it


def draw(cells: Sequence[Cell], file: Path) -> None:
    """Draw the time to the first token, a panel for each length and share.

    Args:
        cells: as they were measured.
        file: where the plot goes.
    """
    svg.prepare()
    prompts = sorted({(cell.length, cell.share) for cell in cells if cell.share > 0})
    across = min(len(prompts), ACROSS)
    down = math.ceil(len(prompts) / across)
    figure, panels = plt.subplots(
        down, across, squeeze=False, sharey=True, layout="constrained",
        figsize=(PANEL * across + 0.6, PANEL * down + 0.6),
    )  # fmt: skip
    for axes in panels.flat[len(prompts) :]:
        axes.set_visible(False)
    for axes, (length, share) in zip(panels.flat, prompts, strict=False):
        mine = [cell for cell in cells if (cell.length, cell.share) == (length, share)]
        panel(axes, sorted(mine, key=lambda cell: cell.ratio))
        axes.set_title(f"{length:,} tokens, {share:.0%} stored", loc="left", fontsize=9.5)
    figure.supxlabel("Speed of the disk, in speeds of computing", fontsize=10)
    figure.supylabel("First token, in times of computing", fontsize=10)
    figure.legend(*panels[0][0].get_legend_handles_labels(), frameon=False, fontsize=9,
                  loc="outside upper left", ncols=len(WAYS))  # fmt: skip
    svg.save(figure, file)


def panel(axes: Axes, cells: Sequence[Cell]) -> None:
    """Draw the ways for one prompt, over the speed of the disk."""
    speeds = [cell.ratio for cell in cells]
    for way, (name, colour, style) in WAYS.items():
        times = [getattr(cell, way) / cell.computed for cell in cells]
        axes.plot(speeds, times, style, color=colour, label=name, marker=".", linewidth=1.6)
    axes.set_xscale("log")
    axes.set_xticks(speeds)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.set_ylim(0, MOST_TIMES)
    axes.grid(visible=True, which="major", color=svg.GRID, linewidth=0.6)
