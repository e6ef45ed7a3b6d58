"""The service that follows git remotes, and what forges may tell it."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml

from infbox import config
from infbox.config import Remote, Remotes
from infbox.errors import InputError
from infbox.remotes.checkout import Checkout
from infbox.remotes.service import MOST_BACK_OFF, MOST_CALL_BYTES, Follower, Metrics, Service
from serving import ANY, free_port, get_json, get_text, serving, until

if TYPE_CHECKING:
    from forge import Forge, Work

HOOK = "the-secret-of-the-hook"


@pytest.fixture
def work(place: Forge) -> Work:
    return place.repository(a_py="1\n")


class Host:
    """A service that follows remotes, each polled once an hour.

    Args:
        folder: for it.
        urls: of the remotes, by name.
    """

    def __init__(self, folder: Path, **urls: str) -> None:
        for name in ("checkouts", "secrets/shop"):
            (folder / name).mkdir(parents=True)
        (folder / "secrets/shop/webhook").write_text(f"{HOOK}\n")
        self.folder = folder / "checkouts"
        self.secrets = folder / "secrets"
        self.url = ""
        self.service = Service(
            Remotes(
                listen=ANY,
                directory=self.folder,
                secrets=self.secrets,
                keep_free=0,
                remotes=tuple(Remote(name, url, every=3600) for name, url in urls.items()),
            )
        )

    def status(self, name: str = "shop") -> Any:
        return get_json(f"{self.url}/status")["workspaces"][name]

    def call(self, body: bytes = b"{}", /, name: str = "shop", **headers: str) -> int:
        """Call as a forge does; return the status of the answer."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        request = Request(f"{self.url}/hooks/git/{name}", body, named)  # noqa: S310  # ours
        try:
            with urlopen(request, timeout=10) as answer:  # noqa: S310  # as above
                return int(answer.status)
        except HTTPError as error:
            return int(error.code)


@pytest.fixture
def host(tmp_path: Path, work: Work) -> Iterator[Host]:
    host = Host(tmp_path / "host", shop=work.url, quiet=work.url)
    with host.service.following(), serving(host.service.app()) as host.url:
        until(lambda: host.status()["reached"] and host.status("quiet")["reached"])
        yield host


def signed(body: bytes, secret: str = HOOK) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def calls() -> dict[str, dict[str, str]]:
    """What forges send, by forge."""
    signature = signed(b"{}")
    return {
        "github": {"X_Hub_Signature_256": f"sha256={signature}"},
        "gitea": {"X_Gitea_Signature": signature, "X_Hub_Signature_256": f"sha256={signature}"},
        "gitlab": {"X_Gitlab_Token": HOOK},
    }


@pytest.mark.parametrize("kind", calls())
def test_a_call_of_a_forge_has_the_remote_polled_now(host: Host, work: Work, kind: str) -> None:
    commit = work.push(a_py="2\n")
    assert host.call(b"{}", **calls()[kind]) == 202
    until(lambda: host.status()["commit"] == commit)
    assert (host.folder / "shop/a.py").read_text() == "2\n"
    assert host.status("quiet")["commit"] != commit


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X_Hub_Signature_256": f"sha256={signed(b'{}', 'another')}"},
        {"X_Hub_Signature_256": f"sha256={signed(b'another body')}"},
        {"X_Hub_Signature_256": "sha256="},
        {"X_Gitlab_Token": "another"},
        {"X_Gitlab_Token": ""},
        {"X_Gitlab_Token": f"{HOOK}é"},
        {"Authorization": f"Bearer {HOOK}"},
    ],
)
def test_a_call_that_is_not_signed_is_refused(host: Host, headers: dict[str, str]) -> None:
    before = polls(host)
    assert host.call(b"{}", **headers) == 401
    assert polls(host) == before


def test_who_calls_learns_nothing_of_the_workspaces(host: Host) -> None:
    """With the secret of another, or an empty one: of one that is not there or has no hook."""
    for name in ("nothing", "quiet", "..", "%2e%2e"):
        for key in (HOOK, ""):
            assert host.call(name=name, X_Gitlab_Token=key) in (401, 404)
    assert host.call(name="nothing", X_Hub_Signature_256=f"sha256={signed(b'{}', '')}") == 401
    assert 'workspace="nothing"' not in get_text(f"{host.url}/metrics")


