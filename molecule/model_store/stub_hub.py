"""A stub of the model hub: what its client asks for, answered from a folder, with troubles.

    stub_hub.py PORT FOLDER TOKEN [BYTES_A_SECOND]

FOLDER/OWNER/NAME holds a model; every revision has the same files. FOLDER/latest holds the commit
of the default branch. Only who shows the token gets them. The real hub is not in reach of a test;
its client, which runs against this, is the real one.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE = 64 * 1024
LATEST = "1a7e57" + "0" * 34


@dataclass
class Troubles:
    """What goes wrong. Names are those of files.

    Attributes:
        cut_after: bytes after which each answer with a file's contents breaks off; 0 for never.
        short: bytes that a file seems to have when it is sent.
        flipped: files of which one byte is another one when they are sent.
        answers: statuses and headers that the next requests get in place of what they ask for.
        only_files: whether `answers` are for requests of contents alone.
        gated: whether contents want an account that accepted terms, which no token here has.
        commit: what the hub says that any revision is; as asked for where it is empty.
        revoke_after: bytes after which the token counts no more; -1 for never.
        no_hashes: whether lists leave out sizes and hashes, as simple mirrors do.
        elsewhere: whether large files are at another address, as on a network for delivery.
        no_ranges: whether an answer is always the whole file.
        bytes_a_second: how fast contents come; 0 for as fast as they can.
        hold_at: bytes of a file after which its answer waits for `go_on`; -1 for never.
    """

    cut_after: int = 0
    short: dict[str, int] = field(default_factory=dict)
    flipped: set[str] = field(default_factory=set)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    only_files: bool = False
    gated: bool = False
    commit: str = ""
    revoke_after: int = -1
    no_hashes: bool = False
    elsewhere: bool = False
    no_ranges: bool = False
    bytes_a_second: float = 0
    hold_at: int = -1
    held: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


class StubHub(ThreadingHTTPServer):
    """Serves a folder of models on loopback; counts what it was asked for and what it sent."""

    daemon_threads = True

    def __init__(self, port: int, folder: Path, token: str) -> None:
        """Take the port (0 for any), the folder, and the token; an empty one lets everybody in."""
        super().__init__(("127.0.0.1", port), Handler)
        self.folder = folder
        self.token = token
        self.troubles = Troubles()
        self.requests: list[tuple[str, str]] = []
        self.sent = 0
        self.lock = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away."""

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_port}"

    def trouble_for(self, *, contents: bool) -> tuple[int, dict[str, str]] | None:
        """Return the trouble that a request gets, if any."""
        with self.lock:
            if self.troubles.answers and (contents or not self.troubles.only_files):
                return self.troubles.answers.pop(0)
        return None

    def latest(self) -> str:
        """Return the commit of the default branch."""
        told = self.folder / "latest"
        return told.read_text().strip() if told.is_file() else LATEST

    def revoked(self) -> bool:
        """Return whether the token counts no more."""
        return 0 <= self.troubles.revoke_after <= self.sent


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does."""

    server: StubHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer what a model is, what files it has, and each of them."""
        parts = self.path.partition("?")[0].strip("/").split("/")
        self.server.requests.append((self.path, self.headers.get("Range", "")))
        if trouble := self.server.trouble_for(contents="resolve" in parts):
            self.answer(trouble[0], b"", trouble[1])
        elif parts[0] == "elsewhere":
            self.elsewhere("/".join(parts[1:]))
        elif not self.allowed():
            self.error(401, "", "Invalid credentials in Authorization header")
        elif parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            self.model("/".join(parts[2:4]), parts[5])
        elif parts[:2] == ["api", "models"] and len(parts) == 4:  # noqa: PLR2004
            self.model("/".join(parts[2:]), self.server.latest())
        elif parts[2:3] == ["resolve"]:
            self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.error(404, "RepoNotFound", "Repository not found")

    def allowed(self) -> bool:
        """Return whether the token is the right one."""
        if self.server.revoked():
            return False
        shown = self.headers.get("Authorization")
        return not self.server.token or shown == f"Bearer {self.server.token}"

    def model(self, name: str, revision: str) -> None:
        """Answer what a model is, and what files it has."""
        folder = self.server.folder / name
        if not folder.is_dir():
            self.error(404, "RepoNotFound", "Repository not found")
            return
        if revision.startswith("0000"):
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        siblings = [self.entry(path, str(path.relative_to(folder))) for path in paths]
        commit = self.server.troubles.commit or revision
        self.answer(200, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())

    def entry(self, path: Path, name: str) -> dict[str, object]:
        """Return a file as the lists of the hub have it: large ones with their SHA-256."""
        if self.server.troubles.no_hashes:
            return {"rfilename": name}
        contents = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(contents) + contents).hexdigest()  # noqa: S324
        lfs = {
            "sha256": hashlib.sha256(contents).hexdigest(),
            "size": len(contents),
            "pointerSize": 134,
        }
        return {
            "rfilename": name,
            "blobId": blob,
            "size": len(contents),
            **({"lfs": lfs} if path.suffix == ".safetensors" else {}),
        }

    def resolve(self, name: str, revision: str, file: str) -> None:
        """Give a file, or say where it is."""
        path = self.server.folder / name / file
        commit = {"X-Repo-Commit": self.server.troubles.commit or revision}
        if self.server.troubles.gated:
            self.error(403, "GatedRepo", "Access to this model is restricted")
        elif not path.is_file():
            self.error(404, "EntryNotFound", "Entry not found")
        elif self.server.troubles.elsewhere and path.suffix == ".safetensors":
            # The same server by another name is another one to the client.
            place = f"http://localhost:{self.server.server_port}/elsewhere/{name}/{file}"
            self.answer(302, b"", {"Location": place, **commit})
        else:
            self.contents(path, commit)

    def elsewhere(self, file: str) -> None:
        """Give a file where no token may ever be shown."""
        if "Authorization" in self.headers:
            self.error(400, "", "the token was given away")
        else:
            self.contents(self.server.folder / file, {})

    def contents(self, path: Path, headers: dict[str, str]) -> None:
        """Send a file, from where the client wants it, with its troubles."""
        troubles = self.server.troubles
        contents = bytearray(path.read_bytes())
        if path.name in troubles.flipped:
            contents[len(contents) // 2] ^= 1
        contents = contents[: troubles.short.get(path.name, len(contents))]
        start = 0 if troubles.no_ranges else int(self.headers.get("Range", "bytes=0-")[6:-1])
        if start and start >= len(contents):
            self.answer(416, b"")
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(contents) - start))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.send(bytes(contents), start)

    def send(self, contents: bytes, start: int) -> None:
        """Send contents in pieces, as long as the troubles let them pass."""
        troubles = self.server.troubles
        end = start + troubles.cut_after if troubles.cut_after else len(contents)
        for at in range(start, min(end, len(contents)), PIECE):
            if 0 <= troubles.hold_at <= at:
                troubles.held.set()
                troubles.go_on.wait()
            piece = contents[at : min(at + PIECE, end)]
            try:
                self.wfile.write(piece)
            except OSError:
                break
            with self.server.lock:
                self.server.sent += len(piece)
            if self.server.revoked() and self.server.token:
                break
            if troubles.bytes_a_second:
                time.sleep(len(piece) / troubles.bytes_a_second)
        else:
            if end >= len(contents):
                return
        self.close_connection = True

    def error(self, status: int, code: str, message: str) -> None:
        """Refuse as the hub does, which says why in headers."""
        self.answer(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def answer(self, status: int, contents: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        self.wfile.write(contents)


if __name__ == "__main__":
    hub = StubHub(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    hub.troubles.bytes_a_second = float(sys.argv[4]) if sys.argv[4:] else 0
    hub.serve_forever()
