"""The module that keeps the API keys, as Ansible runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODULE = Path(__file__).resolve().parents[2] / "roles/caddy/library/caddy_api_keys.py"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="keys belong to root")


def keep(folder: Path, *users: str, check: bool = False) -> dict[str, Any]:
    """Run the module and return its result."""
    arguments = {
        "users": users,
        "dir": str(folder / "api-keys"),
        "file": str(folder / "keys.caddy"),
        "owner": 64431,
        "group": 64431,
        "_ansible_check_mode": check,
    }
    done = subprocess.run(
        [sys.executable, MODULE],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "api-keys").mkdir()
    return tmp_path


def mode(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mode & 0o777, status.st_uid, status.st_gid


def test_each_user_gets_a_long_key_that_only_root_reads(folder: Path) -> None:
    result = keep(folder, "alice", "bob")
    assert result["changed"]
    alice, bob = ((folder / "api-keys" / user).read_text().strip() for user in ("alice", "bob"))
    assert alice != bob
    assert len(alice) == len("sk-infbox-") + 64
    assert mode(folder / "api-keys/alice") == (0o600, 0, 0)
    assert (folder / "keys.caddy").read_text() == f"{alice} alice\n{bob} bob\n"
    assert mode(folder / "keys.caddy") == (0o400, 64431, 64431)


def test_no_key_is_in_the_result(folder: Path) -> None:
    for result in (keep(folder, "alice"), keep(folder, "alice", "bob"), keep(folder, "bob")):
        for path in (folder / "api-keys").iterdir():
            assert path.read_text().strip() not in json.dumps(result)


def test_a_second_run_changes_nothing(folder: Path) -> None:
    first = keep(folder, "bob", "alice")
    second = keep(folder, "alice", "bob")
    assert not second["changed"]
    assert second["checksum"] == first["checksum"]


def test_a_user_taken_off_the_list_loses_the_key(folder: Path) -> None:
    keep(folder, "alice", "bob")
    result = keep(folder, "alice")
    assert result["removed"] == ["bob"]
    assert [path.name for path in (folder / "api-keys").iterdir()] == ["alice"]
    assert "bob" not in (folder / "keys.caddy").read_text()


def test_a_key_put_there_by_hand_is_used_and_closed_to_others(folder: Path) -> None:
    own = folder / "api-keys" / "alice"
    own.write_text("a-key-of-our-own-0123456789-abcdefgh\n")
    own.chmod(0o644)
    assert keep(folder, "alice")["changed"]
    assert mode(own) == (0o600, 0, 0)
    assert (folder / "keys.caddy").read_text() == "a-key-of-our-own-0123456789-abcdefgh alice\n"


@pytest.mark.parametrize("key", ["", "short", "x" * 40 + " root", "y" * 40 + "\nz root"])
def test_a_key_that_cannot_be_used_is_refused_without_showing_it(folder: Path, key: str) -> None:
    (folder / "api-keys" / "alice").write_text(key)
    result = keep(folder, "alice")
    assert result["failed"]
    assert f"{folder}/api-keys/alice does not hold a key of 32 to 200 letters" in result["msg"]
    assert not key or key not in json.dumps(result)
    assert not (folder / "keys.caddy").exists()


def test_two_users_with_one_key_are_refused_by_name(folder: Path) -> None:
    for user in ("alice", "bob"):
        (folder / "api-keys" / user).write_text("x" * 40)
    result = keep(folder, "alice", "bob")
    assert "api-keys/bob holds the same key as" in result["msg"]
    assert "x" * 40 not in json.dumps(result)


def test_check_mode_tells_and_does_nothing(tmp_path: Path) -> None:
    result = keep(tmp_path, "alice", check=True)
    assert (result["changed"], result["added"]) == (True, ["alice"])
    assert list(tmp_path.iterdir()) == []
