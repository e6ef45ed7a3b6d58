"""The program that backs up and restores; molecule proves what needs restic."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.plugin_files import ROOT, load_file

backup = load_file(ROOT / "roles/backup/files/infbox_backup.py")
BackupError = backup.BackupError

TARGETS = {
    "/mnt/disk/infbox": ("local", "", 0, ""),
    "sftp:nas:/srv/infbox": ("sftp", "nas", 22, ""),
    "sftp:backup@nas.example:infbox": ("sftp", "nas.example", 22, "backup"),
    "sftp://backup@nas:2222//srv/infbox": ("sftp", "nas", 2222, "backup"),
    "s3:https://s3.example:9000/bucket/infbox": ("s3", "s3.example", 9000, ""),
    "s3:http://s3.example/bucket": ("s3", "s3.example", 80, ""),
    "s3:s3.amazonaws.com/bucket/infbox": ("s3", "s3.amazonaws.com", 443, ""),
}
NO_TARGETS = (
    "", "/", "mnt/disk", "/mnt/my disk", "/mnt/disk/", "rest:https://host/", "b2:bucket:path",
    "sftp:nas", "sftp://nas", "s3:", "s3:https://host", "s3:https://host/",
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    (tmp_path / "etc" / "secrets" / "backup").mkdir(parents=True)
    return backup.Settings(
        target=str(tmp_path / "repository"),
        host="here",
        paths=[str(tmp_path / "etc")],
        secrets_dir=str(tmp_path / "etc" / "secrets" / "backup"),
        state_dir=str(tmp_path / "state"),
        metrics_file=str(tmp_path / "metrics" / "backup.prom"),
    )


@pytest.mark.parametrize("text", TARGETS)
def test_a_target_is_read(text: str) -> None:
    target = backup.parse_target(text)
    assert (target.kind, target.host, target.port, target.user) == TARGETS[text]


@pytest.mark.parametrize("text", NO_TARGETS)
def test_no_target_is_refused_by_name(text: str) -> None:
    refused, _ = backup.probe(text, [])
    assert repr(text) in refused[0]


def test_a_disk_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused, _ = backup.probe(str(tmp_path / "unmounted" / "infbox"), [])
    assert "unmounted is not there" in refused[0]


def test_a_target_within_what_is_backed_up_is_refused(tmp_path: Path) -> None:
    refused, _ = backup.probe(str(tmp_path / "infbox"), [str(tmp_path)])
    assert "which is backed up" in refused[0]


def test_one_disk_for_both_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    refused, warnings = backup.probe(str(tmp_path / "infbox"), [str(tmp_path / "data")])
    assert not refused
    assert "one disk lost is both lost" in warnings[0]
    assert backup.probe("/dev/shm/infbox", [str(tmp_path / "data")]) == ([], [])  # noqa: S108


def test_a_host_that_does_not_answer_is_refused() -> None:
    # Nothing listens on the port of `discard`.
    refused, _ = backup.probe("sftp://backup@127.0.0.1:9//srv/infbox", [])
    assert "127.0.0.1 does not answer on port 9" in refused[0]


def test_no_secret_is_in_a_command_of_restic(settings: Any) -> None:
    secrets = Path(settings.secrets_dir)
    backup.write(secrets / "password", "of-the-repository\n")
    backup.write(secrets / "environment", json.dumps({"AWS_SECRET_ACCESS_KEY": "of-the-bucket"}))
    repository = backup.Restic(settings)
    command = " ".join(repository.command("backup"))
    assert "of-the" not in command
    environment = str(repository.environment())
    assert "of-the-bucket" in environment
    assert "of-the-repository" not in environment


def answers(monkeypatch: pytest.MonkeyPatch, code: int, said: str) -> None:
    """Have restic answer so; which versions do, their changelogs tell."""

    def run(command: list[str], **_: Any) -> Any:
        return backup.subprocess.CompletedProcess(command, code, "", said)

    monkeypatch.setattr(backup.subprocess, "run", run)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (10, "Fatal: repository does not exist: unable to open config file"),
        (1, "Fatal: unable to open config file: stat /mnt/config: no such file or directory"),
        (1, "Fatal: unable to open config file: Stat: The specified key does not exist."),
    ],
)
def test_no_repository_is_told_by_old_and_new_restics(
    settings: Any, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    answers(monkeypatch, code, said)
    assert not backup.Restic(settings).is_there()


@pytest.mark.parametrize(
    ("code", "said", "message"),
    [
        (12, "Fatal: wrong password or no key found", "password does not open the repository"),
        (1, "Fatal: wrong password or no key found", "password does not open the repository"),
        (1, "Fatal: unable to open config file: dial tcp: connection refused\nIs there a repo",
         "connection refused"),
        (1, "subprocess ssh: Permission denied (publickey).", "Permission denied"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_no_missing_repository(
    settings: Any, monkeypatch: pytest.MonkeyPatch, code: int, said: str, message: str
) -> None:
    answers(monkeypatch, code, said)
    with pytest.raises(BackupError, match=message):
        backup.Restic(settings).is_there()


def test_another_host_s_lock_is_waited_for(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter([11, 1, 0])
    pauses: list[float] = []

    def run(command: list[str], **_: Any) -> Any:
        said = "Fatal: unable to create lock: repository is already locked by PID 7 on other"
        return backup.subprocess.CompletedProcess(command, next(codes), "", said)

    monkeypatch.setattr(backup.subprocess, "run", run)
    monkeypatch.setattr(backup.time, "sleep", pauses.append)
    backup.Restic(settings).run("forget")
    assert pauses == [backup.LOCK_PAUSE] * 2


@pytest.mark.parametrize("given", ["", "from-the-vault"])
def test_a_rotation_that_could_not_remove_the_old_key_is_finished_by_the_next(
    settings: Any, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """As where another host's backup locks the repository for hours."""
    password = Path(settings.secrets_dir) / "password"
    backup.write(password, "leaked\n")
    keys = {"a": "leaked"}
    is_locked = True

    def stub_of_restic(command: list[str], env: dict[str, str], **_: Any) -> Any:
        told = Path(env["RESTIC_PASSWORD_FILE"]).read_text().strip()
        said, code = "", 0 if told in keys.values() else 1
        if command[1:3] == ["key", "list"]:
            said = json.dumps([{"id": i, "current": p == told} for i, p in keys.items()])
        elif command[1:3] == ["key", "add"]:
            new = Path(command[3].partition("=")[2]).read_text().strip()
            keys[chr(ord(max(keys)) + 1)] = new
        elif command[1:3] == ["key", "remove"] and is_locked:
            code = 1
        elif command[1:3] == ["key", "remove"]:
            assert keys[command[3]] != told
            del keys[command[3]]
        return backup.subprocess.CompletedProcess(command, code, said, "it is locked")

    monkeypatch.setattr(backup.subprocess, "run", stub_of_restic)
    with pytest.raises(BackupError, match="it is locked"):
        backup.rotate(settings, given)
    is_locked = False
    assert backup.rotate(settings, given) == {"password": "given" if given else "made"}
    assert list(keys.values()) == [password.read_text().strip()]
    assert given in ("", *keys.values())
    assert [path.name for path in password.parent.iterdir()] == ["password"]


