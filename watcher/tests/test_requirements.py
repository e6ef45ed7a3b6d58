"""The lock of the watcher: what it names can be installed by each Python that the package takes."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

PACKAGE = Path(__file__).resolve().parents[1]
# The oldest that it takes, of Ubuntu 22.04; then those of Debian 12, Ubuntu 24.04 and Debian 13.
PYTHONS = ("3.10.12", "3.11.2", "3.12.3", "3.13.5")


def locked(python: str) -> list[Requirement]:
    """Return what the lock has that Python install on Linux."""
    lines = (PACKAGE / "requirements.txt").read_text().splitlines()
    named = [Requirement(line.rstrip("\\ ")) for line in lines if re.match(r"[A-Za-z]", line)]
    where = {
        **default_environment(),
        "sys_platform": "linux",
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
    }
    return [each for each in named if each.marker is None or each.marker.evaluate(where)]


def test_the_oldest_python_is_the_one_that_the_package_takes() -> None:
    oldest = PYTHONS[0].rpartition(".")[0]
    assert f'requires-python = ">={oldest}"' in (PACKAGE / "pyproject.toml").read_text()


@pytest.mark.parametrize("python", PYTHONS)
def test_what_is_locked_takes_that_python(python: str) -> None:
    """Of the packages that are installed here in the very version that is locked."""
    refused, seen = [], 0
    for each in locked(python):
        try:
            if version(each.name) not in each.specifier:
                continue
        except PackageNotFoundError:
            continue
        seen += 1
        takes = metadata(each.name).get("Requires-Python")
        if takes and not Requirement(f"python{takes}").specifier.contains(python):
            refused.append(f"{each.name} {each.specifier} takes {takes}")
    assert refused == []
    assert seen > 40, sys.version
