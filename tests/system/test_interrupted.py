"""Runs of `site.yml` that are killed right after a change, again and again, until all is done.

`make interrupted` runs it; it is too long for every change. What a run wrote before it was cut off
must not be lost on the next: nothing may depend on something having changed in the same run.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import hosts
from lab.client import Client
from lab.deployment import WORKSPACES, copy_tree, endpoint, inventory, play, ssh
from lab.hosts import Host
from lab.settings import ROOT, STATE
from lab.shell import LabError
from tests.system.conftest import WORKSPACE, diagnosed

pytestmark = [pytest.mark.lab, pytest.mark.long]

HOST = "interrupted"
CALLBACKS = f"{ROOT}/plugins/callback:{Path(__file__).parent / 'callbacks'}"
MOST_RUNS = 100
# Of a bare host, some hundred things are changed, and each run looks at those before again.
CHANGES_OF_A_BARE_HOST = 12
# On a host that runs, each single change is one to be cut off after.
OTHERS = {
    "vllm_max_num_seqs": 64,
    "docker_open_ports": [8443],
    "docker_log_max_size": "7m",
    "infbox_users": ["team", "guest"],
    "infbox_backup": {"target": "/var/backups/infbox", "password": "only-in-this-test"},
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    mounts = [f"{STATE / 'workspaces'}:{WORKSPACES}"]
    with hosts.fresh(HOST, "debian13", mounts) as host, diagnosed([host]):
        yield host


@pytest.fixture(scope="module")
def variables() -> dict[str, object]:
    tree = copy_tree(ROOT, f"{HOST}-{WORKSPACE}")
    return {"infbox_workspaces": [{"name": WORKSPACE, "path": f"{WORKSPACES}/{tree.name}"}]}


def runs_until_done(folder: Path, changes: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `site.yml` until it gets to its end, each time killed after so many changes.

    What is built anew from its beginning, such as a release, has more of them: where a run ends
    where another one did, the following ones may change one thing more.

    Returns:
        How many runs were killed.
    """
    monkeypatch.setenv("ANSIBLE_CALLBACK_PLUGINS", CALLBACKS)
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "infbox_workers,cut_off")
    seen, allowed = set(), changes
    for run in range(MOST_RUNS):
        monkeypatch.setenv("CUT_OFF_AFTER", str(allowed))
        log = f"interrupted-{changes}-{run:02}"
        try:
            play(["site.yml", "-i", folder], log)
        except LabError as error:
            if "failed=1" in str(error):
                raise
        else:
            monkeypatch.undo()
            return run
        reached = [line for line in lines_of(log) if "TASK [" in line][-1].partition("TASK")[2]
        print(f"cut off after {allowed}:{reached}", flush=True)
        allowed += reached in seen
        seen.add(reached)
    raise AssertionError(f"{MOST_RUNS} runs were not enough")


def lines_of(log: str) -> list[str]:
    """Return the lines of a run's log."""
    return (STATE / "logs" / f"{log}.log").read_text().splitlines()


def test_a_bare_host_is_deployed_by_runs_that_are_all_cut_off(
    host: Host, variables: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = inventory(host, variables)
    print("runs killed:", runs_until_done(folder, CHANGES_OF_A_BARE_HOST, monkeypatch))
    well(host, folder)


def test_other_settings_arrive_by_runs_that_are_cut_off_after_one_change_each(
    host: Host, variables: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = inventory(host, variables | OTHERS)
    print("runs killed:", runs_until_done(folder, 1, monkeypatch))
    well(host, folder)
    # What a process reads at its start alone is what it runs with.
    assert "--max-num-seqs 64" in ssh(host, "docker inspect infbox-vllm-1 --format '{{.Args}}'")
    assert "8443" in ssh(host, "nft list table inet infbox_docker_guard")
    since = "systemctl show --timestamp=us+utc --property=ExecMainStartTimestamp --value docker"
    assert "7m" in ssh(host, "cat /etc/docker/daemon.json")
    assert ssh(host, f'find /etc/docker/daemon.json -newermt "$({since})"') == ""


def well(host: Host, folder: Path) -> None:
    """Check that nothing is left to do, and that the pack is served right."""
    assert "changed=0 " in play(["site.yml", "-i", folder], "interrupted-again")
    client = Client(endpoint(host), WORKSPACE)
    client.wait_until_warm()
    assert client.ask().text == client.ask(cold=True).text
