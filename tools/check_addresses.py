"""Check that no file says where this machine gets packages from, or where the checkout lies.

    python tools/check_addresses.py

A lock or a document that names a mirror or a directory of its author's works for nobody else. The
names are not written here: they are read from the configuration of this machine's own apt and pip.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

HOST = re.compile(r"https?://(?:[^/@\s]*@)?([a-z0-9.-]+)", re.IGNORECASE)
# Folders on a host that the product itself names; a checkout there cannot be told from them.
PRODUCT = ("/etc/infbox", "/opt/infbox", "/var/lib/infbox")


def output(*command: str) -> str:
    """Return what a command prints; nothing where it is not installed or fails."""
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def package_hosts() -> set[str]:
    """Return the hosts that apt and pip of this machine fetch from, pip's built-in one too."""
    sources = (
        output("apt-get", "indextargets", "--format", "$(REPO_URI)"),
        output(sys.executable, "-m", "pip", "config", "list"),
        output(sys.executable, "-m", "pip", "install", "--help"),
    )
    return {host.lower() for text in sources for host in HOST.findall(text)}


def machine_paths(root: Path) -> set[str]:
    """Return directories that only this machine has: the checkout's and those of local wheels."""
    paths = {str(root), *os.environ.get("PIP_FIND_LINKS", "").split()}
    return {path for path in paths if path.startswith("/") and not path.startswith(PRODUCT)}


def tracked(root: Path) -> list[Path]:
    """Return the files that git tracks or would, without links."""
    listing = output("git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard")
    paths = (root / name for name in listing.split("\0") if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def mentions(path: Path, names: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that hold one of `names` as a whole, with that name."""
    words = [(name, re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")) for name in names]
    text = path.read_text(encoding="utf-8", errors="replace").lower()
    for number, line in enumerate(text.splitlines(), start=1):
        for name, word in words:
            if name in line and word.search(line):
                yield number, name


def main() -> int:
    """Run the check on this repository."""
    names = sorted(package_hosts() | {path.lower() for path in machine_paths(ROOT)})
    status = 0
    for path in tracked(ROOT):
        for number, name in mentions(path, names):
            where = f"{path.relative_to(ROOT)}:{number}"
            print(f"{where}: {name} holds for this machine only. Remove it.", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
