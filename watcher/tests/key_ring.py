"""A directory of keys, what serves of them, and how to ask by one."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infbox.auth.keyring import Change, Keyring
from infbox.auth.keys import Limits

PROGRAM = Path(sys.executable).with_name("infbox-keys")


class Ring:
    """A folder of keys and what serves of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "api-keys"
        self.folder.mkdir(mode=0o700)
        (folder / "served").mkdir(mode=0o750)
        self.digests = folder / "served/users.json"
        self.ring = Keyring(self.folder, self.digests)

    def apply(self, *users: str, is_dry: bool = False, **limits: Any) -> Change:
        return self.ring.apply(dict.fromkeys(users, Limits(**limits)), is_dry=is_dry)

    def key(self, user: str) -> str:
        return (self.folder / user).read_text().strip()

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        places: list[str | Path] = ["--digests", self.digests, "--directory", self.folder]
        return subprocess.run(
            [PROGRAM, *places, *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )


def ask(
    url: str, *headers: tuple[str, str], path: str = "/authorize"
) -> tuple[int, dict[str, str], Any]:
    """Ask whether a request with these headers may go on."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)) as client:
        client.putrequest("GET", path)
        for name, value in headers:
            client.putheader(name, value)
        client.endheaders()
        answer = client.getresponse()
        body = answer.read()
    fields = {name.lower(): value for name, value in answer.getheaders()}
    is_json = fields.get("content-type", "").startswith("application/json")
    return answer.status, fields, json.loads(body) if is_json and body else None


def bearer(key: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {key}"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
