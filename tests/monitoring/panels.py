"""The panels of all dashboards, read as Grafana would."""

import json
import re
from dataclasses import dataclass
from typing import Any

from lab.settings import ROOT

FOLDER = ROOT / "files" / "dashboards"
# What PromQL has of its own in these dashboards; a name before a bracket or a brace is a metric's,
# unless it is one of these.
WORDS = {
    "and", "avg", "by", "count", "histogram_quantile", "increase", "on", "or", "predict_linear",
    "rate", "sum", "time", "vector", "offset", "changes", "le", "for", "group_left",
}  # fmt: skip


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


def metric_names(query: str) -> set[str]:
    """Return the names of the metrics in a query."""
    without_labels = re.sub(r"\{[^}]*\}", "{}", re.sub(r'"[^"]*"', '""', query))
    without_groups = re.sub(r"\b(?:by|on)\s*\([^)]*\)", "", without_labels)
    words = set(re.findall(r"(?<![\w.$])[A-Za-z_][\w:]*", re.sub(r"\[[^]]*\]", "", without_groups)))
    return words - WORDS


def card_metrics() -> set[str]:
    """Return what the DCGM exporter tells, by our recorded exposition."""
    text = (ROOT / "tests/monitoring/dcgm.prom").read_text()
    return set(re.findall(r"^(DCGM_\w+)\{", text, re.MULTILINE))


def is_of_cards(query: str) -> bool:
    """Return whether a query can only be answered on a host with cards."""
    return any(name.startswith("DCGM_") for name in metric_names(query))
