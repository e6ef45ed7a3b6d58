"""No secret of the deployed host can be read anywhere but where it is kept."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import Site

pytestmark = pytest.mark.lab

FIND = Path(__file__).with_name("find_secrets.py").read_text()
CANARY = "/etc/infbox/secrets/canary"
# A place of each kind, in which a secret must not be. $V is one.
PLANT = {
    "argument": 'systemd-run --quiet --unit canary-argument sh -c "sleep 600; : $V"',
    "environment": "systemd-run --quiet --unit canary-environment --setenv=C=$V sleep 600",
    "unit": '(umask 077; echo "# $V" > /etc/systemd/system/canary.service)',
    "journal": "logger canary $V",
    "inspect": "docker create --name canary --env C=$V $(docker images --quiet | head -1)",
    "log": "(umask 077; echo $V > /var/log/canary)",
    "world-readable": "echo $V > /srv/canary; chmod 644 /srv/canary",
    "configuration": "(umask 077; echo $V > /etc/infbox/canary)",
    "state": "(umask 077; echo $V > /var/lib/infbox/watcher/canary)",
    "workspace": "echo $V > /srv/workspaces/canary",
    "container log": "docker run --name canary-log --entrypoint echo $(docker inspect --format"
    " '{{.Image}}' infbox-caddy-1) $V",
}
UPROOT = (
    "systemctl stop canary-argument canary-environment; docker rm canary canary-log > /dev/null;"
    f" rm -f {CANARY} /run/plant /etc/systemd/system/canary.service /var/log/canary /srv/canary"
    " /etc/infbox/canary /var/lib/infbox/watcher/canary /srv/workspaces/canary"
)


def find_secrets(site: Site) -> dict[str, list[str]]:
    """Return for each kind of place where a secret was found, and how many were looked for."""
    found: dict[str, list[str]] = json.loads(site.ssh(f"python3 - <<'END'\n{FIND}\nEND"))
    return found


@pytest.fixture
def canary(site: Site) -> Iterator[None]:
    """A secret that was put wherever none may be."""
    plant = "; ".join(PLANT.values())
    try:
        # From a file, so that the shell that plants has the value in no argument.
        site.ssh(
            f"(umask 077; cat /proc/sys/kernel/random/uuid > {CANARY});"
            f" cat > /run/plant <<'END'\nV=$(cat {CANARY}); {plant}\nEND\nsh /run/plant > /dev/null"
        )
        yield
    finally:
        site.ssh(UPROOT)


@pytest.mark.usefixtures("canary")
def test_a_secret_is_found_wherever_none_may_be(site: Site) -> None:
    found = find_secrets(site)
    assert {kind for kind in PLANT if not found[kind]} == set()


def test_no_secret_is_where_none_may_be(site: Site) -> None:
    found = find_secrets(site)
    looked_for = int(found.pop("secrets")[0])
    assert looked_for >= 3, "keys of users and of certificates are secrets at least"
    assert {kind: places for kind, places in found.items() if places} == {}


def test_no_secret_is_in_what_ansible_prints_at_its_most_talkative(
    site: Site, second_run: str
) -> None:
    files = "find /etc/infbox/secrets -type f ! -name '*.pub' ! -name known_hosts"
    kept = site.ssh(f"{files} -exec cat {{}} +; cat /var/lib/infbox/caddy/caddy/pki/*/*/*.key")
    secrets = set(re.findall(r"[^\s\":]{20,}", kept))
    assert len(secrets) >= 3
    assert "task path: " in second_run, "it was not that talkative"
    for output in (site.output, second_run):
        assert [s[:4] + "…" for s in secrets if s in output] == []
