"""Back up what a host of infbox cannot get again, with restic, and bring it back.

The settings are one file of JSON, written by `apply`; secrets lie in files that root alone reads,
and reach restic by those and by its environment, never by arguments. `run` and `check` are for the
systemd units, which call `failed` where one of them did not end well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

TAG = "infbox"
DATABASE = b"SQLite format 3\0"
MODEL_MARKER = "infbox-model.json"
BEFORE = ".before-restore"
CONNECT_TIMEOUT = 10.0  # seconds
OPEN_TIMEOUT = 120.0  # seconds; restic itself tries for a quarter of an hour
LOCK_TIMEOUT = 1800.0  # seconds; another host may be tidying the same repository
LOCK_PAUSE = 20.0  # seconds
COPY_ATTEMPTS = 5
NO_REPOSITORY = 10  # restic's exit status, from 0.17 on
NO_LOCK = 11
WRONG_PASSWORD = 12
INCOMPLETE = 3
SHORTEST_ID = 6

# What the state keeps of a backup or a check, and what Prometheus is told of it.
METRICS = {
    "success": ("success", "Whether it ended well."),
    "last_run": ("last_run_timestamp_seconds", "When it ended."),
    "last_success": ("last_success_timestamp_seconds", "When one ended well; 0 for never."),
    "failures": ("failures_total", "How many failed."),
    "seconds": ("duration_seconds", "How long it took."),
    "files": ("files", "Files in the snapshot."),
    "bytes": ("bytes", "Bytes in the snapshot."),
    "added_bytes": ("added_bytes", "Bytes added to the repository."),
}


class BackupError(Exception):
    """Something cannot be done; the message says what, and how to fix it."""


@dataclass(frozen=True)
class Target:
    """Where a repository is.

    Attributes:
        kind: ``local``, ``sftp`` or ``s3``.
        path: of the repository, for a local one.
        host: that holds it, for the others.
        port: of that host.
        user: to log in as, for SFTP; empty for the user who runs this.
    """

    kind: str
    path: str = ""
    host: str = ""
    port: int = 0
    user: str = ""


@dataclass(frozen=True)
class Settings:
    """What to back up, and where to.

    Attributes:
        target: the repository, as restic writes it.
        host: the name that this host's snapshots carry.
        paths: files and folders to back up; what is not there is left out.
        exclude: of those, what is not backed up.
        keep: how many snapshots stay, by ``daily``, ``weekly`` and ``monthly``.
        check_share: how much of the data each check reads, as ``5%``.
        late_after: seconds without a good backup after which one is late.
        models_dir: folder of the models, which are only listed.
        secrets_dir: folder of the password, the environment and the SSH key.
        state_dir: folder of what this keeps between two runs.
        metrics_file: where Prometheus's node exporter finds how it went.
    """

    target: str
    host: str
    paths: Sequence[str]
    exclude: Sequence[str] = ()
    keep: Mapping[str, int] = field(default_factory=dict)
    check_share: str = "5%"
    late_after: int = 93600
    models_dir: str = "/var/lib/infbox/models"
    secrets_dir: str = "/etc/infbox/secrets/backup"
    state_dir: str = "/var/lib/infbox/backup"
    metrics_file: str = "/var/lib/infbox/metrics/backup.prom"


@dataclass(frozen=True)
class Access:
    """What opens the repository, each a file.

    Attributes:
        password: the repository's password.
        environment: variables for restic, as JSON.
        known_hosts: keys of SFTP hosts.
        ssh_key: this host's own key for SFTP.
    """

    password: Path
    environment: Path
    known_hosts: Path
    ssh_key: Path

    @classmethod
    def below(cls, folder: Path) -> Access:
        """Return the files of a folder."""
        return cls(
            password=folder / "password",
            environment=folder / "environment",
            known_hosts=folder / "known_hosts",
            ssh_key=folder / "ssh_key",
        )


def parse_target(text: str) -> Target:
    """Read where a repository is.

    Raises:
        BackupError: it is none of the three kinds.
    """
    if re.fullmatch(r"/[^\s%]*[^\s%/]", text):
        return Target("local", path=text)
    if match := re.fullmatch(r"sftp:(?!//)(?:([\w.-]+)@)?([\w.-]+):\S+", text):
        return Target("sftp", host=match[2], port=22, user=match[1] or "")
    if match := re.fullmatch(r"sftp://(?:([\w.-]+)@)?([\w.-]+)(?::(\d+))?/\S+", text):
        return Target("sftp", host=match[2], port=int(match[3] or 22), user=match[1] or "")
    if match := re.fullmatch(r"s3:(?:(https?)://)?([\w.-]+)(?::(\d+))?/[\w.-]+(?:/\S*)?", text):
        usual = 80 if match[1] == "http" else 443
        return Target("s3", host=match[2], port=int(match[3] or usual))
    raise BackupError(
        f"The target {text!r} is none of /DIRECTORY, sftp:USER@HOST:/DIRECTORY,"
        " sftp://USER@HOST:PORT//DIRECTORY, s3:https://HOST/BUCKET/DIRECTORY. Fix"
        " infbox_backup.target."
    )


def existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that is there."""
    while not path.exists():
        path = path.parent
    return path


