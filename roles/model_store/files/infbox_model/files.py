"""The files of a model, and whether they are what the hub says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

MARKER = "infbox-model.json"
CHUNK = 4 * 1024 * 1024


class ModelError(Exception):
    """The model cannot be put there; the message says what to do."""


class DamagedError(ModelError):
    """A file is not what the hub says."""


@dataclass(frozen=True)
class File:
    """A file of a model.

    Attributes:
        path: relative to the model's folder.
        size: bytes.
        sha256: hexadecimal digits; empty where it is not known.
        blob: git's id of the contents, in hexadecimal digits; empty where it is not known. The hub
            tells it of small files, and the SHA-256 of large ones.
    """

    path: str
    size: int
    sha256: str = ""
    blob: str = ""


def nothing(_count: int) -> None:
    """Hear of so many bytes and do nothing."""


def sha256(path: Path, tell: Callable[[int], None] = nothing) -> str:
    """Return the SHA-256 of a file as hexadecimal digits.

    Args:
        path: the file.
        tell: told of every so many bytes that were read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            tell(len(chunk))
    return digest.hexdigest()


def blob_id(path: Path) -> str:
    """Return the id that git gives the contents of a small file."""
    contents = path.read_bytes()
    header = f"blob {len(contents)}\0".encode()
    return hashlib.sha1(header + contents, usedforsecurity=False).hexdigest()


def check(path: Path, expected: File, tell: Callable[[int], None] = nothing) -> File:
    """Compare a file with what it should be.

    Args:
        path: where it is.
        expected: the file, as it should be.
        tell: told of every so many bytes that were read.

    Returns:
        The file with its SHA-256.

    Raises:
        DamagedError: it is missing, or has another size or another hash.
    """
    if not path.is_file():
        raise DamagedError(f"{expected.path} is missing")
    if (size := path.stat().st_size) != expected.size:
        raise DamagedError(f"{expected.path} has {size} bytes in place of {expected.size}")
    if expected.blob and (found := blob_id(path)) != expected.blob:
        raise DamagedError(f"{expected.path} has the git id {found} in place of {expected.blob}")
    found = sha256(path, tell)
    if expected.sha256 and found != expected.sha256:
        raise DamagedError(f"{expected.path} has the SHA-256 {found} in place of {expected.sha256}")
    return replace(expected, sha256=found)


def files_below(folder: Path) -> list[File]:
    """Return the files of a model, hashed, in order of their paths."""
    return [
        File(str(path.relative_to(folder)), path.stat().st_size, sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER
    ]


def require_model(files: Iterable[File]) -> None:
    """Make sure that files are those of a model that the engine can load.

    Raises:
        ModelError: something that each model has is missing, or a path leaves the folder.
    """
    paths = {file.path for file in files}
    for path in paths:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ModelError(
                f"This model has a file {path}, outside of its folder. Choose another."
            )
    for what, there in (
        ("config.json", "config.json" in paths),
        ("*.safetensors", any(path.endswith(".safetensors") for path in paths)),
        ("tokenizer.json", "tokenizer.json" in paths),
    ):
        if not there:
            raise ModelError(f"This model has no {what}. Choose one that has.")
