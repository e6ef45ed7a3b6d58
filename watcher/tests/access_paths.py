"""Every path of the API that shows something of a workspace, and ways to write a name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fake_apis import CHAT, COUNT
from gateway_stack import BODIES, USER

EMBEDDINGS = "/v1/embeddings"
QUESTIONS: dict[str, dict[str, Any]] = {
    **BODIES,
    COUNT: {"messages": [USER]},
    EMBEDDINGS: {"input": "Why?"},
}


@dataclass(frozen=True)
class Asked:
    """A request; NAME in it stands for a workspace."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""

    def about(self, name: str) -> Asked:
        headers = tuple((key, value.replace("NAME", name)) for key, value in self.headers)
        body = self.body.replace("NAME", json.dumps(name)[1:-1])
        target = self.target.replace("NAME", quote(name, safe=""))
        return Asked(self.method, target, headers, body)


def post(path: str, model: str, *headers: tuple[str, str], **body: Any) -> Asked:
    return Asked("POST", path, headers, json.dumps({"model": model, **body}))


TOOLS = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
MCP = (
    ("Accept", "application/json, text/event-stream"),
    ("Content-Type", "application/json"),
)
BY_HEADER = ("X-Infbox-Workspace", "NAME")

READS = ("GET", "HEAD")

# By the path of the route: what shows something of a workspace, and says which one.
ASKED: dict[str, list[Asked]] = {
    "/v1/models/{name:path}": [Asked(method, "/v1/models/coder@NAME") for method in READS],
    "/v1/workspaces/{name}/status": [Asked("GET", "/v1/workspaces/NAME/status")],
    "/v1/workspaces/{name}/pack": [Asked(method, "/v1/workspaces/NAME/pack") for method in READS],
    "/mcp": [Asked("POST", "/mcp", (*MCP, BY_HEADER), TOOLS)],
    "/mcp/{workspace}": [Asked("POST", "/mcp/NAME", MCP, TOOLS)],
    "": [
        *(post(path, "coder@NAME", **body) for path, body in QUESTIONS.items()),
        *(post(path, "coder", BY_HEADER, **body) for path, body in QUESTIONS.items()),
        post(CHAT, "coder@NAME", messages=[USER], stream=True),
    ],
}
# What shows something of all of them, or of what a user did before.
LISTS: dict[str, list[Asked]] = {
    "/v1/models": [Asked("GET", "/v1/models")],
    "/v1/workspaces": [Asked("GET", "/v1/workspaces")],
    "/status": [Asked("GET", "/status")],
    "/status/events": [Asked("GET", "/status/events")],
    "/status/usage": [Asked("GET", "/status/usage", (("X-Infbox-Account", "ann"),))],
    "/v1/responses/{name}": [Asked(method, "/v1/responses/NAME") for method in ("GET", "DELETE")],
    "/v1/responses/{name}/cancel": [Asked("POST", "/v1/responses/NAME/cancel")],
}
EVERY = [each for asked in (ASKED, LISTS) for several in asked.values() for each in several]

VARIANTS = [
    *("QUARTZ", "Quartz", "quart\u017a", "\uff51uartz", "quartz\u200b", "qu\u0061\u0301rtz"),
    *("quartz@", "@quartz", "mango@quartz", "quartz@mango", "coder@quartz", "@@quartz"),
    *("./quartz", "mango/../quartz", "../quartz", "quartz/", "/quartz", "quartz/pack", "quartz%2F"),
    *("%71uartz", "%2571uartz", "quartz?", "quartz#", "quartz;a", "*", "q*", "mango,quartz", "-"),
    *("quartz\u00a0", "quartz\t", "quartz.", "quartz/status", "pack.json"),
]
