"""A key that ended on one replica ends on all of them, whichever could be reached."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from infbox.auth import keys, record
from infbox.auth.keyring import Keyring
from infbox.auth.keys import Limits
from infbox.auth.labels import DIRECTORY, digest
from infbox.errors import InputError
from key_ring import Ring

HOSTS = 3
USERS = {"alice": Limits(), "bob": Limits()}
LABELS = ("default", "laptop", "ci")
ACTIONS = ("add", "disable", "rotate", "remove", "revoke")


def of(ring: Ring) -> record.Record:
    return record.read(ring.folder / DIRECTORY)


def valid(ring: Ring) -> set[str]:
    """Return the digests of the keys that let somebody in."""
    users = keys.read(ring.digests)
    return {each for each, user in users.items() if not user.is_disabled}


def copy(source: Ring, to: Ring) -> None:
    """Copy keys as roles/watcher/tasks/shared_keys.yml does."""
    known = keys.known_users(source.digests)
    (to.folder / DIRECTORY).mkdir(exist_ok=True)
    shutil.copy(source.folder / DIRECTORY / "_keys.json", to.folder / DIRECTORY)
    for user in known:
        if (source.folder / user).is_file():
            shutil.copy(source.folder / user, to.folder)
    to.ring.copy(USERS, known)


def sync(rings: list[Ring]) -> None:
    """Do what the playbook does with the replicas that it reaches."""
    records = [of(ring) for ring in rings]
    source = max(rings, key=lambda ring: of(ring).revision)
    source.ring.merge(records)
    for ring in rings:
        if ring is not source:
            copy(source, ring)


@pytest.fixture
def rings(tmp_path: Path) -> list[Ring]:
    """Replicas with the same keys."""
    first = tmp_path / "0"
    first.mkdir()
    rings = [Ring(first)]
    rings[0].ring.apply(USERS)
    for label in LABELS[1:]:
        rings[0].ring.add("alice", label)
    for number in range(1, HOSTS):
        shutil.copytree(first, tmp_path / str(number))
        ring = object.__new__(Ring)
        ring.folder = tmp_path / str(number) / "api-keys"
        ring.digests = tmp_path / str(number) / "served/users.json"
        ring.ring = Keyring(ring.folder, ring.digests)
        rings.append(ring)
    return rings


def end(ring: Ring, how: str, label: str) -> None:
    if how == "revoke":
        ring.ring.revoke("alice")
    else:
        getattr(ring.ring, how)("alice", label)


@pytest.mark.parametrize("how", ["disable", "rotate", "remove", "revoke"])
@pytest.mark.parametrize("label", LABELS[:2])
def test_what_ended_on_one_is_ended_on_another_by_its_record(
    rings: list[Ring], how: str, label: str
) -> None:
    if (how, label) == ("remove", "default"):
        pytest.skip("is refused")
    one, other, _ = rings
    before = valid(one)
    end(one, how, label)
    ended = before - valid(one)
    assert ended
    assert valid(other) == before
    assert other.ring.merge([of(one)], is_dry=True)
    assert valid(other) == before
    assert other.ring.merge([of(one)])
    assert valid(other) == before - ended
    assert not other.ring.merge([of(one)])
    # Nor does it come back by a file, as from a release that knows no records.
    other.ring.apply(USERS)
    assert not valid(other) & ended
    text = other.digests.read_text()
    assert not other.ring.apply(USERS).changed
    assert other.digests.read_text() == text


@pytest.mark.parametrize("seed", range(10))
def test_no_key_comes_back_whichever_replica_is_away(rings: list[Ring], seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    ended: set[str] = set()
    for _ in range(12):
        there = rng.sample(rings, rng.randint(1, HOSTS))
        if rng.random() < 0.7:
            sync(there)
            assert len({frozenset(valid(ring)) for ring in there}) == 1
        at = max(there, key=lambda ring: of(ring).revision)
        before = valid(at)
        how, label = rng.choice(ACTIONS), rng.choice(LABELS)
        try:
            end(at, how, label)
        except InputError:
            at.ring.apply(USERS)
        ended |= before - valid(at)
        assert not valid(at) & (ended - before)
    sync(rings)
    assert ended
    for ring in rings:
        assert not valid(ring) & ended
        assert valid(ring) == valid(rings[0])


def test_who_missed_a_change_has_an_earlier_record(rings: list[Ring]) -> None:
    one, other, _ = rings
    for how, label in (("rotate", "default"), ("disable", "ci"), ("add", "ci"), ("revoke", "")):
        end(one, how, label)
        assert of(one).revision > of(other).revision
        copy(one, other)
        assert of(one) == of(other)


def test_limits_and_runs_that_change_nothing_make_no_later_record(rings: list[Ring]) -> None:
    ring = rings[0]
    before = of(ring)
    ring.ring.apply({**USERS, "bob": Limits(requests_per_minute=5)})
    assert of(ring) == before
    ring.ring.apply({"alice": Limits()})
    assert of(ring).revision == before.revision + 1


def test_a_key_that_is_written_back_by_hand_is_valid_where_no_replica_ended_it(
    rings: list[Ring],
) -> None:
    ring, key = rings[0], rings[0].key("bob")
    ring.ring.rotate("bob")
    copy(ring, rings[1])
    (ring.folder / "bob").write_text(key)
    ring.ring.apply(USERS)
    assert digest(key) in valid(ring)
    assert digest(key) not in of(ring).ended
    assert not ring.ring.merge([of(ring)])
    assert digest(key) in valid(ring)
    sync(rings)
    assert not any(digest(key) in valid(each) for each in rings)


def test_what_serves_may_be_damaged_and_nothing_that_ended_comes_back(rings: list[Ring]) -> None:
    one, other, _ = rings
    key = one.key("bob")
    one.ring.rotate("bob")
    other.digests.write_text("{")
    assert other.ring.merge([of(one)])
    assert other.digests.read_text() == "{"
    other.ring.apply(USERS)
    assert digest(key) not in valid(other)
    assert digest(other.key("alice")) in valid(other)


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    days = {digest(str(day)): f"2020-01-{day:02}" for day in range(1, 31)}
    many = [digest(f"key {number}") for number in range(record.MOST_ENDED - 5)]
    kept = record.Record({}, 1, days).with_ended(many).ended
    assert len(kept) == record.MOST_ENDED
    assert {day for day in kept.values() if day.startswith("2020")} == {
        f"2020-01-{day}" for day in range(26, 31)
    }


@pytest.mark.parametrize(
    "given",
    ["", "{}", "[[]]", '[{"users": {}, "revision": "9"}]', '[{"users": {}, "revision": -1}]',
     '[{"users": {}, "ended": {"x": "2027-01-31"}}]', '[{"users": {}, "ended": [1]}]'],
)  # fmt: skip
def test_a_record_of_another_host_that_is_none_is_refused(rings: list[Ring], given: str) -> None:
    before = rings[0].digests.read_text()
    done = rings[0].run("merge", given=given)
    if given == "{}":
        assert json.loads(done.stdout) == {"changed": False}
    else:
        assert done.returncode == 2
        assert "give a list of records as JSON" in done.stderr
    assert rings[0].digests.read_text() == before
