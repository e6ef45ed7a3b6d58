"""Say where on this host the values of its secrets can be read; runs there, as root.

Prints JSON: for each kind of place, where a secret was found. The values themselves are neither
printed nor in any argument, where they would be found.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SECRETS = Path("/etc/infbox/secrets")
CERTIFICATES = Path("/var/lib/infbox/caddy")
# Shorter ones, such as a name or a word of a configuration, would be found anywhere.
SHORTEST = 20
# What is public by its nature, though it lies among the secrets.
PUBLIC = re.compile(r"(\.pub|known_hosts|\.crt)$")
FOLDERS = {
    "log": "/var/log",
    "unit": "/etc/systemd /run/systemd /usr/local/lib/systemd",
    "configuration": "/etc/infbox",
    "state": "/var/lib/infbox/watcher /var/lib/infbox/lmcache /var/lib/infbox/metrics",
    "workspace": "/srv/workspaces",
}
WORLD_READABLE = r"find / /run /tmp -xdev -type d ! -perm -o+x -prune -o -type f -perm -o+r -print0"


def values() -> Iterator[str]:
    """Yield the values of the secrets: every line that is long enough, and what JSON holds."""
    files = [*SECRETS.rglob("*"), *CERTIFICATES.rglob("*.key")]
    for file in files:
        if file.is_file() and not PUBLIC.search(file.name):
            text = file.read_text(errors="replace")
            yield from re.findall(r'"[^"]+": "([^"]+)"', text)
            if not text.startswith("{"):
                yield from (line.strip() for line in text.splitlines() if "-----" not in line)


def lines(command: str) -> list[str]:
    """Run a command of the shell and return its lines."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def processes(pattern: re.Pattern[bytes], what: str) -> Iterator[str]:
    """Yield the names of the processes in whose `cmdline` or `environ` there is a secret."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if pattern.search((folder / what).read_bytes()):
                yield (folder / "comm").read_text().strip()
        except OSError:  # it ended meanwhile, or is the kernel's
            continue


def main() -> None:
    """Look everywhere and print what was found."""
    wanted = sorted({value for value in values() if len(value) >= SHORTEST})
    if not wanted:
        sys.exit(f"There is no secret below {SECRETS}.")
    pattern = re.compile(b"|".join(re.escape(value.encode()) for value in wanted))
    with tempfile.NamedTemporaryFile("w", dir="/run", prefix="find-secrets-") as file:
        file.write("\n".join(wanted) + "\n")
        file.flush()
        grep = f"grep --fixed-strings --file={file.name}"
        names = f"{grep} --recursive --files-with-matches"
        inside = f"--exclude-dir={SECRETS.name}"
        found = {
            "secrets": [str(len(wanted))],
            "argument": list(processes(pattern, "cmdline")),
            "environment": list(processes(pattern, "environ")),
            "journal": lines(
                f"journalctl --no-pager --all | {grep} | cut --delimiter=: --fields=1-3"
            ),
            "inspect": lines(
                f"docker ps -aq | xargs docker inspect | {grep} --count | grep -v ^0$"
            ),
            "container log": lines(
                "for c in $(docker ps --all --quiet); do"
                f" docker logs $c 2>&1 | {grep} --quiet && echo $c; done"
            ),
            "world-readable": lines(
                f"{WORLD_READABLE} | xargs -0 {grep} --files-with-matches --no-messages"
            ),
        }
        for kind, folders in FOLDERS.items():
            found[kind] = lines(f"{names} {inside} --no-messages {folders}")
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    os.umask(0o077)
    main()
