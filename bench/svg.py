"""Plots as SVG that is the same whenever the numbers are, all in one look."""

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def prepare() -> None:
    """Have all plots of this process look alike."""
    mpl.use("svg")
    mpl.rcParams.update(
        {
            "svg.hashsalt": "infbox",
            "svg.fonttype": "none",
            "font.size": 10,
            "font.family": "sans-serif",
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )


def save(figure: Figure, file: Path) -> None:
    """Write a plot, without the time and the program's version, and forget it."""
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)
