"""Plots as SVG that is the same whenever the numbers are, all in one look."""

import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

GRID = "#d5dae0"

GROUND_AND_INK = {"#ffffff": "#0d1117", "#000000": "#e6edf3", GRID: "#30363d"}
"""What stands for a plot's ground, its text and its grid where the reader's colours are dark."""


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


def save(figure: Figure, file: Path, dark: Mapping[str, str] | None = None) -> None:
    """Write a plot, without the time and the program's version, and forget it.

    Args:
        figure: the plot.
        file: where it goes.
        dark: for each colour of the plot's lines the one for dark screens; without it the plot is
            white on all screens.
    """
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    if dark is not None:
        file.write_text(in_both_schemes(file.read_text(), {**GROUND_AND_INK, **dark}))


def in_both_schemes(picture: str, dark: Mapping[str, str]) -> str:
    """Have a picture follow the reader's colour scheme.

    Args:
        picture: as matplotlib writes it, with colours in each element.
        dark: for each of its colours the one for dark screens.
    """
    names = {colour: f"--c{number}" for number, colour in enumerate(dark)}
    for colour, name in names.items():
        picture = re.sub(rf"((?:fill|stroke): ){colour}", rf"\1var({name})", picture)
    light = "".join(f"{name}:{colour};" for colour, name in names.items())
    night = "".join(f"{names[colour]}:{instead};" for colour, instead in dark.items())
    rules = (
        f":root{{{light}}}text{{fill:var({names['#000000']})}}"
        f"@media (prefers-color-scheme: dark){{:root{{{night}}}}}"
    )
    return picture.replace('<style type="text/css">', f'<style type="text/css">{rules}', 1)
