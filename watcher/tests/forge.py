"""A forge: git's own server over HTTP, with what one may do to a repository."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from trees import fill, git

if TYPE_CHECKING:
    from collections.abc import Iterator

HTTP_BACKEND = "/usr/lib/git-core/git-http-backend"
_PIECE = 1 << 16
MOVED, UNAUTHORIZED, AWAY = 301, 401, 503


class Forge:
    """Bare repositories, and a developer's clone of each.

    Attributes:
        folder: with a bare repository by name.
        url: of the folder.
        token: that a request must have; empty for none.
        is_away: whether every request fails.
        pace: seconds for each 64 KiB of an answer.
        moved_to: where every request is sent; empty for none.
        asked: the paths that were asked for, with their queries.
        given: what came as authorization.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.token = ""
        self.is_away = False
        self.pace = 0.0
        self.moved_to = ""
        self.asked: list[str] = []
        self.given: list[str] = []

    def repository(self, name: str = "shop", **files: str) -> Work:
        """Make a repository, with a first commit where there are files."""
        bare = self.folder / f"{name}.git"
        git(self.folder, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
        git(bare, "config", "uploadpack.allowFilter", "true")
        work = Work(self.folder / f"work-{name}", bare, f"{self.url}/{name}.git")
        git(self.folder, "clone", "--quiet", str(bare), str(work.folder))
        git(work.folder, "checkout", "--quiet", "-B", "main")
        if files:
            work.push(**files)
        return work


class Work:
    """A developer's clone of a repository.

    Attributes:
        folder: of it.
        bare: the repository.
        url: of the repository.
    """

    def __init__(self, folder: Path, bare: Path, url: str) -> None:
        self.folder = folder
        self.bare = bare
        self.url = url

    def push(self, *options: str, to: str = "main", **files: str) -> str:
        """Commit files, ``a__b_py`` for ``a/b.py``, and push; return the commit."""
        named = {path.replace("__", "/").replace("_", "."): text for path, text in files.items()}
        fill(self.folder, named)
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--allow-empty", "--message", "more")
        git(self.folder, "push", "--quiet", *options, "origin", f"HEAD:refs/heads/{to}")
        return git(self.folder, "rev-parse", "HEAD").decode().strip()


@contextlib.contextmanager
def forge(folder: Path) -> Iterator[Forge]:
    """Serve the repositories of a folder until the block is left."""
    place = Forge(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, place)

        do_POST = do_GET  # noqa: N815  # as http.server wants it

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as above
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield place
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _answer(request: BaseHTTPRequestHandler, place: Forge) -> None:
    place.asked.append(request.path)
    given = request.headers.get("Authorization", "")
    place.given.append(given)
    body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
    if place.is_away:
        request.send_error(AWAY)
    elif place.moved_to:
        request.send_response(MOVED)
        request.send_header("Location", place.moved_to + request.path)
        request.send_header("Content-Length", "0")
        request.end_headers()
    elif place.token and place.token not in base64.b64decode(given[6:]).decode():
        request.send_response(UNAUTHORIZED)
        request.send_header("WWW-Authenticate", 'Basic realm="forge"')
        request.send_header("Content-Length", "0")
        request.end_headers()
    else:
        _serve(request, place, body)


def _serve(request: BaseHTTPRequestHandler, place: Forge, body: bytes) -> None:
    """Have git answer, by the rules of CGI."""
    path, _, query = request.path.partition("?")
    environment = {
        **os.environ, "GIT_PROJECT_ROOT": str(place.folder), "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": request.command,
        "CONTENT_TYPE": request.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""), "REMOTE_ADDR": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(
        [HTTP_BACKEND], input=body, env=environment, capture_output=True, check=False
    )
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    fields = dict(row.split(": ", 1) for row in head.decode().split("\r\n"))
    request.send_response(int(fields.pop("Status", "200 OK").split()[0]))
    for name, value in fields.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    with contextlib.suppress(ConnectionError):  # whoever asked may be gone
        for start in range(0, len(content), _PIECE):
            request.wfile.write(content[start : start + _PIECE])
            time.sleep(place.pace)
