"""The folder of all models: each has a folder of its own, whole and with a marker.

A model grows in a folder beside its place, is verified there, gets a marker that says what it is,
and takes its place by one rename. Beside the models lie, hidden, what is not whole yet, locks, and
how far a run is.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from glob import glob
from pathlib import Path
from typing import Any

from infbox_model.files import (
    MARKER,
    DamagedError,
    File,
    ModelError,
    check,
    require_model,
)
from infbox_model.progress import Progress

# What a run has beside a model's place until it ends: from the hub, copied, made here, and what was
# there before.
UNFINISHED = ("download", "upload", "part", "old")
SHA256_DIGITS = 64


def beside(place: Path, kind: str) -> Path:
    """Return where something of a model lies beside it, such as its ``lock``."""
    return place.with_name(f".{place.name}.{kind}")


@contextmanager
def locked(place: Path) -> Generator[None]:
    """Wait until nobody else puts a model to its place, and keep others from it.

    The lock is the kernel's own, of the kind that hosts share over NFS, and ends with the process.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with beside(place, "lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def put(
    place: Path,
    staging: Path,
    said: Mapping[str, Any],
    make: Callable[[Path], list[File]],
    *,
    again: bool = False,
) -> None:
    """Put a model to its place, unless it is there.

    Args:
        place: where it will be.
        staging: where it grows; what lies there already is left to `make`.
        said: what its marker says of it, such as source and revision.
        make: fills the staging folder and returns the files.
        again: whether a model that is there is read, and what is damaged of it made anew.

    Raises:
        ModelError: it cannot be; what there is of it stays in the staging folder.
    """
    with locked(place):
        if marker := read_marker(place):
            if not again or keep_good(place, files_of(marker), staging):
                return
        elif place.exists():
            raise ModelError(f"{place} is there and was not made here. Move it away.")
        staging.mkdir(exist_ok=True)
        files = make(staging)
        require_model(files)
        finish(staging, place, said, files)


def keep_good(place: Path, files: Iterable[File], staging: Path) -> bool:
    """Give the files of a model that are not damaged to the staging folder as well.

    Returns:
        Whether none is damaged; then there is no staging folder.
    """
    shutil.rmtree(staging, ignore_errors=True)
    good = True
    for file in files:
        try:
            check(place / file.path, file)
        except (DamagedError, OSError):
            good = False
        else:
            (staging / file.path).parent.mkdir(parents=True, exist_ok=True)
            # No copy: what is made anew is another file under the same name.
            (staging / file.path).hardlink_to(place / file.path)
    if good:
        shutil.rmtree(staging)
    return good