def test_a_call_s_body_may_be_so_large_and_is_not_kept(host: Host) -> None:
    body = b"x" * (1024 * 1024)
    assert host.call(body, X_Hub_Signature_256=f"sha256={signed(body)}") == 202
    with pytest.raises((HTTPError, OSError)):
        urlopen_many(host, MOST_CALL_BYTES + 1)


def test_a_secret_that_is_given_anew_holds_at_once_and_the_one_before_too(host: Host) -> None:
    file = host.secrets / "shop/webhook"
    other = HOOK[::-1]
    file.write_text(f"{other}\n{HOOK}\n")
    assert host.call(X_Gitlab_Token=other) == 202
    assert host.call(X_Gitlab_Token=HOOK) == 202
    file.write_text(f"{other}\n")
    assert host.call(X_Gitlab_Token=HOOK) == 401
    file.unlink()
    assert host.call(X_Gitlab_Token=other) == 401


def test_a_remote_that_is_away_is_told_and_reached_again(
    host: Host, place: Forge, work: Work
) -> None:
    reached = host.status()["reached"]
    place.is_away = True
    host.call(X_Gitlab_Token=HOOK)
    until(lambda: host.status()["failures"])
    status = host.status()
    assert "503" in status["error"]
    assert (status["reached"], status["commit"] is None) == (reached, False)
    assert 'infbox_remote_failures{workspace="shop"} 1.0' in get_text(f"{host.url}/metrics")
    place.is_away = False
    commit = work.push(a_py="2\n")
    host.call(X_Gitlab_Token=HOOK)
    until(lambda: host.status()["failures"] == 0)
    assert (host.status()["commit"], host.status()["error"]) == (commit, None)
    page = get_text(f"{host.url}/metrics")
    assert 'infbox_remote_failures{workspace="shop"} 0.0' in page
    assert 'infbox_remote_polls_total{result="failed",workspace="shop"} 1.0' in page


def test_it_is_polled_by_itself(tmp_path: Path, work: Work) -> None:
    host = Host(tmp_path / "host")
    follower = follow(host, Remote("shop", work.url, every=1))
    until(lambda: follower.status()["commit"])
    commit = work.push(a_py="2\n")
    until(lambda: follower.status()["commit"] == commit)