def test_a_database_that_nobody_has_open_is_copied_and_left_alone(tmp_path: Path) -> None:
    source = tmp_path / "kept" / "index.db"
    source.parent.mkdir()
    with sqlite3.connect(source) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE files (path TEXT)")
        database.execute("INSERT INTO files VALUES ('a.py')")
    database.close()
    source.parent.chmod(0o555)
    assert list(backup.find_databases([str(tmp_path)], [])) == [source]
    backup.copy_database(source, tmp_path / "copy.db")
    source.parent.chmod(0o755)
    assert sqlite3.connect(tmp_path / "copy.db").execute("SELECT * FROM files").fetchall()
    assert [path.name for path in source.parent.iterdir()] == ["index.db"]


def test_a_damaged_database_is_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "index.db"
    with sqlite3.connect(source) as database:
        database.execute("CREATE TABLE files (path TEXT)")
        database.executemany("INSERT INTO files VALUES (?)", [("x" * 2000,)] * 20)
    database.close()
    with source.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    monkeypatch.setattr(backup.time, "sleep", lambda _: None)
    with pytest.raises(BackupError, match="damaged or never still"):
        backup.copy_database(source, tmp_path / "copy.db")


def test_metrics_say_how_it_went(settings: Any) -> None:
    state = backup.State(settings)
    state.begin()
    state.succeeded("backup", 0.0, files=3)
    backup.State(settings).failed("backup")
    lines = Path(settings.metrics_file).read_text().splitlines()
    values = dict(line.split() for line in lines if not line.startswith("#"))
    assert values["infbox_backup_success"] == "0"
    assert values["infbox_backup_failures_total"] == "1"
    assert float(values["infbox_backup_last_success_timestamp_seconds"]) > 0
    assert values["infbox_backup_check_last_success_timestamp_seconds"] == "0"
    assert values["infbox_backup_files"] == "3"


@pytest.fixture
def staged(tmp_path: Path) -> dict[Path, Path]:
    """Two folders that were there, and what was restored beside them."""
    stages = {}
    for name in ("one", "two"):
        path, stage = tmp_path / name, tmp_path / f".{name}.restoring"
        for folder, text in ((path, "now"), (backup.staged(stage, path), "then")):
            folder.mkdir(parents=True)
            (folder / "file").write_text(text)
        stages[path] = stage
    return stages


def test_a_restore_is_undone_where_one_place_cannot_be_changed(
    settings: Any, staged: dict[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename: Callable[..., Path] = Path.rename

    def fail_at_two(self: Path, target: Path) -> Path:
        if target.name == "two" and ".restoring" in str(self):
            raise OSError("no room")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_at_two)
    with pytest.raises(BackupError, match=r"two could not be put .*no room.*undone"):
        backup.change_places(settings, staged)
    assert [(path / "file").read_text() for path in staged] == ["now", "now"]


def test_a_restore_that_was_cut_off_can_be_undone(
    settings: Any, staged: dict[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename: Callable[..., Path] = Path.rename

    def cut_off_at_two(self: Path, target: Path) -> Path:
        if target.name == "two" and ".restoring" in str(self):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", cut_off_at_two)
    with pytest.raises(KeyboardInterrupt):
        backup.change_places(settings, staged)
    assert [path.exists() for path in staged] == [True, False]
    backup.undo(settings)
    assert [(path / "file").read_text() for path in staged] == ["now", "now"]
    with pytest.raises(BackupError, match="no restore to undo"):
        backup.undo(settings)


def test_what_leads_to_the_backups_stays_as_it_is_now(settings: Any, tmp_path: Path) -> None:
    config, etc = tmp_path / "etc" / "backup.json", tmp_path / "etc"
    config.write_text("now")
    backup.write(Path(settings.secrets_dir) / "password", "now")
    stage = tmp_path / ".etc.restoring"
    backup.staged(stage, etc).mkdir(parents=True)
    backup.keep_access(settings, config, {etc: stage})
    for name in ("backup.json", "secrets/backup/password"):
        assert (backup.staged(stage, etc) / name).read_text() == "now"
