"""A stub of the model hub: what its client asks for, answered from a folder of models.

    stub_hub.py PORT FOLDER TOKEN

FOLDER/OWNER/NAME holds a model; every revision has the same files. Only who shows the token gets
them. The real hub is not in reach of a test; its client, which runs against this, is the real one.
"""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Answers for the folder and the token of the command line."""

    folder = Path(sys.argv[2])
    token = sys.argv[3]

    def do_HEAD(self) -> None:
        """Answer as to GET, without the contents."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer what a model is, what files it has, and each of them."""
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            self.answer(401, b"no token")
            return
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, what, revision = "/".join(parts[2:4]), parts[4], parts[5]
            files = [self.entry(path) for path in sorted((self.folder / name).iterdir())]
            known = {"id": name, "sha": revision, "siblings": files}
            self.answer(200, json.dumps(files if what == "tree" else known).encode())
        elif parts[2:3] == ["resolve"]:
            self.file(self.folder / parts[0] / parts[1] / "/".join(parts[4:]), parts[3])
        else:
            self.answer(404, b"")

    def entry(self, path: Path) -> dict[str, object]:
        """Return a file as the lists of the hub have it: large ones with their hash."""
        contents = path.read_bytes()
        digest = hashlib.sha256(contents).hexdigest()
        lfs = {"sha256": digest, "oid": digest, "size": len(contents), "pointerSize": 134}
        return {
            "type": "file",
            "path": path.name,
            "rfilename": path.name,
            "oid": digest[:40],
            "size": len(contents),
            **({"lfs": lfs} if path.suffix == ".safetensors" else {}),
        }

    def file(self, path: Path, revision: str) -> None:
        """Give a file with the headers by which the client knows it."""
        if not path.is_file():
            self.answer(404, b"")
            return
        contents = path.read_bytes()
        etag = hashlib.sha256(contents).hexdigest()
        self.answer(200, contents, {"ETag": f'"{etag}"', "X-Repo-Commit": revision})

    def answer(self, status: int, contents: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(contents)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
