"""Simulate fleets of many sizes, print how they do, and draw it: `make simulate`."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .costs import ACTIVE, GB, Costs, Work, preset_costs
from .fleet import HOUR, POLICIES, Fleet
from .plots import draw

HOSTS = (1, 2, 5, 10, 20, 30, 50, 100, 300, 1000)
DEVELOPERS = (10, 100, 1000, 10_000)
# Of each fleet: so many questions, and for so long.
QUESTIONS = 4000
SECONDS = 150.0

Row = dict[str, Any]


def simulate(fleet: Fleet, work: Work, questions: int) -> Row:
    """Simulate one fleet; return what is told of it."""
    minimum = int(SECONDS * work.developers * work.questions / HOUR)
    result = fleet.run(max(questions, minimum))
    return {
        "overloaded": result.is_overloaded,
        "ttft_p50": result.percentile(50),
        "ttft_p95": result.percentile(95),
        "ttft_p99": result.percentile(99),
        "hit_share": result.hit_share,
        "ram_gb": result.ram_bytes / 1e9,
        "disk_gb": result.disk_bytes / 1e9,
        "use": result.use,
        "busiest": result.busiest,
    }


def grid(costs: Mapping[str, Costs], questions: int, patience: int | None) -> list[Row]:
    """Simulate all fleets of these presets, and tell how far it is."""
    points = [
        (name, developers, hosts, policy)
        for name in costs
        for developers in DEVELOPERS
        for hosts in HOSTS
        for policy in POLICIES
    ]
    rows = []
    began = time.monotonic()
    for done, (name, developers, hosts, policy) in enumerate(points, start=1):
        work = Work(developers)
        fleet = Fleet(costs[name], work, hosts, policy, patience=patience)
        point = {"preset": name, "developers": developers, "hosts": hosts, "policy": policy}
        rows.append({**point, **simulate(fleet, work, questions)})
        if done % 12 == 0 or done == len(points):
            left = (time.monotonic() - began) / done * (len(points) - done)
            print(f"{done} of {len(points)}, about {left:.0f} s left", file=sys.stderr, flush=True)
    return rows


def show(rows: Sequence[Row]) -> None:
    """Print a table."""
    print("preset   developers  hosts  policy    p50 s   p95 s   p99 s   hit  GB moved", end="")
    print("   use  busiest")
    for row in rows:
        fleet = f"{row['preset']:8} {row['developers']:10} {row['hosts']:6}  {row['policy']:8}"
        times = "  ".join(f"{row[f'ttft_p{share}']:6.2f}" for share in (50, 95, 99))
        told = (
            f"{times}  {row['hit_share']:4.0%}  {row['ram_gb'] + row['disk_gb']:8.2f}"
            f"  {row['use']:4.0%}  {row['busiest']:7.0%}"
        )
        print(fleet, "  more than can be answered" if row["overloaded"] else told, sep="")


def main() -> int:
    """Run the grid."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--preset", choices=sorted(ACTIVE), action="append")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of each fleet, at least")
    parser.add_argument("--patience", type=int, help="questions that wait before they go elsewhere")
    parser.add_argument(
        "--ram-gb", type=float, help="for KV on each host, in place of the preset's"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there")
    parser.add_argument("--plots", metavar="DIR", type=Path, help="draw them there")
    arguments = parser.parse_args()
    costs = {name: preset_costs(name) for name in arguments.preset or sorted(ACTIVE)}
    if arguments.ram_gb:
        costs = {name: replace(of, ram_bytes=arguments.ram_gb * GB) for name, of in costs.items()}
    rows = grid(costs, arguments.questions, arguments.patience)
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.plots:
        draw(rows, arguments.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
