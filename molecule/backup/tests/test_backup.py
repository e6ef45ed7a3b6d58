"""The backup role on two lab hosts: one with another disk, one with an SFTP host, which is itself.

The tests run in the order they stand in: the last ones damage the repository.
"""

import json
from typing import Any

import pytest
from testinfra.host import Host

from tests.rerun import converge

PROGRAM = "/opt/infbox/backup/infbox-backup"
SECRETS = "/etc/infbox/secrets/backup"
STATE = "/var/lib/infbox/backup"
METRICS = "/var/lib/infbox/metrics/backup.prom"
INDEX = "/var/lib/infbox/watcher/index/shop.db"
KEY = "/etc/infbox/secrets/api-keys/team"
WRONG = "not the one"
MODELS = "/var/lib/infbox/models"
# What the units may be reached by, at most, as `systemd-analyze security` reckons: 0 is best.
EXPOSURE = {"infbox-backup-disk": 1.2, "infbox-backup-sftp": 1.9}
PAIRS = "SELECT count(*), sum(n = 2) FROM (SELECT count(*) n FROM pairs GROUP BY number)"
JOURNAL = "journalctl --no-pager --lines 80 --unit 'infbox-backup*'"


@pytest.fixture(scope="module")
def folder(host: Host) -> str:
    """The folder of the repository."""
    on_disk = host.backend.get_hostname() == "infbox-backup-disk"
    return "/mnt/disk/infbox" if on_disk else "/srv/elsewhere/infbox"


def metrics(host: Host) -> dict[str, float]:
    lines = host.file(METRICS).content_string.splitlines()
    return {n: float(v) for n, v in (line.split() for line in lines if line[0] != "#")}


def wait_for_failure(host: Host, name: str) -> None:
    """Wait until a metric is 0, which the unit makes it that systemd starts after a failure."""
    look = f"until grep --quiet '^{name} 0$' {METRICS}; do sleep 0.2; done"
    host.check_output(f'timeout 60 sh -c "{look}"')


def plan(host: Host) -> Any:
    return json.loads(host.check_output(f"{PROGRAM} plan"))


def pairs(host: Host, database: str) -> list[int]:
    code = f"import sqlite3; print(*sqlite3.connect(sys.argv[1]).execute('{PAIRS}').fetchone())"
    return [
        int(n) for n in host.check_output(f'python3 -c "import sys; {code}" {database}').split()
    ]


def applied(host: Host, **changes: Any) -> Any:
    """Apply what is applied, with changes."""
    settings = json.loads(host.file("/etc/infbox/backup.json").content_string)
    request = {
        "settings": settings | changes.pop("settings", {}),
        "password": "",
        "environment": json.loads(host.file(f"{SECRETS}/environment").content_string),
        "known_hosts": host.file(f"{SECRETS}/known_hosts").content_string,
        **changes,
    }
    return host.run(f"{PROGRAM} apply <<'END'\n{json.dumps(request)}\nEND")


def test_timers_are_on(host: Host) -> None:
    for timer in ("infbox-backup.timer", "infbox-backup-check.timer"):
        assert host.service(timer).is_enabled
        assert host.service(timer).is_running
        assert host.check_output(
            f"systemctl show --value --property=NextElapseUSecRealtime {timer}"
        )


def test_what_an_interrupted_run_left_is_run_by_the_next_one(host: Host) -> None:
    stale = "systemctl show --value --property=NeedDaemonReload infbox-backup.service"
    since = "systemctl show --value --property=ActiveEnterTimestampMonotonic infbox-backup.timer"
    host.check_output("touch /etc/systemd/system/infbox-backup.service")
    before = int(host.check_output(since))
    assert host.check_output(stale) == "yes"
    status, said = converge("--limit", host.backend.get_hostname())
    assert status == 0, said
    assert host.check_output(stale) == "no"
    assert int(host.check_output(since)) > before


def test_secrets_are_root_s_alone(host: Host) -> None:
    for name, mode in (("", 0o700), ("/password", 0o600), ("/environment", 0o600)):
        file = host.file(SECRETS + name)
        assert (file.user, file.group, file.mode) == ("root", "root", mode)


def test_units_have_no_more_rights_than_they_need(host: Host) -> None:
    for unit in ("infbox-backup", "infbox-backup-check", "infbox-backup-failed@backup"):
        said = host.check_output(f"systemd-analyze security --no-pager {unit}.service")
        exposure = float(said.splitlines()[-1].split("service: ")[1].split()[0])
        assert exposure <= EXPOSURE[host.backend.get_hostname()], said


