"""What apt's configuration says of a repository, told by real apt of entries of the test's own."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.plugin_files import ROOT, load

apt_sources = load("filter", "apt_sources")
pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt here")

OWN = "/etc/apt/sources.list.d/infbox-ours.sources"
KEY = "signed-by=/usr/share/keyrings/theirs.gpg"
FLAT = {"uri": "https://nvidia.example/stable/deb/amd64", "suite": "/"}
SUITE = {"uri": "https://docker.example/linux/debian", "suite": "trixie", "components": "stable"}


class Apt:
    """An apt whose configuration lies in a directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.parts = root / "etc/apt/sources.list.d"
        for name in ("etc/apt/sources.list.d", "var/lib/apt/lists/partial", "var/lib/dpkg"):
            (root / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        # Nothing of this machine's configuration but what apt cannot do without.
        (root / "apt.conf").write_text(
            f'Dir "{root}";\nDir::State::status "{root}/var/lib/dpkg/status";\n'
            f'Dir::Etc::Parts "{root}/none";\n'
            'APT::Architecture "amd64";\nAPT::Architectures {"amd64";};\n'
        )

    def asks(self) -> tuple[int, str, str]:
        """Ask the role's own question; return the status and what is printed, with usual paths."""
        variables = yaml.safe_load((ROOT / "roles/common/vars/main.yml").read_text())
        question = variables["_common_apt_question"].replace(
            "$(dpkg --print-architecture)", "amd64"
        )
        done = subprocess.run(
            ["/bin/sh", "-c", question], capture_output=True, text=True, check=False,
            env={"PATH": "/usr/bin:/bin", "APT_CONFIG": str(self.root / "apt.conf")},
        )  # fmt: skip
        return done.returncode, done.stdout.replace(str(self.root), ""), done.stderr

    def knows(self, repository: dict[str, Any] | None, **files: str) -> dict[str, Any]:
        """Return what the filter makes of apt's answer, with these entries."""
        for name, text in files.items():
            (self.parts / name.replace("_", ".")).write_text(text)
        status, told, said = self.asks()
        assert status == 0, said
        answer: dict[str, Any] = apt_sources.apt_repository(told, repository, OWN)
        return answer


@pytest.fixture
def apt(tmp_path: Path) -> Apt:
    return Apt(tmp_path / "root")


def deb822(uri: str, suite: str, *more: str) -> str:
    return "\n".join(("Types: deb", f"URIs: {uri}", f"Suites: {suite}", *more)) + "\n"


@pytest.mark.parametrize(
    "entry",
    [
        f"deb [{KEY}] https://nvidia.example/stable/deb/$(ARCH) /",
        f"deb [{KEY}] https://nvidia.example/stable/deb/amd64/ /",
        f"deb [{KEY}] https://nvidia.example/stable/deb amd64/",
        f"deb [{KEY}] https://nvidia.example/stable/deb/amd64 ./",
        f"deb [arch=amd64 {KEY}] http://NVIDIA.example:80/stable//deb/amd64 /",
        "deb https://user:secret@nvidia.example/stable/deb/amd64 /",
        "deb [trusted=yes] tor+https://nvidia.example/stable/deb/amd64/ /",
    ],
)
def test_one_repository_is_known_however_it_is_written(apt: Apt, entry: str) -> None:
    known = apt.knows(FLAT, theirs_list=f"# theirs\n{entry}\n")
    assert known == {
        "state": "elsewhere",
        "files": ["/etc/apt/sources.list.d/theirs.list"],
        "downloaded": False,
    }


@pytest.mark.parametrize(
    "more",
    [(), ("Signed-By: /etc/apt/keyrings/docker.asc",), ("Architectures: arm64 amd64",)],
)
def test_an_entry_with_several_uris_suites_and_components_counts(
    apt: Apt, more: tuple[str, ...]
) -> None:
    uris = "https://other.example/debian https://docker.example/linux/debian/"
    entry = deb822(uris, "bookworm trixie", "Components: test stable", *more)
    assert apt.knows(SUITE, docker_sources=entry)["state"] == "elsewhere"


@pytest.mark.parametrize(
    ("repository", "entry"),
    [
        (FLAT, f"# deb [{KEY}] https://nvidia.example/stable/deb/amd64 /\n"),
        (FLAT, f"deb [{KEY}] https://nvidia.example/stable/deb/arm64 /\n"),
        (FLAT, f"deb [{KEY}] https://nvidia.example/experimental/deb/amd64 /\n"),
        (FLAT, f"deb [{KEY}] https://mirror.example/nvidia/stable/deb/amd64 /\n"),
        (SUITE, f"deb [{KEY}] https://docker.example/linux/debian bookworm stable\n"),
        (SUITE, f"deb [{KEY}] https://docker.example/linux/ubuntu trixie stable\n"),
    ],
)
def test_another_repository_does_not_count(
    apt: Apt, repository: dict[str, str], entry: str
) -> None:
    assert apt.knows(repository, theirs_list=entry)["state"] == "absent"
    # It does not stop apt either when infbox's entry stands beside it.
    mine = deb822(repository["uri"], repository["suite"], "Signed-By: /etc/apt/keyrings/ours.asc")
    if components := repository.get("components"):
        mine += f"Components: {components}\n"
    known = apt.knows(repository, **{"infbox-ours_sources": mine})
    assert known["state"] == "own"


def test_an_entry_that_is_switched_off_does_not_count(apt: Apt) -> None:
    entry = deb822(FLAT["uri"], "/", "Signed-By: /x.gpg", "Enabled: no")
    assert apt.knows(FLAT, theirs_sources=entry)["state"] == "absent"


@pytest.mark.parametrize(
    ("repository", "entry"),
    [
        (SUITE, f"deb [{KEY}] https://docker.example/linux/debian trixie test\n"),
        (SUITE, f"deb [arch=arm64 {KEY}] https://docker.example/linux/debian trixie stable\n"),
        (SUITE, f"deb-src [{KEY}] https://docker.example/linux/debian trixie stable\n"),
        (FLAT, f"deb-src [{KEY}] https://nvidia.example/stable/deb/amd64 /\n"),
    ],
)
def test_an_entry_without_the_packages_is_unusable_and_named(
    apt: Apt, repository: dict[str, str], entry: str
) -> None:
    known = apt.knows(repository, theirs_list=entry)
    assert known["state"] == "unusable"
    assert known["files"] == ["/etc/apt/sources.list.d/theirs.list"]


@pytest.mark.parametrize("theirs", ["https", "http"])
def test_two_keys_for_one_repository_are_told_as_a_conflict_of_the_files_that_name_it(
    apt: Apt, theirs: str
) -> None:
    entry = f"deb [{KEY}] {theirs}://nvidia.example/stable/deb/$(ARCH) /\n"
    apt.knows(
        FLAT, theirs_list=entry, off_list=f"#{entry}", more_list=entry.replace("/deb/", "/x/")
    )
    mine = deb822(FLAT["uri"], "/", "Signed-By: /etc/apt/keyrings/ours.asc")
    (apt.parts / "infbox-ours.sources").write_text(mine)
    status, _, said = apt.asks()
    assert status != 0
    found = subprocess.run(
        ["grep", "-Erl", apt_sources.apt_conflict(said), str(apt.parts)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stderr == ""
    named = {Path(line).name for line in found.stdout.splitlines()}
    assert named == {"infbox-ours.sources", "theirs.list"}
    errors = apt_sources.apt_errors(said)
    assert errors.count("Conflicting values set for option Signed-By") == 1


def test_another_mistake_is_no_conflict_and_told_in_apts_words(apt: Apt) -> None:
    (apt.parts / "broken.list").write_text("dep https://nvidia.example/ /\n")
    status, _, said = apt.asks()
    assert status != 0
    assert apt_sources.apt_conflict(said) == ""
    assert re.search(
        r"Type 'dep' is not known on line 1 in source list .*broken\.list",
        apt_sources.apt_errors(said),
    )


def test_an_apt_that_reads_other_files_is_left_to_them(apt: Apt) -> None:
    (apt.root / "bundle").mkdir()
    with (apt.root / "apt.conf").open("a") as file:
        file.write(f'Dir::Etc::SourceParts "{apt.root}/bundle";\n')
    assert apt.knows(FLAT)["state"] == "redirected"


def test_lists_that_were_downloaded_are_told(apt: Apt, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "Packages").write_text(
        "Package: a\nVersion: 1\nArchitecture: all\nFilename: ./a.deb\nSize: 1\n"
    )
    repository = {"uri": f"file://{mirror}", "suite": "/"}
    entry = f"deb [trusted=yes] file:{mirror} /\n"
    assert apt.knows(repository, theirs_list=entry)["downloaded"] is False
    subprocess.run(
        ["apt-get", "update", "-o", "APT::Sandbox::User=root"], check=True, capture_output=True,
        env={"PATH": "/usr/bin:/bin", "APT_CONFIG": str(apt.root / "apt.conf")},
    )  # fmt: skip
    assert apt.knows(repository)["downloaded"] is True


def test_errors_are_bounded() -> None:
    said = "".join(f"E: mistake {number}\n" for number in range(1000))
    assert len(apt_sources.apt_errors(said)) <= 600


MADISON = """
core | 1:4.7.0-1 | https://cuda.example Packages
core | 1:4.5.2-1 | https://cuda.example Packages
core | 1:4.5.2-1 | https://other.example Packages
plug | 1:4.6.1-1 | https://cuda.example Packages
plug | 1:4.5.2-1+b1 | https://cuda.example Packages
other | 9 | https://cuda.example Packages
W: noise
"""


@pytest.mark.parametrize(
    ("packages", "candidates", "found"),
    [
        (["core", "plug"], ["4.5.2"], {"core": "1:4.5.2-1", "plug": "1:4.5.2-1+b1"}),
        (["core", "plug"], ["4.7.0", ""], {"core": "1:4.5.2-1", "plug": "1:4.5.2-1+b1"}),
        (["core"], ["4.4.0", ""], {"core": "1:4.7.0-1"}),
        (
            ["core", "plug"],
            ["4.7.0"],
            {"core": "!1:4.7.0-1, 1:4.5.2-1", "plug": "!1:4.6.1-1, 1:4.5.2-1+b1"},
        ),
        (["gone"], [""], {"gone": "!none"}),
    ],
)
def test_the_first_version_is_taken_that_all_packages_have(
    packages: list[str], candidates: list[str], found: dict[str, str]
) -> None:
    assert apt_sources.apt_common_version(MADISON, packages, candidates) == found
