"""vLLM's source package: fetched by its hash from where this machine's pip gets packages."""

from __future__ import annotations

import hashlib
import re
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin

import httpx2
from make_environment import pip_settings

from lab.settings import STATE
from lab.shell import LabError, run, step

HERE = Path(__file__).resolve().parent
CACHE = STATE / ".cache" / "conformance"
TRIES = 4
_TIMEOUT = httpx2.Timeout(60.0)
_PINNED = re.compile(r"^vllm==(\S+) \\\n\s+--hash=sha256:(\w{64})$", re.MULTILINE)
_BUILT_IN_INDEX = re.compile(r"--index-url.*?default\s+(https?://[^\s)]+)", re.DOTALL)
_LINK = re.compile(r'href="([^"]+)"')


class Pinned(NamedTuple):
    """Which source package.

    Attributes:
        version: of vLLM.
        sha256: of the file.
    """

    version: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return f"vllm-{self.version}.tar.gz"


def pinned(text: str | None = None) -> Pinned:
    """Return what ``sdist.txt`` pins.

    Args:
        text: what stands there, where that is known.

    Raises:
        LabError: nothing is pinned there.
    """
    lock = HERE / "sdist.txt"
    found = _PINNED.search(lock.read_text() if text is None else text)
    if not found:
        raise LabError(f"{lock} pins no vllm: write `vllm==VERSION \\`, and its hash below.")
    return Pinned(*found.groups())


def fetch(wanted: Pinned, folder: Path = CACHE, indexes: Sequence[str] | None = None) -> Path:
    """Return the source package, downloaded unless it is there.

    Args:
        wanted: which one.
        folder: where it is kept.
        indexes: addresses of package indexes; those of this machine's pip unless given.

    Raises:
        LabError: no index has it, or none can be reached; the message says what to do.
    """
    file = folder / wanted.name
    if file.exists() and _sha256(file) == wanted.sha256:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    with step(f"Downloading {wanted.name} (45 MB, once)"):
        for number in range(TRIES):
            time.sleep(number * 2)
            for index in pip_indexes() if indexes is None else indexes:
                try:
                    _download(index, wanted, file)
                except (httpx2.HTTPError, LabError, OSError) as error:
                    failures.append(f"{type(error).__name__}: {error}")
                else:
                    return file
    raise LabError(
        f"vLLM's tests need {wanted.name}, and no package index of this machine's pip gave it in"
        f" {TRIES} tries. Make one reachable (`pip config list` shows which there are), or put the"
        f" file at {file}.\nThe last failures:\n  " + "\n  ".join(failures[-3:])
    )


def _download(index: str, wanted: Pinned, file: Path) -> None:
    """Download the file from one index."""
    page = f"{index.rstrip('/')}/vllm/"
    options = {"follow_redirects": True, "timeout": _TIMEOUT}
    links = _LINK.findall(_text(page, options))
    named = [link for link in links if link.partition("#")[0].endswith(f"/{wanted.name}")]
    if not named:
        raise LabError(f"an index has no {wanted.name}")
    part = file.with_suffix(".part")
    with httpx2.stream("GET", urljoin(page, named[0]), **options) as answer:  # type: ignore[arg-type]
        answer.raise_for_status()
        with part.open("wb") as out:
            for piece in answer.iter_bytes():
                out.write(piece)
    if (found := _sha256(part)) != wanted.sha256:
        part.unlink()
        raise LabError(f"{wanted.name} has the SHA-256 {found}, not {wanted.sha256}")
    part.rename(file)


def _text(page: str, options: dict[str, object]) -> str:
    answer = httpx2.get(page, headers={"Accept": "text/html"}, **options)  # type: ignore[arg-type]
    return answer.raise_for_status().text


def pip_indexes() -> Iterator[str]:
    """Yield the addresses of the package indexes that this machine's pip asks."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    settings = pip_settings(run([*pip, "config", "list"]))
    help_text = run([*pip, "install", "--help"])
    built_in = _BUILT_IN_INDEX.search(help_text)
    own = settings.get("index-url") or (built_in[1] if built_in else "")
    for address in f"{own} {settings.get('extra-index-url', '')}".split():
        if address.startswith(("http://", "https://")):
            yield address


def packages() -> Path:
    """Return the directory with what the tests import and the engine image does not have.

    Raises:
        LabError: it could not be installed.
    """
    lock = HERE / "requirements.txt"
    folder = CACHE / f"packages-{_sha256(lock)[:12]}"
    if not folder.exists():
        part = folder.with_suffix(".part")
        run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade",
             "--require-hashes", "--target", part, "--requirement", lock])  # fmt: skip
        part.rename(folder)
    return folder


def unpack(archive: Path, folder: Path, parts: Sequence[str]) -> None:
    """Write the Python files of these parts of vLLM's tests below a directory.

    Args:
        archive: the source package.
        folder: that is filled.
        parts: files and directories below ``tests``.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.partition("/tests/")[2]
            is_wanted = any(name == part or name.startswith(f"{part}/") for part in parts)
            is_text = name.endswith(".py") and ".." not in name.split("/")
            source = tar.extractfile(member) if is_wanted and is_text else None
            if source is not None:
                file = folder / "tests" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(source.read())


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
