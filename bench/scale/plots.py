"""Draws what was simulated, as SVG that is the same whenever the numbers are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from .. import svg

Row = Mapping[str, Any]

COLOURS = ("#0b5cad", "#0f8a5f", "#b35c00", "#8a2da8")
STYLES = {"affinity": "-", "least": "--", "random": ":"}
NAMES = {"affinity": "by workspace, bounded load", "least": "least load", "random": "any host"}
SIZE = (7.6, 4.4)


def draw(rows: Sequence[Row], directory: Path) -> None:
    """Draw the plots of each preset.

    Args:
        rows: of the grid.
        directory: where they go.
    """
    directory.mkdir(parents=True, exist_ok=True)
    svg.prepare()
    for preset in sorted({row["preset"] for row in rows}):
        mine = [row for row in rows if row["preset"] == preset]
        first = "Seconds to the first token, 95 % within"
        plot(mine, directory / f"{preset}-ttft.svg", "ttft_p95", first, is_log=True)
        plot(mine, directory / f"{preset}-hits.svg", "hit_share", "Prompt tokens from a cache")
        moved = "GB of KV from RAM and disk, a question"
        plot(mine, directory / f"{preset}-moved.svg", "moved_gb", moved)


def plot(rows: Sequence[Row], file: Path, key: str, title: str, *, is_log: bool = False) -> None:
    """Draw one value over the number of hosts; fleets that could not keep up are left out."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    sizes = sorted({row["developers"] for row in rows})
    for colour, developers in zip(COLOURS, sizes, strict=False):
        for policy, style in STYLES.items():
            points = [
                (row["hosts"], value(row, key))
                for row in rows
                if (row["developers"], row["policy"], row["overloaded"])
                == (developers, policy, False)
            ]
            if points:
                across, up = zip(*points, strict=True)
                axes.plot(across, up, style, color=colour, marker=".", linewidth=1.6)
    frame(axes, title, is_log=is_log, is_share=key == "hit_share")
    explain(axes, sizes)
    svg.save(figure, file)


def value(row: Row, key: str) -> float:
    """Return what is drawn of a row."""
    return float(row["ram_gb"] + row["disk_gb"] if key == "moved_gb" else row[key])


def frame(axes: Axes, title: str, *, is_log: bool, is_share: bool) -> None:
    """Draw what stands around the lines."""
    plain = FuncFormatter(lambda number, _: f"{number:,g}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(plain)
    axes.set_xlabel("Hosts")
    axes.set_title(title, loc="left", fontsize=10.5)
    axes.grid(visible=True, which="major", color=svg.GRID, linewidth=0.6)
    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(plain)
    elif is_share:
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axes.set_ylim(bottom=0)


def explain(axes: Axes, sizes: Sequence[int]) -> None:
    """Say what colours and styles stand for, beside the lines."""
    colours = [
        axes.plot([], [], color=colour, label=f"{size:,} developers")[0]
        for colour, size in zip(COLOURS, sizes, strict=False)
    ]
    styles = [
        axes.plot([], [], style, color="#444c56", label=NAMES[policy])[0]
        for policy, style in STYLES.items()
    ]
    axes.legend(handles=[*colours, *styles], frameon=False, fontsize=9,
                loc="center left", bbox_to_anchor=(1.0, 0.5))  # fmt: skip
