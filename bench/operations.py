"""Measures what a run of `site.yml` costs that has nothing to do, by how many hosts it is for.

Makes lab hosts, deploys them, and runs `site.yml` again for one of them, for two, and so on. The
hosts are containers of this machine: what their modules compute is taken from the same cores as
what Ansible itself does. The two are told apart, since a host of its own brings its own cores.

    python -m bench.operations [--hosts 4] [--runs 2] [--json FILE]
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import hosts
from lab.deployment import WORKSPACES, copy_tree, inventory, play
from lab.settings import ROOT, STATE
from lab.shell import LabError, step

BASE = "debian13-docker"
WORKSPACE = "infbox"
ONE_HOST_SECONDS = 25.0
ALL_HOSTS_SECONDS = 70.0
TICKS_PER_SECOND = 100


@dataclass(frozen=True)
class Cost:
    """What one run cost, in seconds.

    Attributes:
        hosts: how many it was for.
        wall: from its start to its end.
        controller: that Ansible computed, SSH included.
        others: that all else on this machine computed, which is the hosts.
    """

    hosts: int
    wall: float
    controller: float
    others: float


def main() -> int:
    """Measure, and print a table."""
    arguments = parser().parse_args()
    names = [f"operations{number}" for number in range(1, arguments.hosts + 1)]
    try:
        inventories = [create(name) for name in names]
        with step(f"Deploying {len(names)} hosts"):
            run_for(inventories, "operations-deploy")
        costs = [
            measured(inventories[:count], run)
            for count in range(1, len(names) + 1)
            for run in range(arguments.runs)
        ]
    finally:
        for name in names:
            hosts.remove(name)
    print(table(costs))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")
    return 0


def create(name: str) -> Path:
    """Create a host and return its inventory."""
    tree = copy_tree(ROOT, WORKSPACE)
    host = hosts.create(name, BASE, [f"{STATE / 'workspaces'}:{WORKSPACES}"])
    workspaces = [{"name": WORKSPACE, "path": f"{WORKSPACES}/{tree.name}"}]
    return inventory(host, {"infbox_workspaces": workspaces})


def run_for(inventories: Sequence[Path], log: str) -> str:
    """Run `site.yml` for some of the hosts and return what it printed."""
    given = [word for directory in inventories for word in ("-i", directory)]
    return play(["site.yml", *given], log)


def measured(inventories: Sequence[Path], run: int) -> Cost:
    """Return what a run costs.

    Raises:
        LabError: it changed something, and so is not what is measured here.
    """
    count = len(inventories)
    with step(f"Running it for {count}, run {run + 1}"):
        wall, own, busy = time.monotonic(), children(), machine()
        said = run_for(inventories, f"operations-{count}-{run}")
        wall, own, busy = time.monotonic() - wall, children() - own, machine() - busy
    if said.count("changed=0 ") != count:
        raise LabError(f"The run changed something: .lab/logs/operations-{count}-{run}.log")
    return Cost(count, wall, own, busy - own)


def children() -> float:
    """Return the seconds that processes of this one's have computed, once they have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def machine() -> float:
    """Return the seconds that the cores of this machine have computed.

    Of `/proc/stat`: user, nice and system, in ticks.
    """
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / TICKS_PER_SECOND


def table(costs: Sequence[Cost]) -> str:
    """Return the medians by number of hosts."""
    lines = [f"{'hosts':>5} {'wall':>8} {'controller':>11} {'the hosts':>10}   seconds"]
    counts = sorted({cost.hosts for cost in costs})
    allowed = {counts[-1]: ALL_HOSTS_SECONDS, 1: ONE_HOST_SECONDS}
    for count in counts:
        runs = [cost for cost in costs if cost.hosts == count]
        wall, controller, others = (
            statistics.median(values)
            for values in zip(*((c.wall, c.controller, c.others) for c in runs), strict=True)
        )
        bar = f"   of {allowed[count]:.0f} allowed" if count in allowed else ""
        lines.append(f"{count:>5} {wall:>8.1f} {controller:>11.1f} {others:>10.1f}{bar}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--hosts", type=int, default=4, help="hosts at most")
    made.add_argument("--runs", type=int, default=2, help="runs for each number of hosts")
    made.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    return made


if __name__ == "__main__":
    sys.exit(main())
