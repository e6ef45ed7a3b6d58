"""What the backup role removes where backups are configured no more, and in which order."""

import re
from pathlib import Path

import yaml

from tests.plugins import plugin_files
from tests.plugins.plugin_files import ROOT


def test_the_timers_by_which_a_run_knows_of_backups_go_last(tmp_path: Path) -> None:
    """Else an interrupted run left metrics, and an alert about backups that are late for ever."""
    role = ROOT / "roles/backup"
    tasks = yaml.safe_load((role / "tasks/remove.yml").read_text())
    # No unit of this machine is touched.
    tasks = [task for task in tasks if "ansible.builtin.systemd_service" not in task]
    inner = yaml.safe_load((role / "vars/main.yml").read_text())
    units: list[str] = re.findall(r"infbox-backup[\w@-]*\.\w+", inner["_backup_units"])
    paths = [tmp_path / name for name in [*units, *inner["_backup_timers"]]]
    paths += [tmp_path / "backup.json", tmp_path / "backup.prom"]
    for path in paths:
        path.write_text("")
    variables = {
        "_backup_units": units + inner["_backup_timers"],
        "_backup_timers": inner["_backup_timers"],
        "_backup_units_dir": f"{tmp_path}/",
        "backup_config_file": str(tmp_path / "backup.json"),
        "backup_metrics_dir": str(tmp_path),
    }
    said = plugin_files.play(tmp_path, tasks, variables)
    one_by_one = re.findall(r"item=(\S+)\)", said)
    assert {str(tmp_path / "backup.json"), str(tmp_path / "backup.prom")} < set(one_by_one)
    assert not [path for path in one_by_one if path.endswith(".timer")]
    assert not [path for path in paths if path.exists()]