def test_the_unit_backs_up_and_says_so_to_prometheus(host: Host) -> None:
    begun = int(host.check_output("date +%s"))
    host.check_output("systemctl start infbox-backup.service infbox-backup-check.service")
    said = metrics(host)
    assert said["infbox_backup_success"] == 1
    assert said["infbox_backup_last_success_timestamp_seconds"] >= begun
    assert said["infbox_backup_check_last_success_timestamp_seconds"] >= begun
    assert said["infbox_backup_failures_total"] == 0
    assert said["infbox_backup_files"] >= 4
    assert host.file(METRICS).mode == 0o644


def test_a_snapshot_has_what_cannot_be_had_again_and_no_more(host: Host) -> None:
    listing = host.check_output(f"{PROGRAM} restic ls latest").splitlines()
    certificate, copy = "/var/lib/infbox/caddy/root.key", f"{STATE}/copies{INDEX}"
    assert {KEY, "/etc/infbox/current", certificate, copy} <= set(listing)
    for path in (SECRETS, "/etc/infbox/backup.json", INDEX, f"{INDEX}-wal", MODELS):
        assert path not in listing
    (model,) = plan(host)["models"]
    assert (model["repository"], model["revision"]) == ("r/m", "abc")


def test_a_database_is_copied_whole_while_it_is_written(host: Host) -> None:
    before = pairs(host, INDEX)[0]
    host.check_output("systemctl start infbox-backup.service")
    host.check_output(f"{PROGRAM} restic restore latest --target /srv/restored")
    whole, complete = pairs(host, f"/srv/restored{STATE}/copies{INDEX}")
    assert before <= whole
    assert whole == complete
    owners = host.check_output("stat --format %u /var/lib/infbox/watcher/index/*").split()
    assert set(owners) == {"64430"}, "the backup left a file of its own beside the index"
    assert not host.file(f"{STATE}/copies").exists


def test_what_is_restored_elsewhere_is_the_same_to_the_byte(host: Host) -> None:
    host.check_output("diff --recursive --exclude=backup* /etc/infbox /srv/restored/etc/infbox")
    host.check_output("diff --recursive /var/lib/infbox/caddy /srv/restored/var/lib/infbox/caddy")


def test_a_restore_changes_places_and_can_be_undone(host: Host) -> None:
    host.check_output("systemctl stop writer")
    host.check_output("systemctl start infbox-backup.service")
    rows, key = pairs(host, INDEX), host.file(KEY).content
    password = host.file(f"{SECRETS}/password").content
    host.check_output(f"echo sk-later > {KEY}")
    host.check_output("rm -r /var/lib/infbox/watcher; echo x > /etc/infbox/newer")

    assert [p["newer"] for p in plan(host)["paths"]] == [True, False, False]
    host.check_output(f"{PROGRAM} restore")
    assert host.file(KEY).content == key
    assert not host.file("/etc/infbox/newer").exists
    assert pairs(host, INDEX) == rows
    assert (host.file(INDEX).uid, host.file(INDEX).mode) == (64430, 0o644)
    certificate = host.file("/var/lib/infbox/caddy/root.key")
    assert (certificate.uid, certificate.mode) == (64431, 0o600)
    assert host.file("/etc/infbox.before-restore/newer").exists
    assert host.file(f"{SECRETS}/password").content == password, "it must go on opening"
    assert not host.check_output("find /etc /var/lib -maxdepth 2 -name '*.restoring'")

    again = host.run(f"{PROGRAM} restore")
    assert again.rc == 1
    assert "/etc/infbox.before-restore is there from an earlier restore" in again.stderr

    host.check_output(f"{PROGRAM} undo")
    assert host.file(KEY).content_string == "sk-later\n"
    assert host.file("/etc/infbox/newer").exists
    assert not host.file("/etc/infbox.before-restore").exists
    assert not host.file("/var/lib/infbox/watcher").exists
    host.check_output(f"{PROGRAM} restore")
    host.check_output("rm -r /etc/infbox.before-restore /var/lib/infbox/*.before-restore")


def test_a_restore_that_cannot_be_whole_is_none(host: Host) -> None:
    host.check_output("mount -t tmpfs none /var/lib/infbox/watcher; echo x > /etc/infbox/newer")
    refused = host.run(f"{PROGRAM} restore")
    host.check_output("umount /var/lib/infbox/watcher")
    assert refused.rc == 1
    assert "/var/lib/infbox/watcher is a file system of its own" in refused.stderr
    assert host.file("/etc/infbox/newer").exists
    assert not host.check_output("find /etc /var/lib -maxdepth 2 -name '*restor*'")


