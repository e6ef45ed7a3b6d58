"""The lab's own commands, against a stand-in for `docker` that fails as the real one does."""

from pathlib import Path

import pytest

from lab.shell import LabError, remove_container

_STILL_ENDING = "tried to kill container, but did not receive an exit event"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a `docker` first in PATH that says the lines of a file, one a call, then succeeds."""
    script = tmp_path / "docker"
    script.write_text(
        f"""#!/bin/sh
cd {tmp_path}
echo "$@" >> calls
test -s answers || exit 0
head -n 1 answers >&2
sed -i 1d answers
exit 1
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_a_container_whose_processes_take_long_to_end_is_removed(docker: Path) -> None:
    """The Engine gives up after ten seconds, which a busy machine needs for a whole host."""
    (docker / "answers").write_text(f"{_STILL_ENDING}\nremoval is already in progress\n")
    remove_container("host")
    assert (docker / "calls").read_text() == "rm --force --volumes host\n" * 3


def test_another_failure_to_remove_a_container_is_told_at_once(docker: Path) -> None:
    """Only a container that is ending is waited for."""
    (docker / "answers").write_text("permission denied\n")
    with pytest.raises(LabError, match="permission denied"):
        remove_container("host")
    assert (docker / "calls").read_text() == "rm --force --volumes host\n"