def test_polls_that_fail_come_later_and_later(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    metrics, stop = Metrics(), threading.Event()
    remote = Remote("shop", "http://127.0.0.1:1/shop.git", every=60)
    checkout = Checkout(remote, host.folder, host.secrets)
    follower = Follower(remote, checkout, metrics, threading.Semaphore(), stop)
    pauses = []
    for _ in range(8):
        pauses.append(follower.pause())
        follower._fail("away")
    assert [round(pause / 60 / 1.0) for pause in pauses[:4]] == pytest.approx([1, 2, 4, 8], rel=0.2)
    assert pauses[-1] <= MOST_BACK_OFF * 1.1
    seldom = Remote("shop", remote.url, every=7200)
    assert Follower(seldom, checkout, metrics, threading.Semaphore(), stop).pause() > 6000


def test_one_slip_does_not_end_it(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll, slips = Checkout.poll, iter((True,))

    def slipping(self: Checkout) -> bool:
        if next(slips, False):
            raise RuntimeError
        return poll(self)

    monkeypatch.setattr(Checkout, "poll", slipping)
    follower = follow(Host(tmp_path / "host"), Remote("shop", work.url, every=1))
    until(lambda: follower.status()["commit"])


def test_the_program_follows_until_it_is_told_to_end(tmp_path: Path, work: Work) -> None:
    host = Host(tmp_path / "host")
    port = free_port()
    file = settings(tmp_path, host, port, {"name": "shop", "url": work.url, "ref": "main"})
    command = [sys.executable, "-c", "from infbox.cli import remotes; raise SystemExit(remotes())"]
    arguments = [*command, "run", "--config", str(file)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    try:
        until((host.folder / "shop/a.py").exists, 30)
        assert (host.folder / "shop/a.py").stat().st_mode & 0o777 == 0o640
        second = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert "another process follows remotes there: stop that" in second.stderr
        until(lambda: get_json(f"http://127.0.0.1:{port}/status")["workspaces"]["shop"]["reached"])
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=20)[1]
    assert process.returncode in (0, -signal.SIGTERM)
    assert "event=moved workspace=shop" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": None}, r"remotes\[0\].url: missing"),
        ({"url": "git@forge.example:shop.git"}, "write it as ssh://git@forge.example/shop.git"),
        (
            {"url": "https://me:pa55@forge.example/shop.git"},
            "remove the user or the password",
        ),
        ({"url": "ssh://git:pa55@forge.example/shop.git"}, "remove the user or the password"),
        ({"url": "http://forge.example/shop.git"}, "write ssh://USER@HOST/PATH or https://"),
        ({"url": "file:///srv/shop.git"}, "write ssh://USER@HOST/PATH or https://HOST/PATH"),
        ({"url": "ext::sh"}, "write ssh://USER@HOST/PATH or https://HOST/PATH"),
        ({"url": "ssh://-oProxyCommand=x/y"}, "write ssh://USER@HOST/PATH or https://HOST/PATH"),
        ({"url": "--upload-pack=x"}, "write ssh://USER@HOST/PATH or https://HOST/PATH"),
        ({"url": "git:pa55@forge.example:shop.git"}, "write ssh://USER@HOST/PATH or https://"),
        ({"url": "https://forge.example"}, "write ssh://USER@HOST/PATH or https://HOST/PATH"),
        ({"ref": "-x"}, "give a branch or a tag"),
        ({"ref": "a..b"}, "give a branch or a tag"),
        ({"ref": "a b"}, "give a branch or a tag"),
        ({"ref": "refs/heads/*"}, "give a branch or a tag"),
        ({"ref": "a" * 40}, "in place of a commit, which never changes"),
        ({"every": 1}, "give at least 5 seconds"),
        ({"depth": 0}, "must be larger than 0"),
        ({"name": "../x"}, "use letters, digits"),
        ({"colour": 1}, "unknown"),
    ],
)
def test_a_remote_that_cannot_be_followed_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    remote = {"name": "shop", "url": "https://forge.example/shop.git", **change}
    file = settings(tmp_path, Host(tmp_path / "host"), 8014, remote)
    with pytest.raises(InputError, match=message) as caught:
        config.load_remotes(file)
    assert "pa55" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ssh://git@forge.example/team/shop.git",
        "ssh://forge.example:2222/~me/shop",
        "ssh://git@[::1]:22/shop.git",
        "https://forge.example:8443/team/shop.git",
        "http://localhost:3000/shop.git",
    ],
)
def test_what_is_left_out_has_a_default(tmp_path: Path, url: str) -> None:
    file = settings(tmp_path, Host(tmp_path / "host"), 8014, {"name": "shop", "url": url})
    loaded = config.load_remotes(file)
    assert loaded.remotes == (Remote("shop", url, "", 60, 100),)
    assert loaded.keep_free == 2_048_000_000


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    remote = {"name": "shop", "url": "https://forge.example/shop.git"}
    file = settings(tmp_path, Host(tmp_path / "host"), 8014, remote, remote)
    with pytest.raises(InputError, match="remotes: shop is listed twice: rename one"):
        config.load_remotes(file)


def test_a_setting_by_its_earlier_name_is_refused_with_the_one_that_it_has(tmp_path: Path) -> None:
    file = settings(tmp_path, Host(tmp_path / "host"), 8014)
    file.write_text(file.read_text().replace("directory:", "folder:"))
    with pytest.raises(InputError, match="folder: is now named directory: rename it"):
        config.load_remotes(file)


def settings(folder: Path, host: Host, port: int, *remotes: dict[str, Any]) -> Path:
    content = {
        "listen": f"127.0.0.1:{port}",
        "directory": str(host.folder),
        "secrets": str(host.secrets),
        "remotes": list(remotes),
    }
    (folder / "remotes.yml").write_text(yaml.safe_dump(json.loads(json.dumps(content))))
    return folder / "remotes.yml"


def follow(host: Host, remote: Remote) -> Follower:
    """Follow a remote until the process ends."""
    checkout = Checkout(remote, host.folder, host.secrets)
    follower = Follower(remote, checkout, Metrics(), threading.Semaphore(), threading.Event())
    follower.start()
    return follower


def polls(host: Host) -> list[str]:
    page = get_text(f"{host.url}/metrics").splitlines()
    return [line for line in page if line.startswith("infbox_remote_polls_total")]


def urlopen_many(host: Host, size: int) -> None:
    """Send a call that is too large."""
    body = b"x" * size
    headers = {"X-Hub-Signature-256": f"sha256={signed(body)}"}
    request = Request(f"{host.url}/hooks/git/shop", body, headers)  # noqa: S310  # ours
    with urlopen(request, timeout=20) as answer:  # noqa: S310  # as above
        answer.read()
