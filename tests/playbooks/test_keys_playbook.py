"""playbooks/keys.yml with the real command, on this machine as one host, or as two replicas.

Replicas have the same paths: each sees a directory of its own there, by a mount that no other sees.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from infbox.auth import keys
from infbox.auth.keyring import Keyring
from infbox.auth.keys import Limits

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).with_name("infbox-keys")
HOSTS = ("one", "two")
CAN_MOUNT = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)

mounts = pytest.mark.skipif(
    CAN_MOUNT.returncode != 0, reason="a mount of one's own needs root's rights"
)


class Hosts:
    """Two hosts that are this machine.

    Args:
        folder: for all that they have.
        are_replicas: whether the keys of the first are valid for both.
    """

    def __init__(self, folder: Path, *, are_replicas: bool) -> None:
        self.folder = folder
        self.at = folder / "at"
        self.at.mkdir()
        for host in HOSTS:
            for name in ("secrets/api-keys", "keys", "caddy/replicas", "watcher/venv/bin"):
                (folder / host / name).mkdir(parents=True)
            (folder / host / "watcher/venv/bin/infbox-keys").symlink_to(PROGRAM)
            self.ring(host).apply({"alice": Limits(), "bob": Limits()})
            python = folder / f"python-{host}"
            python.write_text(
                f"#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {folder / host} {self.at} &&"
                f' exec {sys.executable} "$@"\' sh "$@"\n'
            )
            python.chmod(0o755)
        (folder / "one/caddy/replicas/group.crt").touch()
        variables = {
            "ansible_connection": "local",
            "ansible_become": False,
            "infbox_replicas": are_replicas,
            "infbox_users": ["alice", "bob"],
            "watcher_install_dir": str(self.at / "watcher"),
            "watcher_secrets_dir": str(self.at / "secrets"),
            "watcher_keys_dir": str(self.at / "keys"),
            "caddy_data_dir": str(self.at / "caddy"),
        }
        hosts = {
            host: {"ansible_python_interpreter": str(folder / f"python-{host}")} for host in HOSTS
        }
        self.inventory = {"inference": {"hosts": hosts, "vars": variables}}
        self.without()

    def without(self, away: str = "") -> None:
        """Have all hosts reachable but one."""
        inventory = json.loads(json.dumps(self.inventory))
        if away:
            nobody = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
            inventory["inference"]["hosts"][away] |= nobody
        (self.folder / "hosts.yml").write_text(json.dumps(inventory))

    def ring(self, host: str) -> Keyring:
        return Keyring(
            self.folder / host / "secrets/api-keys", self.folder / host / "keys/users.json"
        )

    def play(self, *arguments: str) -> tuple[int, str]:
        """Run the playbook; return its status and what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "--inventory",
             self.folder / "hosts.yml", ROOT / "playbooks/keys.yml", "-vv", "--diff", *arguments],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert "sk-infbox" not in said
        return done.returncode, said

    def labels(self, host: str) -> dict[str, list[str]]:
        """Return the labels of each user's keys that a host lets in."""
        known = keys.known_users(self.folder / host / "keys/users.json")
        return {
            user: [label for label, key in each.keys.items() if not key.disabled]
            for user, each in known.items()
        }

    def valid(self, host: str) -> set[str]:
        """Return the digests of the keys that a host lets in."""
        users = keys.read(self.folder / host / "keys/users.json")
        return {digest for digest, user in users.items() if not user.is_disabled}

    def everything(self) -> dict[Path, bytes]:
        return {
            path: path.read_bytes() for path in self.folder.glob("*/[sk]*/**/*") if path.is_file()
        }


@pytest.fixture
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Hosts:
    return Hosts(tmp_path, are_replicas=request.param)


@mounts
@pytest.mark.parametrize("hosts", [False], indirect=True)
def test_a_key_is_made_on_each_host_and_with_check_on_none(hosts: Hosts) -> None:
    before = hosts.everything()
    add = ("-e", "action=add", "-e", "user=alice", "-e", "label=laptop", "-e", "expires=2099-01-31")
    status, said = hosts.play(*add, "--check")
    assert (status, said.count("- alice/laptop would get a key, in ")) == (0, 2), said
    assert hosts.everything() == before
    status, said = hosts.play(*add)
    assert (status, said.count("- alice/laptop has a key, in ")) == (0, 2), said
    assert "changed=1 " in said
    made = [hosts.folder / host / "secrets/api-keys/_labelled/alice@laptop" for host in HOSTS]
    assert made[0].read_text() != made[1].read_text()
    status, said = hosts.play()
    assert (status, said.count("- '  laptop, made ")) == (0, 2), said
    assert ", until 2099-01-31" in said
    assert "changed=0 " in said


