"""Say who asks, as the keys' service does, of two users whose keys are known. A stub."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 8012
USERS = {"sk-infbox-of-alice": "alice", "sk-infbox-of-bob": "bob"}
MAY_USE = {"X-Infbox-Workspaces": "shop,web*", "X-Infbox-Limits": "tokens_per_day=5"}
HASTY = "sk-infbox-of-somebody-hasty"
LOGIN = "Basic YWxpY2U6c2staW5mYm94LW9mLWFsaWNl"


class Authority(BaseHTTPRequestHandler):
    """Knows a key as a bearer's or in ``X-Api-Key`` and alice's login; logs what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        print(json.dumps({"path": self.path, "names": sorted(headers)}), flush=True)
        own = headers.get("x-api-key") or headers.get("api-key")
        key = own or headers.get("authorization", "").removeprefix("Bearer ")
        if self.path == "/login":
            self.say_who_looks(headers.get("authorization", ""))
        elif key in USERS:
            self.say(200, {"X-Infbox-User": USERS[key], "X-Infbox-Concurrent": "7", **MAY_USE})
        elif key == HASTY:
            self.say(429, {"Retry-After": "9"}, "rate_limit_exceeded")
        else:
            self.say(401, {"WWW-Authenticate": "Bearer"}, "invalid_api_key")

    def say_who_looks(self, login: str) -> None:
        """Answer a browser's login."""
        if login == LOGIN:
            self.say(200, {"X-Infbox-User": "alice", "X-Infbox-Account": "alice", **MAY_USE})
        else:
            self.say(401, {"WWW-Authenticate": 'Basic realm="infbox"'}, "login")

    def say(self, status: int, headers: dict[str, str], code: str = "") -> None:
        """Answer with a status, and an error where there is one."""
        body = json.dumps({"error": {"code": code}}).encode() if code else b""
        self.send_response(status)
        fields = {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", PORT), Authority).serve_forever()
