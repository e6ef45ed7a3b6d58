"""The tables of docs/cake-paper.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from .grid import Result, against_bound, ratios
from .paper import BANDWIDTHS, TABLE_3
from .tiers import TIERS, WORTH_IT, Row

VARIES = {
    3: "GPU, its share, bandwidth",
    4: "length, share, bandwidth",
    5: "model, share, bandwidth",
    6: "bits of KV, bandwidth",
}
HARDWARE_TABLE = 3
GPUS = {"A100": "A100", "H100": "H100", "2xA100": "two A100"}


def summary(results: Sequence[Result]) -> list[str]:
    """Return the table that has a row for each of the paper's."""
    lines = [
        (
            "| table | what varies | cells | the paper, measured | its rule "
            "| with a CPU's thresholds | infbox | bound: the paper | infbox | with steps and copy |"
        ),
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for table, varies in VARIES.items():
        mine = [result for result in results if result.cell.table == table]
        ways = " | ".join(
            "{:.2f}, {:.2f}".format(*ratios(mine, way))
            for way in ("paper", "rule", "on_cpu", "ours")
        )
        bounds = " | ".join(f"{against_bound(mine, way):.2f}" for way in ("paper", "ours", "built"))
        lines.append(f"| {table} | {varies} | {len(mine)} | {ways} | {bounds} |")
    return lines


def hardware(results: Sequence[Result]) -> list[str]:
    """Return the paper's table 3 in seconds: the paper's Cake, infbox's decisions, the bound."""
    mine = [result for result in results if result.cell.table == HARDWARE_TABLE]
    loads = {result.cell.gbps: result.cell.load_seconds for result in mine}
    heads = " | ".join(f"{gbps} Gbps" for gbps in BANDWIDTHS)
    lines = [
        f"| GPU | share | computed | {heads} |",
        "| --- | ---: | ---: |" + " ---: |" * len(BANDWIDTHS),
        "| loaded | | | " + " | ".join(f"{loads[gbps]:.2f}" for gbps in BANDWIDTHS) + " |",
    ]
    for gpu, share in TABLE_3:
        row = [r for r in mine if (r.cell.hardware, r.cell.share) == (gpu, share)]
        computed = statistics.mean(result.cell.compute_seconds for result in row)
        cells = " | ".join(
            f"{r.cell.cake_seconds:.2f}, **{r.ours:.2f}**, {r.bound:.2f}" for r in row
        )
        lines.append(f"| {GPUS[gpu]} | {share * 100:g} % | {computed:.2f} | {cells} |")
    return lines


def presets(rows: Iterable[Row]) -> list[str]:
    """Return the table of presets and tiers."""
    rows = list(rows)
    lines = [
        "| preset | pack | computed | KV | " + " | ".join(TIERS) + " |",
        "| --- | ---: | ---: | ---: |" + " ---: |" * len(TIERS),
    ]
    for name in dict.fromkeys(row.preset for row in rows):
        mine = [row for row in rows if row.preset == name]
        of = mine[0]
        cells = " | ".join(gain(row) for row in mine)
        lines.append(
            f"| `{name}` | {of.tokens:,} | {of.computed:.1f} s"
            f" | {of.tokens * of.kv_bytes / 1e9:.1f} GB | {cells} |"
        )
    return lines


def gain(row: Row) -> str:
    """Return a cell: the tier's speed, and the seconds of loading alone and of Cake."""
    raced = f"**{row.raced:.2f}**" if row.gain <= WORTH_IT else f"{row.raced:.2f}"
    return f"{row.ratio:.1f}: {row.loaded:.2f} → {raced}"
