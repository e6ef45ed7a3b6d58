"""Which parts of a tree lie where inotify does not tell of every change."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOUNTINFO = "/proc/self/mountinfo"

_OTHERS_WRITE = frozenset(
    {"9p", "afs", "ceph", "cifs", "smb3", "smbfs", "vboxsf", "ncpfs", "gfs2", "ocfs2", "beegfs",
     "lustre", "gpfs", "glusterfs", "virtiofs", "prl_fs", "vmhgfs", "acfs"}
)  # fmt: skip
"""File systems that change without this kernel knowing: another machine writes, or the host."""


class Mount(NamedTuple):
    """A line of mountinfo: where, what, and the options of the file system itself."""

    point: str
    kind: str
    options: tuple[str, ...]


def read(text: bytes) -> list[Mount]:
    """Return the mounts that /proc/self/mountinfo lists, in its order."""
    return [_mount(entry) for entry in text.splitlines() if b" - " in entry]


def blind_spots(
    root: str, mounts: Iterable[Mount], exists: Callable[[str], bool] = os.path.isdir
) -> dict[str, str]:
    """Return the directories at or below a root whose changes inotify may not tell, and why.

    Args:
        root: an absolute directory without links in its path.
        mounts: all of them; a later one at the same place hides an earlier one.
        exists: says whether a directory can be reached from here.

    Returns:
        Absolute paths; the root itself where it lies on such a file system.
    """
    listed = list(mounts)
    over = {mount.point: mount for mount in listed}
    places = [point for point in over if _is_at_or_below(point, root)]
    above = [point for point in over if _is_at_or_below(root, point)]
    if root not in over and above:
        over[root] = over[max(above, key=len)]
        places.append(root)
    judged = {place: _reason(over[place], over, exists) for place in sorted(places)}
    return {place: reason for place, reason in judged.items() if reason}


def inner(root: str, mounts: Iterable[Mount]) -> list[Mount]:
    """Return the mounts that a tree is made of: the one that it lies on, and those inside it."""
    over = {mount.point: mount for mount in mounts}
    above = [point for point in over if _is_at_or_below(root, point)]
    inside = [point for point in over if point != root and _is_at_or_below(point, root)]
    return [over[point] for point in (max(above, key=len, default=""), *inside) if point]


def _reason(mount: Mount, over: dict[str, Mount], exists: Callable[[str], bool]) -> str | None:
    kind = mount.kind
    if kind in _OTHERS_WRITE or kind.startswith(("nfs", "fuse")):
        return kind
    if kind == "overlay":
        changing = [
            layer for layer in _lower_layers(mount.options) if _may_change(layer, over, exists)
        ]
        return f"overlay over {changing[0]}" if changing else None
    return None


def _may_change(layer: str, over: dict[str, Mount], exists: Callable[[str], bool]) -> bool:
    """Say whether somebody here could write to an overlay's lower layer behind its back.

    A layer that cannot be reached from here, as an image's from within its container, cannot be
    told about; those who keep images do not change them.
    """
    if not layer.startswith("/") or not exists(layer):
        return False
    holder = over[max((p for p in over if _is_at_or_below(layer, p)), key=len, default="/")]
    return "ro" not in holder.options


def _lower_layers(options: Iterable[str]) -> list[str]:
    layers: list[str] = []
    for option in options:
        name, _, value = option.partition("=")
        if name == "lowerdir+":
            layers.append(value)
        elif name == "lowerdir":
            layers += [part.replace("\0", ":") for part in value.replace("\\:", "\0").split(":")]
    return [layer for layer in layers if layer]


def _mount(entry: bytes) -> Mount:
    before, _, after = entry.partition(b" - ")
    kind, _source, options = [*after.split(b" "), b"", b""][:3]
    point = _plain(before.split(b" ")[4])
    # A comma in a layer's path is written \, there; only a bare one separates options.
    parts = _plain(options).replace("\\,", "\0").split(",")
    return Mount(point, os.fsdecode(kind), tuple(part.replace("\0", ",") for part in parts))


def _plain(field: bytes) -> str:
    """Undo mountinfo's octal escapes."""
    for escaped, byte in (
        (b"\\040", b" "),
        (b"\\011", b"\t"),
        (b"\\012", b"\n"),
        (b"\\134", b"\\"),
    ):
        field = field.replace(escaped, byte)
    return os.fsdecode(field)


def _is_at_or_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
