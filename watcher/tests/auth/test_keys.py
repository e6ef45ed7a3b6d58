"""Keys and who asks: real files, a real server."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox import cli
from infbox.auth import keys, labels
from infbox.auth.key_service import KeyService
from infbox.errors import InputError
from key_ring import Ring, ask, bearer, mode
from serving import get_text, serving


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path)


@pytest.fixture
def url(ring: Ring) -> Iterator[str]:
    with serving(KeyService(ring.digests).app()) as url:
        yield url


def test_each_user_gets_a_long_key_that_only_its_owner_reads(ring: Ring) -> None:
    change = ring.apply("alice", "bob")
    assert change == (["alice", "bob"], [], True)
    assert ring.key("alice") != ring.key("bob")
    assert re.fullmatch(r"sk-infbox-[0-9a-f]{64}", ring.key("alice"))
    assert mode(ring.folder / "alice") == 0o600
    assert mode(ring.digests) == 0o640
    assert ring.digests.stat().st_gid == ring.digests.parent.stat().st_gid


def test_what_serves_holds_no_key(ring: Ring) -> None:
    ring.apply("alice")
    assert ring.key("alice") not in ring.digests.read_text()
    assert labels.digest(ring.key("alice")) in ring.digests.read_text()


def test_a_second_time_changes_nothing(ring: Ring) -> None:
    ring.apply("bob", "alice", requests_per_minute=5)
    before = ring.digests.stat()
    assert not ring.apply("alice", "bob", requests_per_minute=5).changed
    assert ring.digests.stat() == before
    assert ring.apply("alice", "bob", requests_per_minute=6).changed


def test_a_user_taken_off_the_list_loses_the_key(ring: Ring) -> None:
    ring.apply("alice", "bob")
    assert ring.apply("alice") == ([], ["bob"], True)
    assert [path.name for path in ring.folder.iterdir() if path.is_file()] == ["alice"]
    assert ring.ring.users().keys() == {"alice"}


def test_a_key_put_there_by_hand_is_used_and_closed_to_others(ring: Ring) -> None:
    own = ring.folder / "alice"
    own.write_text("a-key-of-our-own-0123456789-abcdefgh\n")
    own.chmod(0o644)
    assert ring.apply("alice").changed
    assert mode(own) == 0o600
    assert labels.digest("a-key-of-our-own-0123456789-abcdefgh") in keys.read(ring.digests)


@pytest.mark.parametrize("key", ["", "short", "x" * 40 + " root", "y" * 40 + "\nz root"])
def test_a_key_that_cannot_be_used_is_refused_without_showing_it(ring: Ring, key: str) -> None:
    (ring.folder / "alice").write_text(key)
    with pytest.raises(InputError, match="alice: does not hold a key of 32 to 200") as refused:
        ring.apply("alice")
    assert not key or key not in str(refused.value)
    assert not ring.digests.exists()


def test_two_users_with_one_key_are_refused_by_name(ring: Ring) -> None:
    for user in ("alice", "bob"):
        (ring.folder / user).write_text("x" * 40)
    with pytest.raises(InputError, match=r"api-keys/bob: holds the same key as .*api-keys/alice"):
        ring.apply("alice", "bob")


def test_a_dry_run_tells_and_does_nothing(ring: Ring) -> None:
    done = ring.run("apply", "--dry-run", given='{"alice": {}}')
    assert json.loads(done.stdout) == {"added": ["alice"], "removed": [], "changed": True}
    assert list(ring.folder.iterdir()) == []
    assert not ring.digests.exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "give the users as JSON"),
        ("[]", "must be a mapping"),
        ('{"Alice": {}}', "'Alice': not a user name"),
        ('{"../alice": {}}', "'../alice': not a user name"),
        ('{"alice": {"rate": 5}}', "alice: limits are requests_per_minute, concurrent_requests, t"),
        ('{"alice": {"expires": "soon"}}', "alice: expires: must be a day as 2027-01-31, not"),
        ('{"alice": {"expires": "2027-02-30"}}', "alice: expires: 2027-02-30 is not a date"),
        ('{"alice": {"expires": 20270131}}', "alice: expires: must be a day as 2027-01-31"),
        ('{"alice": {"requests_per_minute": -1}}', "alice: requests_per_minute: must be a whole"),
        ('{"alice": {"concurrent_requests": true}}', "alice: concurrent_requests: must be a whole"),
        (
            '{"alice": {"workspaces": "shop"}}',
            "alice: workspaces must be a list of names, in which",
        ),
        (
            '{"alice": {"workspaces": ["a,b"]}}',
            "alice: workspaces must be a list of names, in which",
        ),
        ('{"alice": {"workspaces": ["*-*-*-*-*"]}}', "alice: workspaces must be a list of names"),
        (json.dumps({"alice": {"workspaces": ["a"] * 201}}), "use * to name several"),
    ],
)
def test_what_is_no_list_of_users_is_refused_by_name(ring: Ring, given: str, told: str) -> None:
    done = ring.run("apply", given=given)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_never_print_a_key(ring: Ring) -> None:
    said = ring.run("apply", given='{"alice": {"requests_per_minute": 60}, "bob": {}}').stdout
    known = [ring.key("alice"), ring.key("bob")]
    for command in (["list"], ["rotate", "alice"], ["revoke", "bob"]):
        done = ring.run(*command)
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    known.append(ring.key("alice"))
    assert not any(key in said for key in known)
    assert "alice: 60 requests per minute, any number in progress" in said
    assert f"alice has another key, in {ring.folder / 'alice'}" in said
    assert ring.run("rotate", "bob").stderr == ("infbox-keys: bob: no such user: there are alice\n")


def test_a_key_tells_who_asks_either_way(ring: Ring, url: str) -> None:
    ring.apply("alice", concurrent_requests=3)
    for headers in (
        [bearer(ring.key("alice"))],
        [("authorization", f"bearer  {ring.key('alice')}")],
        [("X-Api-Key", ring.key("alice"))],
        [("Api-Key", ring.key("alice"))],
        [bearer(ring.key("alice")), ("x-api-key", ring.key("alice"))],
    ):
        status, fields, _ = ask(url, *headers)
        assert status == 200
        assert (fields["x-infbox-user"], fields["x-infbox-concurrent"]) == ("alice", "3")
        assert fields["x-infbox-workspaces"] == "*"


@pytest.mark.parametrize(
    ("workspaces", "told"), [((), "-"), (("shop",), "shop"), (("a*", "b"), "a*,b"), (("*",), "*")]
)
@pytest.mark.parametrize("path", ["/authorize", "/login"])
def test_a_key_tells_which_workspaces_its_user_may_use(
    ring: Ring, url: str, workspaces: tuple[str, ...], told: str, path: str
) -> None:
    ring.apply("alice", workspaces=workspaces)
    _, fields, _ = ask(url, bearer(ring.key("alice")), path=path)
    assert fields["x-infbox-workspaces"] == told


@pytest.mark.parametrize("changed", ['"workspaces": ["*"]', '"workspaces": "*"', '"other": []'])
def test_a_file_that_does_not_say_which_workspaces_lets_nobody_in(
    ring: Ring, url: str, changed: str
) -> None:
    ring.apply("alice", workspaces=("shop",))
    served = ring.digests.read_text()
    assert '"workspaces": [' in served
    ring.digests.write_text(re.sub(r'"workspaces": \[[^\]]*\]', changed, served))
    status, fields, _ = ask(url, bearer(ring.key("alice")))
    assert (status == 200) == (changed == '"workspaces": ["*"]')
    assert "x-infbox-workspaces" not in fields or status == 200


@pytest.mark.parametrize(("days", "is_good"), [(-1, False), (0, True), (1, True)])
def test_a_key_is_good_to_the_end_of_its_last_day(
    ring: Ring, url: str, monkeypatch: pytest.MonkeyPatch, days: int, is_good: bool
) -> None:
    today = date(2027, 1, 31)
    monkeypatch.setattr(labels, "today", lambda: today)
    last = (today + timedelta(days=days)).isoformat()
    ring.apply("alice", expires=last)
    status, fields, content = ask(url, bearer(ring.key("alice")))
    assert (status == 200) == ("x-infbox-user" in fields) == is_good
    login = base64.b64encode(f"alice:{ring.key('alice')}".encode()).decode()
    for header in (bearer(ring.key("alice")), ("Authorization", f"Basic {login}")):
        assert (ask(url, header, path="/login")[0] == 200) == is_good
    if not is_good:
        assert status == 401
        assert f"expired on {last}" in content["error"]["message"]
        assert 'result="expired",user="alice"} 1.0' in get_text(f"{url}/metrics")
    assert f"; until {last}" in ring.run("list").stdout


def test_what_is_almost_a_key_is_none(ring: Ring, url: str) -> None:
    ring.apply("alice", "bob")
    alice, bob = ring.key("alice"), ring.key("bob")
    for headers in (
        [],
        [("Authorization", alice)],
        [("Authorization", f"Basic {alice}")],
        [bearer(f"{alice}x")],
        [bearer(f"{alice} {alice}")],
        [bearer(labels.digest(alice))],
        [bearer("")],
        [("x-api-key", "")],
        [bearer(alice), ("x-api-key", bob)],
        [bearer(alice), ("api-key", bob)],
        [bearer(alice), bearer(bob)],
    ):
        status, fields, content = ask(url, *headers)
        assert status == 401, headers
        assert "x-infbox-user" not in fields
        assert fields["www-authenticate"] == "Bearer"
        assert content["error"]["code"] == "invalid_api_key"


def test_anthropic_s_clients_get_errors_in_their_form(ring: Ring, url: str) -> None:
    _, _, content = ask(url, ("X-Forwarded-Uri", "/v1/messages?beta=true"))
    assert content == {
        "type": "error",
        "error": {"type": "authentication_error", "message": "Incorrect or missing API key."},
    }


def test_a_key_that_is_rotated_or_revoked_ends_with_the_next_request(ring: Ring, url: str) -> None:
    ring.apply("alice", "bob")
    before, bob = ring.key("alice"), ring.key("bob")
    assert ask(url, bearer(before))[0] == ask(url, bearer(bob))[0] == 200
    ring.ring.rotate("alice")
    assert ask(url, bearer(before))[0] == 401
    assert ask(url, bearer(ring.key("alice")))[0] == 200
    ring.ring.revoke("bob")
    assert ask(url, bearer(bob))[0] == 401
    assert not (ring.folder / "bob").exists()
    assert ask(url, bearer(ring.key("alice")))[0] == 200


def test_a_user_may_begin_no_more_requests_a_minute_than_the_limit(ring: Ring, url: str) -> None:
    ring.apply("alice", "bob", requests_per_minute=3)
    alice, bob = bearer(ring.key("alice")), bearer(ring.key("bob"))
    assert [ask(url, alice)[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    status, fields, content = ask(url, alice)
    assert (status, content["error"]["code"]) == (429, "rate_limit_exceeded")
    assert content["error"]["infbox"] == {"limit": "requests_per_minute"}
    assert 1 <= int(fields["retry-after"]) <= 61
    assert ask(url, bob)[0] == 200, "one user's haste is nothing to another"
    _, _, content = ask(url, alice, ("X-Forwarded-Uri", "/v1/messages"))
    assert content["error"]["type"] == "rate_limit_error"
    assert content["error"]["infbox"] == {"limit": "requests_per_minute"}
    metrics = get_text(f"{url}/metrics")
    assert 'infbox_keys_requests_total{result="limited",user="alice"} 4.0' in metrics
    assert 'infbox_keys_requests_total{result="passed",user="bob"} 1.0' in metrics


def test_digests_that_cannot_be_read_leave_those_in_force_that_are_known(
    ring: Ring, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    ring.apply("alice")
    assert ask(url, bearer(ring.key("alice")))[0] == 200
    for damaged in ("", "{", "[]", '{"users": {"alice": {}}}', '{"users": []}'):
        ring.digests.write_text(damaged)
        time.sleep(0.02)
        assert ask(url, bearer(ring.key("alice")))[0] == 200
    assert "keys-not-read" in caplog.text
    assert ring.run("list").returncode == 2
    ring.digests.unlink()
    assert ask(url, bearer(ring.key("alice")))[0] == 401, "no file means no users"


HEADERS = st.tuples(
    st.sampled_from(["authorization", "x-api-key", "api-key", "cookie"]),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0")),
)


@given(st.lists(HEADERS))
def test_no_header_without_a_key_gets_in(headers: list[tuple[str, str]]) -> None:
    from starlette.requests import Request  # noqa: PLC0415

    from infbox.auth.key_service import _key  # noqa: PLC0415

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    found = _key(Request({"type": "http", "headers": raw}))
    assert found == "" or any(found in value for _, value in headers)


def test_an_option_by_its_earlier_name_is_refused_with_the_one_that_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.keys(["--folder", str(tmp_path), "list"])
    assert "--folder: is now named --directory: rename it" in capsys.readouterr().err
