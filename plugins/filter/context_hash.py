"""A hash of what an image is built of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def context_hash(directory: str, *more: str) -> str:
    """Hash a build context, so that it need not be built twice.

    Args:
        directory: the context, on the controller. Names, contents and execute bits count; owners
            and times do not, which differ from checkout to checkout. Links are followed, as when
            the context is copied; what Python compiles beside its sources is left out.
        more: texts that change the result too, such as the target and the arguments.

    Returns:
        SHA-256 as hexadecimal digits.
    """
    digest = hashlib.sha256()
    root = Path(directory)
    for path in _files(root):
        executable = bool(path.stat().st_mode & 0o111)
        contents = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)}\0{executable}\0{contents}\0".encode())
    for text in more:
        digest.update(f"{hashlib.sha256(text.encode()).hexdigest()}\0".encode())
    return digest.hexdigest()


def _files(root: Path) -> list[Path]:
    return sorted(
        Path(directory, name)
        for directory, _, names in os.walk(root, followlinks=True)
        if Path(directory).name != "__pycache__"
        for name in names
    )


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"context_hash": context_hash}
