"""The panels of all dashboards, read as Grafana would."""

import json
import re
from dataclasses import dataclass
from typing import Any

from promql import metric_names

from lab.settings import ROOT

FOLDER = ROOT / "files" / "dashboards"
# Metrics that one host alone with a plain preset does not have: of Cake, git remotes, replicas,
# teams, and answers that did not come to their end.
CAKE = "infbox_cake_"
OTHERS = (
    *("infbox_remote_", "infbox_gateway_retried_", "infbox_gateway_forwarded_"),
    *("infbox_team_", "infbox_gateway_uncounted_"),
)


@dataclass(frozen=True)
class Panel:
    """A panel of a dashboard, with its PromQL."""

    page: str
    title: str
    unit: str
    description: str
    queries: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {self.title}"


def panels() -> list[Panel]:
    """Return all panels."""
    found = []
    for file in sorted(FOLDER.glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            if panel["type"] != "row":
                found.append(read(file.stem, panel))
    return found


def read(page: str, panel: dict[str, Any]) -> Panel:
    """Return one panel."""
    return Panel(
        page,
        panel["title"],
        panel["fieldConfig"]["defaults"].get("unit", ""),
        panel.get("description", ""),
        tuple(target["expr"] for target in panel["targets"]),
    )


def metrics(*prefixes: str) -> set[str]:
    """Return the metrics that panels name and that begin so."""
    names = {name for panel in panels() for query in panel.queries for name in metric_names(query)}
    return {name for name in names if name.startswith(prefixes)}


def gpu_metrics() -> set[str]:
    """Return what the DCGM exporter tells, by our recorded exposition."""
    text = (ROOT / "tests/monitoring/dcgm.prom").read_text()
    return set(re.findall(r"^(DCGM_\w+)\{", text, re.MULTILINE))