@mounts
@pytest.mark.parametrize("hosts", [False], indirect=True)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"action": "add", "user": "../alice"}, 'user "../alice". Give -e action= with one of add'),
        ({"action": "disable", "user": "alice/laptop", "expires": "2099-01-31"}, "only a new key"),
    ],
)
def test_what_cannot_be_meant_is_refused(hosts: Hosts, given: dict[str, str], words: str) -> None:
    before = hosts.everything()
    status, said = hosts.play("-e", json.dumps(given))
    assert status
    assert words in " ".join(said.split())
    assert hosts.everything() == before


@mounts
@pytest.mark.parametrize("hosts", [True], indirect=True)
def test_replicas_have_the_keys_of_one(hosts: Hosts) -> None:
    # The other was away when this key was disabled.
    hosts.ring("one").disable("bob", "default")
    status, said = hosts.play("-e", "action=add", "-e", "user=alice/laptop")
    assert status == 0, said
    texts = [(hosts.folder / host / "keys/users.json").read_text() for host in HOSTS]
    assert texts[0] == texts[1]
    assert hosts.labels("two") == {"alice": ["default", "laptop"], "bob": []}
    assert not (hosts.folder / "two/secrets/api-keys/_labelled/alice@laptop").exists()
    assert not (hosts.folder / "two/secrets/api-keys/bob").exists()
    status, said = hosts.play("-e", "action=add", "-e", "user=bob/ci", "--limit", "two")
    assert status
    assert "two has the keys of one, which --limit leaves out" in " ".join(said.split())
    status, said = hosts.play("-e", "action=disable", "-e", "user=alice/laptop")
    assert status == 0, said
    assert [hosts.labels(host)["alice"] for host in HOSTS] == [["default"]] * 2


@mounts
@pytest.mark.parametrize("hosts", [True], indirect=True)
def test_no_key_comes_back_from_a_replica_that_was_away_when_it_ended(hosts: Hosts) -> None:
    # Both know the certificate; the one that will be away is the first.
    (hosts.folder / "two/caddy/replicas/group.crt").touch()
    for label in ("laptop", "ci", "old"):
        hosts.ring("one").add("alice", label)
    for name in ("secrets", "keys"):
        shutil.copytree(
            hosts.folder / "one" / name, hosts.folder / "two" / name, dirs_exist_ok=True
        )
    before = hosts.valid("one")
    assert hosts.valid("two") == before
    hosts.without("one")
    status, said = hosts.play("-e", "action=disable", "-e", "user=alice/laptop")
    assert status, "one host was not changed"
    assert "one was not changed and still has its previous keys" in " ".join(said.split())
    assert "make keys SYNC=1" in " ".join(said.split())
    hosts.ring("two").rotate_all("alice")
    hosts.ring("two").remove("alice", "old")
    hosts.ring("two").revoke("bob")
    ended = before - hosts.valid("two")
    assert (len(before), len(ended), hosts.valid("one")) == (5, 5, before)
    # Meanwhile somebody ends a key on the one that is away.
    hosts.ring("one").add("alice", "here")
    (here,) = hosts.valid("one") - before
    hosts.ring("one").disable("alice", "here")
    hosts.without()
    status, said = hosts.play("-e", "action=sync")
    assert status == 0, said
    for host in HOSTS:
        assert not hosts.valid(host) & {*ended, here}
    assert hosts.valid("one") == hosts.valid("two")
    assert set(hosts.labels("two")["alice"]) == {"default", "ci"}
    assert "bob" not in hosts.labels("one")
    status, said = hosts.play("-e", "action=sync")
    assert status == 0, said
    assert said.count("changed=0 ") == 2, said


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "playbooks/keys.yml"),
        (
            ["ADD=alice", "LABEL=laptop", "EXPIRES=2027-01-31"],
            "playbooks/keys.yml -e action=add -e user=alice -e label=laptop -e expires=2027-01-31",
        ),
        (
            ["DISABLE=alice/laptop", "ARGS=--check"],
            "playbooks/keys.yml -e action=disable -e user=alice/laptop --check",
        ),
        (["SYNC=1"], "playbooks/keys.yml -e action=sync"),
        (["ROTATE=alice", "REVOKE=bob"], "Give one of ROTATE REVOKE, not all"),
    ],
)
def test_make_keys_calls_the_playbook(given: list[str], told: str) -> None:
    # `make test` runs this: a make inside a make would also print which directory it enters.
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "keys", *given],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    said = " ".join((done.stdout + done.stderr).replace("\\\n", " ").replace("'", "").split())
    assert told in said
    assert (done.returncode == 0) == ("Give" not in told)
    assert given or said.endswith(told)
