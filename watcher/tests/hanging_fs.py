"""A file system that can be made to hang: what another folder holds, read only, by way of FUSE.

Told to fold, it finds a file by any case and composition of its name, as macOS does.

It is a process of its own. Stopped by SIGSTOP it answers nothing, as a network file system whose
server is away; with SIGCONT it goes on. Run as a program it mounts and serves until it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

# From linux/fuse.h, version 7.31.
_IN = Struct("IIQQIIIHH")
_OUT = Struct("IiQ")
_LOOKUP, _FORGET, _GETATTR, _READLINK, _OPEN, _READ, _STATFS = 1, 2, 3, 5, 14, 15, 17
_RELEASE, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR, _ACCESS = 18, 25, 26, 27, 28, 29, 34
_INTERRUPT, _DESTROY, _BATCH_FORGET = 36, 38, 42
_SILENT = {_FORGET, _BATCH_FORGET, _INTERRUPT}
_EMPTY = {_RELEASE, _FLUSH, _RELEASEDIR, _ACCESS, _DESTROY}
_ATTRIBUTES = Struct("QQQQQQIIIIIIIIII")
_READING = Struct("QQI")


class HangingFileSystem:
    """Where it is mounted, and the process that serves it."""

    def __init__(self, place: Path, process: subprocess.Popen[bytes]) -> None:
        self.place = place
        self._process = process

    def hang(self) -> None:
        """Answer nothing from now on."""
        self._process.send_signal(signal.SIGSTOP)

    def answer(self) -> None:
        """Go on, with what was asked meanwhile too."""
        self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def hanging_file_system(
    source: Path, place: Path, *, folds: bool = False
) -> Iterator[HangingFileSystem | None]:
    """Mount one until the block is left; give None where that may not be done here."""
    place.mkdir()
    process = subprocess.Popen(
        [sys.executable, __file__, str(source), str(place), *["--fold"] * folds],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        is_mounted = process.stdout.readline() == b"mounted\n"
        yield HangingFileSystem(place, process) if is_mounted else None
    finally:
        process.kill()  # which ends what waits for it
        process.wait()
        process.stdout.close()
        subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)


class _Server:
    def __init__(self, source: str, device: int, folds: bool) -> None:
        self._device = device
        self._folds = folds
        self._paths = {1: source}
        self._numbers = {source: 1}

    def serve(self) -> None:
        while True:
            request = os.read(self._device, 1 << 20)
            _, opcode, unique, node, *_ = _IN.unpack_from(request)
            if opcode in _SILENT:
                continue
            try:
                error, answer = 0, self._answer(opcode, node, request[_IN.size :])
            except OSError as failure:
                error, answer = -(failure.errno or errno.EIO), b""
            with contextlib.suppress(FileNotFoundError):  # nobody waits for it any more
                os.write(self._device, _OUT.pack(_OUT.size + len(answer), error, unique) + answer)

    def _answer(self, opcode: int, node: int, body: bytes) -> bytes:  # noqa: PLR0911
        path = self._paths[node] if node else ""
        if opcode == _INIT:
            return Struct("IIIIHHIIHHI7I").pack(
                *(7, 31, 1 << 16, 0, 16, 12, 1 << 16, 1, 0, 0, 0), *[0] * 7
            )
        if opcode == _LOOKUP:
            below = f"{path}/{self._found(path, os.fsdecode(body.rstrip(bytes(1))))}"
            attributes = _attributes(os.lstat(below))
            number = self._numbers.setdefault(below, len(self._numbers) + 1)
            self._paths[number] = below
            return Struct("QQQQII").pack(number, 0, 0, 0, 0, 0) + attributes
        if opcode == _GETATTR:
            return Struct("QII").pack(0, 0, 0) + _attributes(os.lstat(path))
        if opcode == _READLINK:
            return os.fsencode(Path(path).readlink())
        if opcode in (_OPEN, _OPENDIR):
            return Struct("QII").pack(0, 0, 0)
        if opcode == _READ:
            _, offset, size = _READING.unpack_from(body)
            with Path(path).open("rb") as file:
                return os.pread(file.fileno(), size, offset)
        if opcode == _READDIR:
            _, offset, size = _READING.unpack_from(body)
            return _entries(path, offset, size)
        if opcode == _STATFS:
            return Struct("QQQQQIIII6I").pack(*[0] * 5, 4096, 255, *[0] * 8)
        if opcode in _EMPTY:
            return b""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def _found(self, directory: str, name: str) -> str:
        """Return the name that a directory has for the one that is looked up."""
        if not self._folds:
            return name
        names = (
            path.name for path in Path(directory).iterdir() if _folded(path.name) == _folded(name)
        )
        return next(names, name)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _attributes(status: os.stat_result) -> bytes:
    times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
    return _ATTRIBUTES.pack(
        *(status.st_ino, status.st_size, status.st_blocks, *(t // 10**9 for t in times)),
        *(*(t % 10**9 for t in times), status.st_mode, status.st_nlink),
        *(status.st_uid, status.st_gid, 0, 4096, 0),
    )


def _entries(path: str, offset: int, size: int) -> bytes:
    found = b""
    for number, entry in list(enumerate(sorted(os.scandir(path), key=lambda e: e.name), 1))[
        offset:
    ]:
        name = os.fsencode(entry.name)
        kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) >> 12
        one = Struct("QQII").pack(entry.inode(), number, len(name), kind) + name
        one += bytes(-len(one) % 8)
        if len(found) + len(one) > size:
            break
        found += one
    return found


def _main() -> None:
    source, place, *more = sys.argv[1:]
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    mount = ctypes.CDLL(None, use_errno=True).mount
    if mount(b"hanging", place.encode(), b"fuse", 0, options.encode()):
        raise SystemExit(os.strerror(ctypes.get_errno()))
    print("mounted", flush=True)
    _Server(source, device, folds=bool(more)).serve()


if __name__ == "__main__":
    _main()