def test_an_unknown_snapshot_is_refused_with_what_there_is(host: Host) -> None:
    refused = host.run(f"{PROGRAM} plan --host nobody")
    assert refused.rc == 1
    assert "no snapshot 'latest' of the host 'nobody'" in refused.stderr
    assert host.backend.get_hostname() in refused.stderr


def test_a_wrong_password_is_refused_and_nothing_is_made_anew(host: Host, folder: str) -> None:
    before = host.check_output(f"find {folder} -type f | sort; cat {SECRETS}/password")
    refused = applied(host, password=WRONG)
    assert refused.rc == 1
    assert "The password does not open the repository" in refused.stderr
    assert host.check_output(f"find {folder} -type f | sort; cat {SECRETS}/password") == before


def test_a_repository_without_its_password_is_refused(host: Host) -> None:
    refused = applied(host, settings={"secrets_dir": "/srv/no-secrets"})
    assert refused.rc == 1
    if host.backend.get_hostname() == "infbox-backup-disk":
        assert "this host has not its password" in refused.stderr
    else:
        assert "Let this key in at" in refused.stderr
    assert not host.file("/srv/no-secrets/password").exists


def test_another_password_opens_the_repository_and_the_one_until_now_does_not(host: Host) -> None:
    before = host.check_output(f"cat {SECRETS}/password")
    host.check_output(f"(umask 077; cp {SECRETS}/password /root/before)")
    snapshots = host.check_output(f"{PROGRAM} restic snapshots --json")
    assert json.loads(host.check_output(f"{PROGRAM} rotate < /dev/null")) == {"password": "made"}
    assert host.check_output(f"cat {SECRETS}/password") != before
    assert host.check_output(f"{PROGRAM} restic snapshots --json") == snapshots
    said = host.run(f"{PROGRAM} restic snapshots --password-file /root/before")
    assert "wrong password" in said.stderr
    # Back to the scenario's own.
    host.check_output(f"{PROGRAM} rotate < /root/before")
    assert host.check_output(f"cat {SECRETS}/password") == before
    assert len(json.loads(host.check_output(f"{PROGRAM} restic key list --json"))) == 1


def test_hosts_may_share_a_repository(host: Host) -> None:
    before = plan(host)["snapshot"]
    other = "--host other --tag infbox /etc/hostname"
    host.check_output(f"{PROGRAM} restic backup {other}")
    host.check_output("systemctl start infbox-backup.service")
    assert plan(host)["host"] == host.backend.get_hostname()
    assert plan(host)["snapshot"] != before
    assert host.check_output(f"{PROGRAM} restic snapshots --json --host other") != "[]"


def test_no_secret_is_in_an_argument_a_unit_or_the_journal(host: Host) -> None:
    password = host.file(f"{SECRETS}/password").content_string.strip()
    said = host.check_output("journalctl --no-pager; cat /etc/systemd/system/infbox-backup*")
    assert "infbox-backup" in said
    key = host.file(KEY).content_string.strip()
    for secret in (password, key, "a-secret-of-the-environment"):
        assert secret not in said
        found = host.check_output(
            "find /etc /var /opt /srv/elsewhere /run -xdev -type f -perm /o+r -print0 2> /dev/null"
            f" | xargs -0 grep --files-with-matches --fixed-strings -e {secret} || true"
        )
        assert not found


def test_a_repository_that_is_away_fails_loudly_and_is_not_made_anew(
    host: Host, folder: str
) -> None:
    host.check_output(f"mv {folder} {folder}.away")
    failures = metrics(host)["infbox_backup_failures_total"]
    assert host.run("systemctl start infbox-backup.service").rc != 0
    wait_for_failure(host, "infbox_backup_success")
    said = metrics(host)
    assert said["infbox_backup_failures_total"] == failures + 1
    assert said["infbox_backup_last_success_timestamp_seconds"] > 0
    errors = host.check_output("journalctl --no-pager --priority err --output cat")
    assert "The backup of" in errors
    assert not host.file(f"{folder}/config").exists
    host.check_output(f"rm -rf {folder}; mv {folder}.away {folder}")
    host.check_output("systemctl start infbox-backup.service")
    assert metrics(host)["infbox_backup_success"] == 1


def test_a_damaged_repository_is_found(host: Host, folder: str) -> None:
    damage = "printf x | dd of={} bs=1 seek=100 conv=notrunc status=none"
    packs = host.check_output(f"find {folder}/data -type f").splitlines()
    for pack in packs:
        host.check_output(damage.format(pack))
    assert host.run("systemctl start infbox-backup-check.service").rc != 0
    wait_for_failure(host, "infbox_backup_check_success")
    errors = host.check_output("journalctl --no-pager --priority err --output cat")
    assert "The check of" in errors
