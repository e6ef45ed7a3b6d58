"""What stands in on macOS and Windows for what only Linux has; it works on any system."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from infbox.tree import files, processes
from infbox.tree.files import Tree
from trees import fill


@pytest.fixture
def _by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_lies_at", files._leads_to)


@pytest.mark.usefixtures("_by_path")
def test_a_file_is_read_where_it_lies_and_not_through_a_link(tmp_path: Path) -> None:
    root = fill(tmp_path / "tree", {"a.py": "a\n", "real/b.py": "b\n"})
    fill(tmp_path, {"outside/c.py": "c\n"})
    (root / "link.py").symlink_to(root / "a.py")
    (root / "inner").symlink_to(root / "real")
    (root / "outer").symlink_to(tmp_path / "outside")
    tree = Tree(root)
    found = {path: tree.read(path) for path in ("a.py", "real/b.py")}
    assert [content.data for content in found.values() if content] == [b"a\n", b"b\n"]
    for path in ("link.py", "inner/b.py", "outer/c.py"):
        assert tree.read(path) is None, path


@pytest.mark.usefixtures("_by_path")
def test_a_directory_swapped_for_a_link_and_back_while_it_is_read_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "tree", {"d/a.py": "mine\n"})
    fill(tmp_path, {"outside/a.py": "not mine\n"})
    original = os.open

    def swapping(path: str, flags: int) -> int:
        (root / "d").rename(root / "away")
        (root / "d").symlink_to(tmp_path / "outside")
        try:
            return original(path, flags)
        finally:
            (root / "d").unlink()
            (root / "away").rename(root / "d")
            monkeypatch.setattr("os.open", original)

    tree = Tree(root)
    _ = tree.rules
    monkeypatch.setattr("os.open", swapping)
    assert tree.read("d/a.py") is None


@pytest.fixture
def talking() -> Iterator[Popen[bytes]]:
    """A process that says a word for each line that it is given, but for the line "hang"."""
    program = "import os, sys, time\nfor line in sys.stdin:\n"
    program += "    time.sleep(60 * (line == 'hang\\n')); os.write(1, b'word\\n')\n"
    process = processes.started([sys.executable, "-c", program], {**os.environ}, buffer_bytes=0)
    yield process
    processes.end(process)


def test_a_process_that_says_nothing_in_time_is_killed_where_a_pipe_cannot_be_waited_for(
    talking: Popen[bytes],
) -> None:
    assert talking.stdin
    talking.stdin.write(b"go\n")
    assert processes._read_or_kill(talking, 100, 30.0) == b"word\n"
    talking.stdin.write(b"hang\n")
    assert processes._read_or_kill(talking, 100, 0.2) is None
    assert talking.wait(20) != 0


def test_a_process_that_ended_says_nothing(talking: Popen[bytes]) -> None:
    assert talking.stdin
    talking.stdin.close()
    assert processes._read_or_kill(talking, 100, 30.0) == b""
