"""Several keys of a user: real files, the command, a real server."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from infbox.auth import keys, labels, record
from infbox.auth.key_service import KeyService
from infbox.auth.keyring import Keyring
from infbox.auth.keys import Limits
from infbox.errors import InputError
from key_ring import Ring, ask, bearer, mode
from serving import get_text, serving

TODAY = datetime.now(timezone.utc).date()
LATER = (TODAY + timedelta(days=30)).isoformat()


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    ring = Ring(tmp_path)
    ring.apply("alice", "bob", requests_per_minute=100)
    return ring


@pytest.fixture
def url(ring: Ring) -> Iterator[str]:
    with serving(KeyService(ring.digests).app()) as url:
        yield url


def add(ring: Ring, user: str = "alice", label: str = "laptop", expires: str = "") -> str:
    return ring.ring.add(user, label, expires).read_text().strip()


def status(url: str, key: str) -> int:
    return ask(url, bearer(key))[0]


def told(url: str, key: str) -> str:
    return str(ask(url, bearer(key))[2]["error"]["message"])


def everything(ring: Ring) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in ring.folder.parent.rglob("*") if path.is_file()
    }


def test_a_user_has_several_keys_and_is_one_user_by_each(ring: Ring, url: str) -> None:
    known = [ring.key("alice"), add(ring), add(ring, label="ci")]
    assert len(set(known)) == 3
    assert re.fullmatch(r"sk-infbox-[0-9a-f]{64}", known[1])
    for key in known:
        assert ask(url, bearer(key))[1]["x-infbox-user"] == "alice"
    ring.apply("alice", "bob", requests_per_minute=3)
    assert [status(url, key) for key in known] == [429] * 3, "one limit for all keys of a user"


def test_keys_with_labels_are_known_by_digest_and_only_root_reads_them(ring: Ring) -> None:
    key = add(ring)
    held = ring.folder / "_labelled"
    assert (mode(held), mode(held / "alice@laptop")) == (0o700, 0o600)
    assert mode(held / "_keys.json") == 0o600
    for file in (held / "_keys.json", ring.digests):
        assert key not in file.read_text()
        assert labels.digest(key) in file.read_text()


def test_a_key_is_valid_without_its_file_and_another_run_changes_nothing(
    ring: Ring, url: str
) -> None:
    key = add(ring)
    (ring.folder / "_labelled/alice@laptop").unlink()
    before = everything(ring)
    assert not ring.apply("alice", "bob", requests_per_minute=100).changed
    assert everything(ring) == before
    assert status(url, key) == 200


def test_without_labels_the_files_are_those_of_releases_that_know_none(ring: Ring) -> None:
    assert sorted(path.name for path in ring.folder.iterdir()) == ["alice", "bob"]
    entry = json.loads(ring.digests.read_text())["users"]["alice"]
    assert entry.keys() == {"sha256", *Limits._fields}


def test_releases_that_know_no_labels_have_the_default_key_alone(ring: Ring) -> None:
    """They read these fields, and remove unknown files of the directory."""
    add(ring)
    default, known = labels.digest(ring.key("alice")), labels.digest(ring.key("bob"))
    ring.ring.disable("bob", "default")
    entries = json.loads(ring.digests.read_text())["users"]
    assert entries["alice"].keys() >= {"sha256", *Limits._fields}
    assert entries["alice"]["sha256"] == default
    assert not re.fullmatch("[0-9a-f]{64}", entries["bob"]["sha256"])
    assert entries["bob"]["sha256"] != known
    assert [path.name for path in ring.folder.iterdir() if path.is_file()] == ["alice"]


@pytest.mark.parametrize("label", ["default", "laptop"])
def test_a_disabled_key_ends_at_once_and_stays_disabled(ring: Ring, url: str, label: str) -> None:
    add(ring)
    file = ring.folder / ("alice" if label == "default" else "_labelled/alice@laptop")
    key, others = file.read_text().strip(), [ring.key("bob"), add(ring, label="ci")]
    assert status(url, key) == 200
    ring.ring.disable("alice", label)
    name = "alice" if label == "default" else "alice/laptop"
    assert (status(url, key), told(url, key)) == (401, f"The API key of {name} is disabled.")
    assert ask(url, bearer(key), path="/login")[0] == 401
    assert 'result="disabled",user="alice"} 2.0' in get_text(f"{url}/metrics")
    assert not file.exists()
    # As a release that knows no labels, or a replica that was away, leaves it.
    for left in (key, "sk-infbox-" + "0" * 64):
        file.write_text(left)
        ring.apply("alice", "bob", requests_per_minute=100)
        assert not file.exists()
        assert status(url, left) == 401
    assert [status(url, other) for other in others] == [200, 200]
    with pytest.raises(InputError, match=f"alice/{label}: is disabled: add it again"):
        ring.ring.rotate("alice", label)
    ring.ring.disable("alice", label)
    assert status(url, add(ring, label=label)) == 200
    assert status(url, key) == 401


def test_a_default_key_whose_file_went_elsewhere_ends_when_it_is_told_to(
    ring: Ring, url: str
) -> None:
    alice, bob = ring.key("alice"), ring.key("bob")
    for user in ("alice", "bob"):
        (ring.folder / user).unlink()
    laptop = add(ring)
    assert [status(url, key) for key in (alice, bob, laptop)] == [200] * 3
    ring.ring.disable("alice", "default")
    ring.ring.rotate("bob")
    assert [status(url, key) for key in (alice, bob, laptop)] == [401, 401, 200]
    assert status(url, ring.key("bob")) == 200
    ring.apply("alice", "bob")
    assert [status(url, key) for key in (alice, bob, laptop)] == [401, 401, 200]


def test_a_removed_key_ends_and_is_forgotten(ring: Ring, url: str) -> None:
    key = add(ring)
    ring.ring.remove("alice", "laptop")
    assert told(url, key) == "Incorrect or missing API key."
    assert "laptop" not in ring.run("list").stdout
    with pytest.raises(InputError, match="alice/default: cannot be removed: disable it"):
        ring.ring.remove("alice", "default")


def test_one_key_is_rotated_or_all(ring: Ring, url: str) -> None:
    default, laptop = ring.key("alice"), add(ring, expires=LATER)
    ring.ring.rotate("alice", "laptop")
    now = (ring.folder / "_labelled/alice@laptop").read_text().strip()
    assert [status(url, key) for key in (default, laptop, now)] == [200, 401, 200]
    assert record.read(ring.folder / "_labelled").labelled["alice"]["laptop"].expires == LATER
    off = add(ring, label="off")
    ring.ring.disable("alice", "off")
    said = ring.run("rotate", "--all", "alice")
    assert said.stdout.count("alice has another key") == 2, said.stderr
    assert [status(url, key) for key in (default, now, off)] == [401, 401, 401]
    assert status(url, ring.key("alice")) == 200
    assert status(url, (ring.folder / "_labelled/alice@laptop").read_text().strip()) == 200


@pytest.mark.parametrize("of_user", ["", "2027-01-31", "2027-02-28"])
@pytest.mark.parametrize("of_key", ["2027-01-31", "2027-03-31"])
def test_a_key_ends_with_its_own_last_day_or_its_user_s(
    ring: Ring, url: str, monkeypatch: pytest.MonkeyPatch, of_user: str, of_key: str
) -> None:
    monkeypatch.setattr(labels, "today", lambda: date(2027, 1, 1))
    ring.apply("alice", expires=of_user)
    key = add(ring, expires=of_key)
    last = min(of_user or of_key, of_key)
    for days, is_good in ((0, True), (1, False)):
        today = date.fromisoformat(last) + timedelta(days=days)
        monkeypatch.setattr(labels, "today", lambda today=today: today)
        assert (status(url, key) == 200) == is_good
    assert told(url, key) == f"The API key of alice/laptop expired on {last} (UTC)."
    assert (status(url, ring.key("alice")) == 200) == (not of_user or of_user > last)


def test_who_is_taken_off_the_list_or_revoked_has_no_key_left(ring: Ring, url: str) -> None:
    alice, bob = add(ring), add(ring, "bob")
    ring.apply("bob")
    assert [status(url, key) for key in (alice, bob)] == [401, 200]
    ring.ring.revoke("bob")
    assert status(url, bob) == 401
    assert [*ring.folder.glob("_labelled/*@*")] == []
    ring.apply("alice", "bob")
    assert [status(url, key) for key in (alice, bob)] == [401, 401], "a new user of that name"


def test_a_user_has_no_more_keys_than_twenty(ring: Ring) -> None:
    for number in range(labels.MOST - 1):
        add(ring, label=f"key{number}")
    with pytest.raises(InputError, match="alice: has 20 keys, and no user may have more: remove"):
        add(ring, label="one-more")
    ring.ring.disable("alice", "key0")
    add(ring, label="key0")
    add(ring, "bob")
    ring.ring.remove("alice", "key1")
    add(ring, label="one-more")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("add alice", "alice: give a user and a label, as alice/laptop"),
        ("add alice/", "alice/: '' is not a label"),
        ("add alice/../bob", "'../bob' is not a label: use up to 32 lower-case letters"),
        ("add alice/Laptop", "'Laptop' is not a label"),
        (f"add alice/{'x' * 33}", "is not a label"),
        ("add alice/_keys.json", "is not a label"),
        ("add carol/laptop", "carol: no such user: there are alice, bob"),
        ("add alice/default", "alice/default: already exists: rotate it"),
        ("add alice/laptop --expires soon", "alice/laptop: expires: must be a day as 2027-01-31"),
        ("add alice/laptop --expires 2027-02-30", "expires: 2027-02-30 is not a date"),
        (
            "add alice/laptop --expires 2020-01-31",
            "expires: 2020-01-31 is in the past: give today or",
        ),
        ("rotate alice/laptop", "alice/laptop: no such key: alice has default"),
        ("rotate alice/laptop --all", "--all takes a user: leave out the label"),
        ("rotate alice --expires 2999-01-31", "alice/default: has no last day of its own: set"),
        ("disable alice", "give a user and a label"),
        ("disable alice/laptop", "alice/laptop: no such key: alice has default"),
        ("remove alice/laptop", "alice/laptop: no such key: alice has default"),
    ],
)
def test_what_is_no_key_is_refused_by_name_and_nothing_changes(
    ring: Ring, command: str, words: str
) -> None:
    before = everything(ring)
    done = ring.run(*command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert everything(ring) == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("add alice/ci", "alice/ci would get a key, in "),
        ("rotate alice", "alice would get another key, in "),
        ("rotate --all alice", "_labelled/alice@laptop.\n"),
        ("disable alice/laptop", "The key alice/laptop would be disabled.\n"),
        ("disable alice/default", "The key alice/default would be disabled.\n"),
        ("remove alice/laptop", "The key alice/laptop would be removed.\n"),
        ("revoke alice", "All keys of alice would end.\n"),
    ],
)
def test_a_dry_run_says_what_would_change_and_changes_nothing(
    ring: Ring, command: str, words: str
) -> None:
    add(ring)
    before = everything(ring)
    done = ring.run(*command.split(), "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert words in done.stdout
    assert everything(ring) == before


def test_the_commands_list_the_keys_and_print_none(ring: Ring) -> None:
    said, known = "", [ring.key("alice")]
    for command in (f"add alice/laptop --expires {LATER}", "add alice/ci", "disable alice/ci"):
        done = ring.run(*command.split())
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
        known += [path.read_text().strip() for path in ring.folder.glob("_labelled/*@*")]
    listed = ring.run("list").stdout
    assert f"  laptop, made {TODAY}, until {LATER}\n" in listed
    assert f"  default\n  ci, made {TODAY}, disabled\n" in listed
    assert "alice/laptop has a key, in " in said
    assert not any(key in said + listed for key in known)
    assert not any(labels.digest(key) in said + listed for key in known)


def test_a_labelled_key_put_by_hand_as_a_default_one_is_refused(ring: Ring) -> None:
    (ring.folder / "bob").write_text(add(ring))
    with pytest.raises(InputError, match=r"api-keys/bob: holds the key of alice/laptop: remove"):
        ring.apply("alice", "bob")


@pytest.mark.parametrize("damaged", ["", "[]", '{"users": {"alice": {"laptop": {}}}}'])
def test_a_damaged_record_is_refused_and_no_key_is_lost(ring: Ring, url: str, damaged: str) -> None:
    key, record = add(ring), ring.folder / "_labelled/_keys.json"
    record.write_text(damaged)
    with pytest.raises(InputError, match=r"_keys.json: cannot be read .*: restore it from"):
        ring.apply("alice", "bob")
    assert status(url, key) == 200


@pytest.mark.parametrize("field", [*labels.Key._fields])
def test_a_file_that_leaves_out_what_is_known_of_a_key_lets_nobody_in(
    ring: Ring, url: str, field: str
) -> None:
    key = add(ring)
    content: dict[str, Any] = json.loads(ring.digests.read_text())
    del content["users"]["alice"]["keys"]["laptop"][field]
    ring.digests.write_text(json.dumps(content))
    assert status(url, key) == 401


def test_two_commands_at_once_lose_no_key(ring: Ring) -> None:
    names = [f"key{number}" for number in range(8)]

    def one(name: str) -> None:
        Keyring(ring.folder, ring.digests).add("alice", name)

    threads = [threading.Thread(target=one, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"default", *names} == keys.known_users(ring.digests)["alice"].keys.keys()


def test_where_a_key_is_looked_up_tells_nothing_of_its_digest(ring: Ring, url: str) -> None:
    """Nobody can send keys whose digests come ever closer to one that is known."""
    service, other = KeyService(ring.digests), KeyService(ring.digests)
    for each in (service, other):
        each._refresh()
    assert service._users.keys().isdisjoint(other._users)
    assert not {digest.encode() for digest in keys.read(ring.digests)} & service._users.keys()
