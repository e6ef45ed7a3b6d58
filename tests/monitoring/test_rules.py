"""Alerts: each fires when it should and only then, and says what to do."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import images
from lab.settings import ROOT

ALERTS = ROOT / "files" / "alerts"
RULE_FILES = sorted(ALERTS.glob("*.yml"))
Case = dict[str, Any]


def alerts() -> dict[str, Case]:
    """Return all alerts by their names."""
    groups = [group for file in RULE_FILES for group in yaml.safe_load(file.read_text())["groups"]]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    return {rule["alert"]: rule for rule in rules}


def cases() -> dict[str, list[Case]]:
    """Return what promtool is asked about each alert."""
    found = defaultdict(list)
    for file in sorted((ALERTS / "tests").glob("*.yml")):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                found[case["alertname"]].append({**case, "series": test["input_series"]})
    return found


@pytest.mark.parametrize("name", alerts())
def test_an_alert_has_a_page_that_says_what_to_do(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"]["runbook"] == f"docs/runbooks/{name}.md"
    page = (ROOT / "docs/runbooks" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    for part in ("**What it means.**", "**How to see it.**", "**What to do.**\n\n1. "):
        assert part in page


def test_every_page_belongs_to_an_alert_and_its_links_lead_somewhere() -> None:
    pages = list((ROOT / "docs/runbooks").glob("*.md"))
    assert {page.stem for page in pages} == set(alerts())
    for page in pages:
        for link in re.findall(r"\]\((\w+)\.md\)", page.read_text()):
            assert link in alerts()


@pytest.mark.parametrize("name", alerts())
def test_an_alert_is_tried_firing_and_not_firing(name: str) -> None:
    firing = [case for case in cases()[name] if case["exp_alerts"]]
    quiet = [case for case in cases()[name] if not case["exp_alerts"]]
    assert firing
    assert quiet
    # Beside who fires stands one that has the same series and does not.
    fires = {json.dumps(alert["exp_labels"], sort_keys=True) for alert in firing[-1]["exp_alerts"]}
    assert len(fires) < len(labels_of(firing[-1]))


def labels_of(case: Case) -> set[str]:
    """Return the hosts, with their workspaces, that a case has series of."""
    pattern = r'host="([^"]+)"(?:,workspace="([^"]+)")?'
    return {"/".join(found) for s in case["series"] for found in re.findall(pattern, s["series"])}


@pytest.fixture(scope="module")
def image() -> str:
    return images.build("monitoring", images.debian("trixie"))


def promtool(image: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool on a folder of rules."""
    return subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--volume", f"{folder}:/rules:ro",
         "--workdir", "/rules", image, "promtool", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


@pytest.mark.lab
def test_prometheus_takes_the_rules(image: str) -> None:
    done = promtool(image, ALERTS, "check", "rules", *(file.name for file in RULE_FILES))
    assert done.returncode == 0, done.stdout


@pytest.mark.lab
def test_each_alert_fires_when_it_should_and_only_then(image: str) -> None:
    tests = sorted(f"tests/{file.name}" for file in (ALERTS / "tests").glob("*.yml"))
    done = promtool(image, ALERTS, "test", "rules", *tests)
    assert done.returncode == 0, done.stdout


@pytest.mark.lab
def test_a_broken_rule_is_found(image: str, tmp_path: Path) -> None:
    shutil.copytree(ALERTS, tmp_path, dirs_exist_ok=True)
    host = tmp_path / "host.yml"
    host.write_text(host.read_text().replace("< 0.05", "< 0.01"))
    assert promtool(image, tmp_path, "test", "rules", "tests/host.yml").returncode != 0
    host.write_text(host.read_text().replace("< 0.01", "<< 0.01"))
    assert promtool(image, tmp_path, "check", "rules", "host.yml").returncode != 0
