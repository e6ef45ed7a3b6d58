"""Other secrets on a deployed host, one kind after the other.

`make rotation` runs all of it; with every change only what each kind would do is seen.
"""

import json
from pathlib import Path

import openai
import pytest

from lab.deployment import play
from lab.shell import LabError
from tests.system.conftest import BACKUP_PASSWORD, BACKUPS, Site
from tests.system.test_operations import asked_all_the_time, wait_for_answers

pytestmark = pytest.mark.lab

SECRETS = "/etc/infbox/secrets"
# Prints the status that monitoring's pages answer the password of a file with.
OPEN_PAGES = """
import base64, pathlib, ssl, sys, urllib.error, urllib.request as r
login = base64.b64encode(b"admin:" + pathlib.Path(sys.argv[1]).read_bytes().strip()).decode()
page = r.Request(f"https://{sys.argv[2]}:8443/prometheus/-/healthy")
page.add_header("Authorization", f"Basic {login}")
try:
    print(r.urlopen(page, timeout=10, context=ssl._create_unverified_context()).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def opened(site: Site, file: str) -> str:
    """Return the status that the pages of monitoring answer a password with."""
    return site.ssh(f"python3 - {file} {site.host.address} <<'END'\n{OPEN_PAGES}\nEND")


def rotate(site: Site, kind: str, *arguments: str | Path) -> str:
    """Run the playbook for one kind of secret."""
    return play(
        ["playbooks/rotate_secrets.yml", "-i", site.inventory, "-e", f"secret={kind}", *arguments],
        f"rotate-{kind}",
    )


@pytest.mark.parametrize("kind", ["users", "kv", "monitoring"])
def test_a_dry_run_of_each_kind_ends_well_and_changes_no_secret(site: Site, kind: str) -> None:
    look = f"sha256sum /etc/infbox/lmcache/l2.key $(find {SECRETS} -type f)"
    before = site.ssh(look)
    rotate(site, kind, "--check")
    assert site.ssh(look) == before


@pytest.mark.long
def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are(site: Site) -> None:
    with pytest.raises(LabError, match="Give -e secret= with one of"):
        rotate(site, "keys")


@pytest.mark.long
def test_users_get_other_keys_and_theirs_until_now_end(site: Site) -> None:
    before = site.client.openai
    rotate(site, "users")
    with pytest.raises(openai.AuthenticationError):
        before.models.list()
    assert before.with_options(api_key=site.ssh(f"cat {SECRETS}/api-keys/team")).models.list()
    # Back to the one that the other tests hold.
    site.ssh(f"printf %s {before.api_key} > {SECRETS}/api-keys/team")
    site.ssh("echo '{\"team\": {}}' | /opt/infbox/watcher/venv/bin/infbox-keys apply")


@pytest.mark.long
def test_the_pages_of_monitoring_open_with_the_new_password_alone(site: Site) -> None:
    password = f"{SECRETS}/monitoring/password"
    site.ssh(f"(umask 077; cp {password} /root/before)")
    assert opened(site, "/root/before") == "200"
    rotate(site, "monitoring")
    assert opened(site, password) == "200"
    assert opened(site, "/root/before") == "401"


@pytest.mark.long
def test_a_password_of_the_inventory_is_changed_by_whoever_keeps_it(
    site: Site, tmp_path: Path
) -> None:
    with pytest.raises(LabError, match="Put the new one into a vault as new_password"):
        rotate(site, "backup")
    other = "another-one-for-the-backups"
    for before, password in ((BACKUP_PASSWORD, other), (other, BACKUP_PASSWORD)):
        # What the inventory says has to open the repository when the run begins.
        says = {"infbox_backup": {"target": BACKUPS, "password": before}, "new_password": password}
        file = tmp_path / "vault.json"
        file.write_text(json.dumps(says))
        said = rotate(site, "backup", "-e", f"@{file}")
        assert password not in said
        assert site.ssh(f"cat {SECRETS}/backup/password") == password
        site.ssh("/opt/infbox/backup/infbox-backup restic snapshots")


@pytest.mark.long
def test_the_kv_on_disk_gets_another_key_and_no_request_is_lost(site: Site) -> None:
    before = site.ssh("sha256sum /etc/infbox/lmcache/l2.key")
    text = site.client.ask(cold=True).text
    with asked_all_the_time(site) as stream:
        rotate(site, "kv")
        wait_for_answers(stream, stream.answered + 3)
    assert site.ssh("sha256sum /etc/infbox/lmcache/l2.key") != before
    site.client.wait_until_warm()
    assert site.client.ask().text == text
