"""playbooks/backup.yml on this machine, where stubs stand for systemd and a host's files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"paths": ["/etc/infbox"], "target": "/srv/backups", "state_dir": "/nowhere",
            "secrets_dir": "/etc/infbox/secrets/backup"}  # fmt: skip
STATE = {"backup": {"snapshot": "1a2b3c4d", "last_success": 1.0, "files": 7, "bytes": 7000,
                    "added_bytes": 70, "seconds": 1}}  # fmt: skip
LIMIT = 2  # seconds that a unit may take


def backed_up(folder: Path, systemctl: str) -> subprocess.CompletedProcess[str]:
    """Run the playbook.

    Args:
        folder: for stubs and inventory.
        systemctl: shell text of the stub of ``systemctl start``.
    """
    stubs = {
        "cat": f"case $1 in */backup.json) echo '{json.dumps(SETTINGS)}' ;;\n"
               f"*/state.json) echo '{json.dumps(STATE)}' ;;\n*) exec /bin/cat \"$@\" ;; esac",
        "journalctl": "echo words of the journal",
        "systemctl": f"case $1 in start) {systemctl} ;; *) echo tomorrow ;; esac",
    }  # fmt: skip
    for name, text in stubs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    host = {
        "ansible_connection": "local", "ansible_become": False, "_infbox_is_worker": False,
        "ansible_python_interpreter": sys.executable, "ansible_async_dir": str(folder / "async"),
    }  # fmt: skip
    inventory = {"inference": {"hosts": {"gpu1": host}}}
    (folder / "hosts.yml").write_text(json.dumps(inventory))
    return subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", folder / "hosts.yml",
         ROOT / "playbooks/backup.yml", "--extra-vars", f"_longest={LIMIT}"],
        capture_output=True, text=True, check=False, cwd=folder, stdin=subprocess.DEVNULL,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "PATH": f"{folder}:{os.environ['PATH']}"},
    )  # fmt: skip


def test_what_was_backed_up_is_told(tmp_path: Path) -> None:
    done = backed_up(tmp_path, "exit 0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gpu1: 1a2b3c4d of 1970-01-01" in done.stdout


@pytest.mark.parametrize(
    ("systemctl", "words"),
    [
        ("exit 1", "infbox-backup.service failed: words of the journal"),
        (f"sleep {LIMIT + 60}", "infbox-backup.service did not end within 2 seconds"),
    ],
)
def test_a_backup_that_failed_or_did_not_end_is_never_told_as_made(
    tmp_path: Path, systemctl: str, words: str
) -> None:
    done = backed_up(tmp_path, systemctl)
    assert done.returncode != 0, done.stdout
    assert words in done.stdout
    assert "1a2b3c4d" not in done.stdout
