"""Bad input stops a run by name, for all hosts, before the first change on any."""

from collections.abc import Generator

import pytest

from lab import hosts
from lab.deployment import inventory, play, ssh
from lab.hosts import Host
from lab.shell import LabError

pytestmark = pytest.mark.lab

MISTAKES = {
    "infbox_preset": "dev31",
    "infbox_workspace": [],
    "infbox_model_path": "/srv/no-model",
    "infbox_workspaces": [
        {"name": "shop", "path": "/srv/shop"},
        {"name": "shop", "path": "/srv/nowhere"},
    ],
}
MESSAGES = ("dev31", "infbox_workspace ", "/srv/no-model", "/srv/nowhere", "shop")


@pytest.fixture(scope="module")
def pair() -> Generator[tuple[Host, Host]]:
    """Two bare hosts."""
    with (
        hosts.fresh("refused", "debian13") as refused,
        hosts.fresh("bystander", "debian13") as bystander,
    ):
        yield refused, bystander


def test_one_bad_host_stops_the_run_before_any_change(pair: tuple[Host, Host]) -> None:
    bad, good = pair
    for host in pair:
        ssh(host, "mkdir -p /srv/shop /srv/no-model")
    ssh(bad, "systemd-run --quiet --unit taken python3 -m http.server 443")
    good_inventory = inventory(good, {"infbox_workspaces": [{"name": "s", "path": "/srv/shop"}]})
    bad_inventory = inventory(bad, MISTAKES)
    before = ssh(good, "find /etc /usr /var/lib -newer /proc/1 -type f | wc -l; ls /etc /var/lib")

    with pytest.raises(LabError) as refused:
        play(["site.yml", "-i", bad_inventory, "-i", good_inventory], "system-refusal")

    for message in (*MESSAGES, "443"):
        assert message in str(refused.value)
    after = ssh(good, "find /etc /usr /var/lib -newer /proc/1 -type f | wc -l; ls /etc /var/lib")
    assert after == before
