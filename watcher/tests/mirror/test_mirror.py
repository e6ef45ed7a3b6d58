"""What may leave a developer's machine, and nothing else, is copied."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infbox.cli import watch
from infbox.mirror import carriers
from infbox.mirror.copy import Copy, _Following
from infbox.tree.files import Tree
from infbox.tree.records import Stamp
from infbox.watching.follower import Follower
from serving import until
from stub_system import SYSTEMS
from trees import fill, git

STUB_SYSTEM = Path(__file__).parents[1] / "stub_system.py"
SECRET = 'key = "AKIA' + 'Q3EGRXWTJ5LXZJ4A"\n'


@pytest.fixture
def source(repo: Path) -> Path:
    fill(repo, {"a.py": "1\n", "sub/b.py": "2\n", ".gitignore": "ignored.py\n", ".env": "A=1\n"})
    fill(repo, {"ignored.py": "x\n", "leak.py": SECRET})
    git(repo, "add", "a.py", "leak.py", ".gitignore")
    return repo


def program(system: str) -> list[str]:
    """Return the command of infbox-watch, on Linux or as on another system."""
    if system == "linux":
        return [sys.executable, "-m", "infbox.cli"]
    return [sys.executable, str(STUB_SYSTEM), system]


on_each_system = pytest.mark.parametrize("system", ["linux", *SYSTEMS])
"""By inotify, and by watchdog as it is used on macOS and Windows."""


def copied(target: Path) -> dict[str, str]:
    """Read a copy; once more where a part of it went away meanwhile."""
    tree = target / "tree"
    while True:
        with contextlib.suppress(FileNotFoundError):
            return {str(p.relative_to(tree)): p.read_text() for p in tree.rglob("*") if p.is_file()}


def test_what_is_ignored_or_secret_stays_and_what_is_not_committed_goes(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch(["mirror", str(source), str(tmp_path / "copy")]) == 0
    assert copied(tmp_path / "copy") == {
        ".gitignore": "ignored.py\n",
        "a.py": "1\n",
        "sub/b.py": "2\n",
    }
    assert capsys.readouterr().out == "3 written, 0 removed, 0 kept\n"


def test_a_file_that_becomes_secret_or_goes_is_taken_back_and_the_rest_is_not_touched(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "copy"
    watch(["mirror", str(source), str(target)])
    before = Stamp.of((target / "tree/.gitignore").stat())
    fill(source, {"a.py": SECRET})
    (source / "sub/b.py").unlink()
    watch(["mirror", str(source), str(target)])
    assert copied(target) == {".gitignore": "ignored.py\n"}
    assert not (target / "tree/sub").exists()
    assert Stamp.of((target / "tree/.gitignore").stat()) == before
    assert capsys.readouterr().out.endswith("0 written, 2 removed, 1 kept\n")
    assert not any(b"AKIA" in path.read_bytes() for path in target.rglob("*") if path.is_file())


def test_a_file_and_a_folder_may_change_places(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    watch(["mirror", str(source), str(target)])
    (source / "a.py").unlink()
    (source / "sub/b.py").unlink()
    (source / "sub").rmdir()
    fill(source, {"a.py/inner.py": "1\n", "sub": "text\n"})
    assert watch(["mirror", str(source), str(target)]) == 0
    assert copied(target) == {".gitignore": "ignored.py\n", "a.py/inner.py": "1\n", "sub": "text\n"}


def test_a_link_in_the_copy_leads_nowhere(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    watch(["mirror", str(source), str(target)])
    fill(tmp_path, {"theirs/a.py": "1\n", "theirs/b.py": "theirs\n"})
    (target / "tree/a.py").unlink()
    (target / "tree/a.py").symlink_to(tmp_path / "theirs/a.py")
    (target / "tree/sub/b.py").unlink()
    (target / "tree/sub").rmdir()
    (target / "tree/sub").symlink_to(tmp_path / "theirs")
    watch(["mirror", str(source), str(target)])
    assert copied(target)["a.py"] == "1\n"
    assert (tmp_path / "theirs/b.py").read_text() == "theirs\n"
    assert not any(path.is_symlink() for path in (target / "tree").rglob("*"))


def test_a_folder_with_something_else_in_it_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, {"mine/letter.txt": "dear\n"})
    for target, reason in {
        tmp_path / "mine": "holds something else: give a new directory, or empty it",
        source / "copy": "contains the tree, or is inside it: give a directory elsewhere",
        tmp_path: "contains the tree, or is inside it: give a directory elsewhere",
        tmp_path / "mine/letter.txt": "give a directory that can be written",
    }.items():
        assert watch(["mirror", str(source), str(target)]) == 2
        assert reason in capsys.readouterr().err
    assert (tmp_path / "mine/letter.txt").read_text() == "dear\n"
    assert not (source / "copy").exists()


@contextlib.contextmanager
def going_on(
    source: Path, target: Path, *more: str, path: str = "", system: str = "linux"
) -> Iterator[None]:
    command = [*program(system), "mirror", str(source), str(target), "--follow"]
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    process = subprocess.Popen([*command, *more], env=environment)
    try:
        yield
        assert process.poll() is None, "it is still at it"
    finally:
        process.terminate()
        process.wait()


@on_each_system
def test_it_goes_on_as_files_are_saved(source: Path, tmp_path: Path, system: str) -> None:
    target = tmp_path / "copy"
    with going_on(source, target, system=system):
        until((target / "tree/a.py").exists, 20)
        fill(source, {"a.py": "saved\n", "new/c.py": "new\n"})
        until(
            lambda: copied(target).items() >= {"a.py": "saved\n", "new/c.py": "new\n"}.items(), 20
        )
        fill(source, {"a.py": SECRET})
        until(lambda: "a.py" not in copied(target), 20)
        fill(source, {".gitignore": "ignored.py\nnew\n"})
        until(lambda: "new/c.py" not in copied(target), 20)
        (source / "sub").rename(source / "moved")
        until(lambda: copied(target).keys() == {".gitignore", "moved/b.py"}, 20)
    assert not any(b"AKIA" in path.read_bytes() for path in target.rglob("*") if path.is_file())


@on_each_system
def test_what_went_on_while_it_was_away_is_taken_over_at_the_next_start(
    source: Path, tmp_path: Path, system: str
) -> None:
    target = tmp_path / "copy"
    with going_on(source, target, system=system):
        until((target / "tree/sub/b.py").exists, 20)
    before = Stamp.of((target / "tree/.gitignore").stat())
    fill(source, {"a.py": "while away\n"})
    fill(target / "tree", {"stray.py": "a copy holds nothing else\n"})
    (source / "sub/b.py").unlink()
    with going_on(source, target, system=system):
        until(lambda: copied(target).keys() == {".gitignore", "a.py"}, 20)
        assert copied(target)["a.py"] == "while away\n"
    assert Stamp.of((target / "tree/.gitignore").stat()) == before


def test_it_ends_quietly_when_it_is_interrupted(source: Path, tmp_path: Path) -> None:
    command = [*program("linux"), "mirror", str(source), str(tmp_path / "copy"), "--follow"]
    # What a shell starts in the background ignores interrupts, and so would all below it.
    command = ["env", "--default-signal=INT", *command]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until((tmp_path / "copy/tree/a.py").exists, 20)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert (process.returncode, "Traceback" in said) == (0, False)


def test_it_is_carried_on_and_again_when_that_failed(source: Path, tmp_path: Path) -> None:
    """By a stub, which copies to a folder as rsync would to a host, but not the first time."""
    fill(tmp_path, {"bin/rsync": STUB_RSYNC.format(there=tmp_path / "there")})
    (tmp_path / "bin/rsync").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    there = tmp_path / "there"
    with going_on(source, tmp_path / "copy", "--host", "gpu1:/srv/shop/", path=path):
        until((there / "tree/a.py").exists, 20)
        fill(source, {"a.py": "saved\n"})
        until(lambda: copied(there).get("a.py") == "saved\n", 20)
    assert copied(there) == copied(tmp_path / "copy")
    *_, where, host = (there / "arguments").read_text().split()
    assert (where, host) == ("./", "gpu1:/srv/shop/")
    assert (there / "directory").read_text() == f"{tmp_path}/copy/tree\n"
    assert "--delete" in (there / "arguments").read_text().split()


def test_nothing_is_taken_back_while_the_tree_cannot_be_followed(
    source: Path, tmp_path: Path
) -> None:
    """As when what is known of it was lost, and is half of it again."""
    target = tmp_path / "copy"
    watch(["mirror", str(source), str(target)])
    follower = Follower(
        name="shop", root=source, state_dir=target / "state", max_file_bytes=9999, poll_seconds=5
    )
    copying = _Following(follower, Tree(source), Copy(target), lambda _: None, None)
    try:
        follower.failure = "the disk was away"
        copying.bring_up()
        assert copied(target).keys() == {".gitignore", "a.py", "sub/b.py"}
        follower.failure = ""
        copying.bring_up()
        assert not copied(target), "now that is all there is"
    finally:
        copying.close()


STUB_RSYNC = """\
#!/bin/sh
[ -e {there} ] || {{ mkdir {there}; echo the host is away >&2; exit 255; }}
echo "$@" > {there}/arguments
pwd > {there}/directory
for last; do from=$before; before=$last; done
mkdir -p {there}/tree && cp -r "$from." {there}/tree
"""


@pytest.mark.skipif(shutil.which("rsync") is None, reason="there is no rsync here")
def test_rsync_makes_a_folder_equal_to_the_copy(source: Path, tmp_path: Path) -> None:
    watch(["mirror", str(source), str(tmp_path / "copy")])
    fill(tmp_path, {"host/tree/old.py": "old\n"})
    carriers.by_rsync(tmp_path / "copy/tree", str(tmp_path / "host/tree"))
    assert copied(tmp_path / "host") == copied(tmp_path / "copy")
    with pytest.raises(carriers.CarryError, match="rsync"):
        carriers.by_rsync(tmp_path / "copy/tree", str(tmp_path / "host/tree/a.py"))


@pytest.mark.parametrize(
    "host", ["/srv/shop", "gpu1", "gpu1:srv", "-oProxyCommand=x:/srv", "gpu1:/", "gpu1:/a b", ""]
)
def test_a_host_that_is_none_is_refused(
    source: Path, tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["mirror", str(source), str(tmp_path / "copy"), "--carry", "rsync", f"--host={host}"]
    assert watch(command) == 2
    assert "SERVER:/DIRECTORY" in capsys.readouterr().err
    assert not (tmp_path / "copy/tree").exists()


@pytest.mark.parametrize("way", carriers.WAYS)
def test_what_keeps_it_running_names_the_copy_and_nothing_of_the_tree(
    source: Path, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / '100% of "it"'
    host = "me@gpu1:/srv/shop"
    assert watch(["mirror", str(source), str(target), "--carry", way, "--host", f"{host}/"]) == 0
    link, enable, *more = capsys.readouterr().out.splitlines()
    assert link.startswith("systemctl --user link ")
    units = enable.removeprefix("systemctl --user enable --now ").split()
    assert units[0] == "infbox-mirror-100--of--it-.service"
    following, *carrying = [(target / unit).read_text() for unit in units]
    words = unquoted(following)
    assert words[1:6] == ["-m", "infbox.cli", "mirror", str(source), str(target)]
    assert ("--host" in words) is (way == "rsync")
    last_words = [unquoted(text)[-1] for text in carrying] + [shlex.split(one)[-1] for one in more]
    names = {"rsync": [], "lsyncd": ["lsyncd.conf.lua"], "mutagen": ["mutagen.yml"]}[way]
    assert last_words == [str(target / name) for name in names]
    for file in map(Path, last_words):
        assert str(target / "tree").replace('"', '\\"') in file.read_text()
        assert host in file.read_text()
        assert f"{source}/" not in file.read_text()
    assert not (target / "tree").exists() or not copied(target), "nothing is copied yet"


@pytest.mark.parametrize("system", SYSTEMS)
def test_units_of_systemd_are_not_written_where_there_is_none(
    source: Path, tmp_path: Path, system: str
) -> None:
    command = [*program(system), "mirror", str(source), str(tmp_path / "copy")]
    command += ["--carry", "rsync", "--host", "gpu1:/srv/shop"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--carry: writes units for systemd" in done.stderr


def unquoted(unit: str) -> list[str]:
    """Return the words of a unit's command, as systemd reads them."""
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]