def finish(staging: Path, place: Path, said: Mapping[str, Any], files: Iterable[File]) -> None:
    """Say in the staging folder what it is, and move it to its place.

    Args:
        staging: folder with the whole model, on the same file system as the place.
        place: where it will be; what is there goes.
        said: what else the marker says, such as source and revision.
        files: the model's files.
    """
    listed = [vars(file) for file in files]
    marker = {
        **said,
        "bytes": sum(file["size"] for file in listed),
        "verified": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": listed,
    }
    (staging / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    # The engine runs as another user, and the libraries write some files for their owner only.
    for path in [staging, *staging.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    # The name must not outlive a power cut that the contents do not.
    os.sync()
    old = beside(place, "old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    staging.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return what a model's marker says; None where there is none."""
    try:
        marker: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder / MARKER} cannot be read: {error}. Move {folder} away."
        ) from None
    return marker


def files_of(marker: Mapping[str, Any]) -> list[File]:
    """Return the files that a marker lists."""
    return [File(**file) for file in marker["files"]]


def adopt(staging: Path, repository: str, revision: str, progress: Path) -> list[File]:
    """Verify a model that was copied, by what the hub said of it where it was downloaded.

    Args:
        staging: folder that it was copied to.
        repository: its name on the hub.
        revision: a commit.
        progress: where to write how far it is.

    Returns:
        Its files.

    Raises:
        ModelError: it is another one, nothing says what it should be, or files are damaged. Those
            were removed, so that they are copied anew.
    """
    expected = told_by_marker(staging, repository, revision) or told_by_client(staging, revision)
    if not expected:
        raise ModelError(
            "What was copied does not say what its files should be, so it cannot be verified. Copy"
            " a model's folder from a host's store, or what `hf download REPOSITORY --revision"
            " COMMIT --local-dir FOLDER` made."
        )
    damaged: list[str] = []
    verified = []
    with Progress(progress, sum(file.size for file in expected)) as counted:
        for file in expected:
            try:
                verified.append(check(staging / file.path, file, counted.add))
            except DamagedError as error:
                (staging / file.path).unlink(missing_ok=True)
                damaged.append(str(error))
    if damaged:
        raise ModelError(
            f"The copied files differ from the hub's: {'; '.join(damaged)}. Fix it at the"
            " source and run again; only these files are copied again."
        )
    remove_others(staging, verified)
    return verified


def told_by_marker(staging: Path, repository: str, revision: str) -> list[File]:
    """Return what the marker of another store says of a model's files; nothing without one.

    Raises:
        ModelError: it is of another model.
    """
    marker = read_marker(staging)
    if marker is None:
        return []
    there = (marker.get("repository"), marker.get("revision"))
    if there != (repository, revision):
        raise ModelError(
            f"What was copied is {there[0]} at {there[1]}, and {repository} at {revision} is"
            " wanted. Give the right folder, or another preset."
        )
    return files_of(marker)


def told_by_client(staging: Path, revision: str) -> list[File]:
    """Return what the hub's client noted beside files that it downloaded; else nothing.

    Raises:
        ModelError: a file is of another commit.
    """
    notes = staging / ".cache" / "huggingface" / "download"
    files = []
    for note in sorted(notes.rglob("*.metadata")):
        path = str(note.relative_to(notes).with_suffix(""))
        commit, etag, *_ = note.read_text(encoding="utf-8").split()
        if commit != revision:
            raise ModelError(f"{path} is of commit {commit}, and {revision} is wanted.")
        size = (staging / path).stat().st_size if (staging / path).is_file() else -1
        # The hub's tag of a large file is its SHA-256, that of a small one git's id.
        kind = "sha256" if len(etag) == SHA256_DIGITS else "blob"
        files.append(File(path, size, **{kind: etag}))
    return files


def remove_others(folder: Path, files: Iterable[File]) -> None:
    """Remove what a folder holds beside a model's files."""
    wanted = {folder / file.path for file in files}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in wanted:
            path.unlink()


def verify(store: Path, progress: Path) -> list[str]:
    """Read every file of every model and compare it with its marker.

    Args:
        store: folder of all models.
        progress: where to write how far it is.

    Returns:
        What is damaged, one a line; nothing where all is well.
    """
    markers = {folder: read_marker(folder) for folder in folders(store)}
    models = {folder: files_of(marker) for folder, marker in markers.items() if marker}
    damaged = []
    with Progress(
        progress, sum(file.size for files in models.values() for file in files)
    ) as counted:
        for folder, files in models.items():
            for file in files:
                try:
                    check(folder / file.path, file, counted.add)
                except (DamagedError, OSError) as error:
                    damaged.append(f"{folder}: {error}")
    return damaged


def folders(store: Path) -> list[Path]:
    """Return the folders of models in a store, whole or not."""
    return sorted(
        path for path in store.glob("*") if path.is_dir() and not path.name.startswith(".")
    )


def unfinished(store: Path) -> list[Path]:
    """Return what interrupted runs left in a store."""
    return sorted(path for kind in UNFINISHED for path in store.glob(f".*.{kind}") if path.is_dir())


def used(store: Path, names: Iterable[str], patterns: Iterable[str]) -> dict[str, list[str]]:
    """Return which models are named in which files.

    Args:
        store: folder of all models.
        names: of the models.
        patterns: of files that name the models in use by their paths.
    """
    paths = sorted({path for pattern in patterns for path in glob(pattern)})  # noqa: PTH207
    texts = {path: Path(path).read_text(encoding="utf-8", errors="replace") for path in paths}
    return {
        # A name may be the beginning of another one.
        name: [
            path
            for path, text in texts.items()
            if re.search(re.escape(str(store / name)) + r"(?![\w-])", text)
        ]
        for name in names
    }


def catalogue(store: Path, patterns: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return what is in a store.

    Args:
        store: folder of all models.
        patterns: of files that name the models in use by their paths.

    Returns:
        An entry a model with ``name``, ``source``, ``repository``, ``revision``, ``bytes``,
        ``verified`` and ``used_by``; what interrupted runs left has the source ``unfinished``.
    """
    names = [folder.name for folder in folders(store)]
    using = used(store, names, patterns)
    entries = []
    for name in names:
        marker = read_marker(store / name) or {"source": "unknown"}
        entries.append(entry(store / name, marker, using[name]))
    return entries + [entry(folder, {"source": "unfinished"}, []) for folder in unfinished(store)]


def entry(folder: Path, marker: Mapping[str, Any], users: list[str]) -> dict[str, Any]:
    """Return what is to say of one folder of a store."""
    said = {key: marker.get(key, "") for key in ("source", "repository", "revision", "verified")}
    # What markers of before did not say.
    when = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    verified = said["verified"] or (when.isoformat(timespec="seconds") if "files" in marker else "")
    size = marker.get("bytes") or sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file()
    )
    return {"name": folder.name, **said, "verified": verified, "bytes": size, "used_by": users}


def prune(
    store: Path, keep: Iterable[str], patterns: Iterable[str], *, pretend: bool
) -> list[dict[str, Any]]:
    """Remove the models that nothing uses, and what interrupted runs left.

    Args:
        store: folder of all models.
        keep: names of models that stay whether something uses them or not.
        patterns: of files that name the models in use by their paths.
        pretend: only say what would go.

    Returns:
        The entries of what goes.
    """
    kept = set(keep)
    going = []
    for found in catalogue(store, patterns):
        # What was not made here is not ours to remove.
        if found["name"] in kept or found["used_by"] or found["source"] == "unknown":
            continue
        if pretend or remove(store / found["name"]):
            going.append(found)
    return going


def remove(folder: Path) -> bool:
    """Remove a model or what a run left of one, unless a run is at work on it.

    Returns:
        Whether it was removed.
    """
    name = folder.name
    for kind in UNFINISHED:
        if name.startswith(".") and name.endswith(f".{kind}"):
            name = name[1 : -len(kind) - 1]
    with beside(folder.with_name(name), "lock").open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        # Nobody takes a half-removed model for a whole one.
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)
    return True
