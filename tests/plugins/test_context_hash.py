"""An image is built again exactly when what it is built of changed."""

import os
from pathlib import Path

import pytest

from tests.plugins.plugin_files import load

context_hash = load("filter", "context_hash").context_hash


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "ca").mkdir()
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "ca" / "site.crt").write_text("one")
    return tmp_path


def test_nothing_changed_is_the_same_hash(context: Path) -> None:
    before = context_hash(str(context), "cpu")
    os.utime(context / "Dockerfile", (0, 0))
    assert context_hash(str(context), "cpu") == before


def test_each_change_is_another_hash(context: Path) -> None:
    hashes = [context_hash(str(context), "cpu")]
    hashes.append(context_hash(str(context), "gpu"))
    (context / "ca" / "site.crt").write_text("two")
    hashes.append(context_hash(str(context), "cpu"))
    (context / "ca" / "site.crt").rename(context / "ca" / "other.crt")
    hashes.append(context_hash(str(context), "cpu"))
    (context / "Dockerfile").chmod(0o755)
    hashes.append(context_hash(str(context), "cpu"))
    assert len(set(hashes)) == len(hashes)


def test_what_a_link_leads_to_counts_and_what_python_compiles_does_not(
    context: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    package = tmp_path_factory.mktemp("package")
    (package / "a.py").write_text("1\n")
    (context / "package").symlink_to(package)
    before = context_hash(str(context))
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    assert context_hash(str(context)) == before
    (package / "a.py").write_text("2\n")
    assert context_hash(str(context)) != before


def test_texts_do_not_run_into_each_other(context: Path) -> None:
    assert context_hash(str(context), "ab", "c") != context_hash(str(context), "a", "bc")
