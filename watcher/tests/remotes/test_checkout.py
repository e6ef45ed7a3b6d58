"""Following a git remote: the real git on both sides, over HTTP on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge import Forge, Work, forge
from infbox.config import Remote
from infbox.remotes.checkout import Checkout
from infbox.tree.safegit import FollowError, StoppedError
from infbox.watching import inotify
from serving import until
from trees import fill, git


@pytest.fixture
def work(place: Forge) -> Work:
    return place.repository(a_py="1\n", sub__b_py="2\n")


class Host:
    """Where checkouts lie.

    Args:
        folder: for them and their secrets.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkouts"
        self.secrets = folder / "secrets"
        self.folder.mkdir()
        self.secrets.mkdir()

    def checkout(self, url: str, name: str = "shop", **changes: Any) -> Checkout:
        own = {key: changes.pop(key) for key in ("keep_free", "stop") if key in changes}
        return Checkout(Remote(name, url, **changes), self.folder, self.secrets, **own)

    def secret(self, kind: str, text: str, name: str = "shop") -> None:
        (self.secrets / name).mkdir(exist_ok=True)
        (self.secrets / name / kind).write_text(text)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "host").mkdir()
    return Host(tmp_path / "host")


def files(folder: Path) -> dict[str, str]:
    """Return what lies in a tree, but for git's own."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }


def test_the_tree_follows_the_branch_and_only_what_changed_is_touched(
    host: Host, work: Work
) -> None:
    checkout = host.checkout(work.url, ref="main")
    assert checkout.poll()
    assert files(checkout.place) == {"a.py": "1\n", "sub/b.py": "2\n"}
    commit = work.push(a_py="one\n", new_py="3\n")
    with watching(checkout.place) as told:
        assert checkout.poll()
        assert checkout.commit == commit
        assert {name for name in told() if not name.startswith(".git")} == {"a.py", "new.py"}
    assert files(checkout.place) == {"a.py": "one\n", "new.py": "3\n", "sub/b.py": "2\n"}


def test_while_nobody_pushes_the_remote_is_asked_once_and_nothing_is_written(
    host: Host, place: Forge, work: Work
) -> None:
    checkout = host.checkout(work.url)
    checkout.poll()
    place.asked.clear()
    with watching(checkout.place) as told:
        assert not checkout.poll()
        assert told() == []
    assert [path.partition("?")[0] for path in place.asked] == [
        "/shop.git/info/refs",
        "/shop.git/git-upload-pack",
    ]


def test_a_first_tree_is_seen_when_it_is_whole(host: Host, place: Forge, work: Work) -> None:
    place.is_away = True
    checkout = host.checkout(work.url)
    with pytest.raises(FollowError, match="503"):
        checkout.poll()
    assert not checkout.place.exists()
    place.is_away = False
    checkout.poll()
    assert [path.name for path in host.folder.iterdir()] == ["shop"]


def test_a_pushed_history_that_replaces_another_is_followed(host: Host, work: Work) -> None:
    checkout = host.checkout(work.url, ref="main")
    checkout.poll()
    git(work.folder, "checkout", "--quiet", "--orphan", "other")
    git(work.folder, "rm", "--quiet", "-rf", ".")
    commit = work.push("--force", c_py="3\n")
    checkout.poll()
    assert checkout.commit == commit
    assert files(checkout.place) == {"c.py": "3\n"}
    assert not (checkout.place / "sub").exists()


def test_a_ref_that_is_gone_is_told_and_its_tree_stays(host: Host, work: Work) -> None:
    work.push(to="feature", c_py="3\n")
    checkout = host.checkout(work.url, ref="feature")
    checkout.poll()
    before, tree = checkout.commit, files(checkout.place)
    git(work.folder, "push", "--quiet", "origin", ":feature")
    with pytest.raises(FollowError, match="the remote has no branch or tag feature: push it, or"):
        checkout.poll()
    assert (checkout.commit, files(checkout.place)) == (before, tree)
    commit = work.push(to="feature", d_py="4\n")
    assert checkout.poll()
    assert checkout.commit == commit


def test_without_a_ref_the_default_branch_is_followed_wherever_it_goes(
    host: Host, work: Work
) -> None:
    checkout = host.checkout(work.url)
    checkout.poll()
    commit = work.push(to="trunk", c_py="3\n")
    assert not checkout.poll()
    git(work.bare, "symbolic-ref", "HEAD", "refs/heads/trunk")
    assert checkout.poll()
    assert checkout.commit == commit


def test_a_tag_is_followed_to_its_commit_and_a_branch_comes_before_it(
    host: Host, place: Forge, work: Work
) -> None:
    commit = git(work.folder, "rev-parse", "HEAD").decode().strip()
    git(work.folder, "tag", "-a", "v1", "-m", "one")
    git(work.folder, "push", "--quiet", "origin", "v1")
    other = work.push(c_py="3\n")
    checkout = host.checkout(work.url, ref="v1")
    checkout.poll()
    assert checkout.commit == commit
    place.asked.clear()
    assert not checkout.poll()
    assert len(place.asked) == 2
    git(work.folder, "push", "--quiet", "origin", "HEAD:refs/heads/v1")
    checkout.poll()
    assert checkout.commit == other


def test_a_tag_of_a_file_is_refused(host: Host, work: Work) -> None:
    git(work.folder, "tag", "blob", "HEAD:a.py")
    git(work.folder, "push", "--quiet", "origin", "blob")
    with pytest.raises(FollowError, match="refs/tags/blob names no commit"):
        host.checkout(work.url, ref="blob").poll()


def test_a_repository_without_a_commit_is_waited_for(host: Host, place: Forge) -> None:
    work = place.repository("empty")
    checkout = host.checkout(work.url)
    with pytest.raises(FollowError, match="the remote has no commit yet: push one"):
        checkout.poll()
    work.push(a_py="1\n")
    assert checkout.poll()


def test_another_url_for_the_same_name_replaces_the_tree(
    host: Host, place: Forge, work: Work
) -> None:
    host.checkout(work.url).poll()
    other = place.repository("other", sub__b_py="2\n", z_py="9\n")
    checkout = host.checkout(other.url)
    with watching(checkout.place) as told:
        checkout.poll()
        touched = {name for name in told() if not name.startswith(".git")}
    assert files(checkout.place) == {"sub/b.py": "2\n", "z.py": "9\n"}
    assert touched == {"a.py", "z.py"}


def test_two_workspaces_of_one_remote_are_apart(host: Host, work: Work) -> None:
    feature = work.push(to="feature", c_py="3\n")
    one, two = host.checkout(work.url, ref="main"), host.checkout(work.url, "next", ref="feature")
    one.poll()
    two.poll()
    assert (one.commit, two.commit) != (feature, None)
    assert two.commit == feature
    assert files(two.place) == {**files(one.place), "c.py": "3\n"}


def test_history_is_as_deep_as_was_asked_for_however_much_comes(host: Host, work: Work) -> None:
    checkout = host.checkout(work.url, depth=3)
    for number in range(6):
        work.push(a_py=f"{number}\n")
        checkout.poll()
    log = git(checkout.place, "-c", "safe.directory=*", "log", "--format=%h")
    assert len(log.split()) == 3


# What a repository has runs nothing, and leads nowhere


def test_nothing_of_a_repository_is_run(host: Host, work: Work, tmp_path: Path) -> None:
    """Hooks, filters and a file system monitor, named by its attributes and planted beside it."""
    mark = tmp_path / "ran"
    checkout = host.checkout(work.url)
    checkout.poll()
    evil = f"#!/bin/sh\ntouch {mark}\n"
    hooks = checkout.place / ".git/hooks"
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        fill(hooks, {name: evil})
        (hooks / name).chmod(0o755)
    fill(work.folder, {".gitattributes": "*.py filter=evil\n", ".lfsconfig": "[lfs]\nurl=x\n"})
    work.push(a_py="changed\n")
    fill(tmp_path, {"gitconfig": f'[filter "evil"]\nsmudge = touch {mark}\n'})
    with environment(GIT_CONFIG_GLOBAL=str(tmp_path / "gitconfig")):
        checkout.poll()
    assert files(checkout.place)["a.py"] == "changed\n"
    assert not mark.exists()


def test_pointers_of_large_files_stay_what_they_are(host: Host, work: Work) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    fill(work.folder, {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    work.push(large_bin=pointer)
    checkout = host.checkout(work.url)
    checkout.poll()
    assert files(checkout.place)["large.bin"] == pointer


def test_submodules_are_left_out(host: Host, place: Forge, work: Work) -> None:
    inner = place.repository("inner", x_py="x\n")
    git(work.folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", inner.url)
    work.push()
    place.asked.clear()
    checkout = host.checkout(work.url)
    checkout.poll()
    assert list((checkout.place / "inner").iterdir()) == []
    assert not any("inner" in path for path in place.asked)
    assert not checkout.poll()


@pytest.mark.parametrize(
    "url", ["ext::sh -c touch% {mark}", "file://{bare}", "{bare}", "git://x/y"]
)
def test_nothing_but_ssh_and_https_is_spoken(
    host: Host, work: Work, tmp_path: Path, url: str
) -> None:
    mark = tmp_path / "ran"
    filled = url.replace("{mark}", str(mark)).replace("{bare}", str(work.bare))
    with pytest.raises(FollowError, match=r"transport '\w+' not allowed"):
        host.checkout(filled).poll()
    assert not mark.exists()


def test_where_a_remote_was_moved_to_is_not_asked(
    host: Host, place: Forge, work: Work, tmp_path: Path
) -> None:
    host.secret("token", "username=git\npassword=secret-token\n")
    (tmp_path / "elsewhere").mkdir()
    with forge(tmp_path / "elsewhere") as elsewhere:
        place.moved_to = elsewhere.url
        with pytest.raises(FollowError, match="301"):
            host.checkout(work.url).poll()
        assert elsewhere.asked == []


# Secrets


def test_a_token_opens_the_remote_and_is_in_no_argument(
    host: Host, place: Forge, work: Work, tmp_path: Path
) -> None:
    secret = "s3cret-token"  # noqa: S105  # of this test
    place.token = secret
    checkout = host.checkout(work.url)
    with pytest.raises(FollowError, match="the remote asks for a token, or has no such repository"):
        checkout.poll()
    host.secret("token", "username=git\npassword=wrong-token\n")
    with pytest.raises(FollowError, match="Authentication failed"):
        checkout.poll()
    host.secret("token", f"username=git\npassword={secret}\n")
    with recorded(tmp_path, "git") as told:
        checkout.poll()
    assert files(checkout.place)["a.py"] == "1\n"
    assert "ls-remote" in told()
    assert secret not in told()
    assert not any(
        b"s3cret" in path.read_bytes() for path in host.folder.rglob("*") if path.is_file()
    )


def test_ssh_is_given_the_key_and_the_hosts_that_are_known_and_nothing_else(
    host: Host, work: Work, tmp_path: Path
) -> None:
    url = f"ssh://git@forge.example:2222{work.bare}"
    checkout = host.checkout(url)
    with pytest.raises(FollowError, match=r"shop/key is not there: give the key that the remote"):
        checkout.poll()
    host.secret("key", "the key\n")
    serve = 'for last; do :; done; exec sh -c "$last"'
    with recorded(tmp_path, "ssh", serve, SSH_AUTH_SOCK="/tmp/agent") as told:  # noqa: S108
        checkout.poll()
    assert files(checkout.place)["a.py"] == "1\n"
    words = told()
    for option in (
        "-F none",
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "BatchMode=yes",
        f"UserKnownHostsFile={host.secrets}/known_hosts",
        "GlobalKnownHostsFile=/dev/null",
        f"-i {host.secrets}/shop/key",
        "-p 2222",
    ):
        assert option in words
    assert "SSH_AUTH_SOCK" not in words


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("No ED25519 host key is known for [forge.example]:2222 and you have requested strict "
         "checking.\nHost key verification failed.",
         "no key of this host is known: compare what `ssh-keyscan -p 2222 forge.example | ssh"),
        ("@  WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!  @\nHost key verification failed.",
         "the host has another key than the one it is known by"),
        ("git@forge.example: Permission denied (publickey).", "Permission denied"),
    ],
)  # fmt: skip
def test_what_ssh_says_is_told_with_the_fix(
    host: Host, tmp_path: Path, says: str, reason: str
) -> None:
    host.secret("key", "the key\n")
    checkout = host.checkout("ssh://git@forge.example:2222/shop.git")
    with (
        recorded(tmp_path, "ssh", f'printf "%s\\n" "{says}" >&2; exit 255'),
        pytest.raises(FollowError, match=re.escape(reason)) as caught,
    ):
        checkout.poll()
    assert "\n" not in str(caught.value)


# Ends in the middle

MANY = 6000  # files, so that git is still at work when it is found
TURNS = 5  # since it may be through all the same, on a busy machine


def test_a_kill_in_the_middle_of_a_checkout_is_made_good(host: Host, work: Work) -> None:
    checkout = host.checkout(work.url)
    checkout.poll()
    lock = checkout.place / ".git/index.lock"
    for turn in range(TURNS):
        many = f"many{turn}"
        work.push(**{f"{many}__{number}_py": f"{number}\n" * 20 for number in range(MANY)})
        folder = checkout.place / many
        if killed_at(host, work, lambda at=folder: lock.exists() and at.is_dir()) and lock.exists():
            break
    assert lock.exists(), "git was through each time before it was killed"
    assert len([*folder.iterdir()]) < MANY
    # What was half way there is taken back by the remote meanwhile.
    git(work.folder, "rm", "--quiet", f"{many}/{MANY - 1}.py", f"{many}/0.py")
    commit = work.push()
    again = host.checkout(work.url)
    assert again.poll()
    assert again.commit == commit
    assert files(again.place) == files(work.folder)


def test_a_kill_in_the_middle_of_the_first_fetch_is_made_good(host: Host, place: Forge) -> None:
    work = place.repository("shop", large_txt=os.urandom(2_000_000).hex())
    place.pace = 0.05
    packs = host.folder / ".shop.new/.git/objects/pack"
    assert killed_at(host, work, lambda: any(packs.glob("tmp_pack_*")))
    assert any(packs.glob("tmp_pack_*"))
    place.pace = 0.0
    checkout = host.checkout(work.url)
    checkout.poll()
    assert files(checkout.place) == files(work.folder)
    assert not any((checkout.place / ".git/objects/pack").glob("tmp_*"))


def test_what_somebody_changed_in_the_tree_is_put_right(host: Host, work: Work) -> None:
    host.checkout(work.url).poll()
    place = host.folder / "shop"
    fill(place, {"a.py": "mine\n", "stray.py": "mine\n"})
    (place / "sub/b.py").unlink()
    checkout = host.checkout(work.url)
    assert not checkout.poll()
    assert files(place) == {"a.py": "1\n", "sub/b.py": "2\n"}


@pytest.mark.parametrize(
    "damage", ["no .git", "empty HEAD", "empty ref", "empty objects", "a blob", "index"]
)
def test_a_damaged_repository_is_fetched_anew_and_right_files_stay(
    host: Host, work: Work, damage: str
) -> None:
    host.checkout(work.url).poll()
    place = host.folder / "shop"
    git_folder = place / ".git"
    if damage == "no .git":
        shutil.rmtree(git_folder)
    elif damage in ("empty objects", "a blob"):
        blob = git(work.folder, "rev-parse", "HEAD:a.py").decode()
        for path in (git_folder / "objects").rglob("*"):
            if path.is_file() and (damage != "a blob" or path.name == blob[2:].strip()):
                path.chmod(0o600)
                path.write_bytes(b"")
    else:
        name = {"empty HEAD": "HEAD", "empty ref": "refs/infbox/fetched", "index": "index"}[damage]
        (git_folder / name).write_bytes(b"junk" if damage == "index" else b"")
    fill(place, {"a.py": "damaged\n"})
    checkout = host.checkout(work.url)
    with watching(place) as told:
        for _ in range(4):
            with contextlib.suppress(FollowError):
                checkout.poll()
        assert "sub/b.py" not in told()
    assert files(place) == {"a.py": "1\n", "sub/b.py": "2\n"}
    assert checkout.commit == git(work.folder, "rev-parse", "HEAD").decode().strip()
    work.push(a_py="2\n")
    assert checkout.poll()


def test_a_stop_ends_git_in_the_middle(host: Host, place: Forge) -> None:
    work = place.repository("shop", large_txt=os.urandom(2_000_000).hex())
    place.pace = 0.05
    stop = threading.Event()
    checkout = host.checkout(work.url, stop=stop)
    ended: list[BaseException] = []

    def poll() -> None:
        try:
            checkout.poll()
        except StoppedError as error:
            ended.append(error)

    thread = threading.Thread(target=poll)
    thread.start()
    packs = host.folder / ".shop.new/.git/objects/pack"
    until(lambda: any(packs.glob("tmp_pack_*")))
    stop.set()
    thread.join(10)
    assert len(ended) == 1


def test_a_long_fetch_tells_the_journal_how_far_it_is(
    host: Host, place: Forge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("infbox.tree.safegit._SAY_SECONDS", 0.2)
    caplog.set_level("INFO")
    many = {f"many__{number}_txt": os.urandom(30_000).hex() for number in range(60)}
    work = place.repository("shop", **many)
    checkout = host.checkout(work.url)
    place.pace = 0.02
    checkout.poll()
    said = [text for text in caplog.messages if text.startswith("progress workspace=shop step=")]
    assert any("Receiving objects" in text for text in said)
    assert checkout.step == ""


def test_a_remote_that_never_answers_is_given_up(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.remotes.checkout._ASK_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        checkout = host.checkout(f"http://127.0.0.1:{silent.getsockname()[1]}/shop.git")
        with pytest.raises(FollowError, match="git said nothing for 1 s and was ended"):
            checkout.poll()


# A full disk


def test_room_for_others_is_left(host: Host, work: Work) -> None:
    checkout = host.checkout(work.url, keep_free=10**18)
    with pytest.raises(FollowError, match=r"less than 1000000000000 MB are free at .*: free some"):
        checkout.poll()
    assert not checkout.place.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="it mounts a small file system")
def test_a_full_disk_is_told_and_what_lies_there_stays(
    tmp_path: Path, place: Forge, work: Work
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], check=True)
    try:
        host = Host(small)
        checkout = host.checkout(work.url)
        checkout.poll()
        before = files(checkout.place)
        work.push(large_bin=os.urandom(10_000_000).hex())
        with pytest.raises(FollowError, match="No space left on device"):
            checkout.poll()
        assert files(checkout.place) == before
        assert shutil.disk_usage(small).free > 6_000_000
        work.push(large_bin="small\n", b_py="2\n")
        checkout._remote = Remote("shop", work.url, depth=1)  # as a fix would
        assert checkout.poll()
        assert files(checkout.place) == files(work.folder)
    finally:
        subprocess.run(["umount", small], check=True)


def killed_at(host: Host, work: Work, moment: Any) -> bool:
    """Follow in a process of its own; kill it and its git when a moment has come."""
    program = (
        "import sys; from pathlib import Path; from infbox.remotes.checkout import Checkout\n"
        "from infbox.config import Remote\n"
        "Checkout(Remote('shop', sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])).poll()\n"
    )
    command = [sys.executable, "-c", program, work.url, str(host.folder), str(host.secrets)]
    process = subprocess.Popen(command)
    ends = time.monotonic() + 20
    while time.monotonic() < ends and process.poll() is None:
        below = children(process.pid)  # looked for before: git would be through meanwhile
        if moment():
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for each in (*below, process.pid, *children(process.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each, number)
            process.wait()
            return True
    process.wait()
    return False


def children(parent: int) -> set[int]:
    """Return the processes below another."""
    found: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = status.read_text().rpartition(")")[2].split()
            if int(words[1]) == parent:
                child = int(status.parent.name)
                found |= {child} | children(child)
    return found


@contextlib.contextmanager
def watching(folder: Path) -> Iterator[Any]:
    """Give what tells the names, below a folder, that inotify told of until now."""
    seen = inotify.Watch()
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            seen.add(str(path))
    try:
        yield lambda: [
            str((Path(event.directory) / event.name).relative_to(folder)) for event in seen.events()
        ]
    finally:
        seen.close()


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@contextlib.contextmanager
def recorded(folder: Path, name: str, then: str = "", **values: str) -> Iterator[Any]:
    """Put a program in front of another that keeps its arguments and its environment."""
    log = folder / f"{name}.log"
    then = then or f'exec {shutil.which(name)} "$@"'
    fill(folder / "bin", {name: f'#!/bin/sh\necho "$@" >> {log}\nenv >> {log}\n{then}\n'})
    (folder / "bin" / name).chmod(0o755)
    with environment(PATH=f"{folder}/bin:{os.environ['PATH']}", **values):
        yield log.read_text
