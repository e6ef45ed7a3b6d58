"""Answer every request with what reached us, as JSON. Usage: echo_upstream.py PORT."""

import json
import select
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(sys.argv[1])
THINKING_SECONDS = 10


class Echo(BaseHTTPRequestHandler):
    """Echoes; ``?stream`` sends two parts, half a second apart, ``?think`` waits first."""

    protocol_version = "HTTP/1.1"

    def echo(self) -> None:
        """Echo."""
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        seen = {
            "port": PORT,
            "method": self.command,
            "target": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "size": len(body),
        }
        if self.path.endswith("?think"):
            gone, _, _ = select.select([self.connection], [], [], THINKING_SECONDS)
            print("the client is gone" if gone else "the client is still there", flush=True)
        answer = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Server", "echo-upstream")
        if not self.path.endswith("?stream"):
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (b"first", b"second"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()
            time.sleep(0.5)
        self.wfile.write(b"0\r\n\r\n")

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Take every method for the same."""
        if name.startswith("do_"):
            return self.echo
        raise AttributeError(name)


ThreadingHTTPServer(("127.0.0.1", PORT), Echo).serve_forever()
