"""Which file systems inotify does not tell everything about."""

from __future__ import annotations

import pytest

from infbox.tree import mounts

ROOT = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"


def spots(text: bytes, root: str = "/srv/shop", reachable: tuple[str, ...] = ()) -> dict[str, str]:
    return mounts.blind_spots(root, mounts.read(ROOT + text), lambda path: path in reachable)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "zfs", "ext3"])
def test_a_local_file_system_is_trusted(kind: str) -> None:
    assert spots(f"30 22 0:30 / /srv rw - {kind} none rw\n".encode()) == {}


@pytest.mark.parametrize(
    "kind",
    [*("nfs", "nfs4", "9p", "cifs", "smb3", "fuse", "fuse.sshfs", "fuseblk", "ceph", "afs"),
     *("vboxsf", "virtiofs")],
)  # fmt: skip
def test_one_that_others_write_to_is_not(kind: str) -> None:
    assert spots(f"30 22 0:30 / /srv rw - {kind} host:/x rw\n".encode()) == {"/srv/shop": kind}


def test_only_mounts_at_or_below_the_root_count() -> None:
    text = (
        b"30 22 0:30 / /srv/shop/vendor rw - nfs4 h:/v rw\n"
        b"31 22 0:31 / /srv/shopping rw - nfs4 h:/s rw\n"
        b"32 22 0:32 / /home rw - nfs4 h:/h rw\n"
    )
    assert spots(text) == {"/srv/shop/vendor": "nfs4"}


def test_what_is_mounted_over_another_counts() -> None:
    below = b"30 22 0:30 / /srv rw - nfs4 h:/s rw\n"
    assert spots(below + b"31 30 0:31 / /srv rw - ext4 /dev/b rw\n") == {}
    assert spots(below + b"31 30 0:31 / /srv/shop rw - ext4 /dev/b rw\n") == {}


OVERLAY = b"30 22 0:30 / /srv/shop rw - overlay overlay rw,lowerdir=%b,upperdir=/u,workdir=/w\n"


def test_an_overlay_whose_lower_layers_nobody_here_can_reach_is_trusted() -> None:
    assert spots(OVERLAY % b"/var/lib/docker/l/A:/var/lib/docker/l/B") == {}


def test_an_overlay_over_a_folder_that_may_change_is_not() -> None:
    found = spots(OVERLAY % b"/gone:/base", reachable=("/base",))
    assert found == {"/srv/shop": "overlay over /base"}
    newer = b"30 22 0:30 / /srv/shop rw - overlay o rw,lowerdir+=/one,lowerdir+=/base\n"
    assert spots(newer, reachable=("/base",)) == {"/srv/shop": "overlay over /base"}


def test_an_overlay_over_what_cannot_be_written_is_trusted() -> None:
    image = b"29 22 0:29 / /base ro - squashfs /image ro\n"
    assert spots(image + OVERLAY % b"/base", reachable=("/base",)) == {}


def test_odd_names_are_read_as_they_are() -> None:
    text = b"30 22 0:30 / /srv/shop/a\\040b\\134c rw - nfs4 h:/x rw\n"
    assert spots(text) == {"/srv/shop/a b\\c": "nfs4"}
    escaped = OVERLAY % b"/a\\134:b"
    assert spots(escaped, reachable=("/a:b",)) == {"/srv/shop": "overlay over /a:b"}
