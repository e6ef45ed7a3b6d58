"""Who sees the status page: a real server, and keys as a browser sends them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from infbox.auth.key_service import KeyService
from infbox.auth.keyring import Keyring
from infbox.auth.keys import Limits
from serving import serving


class Door:
    """The keys' service, with two users."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url

    def key(self, user: str) -> str:
        return (self._folder / user).read_text().strip()

    def ask(self, *authorization: str, path: str = "/login") -> tuple[int, dict[str, str]]:
        request = Request(self._url + path)  # noqa: S310  # ours
        for value in authorization:
            request.add_header("Authorization", value)
        try:
            with urlopen(request, timeout=10) as answer:  # noqa: S310  # ours
                return answer.status, dict(answer.headers)
        except HTTPError as refused:
            return refused.code, dict(refused.headers)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    folder, served = tmp_path / "api-keys", tmp_path / "served"
    folder.mkdir()
    served.mkdir()
    Keyring(folder, served / "users.json").apply(
        {"alice": Limits(requests_per_minute=1), "bob": Limits()}
    )
    with serving(KeyService(served / "users.json").app()) as url:
        yield Door(folder, url)


def basic(name: str, key: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{key}".encode()).decode()


def test_a_users_name_and_key_let_in(door: Door) -> None:
    status, headers = door.ask(basic("alice", door.key("alice")))
    assert (status, headers["x-infbox-user"]) == (200, "alice")


def test_a_script_sends_its_key_as_it_does_elsewhere(door: Door) -> None:
    status, headers = door.ask(f"Bearer {door.key('bob')}")
    assert (status, headers["x-infbox-user"]) == (200, "bob")


def test_without_a_login_a_browser_is_told_to_ask_for_one(door: Door) -> None:
    status, headers = door.ask()
    assert status == 401
    assert headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize("name", ["bob", "", "Alice", "älice"])
def test_anothers_name_with_a_key_lets_nobody_in(door: Door, name: str) -> None:
    assert door.ask(basic(name, door.key("alice")))[0] == 401


@pytest.mark.parametrize(
    "value", ["Basic", "Basic !!!", "Basic YQ==", "Basic /w==", basic("alice", ""), "Digest x"]
)
def test_what_is_no_login_lets_nobody_in(door: Door, value: str) -> None:
    assert door.ask(value)[0] == 401


def test_looking_takes_no_requests_away(door: Door) -> None:
    for _ in range(5):
        assert door.ask(basic("alice", door.key("alice")))[0] == 200
    assert door.ask(f"Bearer {door.key('alice')}", path="/authorize")[0] == 200


def test_a_login_is_no_key_for_the_api(door: Door) -> None:
    assert door.ask(basic("alice", door.key("alice")), path="/authorize")[0] == 401