def probe(text: str, data: Iterable[str]) -> tuple[list[str], list[str]]:
    """Look whether a target can be one, without anything that must be installed first.

    Args:
        text: the target.
        data: what is to be backed up.

    Returns:
        What cannot work, and what is worth a thought.
    """
    try:
        target = parse_target(text)
    except BackupError as error:
        return [str(error)], []
    if target.kind != "local":
        return unreachable(target), []
    parent = Path(target.path).parent
    if not parent.is_dir():
        return [
            f"{parent} is not there. Mount the disk of the backups, or create the directory."
        ], []
    inside = [path for path in data if Path(target.path).is_relative_to(path)]
    if inside:
        return [f"The target {text} lies in {inside[0]}, which is backed up. Give another."], []
    disk = existing(Path(target.path)).stat().st_dev
    shared = [path for path in data if existing(Path(path)).stat().st_dev == disk]
    if shared:
        return [], [f"{text} is on the file system of {shared[0]}: one disk lost is both lost."]
    return [], []


def unreachable(target: Target) -> list[str]:
    """Return why the host of a target cannot be reached, or nothing."""
    try:
        socket.create_connection((target.host, target.port), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        where = f"{target.host} does not answer on port {target.port} ({error})"
        return [f"The backups' host {where}. Fix infbox_backup.target, or the network connection."]
    return []


class Restic:
    """A repository.

    Args:
        settings: name it.
        access: opens it.
    """

    def __init__(self, settings: Settings, access: Access | None = None) -> None:
        self.settings = settings
        self.access = access or Access.below(Path(settings.secrets_dir))
        self.target = parse_target(settings.target)

    def command(self, *words: str) -> list[str]:
        """Return a command line of restic; it holds no secret."""
        return ["restic", *self.options(), *words]

    def options(self) -> list[str]:
        """Return how SFTP goes: by our own key, to a host that is known, and never by asking."""
        if self.target.kind != "sftp":
            return []
        login = f"{self.target.user}@" if self.target.user else ""
        ssh = (
            f"ssh -F none -i {self.access.ssh_key} -p {self.target.port} -o IdentitiesOnly=yes"
            f" -o BatchMode=yes -o ConnectTimeout={CONNECT_TIMEOUT:.0f} -o ServerAliveInterval=30"
            f" -o StrictHostKeyChecking=yes -o UserKnownHostsFile={self.access.known_hosts}"
            f" {login}{self.target.host} -s sftp"
        )
        return ["-o", f"sftp.command={ssh}"]

    def environment(self) -> dict[str, str]:
        """Return restic's environment, which alone holds what the admin gave for it."""
        given: dict[str, str] = {}
        if self.access.environment.exists():
            given = json.loads(self.access.environment.read_text())
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": self.settings.state_dir,
            **given,
            "RESTIC_REPOSITORY": self.settings.target,
            "RESTIC_PASSWORD_FILE": str(self.access.password),
            "RESTIC_CACHE_DIR": f"{self.settings.state_dir}/cache",
        }

    def ask(self, *words: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run restic and return what came of it.

        Raises:
            BackupError: restic is not installed, or did not end in time.
        """
        try:
            return subprocess.run(
                self.command(*words), env=self.environment(), stdin=subprocess.DEVNULL,
                capture_output=True, text=True, check=False, timeout=timeout,
            )  # fmt: skip
        except FileNotFoundError:
            raise BackupError("restic is not installed. Run site.yml.") from None
        except subprocess.TimeoutExpired:
            raise BackupError(
                f"{self.settings.target} gave no answer within {timeout:.0f} s."
                " Look whether it can be reached from this host."
            ) from None

    def run(self, *words: str, accept: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
        """Run restic, waiting while another host holds the repository.

        Args:
            words: arguments of restic.
            accept: exit statuses that are well.

        Raises:
            BackupError: it failed; the message holds the end of what it said.
        """
        deadline = time.monotonic() + LOCK_TIMEOUT
        while (done := self.ask(*words)).returncode not in accept:
            locked = done.returncode == NO_LOCK or "already locked" in done.stderr
            if not locked or time.monotonic() > deadline:
                raise BackupError(self.reason(words[0], done))
            time.sleep(LOCK_PAUSE)
        return done

    def reason(self, what: str, done: subprocess.CompletedProcess[str]) -> str:
        """Return why restic failed."""
        if done.returncode == WRONG_PASSWORD or "wrong password" in done.stderr:
            return (
                f"The password does not open the repository {self.settings.target}, which is left"
                " as it is. Give its own in infbox_backup.password, or put it into"
                f" {self.settings.secrets_dir}/password."
            )
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        return f"`restic {what}` failed ({done.returncode}) for {self.settings.target}: {said}"

    def is_there(self) -> bool:
        """Return whether the repository exists and opens.

        Raises:
            BackupError: it cannot be opened, or it cannot be told.
        """
        done = self.ask("--no-cache", "cat", "config", timeout=OPEN_TIMEOUT)
        if done.returncode == 0:
            return True
        # Before 0.17 restic said 1 to everything.
        missing = re.search(r"no such file|not exist", done.stderr, re.IGNORECASE)
        if done.returncode == NO_REPOSITORY or (done.returncode == 1 and missing):
            return False
        raise BackupError(self.reason("cat", done))

    def snapshots(self, host: str | None = None) -> list[dict[str, Any]]:
        """Return infbox's snapshots, the oldest first; of one host where it is given."""
        words = ["snapshots", "--json", "--tag", TAG, *(["--host", host] if host else [])]
        found: list[dict[str, Any]] = json.loads(self.run(*words).stdout or "null") or []
        return sorted(found, key=lambda snapshot: parse_time(snapshot["time"]))


def utc(seconds: float) -> str:
    """Return a Unix time as people read it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def parse_time(text: str) -> float:
    """Return the Unix time, in whole seconds, of what restic writes with nanoseconds."""
    # Python 3.10 knows no Z.
    plain = re.sub(r"\.\d+", "", re.sub(r"Z$", "+00:00", text))
    return datetime.fromisoformat(plain).timestamp()


# --- Settings -----------------------------------------------------------------------------------


def read_settings(file: Path) -> Settings:
    """Read the settings.

    Raises:
        BackupError: there are none.
    """
    try:
        return Settings(**json.loads(file.read_text()))
    except FileNotFoundError:
        raise BackupError(
            f"There are no backups here: {file} is not there."
            " Set infbox_backup in the inventory and run site.yml."
        ) from None


def apply(
    file: Path, request: Mapping[str, Any], *, dry_run: bool = False, existing_only: bool = False
) -> dict[str, Any]:
    """Make sure of a repository, then keep what leads there; nothing changes where it won't open.

    Args:
        file: of the settings.
        request: ``settings``; ``password``, empty for this host's own; ``environment``;
            ``known_hosts``.
        dry_run: only say what would be.
        existing_only: refuse where there is no repository, in place of making one.

    Returns:
        ``changed``; ``created``, whether the repository is new; ``password``, which is ``given``,
        ``kept`` or ``made``.

    Raises:
        BackupError: the repository cannot be opened, or this host lacks its password.
    """
    settings = Settings(**request["settings"])
    target = parse_target(settings.target)
    place = Access.below(Path(settings.secrets_dir))
    password, origin = choose_password(request["password"], place.password)
    wanted = {
        place.password: password + "\n",
        place.environment: json.dumps(request["environment"]) + "\n",
        place.known_hosts: request["known_hosts"].strip() + "\n",
        file: json.dumps(asdict(settings), indent=2) + "\n",
    }
    changed = any(not path.exists() or path.read_text() != text for path, text in wanted.items())
    if target.kind == "sftp" and not place.ssh_key.exists():
        if dry_run:
            return {"changed": True, "created": False, "password": origin}
        make_ssh_key(place.ssh_key, settings.host)
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        trial = Access(at / "password", at / "environment", at / "known_hosts", place.ssh_key)
        for path, text in wanted.items():
            write(at / path.name, text)
        repository = Restic(settings, trial)
        created = not look_for_repository(repository, origin)
        if created and existing_only:
            raise BackupError(f"There is no repository at {settings.target}.")
        if created and not dry_run:
            repository.run("init")
    if not dry_run:
        for path, text in wanted.items():
            write(path, text)
        State(settings).begin()
    return {"changed": changed or created, "created": created, "password": origin}


def rotate(settings: Settings, given: str) -> dict[str, str]:
    """Give the repository another password; the one until now opens it no more.

    At no moment does the file of the password hold one that does not open it. An interrupted
    rotation is taken up by the next one, down to the key that it was to remove: another host that
    backs up may lock the repository for longer than is waited.

    Args:
        settings: name the repository.
        given: the new password; empty for one that is made here.

    Returns:
        ``password``: ``given`` or ``made``.

    Raises:
        BackupError: the repository cannot be reached or opened, and opens as before; or the key
            of the password until now could not be removed yet.
    """
    now = Restic(settings)
    file = now.access.password
    fresh, leaving = file.with_name("password.new"), file.with_name("leaving-key")
    keys = json.loads(now.run("key", "list", "--json").stdout)
    current = next(key["id"] for key in keys if key["current"])
    if leaving.exists():
        remove_key(now, leaving, [key["id"] for key in keys if not key["current"]])
        if given == file.read_text().strip():
            return {"password": "given"}
    if given or not fresh.exists():
        write(fresh, (given or secrets.token_urlsafe(32)) + "\n")
    then = Restic(settings, replace(now.access, password=fresh))
    if not opens(then):
        now.run("key", "add", f"--new-password-file={fresh}")
    write(leaving, current + "\n")
    fresh.rename(file)
    remove_key(now, leaving, [current])
    return {"password": "given" if given else "made"}


def remove_key(repository: Restic, file: Path, known: Sequence[str]) -> None:
    """Remove the key that a file names from a repository, then the file.

    Args:
        repository: opens with another key.
        file: holds the key's id.
        known: the keys that may be removed; any other stays.

    Raises:
        BackupError: the key could not be removed; the file still names it.
    """
    if (key := file.read_text().strip()) in known:
        repository.run("key", "remove", key)
    file.unlink()


def opens(repository: Restic) -> bool:
    """Return whether the password opens the repository."""
    return repository.ask("--no-cache", "cat", "config", timeout=OPEN_TIMEOUT).returncode == 0


def choose_password(given: str, file: Path) -> tuple[str, str]:
    """Return the password, and whether it is given, kept or made."""
    if given:
        return given, "given"
    if file.exists():
        return file.read_text().strip(), "kept"
    return secrets.token_urlsafe(32), "made"


def look_for_repository(repository: Restic, origin: str) -> bool:
    """Return whether the repository is there.

    Raises:
        BackupError: it cannot be opened, or told; the message says what the admin can do.
    """
    try:
        return repository.is_there()
    except BackupError as error:
        raise BackupError(explain(str(error), repository, origin)) from None


def explain(error: str, repository: Restic, origin: str) -> str:
    """Add to an error what the admin can do about it."""
    if origin == "made" and "password does not open" in error:
        return (
            f"There is a repository at {repository.settings.target} already, and this host has not"
            f" its password. Give it in infbox_backup.password or {repository.settings.secrets_dir}"
            "/password."
        )
    public = repository.access.ssh_key.with_suffix(".pub")
    if repository.target.kind == "sftp" and public.exists():
        return f"{error}\nLet this key in at {repository.target.host}: {public.read_text().strip()}"
    return error


def make_ssh_key(file: Path, host: str) -> None:
    """Make this host a key for SFTP."""
    make_folder(file.parent)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"infbox-backup@{host}", "-f", file],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make sure of a folder; those above it that are missing can be read by everybody."""
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.mkdir(mode=mode, exist_ok=True)


def write(file: Path, text: str, mode: int = 0o600) -> None:
    """Write a file whole or not at all."""
    if file.exists() and file.read_text() == text and file.stat().st_mode & 0o777 == mode:
        return
    make_folder(file.parent)
    partial = file.with_name(f".{file.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600, exist_ok=False)
    with partial.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.chmod(mode)
    partial.rename(file)


# --- How it went --------------------------------------------------------------------------------


class State:
    """How backups and checks went, kept as JSON and shown to Prometheus.

    Args:
        settings: say where.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.file = Path(settings.state_dir) / "state.json"
        self.content: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError):
            self.content = json.loads(self.file.read_text())

    def begin(self) -> None:
        """Note since when there are backups."""
        self.content.setdefault("configured", int(time.time()))
        self.keep()

    def succeeded(self, job: str, began: float, **more: Any) -> None:
        """Note a job that ended well, with the seconds since `began` and what else there is."""
        now = time.time()
        before = self.content.get(job, {})
        self.content[job] = {
            **before, "success": True, "last_run": int(now), "last_success": int(now),
            "seconds": round(now - began), **more,
        }  # fmt: skip
        self.keep()

    def failed(self, job: str) -> None:
        """Note a job that did not."""
        before = self.content.get(job, {})
        failures = before.get("failures", 0) + 1
        self.content[job] = {
            **before, "success": False, "last_run": int(time.time()), "failures": failures,
        }  # fmt: skip
        self.keep()

    def keep(self) -> None:
        """Write both files."""
        write(self.file, json.dumps(self.content, indent=2) + "\n")
        metrics = Path(self.settings.metrics_file)
        make_folder(metrics.parent, 0o755)
        write(metrics, "\n".join(self.metrics()) + "\n", 0o644)

    def metrics(self) -> Iterator[str]:
        """Yield the lines of the exposition."""
        since, late = self.content.get("configured", 0), self.settings.late_after
        yield from sample("configured_timestamp_seconds", "Since when there are backups.", since)
        yield from sample("late_after_seconds", "Age of the last good one that is too much.", late)
        for job, prefix in (("backup", ""), ("check", "check_")):
            said = {"last_success": 0, "failures": 0, **self.content.get(job, {})}
            for key, (name, text) in METRICS.items():
                if key in said:
                    yield from sample(f"{prefix}{name}", f"{text} (last {job})", int(said[key]))


def sample(name: str, text: str, value: int) -> Iterator[str]:
    """Yield a metric of one sample."""
    kind = "counter" if name.endswith("_total") else "gauge"
    yield f"# HELP infbox_backup_{name} {text}"
    yield f"# TYPE infbox_backup_{name} {kind}"
    yield f"infbox_backup_{name} {value}"


# --- Backing up ---------------------------------------------------------------------------------


def run(settings: Settings) -> dict[str, Any]:
    """Take a snapshot, then forget those that need not stay.

    Returns:
        What the state keeps of it: ``snapshot``, ``files``, ``bytes``, ``added_bytes``.

    Raises:
        BackupError: the snapshot is not whole, or old ones could not be removed.
    """
    began = time.time()
    repository = Restic(settings)
    paths = [path for path in settings.paths if Path(path).exists()]
    databases = list(find_databases(paths, settings.exclude))
    copies = Path(settings.state_dir) / "copies"
    shutil.rmtree(copies, ignore_errors=True)
    manifest = Path(settings.state_dir) / "manifest.json"
    try:
        for database in databases:
            copy_database(database, copies / str(database).lstrip("/"))
        write(manifest, json.dumps(describe(settings, paths, databases), indent=2) + "\n")
        repository.run("unlock")
        summary = snapshot(repository, paths, databases, manifest, copies)
    finally:
        shutil.rmtree(copies, ignore_errors=True)
    keep = [f"--keep-{unit}={count}" for unit, count in settings.keep.items() if count]
    # Grouped by host alone: snapshots of before a path was added must go some day, too.
    repository.run(
        "forget", "--host", settings.host, "--tag", TAG, "--group-by", "host", *keep, "--prune"
    )
    State(settings).succeeded("backup", began, **summary)
    return summary


def snapshot(
    repository: Restic,
    paths: Sequence[str],
    databases: Sequence[Path],
    manifest: Path,
    copies: Path,
) -> dict[str, Any]:
    """Take a snapshot.

    Raises:
        BackupError: something that is there could not be read.
    """
    raw = [f"{database}{suffix}" for database in databases for suffix in ("", "-wal", "-shm")]
    left_out = [f"--exclude={literal(path)}" for path in [*raw, *repository.settings.exclude]]
    places = [*paths, str(manifest), *([str(copies)] if copies.exists() else [])]
    done = repository.run(
        "backup", "--json", "--host", repository.settings.host, "--tag", TAG, *left_out, *places,
        accept=(0, INCOMPLETE),
    )  # fmt: skip
    # What went away meanwhile is no loss: whoever removed it did not need it.
    unread = [path for path in errors(done.stderr) if Path(path).exists()]
    if unread:
        raise BackupError(f"The backup is not whole, these could not be read: {', '.join(unread)}.")
    summary = next(said for said in messages(done.stdout) if said["message_type"] == "summary")
    return {
        "snapshot": summary["snapshot_id"][:8],
        "files": summary["total_files_processed"],
        "bytes": summary["total_bytes_processed"],
        "added_bytes": summary["data_added"],
    }


def literal(path: str) -> str:
    """Return a pattern of restic's that fits this path and no other."""
    return re.sub(r"([*?\[\\])", r"\\\1", path)


def messages(text: str) -> Iterator[dict[str, Any]]:
    """Yield the lines that are a message in JSON."""
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            said = json.loads(line)
            if isinstance(said, dict) and "message_type" in said:
                yield said


def errors(text: str) -> list[str]:
    """Return the paths that restic could not read."""
    return [said.get("item", "") for said in messages(text) if said["message_type"] == "error"]


def find_databases(paths: Iterable[str], exclude: Sequence[str]) -> Iterator[Path]:
    """Yield the files below `paths` that SQLite writes, which must not be copied as they are."""
    for top in paths:
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if f"{folder}/{name}" not in exclude]
            for file in (Path(folder) / name for name in files if name.endswith(".db")):
                with contextlib.suppress(FileNotFoundError), file.open("rb") as stream:
                    if stream.read(len(DATABASE)) == DATABASE:
                        yield file


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, while others write it.

    Nothing is written beside the original: a file of SQLite's that root made there would shut its
    owner out. A database that nobody has open lacks the files that reading along needs, and is read
    as one that does not change; whether it did is seen afterwards.

    Raises:
        BackupError: it could not be copied, or the copy is damaged.
    """
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for _ in range(COPY_ATTEMPTS):
        in_use = Path(f"{source}-wal").exists()
        before = source.stat()
        mode = "mode=ro" if in_use else "immutable=1"
        try:
            copy_once(f"file:{urllib.parse.quote(str(source))}?{mode}", target)
        except sqlite3.Error:
            time.sleep(0.5)
            continue
        after = source.stat()
        same = (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
        if in_use or (same and not Path(f"{source}-wal").exists()):
            return
    raise BackupError(f"The database {source} is damaged or never still: there is no whole copy.")


def copy_once(source: str, target: Path) -> None:
    """Copy a database and look whether the copy is whole.

    Raises:
        sqlite3.Error: it is not.
    """
    target.unlink(missing_ok=True)
    with (
        contextlib.closing(sqlite3.connect(source, uri=True, timeout=10)) as original,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        original.backup(copy)
        # One file, whatever its owner's journal is.
        copy.execute("PRAGMA journal_mode = DELETE")
        if copy.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the copy is damaged")
    target.chmod(0o600)


def describe(settings: Settings, paths: Sequence[str], databases: Sequence[Path]) -> dict[str, Any]:
    """Return what a restore needs to know, and which models belong to it."""
    owners = [(path, path.stat()) for path in databases]
    markers = sorted(Path(settings.models_dir).glob(f"*/{MODEL_MARKER}"))
    models = [{"path": str(m.parent), **json.loads(m.read_text())} for m in markers]
    return {
        "format": 1,
        "host": settings.host,
        "time": utc(time.time()),
        "paths": list(paths),
        "databases": [
            {"path": str(path), "uid": s.st_uid, "gid": s.st_gid, "mode": s.st_mode & 0o777}
            for path, s in owners
        ],
        "models": [{k: v for k, v in model.items() if k != "files"} for model in models],
    }


def check(settings: Settings) -> None:
    """Read a share of the repository and look whether it is what was written.

    Raises:
        BackupError: it is not.
    """
    began = time.time()
    repository = Restic(settings)
    repository.run("unlock")
    repository.run("check", f"--read-data-subset={settings.check_share}")
    State(settings).succeeded("check", began)


def failed(settings: Settings, job: str) -> None:
    """Note that a job failed, and say so in the journal, as an error."""
    state = State(settings)
    state.failed(job)
    last = state.content[job].get("last_success")
    when = utc(last) if last else "never"
    print(
        f"<3>The {job} of {settings.host} to {settings.target} failed; one went well last: {when}."
    )


# --- Restoring ----------------------------------------------------------------------------------


def find_snapshot(repository: Restic, host: str, wanted: str) -> dict[str, Any]:
    """Return a host's snapshot by its id, or the ``latest``.

    Raises:
        BackupError: there is none such.
    """
    found = repository.snapshots(host)
    if wanted != "latest":
        found = [s for s in found if len(wanted) >= SHORTEST_ID and s["id"].startswith(wanted)]
    if len(found) == 1 or (found and wanted == "latest"):
        return found[-1]
    newest_ones = {s["hostname"]: s["id"][:8] for s in repository.snapshots()}
    others = ", ".join(f"{name} has {of_it}" for name, of_it in newest_ones.items()) or "none"
    raise BackupError(
        f"{repository.settings.target} has no snapshot {wanted!r} of the host {host!r}."
        f" The newest that there are: {others}."
        " Give -e snapshot=ID, and -e infbox_restore_host=NAME for another host's."
    )


def plan(settings: Settings, host: str, wanted: str) -> dict[str, Any]:
    """Return what a restore would put back, what it would put aside, and why it cannot.

    Raises:
        BackupError: there is no such snapshot.
    """
    repository = Restic(settings)
    chosen = find_snapshot(repository, host, wanted)
    manifest = json.loads(
        repository.run("dump", chosen["id"], f"{settings.state_dir}/manifest.json").stdout
    )
    taken = parse_time(chosen["time"])
    return {
        "snapshot": chosen["id"],
        "time": chosen["time"],
        "host": chosen["hostname"],
        "models": manifest["models"],
        "paths": [
            {"path": path, "here": os.path.lexists(path), "newer": newest(Path(path)) > taken}
            for path in manifest["paths"]
        ],
        "databases": manifest["databases"],
        "obstacles": [problem for path in manifest["paths"] for problem in obstacles(Path(path))],
    }


def newest(path: Path) -> float:
    """Return when something below a path was changed last; 0 where there is nothing."""
    times = [0.0]
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                times.append(os.lstat(f"{folder}/{name}").st_mtime)
    return max(times)


def obstacles(path: Path) -> Iterator[str]:
    """Yield why something cannot be put into its place."""
    before = path.with_name(path.name + BEFORE)
    if os.path.lexists(before):
        yield (
            f"{before} is there from an earlier restore. Remove it, or undo that restore, before"
            " another."
        )
    if path.is_mount():
        yield f"{path} is a file system of its own and cannot be put aside. Unmount it first."


def restore(settings: Settings, config: Path, host: str, wanted: str) -> dict[str, Any]:
    """Bring a snapshot back beside what is there, then change places.

    Returns:
        The plan that was followed.

    Raises:
        BackupError: it cannot be; everything is as it was.
    """
    todo = plan(settings, host, wanted)
    if todo["obstacles"]:
        raise BackupError(" ".join(todo["obstacles"]))
    paths = [Path(entry["path"]) for entry in todo["paths"]]
    stages = {path: path.with_name(f".{path.name}.restoring") for path in paths}
    try:
        for path, stage in stages.items():
            fetch(settings, todo["snapshot"], path, stage)
        place_databases(settings, todo, stages)
        keep_access(settings, config, stages)
        change_places(settings, stages)
    finally:
        for stage in stages.values():
            shutil.rmtree(stage, ignore_errors=True)
    return todo


def fetch(settings: Settings, snapshot_id: str, path: Path, stage: Path) -> None:
    """Restore one path of a snapshot below a folder beside its place."""
    shutil.rmtree(stage, ignore_errors=True)
    make_folder(stage)
    Restic(settings).run(
        "restore", snapshot_id, "--target", str(stage), f"--include={literal(str(path))}"
    )
    if not os.path.lexists(staged(stage, path)):
        raise BackupError(f"The snapshot {snapshot_id[:8]} lacks {path}, which its list names.")


def staged(stage: Path, path: Path) -> Path:
    """Return where a path is below a stage."""
    return stage / str(path).lstrip("/")


def place_databases(
    settings: Settings, todo: Mapping[str, Any], stages: Mapping[Path, Path]
) -> None:
    """Put the copies of the databases where the databases were, as their owners' own."""
    if not todo["databases"]:
        return
    copies = Path(settings.state_dir) / "copies"
    with tempfile.TemporaryDirectory(dir=settings.state_dir) as folder:
        fetch(settings, todo["snapshot"], copies, Path(folder) / "copies")
        found = staged(Path(folder) / "copies", copies)
        for database in todo["databases"]:
            path = Path(database["path"])
            stage = next(s for top, s in stages.items() if path.is_relative_to(top))
            place = staged(stage, path)
            shutil.copyfile(staged(found, path), place)
            os.chown(place, database["uid"], database["gid"])
            place.chmod(database["mode"])


def keep_access(settings: Settings, config: Path, stages: Mapping[Path, Path]) -> None:
    """Leave what leads to the backups as it is now, whatever the snapshot has."""
    for own in (config, Path(settings.secrets_dir)):
        for top, stage in stages.items():
            if own.is_relative_to(top) and own.exists():
                place = staged(stage, own)
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                copy = shutil.copytree if own.is_dir() else shutil.copy2
                copy(own, place)


def change_places(settings: Settings, stages: Mapping[Path, Path]) -> None:
    """Put aside what is there and put in its place what was restored: all of it, or nothing.

    Raises:
        BackupError: one could not be put into its place; all are as they were.
    """
    journal = Path(settings.state_dir) / "restored.json"
    # Written first, so that `undo` knows of a restore that was cut off in the middle.
    write(journal, json.dumps({str(p): os.path.lexists(p) for p in stages}) + "\n")
    try:
        for path, stage in stages.items():
            if os.path.lexists(path):
                path.rename(path.with_name(path.name + BEFORE))
            staged(stage, path).rename(path)
    except OSError as error:
        undo(settings)
        raise BackupError(f"{path} could not be put into its place ({error}); undone.") from None


def remove(path: Path) -> None:
    """Remove a file, or a folder and all in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def undo(settings: Settings) -> list[str]:
    """Bring back what the last restore put aside; what it restored goes.

    Returns:
        The paths that are as before.

    Raises:
        BackupError: there is nothing to undo.
    """
    journal = Path(settings.state_dir) / "restored.json"
    if not journal.exists():
        raise BackupError("There is no restore to undo.")
    before = json.loads(journal.read_text())
    for name, was_there in before.items():
        path, aside = Path(name), Path(name + BEFORE)
        if os.path.lexists(aside) or not was_there:
            remove(path)
        if os.path.lexists(aside):
            aside.rename(path)
    journal.unlink()
    return list(before)


# --- Command line -------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="infbox-backup", description=__doc__)
    top.add_argument("--config", type=Path, default=Path("/etc/infbox/backup.json"))
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser("probe", help="say whether a target can be one")
    one.add_argument("target")
    one.add_argument("data", nargs="*", help="what is to be backed up")
    one = commands.add_parser("apply", help="take settings and secrets as JSON on standard input")
    one.add_argument("--dry-run", action="store_true", help="change nothing")
    one.add_argument("--existing", action="store_true", help="make no repository")
    commands.add_parser("rotate", help="take another password on standard input; empty makes one")
    commands.add_parser("run", help="back up now; the unit infbox-backup does")
    commands.add_parser("check", help="verify the repository; the unit infbox-backup-check does")
    one = commands.add_parser("failed", help="note a failure; the units do")
    one.add_argument("job", choices=("backup", "check"))
    for name, text in (("plan", "say what restore would do"), ("restore", "bring a snapshot back")):
        one = commands.add_parser(name, help=text)
        one.add_argument("--snapshot", default="latest", help="its id, or latest")
        one.add_argument("--host", help="whose; this host's unless given")
    commands.add_parser("undo", help="bring back what the last restore put aside")
    one = commands.add_parser("restic", help="run restic on the repository")
    one.add_argument("words", nargs=argparse.REMAINDER)
    return top


def act(arguments: argparse.Namespace) -> object:
    """Do what is asked and return what to print, or None."""
    if arguments.command == "probe":
        refused, warnings = probe(arguments.target, arguments.data)
        return {"errors": refused, "warnings": warnings}
    if arguments.command == "apply":
        return apply(
            arguments.config,
            json.load(sys.stdin),
            dry_run=arguments.dry_run,
            existing_only=arguments.existing,
        )
    settings = read_settings(arguments.config)
    if arguments.command == "restic":
        repository = Restic(settings)
        command = repository.command(*arguments.words)
        os.execvpe("restic", command, repository.environment())  # noqa: S606  # no shell is wanted
    actions: dict[str, Callable[[], object]] = {
        "rotate": lambda: rotate(settings, sys.stdin.read().strip()),
        "run": lambda: run(settings),
        "check": lambda: check(settings),
        "failed": lambda: failed(settings, arguments.job),
        "plan": lambda: plan(settings, arguments.host or settings.host, arguments.snapshot),
        "restore": lambda: restore(
            settings, arguments.config, arguments.host or settings.host, arguments.snapshot
        ),
        "undo": lambda: undo(settings),
    }
    return actions[arguments.command]()


def main() -> int:
    """Run one command; an error is one message on standard error and exit status 1."""
    try:
        result = act(parser().parse_args())
    except BackupError as error:
        print(f"infbox-backup: {error}", file=sys.stderr)
        return 1
    if result is not None:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
