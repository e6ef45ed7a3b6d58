"""Copies a model that the engine image carries, so that a host needs no model hub."""

from __future__ import annotations

import shutil
from pathlib import Path

from infbox_model.files import File, ModelError, files_below


def copy_from_image(source: Path, staging: Path) -> list[File]:
    """Copy a model out of the image that this runs in.

    Args:
        source: its folder in the image.
        staging: empty folder to write to.

    Returns:
        Its files.

    Raises:
        ModelError: the image carries no such model.
    """
    if not source.is_dir():
        there = sorted(path.name for path in source.parent.glob("*") if path.is_dir())
        raise ModelError(
            f"The engine image carries no model {source.name}; it has {', '.join(there) or 'none'}."
            " Choose another preset, or build the image anew from this release."
        )
    shutil.copytree(source, staging, dirs_exist_ok=True)
    return files_below(staging)
