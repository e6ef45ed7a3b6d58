"""playbooks/usage.yml with the real command on databases of two hosts, and one that is away."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from infbox.auth import usage
from infbox.auth.usage import Counts, Key, Store

ROOT = Path(__file__).resolve().parents[2]
DAY, NEXT = "2027-01-30", "2027-01-31"
TEAMS = {"store": {"workspaces": ["shop"]}, "finance": {"workspaces": ["billing"]}}
USERS = ["ci", {"name": "ann", "teams": ["store", "finance"]}, {"name": "max", "teams": ["store"]}]
HOSTS = {
    "one": {
        Key(DAY, "ann", "shop"): Counts(1, 0, 1000, 600, 7),
        Key(NEXT, "ann", "shop"): Counts(2, 1, 2000, 0, 9),
        Key(NEXT, "bob@page", ""): Counts(1, 0, 10, 0, 1),
    },
    "two": {
        Key(NEXT, "ann", "shop"): Counts(1, 0, 500, 500, 1),
        Key(NEXT, "max", "shop"): Counts(1, 0, 1, 0, 1),
    },
}
ANN = {
    "day": NEXT,
    "user": "ann",
    "teams": "finance store",
    "workspace": "shop",
    "requests": 3,
    "uncounted_requests": 1,
    "prompt_tokens": 2500,
    "cached_tokens": 500,
    "completion_tokens": 10,
}


@dataclass
class Done:
    """A run, and what it wrote."""

    status: int
    output: str
    written: str

    @property
    def told(self) -> Any:
        assert self.written, self.output
        return json.loads(self.written)


class Fleet:
    """Hosts that are directories of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hosts = {name: self._host(name) for name in HOSTS}

    def _host(self, name: str) -> dict[str, Any]:
        place = self._folder / name
        program = place / "venv/bin/infbox-gateway"
        program.parent.mkdir(parents=True)
        program.write_text(
            f"#!{sys.executable}\nimport sys\nfrom infbox.cli import gateway\nsys.exit(gateway())\n"
        )
        program.chmod(0o755)
        store = Store(usage.file_in(place / "state"))
        store.add(HOSTS[name])
        store.close()
        engine = {"url": "http://127.0.0.1:9", "model": "coder", "max_model_len": 1000}
        settings = {"state_dir": str(place / "state"), "engine": engine}
        (place / "watcher.yml").write_text(yaml.safe_dump(settings))
        return {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "watcher_install_dir": str(place),
            "watcher_config_file": str(place / "watcher.yml"),
        }

    def run(self, *options: str, **others: dict[str, Any]) -> Done:
        hosts = {
            "inference": {
                "hosts": {**self._hosts, **others},
                "vars": {"infbox_users": USERS, "infbox_teams": TEAMS},
            }
        }
        (self._folder / "hosts.yml").write_text(json.dumps(hosts))
        file = self._folder / "usage"
        file.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "--inventory", "hosts.yml",
             ROOT / "playbooks" / "usage.yml", "-e", "infbox_usage_output=usage", *options],
            capture_output=True, text=True, check=False, cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(ROOT / "watcher/src")},
        )  # fmt: skip
        written = file.read_text() if file.exists() else ""
        return Done(done.returncode, done.stdout + done.stderr, written)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("usage"))


def test_hosts_are_summed_and_one_that_is_away_is_named(fleet: Fleet) -> None:
    away = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_become": False}
    done = fleet.run(three=away)
    assert done.told["missing"] == ["three"], done.output
    rows = done.told["usage"]
    assert [(row["day"], row["user"]) for row in rows] == [
        (DAY, "ann"), (NEXT, "ann"), (NEXT, "bob@page"), (NEXT, "max"),
    ]  # fmt: skip
    assert rows[1] == ANN
    assert "The usage of three is missing" in done.output
    assert "2027-01-31  ann       finance store  shop" in done.output
    assert done.status != 0


def test_the_last_days_are_summed_by_team_and_written_as_csv(fleet: Fleet) -> None:
    done = fleet.run(
        *("-e", "infbox_usage_days=1", "-e", "infbox_usage_by=team"),
        *("-e", "infbox_usage_format=csv"),
    )
    assert done.status == 0, done.output
    rows = list(csv.DictReader(done.written.splitlines()))
    assert [(row["day"], row["team"], row["prompt_tokens"]) for row in rows] == [
        (NEXT, "", "10"), (NEXT, "finance", "2500"), (NEXT, "store", "2501"),
    ]  # fmt: skip


def test_what_it_cannot_do_is_refused_with_the_fix(fleet: Fleet) -> None:
    done = fleet.run("-e", "infbox_usage_by=day")
    assert 'infbox_usage_by "day"' in done.output
    assert "user, team or workspace; json or csv." in " ".join(done.output.split())
    assert done.status != 0
    assert not done.written
