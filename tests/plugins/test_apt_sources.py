"""Whether a repository is known to apt already."""

import pytest

from tests.plugins.plugin_files import load

known_elsewhere = load("filter", "apt_sources").known_elsewhere

OWN = "/etc/apt/sources.list.d/ours.sources"
CUDA = "https://nvidia.example/repos/debian12/x86_64"


@pytest.mark.parametrize(
    ("entry", "uri", "known"),
    [
        ("/etc/apt/sources.list.d/cuda-debian12-x86_64.list:1", f"{CUDA}/", True),
        ("/etc/apt/sources.list.d/cuda-debian12-x86_64.list:1", CUDA, True),
        (f"{OWN}:1", f"{CUDA}/", False),
        ("/etc/apt/sources.list.d/cuda.list:1", "https://nvidia.example/repos/debian13/", False),
    ],
)
def test_only_the_same_repository_in_another_file_counts(entry: str, uri: str, known: bool) -> None:
    targets = f"/etc/apt/sources.list:1 http://debian.example/debian/\n{entry} {uri}\n"
    assert known_elsewhere(targets, CUDA, OWN) is known


def test_a_folder_can_be_written_in_two_ways() -> None:
    targets = "/etc/apt/sources.list.d/cuda.list:1 file:/opt/mirror/\n"
    assert known_elsewhere(targets, "file:///opt/mirror", OWN)
