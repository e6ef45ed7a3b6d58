"""Dashboards are current, in Grafana's own form, and every panel says what to do."""

import json
from pathlib import Path
from typing import Any

import dashboards
import jinja2
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from infbox.metrics import GatewayMetrics
from infbox.remotes import service

from lab.settings import ROOT
from tests.monitoring.panels import OTHERS, Panel, metrics, panels

FILES = sorted(dashboards.DIRECTORY.glob("*.json"))


def test_they_are_what_the_tool_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["dashboards.py", "--check"])
    assert dashboards.main() == 0


@pytest.mark.parametrize("change", ["broken", "more", "missing"])
def test_what_was_changed_by_hand_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    monkeypatch.setattr(dashboards, "DIRECTORY", tmp_path)
    monkeypatch.setattr(dashboards, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["dashboards.py"])
    assert dashboards.main() == 0
    if change == "broken":
        (tmp_path / "fleet.json").write_text("{")
    elif change == "more":
        (tmp_path / "other.json").write_text("{}")
    else:
        (tmp_path / "fleet.json").unlink()
    monkeypatch.setattr("sys.argv", ["dashboards.py", "--check"])
    assert dashboards.main() == 1


def read_back(content: dict[str, Any]) -> Any:
    """Return what is left of a dashboard once it was read into the types of Grafana's schema."""
    register_default_plugins()
    return without_empty(json.loads(json.dumps(Dashboard.from_json(content), cls=JSONEncoder)))


def without_empty(value: Any) -> Any:
    """Return the same without empty objects, which say nothing."""
    if isinstance(value, dict):
        return {key: without_empty(inner) for key, inner in value.items() if inner != {}}
    return [without_empty(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_they_are_in_grafana_s_own_form(file: Path) -> None:
    content: dict[str, Any] = json.loads(file.read_text())
    assert read_back(content) == without_empty(content)
    assert content["uid"] == f"infbox-{file.stem}"
    identifiers = [panel["id"] for panel in content["panels"]]
    assert len(set(identifiers)) == len(identifiers)


def test_what_grafana_s_schema_does_not_know_is_found() -> None:
    content: dict[str, Any] = json.loads(FILES[0].read_text())
    content["panels"][1]["fieldConfig"]["defaults"]["unitt"] = "s"
    assert read_back(content) != without_empty(content)


@pytest.mark.parametrize("panel", panels(), ids=str)
def test_a_panel_has_a_unit_and_says_what_to_do(panel: Panel) -> None:
    assert panel.unit
    assert panel.description.endswith(".")
    assert 20 < len(panel.description) < 200
    assert panel.queries


def test_what_is_told_of_remotes_and_replicas_is_what_the_panels_ask_for() -> None:
    told = {
        name
        for registry in (service.Metrics().registry, GatewayMetrics().registry)
        for family in registry.collect()
        for name in (family.name, f"{family.name}_total" if family.type == "counter" else "")
    }
    asked = metrics(*OTHERS)
    assert len(asked) >= 7
    assert asked <= told | recorded()


def recorded() -> set[str]:
    """Return what the role's own rules record."""
    return {rule["record"] for rule in team_rules({"store": ["ann"]})}


def team_rules(teams: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Return the rules that the role makes of teams."""
    text = (ROOT / "roles/monitoring/templates/teams.yml.j2").read_text()
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)  # noqa: S701  # no HTML
    environment.filters["to_json"] = json.dumps
    told = environment.from_string(text).render(monitoring_teams=teams, ansible_managed="")
    (group,) = yaml.safe_load(told)["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def test_each_user_of_a_team_is_a_series() -> None:
    rules = team_rules({"store": ["ann", "max"], 'a "team"': ["ann"]})
    assert [rule["labels"] for rule in rules] == [
        {"team": "store", "user": "ann"},
        {"team": "store", "user": "max"},
        {"team": 'a "team"', "user": "ann"},
    ]
    assert {rule["expr"] for rule in rules} == {"vector(1)"}
