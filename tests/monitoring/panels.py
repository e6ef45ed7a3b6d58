"""The panels of all dashboards, read as Grafana would."""

import json
import re
from dataclasses import dataclass
from typing import Any

from lab.settings import ROOT

FOLDER = ROOT / "files" / "dashboards"


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


def card_metrics() -> set[str]:
    """Return what the DCGM exporter tells, by our recorded exposition."""
    text = (ROOT / "tests/monitoring/dcgm.prom").read_text()
    return set(re.findall(r"^(DCGM_\w+)\{", text, re.MULTILINE))
