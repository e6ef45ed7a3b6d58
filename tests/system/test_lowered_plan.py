"""A plan that is too greedy for the engine, on a lab host with the real one: `make lowered-plan`.

The engine has less KV than planned by an argument that the planner does not know.
"""

import copy
import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from demo.__main__ import PRESET
from lab import hosts
from lab.deployment import inventory, play, ssh
from lab.hosts import Host
from lab.shell import LabError
from tests.system.conftest import diagnosed

pytestmark = [pytest.mark.lab, pytest.mark.long]

FILE = "/etc/infbox/lowered.json"
BLOCK, BLOCKS = 128, 40
TREE = "mkdir -p /srv/shop && echo 'def price(): return 1' > /srv/shop/prices.py"


def variables() -> dict[str, Any]:
    """What the host is deployed by: the demo's model, and blocks that its window does not fit."""
    preset: dict[str, Any] = copy.deepcopy(PRESET)
    preset["engine"]["min_model_len"] = 4096
    preset["workspace_budget"] = 1500
    return {
        "infbox_workspaces": [{"name": "shop", "path": "/srv/shop"}],
        "infbox_preset": "demo",
        "infbox_more_presets": {"demo": preset},
        "infbox_monitoring": False,
        "infbox_request_queue_timeout_seconds": 600,
        "vllm_extra_args": [f"--num-gpu-blocks-override={BLOCKS}"],
    }


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with hosts.fresh("lowered", "debian13") as host, diagnosed([host]):
        ssh(host, TREE)
        yield host


@pytest.fixture(scope="module")
def output(host: Host) -> str:
    """What the run prints that lowers the plan."""
    return play(["site.yml", "-i", inventory(host, variables())], "lowered-plan")


@pytest.fixture
def status(host: Host, output: str) -> dict[str, Any]:
    """The gateway's status after the run."""
    assert output
    # A fresh Debian has no curl.
    read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8010/status').read().decode())"
    return dict(json.loads(ssh(host, f"python3 -c {shlex.quote(read)}")))


def test_the_run_lowers_the_plan_and_succeeds(host: Host, output: str) -> None:
    assert "The plan was lowered on" in output
    kept = json.loads(ssh(host, f"cat {FILE}"))
    assert kept["before"]["max_model_len"] == 8192
    assert 4096 <= kept["engine"]["max_model_len"] < BLOCK * BLOCKS


def test_the_status_shows_what_vllm_reports_beside_the_lowered_plan(
    status: dict[str, Any],
) -> None:
    planned, reported = status["kv"]["planned_tokens"], status["kv"]["tokens"]
    assert 0.88 * reported <= planned <= reported <= BLOCK * BLOCKS
    (note,) = status["kv"]["notes"]
    assert f"remove {FILE} on the host" in note
    assert status["served"]["max_model_len"] < 8192


def test_a_second_run_changes_nothing(host: Host, output: str) -> None:
    again = play(["site.yml", "-i", inventory(host, variables())], "lowered-plan-again")
    assert output
    assert "changed=0" in again
    assert "The plan was lowered on" in again


def test_without_the_record_the_plan_is_made_as_before_and_may_be_lowered_again(
    host: Host, output: str
) -> None:
    assert output
    ssh(host, f"rm {FILE}")
    # With an override of the user's own the window fits, and nothing is lowered.
    given = variables() | {"infbox_preset_overrides": {"engine": {"max_model_len": 4224}}}
    again = play(["site.yml", "-i", inventory(host, given)], "lowered-plan-without")
    assert "The plan was lowered" not in again
    with pytest.raises(LabError):
        ssh(host, f"cat {FILE}")
